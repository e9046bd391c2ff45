//! `bellwether server enable`: the end of a member's maintenance (W21).

use bellwether_proto::v1::{EnableServerRequest, start_procedure_request::Procedure};

use super::{Back, following, record};
use crate::{
    common::{Common, author},
    error::CommandError,
};

/// Enables it, drained until it is complete; without balancers its lane syncs it when it is reached.
pub(super) async fn run(common: &Common, Back { name, begin }: &Back) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = |dry_run| EnableServerRequest { server: name.to_string(), author: author(), dry_run };
    // What the record refuses is refused before anybody is drained.
    common.in_time(client.enable_server(request(true))).await?;
    let asked = Procedure::Enable(name.to_string());
    if let Some(planned) = following::planned(common, asked.clone()).await? {
        return following::way_back_into_service(common, begin, &planned, asked).await;
    }
    if record::is_there_already(common, name)? {
        return Ok(());
    }
    if begin.dry_run {
        record::show_plan(common, &format!("make {name} a member again and sync it"));
        return Ok(());
    }
    let reply = common.in_time(client.enable_server(request(false))).await?.into_inner();
    let done = format!("{name} is enabled; it is synced when it is reached: bellwether wait --servers {name}");
    record::show(common, &done, &reply);
    Ok(())
}
