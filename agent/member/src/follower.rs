//! What a member does, as a machine without I/O: what happens and what the disk answers comes in as [`Input`]s, what is to be
//! done goes out as [`Output`]s, in order. The member's thread does the work of the disk; the simulation of whole farms drives
//! the same machine.

mod interface;
mod proving;

use std::collections::HashSet;

use bellwether_proto::{
    admission::{Authority, admit},
    entry::Chunk,
    hash::Hash,
    key::PublicKey,
    level::Program,
    limits,
    name::ServerName,
    protocol,
    record::OnDrift,
    revision::{Number, RevisionId, SignedHeader},
    status::{Cause, Observation},
    v1::{self, Outcome, down, up},
};
pub use bellwether_store::scan::Look;

pub use self::interface::{
    Arrived, Back, Complaint, Edits, Facts, Input, Output, Owed, Proven, Purpose, Returned, Switched, Trouble,
    Validated, Validation, holds,
};
use self::proving::{Proving, Way};
use super::{
    again::Again,
    drift::{NAMED, held, pace::Pace, waiting::Waiting},
};

/// What is under way.
#[derive(Debug)]
enum Activity {
    Idle,
    /// A pack arrives.
    Receiving(Offered),
    /// All of a pack has come, and goes into the history; the disk's turn.
    Keeping(Offered),
    /// These chunks were asked for by hash; `last`: no more answers come.
    Filling {
        offered: Offered,
        asked: HashSet<Hash>,
        last: bool,
    },
    /// All of it has come; the disk's turn.
    Staging(Offered),
    /// Staged, and commands look at it.
    Validating(Offered),
    /// Staged, and no command refuses it: it waits until the manager says that it is switched to.
    Staged(SignedHeader, Validation),
    /// The disk's turn.
    Switching(SignedHeader),
    /// Switched to, and commands show whether the services work with it. Nothing interrupts that.
    Proving(Box<Proving>),
    /// A command has refused it; the disk's turn.
    Returning(SignedHeader, Complaint),
    /// A sync has begun: what was interrupted is the disk's turn.
    Finishing,
    /// The same, on its way back to the revision that is held.
    Settling(SignedHeader),
}

/// A revision that was offered.
#[derive(Debug, Clone)]
struct Offered {
    header: SignedHeader,
    purpose: Purpose,
    /// It changes the revision that is held, and not one that only the history has.
    next: bool,
}

/// A member.
#[derive(Debug)]
pub struct Follower {
    name: ServerName,
    session: Option<(u64, PublicKey)>,
    work: Activity,
    /// The newest head that was heard of.
    heard: Option<(Number, RevisionId)>,
    drift: v1::Drift,
    /// Kept copies that no manager was told of yet.
    unsaid: Vec<String>,
    /// What has to wait until nothing is under way.
    waiting: Waiting,
    /// What was looked at while commands looked at what is staged: it is looked at again after the switch.
    meanwhile: Waiting,
    /// When edits may be put back without being asked again (policy `revert`).
    pace: Pace,
    /// What waits until something here has passed.
    again: Option<Again>,
    /// The revision that this server went back from: it is not taken again before a sync.
    refused: Option<(RevisionId, Complaint)>,
    /// A sync that waits for the commands of a revision to end.
    sync: bool,
    outputs: Vec<Output>,
}

impl Follower {
    /// The server of that name, which nobody leads yet.
    pub fn new(name: ServerName) -> Self {
        Self {
            name,
            session: None,
            work: Activity::Idle,
            heard: None,
            drift: v1::Drift::default(),
            unsaid: Vec::new(),
            waiting: Waiting::default(),
            meanwhile: Waiting::default(),
            pace: Pace::default(),
            again: None,
            refused: None,
            sync: false,
            outputs: Vec::new(),
        }
    }

