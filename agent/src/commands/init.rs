//! `bellwether init`: form a group on this server, which becomes its manager (W1, W10).

use std::{path::Path, time::Duration};

use bellwether_daemon::{
    config::{Config, Flags, to_toml},
    state::{
        identity,
        lock::{Lock, LockError},
    },
};
use bellwether_manager::{Form, FormError, Formed};
use bellwether_monitor::text;
use bellwether_proto::{
    clock::now_ms,
    key::{KeyPair, PublicKey},
    name::SetName,
    record::{Codec, Record, SetRules},
};
use bellwether_store::{
    secret::SecretPaths,
    state::layout::{Held, Layout},
};
use serde_json::json;

use super::starter;
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output, private,
    progress::Progress,
};

/// The time between two looks at the size of the pack.
const TICK: Duration = Duration::from_millis(200);

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keys of agent.toml.
    #[command(flatten)]
    pub flags: Flags,
    /// Never scan and never change entries that match, such as nginx=*.bak; may be repeated
    #[arg(long, value_name = "SET=PATTERN")]
    pub exclude: Vec<String>,
    /// Leave entries that match to each server; may be repeated
    #[arg(long, value_name = "SET=PATTERN")]
    pub local: Vec<String>,
    /// The compression of packs: none, or deflate:1 to deflate:9
    #[arg(long, default_value_t)]
    pub codec: Codec,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command. The order makes it safe to repeat after a crash: key, history, record, agent.toml.
///
/// # Errors
/// Refused: this machine belongs to a group, or the sets cannot be read.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let config = starter::with_sets(common.first_config(&args.flags)?)?;
    let rules = rules(&config, &args)?;
    if args.dry_run {
        output::show(common.json, &json!({ "plan": to_toml(&config) }), |_| plan(&config));
        return Ok(());
    }
    let layout = Layout::new(config.state_dir.clone());
    identity::prepare(&layout).map_err(|e| CommandError::failed(&e).hint(e.hint()))?;
    let lock = Lock::take(&layout, "init");
    if let Some(held) = layout.held().map_err(|e| CommandError::failed(&e))? {
        return already(common, &layout, &held, &config, &args);
    }
    let _lock = lock.map_err(|e: LockError| CommandError::refused(&e).hint("end that process first"))?;
    if !common.json {
        output::note(&plan(&config));
        for (set, rules) in config.sets.iter().zip(&rules) {
            if let Some(line) = private::look(&set.path, rules, &SecretPaths::default()).line() {
                output::note(&format!(
                    "warning: set {} {line}; leave out what is not meant: --exclude {}=PATTERN",
                    set.name, set.name
                ));
            }
        }
    }
    output::confirm("form a group with this server as its manager?", common.yes)?;
    let key = identity::load_or_create(&layout).map_err(|e| CommandError::failed(&e).hint(e.hint()))?;
    let formed = form(&config, rules, args.codec, key).await?;
    let held = Held { chain: vec![formed.record.clone()], current: formed.record.clone() };
    layout.hold(&held).map_err(|e| CommandError::failed(&e).hint("bellwether leave, then init again"))?;
    starter::write_file(&config)?;
    done(common, &config, &formed);
    Ok(())
}

fn plan(config: &Config) -> String {
    let verb = if config.file_exists { "is there and stays as it is; in force is" } else { "will be written" };
    let text = to_toml(config);
    let indented = text.lines().map(|line| format!("    {line}").trim_end().to_owned());
    format!("{} {verb}:\n\n{}", config.file.display(), indented.collect::<Vec<_>>().join("\n"))
}

/// The rules of each set, from the flags and the file.
fn rules(config: &Config, args: &Args) -> Result<Vec<SetRules>, CommandError> {
    let mut rules: Vec<SetRules> = config
        .sets
        .iter()
        .map(|set| SetRules { local: set.local.clone(), ..SetRules::new(set.name.clone()) })
        .collect();
    for (flag, patterns) in [("exclude", &args.exclude), ("local", &args.local)] {
        for text in patterns {
            let usage = |why: String| CommandError::new(Kind::Usage, format!("--{flag} '{text}': {why}"));
            let (name, pattern) = text
                .split_once('=')
                .filter(|(_, pattern)| !pattern.is_empty())
                .ok_or_else(|| usage("it is not SET=PATTERN".to_owned()))?;
            let name: SetName = name.parse().map_err(|e| usage(format!("{e}")))?;
            let set = rules.iter_mut().find(|set| set.name == name);
            let set = set.ok_or_else(|| usage(format!("there is no set {name}")))?;
            if flag == "exclude" { &mut set.exclude } else { &mut set.local }.push(pattern.to_owned());
        }
    }
    Ok(rules)
}

