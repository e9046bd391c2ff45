//! The rollout of the head, as a machine without I/O: the lanes' reports, the record, the head and the time go in, the due
//! members and the state come out. The manager saves [`Kept`] durably before any member is due by it.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_proto::{
    level::{Level, State},
    name::ServerName,
    record::{Record, Role, RolloutPolicy},
    revision::{Number, RevisionId, SignedHeader, TAKEN_BACK},
    status::{Observation, RolloutState, RolloutStatus},
};
use serde::{Deserialize, Serialize};

use super::{Member, Standing, Standings, goes_to_all, is_good, wave, waves};

/// The most failed members whose reasons a stop names, and the most characters of each.
const NAMED: (usize, usize) = (3, 300);

/// The state that a manager keeps: with it, a rollout goes on or stays stopped after a restart. A new manager has none and
/// finds out what the members hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The revision, the head; none: no head has been looked at.
    pub revision: Option<Number>,
    /// The newest revision before it that went to all members.
    pub good: Option<Number>,
    /// The number of waves that are over.
    pub passed: usize,
    /// Whether all waves are over.
    pub done: bool,
    /// The members that failed, with the reasons.
    pub failed: BTreeMap<ServerName, String>,
    /// Those of them that a person let pass by `rollout continue`.
    pub forgiven: BTreeSet<ServerName>,
    /// The stop.
    pub stopped: Option<Stop>,
}

/// The stop of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// The reason, for people.
    pub reason: String,
    /// Whether a person stopped it: then nothing is taken back.
    pub by_person: bool,
}

impl State for Kept {
    fn level(&self) -> Level {
        Level(2)
    }
}

/// The members that may take the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Released {
    /// All members.
    All,
    /// These members.
    Only(BTreeSet<ServerName>),
    /// No member: the head was not looked at, or its rollout is stopped.
    #[default]
    Nobody,
}

/// The answer of a look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The revision that the plan is for.
    pub revision: Option<RevisionId>,
    /// The members that may take it now; without waves, nobody asks.
    pub released: Released,
    /// For people; none: there are no waves.
    pub status: Option<RolloutStatus>,
    /// The revision whose content is to be published, because the rollout has stopped; none: the parent of the head.
    pub take_back: Option<TakeBack>,
    /// The time of the next look, if nothing else is heard, on the clock of the look.
    pub next_ms: Option<u64>,
}

impl Plan {
    /// The revision that the waves let that member take; none: none.
    pub fn released_to(&self, server: &ServerName) -> Option<RevisionId> {
        let released = match &self.released {
            Released::All => true,
            Released::Only(servers) => servers.contains(server),
            Released::Nobody => false,
        };
        self.revision.filter(|_| released)
    }

    /// The reason why nothing but a person publishes, if `head` is the head.
    pub fn stopped(&self, head: RevisionId) -> Option<&RolloutStatus> {
        let of_head = self.status.as_ref().filter(|_| self.revision == Some(head));
        of_head.filter(|status| status.state == RolloutState::Stopped)
    }
}

/// The content that is to be published again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeBack {
    /// The stopped revision.
    pub revision: Number,
    /// The revision with the content; none: the parent.
    pub to: Option<Number>,
    /// The reason of the stop.
    pub reason: String,
}

/// A decision of a person that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDecided {
    /// There are no waves.
    #[error("the group has no policy for waves: every revision goes to all members at once")]
    AtOnce,
    /// It is over.
    #[error("all waves have revision {0}: there is no rollout to stop or to continue")]
    Over(Number),
}

/// The rollout of the head.
#[derive(Debug, Clone, Default)]
pub struct Rollout {
    kept: Kept,
    members: BTreeMap<ServerName, Member>,
    /// The time since which the present wave has been good.
    good_ms: Option<u64>,
    /// The members that were ever due for this revision.
    due: BTreeSet<ServerName>,
}

