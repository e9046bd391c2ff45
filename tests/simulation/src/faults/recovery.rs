//! Lost machines, and people's actions then (W22–W27): a recovery is begun, its questions are answered, it is resumed or
//! aborted, and the machine is repaired. Or the machine comes back unannounced, by another fault.

use bellwether_group::{procedure::Kind, takeover::Insists};
use bellwether_random::Rng;

use super::{Faults, command, cut, heal, machines, managers};

use crate::{disk::Disk, history::History, invariants::unfinished, keys, world::Command};

/// The time of the next event, and the lost machines.
pub(super) struct Recoveries {
    rng: Rng,
    next_ms: u64,
    /// The lost manager.
    lost: Option<usize>,
    /// A candidate that lacks revisions of the others.
    behind: Option<usize>,
}

impl Recoveries {
    /// Recoveries in some histories.
    pub(super) fn new(mut rng: Rng) -> Option<Self> {
        rng.one_in(3).then_some(Self { rng, next_ms: 500, lost: None, behind: None })
    }
}

impl Faults {
    /// Executes the due event.
    pub(super) fn recover(&mut self, history: &mut History) {
        let now = history.now();
        let Some(mut recoveries) = self.recoveries.take_if(|recoveries| now >= recoveries.next_ms) else { return };
        recoveries.next_ms = now + 50 + recoveries.rng.below(300) as u64;
        self.go_on_recovering(history, &mut recoveries);
        self.recoveries = Some(recoveries);
    }

    fn go_on_recovering(&mut self, history: &mut History, recoveries: &mut Recoveries) {
        let Recoveries { rng, lost, behind, next_ms: _ } = recoveries;
        let drives = drivers(history);
        if let Some(candidate) = behind.take() {
            heal(history);
            *lost = self.lose_manager(history, rng).or(*lost);
            return recover_at(history, candidate, true, rng);
        }
        match rng.below(13) {
            12 => *behind = self.leave_behind(history, rng),
            0 | 1 => self.lose_member(history, rng),
            2 => *lost = self.lose_manager(history, rng).or(*lost),
            3..=5 => recover_manager(history, rng, *lost),
            6..=8 => _ = pick(&drives, rng).map(|machine| command(history, machine, Command::GoOn { attest: true })),
            9 => _ = pick(&drives, rng).map(|machine| command(history, machine, Command::GoOn { attest: false })),
            10 if rng.one_in(3) => _ = pick(&drives, rng).map(|machine| command(history, machine, Command::GiveUp)),
            _ if rng.one_in(2) => self.restart(history),
            _ => heal(history),
        }
    }

    fn lose(&mut self, history: &mut History, machine: usize, rng: &mut Rng) {
        if rng.one_in(2) { self.crash(history, machine) } else { cut(history, machine) }
    }

    fn lose_member(&mut self, history: &mut History, rng: &mut Rng) {
        let (all, leads) = (machines(history), managers(history));
        let Some(manager) = pick(&leads, rng) else { return };
        let Some(machine) = pick(&all, rng).filter(|machine| *machine != manager) else { return };
        self.lose(history, machine, rng);
        let server = history.world.borrow().disks[machine].name.clone();
        let kind = Kind::RecoverMember { server, remove: rng.one_in(4) };
        command(history, manager, Command::Begin(kind));
    }

    /// Cuts a candidate off, and lets the others get a change that it does not hear of.
    fn leave_behind(&mut self, history: &mut History, rng: &mut Rng) -> Option<usize> {
        let manager = pick(&managers(history), rng)?;
        let candidate = pick(&followers(history, manager), rng)?;
        cut(history, candidate);
        self.put(history, manager);
        Some(candidate)
    }

    fn lose_manager(&mut self, history: &mut History, rng: &mut Rng) -> Option<usize> {
        let manager = pick(&managers(history), rng)?;
        self.lose(history, manager, rng);
        Some(manager)
    }
}

/// Begins a recovery at one of the candidates of the lost manager.
fn recover_manager(history: &History, rng: &mut Rng, lost: Option<usize>) {
    let able = lost.map(|lost| followers(history, lost)).unwrap_or_default();
    if let Some(machine) = pick(&able, rng) {
        let force = rng.one_in(4);
        recover_at(history, machine, force, rng);
    }
}

fn recover_at(history: &History, machine: usize, force: bool, rng: &mut Rng) {
    let insists = Insists { force, accept: force };
    command(history, machine, Command::RecoverManager { remove: rng.one_in(4), insists });
}

/// The candidates that have that machine as their manager.
fn followers(history: &History, manager: usize) -> Vec<usize> {
    let world = history.world.borrow();
    let key = keys::public(world.disks[manager].key);
    let follows = |disk: &Disk| {
        let record = disk.record().map(|record| record.record());
        let own = record.and_then(|record| record.by_key(&keys::public(disk.key)));
        own.is_some_and(|own| own.candidate) && record.is_some_and(|record| record.manager().key == key)
    };
    let all = world.machines().filter(|machine| *machine != manager);
    all.filter(|machine| follows(&world.disks[*machine])).collect()
}

/// The machines with an unfinished procedure.
fn drivers(history: &History) -> Vec<usize> {
    let world = history.world.borrow();
    world.machines().filter(|machine| unfinished(&world.disks[*machine]).is_some()).collect()
}

fn pick(from: &[usize], rng: &mut Rng) -> Option<usize> {
    (!from.is_empty()).then(|| from[rng.below(from.len())])
}
