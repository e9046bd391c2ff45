//! The role moves: the manager hands it over (W18), or a candidate takes it (W24).

use std::collections::BTreeMap;

use bellwether_group::{
    edits::By,
    procedure::{self, ActError, Id, Kind},
    roles::Leave,
    takeover::{self, Account, Answer, Findings, Insists, Refused, Silence},
};
use bellwether_proto::{
    key::PublicKey,
    limits,
    name::ServerName,
    record::{self, SignedRecord, Version, chain},
    revision::{Epoch, SignedHeader},
    v1,
};

use super::{Purpose, Server, Standing, host, lanes::Lane};
use crate::{changes::Changes, disk::Held, net, packet::Body, world::Notice};

/// The time limits of a handover, which waits for the new manager, and of a takeover, which waits for the others' answers.
const HAND_MS: u64 = 800;
const SURVEY_MS: u64 = 250;
/// The time limits of the last question before a promotion, and of the wait for another server that promotes itself, too.
const LOOK_MS: u64 = 150;
const GIVE_WAY_MS: u64 = 1_500;
/// A manager that was heard within this time counts as answering.
const ANSWERS_MS: u64 = 300;

/// A handover that waits until the new manager has everything.
pub(super) struct Handing {
    to: ServerName,
    leave: Leave,
    until_ms: u64,
}

/// The action after the others have answered.
#[derive(Clone)]
pub(super) enum Then {
    /// Rebuilds the group on this server, without these keys.
    Rebuild(Vec<PublicKey>),
    /// Takes over.
    Lead(Leave),
    /// Takes over as a step of that procedure.
    Promote(Id, Leave),
    /// Plans the recovery of the manager.
    Recover { remove: bool },
}

/// An action that waits for the answers of the others.
pub(super) struct Takeover {
    then: Then,
    insists: Insists,
    until_ms: u64,
    answers: BTreeMap<ServerName, Answer>,
    /// The record by which this server may take over, once that was judged; the last question to the others is under way, with
    /// this time limit.
    judged: Option<(SignedRecord, BTreeMap<ServerName, Answer>, u64)>,
}

impl Server {
    pub(super) fn by(&self) -> By {
        By { author: self.name.to_string(), time_ms: self.now() }
    }

    /// Begins a handover; from now on this server accepts no change.
    pub(super) async fn begin_handover(&mut self, to: ServerName, leave: Leave) {
        if self.leads() && self.handing.is_none() {
            self.publish().await;
            self.handing = Some(Handing { to, leave, until_ms: self.now() + HAND_MS });
        }
    }

    pub(super) async fn hand_over_when_ready(&mut self) {
        let Some(Handing { to, leave, until_ms }) = &self.handing else { return };
        let (to, leave, late) = (to.clone(), *leave, self.now() > *until_ms);
        let head = self.head();
        let ready = self
            .lanes
            .get(&to)
            .and_then(Lane::session)
            .is_some_and(|member| member.at().is_some() && member.at() == head.as_ref());
        if ready {
            let held = self.record().expect("it leads");
            if let Ok(Some(next)) = (self.rules.hand_over)(&held, &to, leave, &self.by()) {
                self.put_in_force(next).await;
            }
        }
        if ready || late {
            self.handing = None;
            self.publish().await;
        }
    }

    /// Asks all other servers first.
    pub(super) fn begin_takeover(&mut self, force: bool) {
        if self.record().is_none() {
            return;
        }
        let halted = self.drive.read(|disk| disk.halted.is_some());
        if self.taking.is_some() || halted || (self.standing() == Some(Standing::Manager) && !force) {
            return;
        }
        self.survey(Then::Lead(Leave::Disabled), Insists { force, accept: force });
    }

    /// Asks all other servers, and after that plans `recover manager`.
    pub(super) fn begin_recovery(&mut self, remove: bool, insists: Insists) {
        if self.taking.is_none() && self.standing() == Some(Standing::Member) {
            self.survey(Then::Recover { remove }, insists);
        }
    }

    /// Asks all others for the revisions that they have seen, before this server takes over or rebuilds the group.
    pub(super) fn survey(&mut self, then: Then, insists: Insists) {
        self.ask_all();
        let until_ms = self.now() + SURVEY_MS;
        self.taking = Some(Takeover { then, insists, until_ms, answers: BTreeMap::new(), judged: None });
    }

    fn ask_all(&mut self) {
        let record = self.record().expect("of a group");
        let own = self.name.clone();
        for server in record.record().servers.iter().filter(|server| server.name != own) {
            // A server that answers may know of a takeover that this server has not heard of.
            self.dial(host(&server.address), Purpose::Ask);
            self.dial(host(&server.address), Purpose::Survey);
        }
    }

    /// Whether this server is about to make itself the manager.
    fn promotes(&self) -> bool {
        self.taking.as_ref().is_some_and(|taking| matches!(taking.then, Then::Lead(_) | Then::Promote(..)))
    }

