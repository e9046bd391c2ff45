//! `bellwether status`: shows the farm once; and the requests that the other commands of the monitor share.

use std::io::{IsTerminal, stdout};

use bellwether_monitor::table::{Look, render, render_server};
use bellwether_proto::{
    name::ServerName,
    status::FarmStatus,
    v1::{StatusReply, WatchRequest, admin_client::AdminClient},
};
use tonic::{Streaming, transport::Channel};

use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show this server alone, with the output of the command that refused its newest revision
    pub name: Option<ServerName>,
}

/// Runs the command.
///
/// # Errors
/// The agent on this machine does not run or does not answer.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let status = once(common).await?;
    if let Some(name) = args.name {
        let unknown = || {
            CommandError::new(Kind::Refused, format!("the group has no server {name}")).hint("see `bellwether status`")
        };
        let server = status.servers.iter().find(|server| server.name == name).ok_or_else(unknown)?;
        if common.json {
            output::document(server);
        } else {
            output::painted(&render_server(&status, server, look()));
        }
    } else if common.json {
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

/// The farm's statuses, one after the other, until the agent ends.
pub(super) struct Feed {
    answers: Streaming<StatusReply>,
    /// The connection lives as long as its client.
    _agent: AdminClient<Channel>,
}

impl Feed {
    /// Begins the feed.
    pub(super) async fn open(common: &Common, request: WatchRequest) -> Result<Self, CommandError> {
        let mut agent = common.connect().await?;
        let answers = common.next(agent.status(request)).await?.into_inner();
        Ok(Self { answers, _agent: agent })
    }

    /// A feed with a status at once after every change, and every second because ages grow.
    pub(super) async fn live(common: &Common) -> Result<Self, CommandError> {
        Self::open(common, WatchRequest { follow: true, interval_ms: 1_000 }).await
    }

    /// The next status; none: the agent ended. Cancel safe: no status is lost.
    ///
    /// # Errors
    /// The agent's error, or the agent fell silent.
    pub(super) async fn next(&mut self, common: &Common) -> Result<Option<FarmStatus>, CommandError> {
        let Some(reply) = common.next(self.answers.message()).await? else { return Ok(None) };
        serde_json::from_slice(&reply.json).map(Some).map_err(|e| {
            CommandError::new(Kind::Failed, format!("the agent's answer is not a status this program knows: {e}"))
                .hint("is the agent of another version? restart it after an upgrade")
        })
    }
}

/// The style of tables on standard output.
pub(super) fn look() -> Look {
    match (stdout().is_terminal(), rustix::termios::tcgetwinsize(stdout())) {
        (true, Ok(size)) if size.ws_col > 0 => Look { width: size.ws_col, colour: coloured() },
        (true, _) => Look { width: 80, colour: coloured() },
        (false, _) => Look::PLAIN,
    }
}

/// Colours, unless NO_COLOR (no-color.org) is set or the terminal has none.
fn coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
