//! What goes into the session's machine, and what comes out of it.

use std::{sync::Arc, time::Instant};

use crate::lane::plan::{Member, Newcomer, Step};

use bellwether_group::{
    procedure::SignedDocument,
    rollout::{Order, Release, Target},
};
use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::{SignedRecord, Version},
    revision::{Epoch, RevisionId, SignedHeader},
    status::Observation,
    v1,
};
use bellwether_store::history::Stored;

use super::{Control, Deadlines};

/// The time by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The monotonic clock.
    pub at: Instant,
    /// Milliseconds since 1970.
    pub ms: u64,
}

/// The two ends of a connection, and its time limits.
#[derive(Debug, Clone)]
pub struct Ends {
    /// The member.
    pub server: ServerName,
    /// This manager's key.
    pub manager: PublicKey,
    /// The limits for the member's answers.
    pub deadlines: Deadlines,
}

/// Facts that hold for all members.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The group record in force.
    pub record: Arc<SignedRecord>,
    /// The newest revision, durable here (invariant 3).
    pub head: Arc<Stored>,
    /// The beginning of the publish that made it.
    pub published: Instant,
    /// The progress of procedures.
    pub procedures: Option<Arc<SignedDocument>>,
    /// Whether procedures or waves hold the member back.
    pub order: Order,
}

/// An event.
#[derive(Debug)]
pub enum Input {
    /// Another group record is in force.
    Record(Arc<SignedRecord>),
    /// A newer revision, or a base of the same one, and the beginning of its publish.
    Head(Arc<Stored>, Instant),
    /// Progress of the procedures, and whether they hold the member back.
    Procedures(Option<Arc<SignedDocument>>, bool),
    /// What the rollout lets the member do.
    Released(Release),
    /// A request to the lane.
    Asked(Control),
    /// A message from the member.
    Heard(v1::Up),
    /// The time for another keepalive.
    Tick,
    /// The answer to [`Output::Plan`].
    Planned(Step),
    /// The answer to [`Output::Find`]; none if the history lacks the revision.
    Found(Option<SignedHeader>),
}

/// An action. The actions of one event are executed in order.
#[derive(Debug)]
pub enum Output {
    /// Tell the monitor.
    See(Observation),
    /// Note in the table of reached servers what the member has taken, by its answer to that keepalive.
    Answered {
        /// The keepalive.
        beat: u64,
        /// The record that is new to it.
        record: Option<Version>,
        /// The document of procedures that is new to it.
        procedures: Option<(Epoch, u64)>,
    },
    /// Ask the history for the next step. The answer is the next input.
    Plan(Look),
    /// Ask the history for a revision. The answer is the next input.
    Find(RevisionId),
    /// Ask the publisher for a base of the target.
    WantBase,
    /// Open a pack that is about to be offered.
    Open(Arc<Stored>),
}

/// A look at the history.
#[derive(Debug)]
pub struct Look {
    pub(super) member: Member,
    pub(super) target: Target,
    pub(super) newcomer: Newcomer,
}
