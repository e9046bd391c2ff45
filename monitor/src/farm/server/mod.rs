//! One server: its phase, and the effect of each observation on it.

pub(super) mod standing;

use std::collections::BTreeMap;

use bellwether_proto::{
    key::PublicKey,
    level::Program,
    name::BalancerName,
    record::{Role, Server, Version},
    revision::{Epoch, Number},
    status::{Cause, Observation, Progress, Reach, State, Verified, Warning},
};

use super::heads::Heads;

/// The largest number of kept copies that are named; the server keeps them all.
const KEPT: usize = 5;

/// The server's activity, as far as observed. The rest of [`Known`] tells its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was heard of the server.
    Unseen,
    /// The server answers, and does nothing.
    Idle,
    /// The server failed, and takes nothing until a sync (W8).
    Faulty,
    /// The server is being synced.
    Syncing,
    /// The server takes one change.
    Updating,
    /// The server does not answer (any more).
    Away,
    /// The server left the group on its own machine, and has not come back.
    Left,
}

/// The known state of one server.
#[derive(Debug)]
pub(super) struct Known {
    key: PublicKey,
    role: Role,
    address: String,
    phase: Phase,
    at: Option<Number>,
    program: Option<Program>,
    /// The reason of the fault. It outlives a loss of contact and ends with a sync (W8).
    fault: Option<String>,
    /// The reason why the server does not answer.
    loss: Option<String>,
    /// The last revision that the server refused.
    refused: Option<Refusal>,
    drift: Vec<String>,
    drift_entries: u64,
    held: bool,
    /// The reason why one of its sets cannot be compared.
    away: Option<String>,
    progress: Option<Progress>,
    /// The time at which the present work was observed to begin.
    began_ms: u64,
    seen_ms: Option<u64>,
    last_update_us: Option<u64>,
    kept: Vec<String>,
    /// The time at which the newest kept copy was reported.
    kept_ms: Option<u64>,
    /// Whether the group record drains the server.
    drained: bool,
    verified: Option<Verified>,
    /// The server refuses this manager (a conflict), or was a manager and came back: the state and the reason.
    fenced: Option<(State, String)>,
    /// The epoch that the server led, which another server ended without it.
    led: Option<Epoch>,
    /// The group record that the server reported since it was last reached.
    record: Option<Version>,
    /// The last request to the server from outside the group, and its time.
    knock: Option<Warning>,
    balancers: Vec<Reach>,
    /// A balancer that had to be told again that the server is drained, and the time.
    drained_again: Option<(u64, BalancerName)>,
    /// Lost revisions that the server has seen, and the time of its report.
    saw_lost: Option<(u64, String)>,
    /// The time at which the server was added to the group: it cannot have been behind for longer.
    since_ms: u64,
    behind: Option<Behind>,
    /// For each forgotten content, the reason why the server still holds it; none: it does not.
    forgets: BTreeMap<u64, Option<String>>,
}

/// A revision that a server refused before the switch.
#[derive(Debug)]
struct Refusal {
    revision: Number,
    reason: String,
    output: String,
    /// The obstacle, which may pass.
    cause: Option<Cause>,
}

/// The time since which a server lacks the revision after `at`.
#[derive(Debug, Clone, Copy)]
struct Behind {
    at: Option<Number>,
    since_ms: u64,
}

impl Known {
    pub(super) fn new(now_ms: u64, server: &Server) -> Self {
        Self {
            key: server.key,
            role: server.role,
            address: server.address.clone(),
            phase: Phase::Unseen,
            at: None,
            program: None,
            fault: None,
            loss: None,
            refused: None,
            drift: Vec::new(),
            drift_entries: 0,
            held: false,
            away: None,
            progress: None,
            began_ms: now_ms,
            seen_ms: None,
            last_update_us: None,
            kept: Vec::new(),
            kept_ms: None,
            drained: server.drained,
            verified: None,
            balancers: Vec::new(),
            drained_again: None,
            saw_lost: None,
            fenced: None,
            led: None,
            record: None,
            knock: None,
            since_ms: now_ms,
            behind: None,
            forgets: BTreeMap::new(),
        }
    }

