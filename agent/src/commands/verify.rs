//! `bellwether verify`: have servers hash again what is on their disks.

use bellwether_proto::{name::ServerName, v1::SyncRequest};
use serde_json::json;

use crate::{common::Common, error::CommandError, output};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which servers; otherwise all members
    #[arg(value_name = "NAME")]
    pub servers: Vec<ServerName>,
}

/// Runs it.
///
/// # Errors
/// Refused: this server is not the manager, or there is no such server.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let servers = args.servers.iter().map(ToString::to_string).collect();
    let request = SyncRequest { servers, full: true, verify_only: true };
    let asked = common.in_time(client.sync(request)).await?.into_inner().servers;
    output::show(common.json, &json!({ "servers": asked }), |_| match asked.as_slice() {
        [] => "there is no server to ask".to_owned(),
        names => format!("asked {} to hash every byte; `bellwether status` shows what differs", names.join(", ")),
    });
    Ok(())
}
