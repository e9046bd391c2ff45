//! From a staged revision to the one that is held: switch, read back, note. And the way back of a sync, which undoes drift.

use std::{collections::HashSet, time::Instant};

use bellwether_proto::{
    clock::{self, now_ms},
    entry::Chunk,
    error::chain,
    hash::Hash,
    revision::SignedHeader,
    v1,
};
use bellwether_store::{
    apply::{Begun, Committed, Plan, Staged},
    history::WholePack,
    pack,
    scan::Look,
    tree::Tree,
};

use super::{
    Member, OpenError, Transfer,
    follower::Switched,
    position::{Fault, Position},
    receive::{Planned, ReceiveError, Receiving},
    recovery,
};

/// A plan that is staged but for chunks that come by hash.
#[derive(Debug)]
pub(crate) struct Filling {
    header: SignedHeader,
    planned: Planned,
    began: Instant,
    /// The revision is not in the history yet: a base is packed from the sets after the switch.
    pack: bool,
}

/// What the history gets with a switch.
enum NewInHistory {
    /// It has the revision.
    Nothing,
    /// A pack that has arrived.
    Arrived(Box<WholePack>),
    /// A base, packed from the sets as they are after the switch.
    FromSets,
}

/// Staged, and what becomes of it.
struct Ready {
    pack: NewInHistory,
    staged: Staged,
    target: Tree,
}

impl Filling {
    /// A pack whose chunks come by hash: its bytes are dropped.
    pub(super) fn of(receiving: Receiving) -> Result<Self, ReceiveError> {
        let (header, began) = (receiving.header.clone(), receiving.began);
        let (_, planned) = receiving.into_parts()?;
        Ok(Self { header, planned, began, pack: true })
    }

    /// Takes chunks; their hashes.
    pub(super) fn supply(&mut self, supply: &v1::Supply) -> Result<Vec<Hash>, ReceiveError> {
        let chunks = pack::read_chunks(&supply.frames)?;
        chunks.iter().try_for_each(|(chunk, bytes)| self.planned.plan.supply(&chunk.hash, bytes))?;
        Ok(chunks.iter().map(|(chunk, _)| chunk.hash).collect())
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.planned.plan
    }

    fn staged(self) -> Result<Ready, ReceiveError> {
        let pack = if self.pack { NewInHistory::FromSets } else { NewInHistory::Nothing };
        Ok(Ready { pack, staged: self.planned.plan.staged()?, target: self.planned.target })
    }
}

impl Member {
    /// Switches to what is staged; a whole pack goes into the history meanwhile.
    pub(super) fn switch_staged(&mut self) -> Switched {
        let (header, began, ready) = match std::mem::take(&mut self.transfer) {
            Transfer::Receiving(receiving) => (receiving.header.clone(), receiving.began, self.whole(*receiving)),
            Transfer::Filling(filling) => (filling.header.clone(), filling.began, filling.staged()),
            Transfer::Nothing => return Switched::Failed("nothing is staged".to_owned()),
        };
        match ready {
            Ok(ready) => self.switch(&header, ready, began),
            Err(error) => Switched::Refused(self.trouble(&error)),
        }
    }

    fn whole(&self, receiving: Receiving) -> Result<Ready, ReceiveError> {
        let (pack, Planned { plan, target }) = receiving.into_parts()?;
        let pack = NewInHistory::Arrived(Box::new(self.history.check(pack)?));
        Ok(Ready { pack, staged: plan.staged()?, target })
    }

    /// Validation has its place before the beginning.
    fn switch(&mut self, header: &SignedHeader, Ready { pack, staged, target }: Ready, began: Instant) -> Switched {
        let stage_us = clock::micros(began);
        tracing::debug!("staged and verified: the switch begins");
        let switching = Instant::now();
        let record = match &pack {
            NewInHistory::Arrived(pack) => pack.record(),
            NewInHistory::Nothing | NewInHistory::FromSets => None,
        };
        let begun = match staged.begin(record) {
            Ok(begun) => begun,
            Err(error) => return Switched::Refused(self.trouble(&error.into())),
        };
        match self.switch_and_note(header, begun, target, pack) {
            Err(reason) => Switched::Failed(reason),
            Ok((kept, committed)) => {
                let switch_us = clock::micros(switching);
                tracing::debug!(stage_us, switch_us, kept = kept.len(), "switched, read back and noted");
                self.committed = Some(committed);
                // Every changed entry was read back, and compared; `sets.tree` is what they make.
                let (root, edits) = (self.sets.tree.root(), self.compare());
                Switched::Done { root, stage_us, switch_us, kept, edits }
            }
        }
    }

