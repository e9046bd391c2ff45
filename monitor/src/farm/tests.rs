use bellwether_proto::{
    key::PublicKey,
    name::BalancerName,
    record::{Forgotten, Policy, Role, Server, Version},
    revision::Epoch,
    status::{Cause, Observation, Progress, ServerStatus, State},
};

use super::*;

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

fn number(sequence: u64) -> Number {
    Number { epoch: Epoch(1), sequence }
}

fn version(version: u64) -> Version {
    Version { epoch: Epoch(1), version }
}

fn record(roles: &[(&str, Role)], paused: bool) -> Event {
    record_on(0, roles, paused)
}

/// A record whose keys are those of `hardware`.
fn record_on(hardware: u8, roles: &[(&str, Role)], paused: bool) -> Event {
    let server = |(server, role): &(&str, Role)| Server {
        name: name(server),
        key: PublicKey::try_from([server.as_bytes()[0] ^ hardware; 32].as_slice()).unwrap(),
        address: format!("{server}.example:7440"),
        role: *role,
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    Event::Record(Arc::new(Record {
        refused: Vec::new(),
        level: bellwether_proto::record::Level::NEWEST,
        group: [7; 16].into(),
        version: version(3),
        servers: roles.iter().map(server).collect(),
        removed: Vec::new(),
        policy: Policy { paused, ..Policy::new(Vec::new()) },
        log: Vec::new(),
        previous: None,
    }))
}

/// A farm of the manager `m` and the member `a`. Its head is 1.5; one revision was published each second from 1 s on.
struct Case {
    farm: Farm,
    now_ms: u64,
}

impl Case {
    fn new() -> Self {
        let mut case = Self { farm: Farm::new(name("m")), now_ms: 10_000 };
        case.farm.apply(0, record(&[("a", Role::Member), ("m", Role::Manager)], false));
        (1..=5).for_each(|sequence| case.head(sequence));
        case
    }

    fn head(&mut self, sequence: u64) {
        let head = Event::Head { number: number(sequence), time_ms: sequence * 1_000, message: format!("r{sequence}") };
        self.farm.apply(self.now_ms, head);
    }

    fn see(mut self, observations: impl IntoIterator<Item = Observation>) -> Self {
        for observation in observations {
            self.now_ms += 1;
            let reached = matches!(observation, Observation::Reached { .. });
            self.farm.apply(self.now_ms, Event::Server(name("a"), observation));
            if reached {
                self.farm.apply(self.now_ms, Event::Server(name("a"), Observation::Record(version(3))));
            }
        }
        self
    }

    fn row(&self, server: &str) -> ServerStatus {
        let status = self.farm.status(self.now_ms);
        status.servers.into_iter().find(|row| row.name.as_str() == server).unwrap()
    }

    fn state(&self) -> State {
        self.row("a").state
    }

    fn reason(&self) -> String {
        self.row("a").reason.unwrap_or_default()
    }
}

fn reached(at: Option<u64>) -> Observation {
    Observation::Reached { program: bellwether_proto::level::Program::own(), at: at.map(number), fault: None }
}

fn started(sync: bool) -> Observation {
    Observation::Started { sync, to: number(5) }
}

fn done(sequence: u64) -> Observation {
    Observation::Done { revision: number(sequence), micros: 7_000, kept: vec![format!("point-{sequence}")] }
}

fn refused(sequence: u64) -> Observation {
    Observation::Refused {
        revision: number(sequence),
        reason: "owner www-data is missing".into(),
        cause: None,
        output: String::new(),
    }
}

fn waits(sequence: u64) -> Observation {
    let reason = "/srv has 1 bytes free; 2 are needed".into();
    Observation::Refused { revision: number(sequence), reason, cause: Some(Cause::Space), output: String::new() }
}

fn failed() -> Observation {
    Observation::Failed("no space left on /etc".into())
}

fn lost() -> Observation {
    Observation::Lost("connection refused".into())
}

fn drift(entries: u64) -> Observation {
    let paths = vec!["nginx:a.conf".into(); usize::from(entries > 0)];
    Observation::Drift { entries, paths, held: false, kept: Vec::new() }
}

fn progress() -> Observation {
    Observation::Progress(Progress {
        phase: "receiving".into(),
        files: 1,
        files_total: 2,
        bytes: 3,
        bytes_total: 4,
        bytes_per_s: 0,
    })
}

#[test]
fn every_state_is_reached() {
    let state_after = |observations: Vec<Observation>| Case::new().see(observations).state();
    assert_eq!(state_after(vec![]), State::Unknown);
    assert_eq!(state_after(vec![Observation::Alive]), State::Unknown, "alive does not say where it is");
    assert_eq!(state_after(vec![reached(None)]), State::AwaitingSync);
    assert_eq!(state_after(vec![reached(Some(4))]), State::AwaitingSync);
    assert_eq!(state_after(vec![reached(Some(5))]), State::InSync);
    assert_eq!(state_after(vec![reached(None), started(true)]), State::Syncing);
    assert_eq!(state_after(vec![reached(Some(4)), started(false)]), State::Updating);
    assert_eq!(state_after(vec![reached(Some(4)), started(false), done(5)]), State::InSync);
    assert_eq!(state_after(vec![reached(Some(4)), started(false), refused(5)]), State::Refused);
    assert_eq!(state_after(vec![reached(Some(4)), started(false), waits(5)]), State::Waiting);
    assert_eq!(state_after(vec![reached(Some(5)), drift(2)]), State::Drifted);
    assert_eq!(state_after(vec![reached(Some(5)), drift(2), drift(0)]), State::InSync);
    assert_eq!(state_after(vec![reached(Some(4)), started(false), failed()]), State::Error);
    assert_eq!(state_after(vec![reached(Some(5)), lost()]), State::Unreachable);
    assert_eq!(state_after(vec![lost()]), State::Unreachable);
    let mut disabled = Case::new().see([reached(Some(5))]);
    disabled.farm.apply(0, record(&[("a", Role::Disabled), ("m", Role::Manager)], false));
    assert_eq!(disabled.see([done(5), failed()]).state(), State::Disabled);
}

#[test]
fn w8_who_waits_says_for_what_and_what_to_do() {
    let case = Case::new().see([reached(Some(4)), started(false), waits(5)]);
    assert_eq!(case.row("a").waits_for, Some(Cause::Space));
    let reason = case.reason();
    for words in ["waits to take 1.5: /srv has 1 bytes free", "make room there: it is tried again by itself"] {
        assert!(reason.contains(words), "no '{words}' in: {reason}");
    }
    assert!(!reason.contains("wait with it"), "{reason}");
    let case = Case::new().see([reached(Some(3)), started(false), waits(4)]);
    assert_eq!(case.state(), State::Waiting, "on the way to the head");
    assert!(case.reason().contains("later revisions wait with it"), "{}", case.reason());
    let taken = case.see([started(false), done(4), started(false), done(5)]);
    assert_eq!((taken.state(), taken.row("a").waits_for), (State::InSync, None));
}

#[test]
fn an_error_ends_with_a_sync_only() {
    let faulty = || Case::new().see([reached(Some(4)), failed()]);
    for others in [vec![started(false), done(5)], vec![reached(Some(5))], vec![done(5)], vec![lost(), reached(Some(5))]]
    {
        let case = faulty().see(others.clone());
        assert_eq!(case.state(), State::Error, "after {others:?}");
        assert!(case.reason().contains("no space left on /etc"), "{}", case.reason());
        assert!(case.reason().contains("bellwether sync a"), "{}", case.reason());
    }
    assert_eq!(faulty().see([started(true)]).state(), State::Syncing);
    assert_eq!(faulty().see([started(true), done(5)]).state(), State::InSync);
    assert_eq!(faulty().see([started(true), refused(5)]).state(), State::Error, "a refused sync heals nothing");
    assert_eq!(faulty().see([started(true), lost(), reached(Some(5))]).state(), State::Error, "nor one cut short");
    let away = faulty().see([lost()]);
    assert_eq!(away.state(), State::Unreachable);
    assert!(away.reason().contains("no space left on /etc"), "the error is not forgotten: {}", away.reason());
}

#[test]
fn a_server_that_says_it_failed_is_in_error() {
    let fault = Some("rollback failed".to_owned());
    let case = Case::new().see([Observation::Reached {
        program: bellwether_proto::level::Program::own(),
        at: Some(number(5)),
        fault,
    }]);
    assert_eq!(case.state(), State::Error);
}

#[test]
fn a_refusal_is_of_one_revision() {
    let mut case = Case::new().see([reached(Some(4)), refused(5)]);
    assert!(case.reason().starts_with("refused 1.5: owner www-data"), "{}", case.reason());
    assert_eq!(case.row("a").revision, Some(number(4)));
    case.head(6);
    assert_eq!(case.state(), State::AwaitingSync, "the next one is tried");
    assert_eq!(case.see([started(false), done(6)]).state(), State::InSync);
}

#[test]
fn unreachable_keeps_what_was_last_known() {
    let mut case = Case::new().see([reached(Some(5))]);
    let heard_ms = case.now_ms;
    case.now_ms += 60_000;
    case = case.see([lost(), lost()]);
    let row = case.row("a");
    assert_eq!((row.state, row.revision, row.seen_ms), (State::Unreachable, Some(number(5)), Some(heard_ms)));
    assert!(row.reason.unwrap().contains("connection refused"));
    assert_eq!(case.see([Observation::Alive]).state(), State::Unreachable, "until it says where it is");
}

#[test]
fn lag_counts_from_the_first_revision_that_is_lacked() {
    let mut case = Case::new().see([reached(Some(2))]);
    case.now_ms = 10_000;
    let lag = |case: &Case| (case.row("a").lag_revisions, case.row("a").lag_ms);
    assert_eq!(lag(&case), (3, 7_000), "1.3 was published at 3 s");
    case.head(6);
    assert_eq!(lag(&case), (4, 7_000));
    case = case.see([done(4)]);
    case.now_ms = 10_000;
    assert_eq!(lag(&case), (2, 5_000));
    (7..=3_000).for_each(|sequence| case.head(sequence));
    case.now_ms = 4_000_000;
    assert_eq!(lag(&case), (2_996, 3_995_000), "also when 1.5 is no longer remembered");
    assert_eq!(lag(&case.see([done(3_000)])), (0, 0));
}

#[test]
fn a_server_that_was_just_added_has_not_been_behind_for_longer() {
    let mut case = Case::new();
    let roles = [("a", Role::Member), ("b", Role::Member), ("m", Role::Manager)];
    case.farm.apply(9_000, record(&roles, false));
    case.now_ms = 10_000;
    assert_eq!((case.row("b").lag_revisions, case.row("b").lag_ms), (0, 0), "nobody knows where it is");
    case.farm.apply(9_500, Event::Server(name("b"), reached(None)));
    let row = case.row("b");
    assert_eq!((row.lag_revisions, row.lag_ms), (5, 1_000));
    assert_eq!(case.row("m").lag_revisions, 0);
}

#[test]
fn a_clock_that_goes_back_gives_no_lag_instead_of_a_huge_one() {
    let mut case = Case::new().see([reached(Some(2))]);
    case.now_ms = 5;
    assert_eq!(case.row("a").lag_ms, 0);
}

#[test]
fn a_server_ahead_of_its_manager_is_an_error() {
    let case = Case::new().see([reached(Some(9))]);
    assert_eq!(case.state(), State::Error);
    assert!(case.reason().contains("holds 1.9") && case.reason().contains("its head is 1.5"), "{}", case.reason());
}

#[test]
fn the_manager_is_in_sync_with_its_own_head() {
    let mut case = Case::new();
    let row = case.row("m");
    assert_eq!((row.state, row.revision, row.seen_ms), (State::InSync, Some(number(5)), Some(case.now_ms)));
    case.farm.apply(1, Event::Server(name("m"), failed()));
    assert_eq!(case.row("m").state, State::Error);
    case.farm.apply(2, Event::Server(name("m"), done(6)));
    assert_eq!(case.row("m").state, State::InSync, "what it published shows that it works again");
}

#[test]
fn without_a_head_everyone_waits_for_the_first() {
    let mut farm = Farm::new(name("m"));
    assert_eq!(farm.status(1).servers, []);
    farm.apply(1, record(&[("m", Role::Manager)], false));
    let status = farm.status(2);
    assert_eq!(status.servers[0].state, State::AwaitingSync);
    assert!(status.servers[0].reason.as_ref().unwrap().contains("bellwether publish"));
}

#[test]
fn a_member_says_that_it_does_not_know_the_others() {
    let mut farm = Farm::new(name("a"));
    farm.apply(1, record(&[("a", Role::Member), ("b", Role::Member), ("m", Role::Manager)], false));
    farm.apply(1, Event::Server(name("a"), reached(None)));
    let [own, other, manager] = farm.status(2).servers.try_into().unwrap();
    assert_eq!(own.state, State::AwaitingSync);
    for row in [other, manager] {
        assert_eq!((row.state, row.lag_revisions, row.lag_ms), (State::Unknown, 0, 0));
        assert!(row.reason.unwrap().contains("ask on the manager, m"));
    }
}

#[test]
fn paused_says_how_to_go_on() {
    let mut case = Case::new().see([reached(Some(4))]);
    case.farm.apply(1, record(&[("a", Role::Member), ("m", Role::Manager)], true));
    assert!(case.reason().contains("bellwether resume"), "{}", case.reason());
    assert!(case.farm.status(1).paused);
}

#[test]
fn progress_is_shown_while_at_work_only() {
    let case = Case::new().see([reached(None), progress()]);
    assert_eq!(case.row("a").progress, None);
    let case = case.see([started(true), progress()]);
    assert_eq!(case.row("a").progress.unwrap().phase, "receiving");
    assert_eq!(case.see([done(5)]).row("a").progress, None);
}

#[test]
fn what_was_kept_is_named_newest_first_and_bounded() {
    let row = Case::new().see((1..=9).map(done)).row("a");
    assert_eq!(row.kept, ["point-9", "point-8", "point-7", "point-6", "point-5"]);
    assert_eq!(row.last_update_us, Some(7_000));
}

#[test]
fn removed_servers_are_gone_and_their_stragglers_with_them() {
    let mut case = Case::new().see([reached(Some(5))]);
    case.farm.apply(1, record(&[("m", Role::Manager)], false));
    case = case.see([done(5)]);
    assert_eq!(case.farm.status(1).servers.len(), 1);
}

#[test]
fn a_member_that_lacks_the_newest_record_is_in_a_group_change() {
    let see = |record| Case::new().see([reached(Some(5)), Observation::Record(version(record))]);
    assert_eq!(see(3).state(), State::InSync);
    let case = see(2);
    assert_eq!(case.state(), State::GroupChange);
    assert!(case.reason().contains("1.2") && case.reason().contains("1.3"), "{}", case.reason());
    let mut untold = Case::new();
    untold.farm.apply(1, Event::Server(name("a"), reached(Some(5))));
    assert_eq!(untold.state(), State::GroupChange, "it has not said which it holds");
    assert_eq!(see(2).see([drift(1)]).state(), State::Drifted, "what is worse is shown first");
}

#[test]
fn a_request_from_outside_the_group_is_warned_of_for_a_while() {
    let mut case =
        Case::new().see([reached(Some(5)), Observation::Knocked("ed25519:x at 10.0.0.9:1 asked Read".into())]);
    assert_eq!((case.state(), case.reason().as_str()), (State::InSync, ""), "its state is what it was");
    let warning = case.row("a").warning.expect("a warning");
    assert!(warning.what.contains("10.0.0.9:1") && warning.requests == 1, "{warning:?}");
    assert_eq!(case.row("m").warning, None, "the one that was asked is warned of");
    case.now_ms += 24 * 3_600_000;
    assert_eq!(case.row("a").warning, None);
}

#[test]
fn a_warning_goes_with_its_acknowledgement_and_comes_with_the_next_request() {
    let knock = || Observation::Knocked("ed25519:x at 10.0.0.9:1 asked Read".into());
    for trouble in [vec![], vec![failed()], vec![lost()], vec![started(true)]] {
        let mut case = Case::new().see([reached(Some(5))]).see(trouble).see([knock(), knock()]);
        let (state, reason) = (case.state(), case.reason());
        assert_eq!(case.row("a").warning.map(|warning| warning.requests), Some(2), "beside {state:?}");
        case.farm.apply(case.now_ms, Event::Acknowledged(vec![name("m"), name("nobody")]));
        assert!(case.row("a").warning.is_some(), "another's");
        case.farm.apply(case.now_ms, Event::Acknowledged(vec![name("a")]));
        assert_eq!((case.row("a").warning, case.state(), case.reason()), (None, state, reason));
        let again = case.see([knock()]);
        assert_eq!(again.row("a").warning.map(|warning| warning.requests), Some(1));
    }
}

#[test]
fn one_that_left_stays_so_until_it_is_reached() {
    let case = Case::new().see([reached(Some(5)), lost(), Observation::Left, lost()]);
    assert_eq!(case.state(), State::Left);
    assert!(case.reason().contains("bellwether server remove a"), "{}", case.reason());
    assert_eq!(case.see([reached(None)]).state(), State::AwaitingSync);
}

#[test]
fn new_hardware_under_an_old_name_begins_anew() {
    let mut case = Case::new().see([reached(Some(5)), failed()]);
    case.farm.apply(case.now_ms, record_on(128, &[("a", Role::Member), ("m", Role::Manager)], false));
    let row = case.row("a");
    assert_eq!((row.state, row.revision, row.kept.len()), (State::Unknown, None, 0));
}

#[test]
fn what_a_candidate_says_of_balancers_is_its_newest_word() {
    let mut case = Case::new();
    let (lb1, lb2): (BalancerName, BalancerName) = ("lb1".parse().unwrap(), "lb2".parse().unwrap());
    let said = vec![(lb1.clone(), None), (lb2, Some("no answer".to_owned()))];
    case.farm.apply(11_000, Event::Server(name("a"), Observation::Balancers(said)));
    let shown = |case: &Case| case.farm.status(12_000).servers[0].balancers.clone();
    let faults: Vec<_> = shown(&case).into_iter().map(|reach| (reach.fault, reach.time_ms)).collect();
    assert_eq!(faults, [(None, 11_000), (Some("no answer".to_owned()), 11_000)]);
    case.farm.apply(12_000, Event::Server(name("a"), Observation::Balancers(vec![(lb1, None)])));
    assert_eq!(shown(&case).len(), 1);
}

#[test]
fn a_server_holds_a_forgotten_content_until_it_says_that_it_does_not() {
    let mut case = Case::new();
    let note = |id: u64, done: bool| Forgotten {
        id,
        place: format!("web:{id}"),
        chunks: vec![bellwether_proto::hash::Hash::of(b"x")],
        until: number(5),
        begins: number(5),
        by: "root".to_owned(),
        time_ms: 1,
        done,
    };
    let Event::Record(record) = record(&[("a", Role::Member), ("m", Role::Manager)], false) else { panic!("a record") };
    let mut record = Record::clone(&record);
    record.policy.forgotten = vec![note(1, true), note(2, false), note(3, false)];
    case.farm.apply(11_000, Event::Record(Arc::new(record)));
    let says = |case: &mut Case, server: &str, holds: &[(u64, Option<&str>)]| {
        let holds = holds.iter().map(|(id, why)| (*id, why.map(str::to_owned))).collect();
        case.farm.apply(12_000, Event::Server(name(server), Observation::Forgets(holds)));
    };
    let shown = |case: &Case| -> Vec<String> {
        let forgets = case.farm.status(13_000).forgets;
        let line = |forget: &ForgetStatus| {
            let holders = forget.holders.iter().map(|(server, why)| format!("{server} {why}"));
            format!("{}: {}", forget.place, holders.collect::<Vec<_>>().join(", "))
        };
        forgets.iter().map(line).collect()
    };
    says(&mut case, "m", &[(1, None), (2, None), (3, None)]);
    assert_eq!(shown(&case), ["web:2: a it does not answer", "web:3: a it does not answer"]);
    says(&mut case, "a", &[(2, None), (3, Some("an edit has it"))]);
    assert_eq!(shown(&case), ["web:3: a an edit has it"]);
    let mut case = case.see([reached(Some(5)), lost()]);
    assert_eq!(shown(&case), ["web:3: a an edit has it"], "what it said counts while it is away");
    says(&mut case, "a", &[(2, None), (3, None)]);
    assert!(shown(&case).is_empty());
}

#[test]
fn a_balancer_that_had_to_be_told_again_is_named_for_a_while() {
    let mut case = Case::new().see([reached(Some(5)), Observation::DrainedAgain("lb1".parse().unwrap())]);
    assert_eq!(case.state(), State::InSync, "it says nothing of what the server holds");
    assert!(case.reason().contains("balancer lb1 had forgotten"), "{}", case.reason());
    case.now_ms += 600_001;
    assert_eq!(case.row("a").reason, None);
}

#[test]
fn without_a_head_the_manager_says_publish_and_a_member_that_it_is_not_known() {
    let reason = |observer: &str| {
        let mut farm = Farm::new(name(observer));
        farm.apply(0, record(&[("a", Role::Member), ("m", Role::Manager)], false));
        farm.apply(1, Event::Server(name("a"), reached(Some(5))));
        let row = farm.status(2).servers.into_iter().find(|row| row.name == name("a")).unwrap();
        (row.state, row.reason.unwrap())
    };
    let (state, at_manager) = reason("m");
    assert!(state == State::AwaitingSync && at_manager.contains("bellwether publish"), "{at_manager}");
    let (state, at_member) = reason("a");
    assert_eq!(state, State::AwaitingSync);
    assert_eq!(at_member, "holds 1.5; the head is not known here until the manager, m, answers");
}

#[test]
fn invariant_4_what_a_server_has_seen_and_is_lost_is_named_for_a_day() {
    let mut case = Case::new().see([reached(Some(5)), Observation::SawLost("1.4 of yesterday".into())]);
    assert_eq!(case.state(), State::InSync, "it says nothing of what the server holds");
    assert!(case.reason().contains("1.4 of yesterday"), "{}", case.reason());
    case.now_ms += 24 * 3_600_001;
    assert_eq!(case.row("a").reason, None);
}

#[test]
fn w3_a_held_server_is_drifted_whatever_it_refused_and_says_what_to_do() {
    let held = Observation::Drift { entries: 1, paths: vec!["nginx:a.conf".into()], held: true, kept: Vec::new() };
    let refused =
        Observation::Refused { revision: number(5), reason: "edits".into(), cause: None, output: String::new() };
    let case = Case::new().see([reached(Some(4)), held, refused]);
    assert_eq!(case.state(), State::Drifted);
    assert!(case.row("a").held && case.reason().contains("takes no updates"), "{}", case.reason());
    let kept = Observation::Drift { entries: 0, paths: Vec::new(), held: false, kept: vec!["/r/1".into()] };
    let case = case.see([kept]);
    assert_eq!(case.row("a").kept, ["/r/1"]);
    assert!(!case.row("a").held && case.state() != State::Drifted);
}

#[test]
fn w26_who_led_before_names_who_leads_now_however_often_that_changes() {
    let mut farm = Farm::new(name("a"));
    let led_by = |manager: &str, epoch: u64| {
        let role = |name: &str| if name == manager { Role::Manager } else { Role::Member };
        let Event::Record(record) = record(&[("a", role("a")), ("b", role("b")), ("m", role("m"))], false) else {
            panic!("a record")
        };
        let mut record = (*record).clone();
        record.version = Version { epoch: Epoch(epoch), version: 1 };
        Event::Record(std::sync::Arc::new(record))
    };
    farm.apply(1, led_by("m", 4));
    farm.apply(1, Event::Led { server: name("a"), epoch: Epoch(2) });
    let reason = |farm: &Farm| farm.status(2).servers[0].reason.clone().unwrap_or_default();
    assert!(reason(&farm).contains("the manager of epoch 2, m is the manager of epoch 4 now"), "{}", reason(&farm));
    farm.apply(3, led_by("b", 6));
    farm.apply(3, Event::Led { server: name("a"), epoch: Epoch(2) });
    assert!(reason(&farm).contains("b is the manager of epoch 6 now"), "{}", reason(&farm));
    farm.apply(4, Event::Server(name("a"), reached(None)));
    assert!(!reason(&farm).contains("was the manager"), "it is taken back: {}", reason(&farm));
}

#[test]
fn w16_a_server_that_was_removed_or_replaced_knows_it_from_the_record() {
    let members = record(&[("a", Role::Member), ("m", Role::Manager)], false);
    let Event::Record(held) = &members else { panic!("a record") };
    let key = held.server(&name("a")).unwrap().key;
    let mut farm = Farm::new(name("a")).of_key(key);
    farm.apply(1, members.clone());
    assert_eq!(farm.status(2).expelled, None);
    farm.apply(2, record(&[("m", Role::Manager)], false));
    let why = farm.status(3).expelled.expect("it is removed");
    assert!(why.contains("a was removed") && why.contains("bellwether server add a"), "{why}");
    // Other hardware has the observer's name.
    let mut replaced = (**held).clone();
    let other = bellwether_proto::key::KeyPair::generate().public();
    replaced.servers.iter_mut().filter(|server| server.name == name("a")).for_each(|server| server.key = other);
    farm.apply(3, Event::Record(std::sync::Arc::new(replaced)));
    let why = farm.status(4).expelled.expect("it is replaced");
    assert!(why.contains("other hardware has taken the place of a") && why.contains("bellwether leave"), "{why}");
}

#[test]
fn the_record_says_who_is_out_of_service() {
    let Event::Record(held) = record(&[("a", Role::Member), ("m", Role::Manager)], false) else { panic!("a record") };
    let mut drained = (*held).clone();
    drained.servers.iter_mut().filter(|server| server.name == name("a")).for_each(|server| server.drained = true);
    let mut case = Case::new();
    case.farm.apply(1, Event::Record(std::sync::Arc::new(drained)));
    assert!(case.row("a").drained && !case.row("m").drained);
    case.farm.apply(2, Event::Record(held));
    assert!(!case.row("a").drained);
}
