//! The simulation's own knowledge, which no server has: every disk, every revision ever made, all acknowledged changes, and
//! every server's managers. Each write passes here and is judged (see [`crate::invariants`]).

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
    revision::{Epoch, RevisionId, SignedHeader, TAKEN_BACK},
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

/// A revision, with the content of its tree.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) header: SignedHeader,
    pub(crate) content: Changes,
}

/// A person's command at a server.
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
    /// Lets the procedures of this server go on: those that stopped, or those that ask, with the answer.
    GoOn { attest: bool },
    /// Aborts the unfinished procedures of this server.
    GiveUp,
    /// Brings all members to the head from any state.
    Sync,
    /// Stops or continues the rollout of the head.
    Rollout { stop: bool },
    /// Dissolves the group on this server (W22).
    Leave,
    /// Lets that server enter with a token.
    Admit(ServerName),
    /// Lets that server, which is in the group, enter again with its used token.
    EnterAgain(ServerName),
    /// Rebuilds the group from this server's sets (W13, W14).
    Rebuild,
    /// Rebuilds the group without that key, as root of a candidate.
    Refuse(PublicKey),
    /// Follows the group that was rebuilt without a key, as root of this machine with its token.
    Confirm(Box<Held>),
    /// A hostile candidate takes the role, by so many epochs.
    Usurp { by: u64 },
    /// Enters the group with that record, which the manager gave for the token.
    Enter(Box<Held>),
}

/// A message of a server to its operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Notice {
    /// Two managers in one epoch (invariant 3).
    Conflict,
    /// That server says that it is the manager, by a record that does not follow from the held one. Or this server is the
    /// manager, and others do not take its record.
    CannotFollow(ServerName),
    /// This manager's state went back (W14).
    WentBack,
    /// A member refused a revision.
    Refused(ServerName),
    /// A member is in error: for example, its state went back, and it is kept out until a sync.
    Fault(ServerName),
    /// A member's edits hold updates back.
    Held(ServerName),
    /// The rollout of the head is stopped.
    Stopped,
    /// Another machine claims to be that server, which lives.
    Copy(ServerName),
    /// Other servers have seen these changes, and they are not here.
    Lost(Changes),
}

pub(crate) struct State {
    pub(crate) rules: Rules,
    pub(crate) disks: Vec<Disk>,
    armed: Vec<Option<Arm>>,
    /// The machine at the address of each server, which may be one of its copies.
    pub(crate) places: BTreeMap<ServerName, usize>,
    /// Machines outside the farm: not yet a copy of any, or switched off for good.
    pub(crate) retired: BTreeSet<usize>,
    /// The hostile machine, whose key is in other hands.
    pub(crate) hostile: Option<usize>,
    /// Servers to which the balancer sends no requests.
    pub(crate) drained: BTreeSet<ServerName>,
    /// Machines whose disks are full.
    pub(crate) full: BTreeSet<usize>,
    /// Whether machines refuse some of the revisions.
    pub(crate) refusing: bool,
    /// Whether some machines validate a revision before they switch to it.
    pub(crate) validating: bool,
    /// The members that may hold each revision, by the managers' plans and a person's syncs.
    pub(crate) may_hold: BTreeSet<(RevisionId, ServerName)>,
    /// Whether each machine runs.
    pub(crate) running: Vec<bool>,
    /// The number of servers that are to serve at any time (W23).
    pub(crate) min_serving: usize,
    /// Records that were read before: the same bytes are checked only once in a history, which saves much time.
    read: HashMap<Vec<u8>, SignedRecord>,
    /// Documents of procedures that were read before, by their signatures.
    documents: HashMap<Vec<u8>, SignedDocument>,
    /// The source of the servers' random numbers.
    drawn: Rng,
    /// Machines that are to be stopped now.
    pub(crate) dying: BTreeSet<usize>,
    pub(crate) commands: Vec<VecDeque<Command>>,
    pub(crate) notices: Vec<BTreeSet<Notice>>,
    pub(crate) library: BTreeMap<RevisionId, Known>,
    /// Changes that must not get lost: acknowledged ones, and an administrator's edits.
    pub(crate) promised: Changes,
    /// Changes whose last copy was destroyed by a hardware fault, so that no program can bring them back.
    pub(crate) destroyed: Changes,
    /// Changes that were ever listed as lost.
    pub(crate) listed: Changes,
    /// The manager of each machine in each epoch.
    pub(crate) obeyed: BTreeMap<(usize, Epoch), PublicKey>,
    /// The machine that sends false messages.
    pub(crate) liar: Option<Liar>,
    /// The first broken invariant.
    pub(crate) broken: Option<String>,
    pub(crate) now_ms: u64,
    /// The events of this history.
    pub(crate) met: Met,
    /// Whether a disk changed since the last check of the invariants.
    pub(crate) changed: bool,
    /// The story, if it is told.
    pub(crate) story: Option<Vec<String>>,
}

