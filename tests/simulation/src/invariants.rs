//! The invariants of the design, judged from outside: 1 and 3 at every write, and 2 and 4 after every step.

mod procedures;

use bellwether_group::key_refusal;
use bellwether_proto::{
    key::PublicKey,
    name::ServerName,
    record::{Role, SignedRecord},
    revision::{RevisionId, SignedHeader},
};

pub(crate) use self::procedures::unfinished;
use crate::{
    changes::Changes,
    disk::{Disk, Sets},
    keys,
    world::State,
};

/// An epoch that no history reaches by steps.
const USED_UP: u64 = 1_000_000;

/// Judges a server's write; the faults' own changes of a disk do not pass here.
pub(crate) fn written(state: &mut State, machine: usize, before: &Disk) {
    if state.hostile == Some(machine) {
        return;
    }
    let after = state.disks[machine].clone();
    let name = after.name.clone();
    state.met.kept_copies += u64::from(after.kept != before.kept);
    if let (Some(old), Some(new)) = (before.record(), after.record())
        && old != new
    {
        count(state, &after, old, new);
        let (old, new) = (old.record(), new.record());
        if old.refused.iter().any(|key| !new.refused.contains(key)) {
            state.breaks(format!("3: {name} forgets which keys its group refuses, by record {}", new.version));
        }
        // Only root of that machine may take it back, from a key whose records are refused from then on.
        let by_root = new.refused.len() > old.refused.len();
        if new.version <= old.version && !by_root {
            state.breaks(format!("3: {name} went from record {} to {}", old.version, new.version));
        }
    }
    if before.halted.is_none() && after.halted.is_some() && state.met.restored == 0 && state.met.copied == 0 {
        state.breaks(format!("W14: {name} stands still, and no state went back"));
    }
    if let Some(record) = after.record().map(|signed| signed.record()) {
        if record.version.epoch.0 > USED_UP {
            state.breaks(format!("3: {name} follows epoch {}: nobody can lead after it", record.version.epoch));
        }
        let (epoch, manager) = (record.version.epoch, record.manager());
        let obeyed = state.obeyed.entry((machine, epoch)).or_insert(manager.key);
        // Root took the epoch back from a key that the group refuses from then on.
        if record.refused.contains(obeyed) {
            *obeyed = manager.key;
        }
        if *obeyed != manager.key {
            state.breaks(format!("3: {name} obeys {} in epoch {epoch}, in which it obeyed another", manager.name));
        }
    }
    if let (Some(old), Some(new)) = (&before.procedures, &after.procedures)
        && old != new
    {
        procedures::progress(state, &name, old, new);
    }
    if let (Some(old), Some(new)) = (&before.at, &after.at)
        && old != new
    {
        position(state, &name, old, new);
        // The way back from a revision that nobody confirmed waits for no wave.
        if old.confirm_within().is_none() {
            in_its_wave(state, &after, new);
        }
    }
    if after.at != before.at
        && let Some(at) = &after.at
        && !after.history.contains(&at.id())
    {
        state.breaks(format!("2: {name} names revision {} as held, and its history has it not", at.number()));
    }
}

/// Counts a change of the manager in which this server has a part.
fn count(state: &mut State, disk: &Disk, old: &SignedRecord, new: &SignedRecord) {
    let own = keys::public(disk.key);
    let (before, after) = (old.record().manager().key == own, new.record().manager().key == own);
    let signed = new.signer() == own;
    state.met.handovers += u64::from(before && !after && signed);
    state.met.takeovers += u64::from(after && signed && old.record().version.epoch != new.record().version.epoch);
    state.met.fenced += u64::from(before && !after && !signed);
}

fn position(state: &mut State, name: &ServerName, old: &SignedHeader, new: &SignedHeader) {
    let (from, to) = (old.number(), new.number());
    let back = to.epoch < from.epoch || (to.epoch == from.epoch && to.sequence <= from.sequence);
    // A revision that nobody confirms goes back.
    if back && old.confirm_within().is_none() {
        state.breaks(format!("3: {name} went from revision {from} to {to}"));
    }
}

