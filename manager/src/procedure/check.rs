//! Whether what a step brings about is so already; if not, what to do or to wait for.

use bellwether_proto::{key::PublicKey, name::ServerName, record::Role, status::State, time::utc};

use super::{Action, Attestation, Fact, Insists, Question, Seen, Task, Traffic, World};

/// How long balancers that only ask `/ready` are given to see that it answers 503, where none is known, in milliseconds.
const CHECKS_MS: u64 = 10_000;

/// The answer of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It is so, and what there is to say of how it came to it.
    So(Option<String>),
    /// This would bring it about.
    Act(Action),
    /// It comes by itself, or its action must not be done yet; what is waited for.
    Wait(String),
    /// A person must answer.
    Ask(Question),
    /// It cannot become so by waiting, and why.
    Stuck(String),
}

/// What a check is told beside the world.
pub struct Since<'a> {
    /// What was attested.
    pub attestations: &'a [Attestation],
    /// When the procedure began, milliseconds since 1970.
    pub started_ms: u64,
    /// When the step began, milliseconds since 1970.
    pub began_ms: u64,
    /// When its action was last begun.
    pub tried_ms: Option<u64>,
    /// Why it did not succeed then, once it has ended.
    pub trouble: Option<&'a str>,
    /// Now.
    pub now_ms: u64,
}

/// Looks whether what `task` brings about is so in `world`.
pub fn check(task: &Task, since: &Since<'_>, world: &World) -> Check {
    match task {
        Task::Attest(fact) if since.attestations.iter().any(|said| said.fact == *fact) => Check::So(None),
        Task::Attest(fact) => Check::Ask(fact.question()),
        Task::Drain(servers) => drain(servers, since, world),
        Task::Quiet(servers) => quiet(servers, since, world),
        Task::HandOver { from, to, remove } => hand_over(from, to, *remove, world),
        Task::Promote { lost, new, remove, insists } => promote(lost, new, *remove, *insists, world),
        Task::Disable(server) => disable(server, world),
        Task::Remove(server) => remove(server, world),
        Task::Add(server) => add(server, world),
        Task::Replace { server, old, ttl_ms } => replace(server, old, *ttl_ms, since, world),
        Task::Sync(servers) => sync(servers, since, world),
        Task::Complete(servers) => complete(servers, since, world),
        Task::Undrain(servers) => undrain(servers, world),
    }
}

fn gone(name: &ServerName) -> Check {
    Check::Stuck(format!("{name} is not in the group any more"))
}

fn drain(servers: &[ServerName], since: &Since<'_>, world: &World) -> Check {
    let not_out: Vec<_> = servers.iter().filter(|name| !world.is_out(name)).collect();
    if not_out.is_empty() {
        let known = servers.iter().any(|name| matches!(world.traffic(name), Some(Traffic::Known { .. })));
        let said = "no balancer of the group has it: nothing is drained there; /ready answers 503";
        return Check::So((!known).then(|| said.to_owned()));
    }
    let isolated =
        |name: &&ServerName| since.attestations.iter().any(|said| said.fact == Fact::Isolated((*name).clone()));
    if not_out.iter().all(isolated) {
        // A person answers for it: what a balancer cannot be told is no reason to wait.
        return match since.trouble {
            None => Check::Act(Action::Drain(servers.to_vec())),
            Some(why) => Check::So(Some(format!("out of the balancers by the attestation only: {why}"))),
        };
    }
    let absent = |name: &&ServerName| match &world.server(name)?.traffic {
        Traffic::Absent(what) => Some(what.clone()),
        Traffic::Unknown | Traffic::Known { .. } | Traffic::Partly { .. } | Traffic::Silent(_) => None,
    };
    if let Some(what) = not_out.iter().find_map(absent) {
        return Check::Stuck(what);
    }
    let serving = world.serving();
    let leaving = serving.iter().filter(|name| not_out.contains(name)).count();
    let left = serving.len() - leaving;
    if leaving > 0 && left < world.min_serving {
        let least = world.min_serving;
        return Check::Wait(format!(
            "{left} would serve without it; at least {least} are to (group set --min-serving)"
        ));
    }
    Check::Act(Action::Drain(servers.to_vec()))
}

