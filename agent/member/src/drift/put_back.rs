//! Putting the revision's state back in place of edits, which are saved as a kept copy (invariant 4).

use bellwether_proto::{error::chain, name::SetName, revision::SignedHeader};
use bellwether_store::{
    apply::{Failed, Plan, Refused},
    tree::Change,
};

use super::{
    super::{Member, follower},
    asked::{AskError, PutBack, SetPath, selected},
};

impl Member {
    /// Undoes the edits at `places` (none: all); with `dry_run` only says which they are.
    ///
    /// # Errors
    /// Why not; everything is as it was, unless the switch failed: then this server is in error.
    pub(super) fn put_back(&mut self, places: &[SetPath], dry_run: bool) -> Result<PutBack, AskError> {
        let header = self.position.at.clone().ok_or(AskError::NoRevision)?;
        if let Some(fault) = &self.position.fault {
            return Err(AskError::Fault(fault.reason.clone()));
        }
        self.look_afresh()?;
        let edits = selected(self.sets.edits(), places);
        let mut done = PutBack { revision: header.number(), lines: self.lines(&edits), kept: Vec::new() };
        if !dry_run && !edits.is_empty() {
            done.kept = self.switch_back(&header, &edits)?;
        }
        Ok(done)
    }

    fn lines(&self, edits: &[Change]) -> Vec<String> {
        edits.iter().map(|edit| line(edit, self.sets.tree.get(&edit.set, &edit.path).is_some())).collect()
    }

    fn switch_back(&mut self, header: &SignedHeader, edits: &[Change]) -> Result<Vec<String>, AskError> {
        let _span = tracing::error_span!("apply", revision = %header.number()).entered();
        let mut plan = self.sets.plan_without(header, edits)?;
        let missing = self.take_from_here(&mut plan)?;
        if !missing.is_empty() {
            return Err(AskError::Missing(missing.len()));
        }
        let (kept, sets) = match switch(self, plan)? {
            Ok(done) => done,
            Err(failed) => {
                let reason = chain(&failed);
                self.put(follower::Input::Failed(reason.clone()));
                return Err(AskError::Failed(reason));
            }
        };
        let owed = self.owe_for(sets);
        let edits = self.compare();
        self.put(follower::Input::PutBack { kept: kept.clone(), edits, owed });
        Ok(kept)
    }
}

/// The position stays: the sets hold what it names, and fewer edits on top. The kept copies, and the sets that changed.
fn switch(member: &mut Member, plan: Plan) -> Result<Result<(Vec<String>, Vec<SetName>), Failed>, Refused> {
    let staged = plan.staged()?;
    let sets = staged.sets();
    let switched = match staged.begin(None)?.switch() {
        Ok(switched) => switched,
        Err(failed) => return Ok(Err(failed)),
    };
    member.sets.live = switched.live.clone();
    let kept = switched.kept.clone();
    drop(switched.release());
    member.settle_log();
    Ok(Ok((kept, sets)))
}

/// An edit in one line; `before`: the revision has something there.
pub(super) fn line(edit: &Change, before: bool) -> String {
    let sign = match (&edit.entry, before) {
        (None, _) => '-',
        (Some(_), false) => '+',
        (Some(_), true) => '~',
    };
    format!("{sign} {}:{}", edit.set, edit.path)
}