    /// Reload and check have their place before the note.
    fn switch_and_note(
        &mut self,
        header: &SignedHeader,
        begun: Begun,
        target: Tree,
        pack: NewInHistory,
    ) -> Result<(Vec<String>, Committed), String> {
        // What recovery finds of a revision that is not in the history yet, it takes back. So nobody who reads the sets has to wait
        // for the history, where it does not have the pack from the log.
        let logged = begun.pack_at();
        let (pack, kept, switched) = std::thread::scope(|scope| match pack {
            NewInHistory::Arrived(pack) if logged.is_none() => {
                let span = tracing::Span::current();
                let history = &mut self.history;
                let keeping = scope.spawn(move || span.in_scope(|| history.keep(*pack).map(drop)));
                let switched = begun.switch();
                let kept = keeping.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                (NewInHistory::Nothing, kept, switched)
            }
            other => (other, Ok(()), begun.switch()),
        });
        let switched = switched.map_err(|failed| chain(&failed))?;
        let tree = std::mem::replace(&mut self.sets.tree, target);
        let live = std::mem::replace(&mut self.sets.live, switched.live.clone());
        let position = self.position.clone();
        if let Err(error) = kept.map_err(ReceiveError::from).and_then(|()| self.note(header, &pack)) {
            (self.sets.tree, self.sets.live, self.position) = (tree, live, position);
            let reason = chain(&error);
            let back = switched.take_back().map_err(|failed| chain(&failed));
            return Err(
                back.map_or_else(|back| format!("{reason}; {back}"), |()| format!("{reason}; all was taken back"))
            );
        }
        if let (NewInHistory::Arrived(pack), Some(at)) = (pack, logged) {
            self.history.add_logged(*pack, at);
        }
        Ok((switched.kept.clone(), switched.release()))
    }

    /// The commit point: when the position is on the disk, the revision is held.
    fn note(&mut self, header: &SignedHeader, pack: &NewInHistory) -> Result<(), ReceiveError> {
        if matches!(pack, NewInHistory::FromSets) {
            self.pack_base(header)?;
        }
        self.position = Position { at: Some(header.clone()), ..Position::default() };
        Ok(self.history.log().note(&self.position)?)
    }

    /// Stages the way back to the revision that is held, from what is here; the chunks that are missing.
    pub(super) fn back(&mut self, header: SignedHeader, look: &Look) -> Result<Vec<Chunk>, ReceiveError> {
        let began = Instant::now();
        self.sets.look(look)?;
        let mut planned = self.sets.plan_back(&header)?;
        let missing = self.take_from_here(&mut planned.plan)?;
        self.transfer = Transfer::Filling(Box::new(Filling { header, planned, began, pack: false }));
        Ok(missing)
    }

    /// No revision is held any more, and this is the error. The sets stay as they are.
    pub(super) fn fence(&mut self, reason: String) {
        self.position.at = None;
        let rules: Vec<_> = self.sets.tree.sets().iter().map(|set| set.rules.clone()).collect();
        self.sets.tree = Tree::empty(rules);
        self.note_fault(Some(reason));
    }

    /// Finishes a switch that failed and could not be taken back, if what was in the way is gone.
    pub(super) fn finish_interrupted(&mut self) -> Result<(), OpenError> {
        let record = self.record.current();
        let before = self.position.at.as_ref().map(SignedHeader::id);
        let site =
            recovery::site(&self.layout, &self.sets.paths, record.record(), &self.record.own_key(), &self.history)?;
        recovery::finish(&site, &self.history, &mut self.position)?;
        match self.position.at.as_ref().map(SignedHeader::id) {
            Some(at) if before != Some(at) => self.sets.tree = self.history.tree(at)?,
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Supplies what this server's own files and history have; returns what is missing still.
    pub(super) fn take_from_here(&self, plan: &mut Plan) -> Result<Vec<Chunk>, ReceiveError> {
        plan.look_elsewhere(&self.sets.live)?;
        let wanted: HashSet<Hash> = plan.missing().iter().map(|chunk| chunk.hash).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut refused = Ok(());
        self.history.chunks(&wanted, &mut |chunk, bytes| {
            if refused.is_ok() {
                refused = plan.supply(&chunk.hash, &bytes);
            }
        })?;
        refused?;
        Ok(plan.missing())
    }

    pub(super) fn note_fault(&mut self, reason: Option<String>) {
        self.position.fault = reason.map(|reason| Fault { reason, since_ms: now_ms() });
        if let Err(error) = self.history.log().note(&self.position) {
            tracing::error!(error = chain(&error), "the state cannot be written");
        }
        self.tell_ready();
    }
}