fn quiet(servers: &[ServerName], since: &Since<'_>, world: &World) -> Check {
    let waited = since.now_ms.saturating_sub(since.began_ms);
    let patience = world.drain_timeout_ms;
    let mut left = 0;
    let mut unknown = false;
    let mut silent = None;
    for traffic in servers.iter().filter_map(|name| world.traffic(name)) {
        match traffic {
            Traffic::Known { sessions, .. } | Traffic::Partly { sessions } => left += sessions,
            Traffic::Unknown | Traffic::Absent(_) => unknown = true,
            Traffic::Silent(why) => silent = Some(why.clone()),
        }
    }
    if waited >= patience {
        return Check::So(match silent {
            Some(why) => Some(format!("{why}: not known whether sessions are left after {}", seconds(patience))),
            None => (left > 0).then(|| format!("{} left after {}", sessions(left), seconds(patience))),
        });
    }
    if let Some(why) = silent {
        return Check::Wait(why);
    }
    if left > 0 {
        let until = (since.began_ms.saturating_add(patience) / 1_000) as i64;
        return Check::Wait(format!("{} to end, until {} UTC at the latest", sessions(left), utc(until)));
    }
    if unknown && waited < CHECKS_MS {
        return Check::Wait("balancers that ask /ready are given 10 s to see its 503".to_owned());
    }
    Check::So(None)
}

fn sessions(count: u64) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms.div_ceil(1000))
}

/// The one that had the role is to be out of the group, or disabled.
fn put_away(server: &ServerName, remove: bool, world: &World) -> Check {
    if remove { self::remove(server, world) } else { disable(server, world) }
}

fn hand_over(from: &ServerName, to: &ServerName, remove: bool, world: &World) -> Check {
    if world.manager == *to {
        return put_away(from, remove, world);
    }
    if world.manager != *from {
        return Check::Stuck(format!("{} has become manager meanwhile", world.manager));
    }
    let Some(next) = world.server(to) else { return gone(to) };
    if next.role != Role::Member || !next.candidate {
        return Check::Stuck(format!("{to} is not a member that may become manager"));
    }
    match next.state {
        State::InSync if next.current && next.informed => Check::Act(Action::HandOver { to: to.clone(), remove }),
        State::InSync if next.current => Check::Wait(format!("{to} to take over the list of procedures")),
        state if stays(state) => Check::Stuck(because(to, next)),
        _ => Check::Wait(because(to, next)),
    }
}

/// Whether a server in that state does not come to the head by itself, however long it is waited for.
pub(super) fn stays(state: State) -> bool {
    match state {
        State::Error | State::Refused | State::Drifted | State::Left | State::Conflict | State::Superseded => true,
        State::InSync
        | State::GroupChange
        | State::AwaitingSync
        | State::Waiting
        | State::Syncing
        | State::Updating
        | State::Disabled
        | State::Unreachable
        | State::Unknown => false,
    }
}

fn because(name: &ServerName, seen: &Seen) -> String {
    match &seen.reason {
        // Its reason begins with what it did.
        Some(reason) if seen.state == State::Left => format!("{name}: {reason}"),
        Some(reason) => format!("{name} is {}: {reason}", seen.state.word()),
        None => format!("{name} is {}", seen.state.word()),
    }
}

fn promote(lost: &ServerName, new: &ServerName, remove: bool, insists: Insists, world: &World) -> Check {
    if world.manager == *new {
        return put_away(lost, remove, world);
    }
    if world.manager != *lost {
        return Check::Stuck(format!("{} has become manager meanwhile", world.manager));
    }
    Check::Act(Action::Promote { remove, insists })
}

fn disable(server: &ServerName, world: &World) -> Check {
    match world.server(server).map(|seen| seen.role) {
        Some(Role::Disabled) => Check::So(None),
        Some(Role::Member) => Check::Act(Action::Disable(server.clone())),
        Some(Role::Manager) => Check::Stuck(format!("{server} has become manager meanwhile")),
        None => Check::So(Some("it is removed already".to_owned())),
    }
}

fn remove(server: &ServerName, world: &World) -> Check {
    match world.server(server).map(|seen| seen.role) {
        Some(Role::Disabled | Role::Member) => Check::Act(Action::Remove(server.clone())),
        Some(Role::Manager) => Check::Stuck(format!("{server} has become manager meanwhile")),
        None => Check::So(None),
    }
}

