//! `bellwether server enable`: the end of a member's maintenance (W21).

use bellwether_proto::v1::EnableServerRequest;

use super::{One, record};
use crate::{
    common::{Common, author},
    error::CommandError,
};

/// Enables it; its lane syncs it when it is reached.
pub(super) async fn run(common: &Common, One { name, dry_run }: &One) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = EnableServerRequest { server: name.to_string(), author: author(), dry_run: *dry_run };
    let reply = common.in_time(client.enable_server(request)).await?.into_inner();
    if *dry_run {
        record::show_plan(common, &format!("make {name} a member again and sync it"));
    } else {
        let done = format!("{name} is enabled; it is synced when it is reached: bellwether wait {name}");
        record::show(common, &done, &reply);
    }
    Ok(())
}