/// The result on a machine that belongs to a group: success if it is the manager of these sets under this name.
fn already(common: &Common, layout: &Layout, held: &Held, config: &Config, args: &Args) -> Result<(), CommandError> {
    let key = identity::load(layout).map_err(|e| CommandError::failed(&e).hint(e.hint()))?;
    let key: Option<PublicKey> = key.map(|key| key.public());
    let record = held.current.record();
    let refused = |text: String| {
        Err(CommandError::new(Kind::Refused, text).hint("to form a group anew, first: bellwether leave"))
    };
    let (group, manager) = (record.group, record.manager());
    if key.is_none_or(|key| !held.is_manager(&key)) {
        return refused(format!("this machine belongs to group {group}, whose manager is {}", manager.name));
    }
    if manager.name != config.name || manager.address != config.advertise {
        return refused(format!(
            "this machine is the manager of group {group} as {} at {}, not as {} at {}",
            manager.name, manager.address, config.name, config.advertise
        ));
    }
    let theirs: Vec<_> = record.policy.sets.iter().map(|set| set.name.as_str()).collect();
    if !theirs.iter().copied().eq(config.sets.iter().map(|set| set.name.as_str())) {
        return refused(format!("this machine is the manager of group {group} with the sets {}", theirs.join(", ")));
    }
    let left = not_in_force(record, args);
    if !left.is_empty() {
        let text =
            format!("this machine is the manager of group {group} already, and init changes no rules of a group");
        return Err(CommandError::new(Kind::Refused, text).hint(left.join("\n")));
    }
    starter::write_file(config)?;
    let document = json!({ "formed": false, "group": group.to_string(), "record": record.version.to_string() });
    output::show(common.json, &document, |_| format!("{} is the manager of group {group} already", manager.name));
    Ok(())
}

/// The commands that set those patterns of the command line which the record does not have.
fn not_in_force(record: &Record, args: &Args) -> Vec<String> {
    let lacks = |text: &str, of: fn(&SetRules) -> &[String]| {
        let (set, pattern) = text.split_once('=').unwrap_or((text, ""));
        let mut rules = record.policy.sets.iter().filter(|rules| rules.name.as_str() == set);
        !rules.any(|rules| of(rules).iter().any(|there| there == pattern))
    };
    let excluded = args.exclude.iter().filter(|text| lacks(text, |rules| &rules.exclude));
    let local = args.local.iter().filter(|text| lacks(text, |rules| &rules.local));
    let excluded = excluded.map(|text| format!("bellwether group set --exclude '{text}'"));
    excluded.chain(local.map(|text| format!("bellwether group set --local '{text}'"))).collect()
}

/// Scans and packs, and shows the progress.
async fn form(config: &Config, rules: Vec<SetRules>, codec: Codec, key: KeyPair) -> Result<Formed, CommandError> {
    let names: Vec<_> = config.sets.iter().map(|set| set.name.as_str()).collect();
    let progress = Progress::begin(&format!("reading and packing {}", names.join(", ")));
    let (name, address) = (config.name.clone(), config.advertise.clone());
    let sets = config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect();
    let state = config.state_dir.clone();
    let time_ms = now_ms();
    let mut work = tokio::task::spawn_blocking(move || {
        bellwether_manager::form(Form {
            name,
            key: &key,
            address,
            sets,
            rules,
            codec,
            state: &state,
            author: author(),
            time_ms,
        })
    });
    let mut ticks = tokio::time::interval(TICK);
    let formed = loop {
        tokio::select! {
            formed = &mut work => break formed.map_err(|e| CommandError::failed(&e))?.map_err(form_failed)?,
            _ = ticks.tick() => {
                let packed = size_of(&config.state_dir.join("history"));
                progress.now(format!("reading and packing {}: {}", names.join(", "), text::bytes(packed)));
            }
        }
    };
    let Formed { entries, bytes, pack_bytes, .. } = formed;
    let (bytes, pack_bytes) = (text::bytes(bytes), text::bytes(pack_bytes));
    progress.done(&format!("packed {entries} entries, {bytes}, into {pack_bytes}"));
    Ok(formed)
}

/// The bytes of the files in a directory; 0 if it cannot be read.
fn size_of(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum()
}

fn form_failed(error: FormError) -> CommandError {
    match error {
        FormError::NoSets
        | FormError::Overlap(..)
        | FormError::NoDirectory { .. }
        | FormError::History(_)
        | FormError::Malformed(_) => CommandError::refused(&error),
        FormError::Scan(_) | FormError::Pack(_) | FormError::Keep(_) => CommandError::failed(&error),
    }
}

fn done(common: &Common, config: &Config, formed: &Formed) {
    let record = formed.record.record();
    let notices: Vec<_> =
        formed.notices.iter().map(|notice| format!("{}:{}: {}", notice.set, notice.path, notice.what)).collect();
    let document = json!({
        "formed": true,
        "group": record.group.to_string(),
        "manager": config.name,
        "revision": formed.header.number(),
        "entries": formed.entries,
        "bytes": formed.bytes,
        "pack_bytes": formed.pack_bytes,
        "notices": notices,
        "config": config.file,
    });
    output::show(common.json, &document, |_| {
        let mut lines: Vec<_> = notices.iter().map(|notice| format!("left out: {notice}")).collect();
        lines.push(format!(
            "{} is the manager of group {}, at revision {}",
            config.name,
            record.group,
            formed.header.number()
        ));
        lines.push("start the agent: bellwether serve\nthen admit servers: bellwether token create".to_owned());
        lines.join("\n")
    });
}
