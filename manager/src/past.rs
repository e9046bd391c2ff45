//! The manager's history as it was at one moment, for those who ask what revisions held. Reading it blocks no publish.

mod find;

use std::sync::{Arc, PoisonError};

use bellwether_proto::{
    entry::EntryPath,
    name::SetName,
    revision::{Number, RevisionName, SignedHeader},
    time,
};
use bellwether_store::{
    history::{Chain, HistoryError, Packs, Stored},
    scan::Source,
    secret::SecretPaths,
    tree::{Change, Tree},
};

pub use self::find::FindError;
use crate::{Manager, publish::head::Head, shared::Shared};

/// The head and the revisions it descends from.
#[derive(Clone)]
pub struct Past {
    shared: Arc<Shared>,
    head: Arc<Head>,
    /// Newest first.
    line: Vec<Arc<Stored>>,
    packs: Packs,
}

/// A revision of the past.
#[derive(Debug, Clone)]
pub struct Revision {
    stored: Arc<Stored>,
    chain: Chain,
    /// In memory already, where it is the head's.
    tree: Option<Arc<Tree>>,
}

/// What was before a revision.
#[derive(Debug)]
pub enum Before {
    /// Nothing: it is the first of the group.
    Nothing,
    /// A revision that is not in the history.
    Gone,
    /// This revision.
    Revision(Box<Revision>),
}

impl Manager {
    /// The history as it is now.
    pub fn past(&self) -> Past {
        Past::of(&self.inner.shared)
    }
}

impl Past {
    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        let history = shared.history.read().unwrap_or_else(PoisonError::into_inner);
        // A revision is part of the history before it is the head.
        let head = shared.head.borrow().clone();
        let line = history.line(head.id()).cloned().collect();
        Self { shared: shared.clone(), head, line, packs: history.packs() }
    }

    /// The revisions, newest first.
    pub fn line(&self) -> &[Arc<Stored>] {
        &self.line
    }

    /// The reason why revisions before the oldest one are not here, for people; none: there were none.
    pub fn ends(&self) -> Option<String> {
        let oldest = self.line.last()?;
        oldest.header.header().parent?;
        let number = oldest.header.number();
        let record = self.shared.record.borrow();
        let forgotten = record.record().policy.forgotten.iter().rfind(|note| note.begins == number);
        Some(match forgotten {
            Some(note) => format!(
                "older revisions than {number} were dropped by `bellwether forget {}` (by {}, {} UTC)",
                note.place,
                note.by,
                time::utc(i64::try_from(note.time_ms / 1_000).unwrap_or(i64::MAX))
            ),
            None => format!(
                "older revisions than {number} were dropped by retention or by `forget`, or this manager joined the group after \
                 them"
            ),
        })
    }

    /// The head's tree.
    pub fn head_tree(&self) -> Arc<Tree> {
        self.head.tree.clone()
    }

    /// The secret files, by the record in force.
    pub fn secrets(&self) -> SecretPaths {
        secrets(&self.shared)
    }

    /// The packs, for the content of files.
    pub fn packs(&self) -> &Packs {
        &self.packs
    }

    /// The manager's sets on its disk, for content that is not in the history yet.
    pub fn sources(&self) -> Vec<Source> {
        self.shared.sources()
    }

    /// The revision of that name.
    ///
    /// # Errors
    /// It is not in this history: the reason, and the nearest revision that is.
    pub fn find(&self, name: RevisionName) -> Result<Revision, FindError> {
        let numbers: Vec<Number> = self.line.iter().map(|stored| stored.header.number()).collect();
        let head = self.head.stored.header.number();
        self.at(find::find((head, &numbers), self.ends().is_some(), name)?)
    }

    /// What was before `revision`.
    ///
    /// # Errors
    /// As [`Past::find`].
    pub fn before(&self, revision: &Revision) -> Result<Before, FindError> {
        let at = self.line.iter().position(|stored| stored.header.id() == revision.header().id());
        match at.map(|at| at + 1) {
            Some(at) if at < self.line.len() => Ok(Before::Revision(Box::new(self.at(at)?))),
            _ if revision.header().header().parent.is_none() => Ok(Before::Nothing),
            _ => Ok(Before::Gone),
        }
    }

    fn at(&self, at: usize) -> Result<Revision, FindError> {
        let stored = self.line[at].clone();
        let history = self.shared.history.read().unwrap_or_else(PoisonError::into_inner);
        let chain = history.chain(stored.header.id()).map_err(FindError::History)?;
        let tree = (at == 0).then(|| self.head.tree.clone());
        Ok(Revision { stored, chain, tree })
    }
}

impl Revision {
    /// Its signed header.
    pub fn header(&self) -> &SignedHeader {
        &self.stored.header
    }

    /// Its tree. Blocks: unless it is the head, its packs are read.
    ///
    /// # Errors
    /// The packs cannot be read, or retention has deleted them meanwhile.
    pub fn tree(&self) -> Result<Arc<Tree>, HistoryError> {
        match &self.tree {
            Some(tree) => Ok(tree.clone()),
            None => self.chain.tree().map(Arc::new),
        }
    }
}

/// The secret files, by the record in force.
pub(crate) fn secrets(shared: &Shared) -> SecretPaths {
    SecretPaths::new(&shared.record.borrow().record().policy.secret)
}

/// Whether a change touches one of `places` (none: any): it is within it, or removes it with what is above.
pub fn touches(change: &Change, places: &[(SetName, EntryPath)]) -> bool {
    let touched = |(set, path): &(_, _)| {
        *set == change.set && (change.path.is_within(path) || (change.entry.is_none() && path.is_within(&change.path)))
    };
    places.is_empty() || places.iter().any(touched)
}
