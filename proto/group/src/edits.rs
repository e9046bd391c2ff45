//! The rules of the group record: membership (`servers`) and settings. Each rule returns the next record, unsigned;
//! none: nothing changes, so that every command can be repeated. The signed record must be durable before the answer.

mod apply;
mod drain;
mod forgotten;
pub mod level;
mod secret;
mod servers;
mod waves;

use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    balancer::{self, Balancer},
    key::PublicKey,
    limits,
    name::{BalancerName, ServerName, SetName},
    record::{Codec, Edit, Level, OnDrift, Publish, Record, SetRules, SignedRecord},
    revision::RevisionId,
    v1,
};

pub(crate) use self::servers::remove_from;
pub use self::servers::{
    ServerChange, add_again, disable, enable, enter, may_replace, remove, replace, set as set_server,
};
pub use apply::{RecordEdit, apply};
pub use drain::{bring_back, set_drained};
pub use forgotten::{forget, forgotten_by_all};
pub use waves::WavesChange;

/// The number of changes that the record's log keeps.
const LOG: usize = 100;

/// The author and the time of a request.
#[derive(Debug, Clone)]
pub struct By {
    /// The server or person, for the log.
    pub author: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

impl By {
    /// Makes the author's entry; a name longer than any valid one is cut.
    pub fn new(author: &str, time_ms: u64) -> Self {
        Self { author: cut(author).to_owned(), time_ms }
    }
}

/// The part of an author's name that is kept.
pub fn cut(author: &str) -> &str {
    let most = author.len().min(limits::SAID.1);
    let end = (0..=most).rev().find(|end| author.is_char_boundary(*end));
    &author[..end.unwrap_or_default()]
}

/// The reason why the record is not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupRefused {
    /// The name belongs to another key.
    #[error("the name {0} belongs to another server's key")]
    NameTaken(ServerName),
    /// The key belongs to another name.
    #[error("this server's key is known as {known}, not {asked}")]
    KeyKnown {
        /// The name in the record.
        known: ServerName,
        /// The name that was asked for.
        asked: ServerName,
    },
    /// Another server has the address.
    #[error("the address {address} belongs to {by}")]
    AddressTaken {
        /// The address that was given.
        address: String,
        /// The server that has it.
        by: ServerName,
    },
    /// The manager stays in its role.
    #[error("{name} is the manager and cannot be {what}: its configuration is the truth")]
    Manager {
        /// The manager.
        name: ServerName,
        /// `removed`, `disabled` or `replaced`.
        what: &'static str,
    },
    /// The server was removed.
    #[error("{0} was removed from this group")]
    Removed(ServerName),
    /// The server is disabled, and a token does not change that.
    #[error("{0} is disabled in this group")]
    Disabled(ServerName),
    /// The key is not trusted any more.
    #[error("this group refuses the key {0} for good")]
    RefusedKey(PublicKey),
    /// The server is unknown.
    #[error("there is no server {0} in this group")]
    Unknown(ServerName),
    /// The server's name or key is in use by now.
    #[error("{name} cannot be added again: its {what} belongs to {by} now")]
    Replaced {
        /// The server.
        name: ServerName,
        /// `name` or `key`.
        what: &'static str,
        /// The server that has it.
        by: ServerName,
    },
    /// There is no such set.
    #[error("there is no set {0} in this group")]
    NoSet(SetName),
    /// The group is full.
    #[error("a group has at most {} servers", limits::SERVERS)]
    Full,
    /// Levels are never lowered.
    #[error(
        "the group is of level {now} and does not go back to {asked}: servers may have written what bellwether of level \
         {asked} does not read"
    )]
    LevelGoesBack {
        /// The level that was asked for.
        asked: Level,
        /// The group's.
        now: Level,
    },
    /// Some servers do not read that level.
    #[error("level {level} is not read by {}; the group stays at level {now}", servers.join(", "))]
    TooOld {
        /// The level that was asked for.
        level: Level,
        /// The group's.
        now: Level,
        /// Those servers, with reasons.
        servers: Vec<String>,
    },
    /// The requested value came with a later level than the group has.
    #[error(
        "{what} needs level {level}, and the group is of level {now}{}{}",
        if servers.is_empty() { "" } else { "; these servers are too old for it: " },
        servers.join(", ")
    )]
    NeedsLevel {
        /// The requested value.
        what: &'static str,
        /// The level that the value came with.
        level: Level,
        /// The group's.
        now: Level,
        /// The servers that do not read that level, with reasons.
        servers: Vec<String>,
    },
    /// Too many contents are being forgotten.
    #[error(
        "the record has room for {} forgotten contents of {} chunks together, and servers still hold earlier ones",
        limits::FORGOTTEN.0,
        limits::FORGOTTEN.1
    )]
    TooMuchForgotten,
    /// A value is not possible.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Advise for GroupRefused {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::NameTaken(name) => {
                let replace = format!("bellwether server replace {name}");
                Advice::say("choose another name")
                    .or(&Advice::run("for new hardware under that name, at the manager", replace))
            }
            Self::KeyKnown { known, .. } => Advice::say(format!("join as {known}"))
                .or(&Advice::run("or first, at the manager", format!("bellwether server remove {known}"))),
            Self::AddressTaken { by, .. } => Advice::say("give this server an address of its own (--advertise)")
                .or(&Advice::run("or first, at the manager", format!("bellwether server remove {by}"))),
            Self::Manager { .. } => Advice::run("give the role to another server first", "bellwether promote NAME"),
            Self::Removed(name) => {
                Advice::run("take it back first, at the manager", format!("bellwether server add {name}"))
            }
            Self::Disabled(name) => Advice::run("first, at the manager", format!("bellwether server enable {name}")),
            Self::Unknown(_) => Advice::run("see", "bellwether server list"),
            Self::RefusedKey(_) => Advice::say("leave the group there, remove its key.pem, and join with a new key"),
            Self::Replaced { name, .. } => {
                Advice::run("let it join anew, with a token", format!("bellwether token create --names {name}"))
            }
            Self::NoSet(_) => Advice::run("see", "bellwether group show"),
            Self::TooMuchForgotten => Advice::run("see which servers hold them", "bellwether status"),
            Self::TooOld { level, .. } => {
                let raise = format!("bellwether group set --level {level}");
                Advice::run("upgrade bellwether there (or disable those servers), then, at the manager", raise)
            }
            Self::NeedsLevel { level, servers, .. } => {
                let raise = format!("bellwether group set --level {level}");
                let first = if servers.is_empty() { "first, at the manager" } else { "upgrade bellwether there, then" };
                Advice::run(first, raise)
            }
            Self::LevelGoesBack { .. } | Self::Full | Self::Malformed(_) => return None,
        })
    }
}