    /// The stream that is followed.
    pub fn session(&self) -> Option<u64> {
        self.session.map(|(session, _)| session)
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.work, Activity::Idle)
    }

    /// Whether [`Input::LookForObstacle`] is to come every second.
    pub fn waits(&self) -> bool {
        self.again.is_some()
    }

    /// The edits as they were last told.
    pub fn drift(&self) -> &v1::Drift {
        &self.drift
    }

    /// The newest head that was heard of.
    pub fn heard(&self) -> Option<(Number, RevisionId)> {
        self.heard
    }

    /// The revision whose pack that message brings.
    pub fn packed(&self, message: &down::Message) -> Option<Number> {
        match (message, &self.work) {
            (down::Message::Offer(offer), _) => offer
                .header
                .clone()
                .and_then(|header| SignedHeader::from_wire(header).ok())
                .map(|header| header.number()),
            (
                down::Message::Slice(_) | down::Message::Supply(_),
                Activity::Receiving(offered) | Activity::Filling { offered, .. },
            ) => Some(offered.header.number()),
            _ => None,
        }
    }

    /// Takes what happens, and says what is to be done. Of the outputs at most one has an answer.
    pub fn handle(&mut self, facts: &Facts<'_>, input: Input) -> Vec<Output> {
        match input {
            Input::Opened { session, key, hello } => self.opened(facts, session, key, *hello),
            Input::Said(session, message) if self.session() == Some(session) => self.said(facts, message),
            Input::Closed(session) if self.session() == Some(session) => self.closed(),
            Input::Said(..) | Input::Closed(_) => {}
            Input::Changed(look) => self.waiting.look(look),
            Input::Rescan => self.waiting.rescan(),
            Input::CatchUp => self.catch_up(facts),
            Input::Asked => self.unstage(facts),
            Input::Revert => self.revert(facts),
            Input::LookForObstacle => {
                if self.is_idle() && self.session.is_some() && self.again.as_ref().is_some_and(Again::is_open) {
                    self.outputs.push(Output::LookForObstacle);
                }
            }
            Input::Obstacle(there) => self.obstacle(facts, there),
            Input::Arrived(arrived) => self.arrived(facts, arrived),
            Input::Kept(kept) => self.kept(facts, kept),
            Input::Supplied(came) => self.supplied(facts, came),
            Input::Finished(finished) => self.finished(facts, finished),
            Input::Planned(planned) => {
                if let Activity::Settling(header) = self.end() {
                    match planned {
                        Ok(missing) => {
                            let offered = Offered { header, purpose: Purpose::Switch, next: true };
                            self.await_chunks(offered, &missing);
                        }
                        Err(trouble) => self.refused(facts, &header, trouble),
                    }
                }
            }
            Input::Staged(staged) => self.staged(facts, staged),
            Input::Working(phase) => self.working(phase),
            Input::Validated(validated) => self.validated(facts, validated),
            Input::Switched(switched) => self.switched(facts, switched),
            Input::Unconfirmed(complaint) => self.unconfirmed(facts, complaint),
            Input::Proved(proved) => self.proved(proved),
            Input::Returned(returned) => self.returned(facts, returned),
            Input::Owed(owed) => self.owed(*owed),
            Input::Compared(edits) => self.compared(facts, edits),
            Input::Verified(verified, edits) => self.verified(facts, verified, edits),
            Input::PutBack { kept, edits, owed } => {
                self.observe(facts, edits);
                self.say_drift(kept);
                if let Some(held) = facts.at.filter(|_| owed) {
                    self.prove(held.clone(), Way::Stay);
                }
            }
            Input::Failed(reason) => self.failed(facts.at, reason),
        }
        std::mem::take(&mut self.outputs)
    }

    fn send(&mut self, message: up::Message) {
        self.outputs.push(Output::Send(message));
    }

    fn see(&mut self, observation: Observation) {
        self.outputs.push(Output::See(observation));
    }

    /// What was under way, which is over.
    fn end(&mut self) -> Activity {
        std::mem::replace(&mut self.work, Activity::Idle)
    }

    fn opened(&mut self, facts: &Facts<'_>, session: u64, key: PublicKey, hello: v1::UpHello) {
        self.interrupt();
        // The manager offers anew what was refused.
        self.again.iter_mut().for_each(Again::ask_anew);
        self.session = Some((session, key));
        let (kept, Program { version, levels }) = (std::mem::take(&mut self.unsaid), Program::own());
        let (protocol_min, protocol) = protocol::SPOKEN;
        self.send(up::Message::Hello(v1::UpHello {
            protocol,
            protocol_min,
            server: self.name.to_string(),
            version,
            level_oldest: levels.oldest.0,
            level_newest: levels.newest.0,
            at: proven(facts).map(SignedHeader::to_wire),
            epoch: facts.record.version.epoch.0,
            fault: facts.fault.cloned(),
            drift: Some(v1::Drift { kept, ..self.drift.clone() }),
            ..hello
        }));
    }

    fn closed(&mut self) {
        self.session = None;
        self.interrupt();
    }

    /// What is under way is over, but for commands that show whether a revision works; what has arrived of a pack is kept.
    fn interrupt(&mut self) {
        if !self.is_proving() {
            self.work = Activity::Idle;
            self.outputs.extend([Output::Drop, Output::Show]);
        }
    }

    fn is_proving(&self) -> bool {
        matches!(self.work, Activity::Proving(_) | Activity::Returning(..))
    }

    fn said(&mut self, facts: &Facts<'_>, message: down::Message) {
        match message {
            down::Message::Head(head) => self.head(facts, head),
            down::Message::Offer(offer) => self.offer(facts, offer),
            down::Message::Slice(slice) => {
                if let Activity::Receiving(_) = self.work {
                    self.outputs.push(Output::Slice(slice));
                }
            }
            down::Message::Supply(supply) => self.supply(facts, supply),
            down::Message::Switch(switch) => self.let_go(&switch),
            down::Message::Verify(verify) => self.waiting.verify(verify.full),
            down::Message::Sync(_) if self.is_proving() => self.sync = true,
            down::Message::Sync(_) => {
                self.interrupt();
                self.refused = None;
                self.work = Activity::Finishing;
                self.outputs.push(Output::Finish);
            }
            down::Message::Fence(fence) => self.fenced(facts, fence.reason),
            // The stream's: it answers without waiting for the disk.
            down::Message::Hello(_)
            | down::Message::Record(_)
            | down::Message::Keepalive(_)
            | down::Message::Procedures(_) => {}
        }
    }

    fn head(&mut self, facts: &Facts<'_>, head: v1::SignedHeader) {
        let Ok(head) = SignedHeader::from_wire(head) else { return };
        if self.heard != Some((head.number(), head.id())) && head.signed_by(&facts.record.manager().key) {
            self.hears(head);
        }
    }

    /// The head as its manager signed it.
    fn hears(&mut self, head: SignedHeader) {
        self.heard = Some((head.number(), head.id()));
        self.outputs.extend([Output::Head(head), Output::Show]);
    }

    fn offer(&mut self, facts: &Facts<'_>, offer: v1::Offer) {
        if self.proves(&offer) {
            // A manager that was started again offers it anew: the report of its commands is the answer.
            return;
        }
        if self.is_proving() {
            return self.postpone(facts, &offer);
        }
        self.interrupt();
        if let Some(held) = facts.at.filter(|held| facts.fault.is_none() && !offer.base && is_of(&offer, held)) {
            // Offered before this server said that its commands have ended well.
            let (revision, outcome, root) = (held.id().0.into(), Outcome::Done.into(), held.header().root.into());
            return self.send(up::Message::Report(v1::Report { revision, outcome, root, ..v1::Report::default() }));
        }
        let header = match self.admitted(facts, &offer) {
            Ok(header) => header,
            Err(reason) => {
                tracing::debug!(reason, "an offer is not admitted");
                let header = offer.header.as_ref().map(|header| header.header.as_ref()).unwrap_or_default();
                return self.report_refusal(Hash::of(header).into(), reason, None, String::new());
            }
        };
        let v1::Offer { base, from, to, size, .. } = offer;
        let purpose = Purpose::from_wire(offer.r#use());
        tracing::debug!(base, from, to, size, ?purpose, "an offer is admitted");
        // An offer may come before the word of the head that it makes.
        if self.heard.is_none_or(|(newest, _)| newest < header.number()) {
            self.hears(header.clone());
        }
        if purpose != Purpose::Keep {
            self.see(Observation::Started { sync: base, to: header.number() });
        }
        let forked = facts.at.map(SignedHeader::number).filter(|_| base && offer.forked);
        let next = base || facts.at.is_some_and(|at| header.header().parent == Some(at.id()));
        let plan = next && purpose != Purpose::Keep;
        self.work = Activity::Receiving(Offered { header: header.clone(), purpose, next });
        self.outputs.push(Output::Receive { offer, header, forked, plan });
    }

    fn admitted(&self, facts: &Facts<'_>, offer: &v1::Offer) -> Result<SignedHeader, String> {
        let wire = offer.header.clone().ok_or("an offer without a header")?;
        let header = SignedHeader::from_wire(wire).map_err(|e| e.to_string())?;
        if let Some(fault) = facts.fault {
            return Err(format!("in error: {}", fault.reason));
        }
        if self.drift.held {
            return Err(held(self.drift.entries as usize, self.drift.paths.first().map_or("", String::as_str)));
        }
        if !self.drift.away.is_empty() {
            return Err(format!("{}; nothing was changed", self.drift.away));
        }
        if let Some(why) = (facts.quarantined)(header.number()) {
            return Err(why);
        }
        // A confirmation is a reason to try again.
        let confirmed = facts.record.policy.confirmed == Some(header.id());
        let refused = self.refused.as_ref().filter(|(refused, _)| *refused == header.id() && !confirmed);
        if let Some((_, complaint)) = refused {
            return Err(complaint.reason.clone());
        }
        let manager = facts.record.manager();
        if self.session.is_none_or(|(_, key)| key != manager.key) {
            return Err(format!("offered by a server that is not the manager any more; that is {}", manager.name));
        }
        let (group, epoch) = (facts.record.group, facts.record.version.epoch);
        let manager = (facts.manager_of)(header.number().epoch);
        let before = header.header().parent.and_then(|parent| (facts.kept)(parent));
        admit(&Authority { group, epoch, manager }, facts.at, before.as_ref(), &header, offer.base)?;
        Ok(header)
    }

    /// Goes on with what has arrived: switches, asks for more, or waits.
    fn arrived(&mut self, facts: &Facts<'_>, arrived: Result<Arrived, Trouble>) {
        let Activity::Receiving(offered) = self.end() else { return };
        match arrived {
            Err(trouble) => self.refused(facts, &offered.header, trouble),
            Ok(Arrived::More) => self.work = Activity::Receiving(offered),
            Ok(Arrived::Whole) if offered.purpose == Purpose::Keep || !offered.next => {
                let stage = offered.purpose != Purpose::Keep;
                self.work = Activity::Keeping(offered);
                self.outputs.push(Output::Keep { stage });
            }
            Ok(Arrived::Whole) => self.stage(offered),
            Ok(Arrived::Paused { missing, in_pack, .. }) if few(&missing, in_pack) => {
                tracing::debug!(chunks = missing.len(), "little is missing: these chunks are asked for");
                self.outputs.push(Output::Fill);
                self.await_chunks(offered, &missing);
            }
            Ok(Arrived::Paused { missing, rest, .. }) => {
                tracing::debug!(chunks = missing.len(), "much is missing: the rest of the pack is asked for");
                self.work = Activity::Receiving(offered);
                self.outputs.push(Output::Rest);
                self.send(up::Message::Want(v1::Want { want: Some(v1::want::Want::Range(rest)) }));
            }
        }
    }

    /// The pack is in the history. If its revision is to be held, it is staged from there; these chunks are not there.
    fn kept(&mut self, facts: &Facts<'_>, kept: Result<Vec<Chunk>, Trouble>) {
        let Activity::Keeping(offered) = self.end() else { return };
        match (kept, offered.purpose) {
            (Err(trouble), _) => self.refused(facts, &offered.header, trouble),
            (Ok(_), Purpose::Keep) => {
                self.send(up::Message::Kept(v1::Kept { revision: offered.header.id().0.into() }));
            }
            (Ok(missing), Purpose::Switch | Purpose::Stage) => self.await_chunks(offered, &missing),
        }
    }

    fn await_chunks(&mut self, offered: Offered, missing: &[Chunk]) {
        if missing.is_empty() {
            return self.stage(offered);
        }
        let asked = missing.iter().map(|chunk| chunk.hash).collect();
        let hashes = missing.iter().map(|chunk| chunk.hash.into()).collect();
        self.work = Activity::Filling { offered, asked, last: false };
        self.send(up::Message::Want(v1::Want { want: Some(v1::want::Want::Chunks(v1::Hashes { hashes })) }));
    }

    fn supply(&mut self, facts: &Facts<'_>, supply: v1::Supply) {
        let Activity::Filling { asked, last, .. } = &mut self.work else { return };
        let told = supply.missing.iter().map(|hash| Hash::try_from(hash.as_ref()).map_err(|e| e.to_string()));
        let nothing = !supply.last && supply.frames.is_empty() && supply.missing.is_empty();
        *last = supply.last;
        let told = match nothing {
            true => Err("it brings nothing, and is not the last".into()),
            false => told.collect::<Result<Vec<_>, _>>().and_then(|told| came(asked, &told)),
        };
        match told {
            Ok(()) => self.outputs.push(Output::Supply(supply)),
            Err(what) => self.unasked(facts, &what),
        }
    }

    fn supplied(&mut self, facts: &Facts<'_>, supplied: Result<Vec<Hash>, Trouble>) {
        let Activity::Filling { offered, mut asked, last } = self.end() else { return };
        match supplied.map(|hashes| came(&mut asked, &hashes)) {
            Err(trouble) => self.refused(facts, &offered.header, trouble),
            Ok(Ok(())) if last => self.stage(offered),
            Ok(Ok(())) => self.work = Activity::Filling { offered, asked, last },
            Ok(Err(what)) => {
                self.work = Activity::Filling { offered, asked, last };
                self.unasked(facts, &what);
            }
        }
    }

    fn unasked(&mut self, facts: &Facts<'_>, what: &str) {
        let Activity::Filling { offered, .. } = self.end() else { return };
        self.outputs.push(Output::Drop);
        let reason = format!("the chunks are not what was asked for: {what}");
        self.refused(facts, &offered.header, Trouble { reason, cause: None, look: None, output: String::new() });
    }

    fn stage(&mut self, offered: Offered) {
        // The revision after a staged one may come in its place, and is packed as its changes.
        let keep = offered.purpose == Purpose::Stage;
        self.work = Activity::Staging(offered);
        self.outputs.push(Output::Stage { keep });
    }

    /// The manager says that the staged revision is switched to. If it is not staged any more, that was reported.
    fn let_go(&mut self, switch: &v1::Switch) {
        match self.end() {
            Activity::Staged(header, validation) if switch.revision.as_ref() == header.id().0.as_bytes() => {
                self.see(Observation::Started { sync: false, to: header.number() });
                self.switch(header, validation);
            }
            other => self.work = other,
        }
    }

    /// The sets are needed for something else: what is staged is dropped, and asked for again.
    fn unstage(&mut self, facts: &Facts<'_>) {
        match self.end() {
            Activity::Staged(header, _) => {
                self.outputs.push(Output::Drop);
                let reason = "the sets were needed for something else after the revision was staged".to_owned();
                let cause = Some(Cause::Busy);
                self.refused(facts, &header, Trouble { reason, cause, look: None, output: String::new() });
            }
            other => self.work = other,
        }
    }

    fn switch(&mut self, header: SignedHeader, validation: Validation) {
        self.work = Activity::Switching(header);
        self.outputs.push(Output::Switch(validation));
    }

    fn switched(&mut self, facts: &Facts<'_>, switched: Switched) {
        let Activity::Switching(header) = self.end() else { return };
        let (root, stage_us, switch_us, kept, edits, owed) = match switched {
            Switched::Refused(trouble) => return self.refused(facts, &header, trouble),
            Switched::Failed(reason) => return self.failed(Some(&header), reason),
            Switched::Done { root, stage_us, switch_us, kept, edits, owed } => {
                (root, stage_us, switch_us, kept, edits, owed)
            }
        };
        self.again = None;
        if let Some((look, _)) = self.meanwhile.take_look() {
            self.waiting.look(look);
        }
        let drifted_before = self.drift.entries > 0;
        self.observe(facts, edits);
        if drifted_before || self.drift.entries > 0 {
            // Before the report: at no moment is a server shown in sync that holds edits of its own (invariant 5).
            self.see_drift(Vec::new());
            self.send(up::Message::Drift(self.drift.clone()));
        }
        let (revision, outcome, root) = (header.id().0.into(), Outcome::Done.into(), root.into());
        let report = v1::Report { revision, outcome, root, stage_us, switch_us, kept, ..v1::Report::default() };
        self.outputs.push(Output::Show);
        if owed { self.prove(header, Way::Forward(report)) } else { self.done(header, report) }
    }

    fn done(&mut self, header: SignedHeader, report: v1::Report) {
        let (micros, kept) = (report.stage_us + report.switch_us, report.kept.clone());
        self.see(Observation::Done { revision: header.number(), micros, kept });
        self.send(up::Message::Report(report));
        self.outputs.push(Output::Tidy(header));
    }

    /// A sync: the sets are brought to the revision that is held, whatever was edited, and an error is cleared (W8). Newer
    /// revisions follow as offers.
    fn finished(&mut self, facts: &Facts<'_>, finished: Result<(), String>) {
        let Activity::Finishing = self.end() else { return };
        match (finished, facts.at) {
            (Err(reason), Some(header)) => self.failed(Some(header), reason),
            (Err(reason), None) => self.outputs.push(Output::Fault(Some(reason))),
            (Ok(()), None) => self.outputs.push(Output::Fault(None)),
            (Ok(()), Some(header)) => {
                let bytes = facts.fault.is_some();
                tracing::debug!(every_byte = bytes, "a sync: the sets are brought to the revision held");
                self.see(Observation::Started { sync: true, to: header.number() });
                self.work = Activity::Settling(header.clone());
                self.outputs.push(Output::Back { header: header.clone(), bytes });
            }
        }
    }

    /// This server's state went back, says the manager (W14): it holds no revision that is known, and takes nothing until a
    /// sync. Its sets stay as they are.
    fn fenced(&mut self, facts: &Facts<'_>, reason: String) {
        // It goes before commands that are running, too.
        self.work = Activity::Idle;
        self.outputs.extend([Output::Drop, Output::Show]);
        tracing::error!(reason, "kept out until a sync");
        self.outputs.push(Output::Fence(reason.clone()));
        // There are no edits where nothing is held: they would refuse that sync.
        self.compared(&Facts { at: None, ..*facts }, Edits { away: self.drift.away.clone(), ..Edits::default() });
        self.see(Observation::Failed(reason));
    }

    /// Refused before the switch: the sets and the position are as they were. The history may have the pack already: it is
    /// kept beside staging, and says nothing of what is held.
    fn refused(&mut self, facts: &Facts<'_>, header: &SignedHeader, trouble: Trouble) {
        let Trouble { reason, cause, look, output } = trouble;
        tracing::warn!(reason, ?cause, "refused; the sets are as they were");
        // What is not as it was known is told at once.
        look.into_iter().for_each(|look| self.waiting.look(look));
        let before = self.again.take();
        self.again = cause.map(|_| Again::new((header.id(), header.number()), before.as_ref(), facts.now));
        let revision = header.number();
        self.see(Observation::Refused { revision, reason: reason.clone(), cause, output: output.clone() });
        self.report_refusal(header.id().0.into(), reason, cause, output);
    }

    fn report_refusal(&mut self, revision: bytes::Bytes, reason: String, cause: Option<Cause>, output: String) {
        self.outputs.push(Output::Show);
        let outcome = Outcome::Refused.into();
        let cause = cause.map_or(v1::Cause::Unspecified, v1::Cause::from).into();
        self.send(up::Message::Report(v1::Report {
            revision,
            outcome,
            reason,
            cause,
            output,
            ..v1::Report::default()
        }));
    }

    fn failed(&mut self, header: Option<&SignedHeader>, reason: String) {
        tracing::error!(reason, "the switch failed; no updates until a sync");
        self.outputs.push(Output::Fault(Some(reason.clone())));
        self.see(Observation::Failed(reason.clone()));
        let (revision, outcome) =
            (header.map(|header| header.id().0.into()).unwrap_or_default(), Outcome::Failed.into());
        self.send(up::Message::Report(v1::Report { revision, outcome, reason, ..v1::Report::default() }));
    }

    fn obstacle(&mut self, facts: &Facts<'_>, there: Option<bool>) {
        let Some(revision) = self.again.as_mut().and_then(|again| again.asks(there, facts.now)) else { return };
        self.send(up::Message::Again(v1::Again { revision: revision.0.into() }));
    }

    /// Does what had to wait until nothing was under way.
    fn catch_up(&mut self, facts: &Facts<'_>) {
        if self.waiting.wants_verify() {
            self.unstage(facts);
        }
        // The sets are looked at while commands run, too, and while a staged revision waits.
        let looks = match &self.work {
            Activity::Idle | Activity::Proving(_) | Activity::Validating(_) | Activity::Staged(..) => true,
            Activity::Receiving(_)
            | Activity::Keeping(_)
            | Activity::Filling { .. }
            | Activity::Staging(_)
            | Activity::Switching(_)
            | Activity::Returning(..)
            | Activity::Finishing
            | Activity::Settling(_) => false,
        };
        if !looks {
            return;
        }
        if let Some(full) = self.is_idle().then(|| self.waiting.take_verify()).flatten() {
            self.outputs.push(Output::Verify { full });
        } else if let Some((look, plain)) = self.waiting.take_look() {
            if let Activity::Validating(_) | Activity::Staged(..) = self.work {
                // What is staged was planned before: the switch knows nothing of what is seen now.
                self.meanwhile.look(look.clone());
            }
            self.outputs.push(Output::Look { look, plain });
        }
    }

    fn revert(&mut self, facts: &Facts<'_>) {
        let free = matches!(self.work, Activity::Idle | Activity::Staged(..));
        let wanted = free && self.drift.entries > 0 && facts.record.policy.drift == OnDrift::Revert;
        if wanted && facts.fault.is_none() && self.pace.may(facts.now) {
            self.unstage(facts);
            self.outputs.push(Output::PutBack);
        }
    }

    /// Tells of the drift when it is another one than before.
    fn compared(&mut self, facts: &Facts<'_>, edits: Edits) {
        let before = self.observe(facts, edits);
        if before != (v1::Drift { time_ms: before.time_ms, ..self.drift.clone() }) {
            self.say_drift(Vec::new());
        }
    }

    fn verified(&mut self, facts: &Facts<'_>, verified: v1::Verified, edits: Edits) {
        self.observe(facts, edits);
        self.say_drift(Vec::new());
        self.send(up::Message::Verified(verified));
    }

    /// Notes the edits; returns what was known before.
    fn observe(&mut self, facts: &Facts<'_>, edits: Edits) -> v1::Drift {
        let Edits { entries, paths, ungiven, away } = edits;
        let mut drift = v1::Drift { time_ms: facts.now_ms, away, ..v1::Drift::default() };
        if facts.at.is_some() {
            (drift.entries, drift.paths, drift.held) = (entries, paths, holds(facts.record, facts.at) && ungiven);
        }
        std::mem::replace(&mut self.drift, drift)
    }

    /// Tells of the drift, and of the kept copies of edits that were put back just now.
    fn say_drift(&mut self, kept: Vec<String>) {
        self.see_drift(kept.clone());
        if self.session.is_some() {
            self.send(up::Message::Drift(v1::Drift { kept, ..self.drift.clone() }));
        } else {
            // Said with the next hello; `drift show` names all of them.
            self.unsaid.extend(kept);
            self.unsaid.truncate(NAMED);
        }
    }

    fn see_drift(&mut self, kept: Vec<String>) {
        let v1::Drift { entries, paths, held, away, .. } = self.drift.clone();
        self.see(Observation::Drift { entries, paths, held, kept });
        self.see(Observation::Away(Some(away).filter(|why| !why.is_empty())));
    }
}

/// Whether that revision is offered.
fn is_of(offer: &v1::Offer, header: &SignedHeader) -> bool {
    offer.header.as_ref().is_some_and(|offered| Hash::of(&offered.header) == header.id().0)
}

/// The revision that this server says to hold: until its commands have ended well, the one before.
fn proven<'a>(facts: &Facts<'a>) -> Option<&'a SignedHeader> {
    match facts.proven {
        Proven::Yes => facts.at,
        Proven::NotYet(before) => before,
    }
}

/// Whether asking for single chunks is worth it: they are less than half of what the pack would bring.
fn few(missing: &[Chunk], in_pack: u64) -> bool {
    let bytes: u64 = missing.iter().map(|chunk| u64::from(chunk.length)).sum();
    bytes * 2 < in_pack && missing.len() <= limits::WANT
}

/// Whatever is told of a chunk is told once, of one that was asked for: an answer cannot be endless.
fn came(asked: &mut HashSet<Hash>, told: &[Hash]) -> Result<(), String> {
    match told.iter().find(|hash| !asked.remove(hash)) {
        None => Ok(()),
        Some(hash) => Err(format!("chunk {} was not asked for, or came before", hash.short())),
    }
}

#[cfg(test)]
mod tests;
