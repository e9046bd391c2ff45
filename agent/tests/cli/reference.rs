//! All output for people, word for word, so that review shows its changes. `SNAPSHOTS=overwrite` writes these files anew.

use std::path::Path;

use bellwether::commands::Cli;
use bellwether_monitor::table::{Look, render};
use bellwether_proto::{status::FarmStatus, time::utc};
use clap::CommandFactory;
use serde_json::{Value, json as value};
use snapbox::{assert_data_eq, file};

use crate::program::{formed, json, place, run};

/// A command's page, and those of its subcommands.
fn pages(command: &mut clap::Command, text: &mut String) {
    let path = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    *text += &format!("## {path}\n\n```text\n{}\n```\n\n", command.render_long_help().to_string().trim_end());
    for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
        pages(below, text);
    }
}

#[test]
fn the_help_of_every_command() {
    let mut cli = Cli::command();
    cli.build();
    let mut text = "# The command line\n\nWhat `--help` prints for each command.\n\n".to_owned();
    pages(&mut cli, &mut text);
    assert_data_eq!(text.trim_end().to_owned() + "\n", file!["cli-reference.md"].raw());
}

/// A command line, its exit code, and all of its output; `place` is the directory in which it ran.
fn told(place: &Path, flags: &str, line: &str) -> String {
    let output = run(place, &format!("{line} {flags}"));
    let place = place.to_str().expect("UTF-8");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(place, "/place");
    let (code, line) = (output.status.code().unwrap_or(-1), line.replace(place, "/place"));
    let printed = [said(&output.stdout), said(&output.stderr)].concat();
    format!("```text\n$ {}\n{}\nexit code {code}\n```\n\n", format!("bellwether {line}").trim_end(), printed.trim_end())
}

#[test]
fn what_is_said_without_an_agent() {
    let mut text = "# Messages\n\nWhat commands say on a machine where no agent runs.\n\n## No group\n\n".to_owned();
    let (place, flags) = place();
    let path = place.path();
    let site = format!("--set site={}/site", path.display());
    for line in [
        "",
        "frobnicate",
        "put --mode 9 site:a.conf",
        "get site:../a.conf",
        "token create --uses 0",
        "monitor --interval 0",
        "status",
        "status --json",
        "publish --timeout 1s",
        "wait --timeout 1s",
        "server list",
        "tree",
        "log",
        "show yesterday",
        "diff site:../a.conf",
        "rollback --yes",
        "publish --label ticket",
        "leave --yes",
        "join --name web2 --yes no-token",
        "debug pack 0000000000000001.1.00000000.base",
        "debug record",
        "debug history",
        "debug dump",
    ] {
        text += &told(path, &flags, line);
    }
    text += &told(path, &flags.replace("agent.toml", "missing.toml"), "doctor");
    text += &told(path, &flags, &format!("init --name web1 --advertise web1:7440 {site}"));
    text += &told(
        path,
        &flags,
        &format!("init --yes --name web1 --advertise web1:7440 --set site={}/missing", path.display()),
    );
    text += &told(path, &flags, &format!("init --yes --name web1 {site} --set below={}/site/below", path.display()));
    text += &told(path, &flags, &format!("init --yes --name web1 {site} --exclude other=*.bak"));

    text += "## A group of one server\n\n";
    let (place, flags) = formed();
    let path = place.path();
    // These parts differ at every run.
    let record = json(&run(path, &format!("debug record {flags}")))["current"]["record"].clone();
    let text_of = |value: &Value| value.as_str().expect("a text").to_owned();
    let formed_s = record["log"][0]["time_ms"].as_i64().expect("a time") / 1_000;
    let its_own = [
        (text_of(&record["group"]), "[group]"),
        (text_of(&record["servers"][0]["key"]), "[key]"),
        (utc(formed_s), "[time]"),
    ];
    let site = format!("--set site={}/site", path.display());
    let again =
        format!("init --yes --name web1 --advertise web1:7440 {site} --exclude site=*.bak --local site=own.conf");
    text += &told(path, &flags, &again);
    for line in [
        "init --yes --name web2",
        "server list",
        "server remove web1 --yes",
        "maintenance start web1 --yes",
        "recover manager --yes",
        "promote web2 --yes",
        "group show",
        "drift show",
        "debug journal",
        "quarantine",
        "quarantine lift web9",
        "leave",
        "leave --yes",
        "serve",
    ] {
        text += &told(path, &flags, line);
    }
    for (value, name) in its_own {
        text = text.replace(&value, name);
    }
    assert_data_eq!(text.trim_end().to_owned() + "\n", file!["messages.md"].raw());
}

