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

use super::{Hold, Member, Now, Release, Standing, Standings, is_good, is_urgent, member::Staging, wave, waves};

/// The most failed members whose reasons a stop names, and the most characters of each.
const NAMED: (usize, usize) = (3, 1_000);

/// The state that a manager keeps: with it, a rollout goes on or stays stopped after a restart. A new manager has none and
/// finds out what the members hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The members that have commands that validate, as far as they were ever heard of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub validates: BTreeSet<ServerName>,
    /// The revision, the head; none: no head has been looked at.
    pub revision: Option<Number>,
    /// The newest revision before it that went to all members.
    pub good: Option<Number>,
    /// Whether the members that validate have staged it: some member may have switched to it.
    #[serde(default)]
    pub staged: bool,
    /// Of these members, those that can validate only after their switch. They are waves of one member each, before the others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub first: BTreeSet<ServerName>,
    /// The number of waves that are over.
    pub passed: usize,
    /// Whether all waves are over.
    pub done: bool,
    /// Whether it waits for its confirmation: no later revision goes back to it.
    #[serde(default)]
    pub unconfirmed: bool,
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
    /// Whether nobody confirmed it in time: then the content from before is published in any case.
    #[serde(default)]
    pub unconfirmed: bool,
}

impl Kept {
    /// Whether nobody confirmed the revision in time.
    fn is_overdue(&self) -> bool {
        self.stopped.as_ref().is_some_and(|stop| stop.unconfirmed)
    }
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
    /// Whether members take a revision only when it is released to them: there are waves, or some members validate revisions.
    pub gated: bool,
    /// Whether the members that validate may stage it now.
    pub staging: bool,
    /// The members that may take it now; if it is not `gated`, nobody asks.
    pub released: Released,
    /// For people; none: there are no waves.
    pub status: Option<RolloutStatus>,
    /// The revision whose content is to be published, because the rollout has stopped; none: the parent of the head.
    pub take_back: Option<TakeBack>,
    /// The time of the next look, if nothing else is heard, on the clock of the look.
    pub next_ms: Option<u64>,
}

impl Plan {
    /// What that member may do.
    pub fn release(&self, server: &ServerName) -> Release {
        let released = match &self.released {
            Released::All => true,
            Released::Only(servers) => servers.contains(server),
            Released::Nobody => false,
        };
        let (staged, taken) = (self.revision.filter(|_| self.staging), self.revision.filter(|_| released));
        Release { gated: self.gated, staged, taken }
    }

    /// The state of the rollout of `head`, if the next revision takes its place: it is stopped, or not confirmed.
    pub fn replaceable(&self, head: RevisionId) -> Option<&RolloutStatus> {
        let of_head = self.status.as_ref().filter(|_| self.revision == Some(head));
        of_head.filter(|status| status.state == RolloutState::Stopped || status.confirm_until_ms.is_some())
    }

