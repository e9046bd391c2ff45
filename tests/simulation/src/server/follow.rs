//! The member: hears its manager's hello, takes revisions, reports.

use bellwether::member::{
    greeting::{self, Here},
    incoming::Heard,
};
use bellwether_proto::{
    admission::Authority,
    key::PublicKey,
    record::chain,
    revision::{RevisionId, SignedHeader},
    v1::{self, down, up},
};

use super::{Purpose, Server};
use crate::{
    changes::Changes,
    net::Number,
    packet::{Body, Refused},
};

/// A pack that is arriving.
pub(super) struct Receiving {
    number: Number,
    header: SignedHeader,
    offer: v1::Offer,
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

    /// As the task of a stream does it.
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
            Heard::Pass(message) => self.passed(number, message).await?,
            Heard::Ignore => {}
        }
        Ok(())
    }

    async fn passed(&mut self, number: Number, message: down::Message) -> Result<(), Refused> {
        match message {
            down::Message::Head(head) => self.heard(head),
            down::Message::Offer(offer) => self.offered(number, offer).await,
            down::Message::Slice(slice) => self.slice(number, &slice).await,
            down::Message::Sync(_) => self.sync_told(number).await,
            down::Message::Fence(fence) => self.fenced(fence.reason).await,
            _ => Ok(()),
        }
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
            }
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

    /// Asks a rule about this server as its disk has it.
    pub(super) fn here<T>(&self, ask: impl FnOnce(Here<'_>) -> Result<T, greeting::Refused>) -> Result<T, Refused> {
        let Some(record) = self.record() else {
            return Err(Refused { reason: "this machine belongs to no group".into(), ..Refused::default() });
        };
        Ok(ask(Here { own: &self.key.public(), record: record.record() })?)
    }

    /// This server's state went back, says the manager: it holds nothing that is known, and takes nothing until a sync. Its
    /// sets stay as they are.
    async fn fenced(&mut self, reason: String) -> Result<(), Refused> {
        self.drive.save("that it is kept out", |disk| (disk.at, disk.fault) = (None, Some(reason))).await;
        Ok(())
    }

    pub(super) fn heard(&mut self, head: v1::SignedHeader) -> Result<(), Refused> {
        if let Ok(head) = SignedHeader::from_wire(head) {
            self.seen.insert(head.id());
        }
        Ok(())
    }

    fn authority(&self, of: &SignedHeader) -> Option<Authority> {
        let held = self.drive.read(|disk| disk.held.clone())?;
        let manager = chain::manager_of(&held.chain, &held.current, of.number().epoch);
        let record = held.current.record();
        Some(Authority { group: record.group, epoch: record.version.epoch, manager })
    }

    /// As the member's thread starts: what this server led is where it is, and what a crash interrupted is taken back.
    pub(super) async fn begin_to_follow(&mut self) {
        if self.drive.read(|disk| disk.leads) {
            let newest = self.newest();
            self.drive.save("position where it led", |disk| (disk.at, disk.leads) = (newest, false)).await;
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

    /// What this server published before it noted that it leads: no switch brought that into its files, so none is taken
    /// back, and to a member it is an edit.
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

    async fn offered(&mut self, number: Number, offer: v1::Offer) -> Result<(), Refused> {
        self.receiving = None;
        let Some(wire) = offer.header.clone() else { return Ok(()) };
        let header = SignedHeader::from_wire(wire).expect("a header of this simulation");
        let Some(authority) = self.authority(&header) else { return Ok(()) };
        let (at, fault) = self.drive.read(|disk| (disk.at.clone(), disk.fault.clone()));
        let admitted = fault.map_or(Ok(()), |fault| Err(format!("in error: {fault}")));
        let admitted = admitted.and_then(|()| (self.rules.admit)(&authority, at.as_ref(), &header, offer.base));
        match admitted {
            Ok(()) => self.receiving = Some(Receiving { number, header, offer }),
            Err(reason) => self.report(number, &header, v1::Outcome::Refused, reason),
        }
        Ok(())
    }

    /// Bytes of what was offered. What it makes of the sets is known by the changes; of a base the rest is asked for.
    async fn slice(&mut self, number: Number, slice: &v1::Slice) -> Result<(), Refused> {
        let arrived = slice.offset + slice.data.len() as u64;
        match self.receiving.take_if(|receiving| receiving.number == number) {
            Some(Receiving { header, offer, .. }) if arrived == offer.size => {
                self.world.borrow_mut().obeys(self.machine, &header);
                let id = header.id();
                let keep = |disk: &mut crate::disk::Disk| {
                    disk.history.insert(id);
                };
                self.drive.save(&format!("pack {}", header.number()), keep).await;
                self.switch(&header, offer.base, offer.forked).await;
                self.report(number, &header, v1::Outcome::Done, String::new());
            }
            Some(receiving) => {
                let rest = v1::Range { from: arrived, to: receiving.offer.size };
                self.receiving = Some(receiving);
                self.up_to(number, up::Message::Want(v1::Want { want: Some(v1::want::Want::Range(rest)) }));
            }
            None => {}
        }
        Ok(())
    }

    /// A sync begins: what is held is made so again, and reported.
    async fn sync_told(&mut self, number: Number) -> Result<(), Refused> {
        self.receiving = None;
        self.put_edits_away().await;
        if let Some(at) = self.drive.read(|disk| disk.at.clone()) {
            self.report(number, &at, v1::Outcome::Done, String::new());
        }
        Ok(())
    }

    /// The sets, then the position: the commit point.
    async fn switch(&mut self, header: &SignedHeader, base: bool, forked: bool) {
        let kept = if base { self.replaced(header.id(), forked) } else { Changes::default() };
        if !kept.is_empty() {
            self.drive.save(&format!("recovery point {kept:?}"), |disk| disk.kept = disk.kept.and(kept)).await;
        }
        let id = header.id();
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
        let at = Some(header.clone());
        self.drive.save(&format!("position {}", header.number()), |disk| disk.at = at).await;
    }

    /// What a base replaces here and must be kept (invariant 4): edits, what a join replaces, and on a fork what the
    /// revision that is held has and the new one has not.
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

    /// A sync puts edits away.
    async fn put_edits_away(&mut self) {
        let (edits, fault) = self.drive.read(|disk| (disk.sets.edits, disk.fault.is_some()));
        if fault {
            self.drive.save("that it is in error no more", |disk| disk.fault = None).await;
        }
        if !edits.is_empty() {
            self.drive.save(&format!("recovery point {edits:?}"), |disk| disk.kept = disk.kept.and(edits)).await;
            self.drive.save("sets without edits", |disk| disk.sets.edits = Changes::default()).await;
        }
    }

    fn report(&self, number: Number, header: &SignedHeader, outcome: v1::Outcome, reason: String) {
        let (revision, outcome) = (header.id().0.into(), outcome.into());
        let root = bytes::Bytes::copy_from_slice(header.header().root.as_bytes());
        self.up_to(number, up::Message::Report(v1::Report { revision, outcome, reason, root, ..Default::default() }));
    }

    pub(super) fn up_to(&self, number: Number, message: up::Message) {
        self.send(number, Body::Up(v1::Up { message: Some(message) }));
    }
}
