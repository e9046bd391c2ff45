//! The group record: the servers of the group with their keys and roles, and the group's rules. One JSON document,
//! signed by the manager; every server has it.

pub mod chain;
mod confirmation;
mod forgotten;
mod rollout;
mod secret;

use prost::Message as _;
use serde::{Deserialize, Serialize};

pub use confirmation::Confirmation;
pub use forgotten::Forgotten;
pub use rollout::{Batch, RolloutPolicy};
pub use secret::SecretFiles;

pub use crate::level::Level;
use crate::{
    Malformed,
    balancer::{self, Balancer, Traffic},
    hash::Hash,
    key::{KeyPair, PublicKey},
    level, limits,
    name::{ServerName, SetName},
    revision::{Epoch, GroupId, RevisionId, SignedHeader},
    v1,
};

const CONTEXT: &str = "bellwether v1 group record";

/// The role of a server in its group (W9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its configuration is the truth.
    Manager,
    /// It receives the manager's configuration.
    Member,
    /// It is known, and gets no updates.
    Disabled,
}

/// One server of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Its name, unique in the group.
    pub name: ServerName,
    /// Its pinned key.
    pub key: PublicKey,
    /// `host:port`, the address of its agent.
    pub address: String,
    /// Its role.
    pub role: Role,
    /// Whether it may become manager.
    pub candidate: bool,
    /// Its places at balancers ([`Traffic`]) as `BACKEND/SERVER`; none: wherever a server has its name.
    pub backends: Vec<String>,
    /// Whether it is out of service: its `/ready` answers 503, and balancers send it no new requests.
    pub drained: bool,
}

impl Server {
    /// The places where it takes traffic.
    ///
    /// # Errors
    /// The record was not checked.
    pub fn traffic(&self) -> Result<Traffic, Malformed> {
        Traffic::parse(&self.backends)
    }
}

/// Whether edits are published automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// As soon as the directory has been quiet.
    #[default]
    Auto,
    /// By `publish` only.
    Manual,
}

/// A member's reaction to edits of its own (W3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum OnDrift {
    /// Report edits. Updates go on; an update that changes an edited file saves the edit as a kept copy.
    #[default]
    Report,
    /// Put the manager's state back automatically and save the edits as a kept copy.
    Revert,
    /// Take no updates until the edits are kept or reverted.
    Hold,
}

macro_rules! words {
    ($setting:ident, $allowed:literal: $($value:ident = $word:literal),+) => {
        impl $setting {
            /// The word for it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }
        }

        impl std::str::FromStr for $setting {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let unknown = || Malformed::new(format!("{}, not '{}'", $allowed, text.escape_debug()));
                [$(Self::$value),+].into_iter().find(|value| value.word() == text).ok_or_else(unknown)
            }
        }
    };
}

words!(Publish, "publish is auto or manual": Auto = "auto", Manual = "manual");
words!(OnDrift, "drift is report, revert or hold": Report = "report", Revert = "revert", Hold = "hold");

/// The compression of frames, as text `none` or `deflate:LEVEL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// No compression.
    None,
    /// RFC 1951, level 1 to 9.
    Deflate(u8),
}

impl Default for Codec {
    fn default() -> Self {
        Self::Deflate(1)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Deflate(level) => write!(f, "deflate:{level}"),
        }
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> Self {
        codec.to_string()
    }
}

impl TryFrom<String> for Codec {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl std::str::FromStr for Codec {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let level = |digits: &str| digits.parse().ok().filter(|level| (1..=9).contains(level)).map(Self::Deflate);
        match text {
            "none" => Some(Self::None),
            "deflate" => Some(Self::default()),
            _ => text.strip_prefix("deflate:").and_then(level),
        }
        .ok_or_else(|| {
            Malformed::new(format!("'{}' is not a codec: none, or deflate:1 to deflate:9", text.escape_debug()))
        })
    }
}

/// The group's rules for one set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRules {
    /// The set.
    pub name: SetName,
    /// gitignore patterns: never scanned, never touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// gitignore patterns: each server's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
    /// Whether setuid and setgid bits of files travel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_setuid: bool,
    /// Whether file capabilities travel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_capabilities: bool,
}

impl SetRules {
    /// The rules of a new set: nothing is excluded or specially allowed.
    pub fn new(name: SetName) -> Self {
        Self { name, exclude: Vec::new(), local: Vec::new(), allow_setuid: false, allow_capabilities: false }
    }

    /// The message of these rules.
    pub fn to_wire(&self) -> v1::SetRules {
        v1::SetRules {
            name: self.name.to_string(),
            exclude: self.exclude.clone(),
            local: self.local.clone(),
            allow_setuid: self.allow_setuid,
            allow_capabilities: self.allow_capabilities,
        }
    }

