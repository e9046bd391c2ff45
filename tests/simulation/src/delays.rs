//! Events that keep members from a revision for a while: full disks, edits that the policy protects, held propagation.

use bellwether_group::edits::{PolicyChange, RecordEdit};
use bellwether_proto::record::OnDrift;
use bellwether_random::Rng;

use crate::{
    faults::{command, managers},
    history::History,
    world::Command,
};

/// The time at which the next delay begins or ends.
pub(crate) struct Delays {
    rng: Rng,
    next_ms: u64,
}

impl Delays {
    /// Delays in some histories.
    pub(crate) fn new(mut rng: Rng) -> Option<Self> {
        rng.one_in(2).then_some(Self { rng, next_ms: 350 })
    }

    /// Begins or ends the due delay.
    pub(crate) fn go_on(&mut self, history: &mut History) {
        if history.now() < self.next_ms {
            return;
        }
        self.next_ms = history.now() + 100 + self.rng.below(500) as u64;
        let confirming = history.world.borrow().confirming;
        if let Some(manager) = managers(history).first().filter(|_| confirming && self.rng.one_in(3)) {
            return command(history, *manager, Command::ConfirmHead);
        }
        let waves = history.world.borrow().refusing;
        if let Some(manager) = managers(history).first().filter(|_| waves && self.rng.one_in(6)) {
            return command(history, *manager, Command::Rollout { stop: true });
        }
        let edit = match self.rng.below(5) {
            0..=2 => {
                let machine = self.rng.below(history.servers);
                let mut world = history.world.borrow_mut();
                if !world.full.remove(&machine) {
                    world.full.insert(machine);
                }
                return world.tell(machine, || "has another disk space now".to_owned());
            }
            3 => {
                let drift = [OnDrift::Report, OnDrift::Revert, OnDrift::Hold][self.rng.below(3)];
                RecordEdit::Policy(Box::new(PolicyChange { drift: Some(drift), ..PolicyChange::default() }))
            }
            _ => RecordEdit::Paused(self.rng.one_in(2)),
        };
        if let Some(manager) = managers(history).first() {
            history.world.borrow_mut().met.paused += u64::from(matches!(edit, RecordEdit::Paused(true)));
            command(history, *manager, Command::EditRecord(edit));
        }
    }

    /// Begins the peace: every disk has space, and no machine refuses a revision.
    pub(crate) fn end(history: &History) {
        let mut world = history.world.borrow_mut();
        world.full.clear();
        world.refusing = false;
    }
}
