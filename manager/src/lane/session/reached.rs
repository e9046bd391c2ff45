//! What is known of a server for as long as its connection lives.

use bellwether_proto::{record::Version, revision::Epoch};

use crate::{lane::Lane, shared::Live};

/// While it lives, the server is reached. Dropped with the lane, too, when that is aborted.
pub(super) struct Reached<'a>(pub(super) &'a Lane);

impl Reached<'_> {
    pub(super) fn at(lane: &Lane, incarnation: u64) {
        lane.shared.live.send_modify(|live| {
            live.insert(lane.server.name.clone(), Live { incarnation, beat: 0 });
        });
    }

    pub(super) fn beats(lane: &Lane, beat: u64) {
        lane.shared.live.send_modify(|live| {
            live.entry(lane.server.name.clone()).and_modify(|live| live.beat = live.beat.max(beat));
        });
    }

    pub(super) fn has(lane: &Lane, version: Version) {
        lane.shared.records.send_modify(|records| {
            records.insert(lane.server.name.clone(), version);
        });
    }

    pub(super) fn knows(lane: &Lane, procedures: (Epoch, u64)) {
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
