use super::*;

/// Disables a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disable(pub ServerName);

pub(super) fn check(server: &ServerName, role: Option<Role>) -> Check {
    match role {
        Some(Role::Disabled) => Check::So(None),
        Some(Role::Member) => Check::Act(Action::Edit(RecordEdit::Disable(server.clone()))),
        Some(Role::Manager) => leads_meanwhile(server),
        None => Check::So(Some("it is removed already".to_owned())),
    }
}

impl TaskKind for Disable {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        put_away(&self.0, false, world)
    }

    fn about(&self) -> About<'_> {
        About::new(format!("disable {}", self.0), RECORD, [&self.0], 10 * MINUTE)
    }
}
