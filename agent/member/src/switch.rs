//! From a staged revision to a report: switch, read back, note, report. And the sync, which undoes drift first.

use std::{collections::HashSet, time::Instant};

use bellwether_proto::{
    clock::{self, now_ms},
    entry::Chunk,
    error::chain,
    hash::Hash,
    revision::{Number, SignedHeader},
    status::{Cause, Observation},
    v1::{self, Outcome, up},
};
use bellwether_store::{
    apply::{Begun, Committed, Obstacle, Plan, Staged},
    history::WholePack,
    pack,
    scan::Look,
    tree::Tree,
};

use super::{
    Member, OpenError, Work,
    position::{Fault, Position},
    receive::{Planned, ReceiveError, Receiving},
    recovery,
};

/// A plan that waits for chunks that were asked for by hash.
#[derive(Debug)]
pub(crate) struct Filling {
    header: SignedHeader,
    planned: Planned,
    began: Instant,
    /// What was asked for and has not come.
    asked: HashSet<Hash>,
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
    /// The revision.
    pub(super) fn number(&self) -> Number {
        self.header.number()
    }

    fn new(header: SignedHeader, planned: Planned, began: Instant, pack: bool) -> Self {
        Self { header, planned, began, asked: HashSet::new(), pack }
    }

    fn supply(&mut self, supply: &v1::Supply) -> Result<(), ReceiveError> {
        if !supply.last && supply.frames.is_empty() && supply.missing.is_empty() {
            return Err(ReceiveError::Supply("it brings nothing, and is not the last".into()));
        }
        for hash in &supply.missing {
            self.came(&Hash::try_from(hash.as_ref()).map_err(|e| ReceiveError::Supply(e.to_string()))?)?;
        }
        for (chunk, bytes) in pack::read_chunks(&supply.frames)? {
            self.came(&chunk.hash)?;
            self.planned.plan.supply(&chunk.hash, &bytes)?;
        }
        Ok(())
    }

    /// Whatever is told of a chunk is told once, of one that was asked for: an answer cannot be endless.
    fn came(&mut self, hash: &Hash) -> Result<(), ReceiveError> {
        if self.asked.remove(hash) {
            return Ok(());
        }
        Err(ReceiveError::Supply(format!("chunk {} was not asked for, or came before", hash.short())))
    }
}

impl Member {
    /// A whole pack: staged and switched; into the history meanwhile.
    pub(super) fn whole(&mut self, receiving: Receiving) {
        let (header, began) = (receiving.header.clone(), receiving.began);
        let ready = receiving.into_parts().and_then(|(pack, Planned { plan, target })| {
            Ok(Ready {
                pack: NewInHistory::Arrived(Box::new(self.history.check(pack)?)),
                staged: plan.staged()?,
                target,
            })
        });
        match ready {
            Ok(ready) => self.switch(&header, ready, began),
            Err(error) => self.refused(&header, &error),
        }
    }

    /// Most of the pack is on this server's disk: the pack is dropped, the missing chunks are asked for.
    pub(super) fn fill(&mut self, receiving: Receiving, missing: &[Chunk]) {
        let (header, began) = (receiving.header.clone(), receiving.began);
        match receiving.into_parts() {
            Ok((_, planned)) => self.await_chunks(Filling::new(header, planned, began, true), missing),
            Err(error) => self.refused(&header, &error),
        }
    }

    fn await_chunks(&mut self, mut filling: Filling, missing: &[Chunk]) {
        if missing.is_empty() {
            return self.filled(filling);
        }
        filling.asked = missing.iter().map(|chunk| chunk.hash).collect();
        let hashes = missing.iter().map(|chunk| chunk.hash.into()).collect();
        self.work = Work::Filling(Box::new(filling));
        self.send(up::Message::Want(v1::Want { want: Some(v1::want::Want::Chunks(v1::Hashes { hashes })) }));
    }

    pub(super) fn supply(&mut self, supply: &v1::Supply) {
        let Work::Filling(mut filling) = std::mem::replace(&mut self.work, Work::Idle) else { return };
        match filling.supply(supply) {
            Err(error) => self.refused(&filling.header, &error),
            Ok(()) if supply.last => self.filled(*filling),
            Ok(()) => {
                self.progress("receiving", Some(&filling.planned.plan), 0, 0);
                self.work = Work::Filling(filling);
            }
        }
    }

    fn filled(&mut self, filling: Filling) {
        let Filling { header, planned: Planned { plan, target }, began, asked: _, pack } = filling;
        let pack = if pack { NewInHistory::FromSets } else { NewInHistory::Nothing };
        match plan.staged() {
            Ok(staged) => self.switch(&header, Ready { pack, staged, target }, began),
            Err(error) => self.refused(&header, &error.into()),
        }
    }

