//! `bellwether server remove`: removes a server from the group (W16, W27).

use bellwether_proto::v1::edit_record_request::Edit;

use super::{One, record};
use crate::{common::Common, error::CommandError, output};

/// Removes a server.
pub(super) async fn run(common: &Common, One { name, dry_run }: &One) -> Result<(), CommandError> {
    let edit = Edit::RemoveServer(name.to_string());
    if *dry_run {
        record::edit(common, edit, true).await?;
        record::show_plan(common, &format!("remove {name}: it gets nothing more and is refused at its next call"));
        return Ok(());
    }
    output::confirm(&format!("remove {name} from the group? Its configuration stays as it is."), common.yes)?;
    let reply = record::edit(common, edit, false).await?;
    record::show(common, &format!("{name} is removed; its configuration stays as it is"), &reply);
    Ok(())
}