    /// Checks a message.
    ///
    /// # Errors
    /// No set can have the name or the number of patterns.
    pub fn from_wire(wire: v1::SetRules) -> Result<Self, Malformed> {
        if wire.exclude.len() + wire.local.len() > 10_000 {
            return Err(Malformed::new("more than 10,000 patterns in one set"));
        }
        Ok(Self {
            name: wire.name.parse()?,
            exclude: wire.exclude,
            local: wire.local,
            allow_setuid: wire.allow_setuid,
            allow_capabilities: wire.allow_capabilities,
        })
    }
}

/// The group's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Automatic or manual publishing.
    pub publish: Publish,
    /// Propagation is held until `resume` (W6).
    pub paused: bool,
    /// The compression of frames.
    pub codec: Codec,
    /// The longest quiet time at the end of a burst, in milliseconds.
    pub quiet_max_ms: u64,
    /// The longest wait for a changed file that a program has open for writing, in milliseconds.
    pub open_max_ms: u64,
    /// The sets, sorted by name.
    pub sets: Vec<SetRules>,
    /// The load balancers, sorted by name.
    pub balancers: Vec<Balancer>,
    /// The smallest number of servers that take traffic while others are drained (W23).
    pub min_serving: u32,
    /// The time for sessions to end when a server is drained, in seconds.
    pub drain_timeout_s: u64,
    /// The time in seconds for which a started server may be unready until its manager confirms the head (W12).
    pub ready_after_s: u64,
    /// A member's reaction to edits of its own (W3).
    pub drift: OnDrift,
    /// The last revision that was to be confirmed and was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<RevisionId>,
    /// How long the switch waits for the members that stage and validate a revision first, in milliseconds. The time in which
    /// its pack arrives does not count.
    #[serde(default = "Policy::stage_timeout", skip_serializing_if = "Policy::is_stage_timeout")]
    pub stage_timeout_ms: u64,
    /// How a revision goes to the members in waves; none: to all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutPolicy>,
    /// The files whose content no output shows, sorted by set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret: Vec<SecretFiles>,
    /// The contents that every server erases from its history, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<Forgotten>,
    /// A note for administrators: the one feature of a build of the next level, for tests of two programs.
    #[cfg(feature = "level-next")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Policy {
    /// The settings of a new group with these sets.
    pub fn new(sets: Vec<SetRules>) -> Self {
        Self {
            publish: Publish::Auto,
            paused: false,
            codec: Codec::default(),
            quiet_max_ms: 500,
            open_max_ms: 10_000,
            sets,
            balancers: Vec::new(),
            min_serving: 1,
            drain_timeout_s: 300,
            ready_after_s: 30,
            drift: OnDrift::Report,
            confirmed: None,
            stage_timeout_ms: Self::stage_timeout(),
            rollout: None,
            secret: Vec::new(),
            forgotten: Vec::new(),
            #[cfg(feature = "level-next")]
            note: None,
        }
    }

    /// The time within which somebody has to confirm that revision, in milliseconds; none: nobody has to (any more).
    pub fn unconfirmed(&self, revision: &SignedHeader) -> Option<u64> {
        revision.confirm_within().filter(|_| self.confirmed != Some(revision.id()))
    }

    fn stage_timeout() -> u64 {
        5_000
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
    fn is_stage_timeout(ms: &u64) -> bool {
        *ms == Self::stage_timeout()
    }
}

/// A change of the record, with its author and time (W9).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The server or person that requested it.
    pub by: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// The change, as a command.
    pub what: String,
}

/// Epoch, then version within it: the newer record wins, an older one is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// The manager's epoch.
    pub epoch: Epoch,
    /// Counts up within the epoch.
    pub version: u64,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.epoch, self.version)
    }
}

/// The group record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The level in force: all servers read it, and no server writes at a later one.
    #[serde(default, skip_serializing_if = "Level::is_first")]
    pub level: Level,
    /// The group.
    pub group: GroupId,
    /// Its version.
    pub version: Version,
    /// Its servers, sorted by name; exactly one is the manager.
    pub servers: Vec<Server>,
    /// Removed servers: refused, and known in case they are added again.
    pub removed: Vec<Server>,
    /// Keys that the group refuses for ever, sorted: no record by them is followed (`group rebuild --refuse`).
    pub refused: Vec<PublicKey>,
    /// The group's settings.
    pub policy: Policy,
    /// The last changes to this record, newest last; at most a hundred.
    pub log: Vec<Edit>,
    /// The hash of the record before; none for the first.
    pub previous: Option<Hash>,
}

