use bellwether_proto::{
    key::KeyPair,
    level::Program,
    record::{Batch, Level, Policy, Server, Version},
    revision::{CONFIRM_WITHIN, Epoch, GroupId, Header},
};
use bellwether_random::headers::header;

use super::*;

const SOAK: u64 = 100;

/// A manager `m` and the members `a`, `b`, `c` and `d`, with one canary and batches of half of the members.
struct Farm {
    record: Record,
    rollout: Rollout,
    now_ms: u64,
}

fn name(name: &str) -> ServerName {
    name.parse().unwrap()
}

fn signed(header: Header) -> SignedHeader {
    SignedHeader::sign(header, &KeyPair::generate())
}

fn policy() -> RolloutPolicy {
    RolloutPolicy { canary: 1, batch: Batch::Percent(50), soak_ms: SOAK, stop_at: 1, take_back: true }
}

impl Farm {
    fn new(rollout: Option<RolloutPolicy>) -> Self {
        let server = |text: &str| Server {
            name: name(text),
            key: KeyPair::generate().public(),
            address: format!("{text}:1"),
            role: if text == "m" { Role::Manager } else { Role::Member },
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: Level::NEWEST,
            group: GroupId::from([1; 16]),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: ["a", "b", "c", "d", "m"].map(server).into(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy { rollout, ..Policy::new(Vec::new()) },
            log: Vec::new(),
            previous: None,
        };
        let mut farm = Self { record, rollout: Rollout::default(), now_ms: 0 };
        ["a", "b", "c", "d"].iter().for_each(|name| farm.reached(name, 1));
        farm
    }

    fn reached(&mut self, server: &str, at: u64) {
        let at = Some(header(1, at).number);
        self.sees(server, Observation::Reached { program: Program::own(), at, fault: None });
    }

    fn sees(&mut self, server: &str, observation: Observation) {
        self.rollout.observe(&name(server), &observation, self.now_ms);
    }

    fn done(&mut self, server: &str, revision: u64) {
        let revision = header(1, revision).number;
        self.sees(server, Observation::Done { revision, micros: 1, kept: Vec::new() });
    }

    fn refuses(&mut self, server: &str, revision: u64) {
        let (revision, reason) = (header(1, revision).number, "check".to_owned());
        self.sees(server, Observation::Refused { revision, reason, cause: None, output: String::new() });
    }

    fn lost(&mut self, server: &str) {
        self.sees(server, Observation::Lost("gone".into()));
    }

    fn now(&self) -> Now {
        Now { at_ms: self.now_ms, wall_ms: 1_000_000 + self.now_ms }
    }

    fn look(&mut self, revision: u64) -> Plan {
        let now = self.now();
        self.rollout.look(&self.record, &signed(header(1, revision)), now)
    }

    /// The state, the wave and the due members.
    fn shows(&mut self, revision: u64) -> (RolloutState, usize, String) {
        let plan = self.look(revision);
        let status = plan.status.expect("there are waves");
        let due = match plan.released {
            Released::All => "all".to_owned(),
            Released::Only(servers) => servers.iter().map(ServerName::as_str).collect(),
            Released::Nobody => String::new(),
        };
        (status.state, status.wave, due)
    }

    fn soak(&mut self) {
        self.now_ms += SOAK;
    }
}

fn shown(state: RolloutState, wave: usize, due: &str) -> (RolloutState, usize, String) {
    (state, wave, due.to_owned())
}

use RolloutState::{Done, Running, Soaking, Stopped};

#[test]
fn without_waves_all_are_due() {
    assert_eq!(Farm::new(None).look(2), Plan::default(), "no lane asks");
}

#[test]
fn each_wave_waits_until_the_one_before_has_been_good_for_the_soak_time() {
    let mut farm = Farm::new(Some(policy()));
    assert_eq!(farm.shows(2), shown(Running, 1, "a"));
    farm.done("a", 2);
    assert_eq!(farm.shows(2), shown(Soaking, 1, "a"));
    farm.now_ms += SOAK - 1;
    assert_eq!(farm.shows(2), shown(Soaking, 1, "a"));
    assert_eq!(farm.look(2).next_ms, Some(SOAK));
    farm.now_ms += 1;
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
    farm.done("b", 2);
    farm.soak();
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
    farm.done("c", 2);
    assert_eq!(farm.shows(2), shown(Soaking, 2, "abc"));
    farm.soak();
    assert_eq!(farm.shows(2), shown(Running, 3, "abcd"));
    farm.done("d", 2);
    assert_eq!(farm.shows(2), shown(Done, 3, "all"));
    assert_eq!(farm.shows(3), shown(Running, 1, "a"), "the next revision begins anew");
}

#[test]
fn a_failure_of_the_managers_own_commands_counts_for_a_head_that_goes_in_waves() {
    let mut farm = Farm::new(Some(RolloutPolicy { stop_at: 2, ..policy() }));
    let manager: ServerName = "m".parse().unwrap();
    farm.shows(2);
    farm.rollout.observe_own(&manager, header(1, 1).number, Some("old"));
    assert_eq!(farm.shows(2), shown(Running, 1, "a"), "of an earlier revision");
    farm.rollout.observe_own(&manager, header(1, 2).number, Some("check"));
    assert_eq!(farm.shows(2), shown(Running, 1, "a"), "the first of two");
    farm.refuses("a", 2);
    let reason = farm.look(2).status.and_then(|status| status.reason);
    assert_eq!(reason.as_deref(), Some("2 servers failed: a: check; m: check"));
    let mut farm = Farm::new(None);
    farm.look(2);
    farm.rollout.observe_own(&manager, header(1, 2).number, Some("check"));
    assert_eq!(farm.look(2), Plan::default(), "without waves it holds up nothing");
}

#[test]
fn a_failure_stops_it_and_the_content_from_before_comes_back_to_all() {
    let mut farm = Farm::new(None);
    farm.look(1);
    farm.record.policy.rollout = Some(policy());
    assert_eq!(farm.shows(1), shown(Done, 1, "all"), "it went to all before there were waves");
    farm.shows(2);
    farm.refuses("a", 2);
    let plan = farm.look(2);
    let status = plan.status.as_ref().expect("waves");
    assert_eq!((status.state, status.reason.as_deref()), (Stopped, Some("1 server failed: a: check")));
    assert_eq!(plan.released, Released::Nobody, "it goes to no further member");
    let back = plan.take_back.clone().expect("it is taken back");
    assert_eq!((back.revision, back.to), (header(1, 2).number, Some(header(1, 1).number)));
    assert!(plan.replaceable(signed(header(1, 3)).id()).is_none() && plan.holds(plan.revision.unwrap()).is_some());

    let labels = [(TAKEN_BACK.to_owned(), "1.2".to_owned())].into();
    let taken_back = signed(Header { labels, message: "taken back: 1.2: check".into(), ..header(1, 3) });
    let plan = farm.rollout.look(&farm.record, &taken_back, Now { at_ms: 0, wall_ms: 0 });
    let status = plan.status.expect("shown");
    assert_eq!((plan.released, status.state), (Released::All, RolloutState::TakenBack));
    assert_eq!(status.taken_back, Some(header(1, 2).number));
    farm.shows(4);
    farm.refuses("a", 4);
    assert_eq!(farm.look(4).take_back.and_then(|back| back.to), Some(header(1, 3).number));
}

#[test]
fn fewer_failures_than_the_limit_do_not_stop_it() {
    let mut farm = Farm::new(Some(RolloutPolicy { stop_at: 2, soak_ms: 0, take_back: false, ..policy() }));
    farm.shows(2);
    farm.done("a", 2);
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
    farm.refuses("b", 2);
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
    farm.refuses("c", 2);
    let plan = farm.look(2);
    let status = plan.status.expect("waves");
    assert_eq!((status.state, status.failed.len(), plan.take_back), (Stopped, 2, None));
    assert_eq!(status.next.as_deref(), Some("bellwether rollout continue, or: bellwether rollback"));
}

#[test]
fn who_does_not_answer_is_not_waited_for_and_gets_it_when_its_wave_has_passed() {
    let mut farm = Farm::new(Some(RolloutPolicy { soak_ms: 0, ..policy() }));
    farm.lost("b");
    farm.lost("d");
    farm.shows(2);
    farm.done("a", 2);
    farm.shows(2);
    farm.reached("d", 1);
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"), "d is in the third wave");
    farm.done("c", 2);
    assert_eq!(farm.shows(2), shown(Running, 3, "abcd"));
    farm.done("d", 2);
    assert_eq!(farm.shows(2), shown(Done, 3, "all"), "b gets it when it answers");
}

#[test]
fn without_an_answer_of_the_canary_another_member_tries_it_first() {
    let mut farm = Farm::new(Some(policy()));
    farm.lost("a");
    assert_eq!(farm.shows(2), shown(Running, 1, "ab"));
    ["b", "c", "d"].iter().for_each(|name| farm.lost(name));
    assert_eq!(farm.shows(2), shown(Running, 1, "ab"), "nobody answers");
}

#[test]
fn an_obstacle_that_may_pass_is_no_failure() {
    let mut farm = Farm::new(Some(policy()));
    farm.shows(2);
    let (revision, cause) = (header(1, 2).number, Some(bellwether_proto::status::Cause::Space));
    farm.sees("a", Observation::Refused { revision, reason: "full".into(), cause, output: String::new() });
    assert_eq!(farm.shows(2), shown(Running, 1, "ab"), "a is late");
}

#[test]
fn a_person_stops_it_and_lets_it_continue() {
    let mut farm = Farm::new(Some(policy()));
    assert_eq!(farm.rollout.stop(&farm.record, "root"), Err(NotDecided::AtOnce), "nothing was published yet");
    farm.shows(2);
    assert_eq!(farm.rollout.go_on(&farm.record), Ok(false));
    assert_eq!(farm.rollout.stop(&farm.record, "root"), Ok(true));
    assert_eq!(farm.rollout.stop(&farm.record, "root"), Ok(false));
    farm.done("a", 2);
    farm.soak();
    let plan = farm.look(2);
    assert_eq!((plan.take_back, plan.status.map(|status| status.state)), (None, Some(Stopped)));
    assert_eq!(farm.rollout.go_on(&farm.record), Ok(true));
    assert_eq!(farm.shows(2), shown(Soaking, 1, "a"));
    farm.soak();
    farm.shows(2);
    farm.refuses("b", 2);
    assert_eq!(farm.shows(2).0, Stopped);
    assert_eq!(farm.rollout.go_on(&farm.record), Ok(true));
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"), "this failure counts no more");
    farm.refuses("c", 2);
    assert_eq!(farm.shows(2).0, Stopped, "the next one counts");
    ["a", "b", "c", "d"].iter().for_each(|name| farm.done(name, 2));
    assert_eq!(farm.shows(2).0, Done);
    assert_eq!(farm.rollout.stop(&farm.record, "root"), Err(NotDecided::Over(header(1, 2).number)));
}

#[test]
fn what_is_kept_lets_it_go_on_after_a_restart() {
    let mut farm = Farm::new(Some(policy()));
    farm.shows(2);
    farm.done("a", 2);
    farm.shows(2);
    farm.soak();
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
    let kept = farm.rollout.kept().clone();
    let again: Kept = serde_json::from_slice(&serde_json::to_vec(&kept).unwrap()).unwrap();
    assert_eq!((&again, again.level()), (&kept, Level(2)));
    farm.rollout = Rollout::resume(kept);
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"), "nobody was reached yet");
    farm.refuses("c", 2);
    assert_eq!(farm.shows(2).0, Stopped);
    farm.rollout = Rollout::resume(farm.rollout.kept().clone());
    assert_eq!(farm.shows(2).0, Stopped);
}

#[test]
fn a_new_manager_finds_out_what_the_members_hold() {
    let mut farm = Farm::new(Some(RolloutPolicy { soak_ms: 0, ..policy() }));
    farm.reached("a", 2);
    farm.reached("c", 2);
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
}

const TIMEOUT: u64 = 5_000;

/// The members of these letters validate.
fn validating(policy: Option<RolloutPolicy>, members: &str) -> Farm {
    let mut farm = Farm::new(policy);
    members.chars().for_each(|name| farm.sees(&name.to_string(), Observation::Validates(true)));
    farm.look(1);
    members.chars().for_each(|name| farm.done(&name.to_string(), 1));
    farm.look(1);
    farm
}

impl Farm {
    fn staged(&mut self, server: &str, revision: u64, later: bool) {
        let revision = header(1, revision).number;
        self.sees(server, Observation::Staged { revision, later });
    }

