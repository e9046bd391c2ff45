//! `bellwether status`: the farm, once. And how the other commands of the monitor ask for it.

use std::io::{IsTerminal, stdout};

use bellwether_monitor::table::{Look, render};
use bellwether_proto::{
    status::FarmStatus,
    v1::{StatusReply, WatchRequest, admin_client::AdminClient},
};
use tonic::{Streaming, transport::Channel};

use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs it.
///
/// # Errors
/// The agent on this machine does not run or does not answer.
pub async fn run(_args: Args, common: &Common) -> Result<(), CommandError> {
    let status = once(common).await?;
    if common.json {
        output::document(&status);
    } else {
        output::painted(&render(&status, look()));
    }
    Ok(())
}

/// The farm as the agent on this machine knows it now.
pub(super) async fn once(common: &Common) -> Result<FarmStatus, CommandError> {
    let request = WatchRequest { follow: false, interval_ms: 0 };
    let first = async { Feed::open(common, request).await?.next(common).await };
    common.within(first).await?.ok_or_else(|| {
        CommandError::new(Kind::Failed, "the agent ended its answer before it began").hint("see the agent's log")
    })
}

/// The farm's status, again and again, until the agent ends.
pub(super) struct Feed {
    answers: Streaming<StatusReply>,
    /// The connection lives as long as its client.
    _agent: AdminClient<Channel>,
}

impl Feed {
    /// Begins to ask.
    pub(super) async fn open(common: &Common, request: WatchRequest) -> Result<Self, CommandError> {
        let mut agent = common.connect().await?;
        let answers = common.next(agent.status(request)).await?.into_inner();
        Ok(Self { answers, _agent: agent })
    }

    /// At every change, as soon as it is there; and every second, for what ages.
    pub(super) async fn live(common: &Common) -> Result<Self, CommandError> {
        Self::open(common, WatchRequest { follow: true, interval_ms: 1_000 }).await
    }

    /// The next one; none: the agent ended. May be cancelled: the next call gives what this one would have.
    ///
    /// # Errors
    /// The agent's, or it fell silent.
    pub(super) async fn next(&mut self, common: &Common) -> Result<Option<FarmStatus>, CommandError> {
        let Some(reply) = common.next(self.answers.message()).await? else { return Ok(None) };
        serde_json::from_slice(&reply.json).map(Some).map_err(|e| {
            CommandError::new(Kind::Failed, format!("the agent's answer is not a status this program knows: {e}"))
                .hint("is the agent of another version? restart it after an upgrade")
        })
    }
}

/// How to show tables on standard output.
pub(super) fn look() -> Look {
    match (stdout().is_terminal(), rustix::termios::tcgetwinsize(stdout())) {
        (true, Ok(size)) if size.ws_col > 0 => Look { width: size.ws_col, colour: coloured() },
        (true, _) => Look { width: 80, colour: coloured() },
        (false, _) => Look::PLAIN,
    }
}

/// Unless NO_COLOR (no-color.org) or a terminal that has none says otherwise.
fn coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
