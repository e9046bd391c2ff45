//! What the simulation knows and no server does: every disk, every revision that was ever made, what was acknowledged, who
//! obeyed whom. Each write passes here, and is judged (see [`crate::invariants`]).

use std::{
    cell::{Ref, RefCell, RefMut},
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
};

use bellwether_group::{
    edits::RecordEdit,
    procedure::{Kind, SignedDocument},
    takeover::Insists,
};
use bellwether_proto::{
    Malformed,
    key::PublicKey,
    name::ServerName,
    record::{Role, SignedRecord},
    revision::{Epoch, RevisionId, SignedHeader},
    v1,
};
use bellwether_random::Rng;

use crate::{
    attacker::Liar,
    changes::{Change, Changes},
    disk::{Arm, Disk, Held},
    invariants, keys,
    met::Met,
    rules::Rules,
};

/// A revision, with what its tree holds.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) header: SignedHeader,
    pub(crate) content: Changes,
}

/// What a person does at a server.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    /// A client's change.
    Put(Change),
    /// An edit in the server's own sets.
    Edit(Change),
    /// A planned handover to that server (W18).
    Promote(ServerName, bellwether_group::roles::Leave),
    /// Takes the role here (W24).
    Take { force: bool },
    /// Changes the group record.
    EditRecord(RecordEdit),
    /// Begins a procedure.
    Begin(Kind),
    /// Begins to recover the manager, at the candidate that takes over (W24).
    RecoverManager { remove: bool, insists: Insists },
    /// Lets the procedures that this server drives go on: those that stopped; or those that ask, with the answer.
    GoOn { attest: bool },
    /// Gives up the procedures that this server drives and that are unfinished.
    GiveUp,
    /// Brings all members to the head whatever they have.
    Sync,
    /// Dissolves the group here (W22).
    Leave,
    /// Lets that server enter with a token.
    Admit(ServerName),
    /// That server, which is in the group, enters again with the token that it has used.
    EnterAgain(ServerName),
    /// Rebuilds the group with what is here (W13, W14).
    Rebuild,
    /// The same, without that key, as root of a candidate.
    Refuse(PublicKey),
    /// Follows the group that was rebuilt without a key: root of this machine has its token.
    Confirm(Box<Held>),
    /// A hostile candidate takes the role, by so many epochs.
    Usurp { by: u64 },
    /// Enters the group with that record, which the manager gave for the token.
    Enter(Box<Held>),
}

/// What a server shows to its operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// Two managers in one epoch (invariant 3).
    Conflict,
    /// That server says that it is the manager, by a record that does not follow from the one held here; or here is the
    /// manager whose record others do not take.
    CannotFollow(ServerName),
    /// This manager's state went back (W14).
    WentBack,
    /// A member refused a revision.
    Refused(ServerName),
    /// A member is in error: its state went back, say, and it is kept out until a sync.
    Fault(ServerName),
    /// Another machine says to be that server, which lives.
    Copy(ServerName),
    /// These changes were seen elsewhere and are not here.
    Lost(Changes),
}

pub(crate) struct State {
    pub(crate) rules: Rules,
    pub(crate) disks: Vec<Disk>,
    armed: Vec<Option<Arm>>,
    /// Which machine answers at the address of a server: one of its copies may have that.
    pub(crate) places: BTreeMap<ServerName, usize>,
    /// Machines that are of no farm: not yet a copy of any, or switched off for good.
    pub(crate) retired: BTreeSet<usize>,
    /// The machine that is hostile: somebody else has its key.
    pub(crate) hostile: Option<usize>,
    /// Servers to which the balancer sends no requests.
    pub(crate) drained: BTreeSet<ServerName>,
    /// Which machines run.
    pub(crate) running: Vec<bool>,
    /// How many servers are to serve at any time (W23).
    pub(crate) min_serving: usize,
    /// Records that were read before: the same bytes are checked once in a history, which saves much of its time.
    read: HashMap<Vec<u8>, SignedRecord>,
    /// The same of documents of procedures, by their signatures.
    documents: HashMap<Vec<u8>, SignedDocument>,
    /// Numbers that servers draw.
    drawn: Rng,
    /// Machines that are to be stopped now.
    pub(crate) dying: BTreeSet<usize>,
    pub(crate) commands: Vec<VecDeque<Command>>,
    pub(crate) notices: Vec<BTreeSet<Notice>>,
    pub(crate) library: BTreeMap<RevisionId, Known>,
    /// What must not get lost: changes that a client was told are kept, edits of the administrator's.
    pub(crate) promised: Changes,
    /// Those whose last copy a fault of the hardware has destroyed: no program can bring them back.
    pub(crate) destroyed: Changes,
    /// What was ever listed as lost.
    pub(crate) listed: Changes,
    /// Which manager each machine obeyed in each epoch.
    pub(crate) obeyed: BTreeMap<(usize, Epoch), PublicKey>,
    /// A machine that lies.
    pub(crate) liar: Option<Liar>,
    /// The first invariant that was broken.
    pub(crate) broken: Option<String>,
    pub(crate) now_ms: u64,
    /// What this history has met.
    pub(crate) met: Met,
    /// A disk changed since the invariants were last looked at.
    pub(crate) changed: bool,
    /// The story, where it is told.
    pub(crate) story: Option<Vec<String>>,
}

