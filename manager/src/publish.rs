//! One publish, on a blocking thread, in two steps. [`prepare`]: scan, compare with the head, judge, sign, pack; nobody
//! sees anything of it, and it can be thrown away. [`commit`]: when it says that a revision was published, the whole pack
//! is part of the history and on the disk (invariant 3). Neither announces anything.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    sync::{Arc, PoisonError},
    time::Instant,
};

use bellwether_proto::{
    advice::{Advice, Advise},
    entry::EntryPath,
    name::SetName,
    record::{Publish, Record, SetRules, Version},
    revision::{Header, Number, RevisionId, SignedHeader},
};
use bellwether_store::{
    durable,
    history::{HistoryError, NewPack, Stored},
    pack::{self, Contents, PackError},
    scan::{Depth, Look, Notice, ScanError, Source, scan},
    tree::{Change, Tree},
};

use crate::{
    failpoints, group,
    head::Head,
    safety::{Fright, frightening},
    shared::{Shared, now_ms, sources},
};

/// How often a publish begins anew because files change while they are packed.
const TRIES: u32 = 10;
/// Changes that an answer lists.
const LISTED: usize = 100;

/// What is asked of a publish.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Why, in the author's words.
    pub message: String,
    /// Who.
    pub author: String,
    /// Publish although most files are gone.
    pub accept: bool,
    /// Only say what would be published.
    pub dry_run: bool,
}

/// Why nothing was published. The head is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A set cannot be scanned.
    #[error("nothing was published: the sets cannot be read")]
    Scan(#[from] ScanError),
    /// A pack cannot be built.
    #[error("nothing was published: the revision cannot be packed")]
    Pack(#[from] PackError),
    /// The history cannot take it.
    #[error("nothing was published: the history cannot take the revision")]
    History(#[from] HistoryError),
    /// Most files are gone.
    #[error("{0}")]
    Frightening(Fright),
    /// The record names a set that has no path on this server.
    #[error("nothing was published: set {0} has no path on this server")]
    NoPath(SetName),
    /// What was asked cannot be said in a revision.
    #[error("{0}; nothing was published")]
    Malformed(#[from] bellwether_proto::Malformed),
    /// The manager stops.
    #[error("the manager is stopping; nothing was published")]
    Stopping,
}

impl Advise for PublishError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Frightening(_) => Some(Advice::run("if that is meant", "bellwether publish --accept")),
            Self::NoPath(set) => Some(Advice::say(format!("give it one (--set {set}=PATH) and start again"))),
            Self::Scan(_) | Self::Pack(_) | Self::History(_) | Self::Malformed(_) | Self::Stopping => None,
        }
    }
}

/// By whom a publish was started.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// An event, or a rescan.
    Seen,
    /// A person.
    Asked(Request),
}

/// What came of it.
pub(crate) enum Outcome {
    /// The sets hold the head.
    Same,
    /// They do not, but nothing was to be published.
    Held(Changes),
    /// There is a new head, durable.
    Published(Arc<Head>, Changes),
}

/// What a publish saw, whatever came of it.
pub(crate) struct Seen {
    /// What was looked at.
    pub(crate) looked: Look,
    /// The sets as they are.
    pub(crate) tree: Tree,
    pub(crate) notices: Vec<Notice>,
    pub(crate) young: BTreeMap<(SetName, EntryPath), Depth>,
    pub(crate) outcome: Result<Outcome, PublishError>,
    /// A base of the head is due.
    pub(crate) base_due: bool,
}

/// What differs from the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many entries.
    pub count: u64,
    /// The first hundred, as `+ SET:PATH`, `~ SET:PATH` or `- SET:PATH`.
    pub first: Vec<String>,
}

impl Changes {
    fn of(changes: &[Change], head: &Tree) -> Self {
        let line = |change: &Change| {
            let sign = match (&change.entry, head.get(&change.set, &change.path)) {
                (None, _) => '-',
                (Some(_), None) => '+',
                (Some(_), Some(_)) => '~',
            };
            format!("{sign} {}:{}", change.set, change.path)
        };
        Self { count: changes.len() as u64, first: changes.iter().take(LISTED).map(line).collect() }
    }
}

