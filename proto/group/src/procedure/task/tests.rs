use super::{
    super::model::{farm, names},
    *,
};

fn since(began_ms: u64, now_ms: u64) -> Since<'static> {
    Since { attestations: &[], started_ms: 0, began_ms, tried_ms: None, trouble: None, now_ms }
}

fn at(task: &dyn TaskKind, world: &World) -> Check {
    task.check(&since(0, 0), world)
}

#[test]
fn nobody_is_drained_below_the_least_that_are_to_serve() {
    let mut world = farm(&["m", "a", "b"]);
    let task = Drain(names(&["a"]));
    world.min_serving = 2;
    assert_eq!(at(&task, &world), Check::Act(Action::Drain(names(&["a"]))));
    world.min_serving = 3;
    assert!(matches!(at(&task, &world), Check::Wait(_)));
    // A server that takes no requests is drained in any case.
    world.servers.get_mut(&names(&["a"])[0]).unwrap().state = State::Unreachable;
    assert!(matches!(at(&task, &world), Check::Act(_)));
}

#[test]
fn w12_a_server_is_complete_when_its_bytes_were_hashed_after_the_step_began() {
    let mut world = farm(&["m", "a"]);
    let a = names(&["a"]);
    let task = Complete(a.clone());
    let server = world.servers.get_mut(&a[0]).unwrap();
    server.equal_ms = Some(99);
    assert_eq!(task.check(&since(100, 200), &world), Check::Act(Action::Verify(a.clone())));
    world.servers.get_mut(&a[0]).unwrap().equal_ms = Some(100);
    assert_eq!(task.check(&since(100, 200), &world), Check::So(None));
    for state in [State::AwaitingSync, State::Syncing, State::Updating, State::Unreachable, State::Unknown] {
        world.servers.get_mut(&a[0]).unwrap().state = state;
        assert!(matches!(task.check(&since(100, 200), &world), Check::Wait(_)), "{state:?}");
    }
    for state in [State::Error, State::Refused, State::Drifted, State::Disabled] {
        world.servers.get_mut(&a[0]).unwrap().state = state;
        assert!(matches!(task.check(&since(100, 200), &world), Check::Stuck(_)), "{state:?}");
    }
}

#[test]
fn w20_a_server_that_has_become_the_manager_meanwhile_is_complete() {
    let world = farm(&["m", "a"]);
    assert_eq!(Complete(names(&["m"])).check(&since(100, 200), &world), Check::So(None));
}

#[test]
fn sessions_are_waited_for_until_the_timeout_and_what_is_left_is_said() {
    let mut world = farm(&["m", "a"]);
    let a = names(&["a"]);
    let task = Quiet(a.clone());
    world.drain_timeout_ms = 30_000;
    let mut with = |traffic| {
        world.servers.get_mut(&a[0]).unwrap().traffic = traffic;
        [0, 10_000, 30_000].map(|now| task.check(&since(0, now), &world))
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
    assert_eq!(at(&Undrain(a.clone()), &world), Check::Act(Action::Undrain(a.clone())));
    assert_eq!(at(&Drain(a.clone()), &world), Check::Act(Action::Drain(a.clone())));
    assert!(matches!(at(&Quiet(a), &world), Check::Wait(_)));
}

#[test]
fn w24_who_was_put_away_meanwhile_keeps_no_recovery_from_its_end() {
    let mut world = farm(&["m", "a", "b"]);
    let both = names(&["a", "b"]);
    let away = world.servers.get_mut(&both[1]).unwrap();
    (away.role, away.state) = (Role::Disabled, State::Disabled);
    assert!(matches!(at(&Sync(both.clone()), &world), Check::So(Some(_))));
    assert!(matches!(at(&Complete(both.clone()), &world), Check::Stuck(_)), "it is not complete");
    world.servers.remove(&both[1]);
    assert!(matches!(at(&Sync(both), &world), Check::So(Some(_))));
}

#[test]
fn a_balancer_that_does_not_answer_drains_nothing() {
    let mut world = farm(&["m", "a"]);
    let a = names(&["a"]);
    let server = world.servers.get_mut(&a[0]).unwrap();
    server.drained = true;
    server.traffic = Traffic::Silent("lb does not answer".to_owned());
    assert!(matches!(at(&Drain(a.clone()), &world), Check::Act(_) | Check::Wait(_)));
    world.servers.get_mut(&a[0]).unwrap().drained = false;
    assert!(matches!(at(&Undrain(a), &world), Check::Wait(_)));
}

#[test]
fn a_server_that_no_balancer_has_is_a_mistake_unless_somebody_answers_for_it() {
    let mut world = farm(&["m", "a"]);
    let a = names(&["a"]);
    world.servers.get_mut(&a[0]).unwrap().traffic = Traffic::Absent("no balancer has a".to_owned());
    let task = Drain(a.clone());
    assert!(matches!(at(&task, &world), Check::Stuck(_)));
    let said = Attestation { fact: Fact::Isolated(a[0].clone()), text: "off".into(), by: "root".into(), time_ms: 0 };
    let attested = |trouble| Since { attestations: std::slice::from_ref(&said), trouble, ..since(0, 0) };
    assert!(matches!(task.check(&attested(None), &world), Check::Act(_)), "as far as it goes");
    assert!(matches!(task.check(&attested(Some("no such server")), &world), Check::So(Some(_))));
}

#[test]
fn w18_the_role_goes_only_to_one_that_has_everything() {
    let mut world = farm(&["m", "a"]);
    let (m, a) = (names(&["m"])[0].clone(), names(&["a"])[0].clone());
    let task = HandOver { from: m.clone(), to: a.clone(), remove: false };
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
