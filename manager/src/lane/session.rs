//! One connection of a lane, from the member's hello to its end, as a machine without I/O. Events come in as
//! [`Input`]s, actions go out as [`Output`]s, and messages as [`Outgoing`]s. `stream` carries the bytes for it; the
//! simulation drives the same machine. `heard` handles the member's messages.

mod heard;
mod interface;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_group::rollout::{self, Target};
use bellwether_proto::{
    hash::Hash,
    level::Level,
    record::Version,
    revision::{Epoch, RevisionId, SignedHeader},
    status::Observation,
    v1,
};
use bellwether_store::history::Stored;
use tracing::Span;

use self::heard::REASON;
pub use self::interface::{Ends, Facts, Input, Look, Now, Output};
use super::{
    Control, Deadlines, End, Memory, cut,
    outbox::{Outbox, Outgoing},
    program,
    rate_limit::RateLimit,
    stall::StallWatch,
    view::{InFlight, Phase},
};
use crate::lane::plan::{Ability, Edits, Member, Newcomer, Sending, Standing, Step, Wait, Ways, plan, soon};

/// How long a newcomer waits for a base of the target.
const NEWCOMER: Duration = Duration::from_secs(3);

impl Look {
    /// The next step.
    pub fn plan(&self, ways: &impl Ways) -> Step {
        plan(&self.member, &self.target, self.newcomer, ways)
    }
}

enum Activity {
    Idle,
    /// The history is asked for the next step.
    Planning,
    /// The history is asked for the revision of this report.
    Finding(Box<v1::Report>),
    /// The member takes a revision.
    Taking(Box<Current>),
}

/// A revision that the member takes.
struct Current {
    header: SignedHeader,
    way: Way,
    started: Instant,
    /// The span of its log lines.
    span: Span,
}

enum Way {
    /// It restores its sets to the revision that it holds.
    Settle,
    /// Into its history, as a step to a later revision.
    Keep(Arc<Stored>),
    /// It has staged it.
    Staged,
    /// As one change.
    Update(Arc<Stored>),
    /// On its way from any state to the target.
    Sync(Arc<Stored>),
    /// It was offered over an earlier connection.
    Earlier,
}

impl Current {
    fn new(header: SignedHeader, way: Way, started: Instant) -> Self {
        let span = tracing::error_span!("revision", revision = %header.number());
        Self { header, way, started, span }
    }

    fn pack(&self) -> Option<&Arc<Stored>> {
        match &self.way {
            Way::Update(pack) | Way::Sync(pack) | Way::Keep(pack) => Some(pack),
            Way::Settle | Way::Staged | Way::Earlier => None,
        }
    }

    fn is_sync(&self) -> bool {
        match self.way {
            Way::Settle | Way::Sync(_) | Way::Keep(_) => true,
            Way::Update(_) | Way::Staged | Way::Earlier => false,
        }
    }
}

#[derive(Clone, Copy)]
enum Run {
    /// By single changes.
    Updates,
    /// By a sync.
    Sync { since: Instant },
}

/// Whether the publisher was asked for a base.
#[derive(Clone, Copy)]
enum Base {
    Unasked,
    /// The time of the first request, and the target of the last.
    Asked {
        target: RevisionId,
        since: Instant,
    },
}

/// Something the member was told. Messages are taken in order, so the answer to the next keepalive confirms it.
#[derive(Clone, Copy)]
enum Told<T> {
    Nothing,
    Sent { beat: u64, what: T },
    Taken(T),
}

impl<T: Copy + PartialEq> Told<T> {
    fn is(&self, new: T) -> bool {
        match self {
            Self::Nothing => false,
            Self::Sent { what, .. } | Self::Taken(what) => *what == new,
        }
    }

    /// The value that the answer to keepalive `answer`, not later than `newest`, confirms.
    fn answered(&mut self, answer: u64, newest: u64) -> Option<T> {
        match *self {
            Self::Sent { beat, what } if (beat..=newest).contains(&answer) => {
                *self = Self::Taken(what);
                Some(what)
            }
            Self::Nothing | Self::Sent { .. } | Self::Taken(_) => None,
        }
    }
}

/// A connection to a member that has said hello.
pub struct Session {
    ends: Ends,
    facts: Facts,
    memory: Memory,
    /// The revision that the member holds.
    at: Option<SignedHeader>,
    /// The newest revision in its history that follows it.
    ahead: Option<RevisionId>,
    /// The revision that it has staged and validated.
    staged: Option<SignedHeader>,
    ability: Ability,
    /// An interrupted pack, and the number of its bytes that the member keeps.
    partial: Option<(Hash, u64)>,
    edits: Edits,
    outbox: Outbox,
    outputs: Vec<Output>,
    work: Activity,
    run: Run,
    base: Base,
    record: Told<Version>,
    procedures: Told<(Epoch, u64)>,
    /// The newest keepalive; each is greater than the one before.
    beat: u64,
    stall: StallWatch,
    rate_limit: RateLimit,
    /// The time of the last minor news to the monitor.
    news: Option<Instant>,
    /// The last decision to send nothing, so that the log has it once.
    decided: &'static str,
}