    /// What holds publishing back, if `head` is the head.
    pub fn holds(&self, head: RevisionId) -> Option<Hold> {
        let status = self.replaceable(head).filter(|status| !status.untouched)?;
        Some(match status.state {
            RolloutState::Stopped => Hold::Stopped(status.revision),
            _ => Hold::Unconfirmed(status.revision),
        })
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
    /// Nobody confirmed it in time.
    #[error("nobody confirmed revision {0} in time: its content is taken back")]
    Unconfirmed(Number),
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
    /// The time at which this revision became the head.
    began_ms: u64,
    /// A confirmation of the head is being made durable: the time does not run out meanwhile.
    confirming: bool,
    /// The members that have missed the time for staging. They are not waited for until they hold the head.
    slow: BTreeSet<ServerName>,
    /// The failure of the manager's own commands: the manager, the revision, and the reason.
    own: Option<(ServerName, Number, String)>,
}

impl Rollout {
    /// Goes on from the state that a manager kept.
    pub fn resume(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Whether the state has to be saved, if `saved` is the last one that was. A manager that is started again finds the
    /// beginning of a rollout by itself.
    pub fn has_news(&self, saved: &Kept) -> bool {
        let Kept { revision, good, ref validates, .. } = self.kept;
        let fresh = Kept { revision, good, validates: validates.clone(), ..Kept::default() };
        self.kept != *saved && (self.kept != fresh || saved.validates != *validates)
    }

    /// The state to keep.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Takes a report of a member's lane. Returns whether it counts here.
    /// `now_ms` is of the clock of [`Rollout::look`].
    pub fn observe(&mut self, server: &ServerName, observation: &Observation, now_ms: u64) -> bool {
        let known = match observation {
            Observation::Validates(true) => !self.kept.validates.insert(server.clone()),
            Observation::Validates(false) => !self.kept.validates.remove(server),
            _ => true,
        };
        self.members.entry(server.clone()).or_default().observe(observation, now_ms) || !known
    }

    /// Takes the end of the manager's own commands with a revision, and the reason of their failure. A failure counts like one of a
    /// member as long as that revision is the head and goes in waves.
    pub fn observe_own(&mut self, manager: &ServerName, revision: Number, failure: Option<&str>) {
        self.own = failure.map(|why| (manager.clone(), revision, why.to_owned()));
    }

    /// Looks at the head under that record.
    pub fn look(&mut self, record: &Record, head: &SignedHeader, now: Now) -> Plan {
        let now_ms = now.at_ms;
        self.begin(head.number(), now_ms);
        let confirm_ms = record.policy.unconfirmed(head).map(|within_ms| self.confirm_ms(head, within_ms, now));
        if confirm_ms == Some(0) && !self.confirming && !self.kept.is_overdue() {
            let reason = format!("nobody confirmed {} in time", head.number());
            (self.kept.stopped, self.kept.done) = (Some(Stop { reason, by_person: false, unconfirmed: true }), false);
        }
        let members: BTreeSet<&ServerName> = members(record).collect();
        self.members.retain(|name, _| members.contains(name));
        self.kept.validates.retain(|name| members.contains(name));
        self.kept.unconfirmed = confirm_ms.is_some();
        let policy = record.policy.rollout.as_ref();
        // A stop stays, whatever is known of the members by now.
        let gated = policy.is_some() || self.kept.stopped.is_some() || !self.kept.validates.is_empty();
        if !gated && confirm_ms.is_none() {
            self.kept.done = true;
            return Plan::default();
        }
        let standings = self.standings(&members, head.number());
        let own = self.own.as_ref().filter(|(_, revision, _)| policy.is_some() && *revision == head.number());
        if let Some((manager, _, why)) = own {
            self.kept.failed.insert(manager.clone(), why.clone());
        }
        self.slow.retain(|name| standings.get(name).is_some_and(|standing| *standing != Standing::Well));
        let mut plan = Plan { revision: Some(head.id()), gated, released: Released::All, ..Plan::default() };
        if is_urgent(head) {
            (self.kept.done, self.kept.stopped) = (true, None);
            plan.status = self.taken_back(head, &standings);
            return plan;
        }
        let next_ms = match !gated || self.kept.staged || self.kept.done || self.kept.stopped.is_some() {
            true => None,
            false => self.stage(head.number(), (now_ms, record.policy.stage_timeout_ms)),
        };
        let state = match next_ms {
            Some(_) => RolloutState::Staging,
            None => self.state(policy, &standings, now_ms),
        };
        (plan.staging, plan.next_ms) = (next_ms.is_some(), next_ms);
        plan.released = match state {
            RolloutState::Done => Released::All,
            // Members that are due and have not begun with it do not begin any more.
            RolloutState::Staging | RolloutState::Stopped => Released::Nobody,
            RolloutState::Running | RolloutState::Soaking | RolloutState::TakenBack => Released::Only(self.due.clone()),
        };
        if let (RolloutState::Soaking, Some(policy)) = (state, policy) {
            plan.next_ms = self.good_ms.map(|good| good + policy.soak_ms);
        }
        let stop = self.kept.stopped.as_ref();
        let takes_back = self.kept.is_overdue() || policy.is_some_and(|policy| policy.take_back);
        if let Some(left_ms) = confirm_ms.filter(|_| stop.is_none()) {
            let due_ms = now_ms.saturating_add(left_ms);
            plan.next_ms = Some(plan.next_ms.map_or(due_ms, |next| next.min(due_ms)));
        }
        plan.take_back = stop.filter(|stop| takes_back && !stop.by_person).map(|stop| TakeBack {
            revision: head.number(),
            to: self.kept.good,
            reason: stop.reason.clone(),
        });
        // Without waves there is nothing to say once it goes to all.
        if policy.is_some() || confirm_ms.is_some() || state != RolloutState::Done {
            let mut status = self.described(record, head, status(head, state, &standings));
            status.next = stop.map(|stop| next(stop, takes_back, status.untouched).to_owned());
            plan.status = Some(status);
        }
        plan
    }

    /// The status of the members' standings, with what is known of the whole.
    fn described(&self, record: &Record, head: &SignedHeader, standings: RolloutStatus) -> RolloutStatus {
        let (policy, stop) = (&record.policy, self.kept.stopped.as_ref());
        let later = policy.rollout.as_ref().map_or(1, |policy| waves(policy, standings.members).len());
        let waves = self.kept.first.len() + later;
        let within_ms = policy.unconfirmed(head).filter(|_| stop.is_none());
        let slow = self.slow.iter().filter(|_| standings.state == RolloutState::Staging);
        let late: BTreeSet<&ServerName> = standings.late.iter().chain(slow).collect();
        RolloutStatus {
            wave: (self.kept.passed + 1).min(waves),
            waves,
            late: late.into_iter().cloned().collect(),
            later: self.kept.first.iter().cloned().collect(),
            untouched: !self.kept.staged && stop.is_some_and(|stop| !stop.by_person && !stop.unconfirmed),
            confirm_until_ms: within_ms.map(|within_ms| head.header().time_ms.saturating_add(within_ms)),
            reason: stop.map(|stop| stop.reason.clone()),
            ..standings
        }
    }

    /// Begins with another head.
    fn begin(&mut self, head: Number, now_ms: u64) {
        if self.kept.revision == Some(head) {
            return;
        }
        let Kept { revision, good, done, unconfirmed, .. } = self.kept;
        let good = if done && !unconfirmed { revision } else { good };
        let validates = std::mem::take(&mut self.kept.validates);
        self.kept = Kept { validates, revision: Some(head), good, ..Kept::default() };
        self.due.clear();
        (self.good_ms, self.began_ms) = (None, now_ms);
    }

    /// The time that is left to confirm the head, in milliseconds. It began with the publish.
    fn confirm_ms(&self, head: &SignedHeader, within_ms: u64, now: Now) -> u64 {
        let by_wall = head.header().time_ms.saturating_add(within_ms).saturating_sub(now.wall_ms);
        let here = self.began_ms.saturating_add(within_ms).saturating_sub(now.at_ms);
        by_wall.min(here)
    }

    /// The members that validate stage the head. Returns the time of the next look while some are waited for. A refusal stops the
    /// rollout.
    fn stage(&mut self, head: Number, (now_ms, timeout_ms): (u64, u64)) -> Option<u64> {
        let (mut next_ms, mut first) = (None, BTreeSet::new());
        let unheard = Member::default();
        for name in &self.kept.validates {
            match self.members.get(name).unwrap_or(&unheard).staging(head) {
                Staging::Failed(why) if !self.kept.forgiven.contains(name) => {
                    let reason = format!("{name} refuses it: {}", said(&why));
                    self.kept.stopped = Some(Stop { reason, by_person: false, unconfirmed: false });
                    return None;
                }
                Staging::OnTheWay(arriving_ms) if !self.slow.contains(name) => {
                    let until_ms = arriving_ms.max(self.began_ms).saturating_add(timeout_ms);
                    if now_ms < until_ms {
                        next_ms = Some(next_ms.map_or(until_ms, |next: u64| next.min(until_ms)));
                    } else {
                        self.slow.insert(name.clone());
                    }
                }
                Staging::Ready { later: true } => _ = first.insert(name.clone()),
                Staging::Failed(_) | Staging::OnTheWay(_) | Staging::Ready { later: false } | Staging::Late => {}
            }
        }
        if next_ms.is_none() {
            (self.kept.staged, self.kept.first) = (true, first);
        }
        next_ms
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

    fn state(&mut self, policy: Option<&RolloutPolicy>, standings: &Standings, now_ms: u64) -> RolloutState {
        if !self.kept.is_overdue() && standings.values().all(|standing| *standing == Standing::Well) {
            (self.kept.done, self.kept.stopped) = (true, None);
        }
        if self.kept.done {
            return RolloutState::Done;
        }
        let at_once = RolloutPolicy::default();
        let rule = policy.unwrap_or(&at_once);
        if self.kept.stopped.is_none() {
            self.kept.stopped = self.too_many(rule);
        }
        if self.kept.stopped.is_some() {
            return RolloutState::Stopped;
        }
        let alone = self.kept.first.iter().map(|name| (None, vec![name.clone()]));
        let later = waves(rule, standings.len()).into_iter().enumerate();
        let later = later.map(|(number, places)| (Some(number), wave(standings, number, &places)));
        let waves: Vec<(Option<usize>, Vec<ServerName>)> = alone.chain(later).collect();
        for (at, (number, members)) in waves.iter().enumerate() {
            // Without waves, what comes of a revision that goes to all holds up nothing.
            if policy.is_none() && number.is_some() {
                break;
            }
            self.due.extend(members.iter().cloned());
            if at < self.kept.passed {
                continue;
            }
            // A member that validates late has staged it, and need not answer any more.
            if !is_good(standings, number.unwrap_or(1), members) {
                self.good_ms = None;
                return RolloutState::Running;
            }
            let good_ms = *self.good_ms.get_or_insert(now_ms);
            // Nothing comes after the last wave.
            if at + 1 < waves.len() && now_ms < good_ms.saturating_add(rule.soak_ms) {
                return RolloutState::Soaking;
            }
            (self.kept.passed, self.good_ms) = (at + 1, None);
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
        let named: Vec<String> =
            failed.iter().take(NAMED.0).map(|(name, why)| format!("{name}: {}", said(why))).collect();
        let more = failed.len().saturating_sub(NAMED.0);
        let more = if more == 0 { String::new() } else { format!("; and {more} more") };
        let failures = if failed.len() == 1 { "1 server".to_owned() } else { format!("{} servers", failed.len()) };
        Some(Stop {
            reason: format!("{failures} failed: {}{more}", named.join("; ")),
            by_person: false,
            unconfirmed: false,
        })
    }

    /// The state while the head is a revision that was published because a rollout had stopped.
    fn taken_back(&self, head: &SignedHeader, standings: &Standings) -> Option<RolloutStatus> {
        let taken_back = head.header().labels.get(TAKEN_BACK)?.parse().ok()?;
        let reason = Some(head.header().message.clone());
        let status = status(head, RolloutState::TakenBack, standings);
        Some(RolloutStatus { reason, taken_back: Some(taken_back), wave: 1, waves: 1, ..status })
    }

    /// A confirmation of the head begins to be made durable; false: it is too late for one.
    pub fn begin_confirmation(&mut self) -> bool {
        self.confirming = self.kept.stopped.is_none();
        self.confirming
    }

    /// It is durable, or has failed.
    pub fn end_confirmation(&mut self) {
        self.confirming = false;
    }

    /// Stops the rollout, as `by` asks. Returns whether that changes anything.
    ///
    /// # Errors
    /// There is nothing to stop.
    pub fn stop(&mut self, record: &Record, by: &str) -> Result<bool, NotDecided> {
        self.is_under_way(record)?;
        let reason = format!("{by} stopped it");
        let stops = self.kept.stopped.is_none();
        self.kept.stopped.get_or_insert(Stop { reason, by_person: true, unconfirmed: false });
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
            (_, Some(revision)) if self.kept.is_overdue() => Err(NotDecided::Unconfirmed(revision)),
            (_, Some(_)) if !self.kept.done => Ok(()),
            (None, _) | (_, None) => Err(NotDecided::AtOnce),
            (Some(_), Some(revision)) => Err(NotDecided::Over(revision)),
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
        later: Vec::new(),
        untouched: false,
        confirm_until_ms: None,
        late: those(|standing| *standing == Standing::Late).cloned().collect(),
        failed: those(|standing| matches!(standing, Standing::Failed(_))).cloned().collect(),
        until_ms: None,
        reason: None,
        taken_back: None,
        next: None,
    }
}

/// A reason in a line, of limited length.
fn said(why: &str) -> String {
    why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(NAMED.1).collect()
}

/// The next step after a stop.
fn next(stop: &Stop, takes_back: bool, untouched: bool) -> &'static str {
    match (stop.by_person, takes_back) {
        (false, true) => "the manager publishes the content from before",
        (false, false) if untouched => {
            "correct the files at the manager, or: bellwether rollback (to send it to the other members all the same: bellwether \
             rollout continue)"
        }
        (true, _) | (false, false) => "bellwether rollout continue, or: bellwether rollback",
    }
}

#[cfg(test)]
mod tests;
