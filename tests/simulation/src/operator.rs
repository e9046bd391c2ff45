//! The operator in peace: looks at the servers' messages at an interval, and follows their advice.

use std::collections::{BTreeMap, BTreeSet};

use bellwether_group::{
    edits::RecordEdit,
    procedure::{Fact, Id, Kind, Procedure, Standing},
};
use bellwether_proto::{
    limits,
    name::ServerName,
    record::{Record, Role, Server},
};

use crate::{
    disk::Disk,
    faults::{command, managers},
    history::{self, History},
    invariants::unfinished,
    keys,
    world::{Command, Notice},
};

/// The interval of the operator's looks.
const EVERY_MS: u64 = 1_500;

#[derive(Default)]
pub(crate) struct Operator {
    next_ms: u64,
    /// The number of looks so far.
    looked: u32,
    /// The number of looks in a row without a manager.
    without: u32,
    /// The number of looks in a row at which the manager showed another leader whose record does not follow from its own.
    branches: u32,
    /// Whether the hostile server has struck again since the group was rebuilt without it.
    strikes_on: bool,
    /// Machines that also showed at the last look that they do not take the record.
    stubborn: BTreeSet<usize>,
    /// Managers that others did not follow before, since there were several.
    refused: BTreeSet<usize>,
    /// Unfinished procedures (the machine, the name, the step), each with the number of looks in a row at which it was there.
    waits: BTreeMap<(usize, Id, usize), u32>,
}

impl Operator {
    pub(crate) fn looks(&mut self, history: &mut History, missing: &str) {
        if self.next_ms == 0 {
            self.next_ms = history.now() + EVERY_MS;
            forget_notices(history);
        }
        if history.now() < self.next_ms {
            return;
        }
        self.next_ms = history.now() + EVERY_MS;
        history.world.borrow_mut().tell_all(|| format!("the operator looks: {missing}"));
        self.looked += 1;
        look_at_copies(history);
        if self.take_back(history) {
            forget_notices(history);
            return;
        }
        self.see_to_procedures(history);
        let at_its_address = |machine: &usize| {
            let world = history.world.borrow();
            world.places[&world.disks[*machine].name] == *machine
        };
        let leads: Vec<usize> = managers(history).into_iter().filter(at_its_address).collect();
        match leads.as_slice() {
            [] => self.without(history),
            [manager] => self.tidy(history, *manager),
            several => self.decide(history, several),
        }
        forget_notices(history);
    }

    /// A candidate's key is in hostile hands: the group is rebuilt without it at one server, and confirmed at each other one.
    /// Returns whether something was left to do.
    fn take_back(&mut self, history: &History) -> bool {
        let world = history.world.borrow();
        let Some(key) = world.hostile.map(keys::public) else { return false };
        let refuses =
            |machine: &usize| world.disks[*machine].record().is_some_and(|r| r.record().refused.contains(&key));
        let leads = |machine: &usize| {
            let own = keys::public(world.disks[*machine].key);
            world.disks[*machine].record().is_some_and(|record| record.record().manager().key == own)
        };
        let rebuilt = world.machines().filter(|machine| refuses(machine) && leads(machine));
        let rebuilt =
            rebuilt.max_by_key(|machine| world.disks[*machine].record().map(|record| record.record().version));
        let Some(rebuilt) = rebuilt else {
            // Some server follows the server that has rebuilt it, and that server does not run any more.
            if world.machines().any(|machine| refuses(&machine)) {
                return false;
            }
            let able: Vec<usize> = world.machines().filter(|machine| world.may_refuse(*machine, key)).collect();
            // A server that is kept out or has just joined is chosen only if there is no other one.
            let holds = |machine: &usize| world.disks[*machine].at.is_some() || world.disks[*machine].leads;
            let hold: Vec<usize> = able.iter().copied().filter(holds).collect();
            let able = if hold.is_empty() { able } else { hold };
            let chosen = able.get(self.looked as usize % able.len().max(1)).copied();
            drop(world);
            chosen.into_iter().for_each(|machine| command(history, machine, Command::Refuse(key)));
            return chosen.is_some();
        };
        let hostile = world.hostile.expect("it has a key");
        if !std::mem::replace(&mut self.strikes_on, true) {
            // The attack goes on: servers without root's confirmation follow the attacker to epochs above the rebuild's.
            drop(world);
            command(history, hostile, Command::Usurp { by: limits::EPOCH_STEP });
            return true;
        }
        let held = world.disks[rebuilt].held.clone().expect("it leads");
        let named = |machine: &usize| held.current.record().by_key(&keys::public(world.disks[*machine].key)).is_some();
        let of_a_group = |machine: &usize| world.disks[*machine].held.is_some();
        let not_yet: Vec<usize> = world.machines().filter(|machine| !refuses(machine) && of_a_group(machine)).collect();
        let (confirm, leave): (Vec<usize>, Vec<usize>) = not_yet.into_iter().partition(named);
        drop(world);
        let left = !confirm.is_empty() || !leave.is_empty();
        for machine in confirm {
            command(history, machine, Command::Confirm(Box::new(held.clone())));
        }
        // Servers that are not in the record join again.
        for machine in leave {
            command(history, machine, Command::Leave);
        }
        left
    }

