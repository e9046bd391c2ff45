//! `bellwether server acknowledge`: clears the warnings about requests from outside the group (W15).

use bellwether_proto::{name::ServerName, v1::AcknowledgeRequest};
use serde_json::json;

use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The servers whose warnings are cleared; without names, all
    #[arg(value_name = "NAME")]
    servers: Vec<ServerName>,
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Clears the warnings that the agent on this machine shows.
pub(super) async fn run(common: &Common, Args { servers, dry_run }: Args) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let servers = servers.iter().map(ToString::to_string).collect();
    let request = AcknowledgeRequest { servers, author: author(), dry_run };
    let cleared = common.in_time(client.acknowledge(request)).await?.into_inner().servers;
    output::show(common.json, &json!({ "acknowledged": cleared, "dry_run": dry_run }), |_| {
        match (cleared.as_slice(), dry_run) {
            ([], _) => "there is no warning; nothing was changed".to_owned(),
            (cleared, true) => format!("would clear the warning of {} (nothing was changed)", cleared.join(", ")),
            (cleared, false) => format!("acknowledged: {} has no warning now", cleared.join(", ")),
        }
    });
    Ok(())
}
