//! `bellwether wait`: waits until servers are in sync, for scripts. `--timeout` limits the wait.

use std::time::Duration;

use bellwether_daemon::config::duration;
use bellwether_monitor::wait::{Verdict, reached, serving};
use bellwether_proto::{name::ServerName, record::Role, revision::Number, status::FarmStatus};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{farm, status::Feed};
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The revision to wait for, as EPOCH.SEQUENCE; without it, the newest
    #[arg(long, value_name = "REV")]
    pub revision: Option<Number>,
    /// Wait for these servers only, separated by commas
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub servers: Vec<ServerName>,
    /// Wait until the servers are also in service: ready, and not drained
    #[arg(long)]
    pub serving: bool,
}

/// Runs the command. While its manager does not answer, a member knows only its own state, and waits for the others.
///
/// # Errors
/// Timed out, or partly: some servers cannot get there by themselves.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let Reached { goal, drained } = wait(args, common).await?;
    let document = json!({ "revision": goal, "in_sync": true, "drained": drained });
    output::show(common.json, &document, |_| match drained.is_empty() {
        true => format!("in sync at {goal}"),
        false => format!("in sync at {goal}; drained: {}", names(&drained)),
    });
    Ok(())
}

/// The goal of the wait, and the servers that have reached it but are out of service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reached {
    goal: Number,
    drained: Vec<ServerName>,
}

fn names(servers: &[ServerName]) -> String {
    servers.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ")
}

async fn wait(args: Args, common: &Common) -> Result<Reached, CommandError> {
    let mut watched = Watched { asked: args, goal: None, last: String::new(), json: common.json };
    let never = Duration::from_secs(10 * 365 * 86_400);
    let limit = common.timeout.unwrap_or(never);
    match timeout_at(Instant::now() + limit, follow(&mut watched, common)).await {
        Ok(result) => result,
        Err(_) => Err(watched.too_late(limit)),
    }
}

async fn follow(watched: &mut Watched, common: &Common) -> Result<Reached, CommandError> {
    let mut feed = Feed::live(common).await?;
    while let Some(status) = feed.next(common).await? {
        if let Some(end) = watched.look(&status) {
            return end;
        }
    }
    Err(CommandError::new(Kind::Failed, "the agent on this machine ended while it was asked")
        .hint("start it with `bellwether serve` and wait again"))
}

struct Watched {
    asked: Args,
    /// The goal: the named revision, or the head when it was first seen.
    goal: Option<Number>,
    last: String,
    json: bool,
}

impl Watched {
    /// The outcome, once it is known: the revision at which all are in sync.
    fn look(&mut self, status: &FarmStatus) -> Option<Result<Reached, CommandError>> {
        // What was saved before this command is to be in the revision.
        let newest = status.head.filter(|_| !status.pending);
        self.goal = self.goal.or(self.asked.revision).or(newest);
        let Some(goal) = self.goal else {
            self.waiting(match status.pending {
                true => "edits at the manager are to be published first",
                false => "nothing is published yet",
            });
            return None;
        };
        let judge = if self.asked.serving { serving } else { reached };
        let named = self.asked.servers.as_slice();
        match judge(status, goal, (!named.is_empty()).then_some(named)) {
            Verdict::Done => {
                let out = status.servers.iter().filter(|server| server.drained && server.role != Role::Disabled);
                Some(Ok(Reached { goal, drained: out.map(|server| server.name.clone()).collect() }))
            }
            Verdict::Waiting(whom) => {
                self.waiting(&whom);
                None
            }
            Verdict::Stalled(whom) => {
                self.waiting(&farm::named(&whom));
                None
            }
            Verdict::Partly(stuck) => Some(Err(partly(self.what(), goal, &stuck))),
            Verdict::Stopped(why) => Some(Err(farm::stopped_rollout(&why))),
        }
    }

    fn what(&self) -> &'static str {
        if self.asked.serving { "in service" } else { "in sync" }
    }

    fn waiting(&mut self, whom: &str) {
        if !self.json && self.last != whom {
            output::note(&format!("waiting: {whom}"));
        }
        whom.clone_into(&mut self.last);
    }

    fn too_late(&self, limit: Duration) -> CommandError {
        let last = if self.last.is_empty() { "the agent did not answer" } else { &self.last };
        let goal = self.goal.map_or_else(|| "anything".to_owned(), |goal| goal.to_string());
        let text = format!("not {} at {goal} after {}: {last}", self.what(), duration::format(limit));
        CommandError::new(Kind::TimedOut, text).hint("nothing was stopped: `bellwether status` shows the progress")
    }
}

