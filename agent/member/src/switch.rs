//! From a staged revision to the one that is held: switch, read back, note. And the way back of a sync, which undoes drift.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Instant,
};

use bellwether_local::{prove::Commands, secret::Secrets, set::SetCommands};
use bellwether_proto::{
    clock::{self, now_ms},
    entry::Chunk,
    error::chain,
    hash::Hash,
    name::SetName,
    revision::SignedHeader,
    v1,
};
use bellwether_store::{
    apply::{Begun, Committed, Plan, Staged},
    failpoint,
    history::WholePack,
    pack,
    scan::Look,
    state::record::GroupRecord,
    tree::Tree,
};

use super::{
    Member, OpenError, Transfer,
    follower::{self, Back, Complaint, Returned, Switched, Validation},
    position::{Fault, Owed, Position, Refused, Unconfirmed},
    prove::{self, Teller},
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

/// Everything of a revision is staged.
pub(crate) struct Prepared {
    header: SignedHeader,
    began: Instant,
    pack: NewInHistory,
    staged: Staged,
    target: Tree,
    /// The file by which what is staged is shown to the commands that validate.
    view: Option<PathBuf>,
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

    fn prepared(self) -> Result<Prepared, ReceiveError> {
        let pack = if self.pack { NewInHistory::FromSets } else { NewInHistory::Nothing };
        let (staged, target) = (self.planned.plan.staged()?, self.planned.target);
        Ok(Prepared { header: self.header, began: self.began, pack, staged, target, view: None })
    }
}

/// The secret files of the sets in these places.
fn secrets(record: &GroupRecord, paths: &BTreeMap<SetName, PathBuf>) -> Secrets {
    Secrets::new(record.current().record(), paths.iter().map(|(set, path)| (set.clone(), path.clone())))
}

impl Member {
    /// The whole pack that has arrived goes into the history. With `stage`, the way from the revision that is held to this one is
    /// staged from what is here; the chunks that are missing.
    pub(super) fn keep(&mut self, stage: bool) -> Result<Vec<Chunk>, ReceiveError> {
        let Transfer::Receiving(receiving) = std::mem::take(&mut self.transfer) else {
            return Err(ReceiveError::Setup("nothing has arrived".into()));
        };
        let (header, began) = (receiving.header.clone(), receiving.began);
        let none = || ReceiveError::Offer("it has no parent".into());
        let parent = match receiving.is_base() {
            true => None,
            false => Some(self.history.tree(header.header().parent.ok_or_else(none)?)?),
        };
        let (pack, target) = receiving.into_pack(parent)?;
        self.history.commit(pack)?;
        failpoint::hit("member.kept");
        if !stage {
            return Ok(Vec::new());
        }
        let mut planned = self.sets.plan_to(&header, target)?;
        self.sets.check_held(self.holds().then_some(self.given.as_slice()))?;
        let missing = self.take_from_here(&mut planned.plan)?;
        self.transfer = Transfer::Filling(Box::new(Filling { header, planned, began, pack: false }));
        Ok(missing)
    }

    /// The pack of what is staged goes into the history, although it is not switched to.
    pub(super) fn shelve(&mut self) {
        let Transfer::Prepared(prepared) = &mut self.transfer else { return };
        if let NewInHistory::Arrived(pack) = std::mem::replace(&mut prepared.pack, NewInHistory::Nothing)
            && let Err(error) = self.history.keep(*pack)
        {
            tracing::warn!(error = chain(&error), "the pack is not kept: the next revision comes as a whole");
        }
    }

    /// Everything that was transferred is staged and verified. With `keep`, the pack goes into the history now.
    pub(super) fn stage(&mut self, keep: bool) -> Result<Validation, ReceiveError> {
        let mut prepared = match std::mem::take(&mut self.transfer) {
            Transfer::Receiving(receiving) => self.whole(*receiving)?,
            Transfer::Filling(filling) => filling.prepared()?,
            Transfer::Nothing | Transfer::Prepared(_) => return Err(ReceiveError::Setup("nothing is staged".into())),
        };
        if keep && let NewInHistory::Arrived(pack) = prepared.pack {
            self.history.keep(*pack)?;
            prepared.pack = NewInHistory::Nothing;
        }
        let validates = |commands: &SetCommands| commands.validate.is_some();
        let validation = match self.commands(&prepared.staged.sets()).values().any(validates) {
            false => Validation::Nothing,
            true => match prepared.staged.view() {
                Ok(view) => {
                    prepared.view = Some(view);
                    Validation::Before
                }
                Err(error) => {
                    tracing::warn!(%error, "the new files cannot be shown before the switch: they are validated after it");
                    Validation::After
                }
            },
        };
        self.transfer = Transfer::Prepared(Box::new(prepared));
        Ok(validation)
    }

    /// The commands of these sets, where they have any.
    fn commands(&self, sets: &[SetName]) -> Commands {
        let of = |set: &SetName| Some((set.clone(), self.commands.get(set)?.clone()));
        sets.iter().filter_map(of).collect()
    }

    fn teller(&mut self) -> Teller {
        self.runs += 1;
        Teller { number: self.runs, inputs: self.inputs.clone(), runtime: self.runtime.clone() }
    }

    /// What is owed once something has changed in these sets; none where no command is.
    fn owing(&self, sets: Vec<SetName>, validate: bool) -> Option<Owed> {
        let proves = |own: &SetCommands| own.reload.is_some() || !own.checks.is_empty() || validate;
        let before = self.position.at.clone();
        self.commands(&sets).values().any(proves).then_some(Owed { sets, validate, before, refused: None })
    }

    /// Notes what is owed after edits were put back in these sets: the services are to take what the revision has.
    pub(super) fn owe_for(&mut self, sets: Vec<SetName>) -> bool {
        self.position.owed = self.owing(sets, false);
        if self.position.owed.is_some()
            && let Err(error) = self.history.log().note(&self.position)
        {
            tracing::error!(error = chain(&error), "the state cannot be written: a start now would not reload");
        }
        self.position.owed.is_some()
    }

    /// Begins the commands that validate.
    pub(super) fn validate(&mut self) {
        failpoint::hit("member.staged");
        let Transfer::Prepared(prepared) = &mut self.transfer else { return };
        let (sets, view) = (prepared.staged.sets(), prepared.view.take());
        let secrets = secrets(&self.record, &self.sets.paths).with(&prepared.staged);
        let (commands, teller) = (self.commands(&sets), self.teller());
        self.running = view.map(|view| prove::validate(&teller, commands, secrets, view));
    }

    /// Begins the commands that the position owes.
    pub(super) fn prove(&mut self) {
        failpoint::hit("member.owed");
        let Some(owed) = self.position.owed.clone() else { return };
        let (commands, teller) = (self.commands(&owed.sets), self.teller());
        let secrets = secrets(&self.record, &self.sets.paths);
        self.running = Some(prove::prove(&teller, commands, secrets, owed.validate));
        // Meanwhile: the way back may be a switch of its own.
        self.committed = None;
    }

    /// The commands have ended well, or what they say is noted otherwise: nothing is owed any more.
    pub(super) fn note_proved(&mut self) {
        failpoint::hit("member.proved");
        self.running = None;
        self.position.owed = None;
        if let Err(error) = self.history.log().note(&self.position) {
            tracing::error!(
                error = chain(&error),
                "the state cannot be written: commands run again after the next start"
            );
        }
    }

    /// What is owed, as the role begins.
    pub(super) fn owed(&self) -> Option<follower::Owed> {
        let (held, owed) = (self.position.at.clone()?, self.position.owed.as_ref()?);
        let back = owed.refused.clone().map(|Refused { header, complaint }| match held.id() == header.id() {
            true => Back::Goes(complaint),
            false => Back::Came(Box::new(header), complaint),
        });
        Some(follower::Owed { held, root: self.sets.tree.root(), back })
    }

    /// The sets go back to the revision before. The reason is noted first: after a crash that goes on.
    pub(super) fn go_back(&mut self, complaint: Complaint) -> Result<Returned, String> {
        self.running = None;
        let none = || "there is no revision before it".to_owned();
        let unconfirmed = self.position.unconfirmed.as_ref().map(|unconfirmed| Owed {
            sets: self.commands.keys().cloned().collect(),
            validate: false,
            before: Some(unconfirmed.before.clone()),
            refused: None,
        });
        let owed = self.position.owed.clone().or(unconfirmed);
        let (held, mut owed) = self.position.at.clone().zip(owed).ok_or_else(none)?;
        let header = owed.before.clone().filter(|before| before.id() != held.id()).ok_or_else(none)?;
        (owed.refused, owed.validate) = (Some(Refused { header: held, complaint }), false);
        self.position.owed = Some(owed.clone());
        let noted = self.history.log().note(&self.position).map_err(ReceiveError::from);
        failpoint::hit("member.returning");
        let prepared = noted.and_then(|()| self.way_back(&header)).map_err(|error| chain(&error))?;
        let begun = prepared.staged.begin(None).map_err(|error| chain(&ReceiveError::from(error)))?;
        let (kept, committed) = self.switch_and_note(&header, begun, prepared.target, prepared.pack, Some(owed))?;
        failpoint::hit("member.returned");
        self.committed = Some(committed);
        Ok(Returned { header, kept, edits: self.compare() })
    }

    fn way_back(&mut self, header: &SignedHeader) -> Result<Prepared, ReceiveError> {
        let began = Instant::now();
        let target = self.history.tree(header.id())?;
        let mut planned = self.sets.plan_to(header, target)?;
        match self.take_from_here(&mut planned.plan)?.len() {
            0 => Filling { header: header.clone(), planned, began, pack: false }.prepared(),
            missing => Err(bellwether_store::apply::Refused::Missing(missing).into()),
        }
    }

    /// Switches to what is staged; a whole pack goes into the history meanwhile.
    pub(super) fn switch_staged(&mut self, validation: Validation) -> Switched {
        failpoint::hit("member.validated");
        self.running = None;
        let Transfer::Prepared(prepared) = std::mem::take(&mut self.transfer) else {
            return Switched::Failed("nothing is staged".to_owned());
        };
        self.switch(*prepared, validation)
    }

    fn whole(&self, receiving: Receiving) -> Result<Prepared, ReceiveError> {
        let (header, began) = (receiving.header.clone(), receiving.began);
        let (pack, Planned { plan, target }) = receiving.into_parts()?;
        let pack = NewInHistory::Arrived(Box::new(self.history.check(pack)?));
        Ok(Prepared { header, began, pack, staged: plan.staged()?, target, view: None })
    }

    fn switch(&mut self, prepared: Prepared, validation: Validation) -> Switched {
        let Prepared { header, began, pack, staged, target, view: _ } = prepared;
        let owed = self.owing(staged.sets(), validation == Validation::After);
        let is_owed = owed.is_some();
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
        match self.switch_and_note(&header, begun, target, pack, owed) {
            Err(reason) => Switched::Failed(reason),
            Ok((kept, committed)) => {
                let switch_us = clock::micros(switching);
                tracing::debug!(stage_us, switch_us, kept = kept.len(), "switched, read back and noted");
                self.committed = Some(committed);
                // Every changed entry was read back, and compared; `sets.tree` is what they make.
                let (root, edits) = (self.sets.tree.root(), self.compare());
                Switched::Done { root, stage_us, switch_us, kept, edits, owed: is_owed }
            }
        }
    }

    /// `owed`: the commands that are to run then, which is noted with the revision.
    fn switch_and_note(
        &mut self,
        header: &SignedHeader,
        begun: Begun,
        target: Tree,
        pack: NewInHistory,
        owed: Option<Owed>,
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
        if let Err(error) = kept.map_err(ReceiveError::from).and_then(|()| self.note(header, &pack, owed)) {
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
    fn note(&mut self, header: &SignedHeader, pack: &NewInHistory, owed: Option<Owed>) -> Result<(), ReceiveError> {
        if matches!(pack, NewInHistory::FromSets) {
            self.pack_base(header)?;
        }
        let unconfirmed = self.unconfirmed(header, owed.as_ref());
        self.position = Position { at: Some(header.clone()), unconfirmed, owed, ..Position::default() };
        Ok(self.history.log().note(&self.position)?)
    }

    /// Whether somebody has to confirm that revision, which the sets hold now.
    fn unconfirmed(&self, header: &SignedHeader, owed: Option<&Owed>) -> Option<Unconfirmed> {
        let Position { at, unconfirmed, .. } = &self.position;
        let at = at.as_ref()?;
        if at.id() == header.id() {
            return unconfirmed.clone();
        }
        let goes_back = owed.is_some_and(|owed| owed.refused.is_some());
        let within_ms = self.record.current().record().policy.unconfirmed(header).filter(|_| !goes_back)?;
        // Not to a revision that itself was not confirmed.
        let before = unconfirmed.as_ref().map_or(at, |unconfirmed| &unconfirmed.before);
        Some(Unconfirmed::begin(before.clone(), within_ms))
    }

    /// Looks whether the revision that the sets hold is confirmed by now, or goes back.
    pub(super) fn look_for_confirmation(&mut self) {
        let Some((unconfirmed, at)) = self.position.unconfirmed.as_ref().zip(self.position.at.as_ref()) else { return };
        let number = at.number();
        if self.record.current().record().policy.unconfirmed(at).is_none() {
            tracing::info!(revision = %number, "confirmed");
            self.position.unconfirmed = None;
            if let Err(error) = self.history.log().note(&self.position) {
                tracing::error!(
                    error = chain(&error),
                    "the state cannot be written: tried again with the next revision"
                );
            }
        } else if unconfirmed.left_ms() == 0 {
            let reason = format!("nobody confirmed {number} in time");
            self.put(follower::Input::Unconfirmed(Complaint::unconfirmed(reason)));
        }
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
        (self.position.at, self.position.owed) = (None, None);
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
        recovery::finish(&site, &self.commands, &self.history, &mut self.position)?;
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