    /// Takes the server's line of a new record. Another role, another manager (`turned`) or new hardware under the
    /// server's name makes earlier knowledge void.
    pub(super) fn assign(&mut self, now_ms: u64, server: &Server, turned: bool) {
        if self.key != server.key {
            *self = Self::new(now_ms, server);
        } else if turned || self.role != server.role {
            let at = self.at;
            *self = Self { at, ..Self::new(now_ms, server) };
        }
        self.address.clone_from(&server.address);
        self.drained = server.drained;
        self.drained_again.take_if(|_| !server.drained);
    }

    /// Marks a server that refuses this manager, or was one and came back, until it is reached or has another role.
    pub(super) fn fence(&mut self, conflict: bool, reason: String) {
        let state = if conflict { State::Conflict } else { State::Superseded };
        self.fenced = Some((state, reason));
    }

    /// Marks a server that led `epoch`, which another one ended without it, until it is reached or has another role.
    pub(super) fn has_led(&mut self, epoch: Epoch) {
        self.led = Some(epoch);
    }

    /// The group has another epoch, so the conflict of two managers is decided.
    pub(super) fn decided(&mut self) {
        self.fenced.take_if(|(state, _)| *state == State::Conflict);
    }

    /// A person has acknowledged the request from outside the group.
    pub(super) fn acknowledge(&mut self) {
        self.knock = None;
    }

    pub(super) fn observe(&mut self, now_ms: u64, observation: Observation) {
        use Observation as O;
        if matches!(observation, O::Reached { .. }) {
            self.fenced = None;
            self.led = None;
        }
        match observation {
            O::Lost(_) => {}
            O::DrainedAgain(ref balancer) => self.drained_again = Some((now_ms, balancer.clone())),
            O::SawLost(ref which) => self.saw_lost = Some((now_ms, which.clone())),
            O::Started { .. } => self.began_ms = now_ms,
            O::Reached { .. }
            | O::Validates(_)
            | O::Returned(_)
            | O::Progress(_)
            | O::Staged { .. }
            | O::Done { .. }
            | O::Refused { .. }
            | O::Failed(_)
            | O::Drift { .. }
            | O::Away(_)
            | O::Verified(_)
            | O::Record(_)
            | O::Left
            | O::Balancers(_)
            | O::Forgets(_)
            | O::Alive => self.seen_ms = Some(now_ms),
            O::Knocked(ref who) => {
                self.seen_ms = Some(now_ms);
                let before = self.knock.take().map_or(0, |knock| knock.requests);
                self.knock = Some(Warning { what: who.clone(), time_ms: now_ms, requests: before.saturating_add(1) });
            }
        }
        self.phase = self.step(now_ms, observation);
        let elapsed_ms = now_ms.saturating_sub(self.began_ms);
        if let Some(progress) = &mut self.progress {
            progress.bytes_per_s = progress.bytes.saturating_mul(1_000).checked_div(elapsed_ms).unwrap_or(0);
        }
        if !matches!(self.phase, Phase::Syncing | Phase::Updating) {
            self.progress = None;
        }
        if self.phase != Phase::Away {
            self.loss = None;
        }
    }