fn partly(what: &str, goal: Number, stuck: &[(ServerName, String)]) -> CommandError {
    let servers: Vec<_> = stuck.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    let text = format!("{what} at {goal}, all but {}", stuck.len());
    CommandError::new(Kind::Partly, text).hint(servers.join("\n"))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::status::{ServerStatus, State};

    use super::*;

    fn seven() -> Number {
        "1.7".parse().unwrap()
    }

    fn there() -> Reached {
        Reached { goal: seven(), drained: Vec::new() }
    }

    fn farm(observer: &str, state: State) -> FarmStatus {
        let head = seven();
        let server = |name: &str, role, state| ServerStatus {
            name: name.parse().unwrap(),
            address: format!("{name}:7440"),
            role,
            state,
            revision: Some(head),
            lag_revisions: 0,
            lag_ms: 0,
            reason: Some("the disk is full".into()),
            drift: vec![],
            drift_entries: 0,
            held: false,
            waits_for: None,
            output: String::new(),
            progress: None,
            seen_ms: None,
            last_update_us: None,
            version: None,
            levels: None,
            kept: vec![],
            kept_ms: None,
            drained: false,
            verified: None,
            balancers: Vec::new(),
            warning: None,
        };
        FarmStatus {
            observer: observer.parse().unwrap(),
            time_ms: 1,
            record: "1.1".into(),
            manager: "m".parse().unwrap(),
            head: Some(head),
            head_time_ms: Some(1),
            head_message: String::new(),
            paused: false,
            publish: "auto".into(),
            watching: "events".into(),
            unpublished: None,
            pending: false,
            quarantined: Vec::new(),
            sets: vec![],
            warnings: vec![],
            servers: vec![
                server("a", Role::Member, State::InSync),
                server("b", Role::Member, state),
                server("m", Role::Manager, State::InSync),
            ],
            told_ms: None,
            procedures: Vec::new(),
            expelled: None,
            rollout: None,
            batch: None,
            forgets: Vec::new(),
        }
    }

    fn watched(revision: Option<&str>, servers: &[&str]) -> Watched {
        let asked = Args {
            revision: revision.map(|text| text.parse().unwrap()),
            servers: servers.iter().map(|name| name.parse().unwrap()).collect(),
            serving: false,
        };
        Watched { asked, goal: None, last: String::new(), json: false }
    }

    #[test]
    fn the_goal_is_the_head_when_it_was_first_seen() {
        let mut watched = watched(None, &[]);
        let mut status = farm("m", State::Updating);
        status.servers[1].revision = Some("1.6".parse().unwrap());
        assert_eq!(watched.look(&status), None);
        assert_eq!(watched.last, "b: updating");
        assert_eq!(watched.too_late(Duration::from_secs(5)).kind, Kind::TimedOut);
        status.head = Some("1.8".parse().unwrap());
        status.servers[1].revision = Some("1.7".parse().unwrap());
        assert_eq!(watched.look(&status), Some(Ok(there())), "1.8 is not waited for");
    }

    #[test]
    fn edits_that_go_on_are_waited_for_unless_a_revision_is_named() {
        let status = FarmStatus { pending: true, ..farm("m", State::InSync) };
        assert_eq!(watched(Some("1.7"), &[]).look(&status), Some(Ok(there())));
        let mut watched = watched(None, &[]);
        assert_eq!((watched.look(&status), watched.goal), (None, None));
        assert!(watched.last.contains("to be published first"));
        assert_eq!(watched.look(&farm("m", State::InSync)), Some(Ok(there())));
    }

    #[test]
    fn those_that_are_stuck_are_named() {
        let error = watched(None, &[]).look(&farm("m", State::Error)).unwrap().unwrap_err();
        assert_eq!((error.kind, error.hint.as_deref()), (Kind::Partly, Some("b: the disk is full")));
        assert_eq!(watched(None, &["a"]).look(&farm("m", State::Error)), Some(Ok(there())));
    }

    #[test]
    fn a_member_without_its_manager_knows_of_itself_only() {
        assert_eq!(watched(None, &[]).look(&farm("a", State::InSync)), None, "nobody knows of b");
        assert_eq!(watched(None, &["a"]).look(&farm("a", State::Unknown)), Some(Ok(there())));
        assert_eq!(watched(Some("1.9"), &["a"]).look(&farm("a", State::Unknown)), None, "1.9 is not there yet");
    }
}
