//! The tasks of steps. Each kind has its own file with all its rules: its check, its action, its deadline, its words, and
//! the level that it came with. A new kind is a new file here and its line in [`Task`].

mod add;
mod attest;
mod complete;
mod disable;
mod drain;
mod hand_over;
#[cfg(test)]
mod later;
mod promote;
mod quiet;
mod remove;
mod replace;
mod several;
mod sync;
mod undrain;

use bellwether_proto::{key::PublicKey, level::Level, name::ServerName, record::Role, status::State, time::utc};
use serde::{Deserialize, Serialize};

use self::several::{Lack, of_each};
use super::{Action, Attestation, Insists, ObservedServer, Traffic, World};
use crate::edits::RecordEdit;

#[cfg(test)]
pub(super) use self::later::Later;
pub use self::{
    add::Add,
    attest::{Attest, Fact, Question},
    complete::Complete,
    disable::Disable,
    drain::Drain,
    hand_over::HandOver,
    promote::Promote,
    quiet::Quiet,
    remove::Remove,
    replace::Replace,
    sync::Sync,
    undrain::Undrain,
};

pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
/// No deadline, because a person must act.
pub(super) const NEVER: u64 = u64::MAX;

/// A kind of task; all rules over tasks call it.
pub trait TaskKind {
    /// Whether the task is done in `world`; if not, the action or the wait.
    fn check(&self, since: &Since<'_>, world: &World) -> Check;

    /// The fixed properties of the task.
    fn about(&self) -> About<'_>;

    /// The oldest level whose programs read the task: a later one than the first if the kind, or a field that is used,
    /// came with that.
    fn level(&self) -> Level {
        Level::FIRST
    }
}

/// The properties of a task that do not depend on the world.
pub struct About<'a> {
    /// The description, in a few words.
    pub what: String,
    /// The place.
    pub place: String,
    /// The servers that it touches.
    pub servers: Vec<&'a ServerName>,
    /// The deadline in milliseconds, after which the procedure stops.
    pub lasts_ms: u64,
    /// Whether the time for sessions is the deadline instead, after which the next step follows in any case.
    pub lasts_as_sessions: bool,
    /// The time between two attempts of its action, in milliseconds.
    pub again_ms: u64,
    /// The fact that a person must attest.
    pub asks: Option<&'a Fact>,
    /// The servers that it takes out of service.
    pub drains: &'a [ServerName],
    /// The servers that give and take the manager's role by it. Such a step is never done late.
    pub moves_role: Option<[&'a ServerName; 2]>,
    /// Whether the procedure cannot continue after one of its servers has left the group.
    pub needs_its_servers: bool,
}

impl<'a> About<'a> {
    fn new(
        what: String,
        place: impl Into<String>,
        servers: impl IntoIterator<Item = &'a ServerName>,
        lasts_ms: u64,
    ) -> Self {
        Self {
            what,
            place: place.into(),
            servers: servers.into_iter().collect(),
            lasts_ms,
            lasts_as_sessions: false,
            again_ms: 2 * SECOND,
            asks: None,
            drains: &[],
            moves_role: None,
            needs_its_servers: false,
        }
    }

    /// The deadline in milliseconds, with this time for sessions.
    pub fn deadline_ms(&self, drain_timeout_ms: u64) -> u64 {
        if self.lasts_as_sessions { drain_timeout_ms } else { self.lasts_ms }
    }
}

/// Makes [`Task`] of the kinds.
macro_rules! tasks {
    ($($(#[$what:meta])* $kind:ident)*) => {
        /// The task of a step: a value of one of the kinds. It dereferences to the kind.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Task {
            $($(#[$what])* $kind($kind),)*
        }

        impl std::ops::Deref for Task {
            type Target = dyn TaskKind;

            #[expect(unused_doc_comments, reason = "a kind's attributes are repeated, for one may be left out of a build")]
            fn deref(&self) -> &Self::Target {
                match self {
                    $($(#[$what])* Self::$kind(task) => task,)*
                }
            }
        }

        $($(#[$what])* impl From<$kind> for Task {
            fn from(task: $kind) -> Self {
                Self::$kind(task)
            }
        })*
    };
}

tasks! {
    /// A person answers for something.
    Attest
    /// Servers get no new requests.
    Drain
    /// The last sessions of servers end.
    Quiet
    /// The manager gives its role to another server.
    HandOver
    /// A candidate takes the manager's role.
    Promote
    /// A server is sent nothing, and refused.
    Disable
    /// A server is out of the group.
    Remove
    /// A server is a member again.
    Add
    /// New hardware has taken a name.
    Replace
    /// Servers are at the manager's state.
    Sync
    /// Every byte on the disks of servers was hashed and is the manager's.
    Complete
    /// Servers get requests again.
    Undrain
    /// A kind of a later level, for tests.
    #[cfg(test)]
    Later
}

/// The answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The task is done, with a note.
    So(Option<String>),
    /// This action does the task.
    Act(Action),
    /// The task gets done by itself, or its action must wait; the text names the wait.
    Wait(String),
    /// A person must answer.
    Ask(Question),
    /// Waiting cannot help, for this reason.
    Stuck(String),
}

/// The inputs of a check beside the world.
pub struct Since<'a> {
    /// The attestations so far.
    pub attestations: &'a [Attestation],
    /// The start of the procedure, in milliseconds since 1970.
    pub started_ms: u64,
    /// The start of the step, in milliseconds since 1970.
    pub began_ms: u64,
    /// The last start of its action, in milliseconds since 1970.
    pub tried_ms: Option<u64>,
    /// The error of that action, once it has ended.
    pub trouble: Option<&'a str>,
    /// The present time, in milliseconds since 1970.
    pub now_ms: u64,
}

impl Since<'_> {
    fn attests(&self, fact: &Fact) -> bool {
        self.attestations.iter().any(|said| said.fact == *fact)
    }
}

const BALANCERS: &str = "at the balancers, and /ready";
const RECORD: &str = "in the group record";

fn list(servers: &[ServerName]) -> String {
    servers.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ")
}

fn gone(name: &ServerName) -> Check {
    Check::Stuck(format!("{name} is not in the group any more"))
}

fn leads_meanwhile(name: &ServerName) -> Check {
    Check::Stuck(format!("{name} has become manager meanwhile"))
}

/// Checks that the former manager is out of the group, or disabled.
fn put_away(server: &ServerName, remove: bool, world: &World) -> Check {
    let role = world.server(server).map(|seen| seen.role);
    if remove { remove::check(server, role) } else { disable::check(server, role) }
}

fn put_away_word(remove: bool) -> &'static str {
    if remove { "removed" } else { "disabled" }
}

/// Whether a server in that state never comes to the head by itself.
pub(super) fn stays(state: State) -> bool {
    match state {
        State::Error | State::Refused | State::Drifted | State::Left | State::Conflict | State::Superseded => true,
        State::InSync
        | State::GroupChange
        | State::AwaitingSync
        | State::Waiting
        | State::Syncing
        | State::Updating
        | State::Disabled
        | State::Unreachable
        | State::Unknown => false,
    }
}

fn because(name: &ServerName, seen: &ObservedServer) -> String {
    match &seen.reason {
        // The reason begins with the server's own action.
        Some(reason) if seen.state == State::Left => format!("{name}: {reason}"),
        Some(reason) => format!("{name} is {}: {reason}", seen.state.word()),
        None => format!("{name} is {}", seen.state.word()),
    }
}

#[cfg(test)]
mod tests;
