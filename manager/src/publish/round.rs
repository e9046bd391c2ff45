//! One publish, on a blocking thread, in two steps. [`prepare`] scans, compares with the head, judges, signs and packs;
//! its result is invisible, and can be thrown away. [`commit`] makes the whole pack part of the history, on the disk,
//! before it returns a published revision (invariant 3). Neither announces anything.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use bellwether_group::{
    edits,
    rollout::{self, Hold},
};
use bellwether_local::prove;
use bellwether_proto::{
    Malformed,
    advice::{Advice, Advise},
    clock::now_ms,
    entry::EntryPath,
    level::Level,
    name::{ServerName, SetName},
    record::{Publish, Record, SetRules, Version},
    revision::{ACCEPTED, CONFIRM_WITHIN, Header, Number, REPLACES, RevisionId, SignedHeader, TAKEN_BACK},
};
use bellwether_store::{
    apply::Refused,
    history::{HistoryError, NewPack, Stored},
    pack::{self, Contents, PackError},
    scan::{Depth, HardLink, Keeping, Look, Means, Notice, Scan, ScanError, Source, Unread, scan_keeping, sources},
    state::record::decide,
    tree::{Change, Tree, TreeError},
};

use crate::{
    failpoints,
    publish::{
        batch::InBatch,
        head::Head,
        live::{self, Checkout, LiveError},
        rejection::Rejection,
        safety::{Fright, Step},
        waiting::Waiting,
    },
    shared::Shared,
};

/// How often a file that changes while it is packed is scanned again; after that it stays as in the last revision.
const TRIES: u32 = 3;
/// How often a publish begins anew because files change or cannot be read while they are packed.
const ATTEMPTS: u32 = 64;
/// The most changes that an answer lists.
const LISTED: usize = 100;

/// A request to publish.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The reason, in the author's words.
    pub message: String,
    /// The author, with the server.
    pub author: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The time within which somebody has to confirm the revision, in milliseconds.
    pub confirm_within_ms: Option<u64>,
    /// Publish although most files are gone; after that, removals count anew.
    pub accept: bool,
    /// Only show the result.
    pub dry_run: bool,
}

