//! Handles the member's messages in a session: tells the monitor, and updates the plan.

use std::time::Duration;

use bellwether_proto::{
    hash::Hash,
    limits,
    name::BalancerName,
    revision::{RevisionId, SignedHeader},
    status::{Cause, Observation, Progress, Verified},
    v1,
};

use super::{Activity, Current, Now, Output, Run, Session, Way, ahead};
use crate::lane::{
    cut,
    plan::{Edits, Refusal, Until},
};

/// The most characters of a member's reason.
pub(super) const REASON: usize = 8_000;
/// The most bytes of a command's output.
const OUTPUT: usize = 16 << 10;
/// The most characters of its description of a rejected caller.
const WHO: usize = 500;
/// The most paths or names in a member's list, and the most characters of each.
const LIST: (usize, usize) = (20, 5_000);
/// The shortest interval of a member's minor news (progress, life) to the monitor.
const NEWS: Duration = Duration::from_millis(100);

impl Session {
    pub(super) fn hear(&mut self, now: Now, up: v1::Up) -> Result<(), String> {
        use v1::up::Message;
        self.rate_limit.spend(now.at);
        let Some(message) = up.message else { return Ok(()) };
        self.stall.heard(now.at);
        match message {
            Message::Hello(_) => return Err("it said hello twice".to_owned()),
            Message::Want(v1::Want { want }) => {
                self.stall.progress(now.at);
                self.want(want)?;
            }
            Message::Progress(progress) => {
                self.stall.progress(now.at);
                let news = Observation::Progress(Progress {
                    phase: cut(&progress.phase, 100),
                    files: progress.files,
                    files_total: progress.files_total,
                    bytes: progress.bytes,
                    bytes_total: progress.bytes_total,
                    bytes_per_s: 0,
                });
                self.lesser(now, news);
            }
            Message::Report(report) => self.report(now, report)?,
            Message::Staged(staged) => self.staged(now, &staged),
            Message::Kept(kept) => self.kept(now, &kept),
            Message::Drift(drift) => self.drift(&drift),
            Message::Keepalive(answer) => self.alive(now, &answer),
            Message::Verified(verified) => self.verified(now, &verified),
            Message::Fault(fault) => self.failed(&fault.reason),
            Message::Again(again) => self.again(&again),
            Message::Knock(knock) => self.see(Observation::Knocked(cut(&knock.who, WHO))),
            Message::Balancers(balancers) => self.balancers(&balancers),
            Message::Forgets(said) => self.forgets(&said),
        }
        Ok(())
    }

    fn alive(&mut self, now: Now, answer: &v1::Keepalive) {
        let record = self.record.answered(answer.time_ms, self.beat);
        let procedures = self.procedures.answered(answer.time_ms, self.beat);
        let beat = answer.time_ms.min(self.beat);
        self.outputs.push(Output::Answered { beat, record, procedures });
        if let Some(version) = record {
            self.see(Observation::Record(version));
        }
        self.lesser(now, Observation::Alive);
    }

    fn lesser(&mut self, now: Now, observation: Observation) {
        if self.news.is_none_or(|last| now.at.saturating_duration_since(last) >= NEWS) {
            self.news = Some(now.at);
            self.see(observation);
        }
    }

    fn want(&mut self, want: Option<v1::want::Want>) -> Result<(), String> {
        let Activity::Taking(current) = &self.work else { return Ok(()) };
        match (want, current.pack()) {
            (Some(v1::want::Want::Range(range)), Some(pack)) => self.outbox.want_range(&range, pack.size),
            (Some(v1::want::Want::Range(_)), None) => {
                Err("it asked for bytes of a pack that was not offered".to_owned())
            }
            (Some(v1::want::Want::Chunks(hashes)), _) => self.outbox.want_chunks(hashes),
            (None, _) => Ok(()),
        }
    }

    pub(super) fn drift(&mut self, drift: &v1::Drift) {
        let held = drift.held || !drift.away.is_empty();
        if self.edits == Edits::Held && !held {
            // It now takes what it refused because of its edits, or because its sets were away.
            self.memory.standing.refuse(None);
        }
        self.edits = if held { Edits::Held } else { Edits::Free };
        let (paths, kept) = (list(&drift.paths), list(&drift.kept));
        self.see(Observation::Drift { entries: drift.entries, paths, held: drift.held, kept });
        self.see(Observation::Away(Some(&drift.away).filter(|why| !why.is_empty()).map(|why| cut(why, REASON))));
    }