    /// Without a manager, the server with the newest record takes over, if it may.
    fn without(&mut self, history: &History) {
        self.without += 1;
        if let Some(machine) = candidate(history).filter(|_| self.without > 1) {
            command(history, machine, Command::Take { force: true });
        }
    }

    /// With one manager, each server that is not a member of its group becomes one.
    fn tidy(&mut self, history: &History, manager: usize) {
        self.without = 0;
        self.refused.clear();
        let mut stubborn = BTreeSet::new();
        let own = history.world.borrow().disks[manager].name.clone();
        let (record, held) = {
            let world = history.world.borrow();
            let held = world.disks[manager].held.clone().expect("it leads");
            (held.current.record().clone(), held)
        };
        let machines: Vec<usize> = history.world.borrow().machines().filter(|machine| *machine != manager).collect();
        for machine in machines {
            let name = history.world.borrow().disks[machine].name.clone();
            let shows = |notice: &Notice| history.world.borrow().notices[machine].contains(notice);
            let of_a_group = history.world.borrow().disks[machine].held.is_some();
            let away = record.removed.iter().any(|server| server.name == name);
            match record.server(&name).map(|server| server.role) {
                Some(Role::Disabled) | None if works_on(&history.world.borrow().disks[manager], &name) => {}
                Some(Role::Disabled) => command(history, manager, self.add(name)),
                None if away => command(history, manager, self.add(name)),
                None => command(history, manager, Command::Admit(name)),
                Some(_) if !of_a_group => command(history, machine, Command::Enter(Box::new(held.clone()))),
                Some(_) if shows(&Notice::CannotFollow(own.clone())) || shows(&Notice::Conflict) => {
                    stubborn.insert(machine);
                }
                Some(_) => {}
            }
        }
        for machine in stubborn.intersection(&self.stubborn) {
            command(history, *machine, Command::Leave);
        }
        self.stubborn = stubborn;
        self.decide_branches(history, manager);
        let shows = |notice: &Notice| history.world.borrow().notices[manager].contains(notice);
        if shows(&Notice::WentBack) {
            // Either the others' revisions are kept, or this manager's sets become the truth, as the halt says.
            match candidate(history).filter(|_| self.looked.is_multiple_of(2)) {
                Some(other) => command(history, other, Command::Take { force: true }),
                None => command(history, manager, Command::Rebuild),
            }
        } else if shows(&Notice::Conflict) || shows(&Notice::CannotFollow(own)) {
            command(history, manager, Command::Take { force: true });
        }
        self.bring_back(history, manager);
        if record.policy.paused {
            command(history, manager, Command::EditRecord(RecordEdit::Paused(false)));
        }
        if shows(&Notice::Stopped) {
            command(history, manager, Command::Rollout { stop: false });
        }
        let wants = |notice: &Notice| matches!(notice, Notice::Refused(_) | Notice::Fault(_) | Notice::Held(_));
        if history.world.borrow().notices[manager].iter().any(wants) {
            let drained = Command::Begin(Kind::Sync { servers: Vec::new() });
            command(history, manager, if self.looked.is_multiple_of(2) { drained } else { Command::Sync });
        }
    }

    /// Brings back a server that is out of service by a procedure or by hand.
    fn add(&self, server: ServerName) -> Command {
        match self.looked % 3 {
            0 => Command::Begin(Kind::ServerAdd { server }),
            1 => Command::Begin(Kind::MaintenanceFinish { server }),
            _ => Command::EditRecord(RecordEdit::Add(server)),
        }
    }

