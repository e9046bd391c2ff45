//! Tasks that are done at several servers at once.

use super::*;

/// The lack of one server of several.
pub(super) enum Lack {
    Nothing,
    /// The server is to be asked now.
    Ask,
    Time(String),
    Person(String),
}

pub(super) fn of_each(
    servers: &[ServerName],
    world: &World,
    action: fn(Vec<ServerName>) -> Action,
    lack: impl Fn(&ServerName, &ObservedServer) -> Lack,
) -> Check {
    let (mut ask, mut wait) = (Vec::new(), Vec::new());
    for name in servers {
        let Some(seen) = world.server(name) else { return gone(name) };
        match lack(name, seen) {
            Lack::Nothing => {}
            Lack::Ask => ask.push(name.clone()),
            Lack::Time(what) => wait.push(what),
            Lack::Person(why) => return Check::Stuck(why),
        }
    }
    if !ask.is_empty() {
        return Check::Act(action(ask));
    }
    if wait.is_empty() { Check::So(None) } else { Check::Wait(wait.join("; ")) }
}
