//! One connection of a lane, from the hellos to its end: plans, sends, and takes what the member says.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    hash::Hash,
    limits,
    name::BalancerName,
    record::{SignedRecord, Version},
    revision::{Epoch, Number, RevisionId, SignedHeader},
    status::{Observation, Progress, Verified},
    v1,
};
use bellwether_store::history::{Route, Stored};
use tokio::sync::mpsc;

use super::{Control, End, Lane, Link, Memory, allowance::Allowance, cut, outbox::Outbox, watchdog::Watchdog};
use crate::{
    plan::{Member, Sending, Step, plan},
    procedure::SignedDocument,
    shared::{Live, now_ms},
};

/// Characters of a reason that a member gives.
const REASON: usize = 8_000;
/// Characters of what it says of who knocked.
const WHO: usize = 500;
/// Paths or names in a list that a member gives, and characters of each.
const LIST: (usize, usize) = (20, 5_000);
/// How long a server that is no member any more may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);
/// A member's lesser news (progress, life) reaches the monitor at most so often.
const NEWS: Duration = Duration::from_millis(100);

/// What the member is at: a pack, or (without one) to settle at the revision that it holds.
struct Current {
    header: SignedHeader,
    pack: Option<Arc<Stored>>,
    started: Instant,
    sync: bool,
}

struct Session<'a> {
    lane: &'a Lane,
    memory: &'a mut Memory,
    member: Member,
    /// The revision that it holds.
    at: Option<SignedHeader>,
    outbox: Outbox,
    current: Option<Current>,
    /// When the running sync began.
    syncing: Option<Instant>,
    /// A base was asked of the publisher for this head.
    base_for: Option<RevisionId>,
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
}

/// While it lives, the server is reached. Dropped with the lane, too, when that is aborted.
struct Reached<'a>(&'a Lane);

impl Reached<'_> {
    fn at(lane: &Lane, incarnation: u64) {
        lane.shared.live.send_modify(|live| {
            live.insert(lane.server.name.clone(), Live { incarnation, beat: 0 });
        });
    }

    fn beats(lane: &Lane, beat: u64) {
        lane.shared.live.send_modify(|live| {
            live.entry(lane.server.name.clone()).and_modify(|live| live.beat = live.beat.max(beat));
        });
    }

    fn has(lane: &Lane, version: Version) {
        lane.shared.records.send_modify(|records| {
            records.insert(lane.server.name.clone(), version);
        });
    }

    fn knows(lane: &Lane, procedures: (Epoch, u64)) {
        lane.shared.informed().insert(lane.server.name.clone(), procedures);
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.0.shared.records.send_modify(|records| {
            records.remove(&self.0.server.name);
        });
        self.0.shared.informed().remove(&self.0.server.name);
        self.0.shared.live.send_modify(|live| {
            live.remove(&self.0.server.name);
        });
    }
}