    /// The manager shows repeatedly that some follow another one by a record that does not follow from its own. It takes the
    /// next epoch, and a server that refuses that, too, leaves the group and joins again.
    fn decide_branches(&mut self, history: &History, manager: usize) {
        let world = history.world.borrow();
        let own = &world.disks[manager];
        let other = |notice: &Notice| matches!(notice, Notice::CannotFollow(of) if *of != own.name);
        if !world.notices[manager].iter().any(other) {
            self.branches = 0;
            return;
        }
        self.branches += 1;
        let led = |disk: &Disk| disk.record().map(|record| record.record().manager().key);
        let elsewhere = |machine: &usize| led(&world.disks[*machine]).is_some_and(|key| Some(key) != led(own));
        let others: Vec<usize> = world.machines().filter(elsewhere).collect();
        drop(world);
        match self.branches {
            2 => command(history, manager, Command::Take { force: true }),
            4.. => others.into_iter().for_each(|machine| command(history, machine, Command::Leave)),
            _ => {}
        }
    }

    /// With several managers, the servers' messages show the decision for a person: the manager that most others obey stays
    /// the manager, and a server that is refused after that, too, leaves.
    fn decide(&mut self, history: &History, several: &[usize]) {
        self.without = 0;
        let world = history.world.borrow();
        let record = |machine: usize| world.disks[machine].record().map(|record| record.record());
        let obeyed = |machine: usize| {
            let key = keys::public(world.disks[machine].key);
            let obeys = |other: &usize| record(*other).is_some_and(|record| record.manager().key == key);
            (world.machines().filter(obeys).count(), record(machine).map(|record| record.version))
        };
        let chosen = several.iter().copied().max_by_key(|machine| obeyed(*machine)).expect("there are several");
        let shows = |machine: &usize, notice: &Notice| world.notices[*machine].contains(notice);
        let decided =
            several.iter().any(|machine| shows(machine, &Notice::Conflict) || shows(machine, &Notice::WentBack));
        let all = || world.notices.iter().flatten();
        let refused = |machine: &usize| {
            let own = Notice::CannotFollow(world.disks[*machine].name.clone());
            let other = Notice::CannotFollow(world.disks[chosen].name.clone());
            *machine != chosen && (all().any(|notice| *notice == own) || shows(machine, &other))
        };
        let refused: BTreeSet<usize> = several.iter().copied().filter(refused).collect();
        let halted = world.disks[chosen].halted.is_some();
        drop(world);
        // The next epoch comes first, since the record of a server that has left might still count as the newer one.
        if decided || !refused.is_empty() {
            command(history, chosen, if halted { Command::Rebuild } else { Command::Take { force: true } });
        }
        for machine in refused.intersection(&self.refused) {
            command(history, *machine, Command::Leave);
        }
        self.refused.extend(refused);
    }

    /// Brings back each server that is out of service without a procedure that brings it back.
    fn bring_back(&self, history: &History, manager: usize) {
        let world = history.world.borrow();
        let servers = world.disks[manager].record().map(|record| record.record().servers.clone()).unwrap_or_default();
        let out = |server: &Server| server.drained || world.drained.contains(&server.name);
        let busy = |server: &Server| works_on(&world.disks[manager], &server.name);
        let back: Vec<Server> = servers.into_iter().filter(|server| out(server) && !busy(server)).collect();
        drop(world);
        for server in back {
            command(history, manager, Command::Begin(Kind::MaintenanceFinish { server: server.name }));
        }
    }

    /// Handles unfinished procedures at their drivers: a question is answered, a stopped procedure is resumed once, and one
    /// that waits too long is aborted.
    fn see_to_procedures(&mut self, history: &History) {
        let world = history.world.borrow();
        let there = |machine: usize| Some((machine, unfinished(&world.disks[machine])?.clone()));
        let unfinished: Vec<(usize, Procedure)> = world.machines().filter_map(there).collect();
        drop(world);
        let before = std::mem::take(&mut self.waits);
        let (several, mut isolated) = (managers(history).len() > 1, false);
        for (machine, procedure) in unfinished {
            let place = (machine, procedure.id, procedure.at);
            let looks = before.get(&place).copied().unwrap_or_default() + 1;
            self.waits.insert(place, looks);
            let todo = match (procedure.asks(), looks) {
                (_, 4..) => Command::GiveUp,
                // Two machines must not be taken off because of each other, and the question who leads comes first.
                (Some(Fact::Isolated(_)), _) if several || std::mem::replace(&mut isolated, true) => Command::GiveUp,
                (Some(Fact::Isolated(server)), _) => isolate(history, machine, server, procedure.id),
                (Some(Fact::Repaired(_)), _) => Command::GoOn { attest: true },
                (None, 1) if procedure.standing != Standing::Running => Command::GoOn { attest: false },
                (None, _) if procedure.standing != Standing::Running => Command::GiveUp,
                (None, _) => continue,
            };
            command(history, machine, todo);
        }
    }
}