impl Rollout {
    /// Goes on from the state that a manager kept.
    pub fn resume(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// The state to keep.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Takes a report of a member's lane. Returns whether it counts here.
    pub fn observe(&mut self, server: &ServerName, observation: &Observation) -> bool {
        self.members.entry(server.clone()).or_default().observe(observation)
    }

    /// Looks at the head under that record. `now_ms` is of any clock that does not go back.
    pub fn look(&mut self, record: &Record, head: &SignedHeader, now_ms: u64) -> Plan {
        self.begin(head.number());
        let Some(policy) = &record.policy.rollout else {
            (self.kept.done, self.kept.stopped) = (true, None);
            return Plan::default();
        };
        let members: BTreeSet<&ServerName> = members(record).collect();
        self.members.retain(|name, _| members.contains(name));
        let standings = self.standings(&members, head.number());
        let mut plan = Plan { revision: Some(head.id()), released: Released::All, ..Plan::default() };
        if goes_to_all(head, &record.policy) {
            (self.kept.done, self.kept.stopped) = (true, None);
            plan.status = self.taken_back(head, &standings);
            return plan;
        }
        let waves = waves(policy, standings.len());
        let state = self.state(policy, &standings, now_ms);
        plan.released = match state {
            RolloutState::Done => Released::All,
            // Members that are due and have not begun with it do not begin any more.
            RolloutState::Stopped => Released::Nobody,
            RolloutState::Running | RolloutState::Soaking | RolloutState::TakenBack => Released::Only(self.due.clone()),
        };
        let stop = self.kept.stopped.as_ref();
        plan.next_ms = self.good_ms.filter(|_| state == RolloutState::Soaking).map(|good| good + policy.soak_ms);
        plan.take_back = stop.filter(|stop| policy.take_back && !stop.by_person).map(|stop| TakeBack {
            revision: head.number(),
            to: self.kept.good,
            reason: stop.reason.clone(),
        });
        let mut status = status(head, state, &standings);
        (status.wave, status.waves) = ((self.kept.passed + 1).min(waves.len()), waves.len());
        status.reason = stop.map(|stop| stop.reason.clone());
        status.next = stop.map(|stop| next(stop, policy).to_owned());
        plan.status = Some(status);
        plan
    }

    /// Begins with another head.
    fn begin(&mut self, head: Number) {
        if self.kept.revision == Some(head) {
            return;
        }
        let good = if self.kept.done { self.kept.revision } else { self.kept.good };
        self.kept = Kept { revision: Some(head), good, ..Kept::default() };
        self.due.clear();
        self.good_ms = None;
    }

    fn standings(&mut self, members: &BTreeSet<&ServerName>, head: Number) -> Standings {
        let standing = |name: &&ServerName| {
            let standing = self.members.get(*name).map_or(Standing::OnTheWay, |member| member.standing(head));
            let failed = self.kept.failed.get(*name).filter(|_| standing != Standing::Well);
            ((*name).clone(), failed.map_or(standing, |why| Standing::Failed(why.clone())))
        };
        let standings: Standings = members.iter().map(standing).collect();
        self.kept.failed = standings
            .iter()
            .filter_map(|(name, standing)| match standing {
                Standing::Failed(why) => Some((name.clone(), why.clone())),
                Standing::Well | Standing::OnTheWay | Standing::Late => None,
            })
            .collect();
        standings
    }

    fn state(&mut self, policy: &RolloutPolicy, standings: &Standings, now_ms: u64) -> RolloutState {
        if standings.values().all(|standing| *standing == Standing::Well) {
            (self.kept.done, self.kept.stopped) = (true, None);
        }
        if self.kept.done {
            return RolloutState::Done;
        }
        if self.kept.stopped.is_none() {
            self.kept.stopped = self.too_many(policy);
        }
        if self.kept.stopped.is_some() {
            return RolloutState::Stopped;
        }
        let waves = waves(policy, standings.len());
        for (number, places) in waves.iter().enumerate() {
            let members = wave(standings, number, places);
            self.due.extend(members.iter().cloned());
            if number < self.kept.passed {
                continue;
            }
            if !is_good(standings, number, &members) {
                self.good_ms = None;
                return RolloutState::Running;
            }
            let good_ms = *self.good_ms.get_or_insert(now_ms);
            // Nothing comes after the last wave.
            if number + 1 < waves.len() && now_ms < good_ms.saturating_add(policy.soak_ms) {
                return RolloutState::Soaking;
            }
            (self.kept.passed, self.good_ms) = (number + 1, None);
        }
        self.kept.done = true;
        RolloutState::Done
    }

    /// The stop by failures that nobody has let pass.
    fn too_many(&self, policy: &RolloutPolicy) -> Option<Stop> {
        let failed: Vec<_> = self.kept.failed.iter().filter(|(name, _)| !self.kept.forgiven.contains(*name)).collect();
        if failed.len() < policy.stop_at as usize {
            return None;
        }
        let said = |(name, why): &(&ServerName, &String)| {
            let why = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(NAMED.1).collect::<String>();
            format!("{name}: {why}")
        };
        let named: Vec<String> = failed.iter().take(NAMED.0).map(said).collect();
        let more = failed.len().saturating_sub(NAMED.0);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        let failures = if failed.len() == 1 { "1 member".to_owned() } else { format!("{} members", failed.len()) };
        Some(Stop { reason: format!("{failures} failed: {}{more}", named.join("; ")), by_person: false })
    }

    /// The state while the head is a revision that was published because a rollout had stopped.
    fn taken_back(&self, head: &SignedHeader, standings: &Standings) -> Option<RolloutStatus> {
        let taken_back = head.header().labels.get(TAKEN_BACK)?.parse().ok()?;
        let reason = Some(head.header().message.clone());
        let status = status(head, RolloutState::TakenBack, standings);
        Some(RolloutStatus { reason, taken_back: Some(taken_back), wave: 1, waves: 1, ..status })
    }

    /// Stops the rollout, as `by` asks. Returns whether that changes anything.
    ///
    /// # Errors
    /// There is nothing to stop.
    pub fn stop(&mut self, record: &Record, by: &str) -> Result<bool, NotDecided> {
        self.is_under_way(record)?;
        let reason = format!("{by} stopped it");
        let stops = self.kept.stopped.is_none();
        self.kept.stopped.get_or_insert(Stop { reason, by_person: true });
        Ok(stops)
    }

    /// Continues a stopped rollout: the failures up to now count no more. Returns whether that changes anything.
    ///
    /// # Errors
    /// There is nothing to continue.
    pub fn go_on(&mut self, record: &Record) -> Result<bool, NotDecided> {
        self.is_under_way(record)?;
        let goes_on = self.kept.stopped.take().is_some();
        if goes_on {
            self.kept.forgiven.extend(self.kept.failed.keys().cloned());
        }
        Ok(goes_on)
    }

    fn is_under_way(&self, record: &Record) -> Result<(), NotDecided> {
        match (&record.policy.rollout, self.kept.revision) {
            (None, _) | (_, None) => Err(NotDecided::AtOnce),
            (Some(_), Some(revision)) if self.kept.done => Err(NotDecided::Over(revision)),
            (Some(_), Some(_)) => Ok(()),
        }
    }
}

/// The members of a record that are not disabled.
fn members(record: &Record) -> impl Iterator<Item = &ServerName> {
    record.servers.iter().filter(|server| server.role == Role::Member).map(|server| &server.name)
}

fn status(head: &SignedHeader, state: RolloutState, standings: &Standings) -> RolloutStatus {
    let those =
        |of: fn(&Standing) -> bool| standings.iter().filter(move |(_, standing)| of(standing)).map(|(name, _)| name);
    RolloutStatus {
        revision: head.number(),
        state,
        wave: 0,
        waves: 0,
        members: standings.len(),
        holding: those(|standing| *standing == Standing::Well).count(),
        late: those(|standing| *standing == Standing::Late).cloned().collect(),
        failed: those(|standing| matches!(standing, Standing::Failed(_))).cloned().collect(),
        until_ms: None,
        reason: None,
        taken_back: None,
        next: None,
    }
}

/// The next command after a stop.
fn next(stop: &Stop, policy: &RolloutPolicy) -> &'static str {
    match (stop.by_person, policy.take_back) {
        (false, true) => "the manager publishes the content from before",
        (true, _) | (false, false) => "bellwether rollout continue, or: bellwether rollback",
    }
}

#[cfg(test)]
mod tests;
