use super::*;

/// Brings servers to the manager's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sync(pub Vec<ServerName>);

impl TaskKind for Sync {
    /// A server that was disabled or removed meanwhile is skipped, and synced when it is brought back. If a procedure
    /// needs it complete, the next step finds that it is not.
    fn check(&self, since: &Since<'_>, world: &World) -> Check {
        let member = |name: &&ServerName| world.server(name).is_some_and(|seen| seen.role != Role::Disabled);
        let (there, away): (Vec<_>, Vec<_>) = self.0.iter().partition(member);
        let there: Vec<ServerName> = there.into_iter().cloned().collect();
        match of_each(&there, world, Action::Sync, |name, seen| lack(name, seen, since)) {
            Check::So(None) => {
                let kept = self.0.iter().filter_map(|name| kept(name, world.server(name)?, since));
                let away = away.iter().map(|name| format!("{name} put away meanwhile; synced when brought back"));
                let said: Vec<String> = kept.chain(away).collect();
                Check::So((!said.is_empty()).then(|| said.join("; ")))
            }
            other => other,
        }
    }

    /// The deadline allows a first sync of a large configuration, after the machine has booted.
    fn about(&self) -> About<'_> {
        let servers = list(&self.0);
        let about = About::new(format!("sync {servers}"), format!("on {servers}"), &self.0, 60 * MINUTE);
        About { again_ms: 10 * SECOND, ..about }
    }
}

fn lack(name: &ServerName, seen: &ObservedServer, since: &Since<'_>) -> Lack {
    match seen.state {
        State::InSync if seen.current => Lack::Nothing,
        // The sync was requested and failed.
        State::Error | State::Refused if since.tried_ms.is_some() => Lack::Person(because(name, seen)),
        // The sync was requested, and is tried again by itself when the obstacle is gone.
        State::Waiting if since.tried_ms.is_some() => Lack::Time(because(name, seen)),
        State::InSync | State::Error | State::Refused | State::Waiting | State::Drifted | State::AwaitingSync => {
            Lack::Ask
        }
        // A superseded server came back as the manager that it was, and learns of its successor.
        State::Syncing | State::Updating | State::GroupChange | State::Superseded => Lack::Time(because(name, seen)),
        State::Unreachable | State::Unknown => Lack::Time(format!(
            "{}; where it forgot the group (leave): bellwether token create --names {name}; with that token, there: bellwether join",
            because(name, seen)
        )),
        State::Disabled | State::Left | State::Conflict => Lack::Person(because(name, seen)),
    }
}

/// The kept copy of a server's own changes, since the procedure began.
fn kept(name: &ServerName, seen: &ObservedServer, since: &Since<'_>) -> Option<String> {
    let (_, point) = seen.kept.as_ref().filter(|(when, _)| *when >= since.started_ms)?;
    Some(format!("changes that only {name} had are kept there: {point} (bellwether drift show {name})"))
}
