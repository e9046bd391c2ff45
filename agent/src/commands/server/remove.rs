//! `bellwether server remove`: a server goes (W16, W27).

use bellwether_proto::v1::RemoveServerRequest;

use super::{One, record};
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// Removes it.
pub(super) async fn run(common: &Common, One { name, dry_run }: &One) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = RemoveServerRequest { server: name.to_string(), author: author(), dry_run: *dry_run };
    if *dry_run {
        common.in_time(client.remove_server(request)).await?;
        record::show_plan(common, &format!("remove {name}: it gets nothing more and is refused at its next call"));
        return Ok(());
    }
    output::confirm(&format!("remove {name} from the group? Its configuration stays as it is."), common.yes)?;
    let reply = common.in_time(client.remove_server(request)).await?.into_inner();
    record::show(common, &format!("{name} is removed; its configuration stays as it is"), &reply);
    Ok(())
}
