//! One connection of a lane, from the hellos to its end: plans and sends; what the member says is taken in `heard`.

mod heard;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    hash::Hash,
    record::{SignedRecord, Version},
    revision::{Epoch, Number, RevisionId, SignedHeader},
    status::Observation,
    v1,
};
use bellwether_store::{clock::now_ms, history::Stored};
use tokio::sync::mpsc;
use tracing::{Instrument, Span};

use self::heard::REASON;
use super::{
    Control, End, Lane, Link, Memory, allowance::Allowance, cut, outbox::Outbox, program, view::Phase,
    watchdog::Watchdog,
};
use crate::{
    plan::{Edits, Member, Newcomer, Sending, Standing, Step, Wait, plan, soon},
    procedure::SignedDocument,
    rollout::Target,
};

/// How long a newcomer waits for a base of the head.
const NEWCOMER: Duration = Duration::from_secs(3);
/// How long a server that is no member any more may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the member is at: a pack, or (without one) to settle at the revision that it holds.
struct Current {
    header: SignedHeader,
    pack: Option<Arc<Stored>>,
    started: Instant,
    sync: bool,
    /// Of the log's lines about it.
    span: Span,
}

impl Current {
    fn new(header: SignedHeader, pack: Option<Arc<Stored>>, sync: bool) -> Self {
        let span = tracing::error_span!("revision", revision = %header.number());
        Self { header, pack, started: Instant::now(), sync, span }
    }
}

struct Session<'a> {
    lane: &'a Lane,
    memory: &'a mut Memory,
    /// The revision that it holds.
    at: Option<SignedHeader>,
    /// A pack that was interrupted, and how many bytes of it the member keeps.
    partial: Option<(Hash, u64)>,
    edits: Edits,
    outbox: Outbox,
    current: Option<Current>,
    /// When the running sync began.
    syncing: Option<Instant>,
    /// A base was asked of the publisher for this head.
    base_for: Option<RevisionId>,
    /// When a base was first asked for.
    base_asked: Option<Instant>,
    /// The keepalive that follows the newest record, and that record's version: messages are taken in order, so its answer
    /// says that the record was taken.
    record: Option<(u64, Version)>,
    /// The same for the newest document of procedures.
    procedures: Option<(u64, (Epoch, u64))>,
    /// The newest document of procedures that was sent.
    told: Option<(Epoch, u64)>,
    /// The newest keepalive; each is greater than the one before.
    beat: u64,
    dog: Watchdog,
    allowance: Allowance,
    news: Option<Instant>,
    /// What was last decided where nothing is sent, so that the log has it once.
    decided: &'static str,
}

/// The server is in the table of those that are reached; dropped with the lane, too, when that is aborted.
struct Reached<'a>(&'a Lane);

impl<'a> Reached<'a> {
    fn begin(lane: &'a Lane, incarnation: u64) -> Self {
        lane.shared.reached.send_modify(|reached| reached.begin(lane.server.name.clone(), incarnation));
        Self(lane)
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.0.shared.reached.send_modify(|reached| reached.end(&self.0.server.name));
    }
}