    /// Validation has its place before the beginning.
    fn switch(&mut self, header: &SignedHeader, Ready { pack, staged, target }: Ready, began: Instant) {
        let stage_us = clock::micros(began);
        tracing::debug!("staged and verified: the switch begins");
        let switching = Instant::now();
        let record = match &pack {
            NewInHistory::Arrived(pack) => pack.record(),
            NewInHistory::Nothing | NewInHistory::FromSets => None,
        };
        let begun = match staged.begin(record) {
            Ok(begun) => begun,
            Err(error) => return self.refused(header, &error.into()),
        };
        match self.switch_and_note(header, begun, target, pack) {
            Err(reason) => self.failed(header, reason),
            Ok((kept, committed)) => {
                let switch_us = clock::micros(switching);
                tracing::debug!(stage_us, switch_us, kept = kept.len(), "switched, read back and noted");
                self.report_done(header, stage_us, switch_us, kept);
                drop(committed);
                self.tidy_history(header);
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

    /// Brings the sets to the revision that is held, whatever was edited, and clears an error (W8). Newer revisions
    /// follow as offers.
    pub(super) fn sync(&mut self) {
        self.interrupt();
        if let Err(error) = self.finish_interrupted() {
            let reason = chain(&error);
            return match self.position.at.clone() {
                Some(header) => self.failed(&header, reason),
                None => self.note_fault(Some(Fault { reason, since_ms: now_ms() })),
            };
        }
        let look = if self.position.fault.is_some() { Look::Bytes } else { Look::Stats };
        tracing::debug!(every_byte = matches!(look, Look::Bytes), "a sync: the sets are brought to the revision held");
        let Some(header) = self.position.at.clone() else {
            return self.note_fault(None);
        };
        self.tell(Observation::Started { sync: true, to: header.number() });
        let began = Instant::now();
        let planned =
            match self.sets.look(&look).map_err(ReceiveError::from).and_then(|()| self.sets.plan_back(&header)) {
                Ok(planned) => planned,
                Err(error) => return self.refused(&header, &error),
            };
        let mut filling = Filling::new(header, planned, began, false);
        match self.take_from_here(&mut filling.planned.plan) {
            Ok(missing) => self.await_chunks(filling, &missing),
            Err(error) => self.refused(&filling.header, &error),
        }
    }

    /// This server's state went back, says the manager (W14): it holds no revision that is known, and takes nothing until a
    /// sync. Its sets stay as they are.
    pub(super) fn fenced(&mut self, reason: String) {
        self.interrupt();
        tracing::error!(reason, "kept out until a sync");
        self.position.at = None;
        let rules: Vec<_> = self.sets.tree.sets().iter().map(|set| set.rules.clone()).collect();
        self.sets.tree = Tree::empty(rules);
        self.seen.hold(None);
        self.note_fault(Some(Fault { reason: reason.clone(), since_ms: now_ms() }));
        self.tell(Observation::Failed(reason));
    }

    /// Finishes a switch that failed and could not be taken back, if what was in the way is gone.
    fn finish_interrupted(&mut self) -> Result<(), OpenError> {
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

    fn report_done(&mut self, header: &SignedHeader, stage_us: u64, switch_us: u64, kept: Vec<String>) {
        let drifted_before = self.drift.entries > 0;
        self.note_obstacle(header, None);
        self.observe_drift();
        self.tell_ready();
        if drifted_before || self.drift.entries > 0 {
            // Before the report: at no moment is a server shown in sync that holds edits of its own (invariant 5).
            self.tell_drift();
            self.send(up::Message::Drift(self.drift.clone()));
        }
        self.tell(Observation::Done { revision: header.number(), micros: stage_us + switch_us, kept: kept.clone() });
        self.send(up::Message::Report(v1::Report {
            revision: header.id().0.into(),
            outcome: Outcome::Done.into(),
            // Every changed entry was read back, and compared, before this is sent; `sets.tree` is what they make.
            root: self.sets.tree.root().into(),
            stage_us,
            switch_us,
            kept,
            ..v1::Report::default()
        }));
    }

    /// Refused before the switch: the sets and the position are as they were. The history may have the pack already: it is
    /// kept beside staging, and says nothing of what is held.
    pub(super) fn refused(&mut self, header: &SignedHeader, error: &ReceiveError) {
        let reason = chain(error);
        let obstacle = error.obstacle(&self.sets.paths, self.layout.state());
        let cause = obstacle.as_ref().map(Obstacle::cause);
        tracing::warn!(reason, ?cause, "refused; the sets are as they were");
        self.note_obstacle(header, obstacle);
        self.tell(Observation::Refused { revision: header.number(), reason: reason.clone(), cause });
        self.report_refusal(header.id().0.into(), reason, cause);
    }

    pub(super) fn report_refusal(&mut self, revision: bytes::Bytes, reason: String, cause: Option<Cause>) {
        self.tell_ready();
        let outcome = Outcome::Refused.into();
        let cause = cause.map_or(v1::Cause::Unspecified, v1::Cause::from).into();
        self.send(up::Message::Report(v1::Report { revision, outcome, reason, cause, ..v1::Report::default() }));
    }

    pub(super) fn failed(&mut self, header: &SignedHeader, reason: String) {
        tracing::error!(reason, "the switch failed; no updates until a sync");
        self.note_fault(Some(Fault { reason: reason.clone(), since_ms: now_ms() }));
        self.tell(Observation::Failed(reason.clone()));
        let (revision, outcome) = (header.id().0.into(), Outcome::Failed.into());
        self.send(up::Message::Report(v1::Report { revision, outcome, reason, ..v1::Report::default() }));
    }

    fn note_fault(&mut self, fault: Option<Fault>) {
        self.position.fault = fault;
        if let Err(error) = self.history.log().note(&self.position) {
            tracing::error!(error = chain(&error), "the state cannot be written");
        }
        self.tell_ready();
    }
}
