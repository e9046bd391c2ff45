use super::*;

/// Waits until every byte on the servers' disks was hashed and equals the manager's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complete(pub Vec<ServerName>);

impl TaskKind for Complete {
    fn check(&self, since: &Since<'_>, world: &World) -> Check {
        of_each(&self.0, world, Action::Verify, |name, seen| match seen.state {
            // The server has become the manager meanwhile: its files are the truth, and are not hashed.
            _ if seen.role == Role::Manager => Lack::Nothing,
            State::InSync if seen.current => match seen.equal_ms {
                Some(when) if when >= since.began_ms => Lack::Nothing,
                Some(_) | None => Lack::Ask,
            },
            State::Error | State::Refused | State::Drifted | State::Disabled | State::Left | State::Conflict => {
                Lack::Person(because(name, seen))
            }
            State::InSync
            | State::GroupChange
            | State::AwaitingSync
            | State::Waiting
            | State::Syncing
            | State::Updating
            | State::Superseded
            | State::Unreachable
            | State::Unknown => Lack::Time(because(name, seen)),
        })
    }

    fn about(&self) -> About<'_> {
        let (servers, is) = (list(&self.0), if self.0.len() == 1 { "is" } else { "are" });
        let what = format!("wait until {servers} {is} complete");
        let about = About::new(what, format!("on {servers}"), &self.0, 60 * MINUTE);
        About { again_ms: 10 * SECOND, needs_its_servers: true, ..about }
    }
}
