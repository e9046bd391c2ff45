use super::{
    super::model::{farm, names},
    *,
};

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn told(kind: &Kind, world: &World, survey: &Survey) -> Vec<String> {
    let steps = plan(kind, world, survey).expect("a plan");
    steps.iter().map(|step| step.task.about().what).collect()
}

fn maintain(server: &str, promote: Option<&str>) -> Kind {
    Kind::MaintenanceStart { server: name(server), promote: promote.map(name), remove: false }
}

#[test]
fn w18_maintenance_of_the_manager() {
    let world = farm(&["m", "a", "b"]);
    assert_eq!(
        told(&maintain("m", Some("a")), &world, &Survey::default()),
        ["drain m", "wait until the sessions of m end", "make a manager; m becomes disabled"]
    );
    assert_eq!(
        told(&Kind::MaintenanceFinish { server: name("b") }, &world, &Survey::default()),
        ["sync b", "undrain b"],
        "it is back: nothing is drained"
    );
    let mut world = farm(&["m", "a", "b"]);
    (world.manager, world.me) = (name("a"), name("a"));
    world.servers.get_mut(&name("a")).unwrap().role = Role::Manager;
    world.servers.get_mut(&name("m")).unwrap().role = Role::Disabled;
    assert_eq!(told(&maintain("m", Some("a")), &world, &Survey::default()).len(), 3, "given again at the new manager");
    let mut world = farm(&["m", "a", "b"]);
    world.servers.get_mut(&name("b")).unwrap().drained = true;
    assert_eq!(
        told(&Kind::MaintenanceFinish { server: name("b") }, &world, &Survey::default()),
        ["drain b", "add b as a member", "sync b", "wait until b is complete", "undrain b"]
    );
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let mut world = farm(&["m", "a", "b"]);
    let refused = |kind: &Kind, world: &World| plan(kind, world, &Survey::default()).unwrap_err();
    let PlanRefused::Promote { candidates, .. } = refused(&maintain("m", None), &world) else { panic!() };
    assert_eq!(candidates, "a, b");
    assert!(matches!(refused(&maintain("m", Some("m")), &world), PlanRefused::Successor { .. }));
    assert!(matches!(refused(&maintain("m", Some("x")), &world), PlanRefused::Unknown(_)));
    assert!(matches!(refused(&maintain("a", Some("b")), &world), PlanRefused::NotManager(..)));
    assert!(matches!(refused(&maintain("x", None), &world), PlanRefused::Unknown(_)));
    world.servers.get_mut(&name("a")).unwrap().state = State::Unreachable;
    assert!(matches!(refused(&maintain("m", Some("a")), &world), PlanRefused::Successor { .. }), "m stays in service");
    world.servers.get_mut(&name("a")).unwrap().state = State::InSync;
    world.servers.get_mut(&name("a")).unwrap().candidate = false;
    assert!(matches!(refused(&maintain("m", Some("a")), &world), PlanRefused::Successor { .. }));
    world.servers.get_mut(&name("b")).unwrap().role = Role::Disabled;
    let sync = Kind::Sync { servers: vec![name("b")] };
    assert_eq!(refused(&sync, &world), PlanRefused::Disabled(name("b")), "it would be sent nothing");
    let insists = Insists::default();
    let recover = |new| Kind::RecoverManager { lost: name("m"), new: name(new), remove: false, insists };
    assert!(matches!(refused(&recover("a"), &world), PlanRefused::NotCandidate(..)));
    assert!(matches!(refused(&recover("m"), &world), PlanRefused::Manager(..)));
    let member = Kind::RecoverMember { server: name("m"), remove: false };
    assert!(matches!(refused(&member, &world), PlanRefused::Manager(..)));
}

