//! Changes at the manager: an edit in its sets is published by itself, and a client's change is acknowledged once durable.

use std::collections::BTreeMap;

use bellwether_manager::begin::epoch;
use bellwether_member::follower::{Follower, Input, Look};
use bellwether_proto::{
    hash::Hash,
    revision::{Header, Number, REPLACES, RevisionId, SignedHeader},
};

use super::Server;
use crate::{
    changes::Change,
    changes::Changes,
    disk::{Disk, Held, Sets},
};

impl Server {
    /// A client's change. Other servers than the manager refuse it (W11), and the manager does while it hands the role over.
    pub(super) async fn put(&mut self, change: Change) {
        if self.leads() && !self.rival && self.handing.is_none() && !self.is_held() {
            self.edit_here(change).await;
            self.publish().await;
            if self.drive.read(|disk| disk.sets.edits.is_empty()) {
                self.world.borrow_mut().promise(self.machine, change);
            }
        }
    }

    /// An edit by hand: it is published at the manager, and drift at other servers. In both cases it must not get lost.
    pub(super) async fn edit(&mut self, change: Change) {
        self.edit_here(change).await;
        self.world.borrow_mut().promise(self.machine, change);
        self.publish().await;
        if !self.leads() {
            self.happens(Input::Changed(Look::Stats)).await;
        }
    }

    async fn edit_here(&mut self, change: Change) {
        let what = format!("change {change} in its sets");
        self.drive.save(&what, |disk| disk.sets.edits = disk.sets.edits.and(Changes::one(change))).await;
    }

    /// Makes a revision of the manager's edits. The revision is in the history before any server hears of it.
    pub(super) async fn publish(&mut self) {
        let edits = self.drive.read(|disk| disk.sets.edits);
        if !self.leads() || self.rival || self.handing.is_some() || edits.is_empty() || self.is_held() {
            return;
        }
        self.commit(edits).await;
    }

    /// Makes the first revision of this manager's epoch, which changes nothing.
    pub(super) async fn begin_epoch(&mut self) {
        let epoch = self.record().expect("it leads").record().version.epoch;
        if let Some(head) = self.head().filter(|head| head.number().epoch != epoch) {
            // Content of the sets that the head does not have counts as edits: it stays, and is published.
            let there = self.drive.read(|disk| disk.sets);
            let world = self.world.clone();
            let edits = {
                let world = world.borrow();
                there.edits.and(world.content(there.revision).without(world.content(Some(head.id()))))
            };
            if there.revision != Some(head.id()) {
                let sets = Sets { revision: Some(head.id()), edits };
                self.drive.save("sets on top of the head", |disk| disk.sets = sets).await;
            }
            let record = self.record().expect("it leads");
            let header = epoch::first_header(record.record(), &head, self.start, self.now()).expect("a number follows");
            self.keep(SignedHeader::sign(header, &self.key), Changes::default()).await;
        }
        self.publish().await;
    }

    async fn commit(&mut self, changes: Changes) {
        let (Some(record), Some(head)) = (self.record(), self.head()) else { return };
        self.keep(self.sign(&record, &head, changes), changes).await;
    }

    /// Keeps a revision with these changes to the previous one, and shows it after that.
    async fn keep(&mut self, header: SignedHeader, changes: Changes) {
        let content = self.world.borrow().content(header.header().parent).and(changes);
        self.keep_with(header, content, changes).await;
    }

    /// As before, with that content; `changes` are no edits any more.
    pub(super) async fn keep_with(&mut self, header: SignedHeader, content: Changes, changes: Changes) {
        self.world.borrow_mut().learn(header.clone(), content);
        if !self.rules.save_first {
            self.show_head(&header);
        }
        let id = header.id();
        self.drive
            .save(&format!("revision {} with {changes:?}", header.number()), |disk| {
                disk.history.insert(id);
                disk.sets.revision = Some(id);
                disk.sets.edits = disk.sets.edits.without(changes);
            })
            .await;
        self.show_head(&header);
    }

    fn sign(
        &self,
        record: &bellwether_proto::record::SignedRecord,
        head: &SignedHeader,
        changes: Changes,
    ) -> SignedHeader {
        let content = self.world.borrow().content(Some(head.id())).and(changes);
        let message = format!("{changes:?}");
        let replaced = self.plan.replaceable(head.id()).map(|status| status.revision);
        let labels = replaced.map(|replaced| (REPLACES.to_owned(), replaced.to_string())).into_iter().collect();
        self.signed(record, head, content, (message, labels))
    }

    /// A revision after `head` with that content, message and labels.
    pub(super) fn signed(
        &self,
        record: &bellwether_proto::record::SignedRecord,
        head: &SignedHeader,
        content: Changes,
        (message, labels): (String, BTreeMap<String, String>),
    ) -> SignedHeader {
        let (epoch, sequence) = (record.record().version.epoch, head.number().sequence + 1);
        let header = Header {
            group: record.record().group,
            number: Number { epoch, sequence },
            parent: Some(head.id()),
            manager: self.name.clone(),
            incarnation: self.start,
            time_ms: self.now(),
            author: String::new(),
            message,
            labels,
            root: Hash::of(&content.bytes()),
        };
        SignedHeader::sign(header, &self.key)
    }

    /// This manager's head at its start: the newest revision of its epoch, or else the one that its sets held as a member.
    pub(super) fn head(&self) -> Option<SignedHeader> {
        let world = self.world.borrow();
        let disk = &world.disks[self.machine];
        let epoch = disk.record()?.record().version.epoch;
        let newest = self.newest();
        let of_epoch = newest.clone().filter(|head| head.number().epoch == epoch);
        let held = disk.at.clone().filter(|at| disk.history.contains(&at.id()));
        of_epoch.or(held).or(newest)
    }

    /// Dissolves the group on this server (W22): its record, position and history go, the sets and the kept copies stay.
    pub(super) async fn leave(&mut self) {
        let forget = |disk: &mut Disk| {
            (disk.held, disk.at) = (None, None);
            (disk.leads, disk.halted, disk.fault) = (false, None, None);
            (disk.ticket, disk.fresh, disk.procedures) = (None, None, None);
            disk.sessions.clear();
            disk.history.clear();
        };
        self.drive.save("nothing of the group any more", forget).await;
        self.world.borrow_mut().forget_whom_it_obeyed(self.machine);
        // The agent ends, and all connections with it.
        self.taking = None;
        self.follower = Follower::new(self.name.clone());
        self.transfer = None;
        self.links.clear();
        self.lanes.clear();
        self.settle_role().await;
    }

    /// Enters with the record from the manager.
    pub(super) async fn enter(&mut self, held: Held) {
        if self.standing().is_none() {
            self.hold(held).await;
        }
    }

    /// The revision that the sets hold, with edits.
    pub(super) fn in_sets(&self) -> (Option<RevisionId>, Changes) {
        self.drive.read(|disk| (disk.sets.revision, disk.sets.edits))
    }

    /// The newest revision of the history: the highest epoch, then sequence.
    pub(super) fn newest(&self) -> Option<SignedHeader> {
        let world = self.world.borrow();
        let history = world.disks[self.machine].history.iter();
        history.filter_map(|id| world.header(*id)).max_by_key(|header| (header.number(), header.id()))
    }
}
