//! Forming a group (W1, W10): this server's directories become revision 1.1, packed once and kept in the history.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{
    Malformed,
    entry::EntryPath,
    hash::Hash,
    key::KeyPair,
    name::{ServerName, SetName},
    record::{Codec, Edit, Level, Policy, Record, Role, Server, SetRules, SignedRecord, Version},
    revision::{Epoch, GroupId, Header, Number, SignedHeader},
};
use bellwether_store::{
    history::{History, HistoryError, Stored},
    index,
    pack::{self, Contents, Outlines, PackError},
    scan::{Keeping, Look, Notice, Patience, ScanError, Unread, scan_keeping, sources},
    state::layout::Layout,
    tree::{Node, Tree},
};
use ring::rand::{SecureRandom, SystemRandom};

/// How often forming begins anew because files change while they are packed.
const TRIES: u32 = 10;
/// The number of those tries after which a changing file is left out.
const OFTEN: u32 = 3;

/// The input for forming a group.
#[derive(Debug)]
pub struct Form<'a> {
    /// This server, the first manager.
    pub name: ServerName,
    /// Its key.
    pub key: &'a KeyPair,
    /// `host:port` for the other servers.
    pub address: String,
    /// The path of each set on this server.
    pub sets: Vec<(SetName, PathBuf)>,
    /// The rules of these sets; a set that is not named has none.
    pub rules: Vec<SetRules>,
    /// How packs are compressed, the first one included.
    pub codec: Codec,
    /// The state directory.
    pub state: &'a Path,
    /// The author.
    pub author: String,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

/// A formed group: the history is durable, and the caller saves the record.
#[derive(Debug)]
pub struct Formed {
    /// The first record.
    pub record: SignedRecord,
    /// Revision 1.1.
    pub header: SignedHeader,
    /// The number of its entries.
    pub entries: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of its pack.
    pub pack_bytes: u64,
    /// Left-out entries, with the reason.
    pub notices: Vec<Notice>,
}