/// A publish that needs only its place in the history.
pub(crate) struct Prepared {
    looked: Look,
    tree: Tree,
    notices: Vec<Notice>,
    young: BTreeMap<(SetName, EntryPath), Depth>,
    outcome: Result<Ready, PublishError>,
    began: Instant,
    /// What it was prepared under.
    head: RevisionId,
    record: Version,
}

impl Prepared {
    /// Whether nothing has changed since that it depends on: neither the head nor the record.
    pub(crate) fn fits(&self, shared: &Shared) -> bool {
        self.head == shared.head.borrow().id() && self.record == shared.record.borrow().record().version
    }
}

/// What a prepared publish will be.
enum Ready {
    Same,
    Held(Changes),
    /// A whole pack, on the disk, not yet part of the history.
    Packed(NewPack, Changes),
}

/// Prepares a publish of what `look` finds. `known`: the sets as last scanned.
///
/// # Errors
/// The sets cannot be scanned: nothing new is known. All other errors are [`commit`]'s to give.
pub(crate) fn prepare(
    shared: &Shared,
    known: &Tree,
    look: Look,
    cause: &Cause,
    began: Instant,
) -> Result<Prepared, PublishError> {
    let record = shared.record.borrow().clone();
    let (head, record) = (shared.head.borrow().clone(), record.record());
    let sources = sources(record, &shared.sets);
    if let Some(lost) = record.policy.sets.iter().find(|rules| sources.iter().all(|s| s.rules.name != rules.name)) {
        return Err(PublishError::NoPath(lost.name.clone()));
    }
    let publishing = Publishing { shared, record, head: &head, sources: &sources, began };
    let mut prepared = publishing.look(known, &look)?;
    for attempt in 1.. {
        prepared.outcome = publishing.go(&prepared.tree, cause);
        let Err(PublishError::Pack(PackError::Changed { set, path })) = &prepared.outcome else { break };
        if attempt == TRIES {
            break;
        }
        let again = Look::At([((set.clone(), path.clone()), Depth::All)].into());
        let mut next = publishing.look(&prepared.tree, &again)?;
        next.notices.append(&mut prepared.notices);
        next.young.append(&mut prepared.young);
        prepared = Prepared { looked: prepared.looked, ..next };
    }
    Ok(prepared)
}

/// Gives what was prepared its place in the history: when this returns a head, it survives a power loss.
pub(crate) fn commit(shared: &Shared, prepared: Prepared) -> Seen {
    let Prepared { looked, tree, notices, young, outcome, began, .. } = prepared;
    let outcome = outcome.and_then(|ready| match ready {
        Ready::Same => Ok(Outcome::Same),
        Ready::Held(changes) => Ok(Outcome::Held(changes)),
        Ready::Packed(pack, changes) => {
            let head = Head::new(keep(shared, pack)?, Arc::new(tree.clone()), began);
            Ok(Outcome::Published(Arc::new(head), changes))
        }
    });
    let published = matches!(outcome, Ok(Outcome::Published(..)));
    let base_due = published && shared.history.read().unwrap_or_else(PoisonError::into_inner).base_due();
    Seen { looked, tree, notices, young, outcome, base_due }
}

struct Publishing<'a> {
    shared: &'a Shared,
    record: &'a Record,
    head: &'a Head,
    sources: &'a [Source],
    began: Instant,
}

