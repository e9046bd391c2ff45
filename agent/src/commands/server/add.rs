//! `bellwether server add`: a server that was removed or disabled is a member again (W19, W25).

use bellwether_proto::v1::AddServerRequest;

use super::{One, record};
use crate::{
    common::{Common, author},
    error::CommandError,
};

/// Adds it; its lane syncs it when it is reached.
pub(super) async fn run(common: &Common, One { name, dry_run }: &One) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = AddServerRequest { server: name.to_string(), author: author(), dry_run: *dry_run };
    let reply = common.in_time(client.add_server(request)).await?.into_inner();
    if *dry_run {
        record::show_plan(common, &format!("take {name} back as a member and sync it"));
    } else {
        record::show(common, &format!("{name} is a member again; it is synced when it is reached"), &reply);
    }
    Ok(())
}
