//! `bellwether server add`: a server that was removed or disabled is a member again (W19, W25).

use bellwether_proto::v1::{AddServerRequest, start_procedure_request::Procedure};

use super::{Back, following, record};
use crate::{
    common::{Common, author},
    error::CommandError,
};

/// Adds it, drained until it is complete; without balancers its lane syncs it when it is reached.
pub(super) async fn run(common: &Common, Back { name, begin }: &Back) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = |dry_run| AddServerRequest { server: name.to_string(), author: author(), dry_run };
    // What the record refuses is refused before anybody is drained.
    common.in_time(client.add_server(request(true))).await?;
    let asked = Procedure::Add(name.to_string());
    if let Some(planned) = following::planned(common, asked.clone()).await? {
        return following::way_back_into_service(common, begin, &planned, asked).await;
    }
    if record::is_there_already(common, name)? {
        return Ok(());
    }
    if begin.dry_run {
        record::show_plan(common, &format!("take {name} back as a member and sync it"));
        return Ok(());
    }
    let reply = common.in_time(client.add_server(request(false))).await?.into_inner();
    record::show(common, &format!("{name} is a member again; it is synced when it is reached"), &reply);
    Ok(())
}
