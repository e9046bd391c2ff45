//! What the member's thread is asked about edits, by a person on this machine or by the manager for one; and the hand
//! that asks it.

use std::time::{Duration, Instant};

use bellwether_proto::{
    advice::{Advice, Advise},
    entry::{EntryPath, Kind},
    name::SetName,
    record::OnDrift,
    revision::{Number, SignedHeader},
};
use bellwether_store::{
    apply::Refused,
    history::Packs,
    scan::{Look, ScanError, Source},
    tree::{Change, Tree},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{Input, Member, receive::ReceiveError},
    waiting,
};

/// For how long a look at every entry is good enough: the watch sees what is edited meanwhile.
const FRESH: Duration = Duration::from_millis(500);
/// Questions that may wait until nothing is under way.
const ASKED: usize = 16;

/// A path in a set, with all below it.
pub type SetPath = (SetName, EntryPath);
type Answer<T> = oneshot::Sender<Result<T, AskError>>;

/// A question.
#[derive(Debug)]
pub enum Asked {
    /// What differs now.
    Look(Answer<Looked>),
    /// Put the revision's state back.
    PutBack {
        /// Where; none: everywhere.
        places: Vec<SetPath>,
        /// Only say what would be done.
        dry_run: bool,
        /// What was done.
        answer: Answer<PutBack>,
    },
    /// These edits are in a revision.
    Given {
        /// Which.
        edits: Vec<Change>,
        /// Noted.
        answer: Answer<()>,
    },
    /// The sets' directories are believed where they are.
    Accept(Answer<Vec<SetName>>),
}

/// What differs, and what is needed to show it.
#[derive(Debug)]
pub struct Looked {
    /// The revision that is held.
    pub at: SignedHeader,
    /// Its tree.
    pub tree: Tree,
    /// From there to what the sets hold.
    pub edits: Vec<Change>,
    /// Where the sets are.
    pub sources: Vec<Source>,
    /// Where the revision's content is.
    pub packs: Packs,
    /// What the group does about edits.
    pub policy: OnDrift,
    /// Updates wait because of the edits.
    pub held: bool,
}

/// What was put back.
#[derive(Debug)]
pub struct PutBack {
    /// Whose state.
    pub revision: Number,
    /// The edits that were undone, as `~ SET:PATH`.
    pub lines: Vec<String>,
    /// Kept copies that were made.
    pub kept: Vec<String>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Not yet in the group's state.
    #[error("this server holds no revision of the group yet")]
    NoRevision,
    /// In error, and why.
    #[error("this server is in error ({0})")]
    Fault(String),
    /// So many chunks.
    #[error("this server's own history lacks {0} chunks of what was there")]
    Missing(usize),
    /// Tried, and why not.
    #[error("the state could not be put back: {0}")]
    Failed(String),
    /// Too many questions.
    #[error("too many ask at once")]
    Busy,
    /// The role ends.
    #[error("the agent is stopping")]
    Stopping,
    /// The sets.
    #[error("the sets cannot be read")]
    Scan(#[from] ScanError),
    /// What puts it back cannot be made.
    #[error("the state cannot be put back")]
    Receive(#[from] ReceiveError),
    /// The sets cannot take it.
    #[error("the state cannot be put back")]
    Refused(#[from] Refused),
}

impl Advise for AskError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Fault(_) | Self::Missing(_) => Some(Advice::run("bring it to the head", "bellwether sync")),
            Self::Busy => Some(Advice::say("try again")),
            Self::NoRevision
            | Self::Failed(_)
            | Self::Stopping
            | Self::Scan(_)
            | Self::Receive(_)
            | Self::Refused(_) => None,
        }
    }
}

/// Asks the member's thread. Does not keep it running.
#[derive(Debug, Clone)]
pub struct Hand(mpsc::WeakSender<Input>);

impl Hand {
    /// Asks the thread that is fed by these.
    pub fn new(inputs: &mpsc::Sender<Input>) -> Self {
        Self(inputs.downgrade())
    }

    async fn ask<T>(&self, asked: impl FnOnce(Answer<T>) -> Asked) -> Result<T, AskError> {
        let (to, from) = oneshot::channel();
        let inputs = self.0.upgrade().ok_or(AskError::Stopping)?;
        inputs.send(Input::Asked(asked(to))).await.map_err(|_| AskError::Stopping)?;
        drop(inputs);
        from.await.map_err(|_| AskError::Stopping)?
    }

    /// What differs now.
    pub async fn look(&self) -> Result<Looked, AskError> {
        self.ask(Asked::Look).await
    }

    /// Puts the revision's state back at `places` (none: everywhere), when what is under way has ended.
    pub async fn put_back(&self, places: Vec<SetPath>, dry_run: bool) -> Result<PutBack, AskError> {
        self.ask(|answer| Asked::PutBack { places, dry_run, answer }).await
    }

    /// The sets' directories are believed where they are; which sets there are.
    pub async fn accept(&self) -> Result<Vec<SetName>, AskError> {
        self.ask(Asked::Accept).await
    }

    /// These edits are in a revision: updates need not wait for them.
    pub async fn given(&self, edits: Vec<Change>) -> Result<(), AskError> {
        self.ask(|answer| Asked::Given { edits, answer }).await
    }
}