/// A feature that came after the first level.
struct Later {
    /// The level of the feature.
    came: Level,
    /// Its name for people.
    what: &'static str,
    /// Whether a record uses it.
    is_used: fn(&Record) -> bool,
}

const LATER: &[Later] = &[
    Later { came: Level(2), what: "a rollout in waves", is_used: |record| record.policy.rollout.is_some() },
    Later { came: Level(2), what: "a confirmed revision", is_used: |record| record.policy.confirmed.is_some() },
    Later {
        came: Level(2),
        what: "another time for staging",
        is_used: |record| !Policy::is_stage_timeout(&record.policy.stage_timeout_ms),
    },
    Later { came: Level(2), what: "a forgotten content", is_used: |record| !record.policy.forgotten.is_empty() },
    Later { came: Level(2), what: "a secret file", is_used: |record| !record.policy.secret.is_empty() },
    #[cfg(feature = "level-next")]
    Later { came: Level::NEWEST, what: "a note", is_used: |record| record.policy.note.is_some() },
];

impl Record {
    /// The manager.
    pub fn manager(&self) -> &Server {
        self.servers.iter().find(|s| s.role == Role::Manager).expect("a record that was checked has a manager")
    }

    /// The server of that name.
    pub fn server(&self, name: &ServerName) -> Option<&Server> {
        self.servers.iter().find(|s| s.name == *name)
    }

    /// The server of that name, or the removed one that had the name last.
    pub fn server_or_removed(&self, name: &ServerName) -> Option<&Server> {
        self.server(name).or_else(|| self.removed.iter().rfind(|s| s.name == *name))
    }

    /// The server that pinned `key`.
    pub fn by_key(&self, key: &PublicKey) -> Option<&Server> {
        self.servers.iter().find(|s| s.key == *key)
    }

    /// The first feature in it that came after `level`, with its level; none: programs of `level` read it.
    pub fn beyond(&self, level: Level) -> Option<(&'static str, Level)> {
        let later = LATER.iter().find(|later| later.came > level && (later.is_used)(self));
        later.map(|later| (later.what, later.came))
    }

    /// Checks the rules of every record.
    ///
    /// # Errors
    /// A level that this program does not read, a field that came after its level, not exactly one manager, a name or a key
    /// twice, an unsorted list, or a list over its limit.
    pub fn check(&self) -> Result<(), Malformed> {
        let wrong = |what: &str| Err(Malformed::new(format!("a group record {what}")));
        self.level.check("the group record")?;
        if let Some((what, came)) = self.beyond(self.level) {
            return wrong(&format!("of level {} with {what}, which came with level {came}", self.level));
        }
        if self.version.epoch.0 == 0 {
            return wrong("whose epoch is zero");
        }
        if self.version.epoch.0.max(self.version.version) > limits::COUNT {
            let out = "a new epoch begins with version 1 (bellwether promote --self --force)";
            return wrong(&format!("{}, whose epoch or version is greater than there can be; {out}", self.version));
        }
        if self.refused.len() > limits::REFUSED_KEYS || !self.refused.is_sorted_by(|a, b| a < b) {
            return wrong("whose refused keys are too many, not sorted, or twice there");
        }
        if let Some(server) = self.servers.iter().find(|server| self.refused.contains(&server.key)) {
            return wrong(&format!(
                "with {}, whose key the group refuses; it may join again with a new key",
                server.name
            ));
        }
        if self.servers.len() > limits::SERVERS || self.policy.sets.len() > limits::SETS {
            return wrong("with too many servers or sets");
        }
        if self.servers.iter().filter(|s| s.role == Role::Manager).count() != 1 {
            return wrong("without exactly one manager");
        }
        if !self.servers.is_sorted_by(|a, b| a.name < b.name) || !self.policy.sets.is_sorted_by(|a, b| a.name < b.name)
        {
            return wrong("whose servers or sets are not sorted, or twice there");
        }
        let mut keys: Vec<_> = self.servers.iter().map(|s| s.key).collect();
        keys.sort();
        if !keys.is_sorted_by(|a, b| a < b) {
            return wrong("in which two servers have one key");
        }
        self.servers.iter().chain(&self.removed).try_for_each(|server| server.traffic().map(drop))?;
        self.policy.rollout.as_ref().map_or(Ok(()), RolloutPolicy::check)?;
        secret::check(&self.policy.secret)?;
        forgotten::check(&self.policy.forgotten)?;
        balancer::check(&self.policy.balancers)
    }
}

