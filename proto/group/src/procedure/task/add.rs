use super::*;

/// Makes a server a member again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add(pub ServerName);

impl TaskKind for Add {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        let server = &self.0;
        match world.server(server).map(|seen| seen.role) {
            Some(Role::Member) => Check::So(None),
            Some(Role::Disabled) => Check::Act(Action::Edit(RecordEdit::BringBack(server.clone()))),
            Some(Role::Manager) => leads_meanwhile(server),
            None if world.removed.contains_key(server) => {
                Check::Act(Action::Edit(RecordEdit::BringBack(server.clone())))
            }
            None => Check::Wait(format!("{server} to join with a token: bellwether token create --names {server}")),
        }
    }

    fn about(&self) -> About<'_> {
        About::new(format!("add {} as a member", self.0), RECORD, [&self.0], 10 * MINUTE)
    }
}
