//! A small farm for tests: the effects of the actions of procedures, and crashes at any point.

use std::collections::BTreeMap;

use bellwether_proto::{key::PublicKey, name::ServerName, record::Role, status::State};
use proptest::prelude::*;

use super::*;
use crate::edits::RecordEdit;

pub(super) fn names(names: &[&str]) -> Vec<ServerName> {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

/// A key that is unique for its number.
pub(super) fn key(number: u8) -> PublicKey {
    PublicKey::try_from(&[number; 32][..]).expect("a key")
}

fn seen(role: Role) -> ObservedServer {
    ObservedServer {
        key: key(1),
        role,
        candidate: true,
        drained: false,
        state: State::InSync,
        reason: None,
        current: true,
        in_order: false,
        kept: None,
        equal_ms: None,
        traffic: Traffic::Unknown,
        informed: true,
    }
}

/// A farm that is all in sync, with no drained server and no balancer; the first server is the manager.
pub(super) fn farm(servers: &[&str]) -> World {
    let role = |at: usize| if at == 0 { Role::Manager } else { Role::Member };
    let all = names(servers);
    World {
        me: all[0].clone(),
        manager: all[0].clone(),
        servers: all.into_iter().enumerate().map(|(at, name)| (name, seen(role(at)))).collect(),
        removed: BTreeMap::new(),
        balancers: false,
        min_serving: 1,
        drain_timeout_ms: 5_000,
    }
}

/// A farm behind a balancer, with all automatic events.
#[derive(Clone)]
struct Model {
    world: World,
    /// The saved procedure of each server that may become manager.
    saved: BTreeMap<ServerName, Procedure>,
    now_ms: u64,
    /// Servers that were ever synced while they took requests.
    synced_in_service: Vec<ServerName>,
    /// Servers that became members while they took requests.
    added_in_service: Vec<ServerName>,
    /// The smallest number of servers that ever served, not counting lost ones.
    fewest: usize,
}

impl Model {
    fn new(servers: &[&str]) -> Self {
        let mut world = farm(servers);
        world.balancers = true;
        for seen in world.servers.values_mut() {
            seen.traffic = Traffic::Known { out: false, up: true, sessions: 2 };
        }
        let fewest = world.servers.len();
        Self {
            world,
            saved: BTreeMap::new(),
            now_ms: 1,
            synced_in_service: Vec::new(),
            added_in_service: Vec::new(),
            fewest,
        }
    }

    fn server(&mut self, name: &ServerName) -> &mut ObservedServer {
        self.world.servers.get_mut(name).expect("a server of the record")
    }

    fn put_away(&mut self, name: &ServerName, remove: bool) {
        if remove {
            if let Some(ObservedServer { drained, traffic, .. }) = self.world.servers.remove(name) {
                self.world.removed.insert(name.clone(), Removed { drained, traffic });
            }
        } else if let Some(seen) = self.world.servers.get_mut(name) {
            (seen.role, seen.state) = (Role::Disabled, State::Disabled);
        }
    }

    fn promote(&mut self, to: &ServerName) {
        let from = self.world.manager.clone();
        self.server(&from).role = Role::Member;
        (self.world.manager, self.world.me) = (to.clone(), to.clone());
        let new = self.server(to);
        (new.role, new.state) = (Role::Manager, State::InSync);
        // It knows only the others' reports.
        for (name, seen) in &mut self.world.servers {
            if name != to && seen.state == State::Unknown {
                seen.state = State::AwaitingSync;
            }
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Drain(servers) => self.route(servers, true),
            Action::Undrain(servers) => self.route(servers, false),
            Action::HandOver { to, remove } => {
                let from = self.world.manager.clone();
                if from != *to {
                    self.promote(to);
                    self.put_away(&from, *remove);
                }
            }
            Action::Promote { remove, insists: _ } => {
                let (me, lost) = (self.world.me.clone(), self.world.manager.clone());
                if me != lost {
                    self.promote(&me);
                    self.put_away(&lost, *remove);
                }
            }
            Action::Edit(RecordEdit::Disable(server)) => self.put_away(server, false),
            Action::Edit(RecordEdit::Remove(server)) => self.put_away(server, true),
            Action::Edit(RecordEdit::BringBack(server)) => {
                let traffic = self.world.removed.remove(server).map_or(Traffic::Unknown, |removed| removed.traffic);
                let added = self.world.servers.entry(server.clone());
                let added = added.or_insert_with(|| ObservedServer { traffic, ..seen(Role::Member) });
                if !matches!(added.traffic, Traffic::Known { out: true, .. }) {
                    self.added_in_service.push(server.clone());
                }
                (added.role, added.state, added.current) = (Role::Member, State::AwaitingSync, false);
                // The record's rule does the same.
                added.drained = true;
            }
            Action::Edit(other) => panic!("no step asks for {other:?}"),
            Action::Sync(servers) => {
                for name in servers {
                    let in_service = !self.world.is_out(name);
                    if in_service && !self.world.servers[name].current {
                        self.synced_in_service.push(name.clone());
                    }
                    let seen = self.server(name);
                    (seen.state, seen.current) = (State::InSync, true);
                }
            }
            Action::Verify(servers) => {
                let now = self.now_ms;
                servers.iter().for_each(|name| self.server(name).equal_ms = Some(now));
            }
        }
    }

    fn route(&mut self, servers: &[ServerName], out: bool) {
        let flags = self.world.is_manager();
        for name in servers {
            let removed = self.world.removed.get_mut(name).map(|gone| (&mut gone.drained, &mut gone.traffic));
            let there = self.world.servers.get_mut(name).map(|seen| (&mut seen.drained, &mut seen.traffic));
            let Some((drained, traffic)) = there.or(removed) else { continue };
            *drained = if flags { out } else { *drained };
            *traffic = Traffic::Known { out, up: true, sessions: if out { 1 } else { 0 } };
        }
        self.fewest = self.fewest.min(self.world.serving().len());
    }

    /// The events between two looks.
    fn pass_time(&mut self) {
        self.now_ms += 1_000;
        let (servers, removed) = (self.world.servers.values_mut(), self.world.removed.values_mut());
        let all = servers.map(|seen| &mut seen.traffic).chain(removed.map(|gone| &mut gone.traffic));
        for traffic in all {
            if let Traffic::Known { out: true, sessions, .. } = traffic {
                *sessions = sessions.saturating_sub(1);
            }
        }
        let waits = self.saved[&self.world.me].step().map(|step| &step.task);
        if let Some(Task::Replace(task::Replace { server, .. })) = waits.cloned() {
            let new = self.server(&server);
            (new.key, new.role, new.state, new.current) = (key(2), Role::Member, State::AwaitingSync, false);
        }
    }

    /// The saved procedure of the server that drives it.
    fn load(&self) -> Procedure {
        self.saved[&self.world.me].clone()
    }

    /// Saves here, and at every candidate.
    fn save(&mut self, procedure: &Procedure) {
        let all: Vec<ServerName> = self.world.servers.keys().cloned().collect();
        for name in all {
            self.saved.insert(name, procedure.clone());
        }
    }

    /// Runs to the end; `crashes` tells at which possible points a crash happens. Unsaved state is lost.
    fn run(&mut self, procedure: Procedure, mut crashes: impl FnMut() -> bool) -> Procedure {
        self.save(&procedure);
        for _ in 0..2_000 {
            let mut procedure = self.load();
            self.pass_time();
            if settle(&mut procedure, &self.world, self.now_ms) {
                if crashes() {
                    continue;
                }
                self.save(&procedure);
            }
            match next(&procedure, &self.world, self.now_ms) {
                Next::Done | Next::Failed(_) => return procedure,
                Next::Wait(..) => {}
                Next::Ask(_) => {
                    resume(&mut procedure, "so it is", "root", self.now_ms).expect("an answer");
                    self.save(&procedure);
                }
                Next::Do(action) => {
                    procedure.trying(&self.world, self.now_ms);
                    self.save(&procedure);
                    if crashes() {
                        continue;
                    }
                    self.act(&action);
                    if crashes() {
                        // The action is done but not known to be, so it is repeated.
                        self.act(&action);
                    }
                }
            }
        }
        panic!("it does not end: {:#?} in {:#?}", self.load(), self.world);
    }

    /// The final state, without times: the manager, and each server in a line.
    fn end(&self) -> (ServerName, Vec<String>) {
        let left = self.world.servers.iter().map(|(name, s)| {
            let out = matches!(s.traffic, Traffic::Known { out: true, .. });
            format!("{name} {:?} drained {} out {out} current {}", s.role, s.drained, s.current)
        });
        (
            self.world.manager.clone(),
            left.chain(self.world.removed.keys().map(|name| format!("{name} removed"))).collect(),
        )
    }
}

/// The number of [`scene`]s.
const SCENES: u8 = 8;

/// A farm and the procedure to run on it.
fn scene(which: u8, remove: bool) -> (Model, Kind, Survey) {
    let mut model = Model::new(&["m", "a", "b", "c", "d"]);
    let name = |text: &str| -> ServerName { text.parse().expect("a name") };
    let kind = match which {
        0 => Kind::MaintenanceStart { server: name("m"), promote: Some(name("a")), remove },
        1 => Kind::MaintenanceStart { server: name("b"), promote: None, remove },
        2 => {
            model.route(&[name("b")], true);
            model.put_away(&name("b"), remove);
            Kind::MaintenanceFinish { server: name("b") }
        }
        3 => {
            model.server(&name("b")).state = State::Unreachable;
            Kind::RecoverMember { server: name("b"), remove }
        }
        4 => {
            model.put_away(&name("b"), remove);
            Kind::ServerAdd { server: name("b") }
        }
        5 => Kind::ServerReplace { server: name("b"), ttl_ms: 3_600_000 },
        6 => {
            model.world.min_serving = 3;
            for stale in ["b", "c", "d"] {
                (model.server(&name(stale)).current, model.server(&name(stale)).state) = (false, State::AwaitingSync);
            }
            Kind::Sync { servers: Vec::new() }
        }
        _ => {
            model.world.me = name("a");
            model.world.min_serving = 2;
            for (_, seen) in model.world.servers.iter_mut().filter(|(name, _)| name.as_str() != "a") {
                seen.state = State::Unknown;
            }
            for stale in ["b", "c"] {
                model.server(&name(stale)).current = false;
            }
            Kind::RecoverManager { lost: name("m"), new: name("a"), remove, insists: Insists::default() }
        }
    };
    let mut survey = Survey::default();
    survey.members.extend(["b", "c"].map(|n| (name(n), Surveyed::Differs("1.9".into()))));
    survey.members.insert(name("d"), Surveyed::Equal);
    model.fewest = 5;
    (model, kind, survey)
}

fn run(which: u8, remove: bool, crashes: impl FnMut() -> bool) -> (Model, Procedure) {
    let (mut model, kind, survey) = scene(which, remove);
    let steps = plan(&kind, &model.world, &survey).expect("a plan");
    let procedure = Procedure::new(Id(1), kind, steps, "root".into(), model.now_ms);
    let end = model.run(procedure, crashes);
    (model, end)
}

#[test]
fn every_procedure_comes_to_its_end() {
    for which in 0..SCENES {
        for remove in [false, true] {
            let (model, procedure) = run(which, remove, || false);
            assert_eq!(procedure.standing, Standing::Done, "{procedure:#?}");
            assert_eq!(model.synced_in_service, [] as [ServerName; 0], "W12, W23");
            assert_eq!(model.added_in_service, [] as [ServerName; 0], "W25: drained before it is added");
            assert!(model.fewest >= model.world.min_serving, "{}", model.fewest);
        }
    }
}

proptest! {
    /// Crashes between any two steps, and repeated actions, lead to the same end.
    #[test]
    fn w18_to_w27_a_procedure_that_crashes_anywhere_ends_as_one_that_does_not(
        which in 0..SCENES, remove: bool, crashes in proptest::collection::vec(proptest::bool::weighted(0.4), 0..40),
    ) {
        let (smooth, _) = run(which, remove, || false);
        let mut crashes = crashes.into_iter();
        let (rough, procedure) = run(which, remove, || crashes.next().unwrap_or(false));
        prop_assert_eq!(&procedure.standing, &Standing::Done);
        prop_assert_eq!(smooth.end(), rough.end());
        prop_assert_eq!(rough.synced_in_service, [] as [ServerName; 0]);
        prop_assert_eq!(rough.added_in_service, [] as [ServerName; 0]);
        prop_assert!(rough.fewest >= rough.world.min_serving);
    }
}

/// The successor is away for a time. The person repeats the command some time after each stop; nothing else happens.
fn with_a_successor_that_is_away(which: u8, from_ms: u64, for_ms: u64, again_after_ms: u64) -> (Model, Procedure, u32) {
    let (mut model, kind, survey) = scene(which, false);
    let steps = plan(&kind, &model.world, &survey).expect("a plan");
    let mut procedure = Procedure::new(Id(1), kind, steps, "root".into(), model.now_ms);
    let (successor, manager): (ServerName, ServerName) = ("a".parse().unwrap(), model.world.manager.clone());
    model.save(&procedure);
    for _ in 0..5_000 {
        model.pass_time();
        let away = (from_ms..from_ms + for_ms).contains(&model.now_ms);
        if model.world.manager == manager {
            model.server(&successor).state = if away { State::Unreachable } else { State::InSync };
        }
        if settle(&mut procedure, &model.world, model.now_ms) {
            model.save(&procedure);
        }
        match next(&procedure, &model.world, model.now_ms) {
            Next::Done => return (model, procedure.clone(), procedure.resumed),
            Next::Failed(failure) => {
                assert!(!model.world.is_drained(&manager), "stopped, and out of service: {failure:?}");
                let (before, world) = (procedure.clone(), model.world.clone());
                model.now_ms += again_after_ms;
                model.server(&successor).state = State::InSync;
                assert!(!settle(&mut procedure, &model.world, model.now_ms) && procedure == before, "by itself");
                model.world = world;
                go_on_again(&mut procedure, model.now_ms);
                model.save(&procedure);
            }
            Next::Wait(_, until) => {
                assert!(until != u64::MAX || matches!(procedure.step().unwrap().task, Task::Quiet(_)))
            }
            Next::Ask(question) => panic!("{question:?}"),
            Next::Do(action) => {
                procedure.trying(&model.world, model.now_ms);
                model.save(&procedure);
                model.act(&action);
            }
        }
    }
    panic!("it does not end: {procedure:#?}");
}

#[test]
fn w18_a_successor_that_is_away_for_long_costs_a_stop_and_one_for_a_moment_none() {
    let (_, _, stops) = with_a_successor_that_is_away(0, 0, 30_000, 1);
    assert_eq!(stops, 0);
    let (model, _, stops) = with_a_successor_that_is_away(0, 0, 200_000, 600_000);
    assert_eq!((stops, model.world.manager.as_str()), (1, "a"));
}

proptest! {
    /// After every stop, the drained servers serve again, and the repeated command leads to the same end.
    #[test]
    fn w18_a_hand_over_that_stops_puts_the_manager_back_and_comes_to_the_same_end_when_it_is_given_again(
        from_ms in 0_u64..20_000, for_ms in 0_u64..900_000, again_after_ms in 1_u64..500_000,
    ) {
        let (smooth, _) = run(0, false, || false);
        let (rough, procedure, _) = with_a_successor_that_is_away(0, from_ms, for_ms, again_after_ms);
        prop_assert_eq!(&procedure.standing, &Standing::Done);
        prop_assert_eq!(smooth.end(), rough.end());
        prop_assert!(rough.fewest >= rough.world.min_serving);
    }
}
