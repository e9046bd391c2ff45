//! The state of each lane, for fault finding. The lanes write it, and a reader waits for none of them.

use std::sync::{Arc, Mutex, Weak};

use bellwether_proto::{name::ServerName, revision::Number};
use bellwether_store::mutex::locked;
use serde::Serialize;

/// The phase of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It connects to its server.
    Dialling,
    /// It is connected, and nothing is under way.
    Idle,
    /// Its server takes one change.
    Updating,
    /// Its server is brought to the head from whatever it has.
    Syncing,
    /// The connection is lost; it dials again later.
    Waiting,
}

/// A lane at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaneView {
    /// The server that it talks to.
    pub server: ServerName,
    /// Its phase.
    pub phase: Phase,
    /// The revision that the server holds; none: none of this group's, or it is not connected.
    pub at: Option<Number>,
    /// The revision that it is being brought to.
    pub to: Option<Number>,
    /// The unsent part of that revision's pack.
    pub in_flight: Option<InFlight>,
}

/// A pack that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InFlight {
    /// Its bytes.
    pub size: u64,
    /// Bytes that were asked for or offered, and are not sent yet.
    pub unsent_bytes: u64,
    /// Chunks that were asked for by hash, and are not sent yet.
    pub unsent_chunks: usize,
}

/// The place to which one lane writes its state.
#[derive(Debug)]
pub(crate) struct View(Arc<Mutex<LaneView>>);

impl View {
    /// Writes the lane's phase, and that nothing more is known.
    pub(super) fn set(&self, phase: Phase) {
        self.show(phase, None, None, None);
    }

    /// Writes all of it.
    pub(super) fn show(&self, phase: Phase, at: Option<Number>, to: Option<Number>, in_flight: Option<InFlight>) {
        let mut view = locked(&self.0);
        (view.phase, view.at, view.to, view.in_flight) = (phase, at, to, in_flight);
    }
}

/// All lanes.
#[derive(Debug, Default)]
pub(crate) struct Views(Mutex<Vec<Weak<Mutex<LaneView>>>>);

impl Views {
    /// Opens a new lane's view, which lasts until it is dropped.
    pub(crate) fn open(&self, server: ServerName) -> View {
        let view = LaneView { server, phase: Phase::Dialling, at: None, to: None, in_flight: None };
        let view = Arc::new(Mutex::new(view));
        let mut all = locked(&self.0);
        all.retain(|lane| lane.strong_count() > 0);
        all.push(Arc::downgrade(&view));
        View(view)
    }

    /// The present states of the lanes.
    pub(crate) fn all(&self) -> Vec<LaneView> {
        let all: Vec<_> = locked(&self.0).iter().filter_map(Weak::upgrade).collect();
        all.iter().map(|lane| locked(lane).clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_shown_until_it_ends() {
        let views = Views::default();
        let (one, other) = (views.open("web2".parse().unwrap()), views.open("web3".parse().unwrap()));
        one.set(Phase::Waiting);
        assert_eq!(views.all().iter().map(|lane| lane.phase).collect::<Vec<_>>(), [Phase::Waiting, Phase::Dialling]);
        drop(one);
        assert_eq!(views.all().iter().map(|lane| lane.server.as_str()).collect::<Vec<_>>(), ["web3"]);
        drop(other);
    }
}
