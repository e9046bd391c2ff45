//! `bellwether sync`: bring servers to the manager's state from whatever they have.

use bellwether_proto::{name::ServerName, v1::SyncRequest};
use serde_json::json;

use super::{
    farm::{self, Wait},
    record,
};
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which servers; otherwise all members
    #[arg(value_name = "NAME")]
    pub servers: Vec<ServerName>,
    /// Hash every byte, whatever its times say
    #[arg(long)]
    pub full: bool,
    /// Show which servers would be asked
    #[arg(long)]
    pub dry_run: bool,
    /// How far it has to be when the command ends
    #[arg(long, default_value = "all")]
    pub wait: Wait,
}

/// Runs it.
///
/// # Errors
/// Refused, or not everywhere in time.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let names: Vec<String> = args.servers.iter().map(ToString::to_string).collect();
    if args.dry_run {
        let whom = if names.is_empty() { "all members".to_owned() } else { names.join(", ") };
        record::show_plan(common, &format!("bring {whom} to the manager's state"));
        return Ok(());
    }
    let request = SyncRequest { servers: names, full: args.full, verify_only: false };
    let asked = common.in_time(client.sync(request)).await?.into_inner().servers;
    let mut at = None;
    if args.wait == Wait::All && !asked.is_empty() {
        let head = common.in_time(farm::status(&mut client)).await?.head.ok_or_else(no_revision)?;
        let servers = asked.iter().map(|name| name.parse()).collect::<Result<Vec<ServerName>, _>>();
        let servers = servers.map_err(|e| CommandError::failed(&e))?;
        farm::until_reached(&mut client, common, head, Some(&servers)).await?;
        at = Some(head);
    }
    output::show(common.json, &json!({ "servers": asked, "revision": at }), |_| match (asked.is_empty(), at) {
        (true, _) => "there is no server to bring to the manager's state".to_owned(),
        (false, Some(head)) => format!("in sync at {head}: {}", asked.join(", ")),
        (false, None) => format!("asked {}; `bellwether monitor` shows how far they are", asked.join(", ")),
    });
    Ok(())
}

fn no_revision() -> CommandError {
    CommandError::new(Kind::Refused, "there is no revision yet").hint("`bellwether publish` makes one")
}
