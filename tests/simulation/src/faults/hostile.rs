//! An attacker has the key of a candidate. It takes the role again and again: by small steps, by the longest that others
//! follow, and by steps that would use the epochs up.

use bellwether_proto::limits;
use bellwether_random::Rng;

use super::command;

use crate::{history::History, keys, world::Command};

/// The time of the next attack.
pub(super) struct Attack {
    rng: Rng,
    next_ms: u64,
    left: usize,
}

impl Attack {
    /// An attack in some histories.
    pub(super) fn new(mut rng: Rng) -> Option<Self> {
        rng.one_in(5).then(|| {
            let next_ms = 500 + rng.below(4_000) as u64;
            let left = 1 + rng.below(5);
            Self { rng, next_ms, left }
        })
    }

    /// Executes the due attack. Histories with copies and backups have none.
    pub(super) fn go_on(&mut self, history: &mut History) {
        if history.now() < self.next_ms || self.left == 0 || history.spare.is_some() {
            return;
        }
        self.next_ms = history.now() + 100 + self.rng.below(800) as u64;
        let Some(machine) = self.machine(history) else { return };
        self.left -= 1;
        history.world.borrow_mut().hostile = Some(machine);
        let by = match self.rng.below(4) {
            0 => 2,
            1 | 2 => limits::EPOCH_STEP,
            // Only the last attack has this step, since nothing can follow its record.
            _ if self.left == 0 => limits::COUNT,
            _ => 1,
        };
        command(history, machine, Command::Usurp { by });
    }

    /// The hostile machine; at first a candidate that does not lead.
    fn machine(&mut self, history: &History) -> Option<usize> {
        let world = history.world.borrow();
        if world.hostile.is_some() {
            return world.hostile;
        }
        let machine = self.rng.below(history.servers);
        let key = keys::public(machine);
        let record = world.disks[machine].record().map(|record| record.record());
        let may = record.is_some_and(|r| r.manager().key != key && r.by_key(&key).is_some_and(|own| own.candidate));
        (may && !world.is_manager_of_any(&key)).then_some(machine)
    }
}