    fn verified(&mut self, now: Now, verified: &v1::Verified) {
        let equal = verified.root.as_ref() == self.facts.head.header.header().root.as_bytes();
        let v1::Verified { full, entries, micros, .. } = *verified;
        let unread = cut(&verified.unread, REASON);
        self.see(Observation::Verified(Verified { time_ms: now.ms, full, entries, micros, equal, unread }));
    }

    /// Takes only reports on the record's balancers, each once.
    fn balancers(&mut self, said: &v1::Balancers) {
        let record = self.facts.record.clone();
        let of = |name: &BalancerName| {
            let reach = said.reach.iter().take(limits::BALANCERS).find(|reach| reach.balancer == name.as_str())?;
            let fault = Some(&reach.fault).filter(|fault| !fault.is_empty());
            Some((name.clone(), fault.map(|fault| cut(fault, REASON))))
        };
        let balancers = record.record().policy.balancers.iter().filter_map(|balancer| of(&balancer.name));
        self.see(Observation::Balancers(balancers.collect()));
    }

    /// Takes only reports on the record's notes, each once.
    fn forgets(&mut self, said: &v1::Forgets) {
        let record = self.facts.record.clone();
        let of = |id: u64| {
            let forget = said.forgets.iter().take(limits::FORGOTTEN.0).find(|forget| forget.id == id)?;
            Some((id, Some(&forget.holds).filter(|why| !why.is_empty()).map(|why| cut(why, REASON))))
        };
        self.see(Observation::Forgets(
            record.record().policy.forgotten.iter().filter_map(|note| of(note.id)).collect(),
        ));
    }

    fn failed(&mut self, reason: &str) {
        self.end_work();
        self.end_sync();
        let reason = cut(reason, REASON);
        self.memory.standing.fail(reason.clone());
        self.see(Observation::Failed(reason));
    }

    fn report(&mut self, now: Now, report: v1::Report) -> Result<(), String> {
        let revision = Hash::try_from(report.revision.as_ref()).map_err(|e| format!("it reported {e}"))?;
        let revision = RevisionId(revision);
        match &self.work {
            Activity::Taking(current) if current.header.id() == revision => {
                self.rate_limit.refund();
                self.end_work().map_or(Ok(()), |current| self.outcome(now, &current, &report))
            }
            // An earlier offer no longer matters while something is under way.
            Activity::Taking(_) | Activity::Planning | Activity::Finding(_) => Ok(()),
            Activity::Idle => {
                self.work = Activity::Finding(Box::new(report));
                self.outputs.push(Output::Find(revision));
                Ok(())
            }
        }
    }

    /// Takes the revision of a report on an offer of an earlier connection.
    pub(super) fn found(&mut self, now: Now, header: Option<SignedHeader>) -> Result<(), String> {
        let report = match std::mem::replace(&mut self.work, Activity::Idle) {
            Activity::Finding(report) => report,
            same @ (Activity::Idle | Activity::Planning | Activity::Taking(_)) => {
                self.work = same;
                return Ok(());
            }
        };
        match header {
            Some(header) => self.outcome(now, &Current::new(header, Way::Earlier, now.at), &report),
            None => {
                let revision = Hash::try_from(report.revision.as_ref()).map_err(|e| format!("it reported {e}"))?;
                Err(format!("it reported revision {}, which it was not offered", RevisionId(revision)))
            }
        }
    }

    /// The current revision, if it is the one of that identity, which ends.
    fn ended(&mut self, now: Now, revision: &[u8]) -> Option<Box<Current>> {
        self.stall.progress(now.at);
        match &self.work {
            Activity::Taking(current) if current.header.id().0.as_bytes() == revision => self.end_work(),
            Activity::Taking(_) | Activity::Idle | Activity::Planning | Activity::Finding(_) => None,
        }
    }

