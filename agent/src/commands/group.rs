//! `bellwether group show | set | rebuild`: the group's record and its settings.

use std::time::Duration;

use bellwether_daemon::config::duration;
use bellwether_group::edits::{
    By, Patterns, PolicyChange, RecordEdit, WavesChange, apply,
    level::{Programs, newest_for_all, not_asked},
};
use bellwether_proto::{
    Malformed,
    advice::Advise,
    balancer::Balancer,
    level::{Level, Program},
    name::{BalancerName, SetName},
    record::{Batch, Codec, OnDrift, Policy, Publish, Record, Role, RolloutPolicy},
    status::ServerStatus,
    v1::edit_record_request::Edit,
};
use bellwether_store::secret::SecretPaths;
use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde_json::json;

use super::{farm, rebuild, record};
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show this machine's copy of the group record
    Show {
        /// Show all changes of the record that are kept, each with its author
        #[arg(long)]
        log: bool,
    },
    /// Change settings of the group
    Set(Box<Settings>),
    /// Rebuild the group from this server's directories. Their content replaces the content of all other servers
    Rebuild(rebuild::Args),
}

/// The settings of a group.
#[derive(Debug, Clone, clap::Args)]
struct Settings {
    /// Publish each edit automatically, or only with `publish`: auto, manual
    #[arg(long, value_parser = PossibleValuesParser::new(["auto", "manual"]).try_map(|word| word.parse::<Publish>()))]
    publish: Option<Publish>,
    /// The compression of packs: none, or deflate:1 to deflate:9
    #[arg(long)]
    codec: Option<Codec>,
    /// The longest time to wait for the end of a burst of edits, such as 500ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    quiet_max: Option<Duration>,
    /// The longest time to wait for a changed file that a program has open for writing, such as 10s; after it, the file is
    /// published as it is
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    open_max: Option<Duration>,
    /// The reaction to edits on a member: report, revert (put the manager's state back and save the edits as a kept
    /// copy), hold (take no updates until the edits are kept or reverted)
    #[arg(long, value_parser = PossibleValuesParser::new(["report", "revert", "hold"]).try_map(|word| word.parse::<OnDrift>()))]
    drift: Option<OnDrift>,
    /// Never scan and never change entries that match, such as nginx=*.bak; may be repeated
    #[arg(long, value_name = "SET=PATTERN")]
    exclude: Vec<String>,
    /// Leave entries that match to each server; may be repeated
    #[arg(long, value_name = "SET=PATTERN")]
    local: Vec<String>,
    /// Never show the content of files that match: in no diff, log, status or page; may be repeated
    #[arg(long, value_name = "SET=PATTERN")]
    secret: Vec<String>,
    /// Replace the existing patterns with those of --exclude, --local and --secret; SET= alone removes them
    #[arg(long)]
    replace: bool,
    /// The set for --allow-setuid and --allow-capabilities; without it, all sets
    #[arg(long, value_name = "SET")]
    set: Option<SetName>,
    /// Whether setuid and setgid bits of files are carried to the members
    #[arg(long, value_name = "BOOL")]
    allow_setuid: Option<bool>,
    /// Whether file capabilities are carried to the members
    #[arg(long, value_name = "BOOL")]
    allow_capabilities: Option<bool>,
    /// A load balancer, such as lb1=haproxy:unix:/run/haproxy/admin.sock[,backend=NAME], lb1=haproxy:tcp:HOST:PORT,
    /// NAME=nginx or NAME=command (agent.toml of the manager and of every candidate defines the last two); may be repeated
    #[arg(long, value_name = "NAME=KIND")]
    balancer: Vec<Balancer>,
    /// Remove this load balancer; may be repeated
    #[arg(long, value_name = "NAME")]
    no_balancer: Vec<BalancerName>,
    /// The smallest number of servers that take traffic while others are drained
    #[arg(long, value_name = "N")]
    min_serving: Option<u32>,
    /// The longest time to wait for the sessions of a drained server, such as 5m
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    drain_timeout: Option<Duration>,
    /// The longest time after a start for which /ready answers 503 while no server confirms the newest revision, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    ready_after: Option<Duration>,
    /// The time for which no member switches to a revision while members with a `validate` command stage and validate it, such as
    /// 5s. The time in which its content arrives does not count. A member that needs longer is late, and is not waited for
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    stage_timeout: Option<Duration>,
    /// The number of members that get a revision first, one wave before the others; 0: no such wave
    #[arg(long, value_name = "N", conflicts_with = "all_at_once")]
    canary: Option<u32>,
    /// The number of members in each later wave, or their part of all members, such as 25%
    #[arg(long, value_name = "N|P%", conflicts_with = "all_at_once")]
    batch: Option<Batch>,
    /// The time for which a wave has to have been good before the next one begins, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "all_at_once")]
    soak: Option<Duration>,
    /// Stop a rollout when so many members have refused the revision or are in error with it
    #[arg(long, value_name = "N", conflicts_with = "all_at_once")]
    stop_at: Option<u32>,
    /// Publish the content from before when failures have stopped a rollout
    #[arg(long, conflicts_with_all = ["no_take_back", "all_at_once"])]
    take_back: bool,
    /// Leave a stopped rollout as it is until a person decides
    #[arg(long, conflicts_with = "all_at_once")]
    no_take_back: bool,
    /// Send each revision to all members at once, without waves
    #[arg(long)]
    all_at_once: bool,
    /// Raise the format level, which cannot be lowered again. All servers that are not disabled must read it: `group show`
    /// names the newest level that they all read
    #[arg(long, value_name = "N")]
    level: Option<u32>,
    /// A note for administrators; empty: none
    #[cfg(feature = "level-next")]
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or a value is not possible.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Show { log } => show(common, log).await,
        Action::Set(settings) => set(common, *settings).await,
        Action::Rebuild(args) => rebuild::run(&args, common).await,
    }
}