    fn release(&mut self, server: &str, revision: u64) -> (bool, bool) {
        let Release { gated, staged, taken } = self.look(revision).release(&name(server));
        assert!(gated);
        (staged.is_some(), taken.is_some())
    }
}

#[test]
fn no_member_switches_before_all_that_validate_have_staged_it() {
    let mut farm = validating(None, "ab");
    assert_eq!(farm.shows(2), shown(RolloutState::Staging, 1, ""));
    assert_eq!((farm.release("a", 2), farm.release("c", 2)), ((true, false), (true, false)));
    farm.staged("a", 2, false);
    assert_eq!(farm.release("a", 2), (true, false));
    farm.staged("b", 2, false);
    let plan = farm.look(2);
    assert_eq!((plan.released, plan.status), (Released::All, None), "without waves there is no more to say");
    farm.refuses("a", 2);
    assert!(farm.look(2).status.is_none(), "what comes of it later holds up nobody");
}

#[test]
fn a_refusal_before_any_switch_stops_it_and_the_next_revision_takes_its_place() {
    for (policy, back) in [(None, false), (Some(policy()), true)] {
        let mut farm = validating(policy, "ab");
        farm.look(2);
        farm.staged("b", 2, false);
        farm.refuses("a", 2);
        let plan = farm.look(2);
        let status = plan.status.clone().expect("it is stopped");
        assert_eq!((status.state, status.untouched, plan.take_back.is_some()), (Stopped, true, back));
        assert_eq!(status.reason.as_deref(), Some("a refuses it: check"));
        assert_eq!(farm.release("b", 2), (false, false));
        assert_eq!(farm.shows(3), shown(RolloutState::Staging, 1, ""));
        farm.look(2);
    }
    let mut farm = validating(None, "ab");
    farm.look(2);
    farm.refuses("a", 2);
    farm.look(2);
    assert_eq!(farm.rollout.go_on(&farm.record.clone()), Ok(true));
    assert_eq!(farm.shows(2), shown(RolloutState::Staging, 1, ""), "b has not staged it");
    farm.staged("b", 2, false);
    assert_eq!(farm.look(2).released, Released::All);
}

#[test]
fn a_member_that_stages_too_slowly_is_late_and_not_waited_for_until_it_has_caught_up() {
    let mut farm = validating(None, "ab");
    farm.look(2);
    farm.staged("a", 2, false);
    farm.now_ms += TIMEOUT - 1;
    farm.sees("b", Observation::Progress(bellwether_proto::status::Progress::phase("receiving")));
    farm.now_ms += 1;
    assert_eq!(farm.shows(2), shown(RolloutState::Staging, 1, ""), "its pack still arrives");
    assert_eq!(farm.look(2).next_ms, Some(2 * TIMEOUT - 1));
    farm.now_ms += TIMEOUT;
    assert_eq!(farm.look(2).released, Released::All);
    farm.done("a", 2);
    farm.look(3);
    farm.staged("a", 3, false);
    assert_eq!(farm.look(3).released, Released::All, "b is not waited for again");
    farm.done("b", 3);
    farm.look(3);
    farm.look(4);
    farm.staged("a", 4, false);
    assert_eq!(farm.shows(4), shown(RolloutState::Staging, 1, ""), "b has caught up");
    farm.lost("b");
    assert_eq!(farm.look(4).released, Released::All, "a member that does not answer is late at once");
}

#[test]
fn members_that_validate_only_after_the_switch_go_first_and_one_at_a_time() {
    let mut farm = validating(None, "abc");
    farm.look(2);
    [("a", false), ("b", true), ("c", true)].iter().for_each(|(name, later)| farm.staged(name, 2, *later));
    assert_eq!(farm.shows(2), shown(Running, 1, "b"));
    farm.done("b", 2);
    assert_eq!(farm.shows(2), shown(Running, 2, "bc"));
    let again = Rollout::resume(farm.rollout.kept().clone());
    assert_eq!(again.kept().first.len(), 2, "a restart knows them");
    farm.done("c", 2);
    assert_eq!(farm.look(2).released, Released::All);

    let mut farm = validating(None, "ab");
    farm.look(2);
    farm.staged("a", 2, false);
    farm.staged("b", 2, true);
    farm.look(2);
    farm.refuses("b", 2);
    let status = farm.look(2).status.expect("it is stopped");
    assert_eq!((status.state, status.untouched), (Stopped, false), "b had switched");
}

#[test]
fn waves_come_after_the_staging() {
    let mut farm = validating(Some(policy()), "abcd");
    farm.look(2);
    ["a", "b", "c", "d"].iter().for_each(|name| farm.staged(name, 2, false));
    assert_eq!(farm.shows(2), shown(Running, 1, "a"));
    farm.done("a", 2);
    farm.look(2);
    farm.soak();
    assert_eq!(farm.shows(2), shown(Running, 2, "abc"));
}

#[test]
fn a_revision_that_nobody_confirms_is_taken_back_by_all() {
    const WITHIN: u64 = 60_000;
    for policy in [None, Some(RolloutPolicy { take_back: false, ..policy() })] {
        let mut farm = Farm::new(policy);
        farm.look(1);
        let labels = [(CONFIRM_WITHIN.to_owned(), WITHIN.to_string())].into();
        let head = signed(Header { labels, time_ms: farm.now().wall_ms, parent: None, ..header(1, 2) });
        let look = |farm: &mut Farm| farm.rollout.look(&farm.record, &head, farm.now());
        let plan = look(&mut farm);
        let until = farm.now().wall_ms + WITHIN;
        assert_eq!(plan.status.as_ref().and_then(|status| status.confirm_until_ms), Some(until));
        assert_eq!((plan.holds(head.id()), plan.next_ms), (Some(Hold::Unconfirmed(head.number())), Some(WITHIN)));
        ["a", "b", "c", "d"].iter().for_each(|name| farm.done(name, 2));
        farm.now_ms = WITHIN - 1;
        assert!(look(&mut farm).take_back.is_none());

        let mut confirmed = farm.record.clone();
        confirmed.policy.confirmed = Some(head.id());
        let plan = farm.rollout.clone().look(&confirmed, &head, farm.now());
        assert!(plan.holds(head.id()).is_none() && plan.take_back.is_none());

        farm.now_ms = WITHIN;
        let plan = look(&mut farm);
        let back = plan.take_back.clone().expect("whatever the policy says");
        assert_eq!((back.revision, back.to), (head.number(), Some(header(1, 1).number)));
        assert_eq!((plan.released, plan.status.unwrap().state), (Released::Nobody, Stopped));
        assert!(matches!(farm.rollout.go_on(&farm.record.clone()), Err(NotDecided::Unconfirmed(_))));
        let mut again = Rollout::resume(farm.rollout.kept().clone());
        assert!(again.look(&farm.record, &head, farm.now()).take_back.is_some(), "after a restart, too");
    }
}

#[test]
fn the_gate_outlives_a_restart() {
    let mut farm = validating(None, "ab");
    farm.look(2);
    farm.staged("b", 2, false);
    let kept = farm.rollout.kept().clone();
    // In the middle of the staging: it begins anew, although no member has answered yet.
    farm.rollout = Rollout::resume(kept.clone());
    assert_eq!(farm.shows(2), shown(RolloutState::Staging, 1, ""));
    farm.sees("a", Observation::Validates(true));
    farm.reached("a", 1);
    farm.refuses("a", 2);
    assert_eq!(farm.shows(2).0, Stopped);
    // Stopped: it stays so, and a member that is not there any more does not change that.
    farm.rollout = Rollout::resume(farm.rollout.kept().clone());
    assert_eq!(farm.shows(2).0, Stopped);
    farm.record.servers.retain(|server| server.name.as_str() != "a" && server.name.as_str() != "b");
    assert_eq!(farm.shows(2).0, Stopped);
    // A member without its command any more holds up nobody.
    let mut farm = validating(None, "a");
    farm.sees("a", Observation::Validates(false));
    assert_eq!(farm.look(2), Plan::default());
    // Members that never answer are waited for as long as others.
    let mut farm = validating(None, "ab");
    farm.rollout = Rollout::resume(farm.rollout.kept().clone());
    assert_eq!(farm.shows(2), shown(RolloutState::Staging, 1, ""));
    farm.now_ms += TIMEOUT;
    assert_eq!(farm.look(2).released, Released::All);
}

#[test]
fn no_content_comes_back_that_nobody_confirmed() {
    let mut farm = Farm::new(None);
    farm.look(1);
    let labels = || [(CONFIRM_WITHIN.to_owned(), "60000".to_owned())].into();
    let heads =
        [2, 3].map(|revision| signed(Header { labels: labels(), time_ms: farm.now().wall_ms, ..header(1, revision) }));
    farm.rollout.look(&farm.record, &heads[0], farm.now());
    ["a", "b", "c", "d"].iter().for_each(|name| farm.done(name, 2));
    farm.rollout.look(&farm.record, &heads[0], farm.now());
    farm.rollout.look(&farm.record, &heads[1], farm.now());
    farm.now_ms += 60_000;
    let plan = farm.rollout.look(&farm.record, &heads[1], farm.now());
    assert_eq!(plan.take_back.and_then(|back| back.to), Some(header(1, 1).number));
}

#[test]
fn a_confirmation_that_has_begun_in_time_is_not_late() {
    let mut farm = Farm::new(None);
    let labels = [(CONFIRM_WITHIN.to_owned(), "60000".to_owned())].into();
    let head = signed(Header { labels, time_ms: farm.now().wall_ms, ..header(1, 2) });
    farm.rollout.look(&farm.record, &head, farm.now());
    assert!(farm.rollout.begin_confirmation());
    farm.now_ms += 60_000;
    assert!(farm.rollout.look(&farm.record, &head, farm.now()).take_back.is_none());
    farm.rollout.end_confirmation();
    assert!(farm.rollout.look(&farm.record, &head, farm.now()).take_back.is_some(), "it has failed");
    assert!(!farm.rollout.begin_confirmation());
}
