//! Whether a script's wait is over.

use bellwether_proto::{
    name::ServerName,
    record::Role,
    revision::Number,
    status::{FarmStatus, ProcedureState, RolloutState, ServerStatus, State},
};

use crate::text;

/// The answer to a waiting script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet; the servers that are missing, in one line.
    Waiting(String),
    /// All servers are there.
    Done,
    /// These servers are not there, for these reasons, and all others are. At least one of them gets there only when something
    /// outside of this farm changes: it does not answer, or an obstacle has to pass.
    Stalled(Vec<(ServerName, String)>),
    /// These servers cannot get there by themselves, for these reasons; all others are there.
    Partly(Vec<(ServerName, String)>),
    /// The rollout of the revision was stopped, or the revision was taken back, for this reason.
    Stopped(String),
}

/// The progress of one server.
enum Way {
    There,
    Coming(String),
    /// When something outside changes.
    Stalled(String),
    Stuck(String),
}

/// Whether `servers` (none: all members that are not disabled) are in sync at `head` or after it.
///
/// A server that answers and holds a later revision counts, too: it had `head`, or its replacement.
pub fn reached(status: &FarmStatus, head: Number, servers: Option<&[ServerName]>) -> Verdict {
    // A manager whose own service fails is no good end of a wait.
    let members = |server: &&ServerStatus| {
        server.role == Role::Member || (server.role == Role::Manager && server.state == State::Error)
    };
    judge(status, head, servers, members, |server, head| way(server, head, status.head))
}

/// Whether `servers` (none: the manager and all members that are not disabled) are in sync at `head` or after it, and
/// in service: ready, and not drained.
pub fn serving(status: &FarmStatus, head: Number, servers: Option<&[ServerName]>) -> Verdict {
    let enabled = |server: &&ServerStatus| server.role != Role::Disabled;
    judge(status, head, servers, enabled, |server, head| match way(server, head, status.head) {
        Way::There if server.drained => drained(status, server),
        way => way,
    })
}

/// The progress of a drained server: a procedure brings it back, or it is stuck.
fn drained(status: &FarmStatus, server: &ServerStatus) -> Way {
    let at_work = |state| matches!(state, ProcedureState::Running | ProcedureState::Waiting | ProcedureState::Blocked);
    let mut procedures = status.procedures.iter().filter(|procedure| procedure.servers.contains(&server.name));
    match procedures.next() {
        Some(by) if at_work(by.state) => Way::Coming(format!("drained, {}: {}", by.id, by.what)),
        Some(by) => {
            Way::Stuck(format!("drained, and {} {}: `bellwether procedure show {}`", by.id, stands(by.state), by.id))
        }
        None => Way::Stuck(format!("drained: `bellwether maintenance finish {}` at the manager", server.name)),
    }
}

fn stands(state: ProcedureState) -> &'static str {
    match state {
        ProcedureState::Stopped => "has stopped",
        ProcedureState::Asks => "asks a person",
        ProcedureState::Running | ProcedureState::Waiting | ProcedureState::Blocked => "is under way",
    }
}

fn judge(
    status: &FarmStatus,
    head: Number,
    servers: Option<&[ServerName]>,
    meant: impl Fn(&&ServerStatus) -> bool,
    way: impl Fn(&ServerStatus, Number) -> Way,
) -> Verdict {
    let unknown = || Way::Stuck("not in the group: `bellwether server list` names those that are".to_owned());
    // After the manager fell silent, its last report says nothing of the present.
    let way = |server: &ServerStatus, head| match status.told_ms {
        Some(_) if server.name != status.observer => {
            Way::Coming(format!("not known here; the manager, {}, does not answer", status.manager))
        }
        Some(_) | None => way(server, head),
    };
    let way_of = |name: &ServerName| {
        let server = status.servers.iter().find(|server| server.name == *name);
        (name.clone(), server.map_or_else(unknown, |server| way(server, head)))
    };
    let asked: Vec<(ServerName, Way)> = match servers {
        Some(names) => names.iter().map(way_of).collect(),
        None => status.servers.iter().filter(meant).map(|server| (server.name.clone(), way(server, head))).collect(),
    };
    if servers.is_none() && status.observer != status.manager {
        let manager = &status.manager;
        return Verdict::Waiting(format!(
            "the manager, {manager}, does not answer: the other servers are not known here"
        ));
    }
    let (mut coming, mut stalled, mut stuck) = (Vec::new(), Vec::new(), Vec::new());
    for (name, way) in asked {
        match way {
            Way::There => {}
            Way::Coming(how) => coming.push(format!("{name}: {how}")),
            Way::Stalled(why) => stalled.push((name, why)),
            Way::Stuck(why) => stuck.push((name, why)),
        }
    }
    if status.head.is_none_or(|newest| newest < head) {
        let newest = status.head.map_or_else(|| "nothing".to_owned(), |newest| newest.to_string());
        return Verdict::Waiting(format!("{head} is not published yet, the head is {newest}"));
    }
    if let Some(why) = taken_back(status, head) {
        return Verdict::Stopped(why);
    }
    if (!coming.is_empty() || !stalled.is_empty() || !stuck.is_empty())
        && let Some(why) = stopped(status, head)
    {
        return Verdict::Stopped(why);
    }
    if !coming.is_empty() {
        coming.extend(stalled.iter().map(|(name, why)| format!("{name}: {why}")));
        return Verdict::Waiting(coming.join("; "));
    }
    if !stalled.is_empty() {
        stalled.extend(stuck);
        return Verdict::Stalled(stalled);
    }
    if stuck.is_empty() { Verdict::Done } else { Verdict::Partly(stuck) }
}