/// A record with the bytes that were signed. [`SignedRecord::from_wire`] checks the signature against the named signer;
/// [`SignedRecord::may_follow`] decides whether that signer may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    json: String,
    signer: PublicKey,
    signature: Vec<u8>,
}

/// The reason why a record is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordRefused {
    /// The record is of another group.
    #[error("it is of group {theirs}, this server belongs to {ours}")]
    OtherGroup {
        /// The record's group.
        theirs: GroupId,
        /// The group of this server.
        ours: GroupId,
    },
    /// The record is replayed, or from a superseded manager.
    #[error("it is {theirs}, this server has already seen {ours}")]
    Older {
        /// The record's version.
        theirs: Version,
        /// The version held here.
        ours: Version,
    },
    /// The same version has other contents: two managers in one epoch (invariant 3).
    #[error("it differs from the record {0} that this server holds: two managers in one epoch")]
    Conflict(Version),
    /// The signer may not make this change.
    #[error("it is signed by {0}, which may not make this change")]
    Signer(PublicKey),
    /// The record uses the epochs up.
    #[error(
        "it is {theirs}, and from {ours}, held here, one record leads to epoch {most} at most; if this server is to follow it \
         all the same, leave the group here and join again",
        most = ours.epoch.0 + limits::EPOCH_STEP
    )]
    Jump {
        /// The record's version.
        theirs: Version,
        /// The version held here.
        ours: Version,
    },
    /// The record is of a level that is too old for this program.
    #[error(transparent)]
    Level(Malformed),
    /// The signer's key is refused by the group, or the signer has not heard of a refusal.
    #[error(
        "this group refuses {0}, which made it, or whose refusal it does not know; where that server follows {0}: bellwether \
         group rebuild --confirm TOKEN"
    )]
    Refused(PublicKey),
}

impl RecordRefused {
    /// The details in a refusal's status, by which a manager learns that it was superseded, or is one of two.
    pub fn details(&self) -> bytes::Bytes {
        let (conflict, ours) = match self {
            Self::Older { ours, .. } => (false, ours),
            Self::Conflict(ours) => (true, ours),
            Self::OtherGroup { .. } | Self::Signer(_) | Self::Jump { .. } | Self::Level(_) | Self::Refused(_) => {
                return bytes::Bytes::new();
            }
        };
        let refusal = v1::RecordRefusal { conflict, epoch: ours.epoch.0, version: ours.version, ticket: None };
        refusal.encode_to_vec().into()
    }
}

/// The details in the refusal of a session: the held ticket, which is newer than the offered one.
pub fn stale_session(held: Version, ticket: Option<v1::Ticket>) -> bytes::Bytes {
    let refusal = v1::RecordRefusal { conflict: true, epoch: held.epoch.0, version: held.version, ticket };
    refusal.encode_to_vec().into()
}

/// The content of [`RecordRefused::details`]; none: the refusal has another reason.
pub fn refusal(details: &[u8]) -> Option<v1::RecordRefusal> {
    v1::RecordRefusal::decode(details).ok().filter(|refusal| refusal.epoch > 0)
}

impl SignedRecord {
    /// Signs `record` as its manager.
    ///
    /// # Errors
    /// The record breaks a rule of [`Record::check`], or this program does not work at its level.
    pub fn sign(record: Record, key: &KeyPair) -> Result<Self, Malformed> {
        record.check()?;
        record.level.check_in_force("the group record")?;
        let json =
            serde_json::to_string(&record).map_err(|e| Malformed::new(format!("a record that has no JSON: {e}")))?;
        let signature = key.sign(CONTEXT, json.as_bytes()).to_vec();
        Ok(Self { record, json, signer: key.public(), signature })
    }

    /// Reads and checks a record: the signature of its named signer, and [`Record::check`]. It may be older than a record
    /// in force, because a chain has such ones; see [`SignedRecord::may_be_in_force`].
    ///
    /// # Errors
    /// The record is malformed.
    pub fn from_wire(wire: &v1::SignedRecord) -> Result<Self, Malformed> {
        check_length(wire.record.len())?;
        let json = std::str::from_utf8(&wire.record).map_err(|_| Malformed::new("a group record that is not UTF-8"))?;
        Self::from_parts(json.to_owned(), PublicKey::try_from(wire.signer.as_ref())?, wire.signature.to_vec())
    }

    fn from_parts(json: String, signer: PublicKey, signature: Vec<u8>) -> Result<Self, Malformed> {
        check_length(json.len())?;
        if !signer.verifies(CONTEXT, json.as_bytes(), &signature) {
            return Err(Malformed::new(format!("a group record that {signer} did not sign")));
        }
        let record: Record = level::read(&json, "the group record", "not a group record")?;
        record.check()?;
        Ok(Self { record, json, signer, signature })
    }