impl Session {
    /// Begins with the member's hello. [`Session::end`] returns the memory.
    pub fn begin(ends: Ends, facts: Facts, memory: Memory, hello: &v1::UpHello, now: Now) -> (Self, Vec<Output>) {
        let group = facts.record.record().group;
        let at = hello.at.clone().and_then(|at| SignedHeader::from_wire(at).ok());
        let at = at.filter(|at| at.header().group == group);
        let (stall, rate_limit) = (StallWatch::new(ends.deadlines, now.at), RateLimit::new(now.at));
        let mut session = Self {
            ends,
            facts,
            memory,
            at,
            ahead: ahead(&hello.ahead),
            staged: None,
            ability: ability(hello),
            partial: Hash::try_from(hello.partial.as_ref()).ok().map(|pack| (pack, hello.partial_bytes)),
            edits: Edits::Free,
            outbox: Outbox::default(),
            outputs: Vec::new(),
            work: Activity::Idle,
            run: Run::Updates,
            base: Base::Unasked,
            record: Told::Nothing,
            procedures: Told::Nothing,
            beat: 0,
            stall,
            rate_limit,
            news: None,
            decided: "",
        };
        session.reached(hello);
        // The head in the hello may be old by now.
        session.outbox.head = Some(session.facts.head.header.to_wire());
        session.send_record(now);
        session.send_procedures(now);
        session.steps(now);
        let outputs = std::mem::take(&mut session.outputs);
        (session, outputs)
    }

    fn reached(&mut self, hello: &v1::UpHello) {
        self.memory.standing.reached(hello.fault.as_ref().map(|fault| cut(&fault.reason, REASON)));
        // A member without a revision gets a base in any case, unless it is in error; and propagation may be held.
        let paused = self.facts.record.record().policy.paused;
        if std::mem::take(&mut self.memory.anew) && !paused && self.at.is_some() {
            self.memory.standing.ask();
        }
        self.confirmed();
        let fence = self.memory.fence.take();
        self.at = self.at.take().filter(|_| fence.is_none());
        self.outbox.fence = fence.map(|reason| v1::Fence { reason });
        let (program, fault) = (program(hello), self.memory.standing.fault().map(str::to_owned));
        self.see(Observation::Validates(self.ability == Ability::Validates));
        self.see(Observation::Reached { program, at: self.at.as_ref().map(SignedHeader::number), fault });
        if self.memory.standing.is_sync() {
            // It waits for its sync; its present state must not pass for the result.
            let to = self.target().number;
            self.see(Observation::Started { sync: true, to });
        }
        if let Some(drift) = &hello.drift {
            self.drift(drift);
        }
    }