#[test]
fn w23_those_that_differ_go_in_batches_and_the_equal_ones_are_not_drained() {
    let mut world = farm(&["m", "a", "b", "c", "d", "e", "f", "g"]);
    for disabled in ["f", "g"] {
        world.servers.get_mut(&name(disabled)).unwrap().role = Role::Disabled;
    }
    world.min_serving = 3;
    world.me = name("a");
    let differs = |_: &str| Surveyed::Differs("1.9".to_owned());
    let mut survey = Survey::default();
    survey.members.extend(["b", "c", "d"].map(|n| (name(n), differs(n))));
    survey.members.extend(["e", "f"].map(|n| (name(n), Surveyed::Equal)));
    survey.members.insert(name("g"), differs("g"));
    let insists = Insists::default();
    let kind = Kind::RecoverManager { lost: name("m"), new: name("a"), remove: false, insists };
    // Five servers serve without m, and three must: two at a time.
    assert_eq!(
        told(&kind, &world, &survey),
        [
            "attest that m is isolated",
            "drain m",
            "drain b, c",
            "wait until the sessions of b, c end",
            "make a manager by itself; m becomes disabled",
            "drain m",
            "drain b, c",
            "sync b, c",
            "wait until b, c are complete",
            "undrain b, c",
            "drain d",
            "wait until the sessions of d end",
            "sync d",
            "wait until d is complete",
            "undrain d",
            "sync e"
        ]
    );
}

#[test]
fn w25_a_way_back_drains_before_it_adds_and_needs_no_steps_where_nobody_is_out_of_service() {
    let mut world = farm(&["m", "a", "b"]);
    let removed = |drained, traffic| super::super::Removed { drained, traffic };
    let add = Kind::ServerAdd { server: name("c") };
    let none = [] as [&str; 0];
    world.removed.insert(name("c"), removed(false, Traffic::Unknown));
    assert_eq!(told(&add, &world, &Survey::default()), none, "without balancers the record's change is all");
    world.balancers = true;
    let back = ["add c as a member", "sync c", "wait until c is complete", "undrain c"];
    let drain = ["drain c", "wait until the sessions of c end"];
    assert_eq!(told(&add, &world, &Survey::default()), [&drain[..], &back].concat());
    world.removed.insert(name("c"), removed(true, Traffic::Unknown));
    assert_eq!(told(&add, &world, &Survey::default()), [&drain[..1], &back].concat(), "it was waited for before");
    for server in ["a", "m"] {
        assert_eq!(told(&Kind::ServerEnable { server: name(server) }, &world, &Survey::default()), none);
    }
    world.servers.get_mut(&name("a")).unwrap().role = Role::Disabled;
    let steps = told(&Kind::ServerEnable { server: name("a") }, &world, &Survey::default());
    assert_eq!((steps.len(), steps[2].as_str()), (6, "add a as a member"));
    let replace = |server| Kind::ServerReplace { server: name(server), ttl_ms: 1 };
    let steps = told(&replace("b"), &world, &Survey::default());
    assert_eq!(steps[2], "wait until new hardware has joined as b");
    assert!(matches!(plan(&replace("m"), &world, &Survey::default()), Err(PlanRefused::Manager(..))));
    for kind in [replace("c"), Kind::ServerAdd { server: name("x") }, Kind::Sync { servers: vec![name("x")] }] {
        assert!(matches!(plan(&kind, &world, &Survey::default()), Err(PlanRefused::Unknown(_))), "{kind:?}");
    }
}

#[test]
fn w12_a_sync_drains_those_that_serve_something_else_and_nobody_whose_hashes_are_equal() {
    let mut world = farm(&["m", "a", "b", "c", "d", "e", "f"]);
    let all = Kind::Sync { servers: Vec::new() };
    for server in ["b", "c", "d"] {
        world.servers.get_mut(&name(server)).unwrap().state = State::Drifted;
    }
    assert_eq!(told(&all, &world, &Survey::default()), [] as [&str; 0], "there is no balancer");
    world.balancers = true;
    for seen in world.servers.values_mut() {
        seen.traffic = Traffic::Known { out: false, up: true, sessions: 0 };
    }
    let seen = world.servers[&name("a")].clone();
    world.servers.insert(name("e"), ObservedServer { state: State::Error, drained: true, ..seen.clone() });
    world.servers.insert(name("f"), ObservedServer { state: State::Unreachable, current: false, ..seen });
    let batch = |servers: &str| {
        ["drain {}", "wait until the sessions of {} end", "sync {}", "wait until {} is complete", "undrain {}"]
            .map(|what| what.replace("{}", servers))
            .map(|what| if servers.contains(", ") { what.replace("is complete", "are complete") } else { what })
            .to_vec()
    };
    // Five servers serve, and three must.
    world.min_serving = 3;
    assert_eq!(told(&all, &world, &Survey::default()), [batch("b, c"), batch("d")].concat());
    let named = Kind::Sync { servers: vec![name("a"), name("d")] };
    assert_eq!(told(&named, &world, &Survey::default()), batch("d"));
    world.servers.get_mut(&name("c")).unwrap().traffic = Traffic::Silent("lb1 does not answer".into());
    assert!(matches!(plan(&all, &world, &Survey::default()), Err(PlanRefused::Undrainable(..))));
    assert_eq!(told(&named, &world, &Survey::default()), batch("d"), "it is not asked for");
}