    /// The message that [`SignedRecord::from_wire`] reads.
    pub fn to_wire(&self) -> v1::SignedRecord {
        v1::SignedRecord {
            record: bytes::Bytes::copy_from_slice(self.json.as_bytes()),
            signer: bytes::Bytes::copy_from_slice(self.signer.as_bytes()),
            signature: bytes::Bytes::copy_from_slice(&self.signature),
        }
    }

    /// The document.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The hash of the signed bytes; the next record's `previous`.
    pub fn hash(&self) -> Hash {
        Hash::of(self.json.as_bytes())
    }

    /// The signer's key.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// Checks that this program works in a group that has this record in force.
    ///
    /// # Errors
    /// The record is of a level that is too old.
    pub fn may_be_in_force(&self) -> Result<(), RecordRefused> {
        self.record.level.check_in_force("the group record").map_err(RecordRefused::Level)
    }

    /// Whether the first record of a group is signed by its own manager.
    pub fn is_self_signed(&self) -> bool {
        self.record.manager().key == self.signer
    }

    /// Whether a server that holds `held` may take this record after it; `Ok(false)`: it is the held record itself.
    ///
    /// Within an epoch only its manager signs. A higher epoch begins with the signature of the former manager (it hands
    /// over, or rebuilds the group), or of the new manager, if it is a candidate in `held` (W24). It is higher by
    /// [`limits::EPOCH_STEP`] at most. A key that `held` refuses stays refused.
    ///
    /// # Errors
    /// The reason of the refusal; the held record stays in force.
    pub fn may_follow(&self, held: &SignedRecord) -> Result<bool, RecordRefused> {
        let (new, old) = (&self.record, &held.record);
        if new.group != old.group {
            return Err(RecordRefused::OtherGroup { theirs: new.group, ours: old.group });
        }
        let mut refused = old.refused.iter();
        if let Some(key) = refused.find(|key| self.is_by(key) || new.refused.binary_search(key).is_err()) {
            return Err(RecordRefused::Refused(*key));
        }
        let (theirs, ours) = (new.version, old.version);
        if theirs.epoch > ours.epoch {
            if self.signer != old.manager().key && !self.is_candidate_of(old) {
                return Err(RecordRefused::Signer(self.signer));
            }
            let step = theirs.epoch.0 - ours.epoch.0;
            return if step <= limits::EPOCH_STEP { Ok(true) } else { Err(RecordRefused::Jump { theirs, ours }) };
        }
        if theirs.epoch < ours.epoch {
            return Err(RecordRefused::Older { theirs, ours });
        }
        if new.manager().key != old.manager().key {
            let known = self.is_self_signed() && old.by_key(&self.signer).is_some();
            return Err(if known { RecordRefused::Conflict(ours) } else { RecordRefused::Signer(self.signer) });
        }
        if theirs < ours {
            return Err(RecordRefused::Older { theirs, ours });
        }
        if theirs == ours {
            return if self.json == held.json { Ok(false) } else { Err(RecordRefused::Conflict(ours)) };
        }
        if self.signer != old.manager().key {
            return Err(RecordRefused::Signer(self.signer));
        }
        Ok(true)
    }

    /// Whether that key signed it, or leads in it.
    pub fn is_by(&self, key: &PublicKey) -> bool {
        self.signer == *key || self.record.manager().key == *key
    }

    /// Whether its manager made it and was allowed to: a member of `old` that is a candidate.
    fn is_candidate_of(&self, old: &Record) -> bool {
        let could = |server: &Server| server.role == Role::Member && server.candidate;
        self.is_self_signed() && old.by_key(&self.signer).is_some_and(could)
    }
}

fn check_length(bytes: usize) -> Result<(), Malformed> {
    if bytes <= limits::RECORD {
        return Ok(());
    }
    Err(Malformed::new(format!("a group record of {bytes} bytes; the limit is {}", limits::RECORD)))
}

#[derive(Serialize, Deserialize)]
struct Stored {
    record: String,
    signer: PublicKey,
    signature: String,
}

impl Serialize for SignedRecord {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let signature = data_encoding::BASE64.encode(&self.signature);
        Stored { record: self.json.clone(), signer: self.signer, signature }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SignedRecord {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let stored = Stored::deserialize(deserializer)?;
        let signature = data_encoding::BASE64.decode(stored.signature.as_bytes()).map_err(D::Error::custom)?;
        Self::from_parts(stored.record, stored.signer, signature).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