impl Publishing<'_> {
    fn look(&self, known: &Tree, look: &Look) -> Result<Prepared, PublishError> {
        let scan = scan(self.sources, known, look)?;
        failpoints::hit("publish.scanned");
        Ok(Prepared {
            looked: look.clone(),
            tree: scan.tree,
            notices: scan.notices,
            young: scan.young.into_iter().map(|at| (at, Depth::Entry)).collect(),
            outcome: Ok(Ready::Same),
            began: self.began,
            head: self.head.id(),
            record: self.record.version,
        })
    }

    fn go(&self, tree: &Tree, cause: &Cause) -> Result<Ready, PublishError> {
        let root = tree.root();
        if root == self.head.stored.header.header().root {
            return Ok(Ready::Same);
        }
        let changes = self.head.tree.diff(tree);
        let summary = Changes::of(&changes, &self.head.tree);
        let asked = match cause {
            Cause::Seen => None,
            Cause::Asked(request) => Some(request),
        };
        if asked.is_some_and(|request| request.dry_run) {
            return Ok(Ready::Held(summary));
        }
        if !asked.is_some_and(|request| request.accept)
            && let Some(fright) = frightening(&self.head.tree, tree)
        {
            return Err(PublishError::Frightening(fright));
        }
        if asked.is_none() && self.record.policy.publish == Publish::Manual {
            return Ok(Ready::Held(summary));
        }
        let header = self.header(root, asked);
        self.pack(&header, &changes).map(|pack| Ready::Packed(pack, summary))
    }

    fn header(&self, root: bellwether_proto::hash::Hash, asked: Option<&Request>) -> SignedHeader {
        let parent = &self.head.stored.header;
        let header = Header {
            group: self.record.group,
            number: Number { epoch: self.record.version.epoch, sequence: parent.number().sequence + 1 },
            parent: Some(parent.id()),
            manager: self.shared.name.clone(),
            incarnation: self.shared.incarnation,
            time_ms: now_ms(),
            author: asked.map(|request| group::cut(&request.author).to_owned()).unwrap_or_default(),
            message: asked.map(|request| request.message.clone()).unwrap_or_default(),
            labels: BTreeMap::new(),
            root,
        };
        let signed = SignedHeader::sign(header, &self.shared.key);
        failpoints::hit("publish.signed");
        signed
    }

    fn pack(&self, header: &SignedHeader, changes: &[Change]) -> Result<NewPack, PublishError> {
        let rules: Vec<Arc<SetRules>> = self.sources.iter().map(|source| source.rules.clone()).collect();
        let contents = Contents {
            header,
            base: false,
            parent: &self.head.tree,
            rules: &rules,
            changes,
            sources: self.sources,
            codec: self.record.policy.codec,
            outlines: self.shared.outlines.as_ref(),
        };
        pack(self.shared, &contents)
    }
}

/// Writes a pack; when this returns its bytes are on the disk.
fn pack(shared: &Shared, contents: &Contents<'_>) -> Result<NewPack, PublishError> {
    let new = shared.history.read().unwrap_or_else(PoisonError::into_inner).create();
    let mut new = new?;
    failpoints::hit("publish.begun");
    pack::write(contents, new.file())?;
    failpoints::hit("publish.written");
    // Before the history is locked: lanes go on reading it meanwhile. `History::commit` makes sure.
    let _ = durable::sync_file(new.file().as_fd());
    Ok(new)
}

/// Packs and commits: when this returns, the pack is part of the history and survives a power loss.
pub(crate) fn store(shared: &Shared, contents: &Contents<'_>) -> Result<Arc<Stored>, PublishError> {
    keep(shared, pack(shared, contents)?)
}

/// Makes a pack part of the history.
fn keep(shared: &Shared, pack: NewPack) -> Result<Arc<Stored>, PublishError> {
    let stored = shared.history.write().unwrap_or_else(PoisonError::into_inner).commit(pack)?;
    failpoints::hit("publish.committed");
    Ok(stored)
}

/// Builds a base pack of the head, unless there is one, and deletes what retention no longer keeps.
pub(crate) fn base(shared: &Shared, revisions: usize) -> Result<(), PublishError> {
    let record = shared.record.borrow().clone();
    let head = shared.head.borrow().clone();
    if shared.history.read().unwrap_or_else(PoisonError::into_inner).has_base(head.id()) {
        // Several lanes have asked for it.
        return Ok(());
    }
    // The rules of the head, which the record may have left behind.
    let rules: Vec<Arc<SetRules>> = head.tree.sets().iter().map(|set| set.rules.clone()).collect();
    let path = |rules: &Arc<SetRules>| {
        let (_, path) = shared.sets.iter().find(|(name, _)| *name == rules.name)?;
        Some(Source { rules: rules.clone(), path: path.clone() })
    };
    let empty = Tree::empty(rules.iter().cloned());
    let contents = Contents {
        header: &head.stored.header,
        base: true,
        parent: &empty,
        rules: &rules,
        changes: &empty.diff(&head.tree),
        sources: &rules.iter().filter_map(path).collect::<Vec<_>>(),
        codec: record.record().policy.codec,
        outlines: shared.outlines.as_ref(),
    };
    store(shared, &contents)?;
    shared.history.write().unwrap_or_else(PoisonError::into_inner).retain(revisions)?;
    Ok(())
}
