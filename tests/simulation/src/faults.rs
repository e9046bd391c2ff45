//! The events of the farm: changes, crashes, partitions, promotions, restores, returns, drawn from the seed.

mod hostile;
mod recovery;

use std::collections::BTreeSet;

use bellwether_group::{edits::RecordEdit, procedure::Kind, roles::Leave};
use bellwether_random::Rng;

use self::{hostile::Attack, recovery::Recoveries};

use crate::{
    changes::{Change, MOST},
    disk::{Arm, Disk},
    history::{History, host, name},
    world::Command,
};

/// The script: the time of the next event, and the number of events that are left.
pub(crate) struct Faults {
    left: usize,
    next_ms: u64,
    change: Change,
    /// Machines that do not run.
    down: BTreeSet<usize>,
    /// Backups of disks.
    backups: Vec<(usize, Disk)>,
    /// The kinds of faults in this history, since some faults happen only in some histories.
    restores: bool,
    leaves: bool,
    rebuilds: bool,
    maintains: bool,
    recoveries: Option<Recoveries>,
    attack: Option<Attack>,
}

impl Faults {
    /// `aside` draws the recoveries, so that histories without any do not depend on them.
    pub(crate) fn new(rng: &mut Rng, mut aside: Rng) -> Self {
        let attack = Rng::new(aside.number());
        let attack = Attack::new(attack);
        let mut faults = Self {
            left: 10 + rng.below(30),
            next_ms: 300,
            change: 0,
            down: BTreeSet::new(),
            backups: Vec::new(),
            restores: rng.one_in(4),
            leaves: rng.one_in(3),
            rebuilds: rng.one_in(6),
            maintains: rng.one_in(3),
            recoveries: Recoveries::new(aside),
            attack,
        };
        // A machine from before the attack may know only records that the hostile key made.
        faults.attack = faults.attack.filter(|_| !faults.restores);
        faults
    }

    /// Executes the due event; false if all events have happened.
    pub(crate) fn go_on(&mut self, history: &mut History) -> bool {
        self.note_crashes(history);
        if history.now() >= self.next_ms {
            self.next_ms = history.now() + 20 + history.rng.below(400) as u64;
            self.left -= 1;
            self.happen(history);
        }
        self.recover(history);
        if let Some(attack) = &mut self.attack {
            attack.go_on(history);
        }
        self.left > 0
    }

    /// Notes the armed crashes that have struck.
    fn note_crashes(&mut self, history: &mut History) {
        for machine in machines(history) {
            if !history.sim.is_host_running(host(machine)) {
                self.down.insert(machine);
            }
        }
    }

    fn happen(&mut self, history: &mut History) {
        let all = machines(history);
        let machine = all[history.rng.below(all.len())];
        match history.rng.below(43) {
            0..=9 => self.put(history, machine),
            10 => self.edit(history, machine),
            11 | 12 => self.crash(history, machine),
            13..=15 => arm(history, machine),
            16 | 17 => self.restart(history),
            18 | 19 => cut(history, machine),
            20 => split(history),
            21 | 22 => heal(history),
            23 | 24 => promote(history),
            25..=27 => self.take(history, machine),
            28 => self.edit_group(history, machine),
            29..=31 if self.restores => self.backup(history, machine),
            32 | 33 if self.restores => self.restore(history),
            29..=33 => self.put(history, machine),
            34 => self.leave(history, machine),
            35 | 36 if history.spare.is_some() => self.copy(history, machine),
            37 | 38 if history.spare.is_some() => move_address(history),
            40..=42 if self.maintains => maintain(history, machine),
            39 if self.rebuilds => rebuild(history),
            _ => self.put(history, machine),
        }
    }

    fn change(&mut self) -> Option<Change> {
        (self.change < MOST).then(|| {
            self.change += 1;
            self.change
        })
    }

    /// A client asks a server that considers itself the manager; mostly it is the manager.
    fn put(&mut self, history: &mut History, machine: usize) {
        let leads: Vec<usize> = managers(history);
        let machine = if leads.is_empty() { machine } else { leads[history.rng.below(leads.len())] };
        if let Some(change) = self.change() {
            command(history, machine, Command::Put(change));
        }
    }

