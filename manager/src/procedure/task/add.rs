use bellwether_proto::{name::ServerName, record::Role};
use serde::{Deserialize, Serialize};

use super::{
    super::{Action, World},
    Check, IN_THE_RECORD, MINUTE, Since, TaskKind, leads_meanwhile,
};
use crate::group::RecordEdit;

/// A member again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add(pub ServerName);

impl TaskKind for Add {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        let server = &self.0;
        match world.server(server).map(|seen| seen.role) {
            Some(Role::Member) => Check::So(None),
            Some(Role::Disabled) => Check::Act(Action::Edit(RecordEdit::BringBack(server.clone()))),
            Some(Role::Manager) => leads_meanwhile(server),
            None if world.removed.contains_key(server) => Check::Act(Action::Edit(RecordEdit::BringBack(server.clone()))),
            None => Check::Wait(format!("{server} to join with a token: bellwether token create --names {server}")),
        }
    }

    fn lasts_ms(&self, _: u64) -> u64 {
        10 * MINUTE
    }

    fn what(&self) -> String {
        format!("add {} as a member", self.0)
    }

    fn place(&self) -> String {
        IN_THE_RECORD.to_owned()
    }

    fn servers(&self) -> Vec<&ServerName> {
        vec![&self.0]
    }
}
