use bellwether_proto::{name::ServerName, record::Role};
use serde::{Deserialize, Serialize};

use super::{
    super::{Action, World},
    Check, IN_THE_RECORD, MINUTE, Since, TaskKind, leads_meanwhile, put_away,
};
use crate::group::RecordEdit;

/// Out of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove(pub ServerName);

pub(super) fn check(server: &ServerName, role: Option<Role>) -> Check {
    match role {
        Some(Role::Disabled | Role::Member) => Check::Act(Action::Edit(RecordEdit::Remove(server.clone()))),
        Some(Role::Manager) => leads_meanwhile(server),
        None => Check::So(None),
    }
}

impl TaskKind for Remove {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        put_away(&self.0, true, world)
    }

    fn lasts_ms(&self, _: u64) -> u64 {
        10 * MINUTE
    }

    fn what(&self) -> String {
        format!("remove {}", self.0)
    }

    fn place(&self) -> String {
        IN_THE_RECORD.to_owned()
    }

    fn servers(&self) -> Vec<&ServerName> {
        vec![&self.0]
    }
}