    fn staged(&mut self, now: Now, staged: &v1::Staged) {
        let Some(current) = self.ended(now, &staged.revision) else { return };
        self.rate_limit.refund();
        self.ahead = ahead(&staged.ahead);
        self.see(Observation::Staged { revision: current.header.number(), later: staged.later });
        self.staged = Some(current.header);
    }

    fn kept(&mut self, now: Now, kept: &v1::Kept) {
        let Some(current) = self.ended(now, &kept.revision) else { return };
        self.rate_limit.refund();
        self.ahead = Some(current.header.id());
    }

    fn outcome(&mut self, now: Now, current: &Current, report: &v1::Report) -> Result<(), String> {
        let outcome = report.outcome();
        (self.ahead, self.staged) = (ahead(&report.ahead), None);
        current.span.in_scope(|| tracing::debug!(?outcome, reason = cut(&report.reason, REASON), "reported"));
        match outcome {
            v1::Outcome::Done if report.root.as_ref() == current.header.header().root.as_bytes() => {
                self.done(now, current, report);
            }
            v1::Outcome::Done => self.failed(&format!(
                "it reported revision {} as done, but the content read back from disk is not that revision; sync it",
                current.header.number()
            )),
            v1::Outcome::Refused => self.refused(current, report),
            v1::Outcome::Failed => self.failed(&report.reason),
            v1::Outcome::Unspecified => return Err("it reported no outcome".to_owned()),
        }
        Ok(())
    }

    fn done(&mut self, now: Now, current: &Current, report: &v1::Report) {
        let id = current.header.id();
        let since = match self.run {
            Run::Sync { since } if current.is_sync() => since,
            Run::Sync { .. } | Run::Updates if id == self.facts.head.header.id() => self.facts.published,
            Run::Sync { .. } | Run::Updates => current.started,
        };
        if self.facts.record.record().policy.unconfirmed(&current.header).is_none() {
            // Otherwise the member may go back by itself.
            self.memory.remembered.reported = Some(current.header.number());
        }
        self.memory.standing.refuse(None);
        self.at = Some(current.header.clone());
        if matches!(current.way, Way::Settle) {
            self.memory.standing.settle();
        }
        let took = now.at.saturating_duration_since(since);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.see(Observation::Done { revision: current.header.number(), micros, kept: list(&report.kept) });
    }

    fn refused(&mut self, current: &Current, report: &v1::Report) {
        let cause = Cause::from_wire(report.cause());
        let until = match (cause, &current.way) {
            (None, _) => Until::Sync,
            (Some(_), Way::Settle) => Until::PassedInSync,
            (Some(_), Way::Update(_) | Way::Sync(_) | Way::Keep(_) | Way::Staged | Way::Earlier) => Until::Passed,
        };
        self.end_sync();
        self.returned(current, report);
        let confirmed = self.facts.record.record().policy.confirmed == Some(current.header.id());
        // A member that missed the confirmation gets the revision again.
        let refusal = Refusal { revision: current.header.id(), until };
        self.memory.standing.refuse(Some(refusal).filter(|_| !(report.unconfirmed && confirmed)));
        let (reason, output) = (cut(&report.reason, REASON), cut(&report.output, OUTPUT));
        self.see(Observation::Refused { revision: current.header.number(), reason, cause, output });
    }

    /// Takes the revision that the member holds again. Only a revision that was to be confirmed is taken back after it was reported.
    fn returned(&mut self, current: &Current, report: &v1::Report) {
        let group = self.facts.record.record().group;
        let at = report.at.clone().and_then(|at| SignedHeader::from_wire(at).ok());
        let at = at.filter(|at| at.header().group == group && current.header.confirm_within().is_some());
        if let Some(at) = at {
            self.see(Observation::Returned(at.number()));
            self.at = Some(at);
        }
    }

    /// Offers a refused revision again, since the member reports that the obstacle is gone.
    fn again(&mut self, again: &v1::Again) {
        let refused = self.memory.standing.refused();
        if refused.is_some_and(|refused| again.revision.as_ref() == refused.revision.0.as_bytes()) {
            tracing::debug!("the obstacle there is gone: the revision is offered again");
            self.memory.standing.try_again();
        }
    }
}

fn list(texts: &[String]) -> Vec<String> {
    texts.iter().take(LIST.0).map(|text| cut(text, LIST.1)).collect()
}