/// Nothing was published. The head is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Servers of the group may not take a revision back by themselves.
    #[error(
        "nothing was published: a revision that is to be confirmed needs format level 2, and the group is of level {0}"
    )]
    Level(Level),
    /// A set cannot be scanned.
    #[error("nothing was published: the sets cannot be read")]
    Scan(#[from] ScanError),
    /// The entries that stay as in the head do not fit the scanned ones.
    #[error("nothing was published: the sets cannot be read")]
    Tree(#[from] TreeError),
    /// A pack cannot be built.
    #[error("nothing was published: the revision cannot be packed")]
    Pack(#[from] PackError),
    /// The history cannot take it.
    #[error("nothing was published: the history cannot take the revision")]
    History(#[from] HistoryError),
    /// Most files are gone.
    #[error("publish refused: {0}; no server was changed")]
    Frightening(Fright),
    /// The record names a set that has no path on this server.
    #[error("nothing was published: set {0} has no path on this server")]
    NoPath(SetName),
    /// A git checkout would be published with its `.git`.
    #[error("nothing was published: {0}")]
    Checkout(#[from] Checkout),
    /// The live paths of the manager's sets do not take it.
    #[error("nothing was published")]
    Live(#[source] LiveError),
    /// The request does not fit into a revision.
    #[error("{0}; nothing was published")]
    Malformed(#[from] Malformed),
    /// The content cannot be read, or is not whole yet.
    #[error("not published yet: {0}; it is tried again")]
    Waits(String),
    /// A batch holds publishing.
    #[error(transparent)]
    InBatch(#[from] InBatch),
    /// Another server leads in the same epoch: two histories would diverge.
    #[error("{0}")]
    Disputed(Arc<str>),
    /// A command of a set on this server refuses the files.
    #[error("refused: {}", .0.complaint.reason)]
    Rejected(Rejection),
    /// A file that a command has changed was edited before it was published: the edit is no part of that command.
    #[error("{0} was edited while the change was published; the edit stays")]
    Edited(String),
    /// The manager stops.
    #[error("the manager is stopping; nothing was published")]
    Stopping,
}

impl From<LiveError> for PublishError {
    fn from(error: LiveError) -> Self {
        match error {
            LiveError::Rejected(complaint) => Self::Rejected(Rejection::new(complaint, &[])),
            LiveError::Stopping => Self::Stopping,
            LiveError::Refused(Refused::Missing(_)) => Self::Waits("files changed while they were read".to_owned()),
            other => Self::Live(other),
        }
    }
}

impl Advise for PublishError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Frightening(_) => Some(Advice::run("if that is meant", "bellwether publish --accept")),
            Self::Rejected(rejection) => Some(rejection.advice()),
            Self::Edited(_) => Some(Advice::run("see", "bellwether diff")),
            Self::Level(_) => Some(Advice::run("first, at the manager", "bellwether group set --level 2")),
            Self::NoPath(set) => Some(Advice::say(format!("give it one (--set {set}=PATH) and start again"))),
            Self::InBatch(batch) => batch.advice(),
            Self::Checkout(checkout) => checkout.advice(),
            Self::Disputed(_) => Some(decide()),
            Self::Waits(_) => Some(Advice::run("see", "bellwether status")),
            Self::Scan(ScanError::Elsewhere { .. }) => Some(back_or_accept()),
            Self::Scan(_)
            | Self::Tree(_)
            | Self::Pack(_)
            | Self::History(_)
            | Self::Live(_)
            | Self::Malformed(_)
            | Self::Stopping => None,
        }
    }
}

/// The advice for a set whose directory is another place.
pub(crate) fn back_or_accept() -> Advice {
    let accept = Advice::run("or, if this is meant, at the manager", "bellwether publish --accept");
    Advice::say("mount again what was there").or(&accept)
}

/// The advice for a change that edits at the manager keep from being made.
pub(crate) fn publish_or_discard() -> Advice {
    let discard = Advice::run("or, to drop them", "bellwether discard");
    Advice::run("publish these edits first, at the manager", "bellwether publish").or(&discard)
}

/// The advice while a rollout is stopped.
pub(crate) fn decide_rollout(hold: Hold) -> Advice {
    let back = Advice::run("or", "bellwether rollback");
    let on = match hold {
        Hold::Stopped(_) => "bellwether rollout continue",
        Hold::Unconfirmed(_) => "bellwether confirm",
    };
    Advice::run("decide at the manager", on).or(&back)
}

/// The cause of a publish.
#[derive(Debug, Clone)]
pub(crate) enum Cause {
    /// An event, or a rescan.
    RoundResult,
    /// A person.
    Asked(Request),
    /// A person, and the removals were judged before.
    Judged(Request),
}

impl Cause {
    fn request(&self) -> Option<&Request> {
        match self {
            Self::RoundResult => None,
            Self::Asked(request) | Self::Judged(request) => Some(request),
        }
    }
}

/// The result.
pub(crate) enum Outcome {
    /// The sets match the head.
    Same,
    /// They differ, but nothing was to be published.
    Held(Changes),
    /// There is a new head, durable.
    Published(Arc<Head>, Changes),
}

/// The findings of a publish, with any result.
pub(crate) struct RoundResult {
    /// The scope of the scan.
    pub(crate) looked: Look,
    /// The sets as they are.
    pub(crate) tree: Tree,
    pub(crate) found: Findings,
    pub(crate) outcome: Result<Outcome, PublishError>,
    /// A base of the head is due.
    pub(crate) base_due: bool,
}

/// The findings of a scan besides the tree, for its paths only.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) notices: Vec<Notice>,
    pub(crate) unread: Vec<Unread>,
    pub(crate) open: Vec<(SetName, EntryPath)>,
    pub(crate) links: Vec<HardLink>,
    pub(crate) means: BTreeMap<SetName, Means>,
    pub(crate) young: BTreeMap<(SetName, EntryPath), Depth>,
}

impl Findings {
    /// The finding that a set's directory is another place.
    fn elsewhere(&self) -> Option<ScanError> {
        self.unread.iter().find_map(|unread| match &unread.why {
            ScanError::Elsewhere { set, path, elsewhere } => {
                let (set, path, elsewhere) = (set.clone(), path.clone(), elsewhere.clone());
                Some(ScanError::Elsewhere { set, path, elsewhere })
            }
            _ => None,
        })
    }

    fn split(scan: Scan) -> (Tree, Self) {
        let Scan { tree, notices, unread, open, links, means, young, .. } = scan;
        let young = young.into_iter().map(|at| (at, Depth::Entry)).collect();
        (tree, Self { notices, unread, open, links, means, young })
    }

    /// Takes the findings of a second scan of one of the paths.
    fn renew(&mut self, at: &(SetName, EntryPath), again: Self) {
        self.unread.retain(|unread| (&unread.set, &unread.path) != (&at.0, &at.1));
        self.open.retain(|open| open != at);
        self.links.retain(|link| (&link.set, &link.path) != (&at.0, &at.1));
        self.notices.extend(again.notices);
        self.unread.extend(again.unread);
        self.open.extend(again.open);
        self.links.extend(again.links);
        self.means.extend(again.means);
        self.young.extend(again.young);
    }

    /// The entries that cannot be published now, for people.
    pub(crate) fn waits(&self) -> Vec<String> {
        self.unread.iter().map(|unread| format!("{}:{}: {}", unread.set, unread.path, unread.reason())).collect()
    }
}

/// The differences from the head.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The number of entries.
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
    found: Findings,
    outcome: Result<Ready, PublishError>,
    /// Whether a person confirms it.
    accepted: bool,
    began: Instant,
    /// The head and the record for which it was prepared.
    head: RevisionId,
    record: Version,
    /// The stopped revision whose place it takes.
    replaces: Option<Number>,
}

impl Prepared {
    /// Whether the head, its rollout and the record are still the same.
    pub(crate) fn fits(&self, shared: &Shared) -> bool {
        let same = self.head == shared.head.borrow().id() && self.record == shared.record.borrow().record().version;
        let replaces = shared.rollouts.replaceable(&shared.head.borrow().stored.header);
        same && self.replaces == replaces && shared.held().is_none() && shared.undisputed().is_ok()
    }
}

impl Prepared {
    /// The sets as they were scanned, and as they would be published.
    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Whether an entry could not be read, or is not whole yet: then it is as in the head.
    pub(crate) fn is_unread(&self, set: &SetName, path: &EntryPath) -> bool {
        self.found.unread.iter().any(|unread| unread.set == *set && path.is_within(&unread.path))
    }

    /// The sets as they were scanned.
    pub(crate) fn into_tree(self) -> Tree {
        self.tree
    }
}

enum Ready {
    Same,
    Held(Changes),
    /// A whole pack, on the disk, not yet part of the history.
    Packed(Box<(NewPack, SignedHeader)>, Changes, Step),
}

/// Prepares a publish of the differences that `look` finds. `known`: the sets as last scanned, and the waiting entries.
/// Entries that cannot be read, or are not whole yet, stay as in the head.
///
/// # Errors
/// The sets cannot be scanned. All other errors come from [`commit`].
pub(crate) fn prepare(
    shared: &Shared,
    (known, waiting): (&Tree, &Waiting),
    look: Look,
    cause: &Cause,
    began: Instant,
) -> Result<Prepared, PublishError> {
    shared.undisputed().map_err(PublishError::Disputed)?;
    let record = shared.record.borrow().clone();
    let (head, record) = (shared.head.borrow().clone(), record.record());
    let sources = shared.guard_roots(sources(record, &shared.sets));
    if let Some(lost) = record.policy.sets.iter().find(|rules| sources.iter().all(|s| s.rules.name != rules.name)) {
        return Err(PublishError::NoPath(lost.name.clone()));
    }
    if let Some(checkout) = shared.live.checkout(&sources) {
        return Err(checkout.into());
    }
    if matches!(cause, Cause::Asked(Request { accept: true, dry_run: false, .. })) {
        shared.roots.accept();
    }
    let publishing = Publishing { shared, record, head: &head, sources: &sources, waiting, began };
    let mut prepared = publishing.look(known, &look)?;
    let mut tries: BTreeMap<(SetName, EntryPath), u32> = BTreeMap::new();
    for _ in 0..ATTEMPTS {
        prepared.outcome = publishing.go(&prepared.tree, cause);
        let (at, source) = match &mut prepared.outcome {
            Err(PublishError::Pack(PackError::Changed { set, path })) => ((set.clone(), path.clone()), None),
            Err(PublishError::Pack(PackError::Read { set, path, source })) => {
                let source = std::mem::replace(source, std::io::ErrorKind::Other.into());
                ((set.clone(), path.clone()), Some(source))
            }
            _ => break,
        };
        let tried = tries.entry(at.clone()).or_default();
        *tried += 1;
        match source {
            None if *tried < TRIES => publishing.look_again(&mut prepared, &at)?,
            None => publishing.keep(&mut prepared, at, |(set, path)| ScanError::Busy { set, path, tries: TRIES })?,
            Some(source) => publishing.keep(&mut prepared, at, |(set, path)| ScanError::Io { set, path, source })?,
        }
    }
    let asked = matches!(cause, Cause::Asked(Request { dry_run: false, .. }));
    if asked
        && matches!(prepared.outcome, Ok(Ready::Same))
        && let Some(elsewhere) = prepared.found.elsewhere()
    {
        prepared.outcome = Err(elsewhere.into());
    }
    prepared.accepted = cause.request().is_some_and(|request| request.accept && !request.dry_run);
    Ok(prepared)
}

/// Makes the prepared publish part of the history: a returned head survives a power loss.
pub(crate) fn commit(shared: &Arc<Shared>, prepared: Prepared) -> RoundResult {
    let Prepared { looked, tree, found, outcome, accepted, began, .. } = prepared;
    let outcome = outcome.and_then(|ready| match ready {
        Ready::Same => {
            if accepted {
                shared.guard().accept(Arc::new(tree.clone()), Instant::now());
            }
            Ok(Outcome::Same)
        }
        Ready::Held(changes) => Ok(Outcome::Held(changes)),
        Ready::Packed(packed, changes, step) => {
            let (pack, header) = *packed;
            let head = Head::new(keep_with_live(shared, pack, &header, &tree)?, Arc::new(tree.clone()), began);
            let (mut guard, now) = (shared.guard(), Instant::now());
            if accepted {
                guard.accept(head.tree.clone(), now);
            } else {
                guard.note(&step, head.tree.clone(), now);
            }
            Ok(Outcome::Published(Arc::new(head), changes))
        }
    });
    let published = matches!(outcome, Ok(Outcome::Published(..)));
    let base_due = published && shared.history.read().unwrap_or_else(PoisonError::into_inner).base_due();
    RoundResult { looked, tree, found, outcome, base_due }
}

struct Publishing<'a> {
    shared: &'a Shared,
    record: &'a Record,
    head: &'a Head,
    sources: &'a [Source],
    waiting: &'a Waiting,
    began: Instant,
}

impl Publishing<'_> {
    fn scan(&self, known: &Tree, look: &Look) -> Result<(Tree, Findings), PublishError> {
        let bound = Duration::from_millis(self.record.policy.open_max_ms);
        let patience =
            |set: &SetName, path: &EntryPath| self.waiting.patience(&(set.clone(), path.clone()), bound, self.began);
        let keeping = Keeping { last: &self.head.tree, expected: known, patience: Some(&patience) };
        let scanned = scan_keeping(self.sources, known, look, keeping)?;
        failpoints::hit("publish.scanned");
        Ok(Findings::split(scanned))
    }

    fn look(&self, known: &Tree, look: &Look) -> Result<Prepared, PublishError> {
        let (tree, found) = self.scan(known, look)?;
        Ok(Prepared {
            looked: look.clone(),
            tree,
            found,
            outcome: Ok(Ready::Same),
            accepted: false,
            began: self.began,
            head: self.head.id(),
            record: self.record.version,
            replaces: self.shared.rollouts.replaceable(&self.head.stored.header),
        })
    }

    fn look_again(&self, prepared: &mut Prepared, at: &(SetName, EntryPath)) -> Result<(), PublishError> {
        let (tree, found) = self.scan(&prepared.tree, &Look::At([(at.clone(), Depth::All)].into()))?;
        prepared.tree = tree;
        prepared.found.renew(at, found);
        Ok(())
    }

    /// Keeps an entry as it is in the head.
    fn keep(
        &self,
        prepared: &mut Prepared,
        at: (SetName, EntryPath),
        why: impl FnOnce((SetName, EntryPath)) -> ScanError,
    ) -> Result<(), PublishError> {
        let (set, path) = &at;
        prepared.tree = prepared.tree.with_entry_of(&self.head.tree, set, path)?;
        let unread = Unread { set: set.clone(), path: path.clone(), why: why(at.clone()) };
        prepared.found.renew(&at, Findings { unread: vec![unread], ..Findings::default() });
        Ok(())
    }

    fn go(&self, tree: &Tree, cause: &Cause) -> Result<Ready, PublishError> {
        let root = tree.root();
        if root == self.head.stored.header.header().root {
            return Ok(Ready::Same);
        }
        let changes = self.head.tree.diff(tree);
        let summary = Changes::of(&changes, &self.head.tree);
        let asked = cause.request();
        if asked.is_none() && (self.shared.batch.holds() || self.shared.live.holds()) {
            return Ok(Ready::Held(summary));
        }
        let mut step = Step::new(&self.head.tree, tree, &changes);
        let judged = matches!(cause, Cause::Judged(_)) || asked.is_some_and(|request| request.accept);
        if !judged && let Some(fright) = self.shared.guard().judge(&mut step, tree, Instant::now()) {
            return Err(PublishError::Frightening(fright));
        }
        if asked.is_some_and(|request| request.dry_run) {
            return Ok(Ready::Held(summary));
        }
        let stopped = self.shared.rollouts.holds(&self.head.stored.header).is_some();
        let holds = stopped || rollout::holds_watching(&self.head.stored.header, &self.record.policy);
        if asked.is_none() && (holds || self.record.policy.publish == Publish::Manual) {
            return Ok(Ready::Held(summary));
        }
        if asked.is_none()
            && let Some(complaint) = self.shared.live.refused(root)
        {
            return Err(PublishError::Rejected(Rejection::new(complaint, &changes)));
        }
        self.validate(&changes)?;
        let header = self.header(root, asked)?;
        self.pack(&header, &changes).map(|pack| Ready::Packed(Box::new((pack, header)), summary, step))
    }

    /// Runs the commands that validate the changed sets. The files are in their places here already.
    fn validate(&self, changes: &[Change]) -> Result<(), PublishError> {
        let commands = self.shared.commands_for(changes);
        if commands.is_empty() {
            return Ok(());
        }
        let validated = self
            .shared
            .wait_for_commands(prove::validate(&commands, &self.shared.secrets()))
            .ok_or(PublishError::Stopping)?;
        validated.map_err(|complaint| {
            let seen: Vec<Change> =
                changes.iter().filter(|change| commands.contains_key(&change.set)).cloned().collect();
            PublishError::Rejected(Rejection::new(complaint, &seen))
        })
    }

    fn header(&self, root: bellwether_proto::hash::Hash, asked: Option<&Request>) -> Result<SignedHeader, Malformed> {
        let parent = &self.head.stored.header;
        let mut labels = asked.map(|request| request.labels.clone()).unwrap_or_default();
        labels.extend(asked.filter(|request| request.accept).map(|_| (ACCEPTED.to_owned(), String::new())));
        let confirm_within_ms = asked.and_then(|request| request.confirm_within_ms);
        labels.extend(confirm_within_ms.map(|ms| (CONFIRM_WITHIN.to_owned(), ms.to_string())));
        if let Some(stopped) = self.shared.rollouts.replaceable(parent).filter(|_| !labels.contains_key(TAKEN_BACK)) {
            labels.insert(REPLACES.to_owned(), stopped.to_string());
        }
        let header = Header {
            group: self.record.group,
            number: parent.number().next(self.record.version.epoch)?,
            parent: Some(parent.id()),
            manager: self.shared.name.clone(),
            incarnation: self.shared.incarnation,
            time_ms: now_ms(),
            author: author(asked, &self.shared.name),
            message: asked.map(|request| request.message.clone()).unwrap_or_default(),
            labels,
            root,
        };
        let signed = SignedHeader::sign(header, &self.shared.key);
        failpoints::hit("publish.signed");
        Ok(signed)
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
            history: None,
            codec: self.record.policy.codec,
            outlines: self.shared.outlines.as_ref(),
        };
        pack(self.shared, &contents)
    }
}

