//! The manager, played by the test with the key of a stopped one, before the real member that follows it.

use std::fs;

use bellwether_daemon::{net::tls, state::identity};
use bellwether_proto::{
    entry::{Entry, EntryPath, Owners},
    hash::Hash,
    key::{KeyPair, PublicKey},
    record::{Record, SetRules, SignedRecord},
    revision::{Header, SignedHeader},
    ticket::Parties,
    v1::{self, down},
};
use bellwether_store::{
    history::History,
    state::layout::Layout,
    tree::{Change, Tree},
};
use bytes::Bytes;
use tonic::{Status, transport::Channel};

use super::{
    forge::{Forged, change, file},
    runtime, says,
    snapshot::Snapshot,
    talk::Talk,
};
use crate::farm::{Farm, Server};

/// The played manager, and the member.
pub(super) struct Manager {
    farm: Farm,
    pub(super) key: KeyPair,
    member_key: PublicKey,
    /// The member's record.
    pub(super) record: SignedRecord,
    /// The member's revision.
    pub(super) head: SignedHeader,
    pub(super) tree: Tree,
    before: Snapshot,
    good: u32,
}

/// The entries at the beginning of each scene.
pub(super) fn fill(manager: &Server) {
    manager.write("index.html", "the first");
    manager.write("conf.d/site.conf", "listen 80;\n");
    manager.write(
        "big.bin",
        (0..60_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect::<Vec<u8>>(),
    );
}

impl Manager {
    /// A farm of one member in sync, whose manager is stopped and played from now on.
    pub(super) fn play() -> Self {
        let mut farm = Farm::plan().members(1).start_with(fill);
        farm.server_mut(0).kill();
        let layout = Layout::new(farm.manager().state());
        let key = identity::load(&layout).expect("readable").expect("a key");
        let record = Layout::new(farm.member(1).state()).held().expect("readable").expect("a group").current;
        let history = History::open(&layout.history()).expect("a history");
        let head = history.head().expect("a head").header.clone();
        let tree = history.tree(head.id()).expect("its tree");
        let name = farm.member(1).name.parse().expect("a name");
        let member_key = record.record().server(&name).expect("the member is in the record").key;
        sentinels(farm.member(1));
        let before = Snapshot::of(farm.member(1));
        Self { farm, key, member_key, record, head, tree, before, good: 0 }
    }

    /// The member's machine.
    pub(super) fn member(&self) -> &Server {
        self.farm.member(1)
    }

    /// A connection to the member with `key`.
    pub(super) async fn connect(&self, key: &KeyPair) -> Channel {
        tls::connect(key, &self.member().listen, self.member_key).await.expect("a connection to the member")
    }

    /// The two servers of the tickets.
    pub(super) fn parties(&self) -> Parties {
        Parties { group: self.record.record().group, server: self.member_key, manager: self.key.public() }
    }

    /// The hello that the member expects.
    pub(super) fn hello(&self) -> v1::DownHello {
        let (record, head) = (Some(self.record.to_wire()), Some(self.head.to_wire()));
        v1::DownHello { protocol_min: 1, protocol_max: 1, record, head, ..v1::DownHello::default() }
    }

    /// A stream with `key` that begins with `first`.
    pub(super) async fn follow(&self, key: &KeyPair, first: down::Message) -> Result<Talk, Status> {
        Talk::open(self.connect(key).await, first).await
    }

    /// A correct stream.
    pub(super) async fn talk(&self) -> Talk {
        let opened = self.follow(&self.key, down::Message::Hello(self.hello())).await;
        opened.unwrap_or_else(|status| panic!("a good hello is refused: {status:?}"))
    }

    /// Signs a record that `edit` makes from the held one, one version newer.
    pub(super) fn next_record(&self, edit: impl FnOnce(&mut Record)) -> SignedRecord {
        let mut record = self.record.record().clone();
        record.version.version += 1;
        record.previous = Some(self.record.hash());
        edit(&mut record);
        SignedRecord::sign(record, &self.key).expect("a record that keeps the rules")
    }

    /// The rules of the sets in the form of a pack.
    pub(super) fn rules(&self) -> Vec<v1::SetRules> {
        self.tree.sets().iter().map(|set| set.rules.to_wire()).collect()
    }

    /// The header of the next revision, changed by `edit` and signed by `key`.
    pub(super) fn header_by(&self, key: &KeyPair, root: Hash, edit: impl FnOnce(&mut Header)) -> SignedHeader {
        let mut header = self.head.header().clone();
        header.number.sequence += 1;
        header.parent = Some(self.head.id());
        header.root = root;
        edit(&mut header);
        SignedHeader::sign(header, key)
    }

    /// The next revision, with these changes and chunks. Its root is right if the changes can be applied at all.
    pub(super) fn forge(&self, changes: Vec<v1::Change>, chunks: Vec<Vec<u8>>) -> Forged {
        self.forge_from(&self.tree, false, self.rules(), changes, chunks)
    }

    /// The next revision as a base, with these changes.
    pub(super) fn forge_base(&self, changes: Vec<v1::Change>, chunks: Vec<Vec<u8>>) -> Forged {
        let tree = self.applied(&self.tree, &changes).expect("changes that fit");
        let empty = Tree::empty(self.tree.sets().iter().map(|set| set.rules.clone()));
        let wire = |c: Change| v1::Change {
            set: 0,
            path: Bytes::copy_from_slice(c.path.as_bytes()),
            entry: c.entry.map(|entry| entry.to_wire()),
        };
        let all = empty.diff(&tree).into_iter().map(wire).collect();
        self.forge_from(&empty, true, self.rules(), all, chunks)
    }

    /// The next revision under these rules.
    pub(super) fn forge_from(
        &self,
        parent: &Tree,
        base: bool,
        sets: Vec<v1::SetRules>,
        changes: Vec<v1::Change>,
        chunks: Vec<Vec<u8>>,
    ) -> Forged {
        let rules: Vec<_> =
            sets.iter().filter_map(|set| SetRules::from_wire(set.clone()).ok().map(Into::into)).collect();
        let tree = self.applied(&parent.with_rules(&rules), &changes);
        let root = tree.map_or(Hash::of(b"no tree"), |tree| tree.root());
        Forged { header: self.header_by(&self.key, root, |_| {}), base, sets, changes, chunks }
    }

    fn applied(&self, parent: &Tree, changes: &[v1::Change]) -> Option<Tree> {
        let change = |wire: &v1::Change| {
            let entry = wire.entry.clone().map(|entry| Entry::from_wire(entry, &mut Owners::default()));
            let set = parent.sets().get(wire.set as usize)?.rules.name.clone();
            Some(Change { set, path: EntryPath::new(&wire.path).ok()?, entry: entry.transpose().ok()? })
        };
        parent.apply(changes.iter().map(change).collect::<Option<_>>()?).ok()
    }

    /// A correct next revision: one file that is new each time.
    pub(super) fn good(&mut self) -> Forged {
        self.good += 1;
        let content = format!("good {}", self.good).into_bytes();
        self.forge(vec![change("good.txt", file(&content))], vec![content])
    }

    /// Pushes `forged`, and expects that the member takes it.
    pub(super) fn push(&mut self, forged: &Forged, case: &str) {
        let (offer, bytes) = forged.pack();
        let verdict = runtime().block_on(async {
            let mut talk = self.talk().await;
            talk.offer(offer, &bytes).await;
            talk.verdict().await
        });
        let report = verdict.taken(case);
        assert_eq!(report.root.as_ref(), forged.header.header().root.as_bytes(), "{case}: the root that was read back");
        self.taken(forged);
    }

    /// Notes that the member holds `forged` from now on.
    pub(super) fn taken(&mut self, forged: &Forged) {
        self.tree = self.applied(&self.tree, &forged.changes).expect("changes that fit");
        self.head = forged.header.clone();
        self.before = Snapshot::of(self.member());
    }

    /// Asserts that nothing at the member changed, and that it still takes a good revision.
    pub(super) fn unharmed(&mut self, case: &str) {
        self.before.assert_unchanged(self.member(), case);
        let good = self.good();
        self.push(&good, case);
        let content = fs::read_to_string(self.member().web("good.txt")).expect("the good file");
        assert_eq!(content, format!("good {}", self.good), "{case}");
    }

    /// Offers this pack and expects a refusal with these words, and after it [`Manager::unharmed`].
    pub(super) fn refused(&mut self, case: &str, (offer, bytes): (v1::Offer, Vec<u8>), words: &[&str]) {
        let said = runtime().block_on(async {
            let mut talk = self.talk().await;
            talk.offer(offer, &bytes).await;
            talk.verdict().await.refusal(case)
        });
        says(case, &said, words);
        self.unharmed(case);
    }
}

/// Places beside and above the set to which nothing may ever be written.
fn sentinels(server: &Server) {
    for place in ["sets/neighbour", "sets/webb", "outside/deep"] {
        let place = server.home.join(place);
        fs::create_dir_all(&place).expect("a sentinel");
        fs::write(place.join("sentinel"), "not to be touched").expect("a sentinel");
    }
}
