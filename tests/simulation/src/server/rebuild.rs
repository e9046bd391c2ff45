//! Rebuilds the group at its manager (W13, W14): the content of its sets becomes the truth, in any state of the history.

use std::collections::BTreeMap;

use bellwether_group::takeover::{Answer, Insists};
use bellwether_manager::begin::rebuild;
use bellwether_proto::{
    hash::Hash,
    key::PublicKey,
    name::ServerName,
    record::{SignedRecord, chain},
    revision::{Epoch, Number, SignedHeader},
};

use super::{Purpose, Server, Standing, takeover::Then};
use crate::{
    changes::Changes,
    disk::{Disk, Held, Sets},
};

impl Server {
    /// Asks all other servers first. No role runs meanwhile.
    pub(super) fn begin_rebuild(&mut self, refused: Vec<PublicKey>) {
        let may = self.standing() == Some(Standing::Manager) || (!refused.is_empty() && self.record().is_some());
        if self.taking.is_none() && may {
            self.survey(Then::Rebuild(refused), Insists { force: true, accept: true });
        }
    }

    /// Saves the new base beside the history, then the record, and then replaces the old history by the new one.
    pub(super) async fn rebuild_group(&mut self, answers: BTreeMap<ServerName, Answer>, refused: &[PublicKey]) {
        let Some(held) = self.drive.read(|disk| disk.held.clone()) else { return };
        if self.standing() != Some(Standing::Manager) && refused.is_empty() {
            return;
        }
        self.handing = None;
        self.close_lanes();
        let signed = |header: &&SignedHeader| {
            let manager = chain::manager_of(&held.chain, &held.current, header.number().epoch);
            manager.is_some_and(|manager| header.signed_by(&manager) && !refused.contains(&manager))
        };
        let kept = self.kept();
        let theirs = |header: &&SignedHeader| refused.iter().any(|key| header.signed_by(key));
        let own = kept.newest.as_ref().filter(|newest| !theirs(newest)).map(SignedHeader::number);
        let theirs: Vec<&SignedHeader> =
            answers.values().flat_map(|answer| answer.seen.iter().chain(&answer.at)).filter(signed).collect();
        let numbers = || theirs.iter().map(|header| header.number()).chain(own);
        let epoch = held.current.record().version.epoch;
        let told = answers.values().map(|answer| rebuild::told(epoch, answer.record.epoch));
        let seen = Number {
            epoch: numbers().map(|number| number.epoch).chain(told).max().unwrap_or(Epoch(1)),
            sequence: numbers().map(|number| number.sequence).max().unwrap_or(0),
        };
        let lost: Vec<String> =
            theirs.iter().filter(|header| kept.lacks(header)).map(|header| format!("{} ", header.number())).collect();
        self.world.borrow_mut().tell(self.machine, || format!("rebuilds the group; lost: {lost:?}"));
        let (revision, edits) = self.in_sets();
        let content = self.world.borrow().content(revision).and(edits);
        let record = match refused.is_empty() {
            true => rebuild::next_record(&held.current, seen.epoch, &self.by()).map_err(|e| e.to_string()),
            false => self.without(&held, refused, seen.epoch),
        };
        let record = match record {
            Ok(record) => record,
            Err(why) => return self.world.borrow_mut().tell(self.machine, || format!("does not rebuild: {why}")),
        };
        let number = seen.next(record.version.epoch).expect("a number follows");
        let header = rebuild::first_header(&record, number, self.start, &self.by(), Hash::of(&content.bytes()));
        let header = SignedHeader::sign(header, &self.key);
        let id = header.id();
        self.world.borrow_mut().learn(header, content);
        self.list(&answers, &lost);
        self.drive.save("a new base beside its history", |disk| disk.fresh = Some(id)).await;
        let record = SignedRecord::sign(record, &self.key).expect("the rules make good records");
        let mut links = held.chain;
        chain::extend(&mut links, &held.current, &record);
        let what = format!("record {} of the group rebuilt", record.record().version);
        self.drive.save(&what, |disk| disk.held = Some(Held { current: record, chain: links })).await;
        let old = {
            let world = self.world.borrow();
            let history = &world.disks[self.machine].history;
            history.iter().fold(Changes::default(), |sum, id| sum.and(world.content(Some(*id)))).without(content)
        };
        let take_place = |disk: &mut Disk| {
            disk.kept = disk.kept.and(old);
            let before = std::mem::replace(&mut disk.history, [id].into());
            disk.before.extend(before);
            disk.bases.insert(id);
            disk.sets = Sets { revision: Some(id), edits: Changes::default() };
            (disk.fresh, disk.halted, disk.fault) = (None, None, None);
        };
        self.drive.save("the new history in the place of the old one", take_place).await;
        self.world.borrow_mut().met.rebuilt += 1;
        self.world.borrow_mut().met.rebuilt_without += u64::from(!refused.is_empty());
        self.close_all(&Purpose::Followed);
        self.settle_role().await;
    }
}