async fn show(common: &Common, log: bool) -> Result<(), CommandError> {
    let held = record::held(common)?;
    let record = held.current.record();
    let levels = if log { None } else { Some(levels(record, &programs(common, record).await)) };
    output::show(common.json, record, |record| match &levels {
        None => changes(record, usize::MAX).join("\n"),
        Some(levels) => describe(record, levels),
    });
    Ok(())
}

/// The programs of the group's servers, as this machine's agent knows them. Without a running agent none is known.
async fn programs(common: &Common, record: &Record) -> Programs {
    let Ok(mut client) = common.connect().await else { return Programs::new() };
    let Ok(farm) = farm::status(&mut client).await else { return Programs::new() };
    let program = |status: ServerStatus| {
        let program = Program { version: status.version?, levels: status.levels? };
        Some((record.server(&status.name)?.key, program))
    };
    farm.servers.into_iter().filter_map(program).collect()
}

/// The level in force, and the newest level that is possible.
fn levels(record: &Record, programs: &Programs) -> String {
    let now = record.level;
    match newest_for_all(record, programs) {
        Some(newest) if newest > now => {
            format!("{now}; all servers read {newest}: bellwether group set --level {newest}")
        }
        Some(_) => format!("{now}, the newest that all servers read"),
        None => {
            let unknown = record.servers.iter().filter(|server| server.role != Role::Disabled);
            let unknown =
                unknown.filter(|server| !programs.contains_key(&server.key)).map(|server| server.name.as_str());
            let unknown = unknown.collect::<Vec<_>>().join(", ");
            format!(
                "{now}; the newest level that all servers read is unknown, because no answer has come from {unknown}"
            )
        }
    }
}

fn describe(record: &Record, levels: &str) -> String {
    let mut lines = vec![
        format!("group    {}", record.group),
        format!("record   {}", record.version),
        format!("level    {levels}"),
        format!("manager  {} at {}", record.manager().name, record.manager().address),
        format!("servers  {}", record.servers.len()),
    ];
    lines.extend(settings(&record.policy));
    lines.push("last changes (UTC)".to_owned());
    lines.extend(changes(record, 10).iter().map(|line| format!("  {line}")));
    lines.join("\n")
}