/// The author in a header: a person, or the watch on the manager's sets.
fn author(asked: Option<&Request>, manager: &ServerName) -> String {
    match asked.map(|request| edits::cut(&request.author)) {
        None | Some("") => format!("file watch at {manager}"),
        Some(author) => author.to_owned(),
    }
}

/// Writes a pack; when this returns its bytes are on the disk.
fn pack(shared: &Shared, contents: &Contents<'_>) -> Result<NewPack, PublishError> {
    let mut new = shared.history.read().unwrap_or_else(PoisonError::into_inner).create();
    failpoints::hit("publish.begun");
    pack::write(contents, &mut new)?;
    failpoints::hit("publish.written");
    // Synced while it can still be thrown away, to shorten the later wait. `History::write` ensures it.
    let _ = new.sync();
    Ok(new)
}

/// Packs and commits: when this returns, the pack is part of the history and survives a power loss.
pub(crate) fn store(shared: &Shared, contents: &Contents<'_>) -> Result<Arc<Stored>, PublishError> {
    keep(shared, pack(shared, contents)?)
}

/// Makes a revision that changes nothing part of the history.
pub(crate) fn store_unchanged(shared: &Shared, header: &SignedHeader) -> Result<Arc<Stored>, PublishError> {
    let (record, head) = (shared.record.borrow().clone(), shared.head.borrow().clone());
    let rules: Vec<Arc<SetRules>> = head.tree.sets().iter().map(|set| set.rules.clone()).collect();
    let contents = Contents {
        header,
        base: false,
        parent: &head.tree,
        rules: &rules,
        changes: &[],
        sources: &[],
        history: None,
        codec: record.record().policy.codec,
        outlines: None,
    };
    store(shared, &contents)
}