/// Runs the connection; returns why it ended.
pub(super) async fn run(lane: &Lane, link: Link, control: &mut mpsc::Receiver<Control>, memory: &mut Memory) -> End {
    let _reached = Reached::begin(lane, link.hello.incarnation);
    let mut session = Session::new(lane, memory, &link.hello);
    match session.talk(link, control).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

impl<'a> Session<'a> {
    fn new(lane: &'a Lane, memory: &'a mut Memory, hello: &v1::UpHello) -> Self {
        let group = lane.shared.record.borrow().record().group;
        let at = hello.at.clone().and_then(|at| SignedHeader::from_wire(at).ok());
        let at = at.filter(|at| at.header().group == group);
        let partial = Hash::try_from(hello.partial.as_ref()).ok().map(|pack| (pack, hello.partial_bytes));
        let said = hello.fault.as_ref().map(|fault| cut(&fault.reason, REASON));
        memory.standing.reached(said);
        // One that holds nothing gets a base in any case, unless it is in error; and propagation may be held.
        let paused = lane.shared.record.borrow().record().policy.paused;
        if std::mem::take(&mut memory.anew) && !paused && at.is_some() {
            memory.standing.ask();
        }
        let program = program(hello);
        let fence = memory.fence.take();
        let at = at.filter(|_| fence.is_none());
        let fault = memory.standing.fault().map(str::to_owned);
        lane.see(Observation::Reached { program, at: at.as_ref().map(SignedHeader::number), fault });
        if memory.standing.is_sync() {
            // It waits for its sync: nobody may take what it has for the end of it.
            lane.see(Observation::Started { sync: true, to: lane.shared.target(&lane.server.name).number });
        }
        let dog = Watchdog::new(lane.shared.timings.deadlines, Instant::now());
        let mut session = Self {
            lane,
            memory,
            at,
            partial,
            edits: Edits::Free,
            outbox: Outbox::default(),
            current: None,
            syncing: None,
            base_for: None,
            base_asked: None,
            record: None,
            procedures: None,
            told: None,
            beat: 0,
            dog,
            allowance: Allowance::new(Instant::now()),
            news: None,
            decided: "",
        };
        session.outbox.fence = fence.map(|reason| v1::Fence { reason });
        if let Some(drift) = &hello.drift {
            session.drift(drift);
        }
        session
    }

    async fn talk(
        &mut self,
        link: Link,
        control: &mut mpsc::Receiver<Control>,
    ) -> Result<std::convert::Infallible, End> {
        let Link { down, mut up, hello: _ } = link;
        let shared = self.lane.shared.clone();
        let (mut head, mut record) = (shared.head.subscribe(), shared.record.subscribe());
        // What the hello carried may be old by now.
        self.outbox.head = Some(head.borrow_and_update().stored.header.to_wire());
        self.send_record(&record.borrow_and_update());
        let mut procedures = shared.board.follow();
        self.send_procedures(procedures.borrow_and_update().as_deref());
        let mut tick = tokio::time::interval(shared.timings.keepalive);
        loop {
            if !self.lane.is_member() {
                return Err(self.farewell(&down, &mut up).await);
            }
            self.steps().await?;
            self.show();
            if self.outbox.is_empty() {
                self.dog.went(Instant::now(), 0);
            }
            let pause = self.allowance.pause(Instant::now());
            // Every branch here may be cancelled: a permit that is not used is given back, messages stay in the stream.
            tokio::select! {
                permit = down.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| "it closed the connection".to_owned())?;
                    let span = self.span();
                    if let Some(message) = self.outbox.next(&shared).instrument(span).await? {
                        self.dog.went(Instant::now(), size_of(&message));
                        permit.send(v1::Down { message: Some(message) });
                    }
                }
                message = up.message(), if pause.is_none() => match message.map_err(|status| self.lane.turned_away(&status))? {
                    None => return Err(End::Lost("it closed the connection".to_owned())),
                    Some(v1::Up { message: None }) => self.allowance.spend(Instant::now()),
                    Some(v1::Up { message: Some(message) }) => {
                        let span = self.span();
                        self.hear(message).instrument(span).await.map_err(End::Breach)?;
                    }
                },
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                changed = head.changed() => {
                    changed.map_err(|_| "the manager stops".to_owned())?;
                    self.outbox.head = Some(head.borrow_and_update().stored.header.to_wire());
                }
                changed = record.changed() => {
                    changed.map_err(|_| "the manager stops".to_owned())?;
                    self.send_record(&record.borrow_and_update());
                    // It may be a candidate by now.
                    self.send_procedures(procedures.borrow_and_update().as_deref());
                }
                // Never an error: what is shared holds the board.
                _ = procedures.changed() => self.send_procedures(procedures.borrow_and_update().as_deref()),
                asked = control.recv() => {
                    let asked = asked.ok_or_else(|| "the manager stops".to_owned())?;
                    tracing::debug!(?asked, "asked");
                    if matches!(asked, Control::Probe) {
                        self.beat();
                    }
                    self.memory.note(asked);
                }
                _ = tick.tick() => {
                    let working = self.current.as_ref().map(|current| current.pack.as_ref().map_or(0, |pack| pack.size));
                    if let Some(why) = self.dog.bites(Instant::now(), working) {
                        return Err(End::Lost(why));
                    }
                    self.beat();
                }
            }
        }
    }

    /// The last word to a server that is no member any more: the record that says so. Whatever else was to be sent is not.
    async fn farewell(&self, down: &mpsc::Sender<v1::Down>, up: &mut tonic::Streaming<v1::Up>) -> End {
        let record = self.lane.shared.record.borrow().to_wire();
        let told = async {
            if down.send(v1::Down { message: Some(v1::down::Message::Record(record)) }).await.is_ok() {
                // It ends the stream when it has taken the record.
                while let Ok(Some(_)) = up.message().await {}
            }
        };
        // Late: it learns it at its next call.
        let _ = tokio::time::timeout(FAREWELL, told).await;
        End::Lost("it is no member any more".to_owned())
    }

    fn send_record(&mut self, record: &SignedRecord) {
        self.outbox.record = Some(record.to_wire());
        self.beat();
        self.record = Some((self.beat, record.record().version));
    }

    /// To a candidate, what this manager has signed.
    fn send_procedures(&mut self, held: Option<&SignedDocument>) {
        let record = self.lane.shared.record.borrow().clone();
        let record = record.record();
        let candidate = record.server(&self.lane.server.name).is_some_and(|server| server.candidate);
        let current = |held: &&SignedDocument| {
            held.said_by(&self.lane.shared.key.public(), record.group, record.version.epoch).is_ok()
        };
        let new = |held: &&SignedDocument| self.told != Some(held.document().version);
        if let Some(held) = held.filter(|_| candidate).filter(current).filter(new) {
            self.told = Some(held.document().version);
            self.outbox.procedures = Some(held.to_wire());
            self.beat();
            self.procedures = Some((self.beat, held.document().version));
        }
    }

    fn beat(&mut self) {
        self.beat = now_ms().max(self.beat + 1);
        self.outbox.keepalive = Some(v1::Keepalive { time_ms: self.beat });
    }

    /// Writes what the lane is at, for those who look into this manager.
    fn show(&self) {
        let phase = match &self.current {
            None => Phase::Idle,
            Some(current) if current.sync => Phase::Syncing,
            Some(_) => Phase::Updating,
        };
        let to = self.current.as_ref().map(|current| current.header.number());
        let pack = self.current.as_ref().and_then(|current| current.pack.as_ref());
        let in_flight = pack.map(|pack| self.outbox.in_flight(pack.size));
        self.lane.view.show(phase, self.at.as_ref().map(SignedHeader::number), to, in_flight);
    }

    /// Plans, where nothing is under way.
    async fn steps(&mut self) -> Result<(), String> {
        if let Some(full) = self.memory.verify.take() {
            self.outbox.verify = Some(v1::Verify { full });
        }
        if self.current.is_some() {
            return Ok(());
        }
        let target = self.lane.shared.target(&self.lane.server.name);
        let step = self.plan(target).await?;
        self.tell(&step);
        match step {
            Step::Nothing => self.end_sync(),
            Step::Wait(_) => {}
            Step::NeedBase if self.base_for == Some(target.revision) => {}
            Step::NeedBase => {
                self.base_for = Some(target.revision);
                self.base_asked.get_or_insert_with(Instant::now);
                self.lane.shared.base_wanted.notify_one();
            }
            Step::Settle => self.settle(target.number),
            Step::Send(sending) => self.send(sending, target.number).await?,
        }
        Ok(())
    }

    /// The span of what is under way; none: the lane's own.
    fn span(&self) -> Span {
        self.current.as_ref().map_or_else(Span::none, |current| current.span.clone())
    }

    /// Says what was decided, once while it stays so; [`Session::begin`] says what is sent.
    fn tell(&mut self, step: &Step) {
        let decided = match step {
            Step::Nothing => "it is at the head",
            Step::Wait(Wait::Fault) => "nothing is sent: it is in error until a sync",
            Step::Wait(Wait::Held) => "nothing is sent: it holds edits of its own",
            Step::Wait(Wait::Paused) => "nothing is sent: propagation is held",
            Step::Wait(Wait::Refused) => "nothing is sent: it refused the head",
            Step::NeedBase => "a base of the head is needed",
            Step::Settle | Step::Send(_) => "",
        };
        if self.decided != decided {
            self.decided = decided;
            if !decided.is_empty() {
                tracing::debug!("{decided}");
            }
        }
    }

    async fn plan(&self, target: Target) -> Result<Step, String> {
        let shared = &self.lane.shared;
        let newest = shared.head.borrow().stored.clone();
        let member = Member {
            at: self.at.as_ref().map(SignedHeader::id),
            partial: self.partial,
            standing: self.memory.standing.clone(),
            edits: self.edits,
        };
        if let Some(step) = soon(&member, &target, &newest) {
            return Ok(step);
        }
        let waits = self.base_asked.is_none_or(|asked| asked.elapsed() < NEWCOMER);
        let newcomer = if waits { Newcomer::Waits } else { Newcomer::GoesOn };
        let history = shared.history.clone();
        let plan = move || {
            let history = history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            plan(&member, &target, newcomer, &*history)
        };
        tokio::task::spawn_blocking(plan).await.map_err(|e| e.to_string())
    }

    /// The member is to bring its sets to the revision that it holds, and reports. What is newer follows after that: an
    /// offer would interrupt it.
    fn settle(&mut self, to: Number) {
        let Some(header) = self.at.clone() else { return };
        self.outbox.sync = Some(v1::Sync { request: now_ms() });
        self.begin(Current::new(header, None, true), to);
    }

    async fn send(&mut self, sending: Sending, target: Number) -> Result<(), String> {
        let Sending { pack, from, to, sync, forked } = sending;
        let sync = sync || self.syncing.is_some();
        if matches!(self.memory.standing, Standing::Asked { .. }) && self.at.is_none() {
            // It holds nothing to settle: this clears its error, and it says nothing.
            self.outbox.sync = Some(v1::Sync { request: now_ms() });
            self.memory.standing.settle();
        }
        self.outbox.offer(&self.lane.shared, &pack, from, to, forked).await?;
        let number = if sync { target } else { pack.header.number() };
        let header = pack.header.clone();
        self.begin(Current::new(header, Some(pack), sync), number);
        Ok(())
    }

    fn begin(&mut self, current: Current, to: Number) {
        self.dog.progress(current.started);
        if current.sync {
            self.syncing.get_or_insert(current.started);
        }
        let (size, base) = current.pack.as_ref().map_or((0, false), |pack| (pack.size, pack.base));
        current.span.in_scope(|| tracing::debug!(sync = current.sync, size, base, head = %to, "begun"));
        self.lane.see(Observation::Started { sync: current.sync, to });
        self.current = Some(current);
    }

    fn end(&mut self) -> Option<Current> {
        self.outbox.end_offer();
        self.partial = None;
        self.current.take()
    }

    fn end_sync(&mut self) {
        self.memory.standing.end_sync();
        self.syncing = None;
    }
}

fn size_of(message: &v1::down::Message) -> u64 {
    use v1::down::Message;
    match message {
        Message::Slice(slice) => slice.data.len() as u64,
        Message::Supply(supply) => supply.frames.len() as u64,
        Message::Hello(_)
        | Message::Record(_)
        | Message::Head(_)
        | Message::Offer(_)
        | Message::Verify(_)
        | Message::Sync(_)
        | Message::Keepalive(_)
        | Message::Procedures(_)
        | Message::Fence(_) => 0,
    }
}
