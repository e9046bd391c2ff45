use super::*;

/// Removes a server from the group.
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

    fn about(&self) -> About<'_> {
        About::new(format!("remove {}", self.0), RECORD, [&self.0], 10 * MINUTE)
    }
}
