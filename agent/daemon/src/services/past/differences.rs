//! The differences between two states of the manager's sets, a part at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bellwether_manager::past::{Before, FindError, Past, Revision, touches};
use bellwether_proto::{
    advice::Advice,
    entry::{Content, EntryPath},
    hash::Hash,
    name::SetName,
    revision::{RevisionName, SignedHeader},
    v1,
};
use bellwether_store::{
    scan::Source,
    secret::SecretPaths,
    tree::{Change, Tree},
};
use bytes::Bytes;
use tonic::{Code, Status};

use super::{Parts, named, unreadable};
use crate::{
    drift::{
        self,
        differences::{self, CHANGED, SECRET, TOO_LARGE, Texts},
    },
    services::refusal::{refusal, refused},
};

/// The most entries in one part.
const PART: usize = 100;
/// Bytes of diffs after which a part is sent; the last diff in it may add 64 KiB.
const DIFFS: usize = 1 << 20;
/// The most entries, and the most bytes of their texts, for which the history is read at once.
const BATCH: (usize, u64) = (1_000, 8 << 20);

/// A request.
pub(super) struct Asked {
    /// None: the revision before `new`.
    old: Option<RevisionName>,
    /// None: the manager's sets as they are.
    new: Option<RevisionName>,
    places: Vec<(SetName, EntryPath)>,
    diffs: bool,
}

impl TryFrom<v1::DifferencesRequest> for Asked {
    type Error = Status;

    fn try_from(wire: v1::DifferencesRequest) -> Result<Self, Status> {
        let name = |text: &str| if text.is_empty() { Ok(None) } else { named(text).map(Some) };
        let (old, new) = (name(&wire.old)?, name(&wire.new)?);
        if old.is_none() && new.is_none() {
            return Err(Status::invalid_argument("the manager's sets are compared with a revision"));
        }
        Ok(Self { old, new, places: drift::places(&wire.places).map_err(refusal)?, diffs: wire.diffs })
    }
}

impl Asked {
    /// Whether the manager's sets are compared as they are.
    pub(super) fn is_live(&self) -> bool {
        self.new.is_none()
    }
}

/// Both states, with their changes.
struct Compared {
    old: Arc<Tree>,
    changes: Vec<Change>,
    /// What each state is called, behind the name of a file.
    names: (String, String),
    /// Where the new content is, if it is in no revision.
    live: Option<Vec<Source>>,
    secrets: SecretPaths,
}

/// Sends the differences. `live`: the manager's sets, if they are compared. Blocks.
pub(super) fn send(
    past: &Past,
    live: Option<Tree>,
    asked: &Asked,
    parts: &Parts<v1::DifferencesPart>,
) -> Result<(), Status> {
    let find = |name| past.find(name).map_err(refusal::<FindError>);
    let new = asked.new.map(find).transpose()?;
    let tree = match (&new, live) {
        (Some(new), _) => tree(new)?,
        (None, live) => Arc::new(live.unwrap_or_default()),
    };
    let wire = |revision: Option<&Revision>| revision.map(|revision| revision.header().to_wire());
    let mut head = v1::DifferencesPart { new: wire(new.as_ref()), ..v1::DifferencesPart::default() };
    let old = match (asked.old, &new) {
        (Some(old), _) => Some(find(old)?),
        (None, Some(new)) => match past.before(new).map_err(refusal::<FindError>)? {
            Before::Revision(before) => Some(*before),
            Before::Nothing => None,
            Before::Gone => {
                head.unknown = "the revision before it is not in the history any more".to_owned();
                parts.send(head);
                return Ok(());
            }
        },
        (None, None) => None,
    };
    head.old = wire(old.as_ref());
    let old_tree = match &old {
        Some(old) => self::tree(old)?,
        None => Arc::new(Tree::empty(tree.sets().iter().map(|set| set.rules.clone()))),
    };
    if let Some(place) = asked.places.iter().find(|place| ![&old_tree, &tree].iter().any(|tree| has(tree, place))) {
        return Err(no_place(place, old.as_ref(), new.as_ref()));
    }
    let mut changes = old_tree.diff(&tree);
    changes.retain(|change| touches(change, &asked.places));
    drop(tree);
    head.entries = changes.len() as u64;
    let name = |header: Option<&SignedHeader>| header.map(|h| format!(" at {}", h.number())).unwrap_or_default();
    let names = (name(old.as_ref().map(Revision::header)), name(new.as_ref().map(Revision::header)));
    let live = new.is_none().then(|| past.sources());
    let secrets = past.secrets();
    Compared { old: old_tree, changes, names, live, secrets }.send(past, asked.diffs, head, parts)
}

fn tree(revision: &Revision) -> Result<Arc<Tree>, Status> {
    revision.tree().map_err(|error| unreadable(&error))
}

/// Whether a tree has an entry at that place, or the set whose root it is.
fn has(tree: &Tree, (set, path): &(SetName, EntryPath)) -> bool {
    if path.is_root() { tree.set(set).is_some() } else { tree.get(set, path).is_some() }
}