fn add(server: &ServerName, world: &World) -> Check {
    match world.server(server).map(|seen| seen.role) {
        Some(Role::Member) => Check::So(None),
        Some(Role::Disabled) => Check::Act(Action::Add(server.clone())),
        Some(Role::Manager) => Check::Stuck(format!("{server} has become manager meanwhile")),
        None if world.removed.contains_key(server) => Check::Act(Action::Add(server.clone())),
        None => Check::Wait(format!("{server} to join with a token: bellwether token create --names {server}")),
    }
}

fn replace(server: &ServerName, old: &PublicKey, ttl_ms: u64, since: &Since<'_>, world: &World) -> Check {
    let Some(seen) = world.server(server) else { return gone(server) };
    if seen.key != *old {
        return Check::So(None);
    }
    if since.now_ms.saturating_sub(since.began_ms) >= ttl_ms {
        return Check::Stuck(format!("no new hardware has joined as {server} while its token was good"));
    }
    Check::Wait(format!("new hardware to join as {server}; there, with its token: bellwether join - --name {server}"))
}

/// What one server of several lacks.
enum Lack {
    Nothing,
    /// Its turn to be asked.
    Ask,
    Time(String),
    Person(String),
}

fn of_each(
    servers: &[ServerName],
    world: &World,
    action: fn(Vec<ServerName>) -> Action,
    lack: impl Fn(&ServerName, &Seen) -> Lack,
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

/// Who was put away meanwhile is sent nothing, and synced when it is brought back; where a procedure needs it complete, the
/// next step says that it is not.
fn sync(servers: &[ServerName], since: &Since<'_>, world: &World) -> Check {
    let member = |name: &&ServerName| world.server(name).is_some_and(|seen| seen.role != Role::Disabled);
    let (there, away): (Vec<_>, Vec<_>) = servers.iter().partition(member);
    let there: Vec<ServerName> = there.into_iter().cloned().collect();
    let synced = of_each(&there, world, Action::Sync, |name, seen| match seen.state {
        State::InSync if seen.current => Lack::Nothing,
        // Asked, and it failed.
        State::Error | State::Refused if since.tried_ms.is_some() => Lack::Person(because(name, seen)),
        // Asked, and tried again by itself when what stands in the way is gone.
        State::Waiting if since.tried_ms.is_some() => Lack::Time(because(name, seen)),
        State::InSync | State::Error | State::Refused | State::Waiting | State::Drifted | State::AwaitingSync => {
            Lack::Ask
        }
        // Superseded: it came back as the manager that it was, and learns that it is not.
        State::Syncing | State::Updating | State::GroupChange | State::Superseded => Lack::Time(because(name, seen)),
        State::Unreachable | State::Unknown => Lack::Time(format!(
            "{}; where it forgot the group (leave): bellwether token create --names {name}; with that token, there: bellwether join",
            because(name, seen)
        )),
        State::Disabled | State::Left | State::Conflict => Lack::Person(because(name, seen)),
    });
    match synced {
        Check::So(None) => {
            let kept = servers.iter().filter_map(|name| kept(name, world.server(name)?, since));
            let away = away.iter().map(|name| format!("{name} put away meanwhile; synced when brought back"));
            let said: Vec<String> = kept.chain(away).collect();
            Check::So((!said.is_empty()).then(|| said.join("; ")))
        }
        other => other,
    }
}

/// Where a server keeps what it had and the manager lacks, since the procedure began.
fn kept(name: &ServerName, seen: &Seen, since: &Since<'_>) -> Option<String> {
    let (_, point) = seen.kept.as_ref().filter(|(when, _)| *when >= since.started_ms)?;
    Some(format!("what {name} had and no other is kept there: {point} (bellwether drift show {name})"))
}

fn complete(servers: &[ServerName], since: &Since<'_>, world: &World) -> Check {
    of_each(servers, world, Action::Verify, |name, seen| match seen.state {
        // It has become the manager meanwhile: what it holds is the truth, and nobody hashes it.
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

fn undrain(servers: &[ServerName], world: &World) -> Check {
    of_each(servers, world, Action::Undrain, |name, seen| match &seen.traffic {
        _ if seen.drained => Lack::Ask,
        Traffic::Unknown | Traffic::Absent(_) => Lack::Nothing,
        Traffic::Known { out: true, .. } | Traffic::Partly { .. } => Lack::Ask,
        Traffic::Known { out: false, up: true, .. } => Lack::Nothing,
        Traffic::Known { out: false, up: false, .. } => Lack::Time(format!("the balancer's checks of {name} to pass")),
        Traffic::Silent(why) => Lack::Time(why.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::model::{farm, names},
        *,
    };

    fn since(began_ms: u64, now_ms: u64) -> Since<'static> {
        Since { attestations: &[], started_ms: 0, began_ms, tried_ms: None, trouble: None, now_ms }
    }

    fn at(task: &Task, world: &World) -> Check {
        check(task, &since(0, 0), world)
    }

    #[test]
    fn nobody_is_drained_below_the_least_that_are_to_serve() {
        let mut world = farm(&["m", "a", "b"]);
        let task = Task::Drain(names(&["a"]));
        world.min_serving = 2;
        assert_eq!(at(&task, &world), Check::Act(Action::Drain(names(&["a"]))));
        world.min_serving = 3;
        assert!(matches!(at(&task, &world), Check::Wait(_)));
        // One that takes no requests anyway is drained whatever the others do.
        world.servers.get_mut(&names(&["a"])[0]).unwrap().state = State::Unreachable;
        assert!(matches!(at(&task, &world), Check::Act(_)));
    }

    #[test]
    fn w12_a_server_is_complete_when_its_bytes_were_hashed_after_the_step_began() {
        let mut world = farm(&["m", "a"]);
        let a = names(&["a"]);
        let task = Task::Complete(a.clone());
        let server = world.servers.get_mut(&a[0]).unwrap();
        server.equal_ms = Some(99);
        assert_eq!(check(&task, &since(100, 200), &world), Check::Act(Action::Verify(a.clone())));
        world.servers.get_mut(&a[0]).unwrap().equal_ms = Some(100);
        assert_eq!(check(&task, &since(100, 200), &world), Check::So(None));
        for state in [State::AwaitingSync, State::Syncing, State::Updating, State::Unreachable, State::Unknown] {
            world.servers.get_mut(&a[0]).unwrap().state = state;
            assert!(matches!(check(&task, &since(100, 200), &world), Check::Wait(_)), "{state:?}");
        }
        for state in [State::Error, State::Refused, State::Drifted, State::Disabled] {
            world.servers.get_mut(&a[0]).unwrap().state = state;
            assert!(matches!(check(&task, &since(100, 200), &world), Check::Stuck(_)), "{state:?}");
        }
    }

    #[test]
    fn w20_a_server_that_has_become_the_manager_meanwhile_is_complete() {
        let world = farm(&["m", "a"]);
        assert_eq!(check(&Task::Complete(names(&["m"])), &since(100, 200), &world), Check::So(None));
    }

    #[test]
    fn sessions_are_waited_for_until_the_timeout_and_what_is_left_is_said() {
        let mut world = farm(&["m", "a"]);
        let a = names(&["a"]);
        let task = Task::Quiet(a.clone());
        world.drain_timeout_ms = 30_000;
        let mut with = |traffic| {
            world.servers.get_mut(&a[0]).unwrap().traffic = traffic;
            [0, 10_000, 30_000].map(|now| check(&task, &since(0, now), &world))
        };
        let [begin, later, end] = with(Traffic::Known { out: true, up: true, sessions: 3 });
        assert!(matches!((begin, later), (Check::Wait(_), Check::Wait(_))));
        assert_eq!(end, Check::So(Some("3 sessions left after 30 s".to_owned())));
        let [begin, ..] = with(Traffic::Known { out: true, up: true, sessions: 0 });
        assert_eq!(begin, Check::So(None));
        let [begin, later, _] = with(Traffic::Unknown);
        assert!(matches!((begin, later), (Check::Wait(_), Check::So(None))));
        let [_, later, end] = with(Traffic::Silent("lb does not answer".to_owned()));
        assert!(matches!((later, end), (Check::Wait(_), Check::So(Some(_)))));
    }

    #[test]
    fn what_was_not_done_at_every_balancer_is_done_again() {
        let mut world = farm(&["m", "a", "b"]);
        let a = names(&["a"]);
        let server = world.servers.get_mut(&a[0]).unwrap();
        server.traffic = Traffic::Partly { sessions: 1 };
        assert_eq!(at(&Task::Undrain(a.clone()), &world), Check::Act(Action::Undrain(a.clone())));
        assert_eq!(at(&Task::Drain(a.clone()), &world), Check::Act(Action::Drain(a.clone())));
        assert!(matches!(at(&Task::Quiet(a), &world), Check::Wait(_)));
    }

    #[test]
    fn w24_who_was_put_away_meanwhile_keeps_no_recovery_from_its_end() {
        let mut world = farm(&["m", "a", "b"]);
        let both = names(&["a", "b"]);
        let away = world.servers.get_mut(&both[1]).unwrap();
        (away.role, away.state) = (Role::Disabled, State::Disabled);
        assert!(matches!(at(&Task::Sync(both.clone()), &world), Check::So(Some(_))));
        assert!(matches!(at(&Task::Complete(both.clone()), &world), Check::Stuck(_)), "it is not complete");
        world.servers.remove(&both[1]);
        assert!(matches!(at(&Task::Sync(both), &world), Check::So(Some(_))));
    }

    #[test]
    fn a_balancer_that_does_not_answer_drains_nothing() {
        let mut world = farm(&["m", "a"]);
        let a = names(&["a"]);
        let server = world.servers.get_mut(&a[0]).unwrap();
        server.drained = true;
        server.traffic = Traffic::Silent("lb does not answer".to_owned());
        assert!(matches!(at(&Task::Drain(a.clone()), &world), Check::Act(_) | Check::Wait(_)));
        world.servers.get_mut(&a[0]).unwrap().drained = false;
        assert!(matches!(at(&Task::Undrain(a), &world), Check::Wait(_)));
    }

    #[test]
    fn a_server_that_no_balancer_has_is_a_mistake_unless_somebody_answers_for_it() {
        let mut world = farm(&["m", "a"]);
        let a = names(&["a"]);
        world.servers.get_mut(&a[0]).unwrap().traffic = Traffic::Absent("no balancer has a".to_owned());
        let task = Task::Drain(a.clone());
        assert!(matches!(at(&task, &world), Check::Stuck(_)));
        let said =
            Attestation { fact: Fact::Isolated(a[0].clone()), text: "off".into(), by: "root".into(), time_ms: 0 };
        let attested = |trouble| Since { attestations: std::slice::from_ref(&said), trouble, ..since(0, 0) };
        assert!(matches!(check(&task, &attested(None), &world), Check::Act(_)), "as far as it goes");
        assert!(matches!(check(&task, &attested(Some("no such server")), &world), Check::So(Some(_))));
    }

    #[test]
    fn w18_the_role_goes_only_to_one_that_has_everything() {
        let mut world = farm(&["m", "a"]);
        let (m, a) = (names(&["m"])[0].clone(), names(&["a"])[0].clone());
        let task = Task::HandOver { from: m.clone(), to: a.clone(), remove: false };
        assert!(matches!(at(&task, &world), Check::Act(Action::HandOver { .. })));
        world.servers.get_mut(&a).unwrap().informed = false;
        assert!(matches!(at(&task, &world), Check::Wait(_)), "it would not know what is unfinished");
        world.servers.get_mut(&a).unwrap().informed = true;
        world.servers.get_mut(&a).unwrap().current = false;
        assert!(matches!(at(&task, &world), Check::Wait(_)));
        world.servers.get_mut(&a).unwrap().candidate = false;
        assert!(matches!(at(&task, &world), Check::Stuck(_)));
        world.manager = a.clone();
        world.servers.get_mut(&a).unwrap().role = Role::Manager;
        world.servers.get_mut(&m).unwrap().role = Role::Disabled;
        assert_eq!(at(&task, &world), Check::So(None));
        world.manager = "x".parse().unwrap();
        assert!(matches!(at(&task, &world), Check::Stuck(_)));
    }
}