/// No group was formed. The sets are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// There is no set.
    #[error("no group was formed: name at least one set, as NAME=PATH")]
    NoSets,
    /// A set is named twice, or lies inside another.
    #[error("no group was formed: sets {0} and {1} overlap; give each a directory of its own")]
    Overlap(SetName, SetName),
    /// The path of a set is not a directory.
    #[error("no group was formed: {path}, the directory of set {set}, does not exist or is not a directory")]
    NoDirectory {
        /// The set.
        set: SetName,
        /// Its path.
        path: PathBuf,
    },
    /// The state directory has a history.
    #[error("no group was formed: {0} holds the history of a group already; leave that group first: bellwether leave")]
    History(PathBuf),
    /// The sets cannot be read.
    #[error("no group was formed: the sets cannot be read")]
    Scan(#[from] ScanError),
    /// The sets cannot be packed.
    #[error("no group was formed: the sets cannot be packed")]
    Pack(#[from] PackError),
    /// The pack cannot be kept.
    #[error("no group was formed: the history cannot be written")]
    Keep(#[from] HistoryError),
    /// A value is malformed.
    #[error("no group was formed: {0}")]
    Malformed(#[from] Malformed),
}

/// Forms a group. Blocks; when it returns, revision 1.1 survives a power loss.
///
/// # Errors
/// Only the history's directory was made.
pub fn form(form: Form<'_>) -> Result<Formed, FormError> {
    check_sets(&form.sets)?;
    let record = first_record(&form)?;
    let mut history = History::open(&form.state.join("history"))?;
    if history.head().is_some() {
        return Err(FormError::History(form.state.join("history")));
    }
    let nothing = Tree::default();
    let from = From { sets: &form.sets, last: &nothing, state: form.state };
    let base = pack_base(&mut history, &record, from, |root| first_header(&form, &record, root))?;
    save_index(form.state, &base.tree);
    let (entries, bytes) = measure(&base.tree);
    let record = SignedRecord::sign(record, form.key)?;
    let Base { stored, tree: _, notices } = base;
    Ok(Formed { record, header: stored.header.clone(), entries, bytes, pack_bytes: stored.size, notices })
}

/// The packed content of the sets.
pub(crate) struct Base {
    pub(crate) stored: Arc<Stored>,
    pub(crate) tree: Tree,
    pub(crate) notices: Vec<Notice>,
}

/// The source of a base.
#[derive(Clone, Copy)]
pub(crate) struct From<'a> {
    pub(crate) sets: &'a [(SetName, PathBuf)],
    /// Replaces entries that cannot be read or are open for writing; those that it lacks are left out.
    pub(crate) last: &'a Tree,
    pub(crate) state: &'a Path,
}

/// Packs the content of the sets as a base, under the header of `header` for their root; durable in `history`.
///
/// # Errors
/// The sets cannot be read, packed or kept.
pub(crate) fn pack_base(
    history: &mut History,
    record: &Record,
    from: From<'_>,
    header: impl Fn(Hash) -> SignedHeader,
) -> Result<Base, FormError> {
    let sources = sources(record, from.sets);
    let rules: Vec<Arc<SetRules>> = sources.iter().map(|source| source.rules.clone()).collect();
    let empty = Tree::empty(rules.iter().cloned());
    let patience = |_: &SetName, _: &EntryPath| Patience::Waits;
    let keeping = Keeping { last: from.last, expected: &empty, patience: Some(&patience) };
    let mut found = scan_keeping(&sources, &empty, &Look::Bytes, keeping)?;
    let outlines = Outlines::of_tree(&Layout::new(from.state.to_owned()).outlines(), &found.tree);
    for attempt in 1.. {
        if let Some(at) = found.unread.iter().position(|unread| unread.path.is_root()) {
            return Err(found.unread.swap_remove(at).why.into());
        }
        if let Some(missing) = found.tree.sets().iter().find(|set| set.root.is_none()) {
            return Err(no_directory(from.sets, &missing.rules.name));
        }
        let header = header(found.tree.root());
        let contents = Contents {
            header: &header,
            base: true,
            parent: &empty,
            rules: &rules,
            changes: &empty.diff(&found.tree),
            sources: &sources,
            history: None,
            codec: record.policy.codec,
            outlines: outlines.as_ref(),
        };
        let mut new = history.create();
        match pack::write(&contents, &mut new) {
            Err(PackError::Changed { set, path }) if (OFTEN..TRIES).contains(&attempt) => {
                found.tree = found
                    .tree
                    .with_entry_of(&empty, &set, &path)
                    .map_err(|_| PackError::Changed { set: set.clone(), path: path.clone() })?;
                let why = ScanError::Busy { set: set.clone(), path: path.clone(), tries: attempt };
                found.unread.push(Unread { set, path, why });
            }
            Err(PackError::Changed { .. }) if attempt < OFTEN => {
                found = scan_keeping(&sources, &found.tree, &Look::Stats, keeping)?;
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let stored = history.commit(new)?;
                let mut notices = found.notices;
                notices.extend(found.unread.iter().map(|unread| Notice {
                    set: unread.set.clone(),
                    path: unread.path.clone(),
                    what: unread.reason(),
                }));
                return Ok(Base { stored, tree: found.tree, notices });
            }
        }
    }
    unreachable!("the loop returns")
}

/// Saves the index, a cache: without it the first start reads every file again.
pub(crate) fn save_index(state: &Path, tree: &Tree) {
    if let Err(error) = index::save(&state.join("index"), tree) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the index was not saved");
    }
}

pub(crate) fn check_sets(sets: &[(SetName, PathBuf)]) -> Result<(), FormError> {
    if sets.is_empty() {
        return Err(FormError::NoSets);
    }
    for (n, (name, path)) in sets.iter().enumerate() {
        if !path.is_dir() {
            return Err(no_directory(sets, name));
        }
        for (other, there) in &sets[n + 1..] {
            if name == other || path.starts_with(there) || there.starts_with(path) {
                return Err(FormError::Overlap(name.clone(), other.clone()));
            }
        }
    }
    Ok(())
}

fn no_directory(sets: &[(SetName, PathBuf)], set: &SetName) -> FormError {
    let path = sets.iter().find(|(name, _)| name == set).map(|(_, path)| path.clone()).unwrap_or_default();
    FormError::NoDirectory { set: set.clone(), path }
}

fn first_record(form: &Form<'_>) -> Result<Record, FormError> {
    let mut group = [0; 16];
    SystemRandom::new().fill(&mut group).expect("the system's random source answers");
    let rules_of = |name: &SetName| {
        form.rules.iter().find(|rules| rules.name == *name).cloned().unwrap_or_else(|| SetRules::new(name.clone()))
    };
    let mut sets: Vec<SetRules> = form.sets.iter().map(|(name, _)| rules_of(name)).collect();
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    let manager = Server {
        name: form.name.clone(),
        key: form.key.public(),
        address: form.address.clone(),
        role: Role::Manager,
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    let policy = Policy { codec: form.codec, ..Policy::new(sets) };
    let record = Record {
        level: Level::NEWEST,
        group: GroupId::from(group),
        version: Version { epoch: Epoch(1), version: 1 },
        servers: vec![manager],
        removed: Vec::new(),
        refused: Vec::new(),
        policy,
        log: vec![Edit { by: form.author.clone(), time_ms: form.time_ms, what: "init".to_owned() }],
        previous: None,
    };
    record.check()?;
    Ok(record)
}

fn first_header(form: &Form<'_>, record: &Record, root: Hash) -> SignedHeader {
    let header = Header {
        group: record.group,
        number: Number { epoch: record.version.epoch, sequence: 1 },
        parent: None,
        manager: form.name.clone(),
        incarnation: 1,
        time_ms: form.time_ms,
        author: format!("{} at {}", form.author, form.name),
        message: "the group is formed".to_owned(),
        labels: std::collections::BTreeMap::new(),
        root,
    };
    SignedHeader::sign(header, form.key)
}

/// The number of entries, and the bytes of files.
pub(crate) fn measure(tree: &Tree) -> (u64, u64) {
    let (mut entries, mut bytes) = (0, 0);
    tree.visit(&mut |_, _, node| {
        entries += 1;
        if let Node::File { content, .. } = node {
            bytes += content.size();
        }
    });
    (entries, bytes)
}
