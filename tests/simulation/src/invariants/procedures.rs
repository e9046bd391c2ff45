//! The invariants of procedures (W12, W18, W23).

use bellwether_group::procedure::{Kind, Procedure, SignedDocument, Standing, Step, Task};
use bellwether_proto::{key::PublicKey, name::ServerName, revision::RevisionId};

use crate::{disk::Disk, keys, world::State};

/// Done steps stay done: within the documents of one manager, no procedure goes back.
pub(super) fn progress(state: &mut State, name: &ServerName, old: &SignedDocument, new: &SignedDocument) {
    let unfinished = old.document().procedures.iter().any(|procedure| !procedure.is_over());
    state.met.carried_on +=
        u64::from(unfinished && new.signer() == state.disks_key(name) && old.signer() != new.signer());
    // In a later epoch it may go on from a candidate's document, and a backup or a copy knows less.
    let epoch = |signed: &SignedDocument| signed.document().version.0;
    let (restored, copied) = (state.met.restored > 0, state.met.copied > 0);
    // A candidate that recovers its manager signs that manager's procedures, too, and later those of the next manager.
    let disk = state.disks.iter().find(|disk| disk.name == *name);
    let led = disk.and_then(Disk::record).map(|record| record.record().manager().key);
    let beside = new.signer() == state.disks_key(name) && led != Some(new.signer());
    if beside || old.signer() != new.signer() || epoch(old) != epoch(new) || restored || copied {
        return;
    }
    for procedure in &old.document().procedures {
        // A procedure that a person has resumed begins again with the steps that can be repeated.
        let same = |new: &&Procedure| new.kind == procedure.kind && new.resumed == procedure.resumed;
        let Some(now) = new.document().get(procedure.id).filter(same) else { continue };
        if now.at < procedure.at {
            state.breaks(format!("W18: {} goes back at {name}, from step {}", procedure.id, procedure.at));
        }
        if procedure.has_stopped() && !now.is_over() && now != procedure {
            state.breaks(format!("W18: {} has stopped at {name}, and goes on by itself", procedure.id));
        }
        let was_stopping = matches!(procedure.standing, Standing::Stopping(_));
        state.met.put_back += u64::from(was_stopping && now.has_stopped());
    }
}

/// The unfinished procedure of that server.
pub(crate) fn unfinished(disk: &Disk) -> Option<&Procedure> {
    let manager = &disk.record()?.record().manager().name;
    let mut procedures = disk.procedures.as_ref()?.document().procedures.iter();
    procedures.find(|procedure| !procedure.is_over() && *procedure.driver(manager) == disk.name)
}

impl State {
    /// The original key of that server.
    fn disks_key(&self, name: &ServerName) -> PublicKey {
        let disk = self.disks.iter().find(|disk| disk.name == *name).expect("a server of this simulation");
        keys::public(disk.key)
    }

    /// Judges that a manager brings a member from `from` to its state: if a recovery is to drain the member before, the member
    /// must be drained (W23).
    pub(crate) fn syncs(&mut self, machine: usize, member: &ServerName, from: Option<RevisionId>, to: RevisionId) {
        // A copy or a restored server knows less.
        let copied = self.met.restored > 0 || self.met.copied > 0;
        if copied || self.drained.contains(member) || self.content(from) == self.content(Some(to)) {
            return;
        }
        let disk = &self.disks[machine];
        // While two managers lead, the other one may have told the balancer the opposite; it is told again.
        let by_record = disk.record().and_then(|record| record.record().server(member));
        if by_record.is_some_and(|server| server.drained) {
            return;
        }
        let mut procedures = disk.procedures.iter().flat_map(|signed| &signed.document().procedures);
        let early = |procedure: &Procedure| {
            let drains = |step: &Step| step.task.about().drains.contains(member);
            let syncs = |step: &Step| matches!(&step.task, Task::Sync(sync) if sync.0.contains(member));
            let sync = procedure.steps.iter().position(syncs);
            // Another manager goes on from its own procedures, and a plain takeover drains no server.
            matches!(&procedure.kind, Kind::RecoverManager { new, .. } if *new == disk.name)
                && !procedure.is_over()
                && sync.is_some_and(|sync| procedure.at <= sync && procedure.steps[..sync].iter().any(drains))
        };
        if let Some(procedure) = procedures.find(|procedure| early(procedure)) {
            let (id, name) = (procedure.id, disk.name.clone());
            self.breaks(format!("W23: {name} syncs {member} in service, which {id} was to drain before"));
        }
    }

    /// Judges that a procedure has put a server back into service: the server must hold at least the manager's content at the
    /// beginning of the procedure (W12).
    pub(crate) fn undrained(&mut self, machine: usize, server: &ServerName) {
        let Some(place) = self.places.get(server).copied() else { return };
        let (disk, manager) = (&self.disks[place], &self.disks[machine]);
        let led = disk.record().map(|record| record.record().manager().key);
        // The disk was replaced, or the server has left or obeys another manager by now.
        let other = self.met.restored > 0 || self.met.copied > 0 || led != Some(keys::public(manager.key));
        if place == machine || other || !self.running[place] {
            return;
        }
        // The group may have been rebuilt since the server was complete.
        let known = |id: RevisionId| manager.history.contains(&id) || manager.before.contains(&id);
        let complete = disk.is_whole() && disk.at.as_ref().is_some_and(|at| known(at.id()));
        if !complete {
            let name = manager.name.clone();
            self.breaks(format!("W12: {name} puts {server} back into service, which is not synced"));
        }
    }

    /// Judges that a procedure hands the role over: the new manager must know the unfinished procedures (W18).
    pub(crate) fn hands_over(&mut self, machine: usize, to: &ServerName) {
        let procedures = |disk: &Disk| {
            let document = disk.procedures.as_ref().map(|signed| signed.document().procedures.clone());
            document.unwrap_or_default()
        };
        // The machine at the address may not be the reached one, and a backup knows less.
        if self.met.restored > 0 || self.met.copied > 0 {
            return;
        }
        let (own, theirs) = (&self.disks[machine], procedures(&self.disks[self.places[to]]));
        let knows = |mine: &Procedure| theirs.iter().any(|other| (other.id, &other.kind) == (mine.id, &mine.kind));
        let unknown = procedures(own).into_iter().find(|procedure| !procedure.is_over() && !knows(procedure));
        if let Some(unknown) = unknown {
            let name = own.name.clone();
            self.breaks(format!("W18: {name} hands over to {to}, which does not know {}", unknown.id));
        }
    }
}