/// The record after `held`, changed by `by` with `change`.
pub fn next(held: &SignedRecord, by: &By, what: String, change: impl FnOnce(&mut Record)) -> Record {
    let mut record = held.record().clone();
    change(&mut record);
    // A checked record leaves room for one more version, and no record beyond the greatest is signed.
    record.version.version += 1;
    record.previous = Some(held.hash());
    log(&mut record.log, Edit { by: by.author.clone(), time_ms: by.time_ms, what });
    record
}

/// Adds to a record's log; the oldest entries go when the log gets too long.
pub(crate) fn log(log: &mut Vec<Edit>, edit: Edit) {
    log.push(edit);
    let over = log.len().saturating_sub(LOG);
    log.drain(..over);
}

/// Confirms a revision.
pub fn confirm(held: &SignedRecord, revision: RevisionId, by: &By) -> Option<Record> {
    let confirmed = Some(revision);
    (held.record().policy.confirmed != confirmed)
        .then(|| next(held, by, "confirm".to_owned(), |record| record.policy.confirmed = confirmed))
}

/// Holds propagation, or lets it continue (W6).
pub fn set_paused(held: &SignedRecord, paused: bool, by: &By) -> Option<Record> {
    let what = if paused { "pause" } else { "resume" };
    (held.record().policy.paused != paused)
        .then(|| next(held, by, what.to_owned(), |record| record.policy.paused = paused))
}