    /// The phase after `observation`.
    fn step(&mut self, now_ms: u64, observation: Observation) -> Phase {
        use Observation as O;
        use Phase as P;
        match (self.phase, observation) {
            (
                P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left,
                O::Reached { program, at, fault },
            ) => {
                self.program = Some(program);
                self.at = at;
                self.record = None;
                self.fault = fault.or(self.fault.take());
                self.settled()
            }
            (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away, O::Lost(why)) => {
                self.loss = Some(why);
                P::Away
            }
            (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating, O::Started { sync: true, to: _ }) => {
                P::Syncing
            }
            (P::Unseen | P::Idle | P::Updating, O::Started { sync: false, to: _ }) => P::Updating,
            // The request is done when the server is back.
            (P::Away, O::Started { sync: _, to: _ }) => P::Away,
            // A faulty server takes no update (W8), and a sync holds every later change.
            (P::Faulty, O::Started { sync: false, to: _ }) => P::Faulty,
            (P::Syncing, O::Started { sync: false, to: _ }) => P::Syncing,
            (busy @ (P::Syncing | P::Updating), O::Progress(progress)) => {
                self.progress = Some(progress);
                busy
            }
            // This progress was under way when the work ended or the server went away.
            (other @ (P::Unseen | P::Idle | P::Faulty | P::Away), O::Progress(_)) => other,
            // It waits for the other members, and holds the revision before.
            (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating, O::Staged { revision: _, later: _ }) => {
                self.settled()
            }
            (P::Away, O::Staged { revision: _, later: _ }) => P::Away,
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Returned(revision),
            ) => {
                self.at = Some(revision);
                same
            }
            (P::Syncing, O::Done { revision, micros: _, kept }) => {
                self.fault = None;
                self.holds(now_ms, revision, kept);
                P::Idle
            }
            (P::Unseen | P::Idle | P::Updating | P::Away, O::Done { revision, micros, kept }) => {
                self.last_update_us = Some(micros);
                self.holds(now_ms, revision, kept);
                self.settled()
            }
            // A publish shows that the manager works again, without a sync.
            (P::Faulty, O::Done { revision, micros: _, kept }) => {
                self.fault = self.fault.take().filter(|_| self.role != Role::Manager);
                self.holds(now_ms, revision, kept);
                self.settled()
            }
            (
                P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away,
                O::Refused { revision, reason, cause, output },
            ) => {
                self.refused = Some(Refusal { revision, reason, cause, output });
                self.settled()
            }
            (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away, O::Failed(why)) => {
                self.fault = Some(why);
                P::Faulty
            }
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Drift { entries, paths, held, kept },
            ) => {
                (self.drift_entries, self.drift, self.held) = (entries, paths, held);
                self.keeps(now_ms, kept);
                same
            }
            (same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left), O::Away(why)) => {
                self.away = why;
                same
            }
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Verified(verified),
            ) => {
                self.verified = Some(verified);
                same
            }
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Record(version),
            ) => {
                self.record = Some(version);
                same
            }
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Balancers(found),
            ) => {
                let reach = |(balancer, fault)| Reach { balancer, fault, time_ms: now_ms };
                self.balancers = found.into_iter().map(reach).collect();
                same
            }
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Forgets(forgets),
            ) => {
                self.forgets = forgets;
                same
            }
            // The server stays away until it reports its position.
            (
                same @ (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left),
                O::Alive | O::Validates(_) | O::Knocked(_) | O::DrainedAgain(_) | O::SawLost(_),
            ) => same,
            (P::Unseen | P::Idle | P::Faulty | P::Syncing | P::Updating | P::Away | P::Left, O::Left) => P::Left,
            // The server has no agent that answers; a late message was under way.
            (
                P::Left,
                O::Lost(_)
                | O::Started { .. }
                | O::Progress(_)
                | O::Staged { .. }
                | O::Done { .. }
                | O::Refused { .. }
                | O::Failed(_),
            ) => P::Left,
        }
    }

    fn settled(&self) -> Phase {
        if self.fault.is_some() { Phase::Faulty } else { Phase::Idle }
    }

    fn holds(&mut self, now_ms: u64, revision: Number, kept: Vec<String>) {
        self.at = Some(revision);
        self.refused = self.refused.take().filter(|refusal| refusal.revision > revision);
        self.keeps(now_ms, kept);
    }

    fn keeps(&mut self, now_ms: u64, points: Vec<String>) {
        if !points.is_empty() {
            self.kept_ms = Some(now_ms);
        }
        self.kept.splice(0..0, points);
        self.kept.truncate(KEPT);
    }

    /// The reason why the server holds, or may hold, the forgotten content of that number; none: it said that it does not.
    pub(super) fn remembers(&self, id: u64) -> Option<String> {
        let unknown = match self.phase {
            _ if self.role == Role::Disabled => "it is disabled",
            Phase::Unseen | Phase::Away => "it does not answer",
            Phase::Left => "it left the group",
            Phase::Idle | Phase::Faulty | Phase::Syncing | Phase::Updating => "it has not reported yet",
        };
        match self.forgets.get(&id) {
            Some(None) => None,
            Some(Some(why)) => Some(why.clone()),
            None => Some(unknown.to_owned()),
        }
    }

    /// Notes the time since which the server is behind. Call it after every change of the server or of the heads.
    pub(super) fn measure(&mut self, heads: &Heads) {
        let first_lacked_ms = heads.first_after_ms(self.at).filter(|_| self.role == Role::Member);
        self.behind = first_lacked_ms.map(|first_ms| match self.behind {
            // At the same revision, the time stays, although the first missing revision may be forgotten by now.
            Some(behind) if behind.at == self.at => behind,
            _ => {
                let floor_ms = if self.at.is_none() { self.since_ms } else { 0 };
                Behind { at: self.at, since_ms: first_ms.max(floor_ms) }
            }
        });
    }
}

#[cfg(test)]
mod tests;