/// Judges that a member takes a revision that changes something only when a plan let it, or a person asked.
fn in_its_wave(state: &mut State, disk: &Disk, new: &SignedHeader) {
    let name = &disk.name;
    let waves = disk.record().is_some_and(|record| record.record().policy.rollout.is_some());
    if waves && !state.changes_nothing(new) && !state.may_hold.contains(&(new.id(), name.clone())) {
        state.breaks(format!("{name} takes revision {} before its wave", new.number()));
    }
}

impl State {
    /// Judges a manager's offer: the revision must be durable there (invariant 3).
    pub(crate) fn offers(&mut self, machine: usize, header: Option<&SignedHeader>) {
        let Some(header) = header else { return };
        if !self.disks[machine].history.contains(&header.id()) {
            let name = self.disks[machine].name.clone();
            self.breaks(format!("3: {name} offers revision {}, which is not durable there", header.number()));
        }
    }

    /// Judges an offer to a member at `at`. If that is an unknown revision of this manager, it proves that the manager's state
    /// went back (W14).
    pub(crate) fn leads_on(&mut self, machine: usize, member: &ServerName, at: Option<&SignedHeader>) {
        let disk = &self.disks[machine];
        let Some(at) = at.filter(|at| !disk.history.contains(&at.id())) else { return };
        let epoch = disk.record().map(|record| record.record().version.epoch);
        if Some(at.number().epoch) == epoch && at.signed_by(&keys::public(disk.key)) {
            let name = disk.name.clone();
            self.breaks(format!(
                "W14: {name} leads on, though {member} holds its revision {}, unknown there",
                at.number()
            ));
        }
    }

    /// Judges that a member takes a revision: it must not be of a later epoch than the member's record.
    pub(crate) fn obeys(&mut self, machine: usize, header: &SignedHeader) {
        let Some(record) = self.disks[machine].record() else { return };
        let epoch = record.record().version.epoch;
        if header.number().epoch > epoch {
            let name = self.disks[machine].name.clone();
            self.breaks(format!("3: {name}, in epoch {epoch}, takes revision {}", header.number()));
        }
    }

    /// Judges a replacement of an unrelated revision: the content that the new one lacks must be kept (invariant 4).
    pub(crate) fn replaces(&mut self, machine: usize, new: RevisionId) {
        let disk = &self.disks[machine];
        let there = self.content(disk.sets.revision).and(disk.sets.edits);
        let gone = there.without(self.content(Some(new))).without(disk.kept);
        if !gone.is_empty() {
            let name = disk.name.clone();
            self.breaks(format!("4: {name} replaces {gone:?} and keeps it nowhere"));
        }
    }

    /// The content of that machine's histories and sets.
    fn revisions(&self, disk: &Disk) -> Changes {
        let all = disk.history.iter().copied().chain(disk.sets.revision).chain(disk.position());
        all.fold(Changes::default(), |sum, id| sum.and(self.content(Some(id))))
    }

    /// The content that exists anywhere: in sets, in kept copies, in histories, or in a list of losses.
    fn somewhere(&self) -> Changes {
        let of = |disk: &Disk| disk.kept.and(disk.sets.edits).and(self.revisions(disk));
        self.disks.iter().fold(self.listed, |sum, disk| sum.and(of(disk)))
    }

    /// Notes the changes that a hardware fault has just destroyed. An interrupted switch is no copy, because recovery may take it
    /// back.
    pub(crate) fn note_destroyed(&mut self) {
        let of = |disk: &Disk| {
            let interrupted = Disk { sets: Sets { revision: None, ..disk.sets }, ..disk.clone() };
            let disk = if disk.is_whole() { disk } else { &interrupted };
            disk.kept.and(disk.sets.edits).and(self.revisions(disk))
        };
        let there = self.disks.iter().fold(self.listed, |sum, disk| sum.and(of(disk)));
        let gone = self.promised.without(there);
        self.destroyed = self.destroyed.and(gone);
    }