/// Ends a hold of watching that `resume` has ended in the record: a revision without the label, which changes nothing. A
/// later pause is one like any other then.
pub(crate) fn end_hold(shared: &Shared) -> Result<Head, PublishError> {
    let (record, head) = (shared.record.borrow().clone(), shared.head.borrow().clone());
    let parent = &head.stored.header;
    let header = Header {
        group: record.record().group,
        number: parent.number().next(record.record().version.epoch)?,
        parent: Some(parent.id()),
        manager: shared.name.clone(),
        incarnation: shared.incarnation,
        time_ms: now_ms(),
        author: record.record().log.last().map(|edit| edit.by.clone()).unwrap_or_default(),
        message: "watching goes on".to_owned(),
        labels: BTreeMap::new(),
        root: parent.header().root,
    };
    let stored = store_unchanged(shared, &SignedHeader::sign(header, &shared.key))?;
    Ok(Head::new(stored, head.tree.clone(), Instant::now()))
}

/// Makes a pack part of the history, after the live paths of the manager's sets hold its revision.
fn keep_with_live(
    shared: &Arc<Shared>,
    pack: NewPack,
    header: &SignedHeader,
    tree: &Tree,
) -> Result<Arc<Stored>, PublishError> {
    let followed = live::follow(shared, header, tree)?;
    let stored = keep(shared, pack);
    match (&stored, followed) {
        (Ok(_), Some(followed)) => followed.keep(shared),
        (Err(_), Some(followed)) => followed.take_back(shared),
        (_, None) => {}
    }
    stored
}

