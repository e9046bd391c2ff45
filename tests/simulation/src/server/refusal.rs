//! A candidate that is not to be trusted, and root's answer: the group is rebuilt without its key at one server, and confirmed
//! at each other one.

use bellwether_group::key_refusal;
use bellwether_proto::{
    key::PublicKey,
    limits,
    record::{Record, Role, SignedRecord},
    revision::Epoch,
};

use super::{Purpose, Server};
use crate::disk::Held;

impl Server {
    /// Makes this hostile candidate take the role by so many epochs, with no other candidate. It leads on like any manager.
    pub(super) async fn usurp(&mut self, by: u64) {
        let Some(held) = self.record() else { return };
        let own = self.key.public();
        let mut record = held.record().clone();
        if record.by_key(&own).is_none() {
            return;
        }
        for server in &mut record.servers {
            server.role = if server.key == own { Role::Manager } else { Role::Member };
            server.candidate = server.key == own;
        }
        record.version.epoch = Epoch((record.version.epoch.0 + by).min(limits::COUNT));
        record.version.version += 1;
        self.taking = None;
        if let Ok(signed) = SignedRecord::sign(record, &self.key) {
            let mut chain = self.drive.read(|disk| disk.held.clone()).map(|held| held.chain).unwrap_or_default();
            bellwether_proto::record::chain::extend(&mut chain, &held, &signed);
            self.hold(Held { current: signed, chain }).await;
        }
    }

    /// The newest record that counts without these keys.
    pub(super) fn without(&self, held: &Held, refused: &[PublicKey], seen: Epoch) -> Result<Record, String> {
        let own = self.key.public();
        key_refusal::next_record(&held.current, &held.chain, refused, &own, seen, &self.by()).map_err(|e| e.to_string())
    }

    /// Root of this machine confirms a group that was rebuilt on another server. If the epoch goes back, the held content
    /// counts as unknown; the sets stay, and the history is kept.
    pub(super) async fn follow_rebuilt(&mut self, rebuilt: Held) {
        let Some(before) = self.record() else { return };
        let named = rebuilt.current.record().by_key(&self.key.public()).is_some();
        if !named || rebuilt.current.record().refused.iter().all(|key| before.record().refused.contains(key)) {
            return;
        }
        self.taking = None;
        self.handing = None;
        self.close_lanes();
        self.close_all(&Purpose::Followed);
        if before.record().version.epoch >= rebuilt.current.record().version.epoch {
            self.seen.clear();
            self.world.borrow_mut().met.went_back_by_root += 1;
            self.drive
                .save("what the refused key made aside", |disk| {
                    let history = std::mem::take(&mut disk.history);
                    disk.before.extend(history);
                    (disk.at, disk.leads, disk.ticket, disk.fault) = (None, false, None, None);
                })
                .await;
        }
        self.world.borrow_mut().met.confirmed += 1;
        self.hold(rebuilt).await;
    }
}