    /// Judges invariants 2 and 4 at any moment: promised changes exist somewhere. Judges invariant 1 between two steps, when
    /// no server is in the middle of one: `up` tells which machines run.
    pub(crate) fn look(&mut self, up: &[bool]) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let lost = self.promised.without(self.somewhere()).without(self.destroyed);
        if !lost.is_empty() {
            self.breaks(format!("2: changes {lost:?} were acknowledged and are nowhere"));
        }
        let mixed = self.disks.iter().zip(up).find(|(disk, up)| **up && !disk.is_whole());
        if let Some(name) = mixed.map(|(disk, _)| disk.name.clone()) {
            self.breaks(format!("1: the sets of {name} are not at the revision of its position"));
        }
    }

    /// Judges invariants 2 and 4 at the end, when all servers have met: promised changes are in the head or in a kept copy, or
    /// were listed, and every server holds the manager's head. The error says what is missing.
    pub(crate) fn settled(&self) -> Result<(), String> {
        let leads = |disk: &&Disk| {
            let key = keys::public(disk.key);
            disk.record().is_some_and(|record| record.record().manager().key == key)
        };
        if let Some((a, b)) = self.twins() {
            return Err(format!("machines {a} and {b} are both {}", self.disks[a].name));
        }
        let disks = || self.machines().map(|machine| &self.disks[machine]);
        let managers: Vec<&Disk> = disks().filter(leads).collect();
        if let (Some(hostile), []) = (self.hostile.map(keys::public), managers.as_slice())
            && !self.machines().any(|machine| self.may_refuse(machine, hostile))
        {
            // No remaining server may rebuild the group, so its servers form another one.
            return Ok(());
        }
        let [manager] = managers.as_slice() else {
            let names: Vec<_> = managers.iter().map(|disk| disk.name.to_string()).collect();
            return Err(format!("managers: {names:?}"));
        };
        let record = manager.record().expect("it leads").record();
        if let Some((name, procedure)) = disks().find_map(|disk| Some((&disk.name, unfinished(disk)?))) {
            let (id, command, at) = (procedure.id, procedure.kind.command(), procedure.at);
            return Err(format!("{id} ({command}) at {name} is at step {at}: {:?}", procedure.standing));
        }
        let out = |server: &&bellwether_proto::record::Server| server.drained || self.drained.contains(&server.name);
        if let Some(server) = record.servers.iter().find(out) {
            return Err(format!("{} is out of service", server.name));
        }
        let head = manager.sets.revision;
        if let Some(hostile) = self.hostile.map(keys::public)
            && !record.refused.contains(&hostile)
        {
            return Err("a hostile server is of the group still".to_owned());
        }
        if manager.halted.is_some() {
            return Err(format!("{} stands still", manager.name));
        }
        if !manager.leads || !manager.sets.edits.is_empty() {
            return Err(format!("{} has not published", manager.name));
        }
        for disk in disks() {
            let role = record.server(&disk.name).map(|server| server.role);
            match role {
                Some(Role::Manager) => continue,
                Some(Role::Member) => {}
                Some(Role::Disabled) | None => return Err(format!("{} is {role:?}", disk.name)),
            }
            if disk.record() != manager.record() {
                return Err(format!("{} has another record than {}", disk.name, manager.name));
            }
            if disk.position() != head || disk.sets.revision != head {
                let at = disk.at.as_ref().map(|at| at.number().to_string());
                return Err(format!("{} is at {at:?}, not at the head", disk.name));
            }
        }
        Ok(())
    }

    /// Whether the group may be rebuilt at this machine without that key.
    pub(crate) fn may_refuse(&self, machine: usize, key: PublicKey) -> bool {
        let disk = &self.disks[machine];
        let base = disk.held.as_ref().and_then(|held| key_refusal::base(&held.current, &held.chain, &[key]).ok());
        let own = base.and_then(|base| base.record().by_key(&keys::public(disk.key)).cloned());
        own.is_some_and(|own| own.role == Role::Manager || (own.role == Role::Member && own.candidate))
    }

    /// Promised changes that are neither in the head nor kept nor listed, and are no edit in place.
    pub(crate) fn silently_lost(&self) -> Changes {
        let there = |disk: &Disk| disk.kept.and(disk.sets.edits).and(self.content(disk.sets.revision));
        let there = self.disks.iter().fold(self.listed, |sum, disk| sum.and(there(disk)));
        // A copy that a person has switched off keeps its content.
        let off = self.retired.iter().fold(there, |sum, machine| sum.and(self.revisions(&self.disks[*machine])));
        let there = there.and(off);
        self.promised.without(there).without(self.destroyed)
    }
}
