//! The member. The program's own machines ([`Follower`], [`greeting`]) make its decisions. This shell has a connection that
//! carries its messages, and a model disk.

use std::{collections::VecDeque, time::Duration};

use bellwether_member::{
    follower::{
        Arrived, Complaint, Edits, Facts, Follower, Input, Look, Output, Proven, Returned, Switched, Trouble,
        Validated, Validation, holds,
    },
    greeting::{self, Here},
    incoming::Heard,
};
use bellwether_proto::{
    entry::Chunk,
    hash::Hash,
    key::PublicKey,
    record::chain,
    revision::{RevisionId, SignedHeader},
    status::Cause,
    v1::{self, down, up},
};

use super::{Purpose, Server};
use crate::{
    changes::{Change, Changes, MOST},
    disk::{Disk, Drive},
    net::Number,
    packet::{Body, Refused},
    world::World,
};

/// The disk's state of a revision under way.
pub(super) struct Transfer {
    header: SignedHeader,
    pack: Pack,
    base: bool,
    forked: bool,
    /// The next byte, the end of the promised bytes, and the size of the pack.
    at: u64,
    to: u64,
    size: u64,
}

/// The source of the pack.
#[derive(Clone, Copy)]
enum Pack {
    /// Its bytes arrive.
    Arriving,
    /// The sets have its content after the switch, except for these changes, which have not arrived.
    Filling(Changes),
    /// The history has it.
    Here,
}

impl Server {
    pub(super) async fn down(&mut self, number: Number, from: PublicKey, down: v1::Down) {
        let done = match down.message {
            Some(down::Message::Hello(hello)) => self.greeted(number, from, hello).await,
            Some(message) => self.hear(number, message).await,
            None => Ok(()),
        };
        self.led_by(number);
        self.done(number, &from, done);
    }

    /// Handles a message like the task of a stream.
    async fn hear(&mut self, number: Number, message: down::Message) -> Result<(), Refused> {
        let record = self.record();
        let (own, live) = (self.key.public(), self.followed.as_mut().filter(|live| live.number == number));
        let (Some(record), Some(live)) = (record, live) else { return Ok(()) };
        match live.incoming.hear(Here { own: &own, record: record.record() }, message)? {
            Heard::Answer(beat) => self.up_to(number, up::Message::Keepalive(beat)),
            Heard::Take(record) => {
                let record = self.world.borrow_mut().record(&record).map_err(greeting::Refused::from)?;
                self.take(&[record]).await?;
                let (record, own) = (self.record().expect("it has just taken one"), self.key.public());
                let live = self.followed.as_ref().filter(|live| live.number == number);
                let here = Here { own: &own, record: record.record() };
                live.map_or(Ok(()), |live| live.incoming.may_go_on(here))?;
            }
            Heard::Keep(wire) => self.procedures_told(&wire).await,
            Heard::Pass(message) => self.happens(Input::Said(number, message)).await,
            Heard::Ignore => {}
        }
        Ok(())
    }

    pub(super) fn done(&mut self, number: Number, from: &PublicKey, done: Result<(), Refused>) {
        match done {
            Ok(()) if self.follows(from) => self.heard_ms = self.now(),
            Ok(()) => {}
            Err(refused) => {
                self.send(number, Body::Refused(refused));
                if let Some(link) = self.links.get_mut(&number) {
                    link.purpose = Purpose::Incoming;
                }
                self.followed_no_more(number);
            }
        }
    }

    /// Notes that the stream has ended.
    pub(super) fn followed_no_more(&mut self, number: Number) {
        if self.follower.session() == Some(number) {
            // The only output is that the revision under way is dropped.
            self.decide(Input::Closed(number));
            self.transfer = None;
        }
    }

    fn follows(&self, key: &PublicKey) -> bool {
        self.record().is_some_and(|record| record.record().manager().key == *key)
    }

    async fn greeted(&mut self, number: Number, from: PublicKey, hello: v1::DownHello) -> Result<(), Refused> {
        let read = |wire: &v1::SignedRecord| self.world.borrow_mut().record(wire);
        let shown = self.here(|here| greeting::links(here, &hello, read))?;
        self.take(&shown).await?;
        self.here(|here| greeting::check(here, &from, &hello))?;
        if self.waits(number, from, &hello) { Ok(()) } else { self.begin_session(number, from, hello).await }
    }