/// The changes with their authors, newest first (W9).
fn changes(record: &Record, most: usize) -> Vec<String> {
    let newest = record.log.iter().rev().take(most);
    newest
        .map(|edit| format!("{}  {}  by {}", output::utc((edit.time_ms / 1_000) as i64), edit.what, edit.by))
        .collect()
}

/// The settings, one per line.
fn settings(policy: &Policy) -> Vec<String> {
    let mut lines = vec![
        format!("publish  {}{}", policy.publish.word(), if policy.paused { ", paused" } else { "" }),
        format!("codec    {}", policy.codec),
        format!("quiet    at most {}", duration::format(Duration::from_millis(policy.quiet_max_ms))),
        format!("open     waited for at most {}", duration::format(Duration::from_millis(policy.open_max_ms))),
        format!("drift    {}", policy.drift.word()),
        format!(
            "stage    at most {} before any member switches",
            duration::format(Duration::from_millis(policy.stage_timeout_ms))
        ),
    ];
    let drained = duration::format(Duration::from_secs(policy.drain_timeout_s));
    lines.push(format!("drain    sessions have {drained} to end; at least {} go on serving", policy.min_serving));
    let after = duration::format(Duration::from_secs(policy.ready_after_s));
    lines.push(format!("rollout  {}", policy.rollout.as_ref().map_or_else(|| "all at once".to_owned(), waves)));
    lines.push(format!("ready    at most {after} after a start without a confirmed head"));
    #[cfg(feature = "level-next")]
    lines.extend(policy.note.iter().map(|note| format!("note     {note}")));
    lines.extend(policy.balancers.iter().map(|balancer| format!("balancer {balancer}")));
    for rules in &policy.sets {
        lines.push(format!("set      {}", rules.name));
        let secret = policy.secret.iter().find(|files| files.set == rules.name).map(|files| &files.patterns);
        let patterns = [("exclude", Some(&rules.exclude)), ("local", Some(&rules.local)), ("secret", secret)];
        let patterns = patterns.into_iter().filter_map(|(kind, list)| Some((kind, list?)));
        lines.extend(patterns.flat_map(|(kind, list)| list.iter().map(move |p| format!("  {kind} {p}"))));
        let allowed = [("setuid", rules.allow_setuid), ("capabilities", rules.allow_capabilities)];
        lines.extend(allowed.iter().filter(|(_, allowed)| *allowed).map(|(what, _)| format!("  allows {what}")));
    }
    lines
}

/// The policy for waves, in one line.
fn waves(policy: &RolloutPolicy) -> String {
    let RolloutPolicy { canary, batch, soak_ms, stop_at, take_back } = policy;
    let canary = if *canary == 0 { String::new() } else { format!("{canary} first, then ") };
    let soak = duration::format(Duration::from_millis(*soak_ms));
    let failures = if *stop_at == 1 { "1 failure stops it".to_owned() } else { format!("{stop_at} failures stop it") };
    let back = if *take_back { ", and it is taken back" } else { "" };
    format!("{canary}waves of {batch}, {soak} between them; {failures}{back}")
}

async fn set(common: &Common, settings: Settings) -> Result<(), CommandError> {
    let dry_run = settings.dry_run;
    let change = change(settings)?;
    if change == PolicyChange::default() {
        let text = "nothing to set: name a setting, such as --min-serving 2";
        return Err(CommandError::new(Kind::Usage, text).hint("all of them: bellwether group set --help"));
    }
    if dry_run {
        return plan(common, change).await;
    }
    let (least, level) = (change.min_serving, change.level);
    let before = record::held(common)?.current.record().version.to_string();
    let reply = record::edit(common, Edit::SetPolicy(change.into()), false).await?;
    let so = if before == reply.version { "unchanged: they already have these values" } else { "as asked" };
    record::show(common, &format!("the group's settings are {so}"), &reply);
    let held = record::held(common)?;
    let record = held.current.record();
    let disabled = not_asked(record).join(", ");
    if level.is_some() && !disabled.is_empty() {
        output::note(&format!(
            "these servers are disabled and were not asked: {disabled}; upgrade bellwether there before you enable them"
        ));
    }
    if let Some(note) = too_many(least, record) {
        output::note(&note);
    }
    Ok(())
}

