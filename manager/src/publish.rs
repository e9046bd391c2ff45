//! One publish, on a blocking thread: scan, compare with the head, judge, sign, pack, commit. What is on disk when it
//! says that a revision was published: the whole pack, part of the history (invariant 3). It announces nothing.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    sync::{Arc, PoisonError},
    time::Instant,
};

use bellwether_proto::{
    name::SetName,
    record::{Publish, Record, SetRules},
    revision::{Header, Number, SignedHeader},
};
use bellwether_store::{
    durable,
    history::HistoryError,
    pack::{self, Contents, PackError},
    scan::{Depth, Look, Notice, ScanError, Source, scan},
    tree::{Change, Tree},
};

use crate::{
    failpoints,
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
    #[error("nothing was published: set {0} has no path on this server; give it one (--set {0}=PATH) and start again")]
    NoPath(SetName),
    /// The manager stops.
    #[error("the manager is stopping; nothing was published")]
    Stopping,
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
    Published(Box<Head>, Changes),
}

/// What a publish saw, whatever came of it.
pub(crate) struct Seen {
    /// The sets as they are.
    pub(crate) tree: Tree,
    pub(crate) notices: Vec<Notice>,
    pub(crate) young: BTreeMap<(SetName, bellwether_proto::entry::EntryPath), Depth>,
    pub(crate) outcome: Result<Outcome, PublishError>,
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

/// Tries to publish what `look` finds. `known`: the sets as last scanned.
///
/// # Errors
/// The sets cannot be scanned: nothing new is known. All other errors are in [`Seen::outcome`].
pub(crate) fn attempt(
    shared: &Shared,
    known: &Tree,
    look: Look,
    cause: &Cause,
    began: Instant,
) -> Result<Seen, PublishError> {
    let record = shared.record.borrow().clone();
    let (head, record) = (shared.head.borrow().clone(), record.record());
    let sources = sources(record, &shared.sets);
    if let Some(lost) = record.policy.sets.iter().find(|rules| sources.iter().all(|s| s.rules.name != rules.name)) {
        return Err(PublishError::NoPath(lost.name.clone()));
    }
    let mut seen = look_at(&sources, known, &look)?;
    for attempt in 1.. {
        let publishing = Publishing { shared, record, head: &head, sources: &sources, began };
        seen.outcome = publishing.go(&seen.tree, cause);
        let Err(PublishError::Pack(PackError::Changed { set, path })) = &seen.outcome else { break };
        if attempt == TRIES {
            break;
        }
        let again = Look::At([((set.clone(), path.clone()), Depth::All)].into());
        let mut next = look_at(&sources, &seen.tree, &again)?;
        next.notices.append(&mut seen.notices);
        next.young.append(&mut seen.young);
        seen = next;
    }
    Ok(seen)
}

fn look_at(sources: &[Source], known: &Tree, look: &Look) -> Result<Seen, PublishError> {
    let scan = scan(sources, known, look)?;
    failpoints::hit("publish.scanned");
    let young = scan.young.into_iter().map(|at| (at, Depth::Entry)).collect();
    Ok(Seen { tree: scan.tree, notices: scan.notices, young, outcome: Ok(Outcome::Same) })
}

struct Publishing<'a> {
    shared: &'a Shared,
    record: &'a Record,
    head: &'a Head,
    sources: &'a [Source],
    began: Instant,
}

impl Publishing<'_> {
    fn go(&self, tree: &Tree, cause: &Cause) -> Result<Outcome, PublishError> {
        let root = tree.root();
        if root == self.head.stored.header.header().root {
            return Ok(Outcome::Same);
        }
        let changes = self.head.tree.diff(tree);
        let summary = Changes::of(&changes, &self.head.tree);
        let asked = match cause {
            Cause::Seen => None,
            Cause::Asked(request) => Some(request),
        };
        if asked.is_some_and(|request| request.dry_run) {
            return Ok(Outcome::Held(summary));
        }
        if !asked.is_some_and(|request| request.accept)
            && let Some(fright) = frightening(&self.head.tree, tree)
        {
            return Err(PublishError::Frightening(fright));
        }
        if asked.is_none() && self.record.policy.publish == Publish::Manual {
            return Ok(Outcome::Held(summary));
        }
        let header = self.header(root, asked);
        self.pack(&header, tree, &changes).map(|head| Outcome::Published(Box::new(head), summary))
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
            author: asked.map(|request| request.author.clone()).unwrap_or_default(),
            message: asked.map(|request| request.message.clone()).unwrap_or_default(),
            labels: BTreeMap::new(),
            root,
        };
        let signed = SignedHeader::sign(header, &self.shared.key);
        failpoints::hit("publish.signed");
        signed
    }

    fn pack(&self, header: &SignedHeader, tree: &Tree, changes: &[Change]) -> Result<Head, PublishError> {
        let rules: Vec<Arc<SetRules>> = self.sources.iter().map(|source| source.rules.clone()).collect();
        let contents = Contents {
            header,
            base: false,
            parent: &self.head.tree,
            rules: &rules,
            changes,
            sources: self.sources,
            codec: self.record.policy.codec,
        };
        let stored = store(self.shared, &contents)?;
        Ok(Head::new(stored, Arc::new(tree.clone()), self.began))
    }
}

/// Packs and commits: when this returns, the pack is part of the history and survives a power loss.
pub(crate) fn store(
    shared: &Shared,
    contents: &Contents<'_>,
) -> Result<Arc<bellwether_store::history::Stored>, PublishError> {
    let new = shared.history.read().unwrap_or_else(PoisonError::into_inner).create();
    let mut new = new?;
    failpoints::hit("publish.begun");
    pack::write(contents, new.file())?;
    failpoints::hit("publish.written");
    // The bytes go to the disk before the history is locked: lanes go on reading it meanwhile. `commit` makes sure.
    let _ = durable::sync_file(new.file().as_fd());
    let stored = shared.history.write().unwrap_or_else(PoisonError::into_inner).commit(new)?;
    failpoints::hit("publish.committed");
    Ok(stored)
}

/// Builds a base pack of the head, and deletes what retention no longer keeps.
pub(crate) fn base(shared: &Shared, revisions: usize) -> Result<(), PublishError> {
    let record = shared.record.borrow().clone();
    let head = shared.head.borrow().clone();
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
    };
    store(shared, &contents)?;
    shared.history.write().unwrap_or_else(PoisonError::into_inner).retain(revisions)?;
    Ok(())
}
