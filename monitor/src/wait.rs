//! Whether what a script waits for is there.

use bellwether_proto::{
    name::ServerName,
    record::Role,
    revision::Number,
    status::{FarmStatus, ServerStatus, State},
};

use crate::text;

/// What is to be told to the one who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet; for whom, in one line.
    Waiting(String),
    /// All are there.
    Done,
    /// Those named cannot get there by themselves, and why; all the others are there.
    Partly(Vec<(ServerName, String)>),
}

/// Where one server is on its way.
enum Way {
    There,
    Coming(String),
    Stuck(String),
}

/// Whether `servers` (none: all members that are not disabled) are in sync at `head` or after it.
///
/// A server that answers and holds a later revision is there, too: it had `head`, or what replaced it.
pub fn reached(status: &FarmStatus, head: Number, servers: Option<&[ServerName]>) -> Verdict {
    let asked: Vec<(ServerName, Way)> = match servers {
        Some(names) => names.iter().map(|name| (name.clone(), way_of(status, head, name))).collect(),
        None => {
            let members = status.servers.iter().filter(|server| server.role == Role::Member);
            members.map(|server| (server.name.clone(), way(server, head))).collect()
        }
    };
    let mut coming = Vec::new();
    let mut stuck = Vec::new();
    for (name, way) in asked {
        match way {
            Way::There => {}
            Way::Coming(how) => coming.push(format!("{name}: {how}")),
            Way::Stuck(why) => stuck.push((name, why)),
        }
    }
    if status.head.is_none_or(|newest| newest < head) {
        let newest = status.head.map_or_else(|| "nothing".to_owned(), |newest| newest.to_string());
        return Verdict::Waiting(format!("{head} is not published yet, the head is {newest}"));
    }
    if !coming.is_empty() {
        return Verdict::Waiting(coming.join("; "));
    }
    if stuck.is_empty() { Verdict::Done } else { Verdict::Partly(stuck) }
}

fn way_of(status: &FarmStatus, head: Number, name: &ServerName) -> Way {
    match status.servers.iter().find(|server| server.name == *name) {
        Some(server) => way(server, head),
        None => Way::Stuck("not in the group: `bellwether server list` names those that are".to_owned()),
    }
}

fn way(server: &ServerStatus, head: Number) -> Way {
    let why = || server.reason.clone().unwrap_or_else(|| server.state.word().to_owned());
    let there = server.revision.is_some_and(|at| at >= head);
    match server.state {
        // Its bytes were hashed at a revision that is late enough; that more is on its way changes nothing.
        State::InSync
        | State::Warning
        | State::GroupChange
        | State::Updating
        | State::AwaitingSync
        | State::Refused
        | State::Waiting
            if there =>
        {
            Way::There
        }
        State::InSync
        | State::Warning
        | State::GroupChange
        | State::Updating
        | State::AwaitingSync
        | State::Syncing => {
            let far = server.progress.as_ref().map(|progress| format!(", {}", text::progress(progress)));
            Way::Coming(format!("{}{}", server.state.word(), far.unwrap_or_default()))
        }
        // By itself, as soon as what stands in the way is gone.
        State::Unreachable | State::Unknown | State::Waiting => Way::Coming(why()),
        State::Refused | State::Error | State::Superseded | State::Conflict | State::Drifted | State::Left => {
            Way::Stuck(why())
        }
        State::Disabled => Way::Stuck(format!("disabled, sent nothing: `bellwether server enable {}`", server.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{farm, number, server};

    fn verdict(states: &[(State, u64)], asked: u64) -> Verdict {
        let servers = states.iter().zip('a'..).map(|((state, at), name)| server(&name.to_string(), *state, *at));
        reached(&farm(servers.collect()), number(asked), None)
    }

    fn stuck(verdict: &Verdict) -> Vec<&str> {
        match verdict {
            Verdict::Partly(servers) => servers.iter().map(|(name, _)| name.as_str()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn done_when_every_member_is_there() {
        assert_eq!(verdict(&[(State::InSync, 42), (State::InSync, 42)], 42), Verdict::Done);
        assert_eq!(verdict(&[], 42), Verdict::Done, "a group without members");
        assert_eq!(verdict(&[(State::InSync, 42), (State::Disabled, 3)], 42), Verdict::Done);
    }

    #[test]
    fn a_later_revision_will_do() {
        for state in [State::InSync, State::Updating, State::AwaitingSync, State::Refused, State::Waiting] {
            assert_eq!(verdict(&[(state, 41)], 41), Verdict::Done, "{state:?} at 41, asked for 41 of 42");
        }
        assert!(matches!(verdict(&[(State::Syncing, 41)], 41), Verdict::Waiting(_)), "a sync is out of service");
    }

    #[test]
    fn waits_for_what_comes_by_itself() {
        use State::{AwaitingSync, Syncing, Unknown, Unreachable, Updating, Waiting};
        for state in [Updating, Syncing, AwaitingSync, Unreachable, Unknown, Waiting] {
            let verdict = verdict(&[(State::InSync, 42), (state, 41), (State::Error, 41)], 42);
            let Verdict::Waiting(whom) = verdict else { panic!("{state:?}: {verdict:?}") };
            assert!(whom.starts_with("b: "), "{whom}");
        }
    }

    #[test]
    fn partly_when_the_rest_is_stuck() {
        for state in [State::Error, State::Refused, State::Drifted] {
            let verdict = verdict(&[(State::InSync, 42), (state, 41)], 42);
            assert_eq!(stuck(&verdict), ["b"], "{state:?}");
        }
    }

    #[test]
    fn a_revision_that_is_not_there_yet_is_waited_for() {
        let verdict = verdict(&[(State::Error, 42)], 43);
        assert_eq!(verdict, Verdict::Waiting("1.43 is not published yet, the head is 1.42".into()));
    }

    #[test]
    fn only_those_that_were_asked_for_count() {
        let status =
            farm(vec![server("a", State::InSync, 42), server("b", State::Error, 1), server("c", State::Disabled, 1)]);
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<ServerName>>();
        assert_eq!(reached(&status, number(42), Some(&names(&["a"]))), Verdict::Done);
        assert_eq!(stuck(&reached(&status, number(42), Some(&names(&["a", "b", "c", "x"])))), ["b", "c", "x"]);
    }
}