/// The note for a `min_serving` that lets no server be drained.
fn too_many(least: Option<u32>, record: &Record) -> Option<String> {
    let able = record.servers.iter().filter(|server| server.role != Role::Disabled).count();
    let least = least.filter(|least| *least as usize >= able)?;
    Some(format!(
        "note: {able} servers can serve and {least} must: no serving server can be drained, so maintenance and sync wait \
         and then stop"
    ))
}

/// The change that the flags ask for; all patterns are for one set.
fn change(settings: Settings) -> Result<PolicyChange, CommandError> {
    let mut set = settings.set;
    let mut patterns = |flag: &str, list: &[String]| -> Result<Patterns, CommandError> {
        let mut found = Vec::new();
        for text in list {
            let usage = |why: &str| CommandError::new(Kind::Usage, format!("--{flag} '{text}': {why}"));
            let (name, pattern) = text.split_once('=').ok_or_else(|| usage("it is not SET=PATTERN"))?;
            let name: SetName = name.parse().map_err(|e: Malformed| usage(&e.to_string()))?;
            if *set.get_or_insert_with(|| name.clone()) != name {
                return Err(usage("one command changes the patterns of one set; use one for each set"));
            }
            match (pattern, settings.replace) {
                ("", false) => return Err(usage("without a pattern it needs --replace")),
                ("", true) => {}
                (pattern, _) => found.push(pattern.to_owned()),
            }
        }
        Ok(Patterns { list: found, replace: settings.replace && !list.is_empty() })
    };
    let exclude = patterns("exclude", &settings.exclude)?;
    let local = patterns("local", &settings.local)?;
    let secret = patterns("secret", &settings.secret)?;
    SecretPaths::check(&secret.list).map_err(|why| CommandError::new(Kind::Usage, format!("--secret: {why}")))?;
    Ok(PolicyChange {
        publish: settings.publish,
        codec: settings.codec,
        quiet_max_ms: settings.quiet_max.map(|quiet| quiet.as_millis() as u64),
        open_max_ms: settings.open_max.map(|open| open.as_millis() as u64),
        drift: settings.drift,
        allow_setuid: settings.allow_setuid,
        allow_capabilities: settings.allow_capabilities,
        set,
        exclude,
        local,
        secret,
        balancers: settings.balancer,
        no_balancers: settings.no_balancer,
        min_serving: settings.min_serving,
        drain_timeout_s: settings.drain_timeout.map(|time| whole_seconds("drain-timeout", time)).transpose()?,
        stage_timeout_ms: settings.stage_timeout.map(|time| time.as_millis() as u64),
        ready_after_s: settings.ready_after.map(|time| whole_seconds("ready-after", time)).transpose()?,
        waves: WavesChange {
            canary: settings.canary,
            batch: settings.batch,
            soak_ms: settings.soak.map(|soak| soak.as_millis() as u64),
            stop_at: settings.stop_at,
            take_back: (settings.take_back || settings.no_take_back).then_some(settings.take_back),
            all_at_once: settings.all_at_once,
        },
        level: settings.level.map(Level),
        #[cfg(feature = "level-next")]
        note: settings.note,
    })
}

fn whole_seconds(flag: &str, time: Duration) -> Result<u64, CommandError> {
    if time.subsec_nanos() == 0 {
        return Ok(time.as_secs());
    }
    Err(CommandError::new(Kind::Usage, format!("--{flag} {}: it is in whole seconds", duration::format(time))))
}