/// The reason why the rollout of `head` is stopped.
fn stopped(status: &FarmStatus, head: Number) -> Option<String> {
    let rollout = status.rollout.as_ref().filter(|rollout| rollout.state == RolloutState::Stopped)?;
    let next = rollout.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
    let reason = rollout.reason.as_deref().unwrap_or_default();
    (rollout.revision == head).then(|| format!("the rollout of {head} is stopped: {reason}{next}"))
}

/// The reason why `head` was taken back.
fn taken_back(status: &FarmStatus, head: Number) -> Option<String> {
    let rollout = status.rollout.as_ref().filter(|rollout| rollout.taken_back == Some(head))?;
    let reason = rollout.reason.as_deref().unwrap_or_default();
    Some(format!("{} has the content from before {head}: {reason}", rollout.revision))
}

/// `newest`: the head. A server that holds it and refuses it has refused a sync.
fn way(server: &ServerStatus, head: Number, newest: Option<Number>) -> Way {
    let why = || server.reason.clone().unwrap_or_else(|| server.state.word().to_owned());
    let there = server.revision.is_some_and(|at| at >= head);
    match server.state {
        // The server's bytes were hashed at this or a later revision; a change on its way does not matter.
        State::InSync | State::GroupChange | State::Updating | State::AwaitingSync if there => Way::There,
        // A later revision is refused.
        State::Refused | State::Waiting if there && server.revision < newest => Way::There,
        State::InSync | State::GroupChange | State::Updating | State::AwaitingSync | State::Syncing => {
            let far = server.progress.as_ref().map(|progress| format!(", {}", text::progress(progress)));
            Way::Coming(format!("{}{}", server.state.word(), far.unwrap_or_default()))
        }
        // The server gets there by itself, when the obstacle is gone.
        State::Unreachable | State::Unknown | State::Waiting => Way::Stalled(why()),
        State::Refused | State::Error | State::Superseded | State::Conflict | State::Drifted | State::Left => {
            Way::Stuck(why())
        }
        State::Disabled => Way::Stuck(format!("disabled, sent nothing: `bellwether server enable {}`", server.name)),
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::status::RolloutStatus;

    use super::*;
    use crate::table::tests::{farm, number, procedure, rollout, server};

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
        assert!(
            matches!(verdict(&[(State::Waiting, 42)], 42), Verdict::Stalled(_)),
            "a sync to the head that it holds"
        );
        assert_eq!(stuck(&verdict(&[(State::Refused, 42)], 42)), ["a"]);
    }

    #[test]
    fn waits_for_what_comes_by_itself() {
        use State::{AwaitingSync, Syncing, Unknown, Unreachable, Updating, Waiting};
        for state in [Updating, Syncing, AwaitingSync] {
            let verdict = verdict(&[(State::InSync, 42), (state, 41), (State::Error, 41)], 42);
            let Verdict::Waiting(whom) = verdict else { panic!("{state:?}: {verdict:?}") };
            assert!(whom.starts_with("b: "), "{whom}");
        }
        for state in [Unreachable, Unknown, Waiting] {
            let states = [(State::InSync, 42), (state, 41), (State::Error, 41)];
            let Verdict::Stalled(whom) = verdict(&states, 42) else { panic!("{state:?}") };
            assert_eq!(whom.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "c"], "{state:?}");
            let states = [(Updating, 41), (state, 41)];
            let Verdict::Waiting(whom) = verdict(&states, 42) else { panic!("{state:?}: something moves") };
            assert!(whom.contains("b: "), "all that is waited for is named: {whom}");
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
    fn what_the_manager_said_before_is_not_what_is() {
        let names = ["a", "b"].map(|name| name.parse().unwrap());
        let mut status = farm(vec![server("a", State::InSync, 42), server("b", State::InSync, 42)]);
        (status.observer, status.told_ms) = ("a".parse().unwrap(), Some(1));
        assert_eq!(reached(&status, number(42), Some(&names[..1])), Verdict::Done, "itself it knows");
        assert!(
            matches!(reached(&status, number(42), Some(&names)), Verdict::Waiting(whom) if whom.starts_with("b: "))
        );
    }

    #[test]
    fn w15_all_servers_are_known_at_the_manager_only() {
        let mut status = farm(vec![server("a", State::InSync, 42), server("b", State::InSync, 42)]);
        assert_eq!(reached(&status, number(42), None), Verdict::Done);
        status.observer = "a".parse().unwrap();
        for judge in [reached, serving] {
            let Verdict::Waiting(why) = judge(&status, number(42), None) else { panic!("a knows of itself only") };
            assert!(why.contains("does not answer"), "{why}");
        }
        assert_eq!(reached(&status, number(42), Some(&["a".parse().unwrap()])), Verdict::Done, "itself it knows");
    }

    #[test]
    fn a_stopped_rollout_ends_the_wait_with_its_reason() {
        let members = vec![server("a", State::InSync, 42), server("b", State::AwaitingSync, 41)];
        let mut status = FarmStatus { rollout: Some(rollout(RolloutState::Running)), ..farm(members) };
        assert!(matches!(reached(&status, number(42), None), Verdict::Waiting(_)));
        status.rollout = Some(rollout(RolloutState::Stopped));
        let Verdict::Stopped(why) = reached(&status, number(42), None) else { panic!("it is stopped") };
        assert_eq!(why, "the rollout of 1.42 is stopped: web3 failed; next: bellwether rollout continue");
        assert_eq!(reached(&status, number(42), Some(&["a".parse().unwrap()])), Verdict::Done, "a has it");
        assert_eq!(reached(&status, number(41), None), Verdict::Done, "an earlier revision");
        let back = RolloutStatus { taken_back: Some(number(41)), ..rollout(RolloutState::TakenBack) };
        let status = FarmStatus { rollout: Some(back), ..farm(vec![server("a", State::InSync, 42)]) };
        assert!(
            matches!(reached(&status, number(41), None), Verdict::Stopped(why) if why.contains("from before 1.41"))
        );
        assert_eq!(reached(&status, number(42), None), Verdict::Done);
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

    #[test]
    fn w12_in_service_is_more_than_in_sync() {
        let drained = ServerStatus { drained: true, ..server("b", State::InSync, 42) };
        let mut status = farm(vec![server("a", State::InSync, 42), drained]);
        assert_eq!(reached(&status, number(42), None), Verdict::Done);
        assert_eq!(stuck(&serving(&status, number(42), None)), ["b"]);
        assert_eq!(serving(&status, number(42), Some(&["a".parse().unwrap()])), Verdict::Done);
        // A procedure brings the server back, waits for a person, or has stopped.
        for (state, comes) in [
            (ProcedureState::Running, true),
            (ProcedureState::Waiting, true),
            (ProcedureState::Blocked, true),
            (ProcedureState::Asks, false),
            (ProcedureState::Stopped, false),
        ] {
            status.procedures = vec![procedure(state, "b")];
            let verdict = serving(&status, number(42), None);
            assert_eq!(matches!(verdict, Verdict::Waiting(_)), comes, "{state:?}: {verdict:?}");
        }
        status.procedures.clear();
        status.servers[1].drained = false;
        assert_eq!(serving(&status, number(42), None), Verdict::Done);
        // The manager serves, too.
        status.servers[0].drained = true;
        status.servers[0].role = Role::Manager;
        assert_eq!(reached(&status, number(42), None), Verdict::Done);
        assert_eq!(stuck(&serving(&status, number(42), None)), ["a"]);
    }
}