#[test]
fn w12_increments_in_order_are_updates_and_drain_nobody() {
    let mut world = farm(&["m", "a", "b", "c"]);
    world.balancers = true;
    for (server, state, in_order) in
        [("a", State::AwaitingSync, true), ("b", State::Syncing, true), ("c", State::AwaitingSync, false)]
    {
        let seen = world.servers.get_mut(&name(server)).unwrap();
        (seen.state, seen.current, seen.in_order) = (state, false, in_order);
        seen.traffic = Traffic::Known { out: false, up: true, sessions: 0 };
    }
    let all = Kind::Sync { servers: Vec::new() };
    assert_eq!(told(&all, &world, &Survey::default())[0], "drain c");
    assert_eq!(told(&Kind::Sync { servers: names(&["a", "b"]) }, &world, &Survey::default()), [] as [&str; 0]);
    // Its own edits, an error, or a refused revision need a sync.
    for state in [State::Drifted, State::Error, State::Refused] {
        world.servers.get_mut(&name("a")).unwrap().state = state;
        assert_eq!(told(&Kind::Sync { servers: names(&["a"]) }, &world, &Survey::default()).len(), 5, "{state:?}");
    }
}

#[test]
fn w18_nobody_is_drained_for_a_successor_that_does_not_answer_when_it_is_asked() {
    let world = farm(&["m", "a", "b"]);
    let mut survey = Survey::default();
    survey.members.insert(name("a"), Surveyed::Silent("it has not answered for 10 s".into()));
    let refused = plan(&maintain("m", Some("a")), &world, &survey).unwrap_err();
    assert!(refused.to_string().contains("a cannot become manager: it does not answer"), "{refused}");
    assert!(plan(&maintain("m", Some("b")), &world, &survey).is_ok());
}

#[test]
fn two_procedures_do_not_work_on_one_server() {
    let world = farm(&["m", "a", "b", "c"]);
    let steps = |kind: &Kind| plan(kind, &world, &Survey::default()).expect("a plan");
    let kind = maintain("m", Some("a"));
    let mut running = Procedure::new(super::super::Id(4), kind.clone(), steps(&kind), "root".into(), 0);
    for (server, is_free) in [("a", false), ("b", true)] {
        let asked = steps(&maintain(server, None));
        assert_eq!(free(&asked, std::slice::from_ref(&running)).is_ok(), is_free, "{server}");
    }
    running.standing = super::super::Standing::Done;
    assert_eq!(free(&steps(&maintain("a", None)), &[running]), Ok(()));
    // The advice for a stopped procedure names its end. It blocks no server that it has finished with.
    let task = |server: &str| Step::new(Sync(names(&[server])), "");
    let kind = Kind::Sync { servers: Vec::new() };
    let mut stopped = Procedure::new(Id(5), kind, vec![task("a"), task("b")], "root".into(), 0);
    stopped.at = 1;
    let (reason, left, todo) = (String::new(), String::new(), String::new());
    stopped.standing = super::super::Standing::Failed(super::super::Failure { reason, left, todo });
    let stopped = [stopped];
    assert_eq!(free(&steps(&maintain("a", None)), &stopped), Ok(()));
    let refused = free(&steps(&maintain("b", None)), &stopped).unwrap_err();
    assert_eq!(refused.advice().and_then(|advice| advice.next).as_deref(), Some("bellwether procedure abort p5"));
    assert_eq!(names(&["a"]), [name("a")]);
}