    /// Applies a rule to this server and its disk.
    pub(super) fn here<T>(&self, ask: impl FnOnce(Here<'_>) -> Result<T, greeting::Refused>) -> Result<T, Refused> {
        let Some(record) = self.record() else {
            return Err(Refused { reason: "this machine belongs to no group".into(), ..Refused::default() });
        };
        Ok(ask(Here { own: &self.key.public(), record: record.record() })?)
    }

    /// Starts like the member's thread: a former manager's head is its position, and an interrupted switch is taken back.
    pub(super) async fn begin_to_follow(&mut self) {
        if self.drive.read(|disk| disk.leads) {
            self.follower = Follower::new(self.name.clone());
            let newest = self.newest();
            self.drive
                .save("position where it led", |disk| (disk.at, disk.unconfirmed, disk.leads) = (newest, None, false))
                .await;
        }
        if self.drive.read(|disk| disk.sets.revision != disk.position() && disk.at.is_some()) {
            let edits = self.published();
            self.drive
                .save("sets taken back", |disk| {
                    disk.sets.revision = disk.position();
                    disk.sets.edits = disk.sets.edits.and(edits);
                })
                .await;
        }
    }

    /// The changes that this server published before it noted that it leads. No switch brought them into its files, so none is
    /// taken back, and for a member they are edits.
    fn published(&self) -> Changes {
        let (name, revision, position) =
            self.drive.read(|disk| (disk.name.clone(), disk.sets.revision, disk.position()));
        let world = self.world.borrow();
        let own = revision.and_then(|id| world.header(id)).is_some_and(|header| header.header().manager == name);
        if own { world.content(revision).without(world.content(position)) } else { Changes::default() }
    }

    pub(super) fn close_all(&mut self, purpose: &Purpose) {
        let these: Vec<Number> =
            self.links.iter().filter(|(_, link)| link.purpose == *purpose).map(|(number, _)| *number).collect();
        these.into_iter().for_each(|number| self.closed(number));
    }

    pub(super) fn up_to(&self, number: Number, message: up::Message) {
        self.send(number, Body::Up(v1::Up { message: Some(message) }));
    }

    /// Puts in an event, and after it the waiting inputs, like the member's thread.
    pub(super) async fn happens(&mut self, input: Input) {
        for input in [input, Input::CatchUp, Input::Revert] {
            let mut inputs = VecDeque::from([input]);
            while let Some(input) = inputs.pop_front() {
                for output in self.decide(input) {
                    inputs.extend(self.carry_out(output).await);
                }
            }
        }
    }

    fn decide(&mut self, input: Input) -> Vec<Output> {
        let (held, at, fault) = self.drive.read(|disk| (disk.held.clone(), disk.at.clone(), disk.fault.clone()));
        let Some(held) = held else { return Vec::new() };
        let record = held.current.record();
        let fault = fault.map(|reason| v1::Fault { reason, since_ms: 0 });
        let manager_of =
            |epoch| chain::manager_of(&held.chain, &held.current, epoch).filter(|key| !record.refused.contains(key));
        let facts = Facts {
            // The follower's time limits are for real farms.
            now: self.began + Duration::from_millis(self.engine_ms()),
            now_ms: self.now(),
            record,
            manager_of: &manager_of,
            quarantined: &|_| None,
            at: at.as_ref(),
            fault: fault.as_ref(),
            proven: Proven::Yes,
            kept: &|revision| kept(&self.world, &self.drive, at.as_ref()?, revision),
        };
        self.follower.handle(&facts, input)
    }

    /// Executes an output, and returns the disk's answer.
    async fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Send(message) => self.tell_manager(message),
            Output::See(_) | Output::Show | Output::Tidy(_) => {}
            Output::Head(head) => _ = self.seen.insert(head.id()),
            Output::Fault(fault) => {
                if self.drive.read(|disk| disk.fault != fault) {
                    self.drive.save(&format!("its error: {fault:?}"), |disk| disk.fault = fault).await;
                }
            }
            Output::Fence(reason) => {
                self.drive
                    .save("that it is kept out", |disk| {
                        (disk.at, disk.unconfirmed, disk.fault) = (None, None, Some(reason))
                    })
                    .await;
            }
            Output::Drop => self.transfer = None,
            Output::Receive { offer, header, forked, plan: _ } => {
                let v1::Offer { base, from: at, to, size, .. } = offer;
                let forked = forked.is_some();
                self.transfer = Some(Transfer { header, pack: Pack::Arriving, base, forked, at, to, size });
                return Some(Input::Arrived(Ok(Arrived::More)));
            }
            Output::Slice(slice) => return Some(Input::Arrived(self.slice(&slice))),
            Output::Rest => self.transfer.iter_mut().for_each(|transfer| transfer.to = transfer.size),
            Output::Fill => {
                let missing = self.transfer.as_ref().map(|transfer| self.missing(transfer)).unwrap_or_default();
                self.transfer.iter_mut().for_each(|transfer| transfer.pack = Pack::Filling(missing));
            }
            Output::Supply(supply) => return Some(Input::Supplied(Ok(self.supplied(&supply)))),
            Output::Keep { stage } => return Some(Input::Kept(self.keep_ahead(stage).await)),
            Output::Shelve => {
                if matches!(self.transfer, Some(Transfer { pack: Pack::Arriving, .. })) {
                    let _ = self.keep_ahead(true).await;
                }
            }
            Output::Stage { keep } => {
                if keep && matches!(self.transfer, Some(Transfer { pack: Pack::Arriving, .. })) {
                    if let Err(trouble) = self.keep_ahead(true).await {
                        return Some(Input::Staged(Err(trouble)));
                    }
                    self.world.borrow_mut().met.staged += 1;
                }
                let validates = self.world.borrow().validates(self.machine);
                let validation = if validates { Validation::Before } else { Validation::Nothing };
                return Some(Input::Staged(Ok(validation)));
            }
            Output::Validate => return Some(Input::Validated(self.validate())),
            Output::Switch(_) => return Some(Input::Switched(self.switch().await)),
            // An interrupted switch was taken back at the start.
            Output::Finish => return Some(Input::Finished(Ok(()))),
            Output::Back { header, .. } => {
                let (base, forked) = (true, false);
                self.transfer = Some(Transfer { header, pack: Pack::Here, base, forked, at: 0, to: 0, size: 0 });
                return Some(Input::Planned(Ok(Vec::new())));
            }
            Output::Look { .. } => return Some(Input::Compared(self.edits())),
            Output::Verify { full } => {
                return Some(Input::Verified(v1::Verified { full, ..Default::default() }, self.edits()));
            }
            Output::PutBack => {
                self.put_edits_away().await;
                return Some(Input::PutBack { kept: Vec::new(), edits: self.edits(), owed: false });
            }
            Output::Return(_) => return Some(Input::Returned(self.go_back().await)),
            // No commands after the switch are modelled.
            Output::Prove => return Some(Input::Proved(Ok(()))),
            Output::Proved => {}
            Output::LookForObstacle => {
                return Some(Input::Obstacle(Some(self.world.borrow().full.contains(&self.machine))));
            }
        }
        None
    }

    fn tell_manager(&self, mut message: up::Message) {
        match &mut message {
            up::Message::Report(report) => report.ahead = self.ahead(),
            up::Message::Staged(staged) => staged.ahead = self.ahead(),
            _ => {}
        }
        self.world.borrow_mut().met.said(&message);
        if let Some(number) = self.follower.session() {
            self.up_to(number, message);
        }
    }

    /// The edits in the sets.
    pub(super) fn edits(&self) -> Edits {
        let edits = self.drive.read(|disk| disk.sets.edits);
        let paths = if edits.is_empty() { Vec::new() } else { vec![format!("{edits:?}")] };
        Edits { entries: edits.count().into(), paths, ungiven: !edits.is_empty(), away: String::new() }
    }

    /// Takes bytes of the offered pack. The changes alone tell the effect on the sets.
    fn slice(&mut self, slice: &v1::Slice) -> Result<Arrived, Trouble> {
        let Some(mut transfer) = self.transfer.take() else { return Ok(Arrived::More) };
        assert!(slice.offset == transfer.at, "the manager sends what was not due");
        transfer.at += slice.data.len() as u64;
        let (at, edits) = self.drive.read(|disk| (disk.at.clone(), disk.sets.edits));
        let holds = self.record().is_some_and(|record| holds(record.record(), at.as_ref()));
        if holds && !edits.is_empty() {
            let trouble = Trouble {
                reason: "edits are held".into(),
                cause: None,
                look: Some(Look::Stats),
                output: String::new(),
            };
            return Err(trouble);
        }
        let arrived = if transfer.at == transfer.size {
            Arrived::Whole
        } else if transfer.at == transfer.to {
            let missing = (0..=MOST).filter(|change| self.missing(&transfer).has(*change)).map(chunk).collect();
            let in_pack = self.world.borrow().content(Some(transfer.header.id())).count().into();
            Arrived::Paused { missing, in_pack, rest: v1::Range { from: transfer.at, to: transfer.size } }
        } else {
            Arrived::More
        };
        self.transfer = Some(transfer);
        Ok(arrived)
    }

    /// The content of the revision that the sets lack.
    fn missing(&self, transfer: &Transfer) -> Changes {
        let (revision, edits) = self.in_sets();
        let world = self.world.borrow();
        world.content(Some(transfer.header.id())).without(world.content(revision).and(edits))
    }

    fn supplied(&mut self, supply: &v1::Supply) -> Vec<Hash> {
        if let Some(Transfer { pack: Pack::Filling(missing), .. }) = &mut self.transfer {
            supply.frames.iter().for_each(|change| *missing = missing.without(Changes::one(*change)));
        }
        supply.frames.iter().map(|change| chunk(*change).hash).collect()
    }

    /// The newest revision in the history that follows the one held.
    pub(super) fn ahead(&self) -> bytes::Bytes {
        let Some(at) = self.drive.read(|disk| disk.at.clone()) else { return bytes::Bytes::new() };
        let history: Vec<RevisionId> = self.drive.read(|disk| disk.history.iter().copied().collect());
        let after =
            history.into_iter().filter(|id| *id != at.id() && leads(&self.world, &self.drive, at.id(), *id).is_some());
        let number = |id: &RevisionId| self.world.borrow().header(*id).map(|header| header.number());
        after.max_by_key(number).map(|id| id.0.into()).unwrap_or_default()
    }

    /// The pack that has arrived goes into the history; with `stage` its revision is staged.
    async fn keep_ahead(&mut self, stage: bool) -> Result<Vec<Chunk>, Trouble> {
        let Some(Transfer { header, base, .. }) = &self.transfer else { return Ok(Vec::new()) };
        let (header, base) = (header.clone(), *base);
        if self.world.borrow().full.contains(&self.machine) {
            let (reason, cause) = ("the disk is full".to_owned(), Some(Cause::Space));
            return Err(Trouble { reason, cause, look: None, output: String::new() });
        }
        self.world.borrow_mut().obeys(self.machine, &header);
        self.world.borrow_mut().met.kept_ahead += u64::from(!base);
        let id = header.id();
        let keep = move |disk: &mut Disk| {
            disk.history.insert(id);
            disk.bases.extend(base.then_some(id));
        };
        self.drive.save(&format!("pack {} ahead", header.number()), keep).await;
        match (stage, &mut self.transfer) {
            (true, Some(transfer)) => transfer.pack = Pack::Here,
            _ => self.transfer = None,
        }
        Ok(Vec::new())
    }

    /// The command that validates what is staged.
    fn validate(&mut self) -> Validated {
        let header = self.transfer.as_ref().map(|transfer| transfer.header.clone());
        let mut world = self.world.borrow_mut();
        if !header.is_some_and(|header| world.refuses(self.machine, &header)) {
            return Validated::Good;
        }
        world.met.revisions_refused += 1;
        let (reason, output) = ("the check of its set fails".into(), String::new());
        Validated::Bad(Complaint { reason, output, unconfirmed: false })
    }

    /// Saves the pack, the replaced content, the sets, and then the position, which is the commit point.
    async fn switch(&mut self) -> Switched {
        let Transfer { header, pack, base, forked, .. } = self.transfer.take().expect("something is staged");
        let id = header.id();
        let refused = |reason: &str, cause| {
            Switched::Refused(Trouble { reason: reason.into(), cause, look: None, output: String::new() })
        };
        if matches!(pack, Pack::Filling(missing) if !missing.is_empty()) {
            return refused("a chunk is missing", None);
        }
        if self.world.borrow().full.contains(&self.machine) {
            return refused("the disk is full", Some(Cause::Space));
        }
        if self.world.borrow().refuses(self.machine, &header) {
            self.world.borrow_mut().met.revisions_refused += 1;
            return refused("the check of its set fails", None);
        }
        let keep = move |disk: &mut Disk| {
            disk.history.insert(id);
            disk.bases.extend(base.then_some(id));
        };
        if matches!(pack, Pack::Arriving) {
            self.world.borrow_mut().obeys(self.machine, &header);
            self.drive.save(&format!("pack {}", header.number()), keep).await;
        }
        let replaced = if base { self.replaced(id, forked) } else { Changes::default() };
        if !replaced.is_empty() {
            self.drive.save(&format!("kept copy {replaced:?}"), |disk| disk.kept = disk.kept.and(replaced)).await;
        }
        if forked {
            self.world.borrow_mut().replaces(self.machine, id);
        }
        self.drive
            .save(&format!("sets at {}", header.number()), |disk| {
                disk.sets.revision = Some(id);
                if base {
                    disk.sets.edits = Changes::default();
                }
            })
            .await;
        if matches!(pack, Pack::Filling(_)) {
            self.world.borrow_mut().obeys(self.machine, &header);
            self.drive.save(&format!("a base of {} from its sets", header.number()), keep).await;
        }
        let (at, root) = (Some(header.clone()), header.header().root);
        let what = format!("position {}", header.number());
        let unconfirmed = self.unconfirmed(&header);
        self.drive.save(&what, |disk| (disk.at, disk.fault, disk.unconfirmed) = (at, None, unconfirmed)).await;
        Switched::Done { root, stage_us: 0, switch_us: 0, kept: Vec::new(), edits: self.edits(), owed: false }
    }

    /// The way back from a revision that is to be confirmed, as the member's thread notes it.
    fn unconfirmed(&self, header: &SignedHeader) -> Option<(SignedHeader, u64)> {
        let (at, before) = self.drive.read(|disk| (disk.at.clone(), disk.unconfirmed.clone()));
        let at = at?;
        if at.id() == header.id() {
            return before;
        }
        let within_ms = self.record()?.record().policy.unconfirmed(header)?;
        Some((before.map_or(at, |(before, _)| before), self.now() + within_ms))
    }

    /// Looks whether the revision of the sets is confirmed by now, or goes back.
    pub(super) async fn look_for_confirmation(&mut self) {
        let (at, unconfirmed) = self.drive.read(|disk| (disk.at.clone(), disk.unconfirmed.clone()));
        let (Some(at), Some((_, until_ms)), Some(record)) = (at, unconfirmed, self.record()) else { return };
        if record.record().policy.unconfirmed(&at).is_none() {
            self.drive.save("that it is confirmed", |disk| disk.unconfirmed = None).await;
        } else if self.now() >= until_ms {
            let complaint = Complaint::unconfirmed(format!("nobody confirmed {}", at.number()));
            self.happens(Input::Unconfirmed(complaint)).await;
        }
    }

    async fn go_back(&mut self) -> Result<Returned, String> {
        let (before, _) = self.drive.read(|disk| disk.unconfirmed.clone()).ok_or("there is no revision before")?;
        let (id, at) = (before.id(), Some(before.clone()));
        self.drive.save(&format!("sets back at {}", before.number()), |disk| disk.sets.revision = Some(id)).await;
        self.drive.save("position", |disk| (disk.at, disk.unconfirmed) = (at, None)).await;
        self.world.borrow_mut().met.unconfirmed += 1;
        Ok(Returned { header: before, kept: Vec::new(), edits: self.edits() })
    }

    /// The content that a base replaces here and that must be kept (invariant 4): edits, files that a join replaces, and on a
    /// fork the content of the held revision that the new one lacks.
    fn replaced(&self, new: RevisionId, forked: bool) -> Changes {
        let (sets, held) = self.drive.read(|disk| (disk.sets, disk.at.is_some()));
        let world = self.world.borrow();
        let new = world.content(Some(new));
        let mut kept = sets.edits;
        if !held || (forked && self.rules.keep_forked) {
            kept = kept.and(world.content(sets.revision));
        }
        kept.without(new)
    }

    /// Puts edits away by the policy.
    async fn put_edits_away(&mut self) {
        let edits = self.drive.read(|disk| disk.sets.edits);
        self.drive.save(&format!("kept copy {edits:?}"), |disk| disk.kept = disk.kept.and(edits)).await;
        self.drive.save("sets without edits", |disk| disk.sets.edits = Changes::default()).await;
    }
}

/// The header of that revision, if it is `at`, or a later one whose tree the history on the disk has.
fn kept(world: &World, drive: &Drive, at: &SignedHeader, revision: RevisionId) -> Option<SignedHeader> {
    let age = |header: &SignedHeader| (header.number().epoch, header.number().sequence);
    let header = world.borrow().header(revision).filter(|_| drive.read(|disk| disk.history.contains(&revision)))?;
    (revision == at.id() || age(at) < age(&header)).then_some(header)
}

/// The header of that revision, if the history on the disk has all packs from `at` to it.
fn leads(world: &World, drive: &Drive, at: RevisionId, revision: RevisionId) -> Option<SignedHeader> {
    let world = world.borrow();
    let mut step = revision;
    while step != at {
        let has = drive.read(|disk| disk.history.contains(&step));
        step = world.header(step).filter(|_| has)?.header().parent?;
    }
    world.header(revision)
}

/// The chunk of a change.
pub(super) fn chunk(change: Change) -> Chunk {
    Chunk { hash: Hash::of(&[change]), length: 1 }
}