/// The state, which all servers of one history share on one thread.
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
            full: BTreeSet::new(),
            refusing: false,
            validating: false,
            may_hold: BTreeSet::new(),
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
    /// Writes a disk, and judges the result.
    pub(crate) fn write(&mut self, machine: usize, what: &str, change: impl FnOnce(&mut Disk)) {
        let before = self.disks[machine].clone();
        change(&mut self.disks[machine]);
        self.changed = true;
        self.tell(machine, || format!("saves {what}"));
        invariants::written(self, machine, &before);
    }

    /// Counts a save for the armed crash. If it strikes at this save, returns whether it strikes after it.
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

    /// A secret random number.
    pub(crate) fn draw(&mut self) -> u64 {
        self.drawn.number()
    }

    /// The trusted machines of the farm.
    pub(crate) fn machines(&self) -> impl Iterator<Item = usize> {
        (0..self.disks.len()).filter(|machine| !self.retired.contains(machine) && self.hostile != Some(*machine))
    }

    /// Whether some server of the farm has the server with that key as its manager.
    pub(crate) fn is_manager_of_any(&self, key: &PublicKey) -> bool {
        let record = |machine: usize| self.disks[machine].record();
        self.machines().filter_map(record).any(|record| record.record().manager().key == *key)
    }

    /// Whether the balancer's checks of that server pass: it runs, and its `/ready` is 200.
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

    /// As [`State::twins`], if both hold the group's state.
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

    /// Whether that machine refuses a revision, as a command of its set would.
    pub(crate) fn refuses(&self, machine: usize, header: &SignedHeader) -> bool {
        let drawn = header.id().0.as_bytes()[0] as usize + machine * 7;
        self.refusing && drawn.is_multiple_of(5) && !self.changes_nothing(header)
    }

    /// Whether a command of that machine validates revisions.
    pub(crate) fn validates(&self, machine: usize) -> bool {
        self.validating && !machine.is_multiple_of(3)
    }

    /// Whether a revision has the content of its parent, or was published to take another one back.
    pub(crate) fn changes_nothing(&self, header: &SignedHeader) -> bool {
        let parent = header.header().parent.and_then(|parent| self.library.get(&parent));
        let same = parent.is_some_and(|parent| parent.header.header().root == header.header().root);
        same || header.header().labels.contains_key(TAKEN_BACK)
    }

    /// Forgets the managers of a server that left the group or came back from a backup.
    pub(crate) fn forget_whom_it_obeyed(&mut self, machine: usize) {
        self.obeyed.retain(|(of, _), _| *of != machine);
    }

    /// Notes a revision, with `content` as the content of its tree.
    pub(crate) fn learn(&mut self, header: SignedHeader, content: Changes) {
        self.library.insert(header.id(), Known { header, content });
    }

    /// The content of that revision's tree.
    pub(crate) fn content(&self, revision: Option<RevisionId>) -> Changes {
        revision.and_then(|id| self.library.get(&id)).map(|known| known.content).unwrap_or_default()
    }

    pub(crate) fn header(&self, revision: RevisionId) -> Option<SignedHeader> {
        self.library.get(&revision).map(|known| known.header.clone())
    }

    /// Notes that the change must not get lost from now on.
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

    /// Notes two records of one epoch. Two records of one manager are possible only after a backup or a copy.
    pub(crate) fn conflict(&mut self, machine: usize, held: &SignedRecord, shown: &[SignedRecord]) {
        self.notice(machine, Notice::Conflict);
        let manager = |record: &SignedRecord| (record.record().version.epoch, record.record().manager().key);
        if self.met.restored == 0
            && self.met.copied == 0
            // Of several shown records, the newest is judged.
            && shown.iter().max_by_key(|shown| shown.record().version).is_some_and(|shown| manager(shown) == manager(held))
        {
            self.breaks(format!("3: two records of one manager conflict in epoch {}", held.record().version.epoch));
        }
    }

    /// Notes that an invariant is broken; only the first counts.
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