/// Shows the settings after the change, by the manager's own rules.
async fn plan(common: &Common, change: PolicyChange) -> Result<(), CommandError> {
    let held = record::held(common)?;
    let least = change.min_serving;
    let now = held.current.record();
    let programs = if change.level.is_some() { programs(common, now).await } else { Programs::new() };
    let changed = apply(&held.current, &RecordEdit::Policy(Box::new(change)), &programs, &By::new(&author(), 0));
    let changed = changed.map_err(|e| CommandError::refused(&e).advice(e.advice()))?;
    let then = changed.as_ref().unwrap_or(now);
    let document = json!({
        "now": now.policy, "then": then.policy, "level_now": now.level, "level_then": then.level,
    });
    output::show(common.json, &document, |_| {
        let lines = |record: &Record| {
            let level = format!("level    {}", record.level);
            std::iter::once(level).chain(settings(&record.policy)).collect::<Vec<_>>()
        };
        let (old, new) = (lines(now), lines(then));
        let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
        let come = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
        let note = too_many(least, held.current.record()).filter(|_| old != new);
        let lines: Vec<_> = gone.chain(come).chain(note).collect();
        if lines.is_empty() { "the settings already have these values".to_owned() } else { lines.join("\n") }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(line: &str) -> Result<PolicyChange, CommandError> {
        let words = std::iter::once("set").chain(line.split_whitespace());
        change(Line::try_parse_from(words).expect("clap takes it").settings)
    }

    #[test]
    fn only_what_is_named_is_asked_for() {
        let change = parse("--codec deflate:6 --quiet-max 2s --open-max 1m --publish manual").expect("right");
        let wanted = PolicyChange {
            codec: Some(Codec::Deflate(6)),
            quiet_max_ms: Some(2_000),
            open_max_ms: Some(60_000),
            publish: Some(Publish::Manual),
            ..PolicyChange::default()
        };
        assert_eq!(change, wanted);
    }

    #[test]
    fn patterns_name_their_set() {
        let patterns =
            |list: &[&str], replace| Patterns { list: list.iter().map(|&p| p.to_owned()).collect(), replace };
        let change = parse("--exclude nginx=*.bak --exclude nginx=a=b --local nginx=l").expect("right");
        assert_eq!(change.set, Some("nginx".parse().expect("a name")));
        assert_eq!((change.exclude, change.local), (patterns(&["*.bak", "a=b"], false), patterns(&["l"], false)));
        let change = parse("--exclude nginx= --replace").expect("removes all");
        let secret = parse("--secret nginx=*.key").expect("right");
        assert_eq!(secret.secret, patterns(&["*.key"], false));
        assert_eq!(parse("--secret nginx=a{b").expect_err("no pattern").kind, Kind::Usage);
        assert_eq!((change.exclude, change.local), (patterns(&[], true), patterns(&[], false)));
    }

    #[test]
    fn balancers_are_named_and_times_are_in_seconds() {
        let line =
            "--balancer lb1=haproxy:unix:/run/h.sock,backend=app --no-balancer lb2 --min-serving 2 --drain-timeout 5m";
        let change = parse(line).expect("right");
        assert_eq!(change.balancers, ["lb1=haproxy:unix:/run/h.sock,backend=app".parse().expect("a balancer")]);
        assert_eq!((change.no_balancers, change.min_serving), (vec!["lb2".parse().expect("a name")], Some(2)));
        assert_eq!(change.drain_timeout_s, Some(300));
        assert_eq!(parse("--ready-after 0s").expect("right").ready_after_s, Some(0));
        assert_eq!(parse("--ready-after 1500ms").expect_err("not whole").kind, Kind::Usage);
        assert_eq!(parse("--drain-timeout 1500ms").expect_err("not whole").kind, Kind::Usage);
    }

    #[test]
    fn patterns_of_two_sets_or_of_none_are_usage() {
        for line in
            ["--exclude *.bak", "--exclude a=x --local b=x", "--set a --exclude b=x", "--exclude a=", "--exclude ..=x"]
        {
            assert_eq!(parse(line).expect_err(line).kind, Kind::Usage);
        }
    }
}