    fn edit(&mut self, history: &mut History, machine: usize) {
        if let Some(change) = self.change() {
            command(history, machine, Command::Edit(change));
        }
    }

    fn crash(&mut self, history: &mut History, machine: usize) {
        if self.down.insert(machine) {
            history.world.borrow_mut().tell(machine, || "crashes".into());
            history.sim.crash(host(machine));
        }
    }

    fn restart(&mut self, history: &mut History) {
        let down: Vec<usize> = self.down.iter().copied().collect();
        if !down.is_empty() {
            let machine = down[history.rng.below(down.len())];
            self.start(history, machine);
        }
    }

    fn start(&mut self, history: &mut History, machine: usize) {
        self.down.remove(&machine);
        let mut world = history.world.borrow_mut();
        world.tell(machine, || "starts".into());
        world.arm(machine, None);
        world.commands[machine].clear();
        drop(world);
        history.sim.bounce(host(machine));
    }

    fn take(&mut self, history: &mut History, machine: usize) {
        let force = history.rng.one_in(3);
        command(history, machine, Command::Take { force });
        if history.rng.one_in(3) {
            // Two servers take over at once.
            let other = history.rng.below(history.servers);
            command(history, other, Command::Take { force: true });
        }
    }

    fn edit_group(&mut self, history: &mut History, machine: usize) {
        let leads = managers(history);
        if let Some(manager) = leads.first() {
            let edit = match history.rng.below(3) {
                0 => Command::EditRecord(RecordEdit::Remove(name(machine))),
                1 => Command::EditRecord(RecordEdit::Disable(name(machine))),
                _ => Command::EditRecord(RecordEdit::Add(name(machine))),
            };
            command(history, *manager, edit);
        }
    }

    fn backup(&mut self, history: &mut History, machine: usize) {
        let disk = history.world.borrow().disks[machine].clone();
        history.world.borrow_mut().tell(machine, || "is backed up".into());
        self.backups.push((machine, disk));
    }

    /// A machine comes back from a backup (W14).
    fn restore(&mut self, history: &mut History) {
        if self.backups.is_empty() {
            return;
        }
        let (machine, disk) = self.backups.swap_remove(history.rng.below(self.backups.len()));
        self.crash(history, machine);
        let mut world = history.world.borrow_mut();
        world.tell(machine, || "comes back from its backup".into());
        // The machine was a copy of another one meanwhile, which gets its own address back.
        let (before, original) = (world.disks[machine].name.clone(), world.disks[machine].key);
        if before != disk.name && original != machine {
            world.places.insert(before, original);
        }
        world.disks[machine] = disk;
        world.forget_whom_it_obeyed(machine);
        world.note_destroyed();
        world.met.restored += 1;
        world.changed = true;
        drop(world);
        self.start(history, machine);
    }

    /// Copies a machine, running or stopped. Both run from then on, with the same key and state (W14), and either may have the
    /// address.
    fn copy(&mut self, history: &mut History, machine: usize) {
        let unused = |spare: &usize| history.world.borrow().disks[*spare].held.is_none();
        let Some(spare) = history.spare.filter(unused).filter(|spare| *spare != machine) else { return };
        let mut world = history.world.borrow_mut();
        if world.disks[machine].held.is_none() {
            return;
        }
        world.tell(machine, || format!("is copied: machine {spare}"));
        let copy = world.disks[machine].clone();
        let name = copy.name.clone();
        // The machine was a copy of another one before.
        let (before, original) = (world.disks[spare].name.clone(), world.disks[spare].key);
        world.places.insert(before, original);
        world.disks[spare] = copy;
        world.retired.remove(&spare);
        world.note_destroyed();
        world.met.copied += 1;
        world.changed = true;
        drop(world);
        if history.rng.one_in(2) {
            history.world.borrow_mut().places.insert(name, spare);
        }
        self.start(history, spare);
        if history.rng.one_in(3) {
            self.crash(history, machine);
        }
    }