/// Either the machine is not lost after all, and the recovery is aborted, or the group is dissolved on it (W22), and the
/// recovery goes on. It is always aborted if the asking machine has no revision to lead with.
fn isolate(history: &History, asks: usize, server: &ServerName, id: Id) -> Command {
    let world = history.world.borrow();
    let (holds, lost) = (world.disks[asks].at.is_some() || world.disks[asks].leads, world.places[server]);
    drop(world);
    if id.0.is_multiple_of(2) || !holds {
        return Command::GiveUp;
    }
    command(history, lost, Command::Leave);
    Command::GoOn { attest: true }
}

/// Whether that manager has an unfinished procedure for that server.
fn works_on(manager: &Disk, server: &ServerName) -> bool {
    let mut procedures = manager.procedures.iter().flat_map(|signed| &signed.document().procedures);
    procedures.any(|procedure| !procedure.is_over() && procedure.servers().any(|touched| touched == server))
}

/// The candidate with the newest record.
fn candidate(history: &History) -> Option<usize> {
    let world = history.world.borrow();
    let version = |disk: &Disk| disk.record().map(|record| record.record().version);
    let may = |machine: &usize| {
        let disk = &world.disks[*machine];
        let server = disk.record().and_then(|record| record.record().server(&disk.name).cloned());
        // A server that is kept out or has just joined has no revision to lead with.
        disk.at.is_some() && server.is_some_and(|server| server.role == Role::Member && server.candidate)
    };
    world.machines().filter(may).max_by_key(|machine| version(&world.disks[*machine]))
}

/// If two machines are one server and a message says so, the one without the address is switched off for good. One that has
/// forgotten the group is always switched off.
fn look_at_copies(history: &mut History) {
    let world = history.world.borrow();
    let Some((a, b)) = world.twins() else { return };
    let name = world.disks[a].name.clone();
    let elsewhere = if world.places[&name] == a { b } else { a };
    let own = |machine: usize| {
        let mut notices = world.notices[machine].iter();
        notices.any(|notice| matches!(notice, Notice::WentBack | Notice::Copy(_)))
    };
    let of_it = |notice: &Notice| matches!(notice, Notice::Copy(of) | Notice::Fault(of) if *of == name);
    let named = own(a) || own(b) || world.notices.iter().flatten().any(of_it);
    let forgot = [a, b].into_iter().find(|machine| world.disks[*machine].held.is_none());
    // A copy without members talks to no server that could tell, so only the person who copied the machine knows of it.
    let alone = [a, b].into_iter().find(|machine| {
        let own = keys::public(world.disks[*machine].key);
        let record = world.disks[*machine].record().map(|record| record.record());
        let mute = |record: &Record| match record.by_key(&own).map(|server| server.role) {
            Some(Role::Manager) => record.servers.iter().all(|server| server.role != Role::Member),
            Some(Role::Member) => false,
            // Its manager sends it nothing, and it is not at the address at which it would be asked.
            Some(Role::Disabled) | None => *machine == elsewhere,
        };
        record.is_some_and(mute)
    });
    let off = forgot.or(named.then_some(elsewhere)).or(alone);
    drop(world);
    let Some(off) = off else { return };
    let mut world = history.world.borrow_mut();
    world.tell(off, || format!("machine {off} is switched off for good"));
    world.retired.insert(off);
    world.places.insert(name, if off == a { b } else { a });
    drop(world);
    history.sim.crash(history::host(off));
}

/// Forgets all messages, so that only those count that are shown again.
fn forget_notices(history: &History) {
    history.world.borrow_mut().notices.iter_mut().for_each(std::collections::BTreeSet::clear);
}