/// The state, shared with all servers of one history. All run on one thread.
#[derive(Clone)]
pub(crate) struct World(Rc<RefCell<State>>);

impl World {
    pub(crate) fn new(disks: Vec<Disk>, rules: Rules, tell: bool, drawn: Rng) -> Self {
        let n = disks.len();
        let places = disks.iter().enumerate().map(|(machine, disk)| (disk.name.clone(), machine)).collect();
        Self(Rc::new(RefCell::new(State {
            rules,
            disks,
            armed: vec![None; n],
            places,
            retired: BTreeSet::new(),
            hostile: None,
            drained: BTreeSet::new(),
            running: vec![true; n],
            min_serving: 1,
            read: HashMap::new(),
            documents: HashMap::new(),
            drawn,
            dying: BTreeSet::new(),
            commands: vec![VecDeque::new(); n],
            notices: vec![BTreeSet::new(); n],
            library: BTreeMap::new(),
            promised: Changes::default(),
            destroyed: Changes::default(),
            listed: Changes::default(),
            obeyed: BTreeMap::new(),
            liar: None,
            broken: None,
            now_ms: 0,
            met: Met::default(),
            changed: true,
            story: tell.then(Vec::new),
        })))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, State> {
        self.0.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }
}

impl State {
    /// Writes a disk, and judges what became of it.
    pub(crate) fn write(&mut self, machine: usize, what: &str, change: impl FnOnce(&mut Disk)) {
        let before = self.disks[machine].clone();
        change(&mut self.disks[machine]);
        self.changed = true;
        self.tell(machine, || format!("saves {what}"));
        invariants::written(self, machine, &before);
    }

    /// The crash that is armed comes one save nearer; now: whether it strikes after the save.
    pub(crate) fn strikes(&mut self, machine: usize) -> Option<bool> {
        let arm = self.armed[machine].take()?;
        if arm.saves == 0 {
            return Some(arm.after);
        }
        self.armed[machine] = Some(Arm { saves: arm.saves - 1, ..arm });
        None
    }

    /// Reads and checks a record.
    pub(crate) fn record(&mut self, wire: &v1::SignedRecord) -> Result<SignedRecord, Malformed> {
        let bytes = [wire.signature.as_ref(), wire.signer.as_ref(), wire.record.as_ref()].concat();
        if let Some(known) = self.read.get(&bytes) {
            return Ok(known.clone());
        }
        let record = SignedRecord::from_wire(wire)?;
        self.read.insert(bytes, record.clone());
        Ok(record)
    }

    /// Reads and checks a document of procedures.
    pub(crate) fn document(&mut self, wire: &v1::SignedProcedures) -> Result<SignedDocument, Malformed> {
        if let Some(known) = self.documents.get(wire.signature.as_ref()).filter(|known| known.to_wire() == *wire) {
            return Ok(known.clone());
        }
        let document = SignedDocument::from_wire(wire)?;
        self.documents.insert(wire.signature.to_vec(), document.clone());
        Ok(document)
    }

    /// A number that nobody knows.
    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn.number()
    }

    /// The machines of the farm that are to be trusted.
    pub(crate) fn machines(&self) -> impl Iterator<Item = usize> {
        (0..self.disks.len()).filter(|machine| !self.retired.contains(machine) && self.hostile != Some(*machine))
    }

    /// Whether some server of the farm takes the one of that key for the manager.
    pub(crate) fn is_manager_of_any(&self, key: &PublicKey) -> bool {
        let record = |machine: usize| self.disks[machine].record();
        self.machines().filter_map(record).any(|record| record.record().manager().key == *key)
    }