/// Runs the connection; returns why it ended.
pub(super) async fn run(lane: &Lane, link: Link, control: &mut mpsc::Receiver<Control>, memory: &mut Memory) -> End {
    // It has none of our records yet, as far as is known.
    Reached::has(lane, Version { epoch: Epoch(0), version: 0 });
    let _reached = Reached(lane);
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
        let fault = said.or_else(|| memory.fault.clone());
        // One that holds nothing gets a base in any case, unless it is in error; and propagation may be held.
        let paused = lane.shared.record.borrow().record().policy.paused;
        if std::mem::take(&mut memory.anew) && !paused && at.is_some() {
            memory.sync = true;
        }
        let member = Member {
            at: at.as_ref().map(SignedHeader::id),
            fault: fault.is_some(),
            partial,
            refused: memory.refused,
            sync: memory.sync,
            forked: false,
            settled: false,
            held: hello.drift.as_ref().is_some_and(|drift| drift.held),
        };
        let version = cut(&hello.version, 100);
        let fence = memory.fence.take();
        let at = at.filter(|_| fence.is_none());
        let member = Member { at: at.as_ref().map(SignedHeader::id), ..member };
        Reached::at(lane, hello.incarnation);
        lane.see(Observation::Reached { version, at: at.as_ref().map(SignedHeader::number), fault });
        if memory.sync {
            // It waits for its sync: nobody may take what it has for the end of it.
            lane.see(Observation::Started { sync: true, to: lane.shared.head.borrow().stored.header.number() });
        }
        let dog = Watchdog::new(lane.shared.timings.deadlines, Instant::now());
        let mut session = Self {
            lane,
            memory,
            member,
            at,
            outbox: Outbox::default(),
            current: None,
            syncing: None,
            base_for: None,
            record: None,
            procedures: None,
            told: None,
            beat: 0,
            dog,
            allowance: Allowance::new(Instant::now()),
            news: None,
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
            if self.outbox.is_empty() {
                self.dog.went(Instant::now(), 0);
            }
            let pause = self.allowance.pause(Instant::now());
            // Every branch here may be cancelled: a permit that is not used is given back, messages stay in the stream.
            tokio::select! {
                permit = down.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| "it closed the connection".to_owned())?;
                    if let Some(message) = self.outbox.next(&shared).await? {
                        self.dog.went(Instant::now(), size_of(&message));
                        permit.send(v1::Down { message: Some(message) });
                    }
                }
                message = up.message(), if pause.is_none() => match message.map_err(|status| self.lane.turned_away(&status))? {
                    None => return Err(End::Lost("it closed the connection".to_owned())),
                    Some(v1::Up { message: None }) => self.allowance.spend(Instant::now()),
                    Some(v1::Up { message: Some(message) }) => self.hear(message).await.map_err(End::Breach)?,
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
                    if matches!(asked, Control::Probe) {
                        self.beat();
                    }
                    self.memory.note(asked);
                    self.member.sync = self.memory.sync;
                    self.member.refused = self.memory.refused;
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

    /// Plans, where nothing is under way.
    async fn steps(&mut self) -> Result<(), String> {
        if let Some(full) = self.memory.verify.take() {
            self.outbox.verify = Some(v1::Verify { full });
        }
        if self.current.is_some() {
            return Ok(());
        }
        let (head, number) = {
            let head = self.lane.shared.head.borrow();
            (head.id(), head.stored.header.number())
        };
        match self.plan(head).await? {
            Step::Nothing => self.end_sync(),
            Step::Wait(_) => {}
            Step::NeedBase if self.base_for == Some(head) => {}
            Step::NeedBase => {
                self.base_for = Some(head);
                self.lane.shared.base_wanted.notify_one();
            }
            Step::Settle => self.settle(number),
            Step::Send(sending) => self.send(sending, number).await?,
        }
        Ok(())
    }

    async fn plan(&self, head: RevisionId) -> Result<Step, String> {
        let shared = &self.lane.shared;
        let paused = shared.record.borrow().record().policy.paused || shared.board.holds(&self.lane.server.name);
        let newest = shared.head.borrow().stored.clone();
        // One behind, the case that must be quick, needs no look at the history.
        let next = self.member.at.is_some() && self.member.at == newest.header.header().parent;
        if next && !newest.base && newest.header.id() == head && self.member.refused.is_none() {
            return Ok(plan(&self.member, head, paused, |_| Route::Packs(vec![newest.clone()])));
        }
        if !self.member.sync && (self.member.fault || self.member.at == Some(head)) {
            return Ok(plan(&self.member, head, paused, |_| Route::Nothing));
        }
        let (member, history) = (self.member.clone(), shared.history.clone());
        let plan = move || {
            let history = history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            let forked = member.at.is_some_and(|at| !history.leads_from(at));
            plan(&Member { forked, ..member }, head, paused, |from| history.route(from))
        };
        tokio::task::spawn_blocking(plan).await.map_err(|e| e.to_string())
    }

    /// The member is to bring its sets to the revision that it holds, and reports. What is newer follows after that: an
    /// offer would interrupt it.
    fn settle(&mut self, to: Number) {
        let Some(header) = self.at.clone() else { return };
        self.outbox.sync = Some(v1::Sync { request: now_ms() });
        self.begin(Current { header, pack: None, started: Instant::now(), sync: true }, to);
    }

    async fn send(&mut self, sending: Sending, head: Number) -> Result<(), String> {
        let Sending { pack, from, to, sync, forked } = sending;
        let sync = sync || self.syncing.is_some();
        if self.member.sync && self.member.at.is_none() && !self.member.settled {
            // It holds nothing to settle: this clears its error, and it says nothing.
            self.outbox.sync = Some(v1::Sync { request: now_ms() });
            self.settled();
        }
        self.outbox.offer(&self.lane.shared, &pack, from, to, forked).await?;
        let number = if sync { head } else { pack.header.number() };
        let header = pack.header.clone();
        self.begin(Current { header, pack: Some(pack), started: Instant::now(), sync }, number);
        Ok(())
    }

    fn begin(&mut self, current: Current, to: Number) {
        self.dog.progress(current.started);
        if current.sync {
            self.syncing.get_or_insert(current.started);
        }
        self.lane.see(Observation::Started { sync: current.sync, to });
        self.current = Some(current);
    }

    async fn hear(&mut self, message: v1::up::Message) -> Result<(), String> {
        use v1::up::Message;
        let now = Instant::now();
        self.dog.heard(now);
        self.allowance.spend(now);
        match message {
            Message::Hello(_) => return Err("it said hello twice".to_owned()),
            Message::Want(v1::Want { want }) => {
                self.dog.progress(now);
                self.want(want)?;
            }
            Message::Progress(progress) => {
                self.dog.progress(now);
                self.lesser(Observation::Progress(Progress {
                    phase: cut(&progress.phase, 100),
                    files: progress.files,
                    files_total: progress.files_total,
                    bytes: progress.bytes,
                    bytes_total: progress.bytes_total,
                    bytes_per_s: 0,
                }));
            }
            Message::Report(report) => self.report(report).await?,
            Message::Drift(drift) => self.drift(&drift),
            Message::Keepalive(answer) => self.alive(&answer),
            Message::Verified(verified) => self.verified(&verified),
            Message::Fault(fault) => self.failed(&fault.reason),
            Message::Knock(knock) => self.lane.see(Observation::Knocked(cut(&knock.who, WHO))),
            Message::Balancers(balancers) => self.balancers(&balancers),
        }
        Ok(())
    }

    fn alive(&mut self, answer: &v1::Keepalive) {
        Reached::beats(self.lane, answer.time_ms.min(self.beat));
        if let Some((_, version)) = self.record.take_if(|(beat, _)| (*beat..=self.beat).contains(&answer.time_ms)) {
            Reached::has(self.lane, version);
            self.lane.see(Observation::Record(version));
        }
        if let Some((_, version)) = self.procedures.take_if(|(beat, _)| (*beat..=self.beat).contains(&answer.time_ms)) {
            Reached::knows(self.lane, version);
        }
        self.lesser(Observation::Alive);
    }

    fn lesser(&mut self, observation: Observation) {
        let now = Instant::now();
        if self.news.is_none_or(|last| now.saturating_duration_since(last) >= NEWS) {
            self.news = Some(now);
            self.lane.see(observation);
        }
    }

    fn want(&mut self, want: Option<v1::want::Want>) -> Result<(), String> {
        let Some(current) = &self.current else { return Ok(()) };
        match (want, &current.pack) {
            (Some(v1::want::Want::Range(range)), Some(pack)) => self.outbox.want_range(&range, pack.size),
            (Some(v1::want::Want::Range(_)), None) => {
                Err("it asked for bytes of a pack that was not offered".to_owned())
            }
            (Some(v1::want::Want::Chunks(hashes)), _) => self.outbox.want_chunks(hashes),
            (None, _) => Ok(()),
        }
    }

    fn drift(&mut self, drift: &v1::Drift) {
        if self.member.held && !drift.held {
            // What it refused because of its own edits, it takes now.
            self.member.refused = None;
            self.memory.refused = None;
        }
        self.member.held = drift.held;
        let (paths, kept) = (list(&drift.paths), list(&drift.kept));
        self.lane.see(Observation::Drift { entries: drift.entries, paths, held: drift.held, kept });
    }

    fn verified(&mut self, verified: &v1::Verified) {
        let head = self.lane.shared.head.borrow().clone();
        let equal = verified.root.as_ref() == head.stored.header.header().root.as_bytes();
        let v1::Verified { full, entries, micros, .. } = *verified;
        self.lane.see(Observation::Verified(Verified { time_ms: now_ms(), full, entries, micros, equal }));
    }

    /// Only what it says of the record's balancers, each once.
    fn balancers(&mut self, said: &v1::Balancers) {
        let record = self.lane.shared.record.borrow().clone();
        let of = |name: &BalancerName| {
            let reach = said.reach.iter().take(limits::BALANCERS).find(|reach| reach.balancer == name.as_str())?;
            let fault = Some(&reach.fault).filter(|fault| !fault.is_empty());
            Some((name.clone(), fault.map(|fault| cut(fault, REASON))))
        };
        let balancers = record.record().policy.balancers.iter().filter_map(|balancer| of(&balancer.name));
        self.lane.see(Observation::Balancers(balancers.collect()));
    }

    fn failed(&mut self, reason: &str) {
        self.end();
        self.member.fault = true;
        self.end_sync();
        let reason = cut(reason, REASON);
        self.memory.fault = Some(reason.clone());
        self.lane.see(Observation::Failed(reason));
    }

    fn end(&mut self) -> Option<Current> {
        self.outbox.end_offer();
        self.member.partial = None;
        self.current.take()
    }

    fn settled(&mut self) {
        self.member.settled = true;
        self.member.fault = false;
        self.memory.fault = None;
    }

    fn end_sync(&mut self) {
        self.member.sync = false;
        self.memory.sync = false;
        self.member.settled = false;
        self.syncing = None;
    }

    async fn report(&mut self, report: v1::Report) -> Result<(), String> {
        let revision = Hash::try_from(report.revision.as_ref()).map_err(|e| format!("it reported {e}"))?;
        let revision = RevisionId(revision);
        let busy = self.current.is_some();
        let ours = self.current.as_ref().is_some_and(|current| current.header.id() == revision);
        if ours {
            self.allowance.refund();
        }
        let current = if ours { self.end() } else { self.earlier(revision).await? };
        let Some(current) = current else {
            return if busy {
                Ok(())
            } else {
                Err(format!("it reported revision {revision}, which it was not offered"))
            };
        };
        match report.outcome() {
            v1::Outcome::Done if report.root.as_ref() == current.header.header().root.as_bytes() => {
                self.done(&current, &report);
            }
            v1::Outcome::Done => self.failed(&format!(
                "it reported revision {} as done, but what it read back from its disk is not that revision; sync it",
                current.header.number()
            )),
            v1::Outcome::Refused => self.refused(&current, &report.reason),
            v1::Outcome::Failed => self.failed(&report.reason),
            v1::Outcome::Unspecified => return Err("it reported no outcome".to_owned()),
        }
        Ok(())
    }

    /// A report of a revision that was offered over an earlier connection; only while nothing else is under way.
    async fn earlier(&self, revision: RevisionId) -> Result<Option<Current>, String> {
        if self.current.is_some() {
            return Ok(None);
        }
        let history = self.lane.shared.history.clone();
        let get = move || {
            let history = history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            history.get(revision).map(|stored| stored.header.clone())
        };
        let header = tokio::task::spawn_blocking(get).await.map_err(|e| e.to_string())?;
        let current = |header| Current { header, pack: None, started: Instant::now(), sync: false };
        Ok(header.map(current))
    }

    fn done(&mut self, current: &Current, report: &v1::Report) {
        let id = current.header.id();
        let (head, published) = {
            let head = self.lane.shared.head.borrow();
            (head.id(), head.published)
        };
        let since = match self.syncing {
            Some(began) if current.sync => began,
            _ if id == head => published,
            _ => current.started,
        };
        self.member.at = Some(id);
        self.memory.remembered.reported = Some(current.header.number());
        self.member.refused = None;
        self.memory.refused = None;
        self.at = Some(current.header.clone());
        if current.sync && current.pack.is_none() {
            self.settled();
        }
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.lane.see(Observation::Done { revision: current.header.number(), micros, kept: list(&report.kept) });
    }

    fn refused(&mut self, current: &Current, reason: &str) {
        self.member.refused = Some(current.header.id());
        self.memory.refused = self.member.refused;
        self.end_sync();
        let reason = cut(reason, REASON);
        self.lane.see(Observation::Refused { revision: current.header.number(), reason });
    }
}

fn list(texts: &[String]) -> Vec<String> {
    texts.iter().take(LIST.0).map(|text| cut(text, LIST.1)).collect()
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