/// The refusal of a place that is in neither state: it may be meant as a revision.
fn no_place((set, path): &(SetName, EntryPath), old: Option<&Revision>, new: Option<&Revision>) -> Status {
    let word = if path.is_root() { set.to_string() } else { format!("{set}:{path}") };
    let old = old.map_or_else(|| "nothing".to_owned(), |old| format!("revision {}", old.header().number()));
    let new = new.map_or_else(|| "the manager's sets".to_owned(), |new| format!("revision {}", new.header().number()));
    let text = format!(
        "'{word}' is neither a revision (such as 1.12, 12, head, head-1) nor a SET or a SET:PATH that {old} or {new} has"
    );
    let advice =
        Advice::run("to see the paths", "bellwether tree").or(&Advice::run("or the revisions", "bellwether log"));
    refused(Code::NotFound, text, advice)
}

impl Compared {
    fn send(
        &self,
        past: &Past,
        diffs: bool,
        head: v1::DifferencesPart,
        parts: &Parts<v1::DifferencesPart>,
    ) -> Result<(), Status> {
        let (mut part, mut bytes) = (head, 0);
        let mut rest = self.changes.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(self.batch(rest));
            rest = later;
            let chunks = if diffs { self.chunks(past, batch)? } else { HashMap::new() };
            for change in batch {
                let entry = self.described(change, diffs.then_some(&chunks));
                bytes += entry.diff.len();
                part.changes.push(entry);
                if part.changes.len() == PART || bytes >= DIFFS {
                    bytes = 0;
                    if !parts.send(std::mem::take(&mut part)) {
                        return Ok(());
                    }
                }
            }
        }
        parts.send(part);
        Ok(())
    }

    /// The number of entries whose texts are read at once, at least one.
    fn batch(&self, changes: &[Change]) -> usize {
        let mut bytes = 0;
        let fits = |change: &&Change| {
            bytes += self.shown(change).map_or(0, |(old, new)| size(old.as_ref()) + size(new.as_ref()));
            bytes <= BATCH.1
        };
        changes.iter().take(BATCH.0).take_while(fits).count().max(1)
    }

    /// Both contents, if they are to be shown as texts.
    fn shown(&self, change: &Change) -> Option<(Option<Content>, Option<Content>)> {
        let before = self.old.get(&change.set, &change.path);
        let (old, new) = differences::contents(before.as_ref(), change)?;
        let is_secret = self.secrets.covers(&change.set, &change.path);
        let is_shown = !is_secret && !differences::too_large(old) && !differences::too_large(new);
        is_shown.then(|| (old.cloned(), new.cloned()))
    }

    /// The chunks of these entries from the history.
    fn chunks(&self, past: &Past, batch: &[Change]) -> Result<HashMap<Hash, Bytes>, Status> {
        let mut wanted = HashSet::new();
        for (old, new) in batch.iter().filter_map(|change| self.shown(change)) {
            let new = new.filter(|_| self.live.is_none());
            wanted.extend(old.iter().chain(&new).flat_map(|content| content.chunks().iter().map(|chunk| chunk.hash)));
        }
        let mut found = HashMap::new();
        if !wanted.is_empty() {
            let mut take = |chunk: bellwether_proto::entry::Chunk, bytes: Bytes| {
                // A copy: a slice would hold its whole frame.
                found.insert(chunk.hash, Bytes::copy_from_slice(&bytes));
            };
            past.packs().chunks(&wanted, &mut take).map_err(|error| unreadable(&error))?;
        }
        Ok(found)
    }

    /// The entry, with its diff if there are `chunks`.
    fn described(&self, change: &Change, chunks: Option<&HashMap<Hash, Bytes>>) -> v1::DriftEntry {
        let before = self.old.get(&change.set, &change.path);
        let texts = chunks.and_then(|chunks| {
            let (old, new) = differences::contents(before.as_ref(), change)?;
            if self.secrets.covers(&change.set, &change.path) {
                return Some(Err(SECRET));
            }
            Some(self.texts(change, old, new, chunks))
        });
        let name = format!("{}:{}", change.set, change.path);
        let (old, new) = (format!("{name}{}", self.names.0), format!("{name}{}", self.names.1));
        differences::described((before.as_ref(), change), texts, (&old, &new), usize::MAX)
    }

    fn texts(
        &self,
        change: &Change,
        old: Option<&Content>,
        new: Option<&Content>,
        chunks: &HashMap<Hash, Bytes>,
    ) -> Result<Texts, &'static str> {
        if differences::too_large(old) || differences::too_large(new) {
            return Err(TOO_LARGE);
        }
        let stored = |content: Option<&Content>| match content {
            None => Ok(Vec::new()),
            Some(content) => differences::joined(content, chunks).ok_or("the history lacks its content"),
        };
        let new = match (&self.live, new) {
            (Some(sources), Some(content)) => differences::live(sources, change, content).ok_or(CHANGED)?,
            (_, new) => stored(new)?,
        };
        differences::both_texts(stored(old)?, new)
    }
}

fn size(content: Option<&Content>) -> u64 {
    content.map_or(0, Content::size)
}