    /// Asks the others once more before the promotion counts. Returns the takeover if this server goes on.
    fn looks_again(&mut self, held: &Held, mut taking: Takeover) -> Option<Takeover> {
        let now = self.now();
        let Some((record, found, give_up_ms)) = taking.judged.take() else {
            // A refusal is reported when the takeover is executed.
            if self.judge(held, &taking, |_, _| ()).is_err() {
                return Some(taking);
            }
            let found = std::mem::take(&mut taking.answers);
            taking.judged = Some((held.current.clone(), found, now + GIVE_WAY_MS));
            taking.until_ms = now + LOOK_MS;
            self.ask_all();
            self.taking = Some(taking);
            return None;
        };
        let looked = taking.answers.into_iter().map(|(name, answer)| (name, Ok(answer))).collect();
        taking.answers = BTreeMap::new();
        let turn = takeover::Turn::of(&self.name, &looked);
        if record != held.current || matches!(turn, takeover::Turn::GivesWay(_)) {
            self.world.borrow_mut().met.gave_way += 1;
            self.world.borrow_mut().tell(self.machine, || format!("gives way: {turn:?}"));
            return None;
        }
        match turn {
            takeover::Turn::Waits(_) if now > give_up_ms => None,
            takeover::Turn::Waits(_) => {
                taking.judged = Some((record, found, give_up_ms));
                taking.until_ms = now + LOOK_MS;
                self.ask_all();
                self.taking = Some(taking);
                None
            }
            takeover::Turn::Mine | takeover::Turn::GivesWay(_) => {
                taking.answers = found;
                Some(taking)
            }
        }
    }

    pub(super) fn surveyed(&mut self, number: net::Number) {
        let Some(record) = self.record() else { return };
        let Version { epoch, version } = record.record().version;
        if self.drive.read(|disk| disk.halted.is_some()) {
            let reply = v1::SurveyReply { epoch: epoch.0, version, promotes: self.promotes(), ..Default::default() };
            return self.send(number, Body::Seen(reply));
        }
        let world = self.world.borrow();
        let seen = self.heard_of().iter().rev().take(limits::SEEN).rev().map(SignedHeader::to_wire).collect();
        let leads = self.standing() == Some(Standing::Manager);
        let at = if leads { self.head() } else { self.drive.read(|disk| disk.at.clone()) };
        let at = at.map(|at| at.to_wire());
        drop(world);
        let follows = self.now().saturating_sub(self.heard_ms) < ANSWERS_MS;
        let promotes = self.promotes();
        self.send(number, Body::Seen(v1::SurveyReply { epoch: epoch.0, version, at, seen, follows, leads, promotes }));
    }

    pub(super) async fn seen_by(&mut self, number: net::Number, reply: v1::SurveyReply, from: PublicKey) {
        self.closed(number);
        let Some(held) = self.drive.read(|disk| disk.held.clone()) else { return };
        let record = held.current.record();
        let header = |wire| SignedHeader::from_wire(wire).ok();
        let seen: Vec<SignedHeader> = reply.seen.into_iter().filter_map(header).collect();
        let at = reply.at.and_then(header);
        if self.leads_from_ms != 0 && self.taking.is_none() {
            let claims: Vec<SignedHeader> = seen.into_iter().chain(at).collect();
            return self.claims(&from, &claims).await;
        }
        if self.taking.is_none() && self.drive.read(|disk| disk.halted.is_some()) {
            let seen: Vec<SignedHeader> = seen.into_iter().chain(at).collect();
            return self.lacks(&seen);
        }
        let (Some(taking), Some(server)) = (&mut self.taking, record.by_key(&from)) else { return };
        let version = Version { epoch: Epoch(reply.epoch), version: reply.version };
        let v1::SurveyReply { follows, leads, promotes, .. } = reply;
        taking.answers.insert(server.name.clone(), Answer { record: version, at, seen, follows, leads, promotes });
    }

    /// Executes the action when all answers have come, or at the time limit.
    pub(super) async fn go_on_taking(&mut self) {
        let now = self.now();
        let Some(taking) = self.taking.take_if(|taking| now > taking.until_ms) else { return };
        let Some(held) = self.drive.read(|disk| disk.held.clone()) else { return };
        match taking.then.clone() {
            Then::Rebuild(refused) => self.rebuild_group(taking.answers, &refused).await,
            Then::Lead(leave) => {
                if let Some(taking) = self.looks_again(&held, taking) {
                    let _ = self.take_over(&held, &taking, leave).await;
                }
            }
            Then::Promote(id, leave) => {
                let Some(taking) = self.looks_again(&held, taking) else {
                    if self.taking.is_none() {
                        let why = "another server makes itself the manager".to_owned();
                        self.acted(id, Err(ActError::Refused(why)), held.current.record().version.epoch).await;
                    }
                    return;
                };
                let done = self.take_over(&held, &taking, leave).await;
                self.world.borrow_mut().met.promoted += u64::from(done.is_ok());
                self.acted(id, done, held.current.record().version.epoch).await;
            }
            Then::Recover { remove } => self.plan_recovery(&held, &taking, remove).await,
        }
    }