    /// Whether the balancer's checks of that server pass: it runs, and its `/ready` says so.
    pub(crate) fn is_ready(&self, name: &ServerName) -> bool {
        let Some(machine) = self.places.get(name).copied().filter(|machine| self.running[*machine]) else {
            return false;
        };
        let disk = &self.disks[machine];
        let own = disk.record().and_then(|record| record.record().by_key(&keys::public(disk.key)));
        let by_record = own.is_some_and(|own| own.role != Role::Disabled && !own.drained);
        by_record && disk.fault.is_none() && (disk.leads || disk.at.is_some())
    }

    /// Two machines of the farm that have the key of one server.
    pub(crate) fn twins(&self) -> Option<(usize, usize)> {
        let same = |a: usize, b: &usize| a < *b && self.disks[a].key == self.disks[*b].key;
        self.machines().find_map(|a| self.machines().find(|b| same(a, b)).map(|b| (a, b)))
    }

    /// The same, where both hold the group's state.
    pub(crate) fn copies(&self) -> Option<(usize, usize)> {
        self.twins().filter(|(a, b)| [a, b].iter().all(|machine| self.disks[**machine].held.is_some()))
    }

    pub(crate) fn arm(&mut self, machine: usize, arm: Option<Arm>) {
        self.armed[machine] = arm;
    }

    pub(crate) fn dies(&mut self, machine: usize, when: &str) {
        self.tell(machine, || format!("crashes {when}"));
        self.met.crashes_at_a_save += 1;
        self.dying.insert(machine);
    }

    /// It left the group, or came back from a backup: what it knew is gone.
    pub(crate) fn forget_whom_it_obeyed(&mut self, machine: usize) {
        self.obeyed.retain(|(of, _), _| *of != machine);
    }

    /// Makes a revision known, whose tree holds `content`.
    pub(crate) fn learn(&mut self, header: SignedHeader, content: Changes) {
        self.library.insert(header.id(), Known { header, content });
    }

    /// What the tree of that revision holds.
    pub(crate) fn content(&self, revision: Option<RevisionId>) -> Changes {
        revision.and_then(|id| self.library.get(&id)).map(|known| known.content).unwrap_or_default()
    }

    pub(crate) fn header(&self, revision: RevisionId) -> Option<SignedHeader> {
        self.library.get(&revision).map(|known| known.header.clone())
    }

    /// From now on that change must not get lost.
    pub(crate) fn promise(&mut self, machine: usize, change: Change) {
        self.tell(machine, || format!("acknowledges change {change}"));
        self.promised = self.promised.and(Changes::one(change));
        self.met.acknowledged += 1;
        self.changed = true;
    }

    pub(crate) fn notice(&mut self, machine: usize, notice: Notice) {
        if let Notice::Lost(changes) = &notice {
            self.listed = self.listed.and(*changes);
            self.met.lists_of_losses += 1;
        }
        self.met.conflicts += u64::from(notice == Notice::Conflict);
        if self.notices[machine].insert(notice.clone()) {
            self.met.went_back += u64::from(notice == Notice::WentBack);
            self.met.kept_out += u64::from(matches!(notice, Notice::Fault(_)));
            self.met.copies_noticed += u64::from(matches!(notice, Notice::Copy(_)));
            self.tell(machine, || format!("shows {notice:?}"));
        }
    }

    /// Two records of one epoch. Two of one manager there never are, but after a backup came back.
    pub(crate) fn conflict(&mut self, machine: usize, held: &SignedRecord, shown: &[SignedRecord]) {
        self.notice(machine, Notice::Conflict);
        let manager = |record: &SignedRecord| (record.record().version.epoch, record.record().manager().key);
        if self.met.restored == 0
            && self.met.copied == 0
            // Of several that were shown the newest is judged.
            && shown.iter().max_by_key(|shown| shown.record().version).is_some_and(|shown| manager(shown) == manager(held))
        {
            self.breaks(format!("3: two records of one manager conflict in epoch {}", held.record().version.epoch));
        }
    }

    /// Notes that an invariant is broken; the first counts.
    pub(crate) fn breaks(&mut self, invariant: String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>6} BROKEN: {invariant}", self.now_ms));
        }
        self.broken.get_or_insert(invariant);
    }

    /// A line of the story.
    pub(crate) fn tell(&mut self, machine: usize, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            let name = &self.disks[machine].name;
            let copy = if self.places.get(name) == Some(&machine) { "" } else { " (elsewhere)" };
            story.push(format!("{:>6} {name}{copy}: {}", self.now_ms, line()));
        }
    }

    /// A line of the story about no machine.
    pub(crate) fn tell_all(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>6} {}", self.now_ms, line()));
        }
    }
}