/// A server in that state, at revision 1.41 of 1.42.
fn server(name: &str, state: &str, more: Value) -> Value {
    let mut server = value!({
        "name": name, "address": format!("{name}.example:7440"), "role": "member", "state": state, "revision": "1.41",
        "lag_revisions": 1, "lag_ms": 1_500, "reason": null, "waits_for": null, "drift": [], "drift_entries": 0,
        "held": false, "progress": null, "seen_ms": 99_000, "last_update_us": 8_340, "version": "0.1.0", "kept": [],
        "kept_ms": null, "drained": false, "verified": null, "balancers": [], "warning": null,
    });
    for (key, value) in more.as_object().expect("fields") {
        server[key] = value.clone();
    }
    server
}

#[test]
fn the_status_of_a_farm_in_which_everything_is_wrong() {
    let in_sync = value!({ "revision": "1.42", "lag_revisions": 0, "lag_ms": 0 });
    let manager =
        value!({ "role": "manager", "revision": "1.42", "lag_revisions": 0, "lag_ms": 0, "last_update_us": null });
    let because = |reason: &str| value!({ "reason": reason });
    let progress = value!({
        "phase": "receiving", "files": 12, "files_total": 61, "bytes": 1_536, "bytes_total": 1_048_576, "bytes_per_s": 512,
    });
    let warning = value!({ "what": "key ab12 from 192.0.2.7 asked for the status", "time_ms": 40_000, "requests": 3 });
    let status = value!({
        "observer": "web01", "time_ms": 100_000, "record": "1.7", "manager": "web01", "head": "1.42",
        "head_time_ms": 88_000, "head_message": "new certificate", "paused": true, "publish": "manual",
        "watching": "rescanning only: no watches left", "unpublished": "3 edits; publish is manual: `bellwether publish`",
        "quarantined": ["peer web19: lift it"],
        "batch": {
            "owner": "ann at web01", "command": "ansible-playbook web.yml", "pid": 7, "began_ms": 0, "deadline_ms": 3_600_000,
            "state": "gone",
        },
        "sets": [{
            "name": "nginx", "entries": 61, "watching": "rescanning only: no watches left",
            "notices": ["run/app.sock: a socket is not carried"], "unread_entries": 3,
            "unread": [{ "path": "a.conf", "cause": "unreadable", "reason": "cannot be read: Input/output error", "since_ms": 0 }],
            "open": ["up.conf"], "writers": "unknown",
        }],
        "warnings": ["set haproxy is not the group's"], "told_ms": null, "expelled": null,
        "procedures": [{
            "id": "p7", "command": "maintenance finish web05", "driver": "web01", "state": "stopped", "step": 3, "steps": 5,
            "what": "web05 does not answer", "servers": ["web05"],
        }],
        "servers": [
            server("web01", "in_sync", manager),
            server("web02", "in_sync", in_sync.clone()),
            server("web03", "awaiting_sync", value!({ "revision": null, "lag_revisions": 42, "lag_ms": 63_000 })),
            server("web04", "syncing", value!({ "progress": progress })),
            server("web05", "updating", value!({ "drained": true })),
            server("web06", "disabled", value!({ "role": "disabled" })),
            server("web07", "group_change", value!({})),
            server("web08", "left", value!({})),
            server("web09", "refused", because("it has no account 'www'; it stays at 1.41")),
            server("web10", "waiting", value!({ "waits_for": "space", "reason": "12 MB are free, 40 MB are needed" })),
            server("web11", "drifted", value!({ "drift": ["nginx:a.conf"], "drift_entries": 1, "held": true })),
            server("web12", "error", because("nginx:a.conf could not be exchanged; it keeps 1.41")),
            server("web13", "unreachable", value!({ "reason": "connection refused", "seen_ms": 40_000 })),
            server("web14", "superseded", because("an old manager, of epoch 1, came back and was refused")),
            server("web15", "conflict", because("another manager leads in this epoch")),
            server("web16", "unknown", value!({ "seen_ms": null })),
            server("web17", "in_sync", value!({ "revision": "1.42", "lag_revisions": 0, "lag_ms": 0, "warning": warning })),
        ],
    });
    let status: FarmStatus = serde_json::from_value(status).expect("a status");
    let tables = [Look::PLAIN, Look { width: 100, colour: false }].map(|look| render(&status, look).to_string());
    assert_data_eq!(tables.join("\n===== 100 columns wide =====\n\n"), file!["status.txt"].raw());
}
