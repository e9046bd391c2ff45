//! `bellwether server disable`: the beginning of a member's maintenance (W21).

use bellwether_proto::v1::DisableServerRequest;

use super::{One, record};
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// Disables it.
pub(super) async fn run(common: &Common, One { name, dry_run }: &One) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = DisableServerRequest { server: name.to_string(), author: author(), dry_run: *dry_run };
    if *dry_run {
        common.in_time(client.disable_server(request)).await?;
        record::show_plan(common, &format!("disable {name}: it gets nothing more, and what it asks is refused"));
        return Ok(());
    }
    output::confirm(&format!("disable {name}? It gets nothing more until it is enabled."), common.yes)?;
    let reply = common.in_time(client.disable_server(request)).await?.into_inner();
    let done = format!("{name} is disabled: it gets nothing more until bellwether server enable {name}");
    record::show(common, &done, &reply);
    Ok(())
}
