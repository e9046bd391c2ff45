//! Commands print no characters that a terminal obeys or that are invisible, for any names, messages and settings. A failed
//! write is a failure of the command.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, pipe},
    process::{Child, Command, Stdio},
};

use crate::farm::{DEADLINE, Farm, Output, Server, bellwether, run, wait_for};

/// An escape that clears the screen, its form as one C1 character, an override of the direction, and two invisible characters.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{202e}fnoc\u{2066}\u{200b}";

/// Asserts that a terminal would show `text`, and not obey it.
#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    let obeyed = |c: &char| {
        (c.is_control() && *c != '\n' && *c != '\t')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(text.chars().find(obeyed), None, "{what} printed:\n{text:?}");
}

#[track_caller]
fn harmless(output: Output) -> Output {
    assert_harmless("the command", &output.stdout);
    assert_harmless("the command, on standard error,", &output.stderr);
    output
}

#[test]
fn no_name_or_message_steers_the_terminal() {
    let farm = Farm::plan().members(1).start();
    let name = format!("a{HOSTILE}.conf");
    farm.manager().write(&name, "one\n");
    farm.wait_same(farm.member(1));
    let at = format!("web:{name}");
    let said = |server: &Server, arguments: &[&str]| harmless(server.command(arguments));
    said(farm.manager(), &["put", &at, "--message", HOSTILE]).success();
    farm.wait_same(farm.member(1));
    farm.wait_in_sync();
    // The commands show a hostile line of text and an edit on the member.
    farm.member(1).write(&name, format!("two {HOSTILE}\n"));
    farm.wait_server(farm.member(1), "its edit is seen", |server| server.drift_entries > 0);
    for server in [farm.manager(), farm.member(1)] {
        for arguments in [
            &["status"][..],
            &["status", "--json"],
            &["tree"],
            &["tree", "--json"],
            &["tree", &at],
            &["get", &format!("web:no{HOSTILE}")],
            &["get", "--hash", &at],
            &["monitor", "--timeout", "1s"],
            &["monitor", "--timeout", "1s", "--json"],
            &["wait", "--timeout", "1s", "--servers", "member1"],
            &["drift", "show", "member1"],
            &["drift", "show", "member1", "--json"],
            &["drift", "keep", "member1", "--dry-run"],
            &["drift", "revert", "member1", "--dry-run"],
            &["verify", "member1", "--timeout", "60s"],
            &["publish", "--dry-run", "--message", HOSTILE],
            &["put", &at, "--dry-run"],
            &["rm", &at, "--dry-run"],
            &["doctor"],
            &["doctor", "--json"],
            &["server", "list"],
            &["server", "remove", HOSTILE],
            &["group", "show"],
            &["group", "show", "--log"],
            &["procedure", "list"],
            &["token", "list"],
            &["token", "create", "--names", HOSTILE],
            &["frobnicate", HOSTILE],
            &["status", HOSTILE],
        ] {
            said(server, arguments);
        }
    }
    let shown = said(farm.manager(), &["tree"]).success().stdout;
    assert!(shown.contains("a\\x1b[2J"), "what is escaped is still seen: {shown}");
    for server in [farm.manager(), farm.member(1)] {
        assert_harmless("the log", &server.read_log());
    }
}

#[test]
fn no_setting_of_agent_toml_steers_the_terminal() {
    let home = tempfile::tempdir().expect("a directory");
    let file = home.path().join("agent.toml");
    // TOML has its own escapes, which are used for the characters that it forbids.
    let escaped = HOSTILE.replace('\u{1b}', "\\u001b").replace('\u{9b}', "\\u009b");
    for setting in [
        format!("name = \"{escaped}\""),
        format!("listen = \"{escaped}\""),
        format!("advertise = \"{escaped}\""),
        format!("state_dir = \"{escaped}\""),
        format!("\"{escaped}\" = 1"),
        format!("[[set]]\nname = \"{escaped}\"\npath = \"/srv\""),
        format!("[[set]]\nname = \"web\"\npath = \"{escaped}\""),
        format!("[[set]]\nname = \"web\"\npath = \"/no{escaped}\""),
        format!("# {HOSTILE}\nname = 1 {HOSTILE}"),
    ] {
        fs::write(&file, &setting).expect("written");
        for arguments in [&["doctor"][..], &["doctor", "--json"], &["serve"], &["status"], &["init", "--dry-run"]] {
            let output = run(bellwether().args(arguments).arg("--config").arg(&file));
            assert!(!output.stderr.is_empty() || !output.stdout.is_empty(), "{setting}: {output}");
            harmless(output);
        }
    }
}

/// Runs a command whose standard output cannot be written.
fn full(mut command: Command) -> (Option<i32>, String) {
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let done = command.stdin(Stdio::null()).stdout(full).output().expect("it runs");
    (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let farm = Farm::plan().start();
    farm.manager().write("a.conf", "a\n");
    farm.wait_in_sync();
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["tree"],
        &["tree", "--json"],
        &["get", "web:a.conf"],
        &["get", "web:a.conf", "--json"],
        &["server", "list"],
        &["group", "show", "--json"],
        &["token", "list"],
        &["token", "create"],
        &["procedure", "list"],
        &["wait"],
        &["verify"],
        &["publish"],
        &["pause", "--dry-run"],
        &["monitor", "--json"],
        &["monitor"],
        &["drift", "show"],
        &["--help"],
        &["--version"],
        &["status", "--help"],
    ] {
        let (code, stderr) = full(farm.manager().prepared(arguments));
        assert_eq!(code, Some(1), "{arguments:?}: {stderr}");
        assert!(stderr.contains("cannot write to standard output: No space left"), "{arguments:?}: {stderr}");
    }
    // A command that failed anyway reports that, and not the lost output.
    let (code, stderr) = full(farm.manager().prepared(&["get", "web:missing"]));
    assert_eq!((code, stderr.contains("missing")), (Some(3), true), "{stderr}");
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let farm = Farm::plan().start();
    for arguments in [&["status"][..], &["status", "--json"], &["tree"], &["server", "list"], &["--help"], &["monitor"]]
    {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let done = farm.manager().prepared(arguments).stdin(Stdio::null()).stdout(writer).output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!((done.status.code(), said.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

/// Ends the process with the test, also if the test fails.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_monitor_ends_with_the_pipe() {
    let farm = Farm::plan().start();
    for arguments in [&["monitor", "--json"][..], &["monitor"], &["monitor", "--interval", "9999"]] {
        let mut command = farm.manager().prepared(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = Ending(child.expect("it runs"));
        let mut reader = BufReader::new(child.0.stdout.take().expect("piped"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("its first line");
        assert!(!line.is_empty(), "{arguments:?} shows something");
        // The pipe is closed early, as by `head -1`.
        drop(reader);
        let status = wait_for(&format!("the end of {arguments:?}"), DEADLINE, || {
            child.0.try_wait().expect("its state").ok_or_else(|| "it still runs".to_owned())
        });
        let mut said = String::new();
        child.0.stderr.take().expect("piped").read_to_string(&mut said).expect("what it said");
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_broken_standard_error_breaks_no_command() {
    let farm = Farm::plan().start();
    for arguments in [&["wait"][..], &["token", "create"], &["publish", "--wait", "all"], &["verify"]] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let done = farm.manager().prepared(arguments).stdin(Stdio::null()).stderr(writer).output().expect("it runs");
        assert_eq!(done.status.code(), Some(0), "{arguments:?}");
        assert!(!done.stdout.is_empty(), "{arguments:?}");
    }
}