    /// Judges the answers by the agent's rule, signs the record, and leads.
    async fn take_over(&mut self, held: &Held, taking: &Takeover, leave: Leave) -> Result<(), ActError> {
        if self.standing() == Some(Standing::Manager) && !taking.insists.force {
            return Ok(());
        }
        let found = self.judge(held, taking, |_, found| found).map_err(|why| {
            self.world.borrow_mut().tell(self.machine, || format!("does not take over: {why}"));
            ActError::Refused(why.to_string())
        })?;
        if !taking.insists.force && taking.answers.contains_key(&held.current.record().manager().name) {
            let name = self.name.clone();
            self.world.borrow_mut().breaks(format!("W24: {name} takes over, unforced, from a manager that answers"));
        }
        let next = (self.rules.take_over)(&held.current, &self.key.public(), leave, Epoch(found.epoch), &self.by());
        let next = next.map_err(|why| ActError::Refused(why.to_string()))?;
        self.list(&taking.answers, &found.lost);
        self.put_in_force(next).await;
        Ok(())
    }

    /// Plans a recovery by comparing the members' content with this server's, or refuses it if this server may not take over.
    async fn plan_recovery(&mut self, held: &Held, taking: &Takeover, remove: bool) {
        if self.standing() == Some(Standing::Manager) {
            return;
        }
        match self.judge(held, taking, procedure::Survey::of) {
            Ok(survey) => {
                let (lost, new) = (held.current.record().manager().name.clone(), self.name.clone());
                self.begin(Kind::RecoverManager { lost, new, remove, insists: taking.insists }, survey).await;
            }
            Err(why) => self.world.borrow_mut().tell(self.machine, || format!("does not recover: {why}")),
        }
    }

    fn judge<T>(
        &self,
        held: &Held,
        taking: &Takeover,
        with: impl FnOnce(&takeover::Survey<'_>, Findings) -> T,
    ) -> Result<T, Refused> {
        let leads = self.standing() == Some(Standing::Manager);
        let (at, fault, edits) = self.drive.read(|disk| {
            let unconfirmed = disk.unconfirmed.as_ref().map(|_| "its revision is not confirmed".to_owned());
            (disk.at.clone(), disk.fault.clone().or(unconfirmed), disk.sets.edits.count())
        });
        let at = if leads { self.head() } else { at };
        let account = Account { at, fault, drift: (u64::from(edits), Vec::new()) };
        let seen = self.heard_of();
        let record = held.current.record();
        let silence = || Silence { there: false, why: "no answer".to_owned() };
        let answer = |server: &record::Server| {
            (server.name.clone(), taking.answers.get(&server.name).cloned().ok_or_else(silence))
        };
        let others = record.servers.iter().filter(|server| server.name != self.name).map(answer).collect();
        let led_by = |epoch| chain::manager_of(&held.chain, &held.current, epoch);
        let survey = takeover::Survey {
            led_by: &led_by,
            record,
            own: &self.name,
            account: &account,
            seen: &seen,
            others: &others,
        };
        let found = (self.rules.judge)(&survey, taking.insists)?;
        Ok(with(&survey, found))
    }

    /// The revisions that this server has heard of, and those in its history.
    pub(super) fn heard_of(&self) -> Vec<SignedHeader> {
        let world = self.world.borrow();
        let ids = world.disks[self.machine].history.iter().chain(&self.seen);
        let mut headers: Vec<SignedHeader> = ids.filter_map(|id| world.header(*id)).collect();
        headers.sort_by_key(|header| (header.number(), header.id()));
        headers.dedup();
        headers
    }

    /// Shows the changes of the lost revisions that this server does not have.
    pub(super) fn list(&self, answers: &BTreeMap<ServerName, Answer>, lost: &[String]) {
        let own = self.heard_of();
        let theirs = answers.values().flat_map(|answer| answer.seen.iter().chain(&answer.at));
        let (revision, edits) = self.in_sets();
        let world = self.world.clone();
        let named = |header: &&SignedHeader| {
            let number = format!("{} ", header.number());
            lost.iter().any(|line| line.starts_with(&number))
        };
        let listed = own
            .iter()
            .chain(theirs)
            .filter(named)
            .fold(Changes::default(), |sum, header| sum.and(world.borrow().content(Some(header.id()))));
        let listed = listed.without(world.borrow().content(revision).and(edits));
        if !listed.is_empty() {
            world.borrow_mut().notice(self.machine, Notice::Lost(listed));
        }
    }
}