/// The settings to change: only present ones change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// Automatic or manual publishing.
    pub publish: Option<Publish>,
    /// The compression of frames.
    pub codec: Option<Codec>,
    /// The longest quiet time, in milliseconds.
    pub quiet_max_ms: Option<u64>,
    /// The longest wait for an open file, in milliseconds.
    pub open_max_ms: Option<u64>,
    /// A member's reaction to edits of its own (W3).
    pub drift: Option<OnDrift>,
    /// Whether setuid bits are carried, in `set` or in all sets.
    pub allow_setuid: Option<bool>,
    /// Whether file capabilities are carried, in `set` or in all sets.
    pub allow_capabilities: Option<bool>,
    /// The set whose rules are changed; none: all.
    pub set: Option<SetName>,
    /// Patterns to add, or to replace the present ones.
    pub exclude: Patterns,
    /// Patterns to add, or to replace the present ones.
    pub local: Patterns,
    /// Patterns of secret files, to add or to replace the present ones.
    pub secret: Patterns,
    /// Balancers to add, or to replace those of the same name.
    pub balancers: Vec<Balancer>,
    /// Balancers to remove.
    pub no_balancers: Vec<BalancerName>,
    /// The smallest number of servers that take traffic while others are drained.
    pub min_serving: Option<u32>,
    /// The time limit of a drain, in seconds.
    pub drain_timeout_s: Option<u64>,
    /// The time for which a started server may be unready without its manager's confirmation, in seconds.
    pub ready_after_s: Option<u64>,
    /// How long the switch waits for the members that stage and validate a revision, in milliseconds.
    pub stage_timeout_ms: Option<u64>,
    /// The waves of a rollout.
    pub waves: WavesChange,
    /// The format level; [`level::may_raise`] decides whether it may be raised.
    pub level: Option<Level>,
    /// A note for administrators; empty: none.
    #[cfg(feature = "level-next")]
    pub note: Option<String>,
}

/// Patterns to add to the present ones, or to replace them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    /// The patterns.
    pub list: Vec<String>,
    /// Whether they replace the present ones.
    pub replace: bool,
}

impl Patterns {
    fn put_on(&self, there: &mut Vec<String>) {
        if self.replace {
            there.clear();
        }
        let new: Vec<_> = self.list.iter().filter(|pattern| !there.contains(pattern)).cloned().collect();
        there.extend(new);
    }

    fn is_nothing(&self) -> bool {
        self.list.is_empty() && !self.replace
    }
}

impl TryFrom<v1::SetPolicy> for PolicyChange {
    type Error = Malformed;

    fn try_from(wire: v1::SetPolicy) -> Result<Self, Malformed> {
        let set = if wire.set.is_empty() { None } else { Some(wire.set.parse()?) };
        Ok(Self {
            publish: wire.publish.map(|text| text.parse()).transpose()?,
            codec: wire.codec.map(|text| text.parse()).transpose()?,
            quiet_max_ms: wire.quiet_max_ms,
            open_max_ms: wire.open_max_ms,
            drift: wire.drift.map(|text| text.parse()).transpose()?,
            allow_setuid: wire.allow_setuid,
            allow_capabilities: wire.allow_capabilities,
            set,
            exclude: Patterns { list: wire.exclude, replace: wire.replace_exclude },
            local: Patterns { list: wire.local, replace: wire.replace_local },
            secret: Patterns { list: wire.secret, replace: wire.replace_secret },
            balancers: wire.balancers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            no_balancers: wire.no_balancers.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            min_serving: wire.min_serving,
            drain_timeout_s: wire.drain_timeout_s,
            stage_timeout_ms: wire.stage_timeout_ms,
            ready_after_s: wire.ready_after_s,
            waves: wire.waves.map(WavesChange::try_from).transpose()?.unwrap_or_default(),
            level: wire.level.map(Level),
            #[cfg(feature = "level-next")]
            note: wire.note,
        })
    }
}

impl From<PolicyChange> for v1::SetPolicy {
    fn from(change: PolicyChange) -> Self {
        Self {
            publish: change.publish.map(|publish| publish.word().to_owned()),
            codec: change.codec.map(String::from),
            quiet_max_ms: change.quiet_max_ms,
            open_max_ms: change.open_max_ms,
            drift: change.drift.map(|drift| drift.word().to_owned()),
            allow_setuid: change.allow_setuid,
            allow_capabilities: change.allow_capabilities,
            set: change.set.map(|set| set.to_string()).unwrap_or_default(),
            exclude: change.exclude.list,
            replace_exclude: change.exclude.replace,
            local: change.local.list,
            replace_local: change.local.replace,
            secret: change.secret.list,
            replace_secret: change.secret.replace,
            balancers: change.balancers.iter().map(ToString::to_string).collect(),
            no_balancers: change.no_balancers.iter().map(ToString::to_string).collect(),
            min_serving: change.min_serving,
            drain_timeout_s: change.drain_timeout_s,
            stage_timeout_ms: change.stage_timeout_ms,
            ready_after_s: change.ready_after_s,
            waves: change.waves.to_wire(),
            level: change.level.map(|level| level.0),
            #[cfg(feature = "level-next")]
            note: change.note,
            #[cfg(not(feature = "level-next"))]
            note: None,
        }
    }
}

