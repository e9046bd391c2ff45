//! The farm's status from the agent on this machine: once, or until a revision has arrived (`--wait`).

use std::time::{Duration, Instant};

use bellwether_daemon::config::duration;
use bellwether_monitor::wait::{Verdict, reached};
use bellwether_proto::{
    name::ServerName,
    revision::Number,
    status::FarmStatus,
    v1::{StatusReply, WatchRequest, admin_client::AdminClient},
};
use tonic::transport::Channel;

use crate::{
    common::Common,
    error::{CommandError, Kind},
    progress::Progress,
};

/// How far a change has to be when the command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Wait {
    /// The change is requested.
    None,
    /// The change is durable at the manager.
    Manager,
    /// Every member is in sync.
    All,
}

/// The longest time between two statuses, in milliseconds.
const INTERVAL_MS: u32 = 1_000;
/// How long a wait without `--timeout` goes on while nothing in this farm brings it on.
const STALLED: Duration = Duration::from_secs(30);

/// The farm's present status.
///
/// # Errors
/// The agent's error.
pub(super) async fn status(client: &mut AdminClient<Channel>) -> Result<FarmStatus, CommandError> {
    let mut replies = client.status(WatchRequest { follow: false, interval_ms: 0 }).await?.into_inner();
    decode(replies.message().await?)
}

fn decode(reply: Option<StatusReply>) -> Result<FarmStatus, CommandError> {
    let Some(reply) = reply else { return Err(stopped()) };
    serde_json::from_slice(&reply.json).map_err(|e| CommandError::failed(&e))
}

fn stopped() -> CommandError {
    CommandError::new(Kind::Failed, "the agent on this machine has stopped").hint("start it with `bellwether serve`")
}

/// Waits until `servers` (none: all members) are in sync at `head`, for `--timeout`. Without that, the wait ends, too, when for
/// half a minute all that are missing have waited for something outside of this farm.
///
/// # Errors
/// Timed out, with the servers that are missing; or partly: the servers that cannot get there, with reasons.
pub(super) async fn until_reached(
    client: &mut AdminClient<Channel>,
    common: &Common,
    head: Number,
    servers: Option<&[ServerName]>,
) -> Result<(), CommandError> {
    let mut stalled = None;
    let rule = |status: &FarmStatus| {
        let verdict = reached(status, head, servers);
        let since = match verdict {
            Verdict::Stalled(_) => *stalled.get_or_insert_with(Instant::now),
            Verdict::Done | Verdict::Partly(_) | Verdict::Stopped(_) | Verdict::Waiting(_) => {
                stalled = None;
                Instant::now()
            }
        };
        match verdict {
            Verdict::Done => Ok(Ok(())),
            Verdict::Partly(stuck) => Ok(Err(partly(head, &stuck))),
            Verdict::Stopped(why) => Ok(Err(stopped_rollout(&why))),
            Verdict::Stalled(whom) if common.timeout.is_none() && since.elapsed() >= STALLED => {
                Ok(Err(partly(head, &whom)
                    .hint("the servers that wait go on by themselves; `bellwether wait` waits for them")))
            }
            Verdict::Stalled(whom) => Err(format!("{head} on {}", named(&whom))),
            Verdict::Waiting(whom) => Err(format!("{head} on {whom}")),
        }
    };
    until(client, common, rule).await?
}

/// Waits until `rule` returns a value, for `--timeout`. Otherwise `rule` returns the thing that is waited for.
///
/// # Errors
/// Timed out, with the thing that was waited for; or the agent's error.
pub(super) async fn until<T>(
    client: &mut AdminClient<Channel>,
    common: &Common,
    rule: impl FnMut(&FarmStatus) -> Result<T, String>,
) -> Result<T, CommandError> {
    let mut waiting_for = "the first status".to_owned();
    let follow = follow(client, common, rule, &mut waiting_for);
    let Some(limit) = common.timeout else { return follow.await };
    match tokio::time::timeout(limit, follow).await {
        Ok(answer) => answer,
        Err(_) => {
            let text = format!("not everywhere after {}: still waiting for {waiting_for}", duration::format(limit));
            Err(CommandError::new(Kind::TimedOut, text)
                .hint("the sync goes on by itself; `bellwether monitor` shows its progress"))
        }
    }
}

async fn follow<T>(
    client: &mut AdminClient<Channel>,
    common: &Common,
    mut rule: impl FnMut(&FarmStatus) -> Result<T, String>,
    waiting_for: &mut String,
) -> Result<T, CommandError> {
    let request = WatchRequest { follow: true, interval_ms: INTERVAL_MS };
    let mut replies = common.next(client.status(request)).await?.into_inner();
    let progress = Progress::begin("waiting");
    loop {
        match rule(&decode(common.next(replies.message()).await?)?) {
            Ok(found) => return Ok(found),
            Err(what) => {
                progress.now(format!("waiting for {what}"));
                *waiting_for = what;
            }
        }
    }
}

/// The error of a wait that ends because the rollout was stopped or taken back.
pub(super) fn stopped_rollout(why: &str) -> CommandError {
    CommandError::new(Kind::Failed, why).hint("see `bellwether rollout show`")
}

/// Servers with their reasons, in one line.
pub(super) fn named(servers: &[(ServerName, String)]) -> String {
    servers.iter().map(|(server, why)| format!("{server}: {why}")).collect::<Vec<_>>().join("; ")
}

fn partly(head: Number, stuck: &[(ServerName, String)]) -> CommandError {
    let text = format!("{head} is on all servers but {}", named(stuck));
    CommandError::new(Kind::Partly, text).hint("see `bellwether status`; `bellwether sync NAME` tries again")
}

/// The revision number in an answer.
///
/// # Errors
/// The agent's answer is not a number.
pub(super) fn number(text: &str) -> Result<Number, CommandError> {
    text.parse().map_err(|e| CommandError::failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_cannot_get_there_are_named_with_why() {
        let head = "1.5".parse().expect("a number");
        let error = partly(head, &[("web2".parse().expect("a name"), "disk full".to_owned())]);
        assert_eq!(error.kind.exit_code(), 5);
        assert_eq!(error.to_string(), "partly done: 1.5 is on all servers but web2: disk full");
    }
}