    fn leave(&mut self, history: &mut History, machine: usize) {
        // A server to which the role was just given is not sent away.
        let leads = {
            let world = history.world.borrow();
            world.is_manager_of_any(&crate::keys::public(world.disks[machine].key))
        };
        if self.leaves && !leads {
            command(history, machine, Command::Leave);
        }
    }

    /// Begins the peace: everything runs and is connected.
    pub(crate) fn end(&mut self, history: &mut History) {
        history.world.borrow_mut().tell_all(|| "peace".into());
        heal(history);
        for machine in machines(history) {
            history.world.borrow_mut().arm(machine, None);
        }
        self.note_crashes(history);
        for machine in self.down.clone() {
            self.start(history, machine);
        }
    }
}

/// Gives a command at that machine.
pub(crate) fn command(history: &History, machine: usize, command: Command) {
    let mut world = history.world.borrow_mut();
    world.tell(machine, || format!("is told to {command:?}"));
    world.commands[machine].push_back(command);
}

fn leads(disk: &Disk) -> bool {
    disk.record().is_some_and(|record| record.record().manager().key == crate::keys::public(disk.key))
}

/// The machines of the farm.
fn machines(history: &History) -> Vec<usize> {
    history.world.borrow().machines().collect()
}

/// The machines that consider themselves the manager.
pub(crate) fn managers(history: &History) -> Vec<usize> {
    let world = history.world.borrow();
    world.machines().filter(|machine| leads(&world.disks[*machine])).collect()
}

/// Gives the address to the other one of two copies.
fn move_address(history: &History) {
    let mut world = history.world.borrow_mut();
    let Some((a, b)) = world.copies() else { return };
    let name = world.disks[a].name.clone();
    let to = if world.places[&name] == a { b } else { a };
    world.tell(to, || format!("machine {to} has the address from now on"));
    world.places.insert(name, to);
}

/// Begins or finishes maintenance of the manager or of a member.
fn maintain(history: &mut History, machine: usize) {
    let Some(manager) = managers(history).first().copied() else { return };
    let server = name(machine);
    let other = name(history.rng.below(history.servers));
    let leads = machine == manager;
    let kind = if history.rng.one_in(3) {
        Kind::MaintenanceFinish { server }
    } else {
        Kind::MaintenanceStart { server, promote: leads.then_some(other), remove: history.rng.one_in(4) }
    };
    command(history, manager, Command::Begin(kind));
}

/// Rebuilds the group at its manager without need.
fn rebuild(history: &History) {
    if let Some(manager) = managers(history).first() {
        command(history, *manager, Command::Rebuild);
    }
}

fn arm(history: &mut History, machine: usize) {
    let arm = Arm { saves: history.rng.below(5), after: history.rng.one_in(2) };
    history.world.borrow_mut().arm(machine, Some(arm));
}

/// The machines of the network, including those outside the farm.
fn all(history: &History) -> impl Iterator<Item = usize> + use<> {
    (0..history.servers).chain(history.spare)
}

/// Cuts one server off from all others.
fn cut(history: &mut History, machine: usize) {
    history.world.borrow_mut().tell(machine, || "is cut off".into());
    for other in all(history).filter(|other| *other != machine) {
        history.sim.partition(host(machine), host(other));
    }
}

/// Splits the farm into two parts.
fn split(history: &mut History) {
    let part: BTreeSet<usize> = all(history).filter(|_| history.rng.one_in(2)).collect();
    history.world.borrow_mut().tell_all(|| format!("the farm is split: {part:?} and the others"));
    for a in &part {
        for b in all(history).filter(|b| !part.contains(b)) {
            history.sim.partition(host(*a), host(b));
        }
    }
}

fn heal(history: &mut History) {
    history.world.borrow_mut().tell_all(|| "the network is whole again".into());
    for a in all(history) {
        for b in 0..a {
            history.sim.repair(host(a), host(b));
        }
    }
}

fn promote(history: &mut History) {
    let to = name(history.rng.below(history.servers));
    let leave = [Leave::Member, Leave::Disabled, Leave::Removed][history.rng.below(3)];
    if let Some(manager) = managers(history).first() {
        command(history, *manager, Command::Promote(to, leave));
    }
}
