//! `bellwether server add | enable`: makes a removed or disabled server a member again (W19, W21, W25).

use bellwether_proto::v1::{edit_record_request::Edit, start_procedure_request::Procedure};

use super::{Back, following, record};
use crate::{common::Common, error::CommandError};

/// The differences of the two commands.
struct Way {
    asked: Procedure,
    edit: Edit,
    plan: String,
    done: String,
}

/// Adds a server again.
pub(super) async fn add(common: &Common, back: &Back) -> Result<(), CommandError> {
    let name = &back.name;
    let way = Way {
        asked: Procedure::Add(name.to_string()),
        edit: Edit::AddServer(name.to_string()),
        plan: format!("take {name} back as a member and sync it"),
        done: format!("{name} is a member again; it is synced when it is reached"),
    };
    run(common, back, way).await
}

/// Enables a server.
pub(super) async fn enable(common: &Common, back: &Back) -> Result<(), CommandError> {
    let name = &back.name;
    let way = Way {
        asked: Procedure::Enable(name.to_string()),
        edit: Edit::EnableServer(name.to_string()),
        plan: format!("make {name} a member again and sync it"),
        done: format!("{name} is enabled; it is synced when it is reached: bellwether wait --servers {name}"),
    };
    run(common, back, way).await
}

/// Brings the server back, drained until it is complete. Without balancers, its lane syncs it when it is reached.
async fn run(common: &Common, Back { name, begin }: &Back, way: Way) -> Result<(), CommandError> {
    let Way { asked, edit, plan, done } = way;
    // A change that the record refuses is refused before any server is drained.
    record::edit(common, edit.clone(), true).await?;
    if let Some(planned) = following::planned(common, asked.clone()).await? {
        return following::way_back_into_service(common, begin, &planned, asked).await;
    }
    if record::is_there_already(common, name)? {
        return Ok(());
    }
    if begin.dry_run {
        record::show_plan(common, &plan);
        return Ok(());
    }
    record::show(common, &done, &record::edit(common, edit, false).await?);
    Ok(())
}