    /// Handles an event and returns the actions.
    ///
    /// # Errors
    /// The reason to end the connection.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<Vec<Output>, End> {
        match input {
            Input::Record(record) => {
                self.facts.record = record;
                self.confirmed();
                self.send_record(now);
                // The member may be a candidate by now.
                self.send_procedures(now);
            }
            Input::Head(head, published) => {
                self.outbox.head = Some(head.header.to_wire());
                (self.facts.head, self.facts.published) = (head, published);
            }
            Input::Procedures(procedures, later) => {
                (self.facts.procedures, self.facts.order.later) = (procedures, later);
                self.send_procedures(now);
            }
            Input::Released(release) => self.facts.order.release = release,
            Input::Asked(asked) => {
                if matches!(asked, Control::Probe) {
                    self.beat(now);
                }
                self.memory.note(asked);
            }
            Input::Heard(up) => self.span().in_scope(|| self.hear(now, up)).map_err(End::Breach)?,
            Input::Tick => {
                let working = match &self.work {
                    Activity::Taking(current) => Some(current.pack().map_or(0, |pack| pack.size)),
                    Activity::Idle | Activity::Planning | Activity::Finding(_) => None,
                };
                if let Some(why) = self.stall.check(now.at, working) {
                    return Err(End::Lost(why));
                }
                self.beat(now);
            }
            // A decision stays until the next event.
            Input::Planned(step) => return Ok(self.planned(step, now)),
            Input::Found(header) => self.found(now, header).map_err(End::Breach)?,
        }
        self.steps(now);
        Ok(std::mem::take(&mut self.outputs))
    }

    /// Whether there is anything to send.
    pub fn has_mail(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The next message. It must not be lost.
    pub fn next_mail(&mut self) -> Option<Outgoing> {
        self.outbox.next()
    }

    /// Takes back the chunks that were not sent; `look` is the number to look for next.
    pub fn supplied(&mut self, rest: std::collections::VecDeque<Hash>, look: usize) {
        self.outbox.supplied(rest, look);
    }

    /// Notes that a message with so many bytes of packs was sent.
    pub fn went(&mut self, now: Now, bytes: u64) {
        self.stall.went(now.at, bytes);
    }

    /// The time until the next message of the member is read.
    pub fn pause(&self, now: Now) -> Option<Duration> {
        self.rate_limit.pause(now.at)
    }

    /// Ends the connection and returns the memory.
    pub fn end(self) -> Memory {
        self.memory
    }

    /// The revision that the member holds.
    pub fn at(&self) -> Option<&SignedHeader> {
        self.at.as_ref()
    }

    /// The state that outlives the connection.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The same, mutable.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// The phase, its revision, and the unsent part.
    pub fn phase(&self) -> (Phase, Option<&SignedHeader>, Option<InFlight>) {
        let Activity::Taking(current) = &self.work else { return (Phase::Idle, None, None) };
        let phase = if current.is_sync() { Phase::Syncing } else { Phase::Updating };
        (phase, Some(&current.header), current.pack().map(|pack| self.outbox.in_flight(pack.size)))
    }

    /// The span of the activity; none for the lane's own.
    pub fn span(&self) -> Span {
        match &self.work {
            Activity::Taking(current) => current.span.clone(),
            Activity::Idle | Activity::Planning | Activity::Finding(_) => Span::none(),
        }
    }

    /// A refused revision that is confirmed is offered again: the member has taken it back by itself.
    fn confirmed(&mut self) {
        let confirmed = self.facts.record.record().policy.confirmed;
        let refused = self.memory.standing.refused().map(|refused| refused.revision);
        if refused.is_some() && refused == confirmed {
            self.memory.standing.refuse(None);
        }
    }

    fn see(&mut self, observation: Observation) {
        self.outputs.push(Output::See(observation));
    }

    fn target(&self) -> Target {
        let Facts { head, order, record, .. } = &self.facts;
        rollout::target(&head.header, self.at.as_ref(), *order, &record.record().policy)
    }

    fn send_record(&mut self, now: Now) {
        self.outbox.record = Some(self.facts.record.to_wire());
        self.beat(now);
        self.record = Told::Sent { beat: self.beat, what: self.facts.record.record().version };
    }

    /// Sends a candidate the procedures that this manager signed.
    fn send_procedures(&mut self, now: Now) {
        let (record, Some(held)) = (self.facts.record.record(), &self.facts.procedures) else { return };
        let candidate = record.server(&self.ends.server).is_some_and(|server| server.candidate);
        let current = held.said_by(&self.ends.manager, record.group, record.version.epoch).is_ok();
        let version = held.document().version;
        if candidate && current && !self.procedures.is(version) {
            self.outbox.procedures = Some(held.to_wire());
            self.beat(now);
            self.procedures = Told::Sent { beat: self.beat, what: version };
        }
    }

    fn beat(&mut self, now: Now) {
        self.beat = now.ms.max(self.beat + 1);
        self.outbox.keepalive = Some(v1::Keepalive { time_ms: self.beat });
    }

    fn steps(&mut self, now: Now) {
        if let Some(full) = self.memory.verify.take() {
            self.outbox.verify = Some(v1::Verify { full });
        }
        if matches!(self.work, Activity::Idle) {
            let member = Member {
                at: self.at.as_ref().map(SignedHeader::id),
                ahead: self.ahead,
                staged: self.staged.as_ref().map(SignedHeader::id),
                ability: self.ability,
                partial: self.partial,
                standing: self.memory.standing.clone(),
                edits: self.edits,
            };
            let target = self.target();
            match soon(&member, &target, &self.facts.head) {
                Some(step) => self.step(step, now),
                None => self.look(member, target, now),
            }
        }
        if self.outbox.is_empty() {
            self.stall.went(now.at, 0);
        }
    }

    fn planned(&mut self, step: Step, now: Now) -> Vec<Output> {
        if matches!(self.work, Activity::Planning) {
            self.work = Activity::Idle;
            self.step(step, now);
        }
        std::mem::take(&mut self.outputs)
    }

    fn look(&mut self, member: Member, target: Target, now: Now) {
        let newcomer = match self.base {
            Base::Asked { since, .. } if now.at.saturating_duration_since(since) >= NEWCOMER => Newcomer::GoesOn,
            Base::Asked { .. } | Base::Unasked => Newcomer::Waits,
        };
        self.work = Activity::Planning;
        self.outputs.push(Output::Plan(Look { member, target, newcomer }));
    }

    fn step(&mut self, step: Step, now: Now) {
        self.tell(&step);
        match step {
            Step::Nothing => self.end_sync(),
            Step::Wait(_) => {}
            Step::NeedBase => self.need_base(now),
            Step::Settle => self.settle(now),
            Step::Send(sending) => self.send(sending, now),
            Step::Switch => self.switch(now),
        }
    }

    /// Logs a decision once while it lasts; [`Session::take`] logs what is sent.
    fn tell(&mut self, step: &Step) {
        let decided = match step {
            Step::Nothing => "it is at the head",
            Step::Wait(Wait::Fault) => "nothing is sent: it is in error until a sync",
            Step::Wait(Wait::Held) => "nothing is sent: it holds edits of its own",
            Step::Wait(Wait::Paused) => "nothing is sent: propagation is held, or its wave has not begun",
            Step::Wait(Wait::Refused) => "nothing is sent: it refused the head",
            Step::Wait(Wait::Staged) => "nothing is sent: it has staged the head, and no member switches yet",
            Step::NeedBase => "a base of the head is needed",
            Step::Settle | Step::Send(_) | Step::Switch => "",
        };
        if self.decided != decided {
            self.decided = decided;
            if !decided.is_empty() {
                tracing::debug!("{decided}");
            }
        }
    }

    fn need_base(&mut self, now: Now) {
        let new = self.target().revision;
        let since = match self.base {
            Base::Asked { target, .. } if target == new => return,
            Base::Asked { since, .. } => since,
            Base::Unasked => now.at,
        };
        self.base = Base::Asked { target: new, since };
        self.outputs.push(Output::WantBase);
    }

    /// Has the member restore its sets to its revision and report. Newer revisions wait: an offer would interrupt it.
    fn settle(&mut self, now: Now) {
        let Some(header) = self.at.clone() else { return };
        self.staged = None;
        self.outbox.sync = Some(v1::Sync { request: now.ms });
        self.take(Current::new(header, Way::Settle, now.at));
    }

    fn send(&mut self, sending: Sending, now: Now) {
        let sync = sending.sync || matches!(self.run, Run::Sync { .. });
        if matches!(self.memory.standing, Standing::Asked { .. }) && self.at.is_none() {
            // A member without a revision has nothing to restore: this clears its error, without a report.
            self.outbox.sync = Some(v1::Sync { request: now.ms });
            self.memory.standing.settle();
        }
        self.outbox.offer(&sending);
        let (header, pack) = (sending.pack.header.clone(), sending.pack);
        self.outputs.push(Output::Open(pack.clone()));
        let way = match sending.purpose {
            v1::Use::Keep => Way::Keep(pack),
            v1::Use::Unspecified | v1::Use::Stage if sync => Way::Sync(pack),
            v1::Use::Unspecified | v1::Use::Stage => Way::Update(pack),
        };
        self.staged = None;
        self.take(Current::new(header, way, now.at));
    }

    /// Has the member switch to the revision that it has staged.
    fn switch(&mut self, now: Now) {
        let Some(header) = self.staged.take() else { return };
        self.outbox.switch = Some(v1::Switch { revision: header.id().0.into() });
        self.take(Current::new(header, Way::Staged, now.at));
    }

    fn take(&mut self, current: Current) {
        self.stall.progress(current.started);
        if let (true, Run::Updates) = (current.is_sync(), self.run) {
            self.run = Run::Sync { since: current.started };
        }
        let (sync, to) = match current.is_sync() {
            true => (true, self.target().number),
            false => (false, current.header.number()),
        };
        let (size, base) = current.pack().map_or((0, false), |pack| (pack.size, pack.base));
        current.span.in_scope(|| tracing::debug!(sync, size, base, head = %to, "begun"));
        self.see(Observation::Started { sync, to });
        self.work = Activity::Taking(Box::new(current));
    }

    /// Ends the activity, by a report or an error.
    fn end_work(&mut self) -> Option<Box<Current>> {
        self.outbox.end_offer();
        self.partial = None;
        match std::mem::replace(&mut self.work, Activity::Idle) {
            Activity::Taking(current) => Some(current),
            Activity::Idle | Activity::Planning | Activity::Finding(_) => None,
        }
    }

    fn end_sync(&mut self) {
        self.memory.standing.end_sync();
        self.run = Run::Updates;
    }
}

/// The revision of that identity.
fn ahead(wire: &[u8]) -> Option<RevisionId> {
    Hash::try_from(wire).ok().map(RevisionId)
}

/// The kinds of offers that a member takes, by its hello.
fn ability(hello: &v1::UpHello) -> Ability {
    match (program(hello).levels.newest >= Level(2), hello.validates) {
        (false, _) => Ability::Switches,
        (true, false) => Ability::Keeps,
        (true, true) => Ability::Validates,
    }
}

#[cfg(test)]
mod tests;