/// Makes a pack part of the history.
fn keep(shared: &Shared, pack: NewPack) -> Result<Arc<Stored>, PublishError> {
    // Lanes go on reading the history during the wait for the disk.
    let stored = {
        let history = shared.history.read().unwrap_or_else(PoisonError::into_inner);
        history.write(history.check(pack)?)?
    };
    let stored = shared.history.write().unwrap_or_else(PoisonError::into_inner).add(stored);
    failpoints::hit("publish.committed");
    Ok(stored)
}

/// Builds a base pack of the head, unless there is one, and deletes the packs that retention ends.
pub(crate) fn base(shared: &Shared, revisions: usize) -> Result<(), PublishError> {
    let record = shared.record.borrow().clone();
    let head = shared.head.borrow().clone();
    if shared.history.read().unwrap_or_else(PoisonError::into_inner).has_base(head.id()) {
        // Another lane has asked for it already.
        return Ok(());
    }
    // The rules of the head, which may differ from the record's by now.
    let rules: Vec<Arc<SetRules>> = head.tree.sets().iter().map(|set| set.rules.clone()).collect();
    let path = |rules: &Arc<SetRules>| {
        let (_, path) = shared.sets.iter().find(|(name, _)| *name == rules.name)?;
        Some(Source::new(rules.clone(), path.clone()))
    };
    let empty = Tree::empty(rules.iter().cloned());
    // An entry that cannot be read now is in the head as before: the history has it.
    let history = shared.history.read().unwrap_or_else(PoisonError::into_inner).packs();
    let contents = Contents {
        header: &head.stored.header,
        base: true,
        parent: &empty,
        rules: &rules,
        changes: &empty.diff(&head.tree),
        sources: &shared.guard_roots(rules.iter().filter_map(path).collect()),
        history: Some(&history),
        codec: record.record().policy.codec,
        outlines: shared.outlines.as_ref(),
    };
    store(shared, &contents)?;
    shared.history.write().unwrap_or_else(PoisonError::into_inner).retain(revisions)?;
    Ok(())
}