/// The edits at `places` (none: all). A directory that was removed stands for all it held, so it is one of those at any
/// place below it.
pub fn selected(mut edits: Vec<Change>, places: &[SetPath]) -> Vec<Change> {
    let meant = |edit: &Change| {
        places.iter().any(|(set, path)| {
            *set == edit.set && (edit.path.is_within(path) || (edit.entry.is_none() && path.is_within(&edit.path)))
        })
    };
    edits.retain(|edit| places.is_empty() || meant(edit));
    edits
}

/// The same, with the new directories that they are in.
pub fn selected_with_parents(edits: &[Change], places: &[SetPath]) -> Vec<Change> {
    let chosen = selected(edits.to_vec(), places);
    let directory = |edit: &Change| edit.entry.as_ref().is_some_and(|entry| entry.kind == Kind::Directory);
    let needed = |edit: &Change| {
        let holds = |other: &Change| other.set == edit.set && other.path.is_within(&edit.path);
        chosen.binary_search_by(|other| (&other.set, &other.path).cmp(&(&edit.set, &edit.path))).is_ok()
            || (directory(edit) && chosen.iter().any(|other| other.entry.is_some() && holds(other)))
    };
    edits.iter().filter(|edit| needed(edit)).cloned().collect()
}

impl Member {
    /// Answers at once where it can; what switches waits until nothing is under way.
    pub(in super::super) fn asked(&mut self, asked: Asked) {
        match asked {
            Asked::Look(answer) => drop(answer.send(self.looked())),
            later if self.asked.len() < ASKED => self.asked.push_back(later),
            Asked::PutBack { answer, .. } => drop(answer.send(Err(AskError::Busy))),
            Asked::Given { answer, .. } => drop(answer.send(Err(AskError::Busy))),
            Asked::Accept(answer) => drop(answer.send(Err(AskError::Busy))),
        }
    }

    pub(super) fn answer(&mut self, asked: Asked) {
        match asked {
            Asked::Look(answer) => drop(answer.send(self.looked())),
            // Who asked does not wait any more: nothing is done behind his back.
            Asked::PutBack { answer, .. } if answer.is_closed() => {}
            Asked::PutBack { places, dry_run, answer } => drop(answer.send(self.put_back(&places, dry_run))),
            Asked::Accept(answer) => {
                self.sets.accept_roots();
                self.dirty(&Look::Bytes);
                self.sets.save_roots();
                let _ = answer.send(Ok(self.sets.paths.keys().cloned().collect()));
            }
            Asked::Given { mut edits, answer } => {
                // The newest of a path stands before the others.
                edits.append(&mut self.given);
                self.given = edits;
                self.given.sort_by(|a, b| (&a.set, &a.path).cmp(&(&b.set, &b.path)));
                self.given.dedup_by(|new, old| (&new.set, &new.path) == (&old.set, &old.path));
                self.dirty(&waiting::nowhere());
                let _ = answer.send(Ok(()));
            }
        }
    }

    fn looked(&mut self) -> Result<Looked, AskError> {
        let at = self.position.at.clone().ok_or(AskError::NoRevision)?;
        // What is under way was compared with the sets as they were: they are looked at when it has ended.
        if self.follower.is_idle() {
            self.look_afresh()?;
        }
        Ok(Looked {
            at,
            edits: self.sets.edits(),
            tree: self.sets.tree.clone(),
            sources: self.sets.site().sources,
            packs: self.history.packs(),
            policy: self.record.current().record().policy.drift,
            held: self.follower.drift().held,
        })
    }

    /// Looks at every entry, unless that was just done: whoever asks without a pause holds no update back.
    pub(super) fn look_afresh(&mut self) -> Result<(), AskError> {
        let now = Instant::now();
        if self.looked.is_some_and(|at| now.saturating_duration_since(at) < FRESH) {
            return Ok(());
        }
        self.sets.look(&Look::Stats)?;
        self.looked = Some(now);
        self.dirty(&waiting::nowhere());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::entry::{Content, Entry, Meta, Owners};

    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).expect("a path")
    }

    fn edit(text: &str, kind: Option<Kind>) -> Change {
        let owner = Owners::default().get("root", "root").expect("an owner");
        let entry = kind.map(|kind| Entry { meta: Meta { mode: 0o644, owner, mtime: 0, xattrs: None }, kind });
        Change { set: "web".parse().expect("a name"), path: path(text), entry }
    }

    fn names(edits: &[Change]) -> Vec<String> {
        edits.iter().map(|edit| edit.path.to_string()).collect()
    }

    #[test]
    fn places_choose_edits() {
        let file = || Some(Kind::File(Content::Empty));
        let edits = vec![
            edit("a", file()),
            edit("gone", None),
            edit("new", Some(Kind::Directory)),
            edit("new/deep", Some(Kind::Directory)),
            edit("new/deep/x", file()),
            edit("new/y", file()),
        ];
        let at = |text: &str| vec![("web".parse().expect("a name"), path(text))];
        assert_eq!(selected(edits.clone(), &[]).len(), 6);
        assert_eq!(names(&selected(edits.clone(), &at("new/deep"))), ["new/deep", "new/deep/x"]);
        assert_eq!(names(&selected(edits.clone(), &at("gone/below"))), ["gone"]);
        assert_eq!(names(&selected(edits.clone(), &at("a/b"))), [""; 0]);
        assert_eq!(names(&selected_with_parents(&edits, &at("new/deep/x"))), ["new", "new/deep", "new/deep/x"]);
        assert_eq!(names(&selected_with_parents(&edits, &at("a"))), ["a"]);
        let other = [("haproxy".parse().expect("a name"), path("a"))];
        assert_eq!(names(&selected(edits, &other)), [""; 0]);
    }
}