/// Changes the group's settings.
///
/// # Errors
/// No such set, or a value is not possible.
pub fn set_policy(held: &SignedRecord, change: &PolicyChange, by: &By) -> Result<Option<Record>, GroupRefused> {
    let now = &held.record().policy;
    if let Some(set) = change.set.as_ref().filter(|set| now.sets.iter().all(|rules| rules.name != **set)) {
        return Err(GroupRefused::NoSet(set.clone()));
    }
    let patterns = [&change.exclude, &change.local, &change.secret];
    if change.set.is_none() && patterns.iter().any(|patterns| !patterns.is_nothing()) {
        return Err(Malformed::new("patterns belong to one set: name it with --set").into());
    }
    if let Some(ms) = change.quiet_max_ms.filter(|ms| !(5..=60_000).contains(ms)) {
        return Err(Malformed::new(format!("a quiet time of {ms} ms; it may be 5 to 60,000")).into());
    }
    if let Some(ms) = change.open_max_ms.filter(|ms| *ms > limits::OPEN_MAX) {
        let what = format!("{ms} ms for an open file; it may be {} at most", limits::OPEN_MAX);
        return Err(Malformed::new(what).into());
    }
    if let Some(ms) = change.stage_timeout_ms.filter(|ms| !(100..=limits::STAGE_TIMEOUT).contains(ms)) {
        let what = format!("{ms} ms for staging; it may be 100 to {}", limits::STAGE_TIMEOUT);
        return Err(Malformed::new(what).into());
    }
    if let Some(s) = change.drain_timeout_s.filter(|s| *s > limits::DRAIN_TIMEOUT) {
        let what = format!("{s} s for sessions to end; it may be {} at most", limits::DRAIN_TIMEOUT);
        return Err(Malformed::new(what).into());
    }
    if let Some(s) = change.ready_after_s.filter(|s| *s > limits::READY_AFTER) {
        let what = format!("{s} s until a server that has started is ready; it may be {} at most", limits::READY_AFTER);
        return Err(Malformed::new(what).into());
    }
    if let Some(least) = change.min_serving.filter(|least| *least as usize > limits::SERVERS) {
        let what = format!("{least} servers that must serve; a group has at most {}", limits::SERVERS);
        return Err(Malformed::new(what).into());
    }
    let mut policy = now.clone();
    policy.min_serving = change.min_serving.unwrap_or(policy.min_serving);
    policy.drain_timeout_s = change.drain_timeout_s.unwrap_or(policy.drain_timeout_s);
    policy.ready_after_s = change.ready_after_s.unwrap_or(policy.ready_after_s);
    set_balancers(&mut policy.balancers, change)?;
    policy.publish = change.publish.unwrap_or(policy.publish);
    policy.codec = change.codec.unwrap_or(policy.codec);
    policy.quiet_max_ms = change.quiet_max_ms.unwrap_or(policy.quiet_max_ms);
    policy.open_max_ms = change.open_max_ms.unwrap_or(policy.open_max_ms);
    policy.drift = change.drift.unwrap_or(policy.drift);
    policy.stage_timeout_ms = change.stage_timeout_ms.unwrap_or(policy.stage_timeout_ms);
    policy.rollout = change.waves.put_on(policy.rollout)?;
    secret::put_on(&mut policy.secret, change);
    for rules in policy.sets.iter_mut().filter(|rules| change.set.as_ref().is_none_or(|set| rules.name == *set)) {
        set_rules(rules, change);
    }
    #[cfg(feature = "level-next")]
    if let Some(note) = &change.note {
        policy.note = Some(note.clone()).filter(|note| !note.is_empty());
    }
    let level = change.level.unwrap_or(held.record().level);
    let raises = level != held.record().level;
    let what = if raises { format!("group set --level {level}") } else { "group set".to_owned() };
    Ok((raises || policy != *now)
        .then(|| next(held, by, what, |record| (record.policy, record.level) = (policy, level))))
}

fn set_balancers(there: &mut Vec<Balancer>, change: &PolicyChange) -> Result<(), Malformed> {
    let goes = |name: &BalancerName| change.no_balancers.contains(name);
    there.retain(|balancer| !goes(&balancer.name) && change.balancers.iter().all(|new| new.name != balancer.name));
    there.extend(change.balancers.iter().cloned());
    there.sort_by(|a, b| a.name.cmp(&b.name));
    balancer::check(there)
}

fn set_rules(rules: &mut SetRules, change: &PolicyChange) {
    rules.allow_setuid = change.allow_setuid.unwrap_or(rules.allow_setuid);
    rules.allow_capabilities = change.allow_capabilities.unwrap_or(rules.allow_capabilities);
    change.exclude.put_on(&mut rules.exclude);
    change.local.put_on(&mut rules.local);
}

#[cfg(test)]
pub(crate) mod tests;
