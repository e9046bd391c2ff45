//! What the member says in a session: told to the monitor, and what it means for what it is sent.

use std::time::{Duration, Instant};

use bellwether_proto::{
    hash::Hash,
    limits,
    name::BalancerName,
    revision::RevisionId,
    status::{Cause, Observation, Progress, Verified},
    v1,
};
use bellwether_store::{clock::now_ms, underway::Dealing};

use super::{Current, Session};
use crate::{
    failpoints,
    lane::cut,
    plan::{Edits, Refusal, Until},
};

/// Characters of a reason that a member gives.
pub(super) const REASON: usize = 8_000;
/// Characters of what it says of who knocked.
const WHO: usize = 500;
/// Paths or names in a list that a member gives, and characters of each.
const LIST: (usize, usize) = (20, 5_000);
/// A member's lesser news (progress, life) reaches the monitor at most so often.
const NEWS: Duration = Duration::from_millis(100);

impl Session<'_> {
    pub(super) async fn hear(&mut self, message: v1::up::Message) -> Result<(), String> {
        use v1::up::Message;
        let _dealing = Dealing::with(self.lane.suspect());
        failpoints::hit("lane.heard");
        let now = Instant::now();
        self.dog.heard(now);
        self.allowance.spend(now);
        match message {
            Message::Hello(_) => return Err("it said hello twice".to_owned()),
            Message::Want(v1::Want { want }) => {
                self.dog.progress(now);
                self.want(want)?;
            }
            Message::Progress(progress) => {
                self.dog.progress(now);
                self.lesser(Observation::Progress(Progress {
                    phase: cut(&progress.phase, 100),
                    files: progress.files,
                    files_total: progress.files_total,
                    bytes: progress.bytes,
                    bytes_total: progress.bytes_total,
                    bytes_per_s: 0,
                }));
            }
            Message::Report(report) => self.report(report).await?,
            Message::Drift(drift) => self.drift(&drift),
            Message::Keepalive(answer) => self.alive(&answer),
            Message::Verified(verified) => self.verified(&verified),
            Message::Fault(fault) => self.failed(&fault.reason),
            Message::Again(again) => self.again(&again),
            Message::Knock(knock) => self.lane.see(Observation::Knocked(cut(&knock.who, WHO))),
            Message::Balancers(balancers) => self.balancers(&balancers),
        }
        Ok(())
    }

    fn alive(&mut self, answer: &v1::Keepalive) {
        let newest = self.beat;
        let taken = |beat: u64| (beat..=newest).contains(&answer.time_ms);
        let record = self.record.take_if(|(beat, _)| taken(*beat)).map(|(_, version)| version);
        let procedures = self.procedures.take_if(|(beat, _)| taken(*beat)).map(|(_, version)| version);
        self.lane.shared.reached.send_if_modified(|reached| {
            reached.change(&self.lane.server.name, |server| {
                server.beat = server.beat.max(answer.time_ms.min(newest));
                server.record = record.unwrap_or(server.record);
                server.procedures = procedures.or(server.procedures);
            })
        });
        if let Some(version) = record {
            self.lane.see(Observation::Record(version));
        }
        self.lesser(Observation::Alive);
    }

    fn lesser(&mut self, observation: Observation) {
        let now = Instant::now();
        if self.news.is_none_or(|last| now.saturating_duration_since(last) >= NEWS) {
            self.news = Some(now);
            self.lane.see(observation);
        }
    }

    fn want(&mut self, want: Option<v1::want::Want>) -> Result<(), String> {
        let Some(current) = &self.current else { return Ok(()) };
        match (want, &current.pack) {
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
            // What it refused because of its own edits, or where its sets were, it takes now.
            self.memory.standing.refuse(None);
        }
        self.edits = if held { Edits::Held } else { Edits::Free };
        let (paths, kept) = (list(&drift.paths), list(&drift.kept));
        self.lane.see(Observation::Drift { entries: drift.entries, paths, held: drift.held, kept });
        self.lane.see(Observation::Away(Some(&drift.away).filter(|why| !why.is_empty()).map(|why| cut(why, REASON))));
    }

    fn verified(&mut self, verified: &v1::Verified) {
        let head = self.lane.shared.head.borrow().clone();
        let equal = verified.root.as_ref() == head.stored.header.header().root.as_bytes();
        let v1::Verified { full, entries, micros, .. } = *verified;
        self.lane.see(Observation::Verified(Verified { time_ms: now_ms(), full, entries, micros, equal }));
    }

    /// Only what it says of the record's balancers, each once.
    fn balancers(&mut self, said: &v1::Balancers) {
        let record = self.lane.shared.record.borrow().clone();
        let of = |name: &BalancerName| {
            let reach = said.reach.iter().take(limits::BALANCERS).find(|reach| reach.balancer == name.as_str())?;
            let fault = Some(&reach.fault).filter(|fault| !fault.is_empty());
            Some((name.clone(), fault.map(|fault| cut(fault, REASON))))
        };
        let balancers = record.record().policy.balancers.iter().filter_map(|balancer| of(&balancer.name));
        self.lane.see(Observation::Balancers(balancers.collect()));
    }

    fn failed(&mut self, reason: &str) {
        self.end();
        self.end_sync();
        let reason = cut(reason, REASON);
        self.memory.standing.fail(reason.clone());
        self.lane.see(Observation::Failed(reason));
    }

    async fn report(&mut self, report: v1::Report) -> Result<(), String> {
        let revision = Hash::try_from(report.revision.as_ref()).map_err(|e| format!("it reported {e}"))?;
        let revision = RevisionId(revision);
        let busy = self.current.is_some();
        let ours = self.current.as_ref().is_some_and(|current| current.header.id() == revision);
        if ours {
            self.allowance.refund();
        }
        let current = if ours { self.end() } else { self.earlier(revision).await? };
        let Some(current) = current else {
            return if busy {
                Ok(())
            } else {
                Err(format!("it reported revision {revision}, which it was not offered"))
            };
        };
        let outcome = report.outcome();
        current.span.in_scope(|| tracing::debug!(?outcome, reason = cut(&report.reason, REASON), "reported"));
        match outcome {
            v1::Outcome::Done if report.root.as_ref() == current.header.header().root.as_bytes() => {
                self.done(&current, &report);
            }
            v1::Outcome::Done => self.failed(&format!(
                "it reported revision {} as done, but what it read back from its disk is not that revision; sync it",
                current.header.number()
            )),
            v1::Outcome::Refused => self.refused(&current, &report.reason, Cause::from_wire(report.cause())),
            v1::Outcome::Failed => self.failed(&report.reason),
            v1::Outcome::Unspecified => return Err("it reported no outcome".to_owned()),
        }
        Ok(())
    }

    /// A report of a revision that was offered over an earlier connection; only while nothing else is under way.
    async fn earlier(&self, revision: RevisionId) -> Result<Option<Current>, String> {
        if self.current.is_some() {
            return Ok(None);
        }
        let history = self.lane.shared.history.clone();
        let get = move || {
            let history = history.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            history.get(revision).map(|stored| stored.header.clone())
        };
        let header = tokio::task::spawn_blocking(get).await.map_err(|e| e.to_string())?;
        Ok(header.map(|header| Current::new(header, None, false)))
    }

    fn done(&mut self, current: &Current, report: &v1::Report) {
        let id = current.header.id();
        let (head, published) = {
            let head = self.lane.shared.head.borrow();
            (head.id(), head.published)
        };
        let since = match self.syncing {
            Some(began) if current.sync => began,
            _ if id == head => published,
            _ => current.started,
        };
        self.memory.remembered.reported = Some(current.header.number());
        self.memory.standing.refuse(None);
        self.at = Some(current.header.clone());
        if current.sync && current.pack.is_none() {
            self.memory.standing.settle();
        }
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.lane.see(Observation::Done { revision: current.header.number(), micros, kept: list(&report.kept) });
    }

    fn refused(&mut self, current: &Current, reason: &str, cause: Option<Cause>) {
        let until = match (cause, &current.pack) {
            (None, _) => Until::Sync,
            (Some(_), None) if current.sync => Until::PassedInSync,
            (Some(_), _) => Until::Passed,
        };
        self.end_sync();
        self.memory.standing.refuse(Some(Refusal { revision: current.header.id(), until }));
        let reason = cut(reason, REASON);
        self.lane.see(Observation::Refused { revision: current.header.number(), reason, cause });
    }

    /// What stood in the way of a revision is gone, it says: that is offered again.
    fn again(&mut self, again: &v1::Again) {
        let refused = self.memory.standing.refused();
        if refused.is_some_and(|refused| again.revision.as_ref() == refused.revision.0.as_bytes()) {
            tracing::debug!("what stood in the way there is gone: offered again");
            self.memory.standing.try_again();
        }
    }
}

fn list(texts: &[String]) -> Vec<String> {
    texts.iter().take(LIST.0).map(|text| cut(text, LIST.1)).collect()
}
