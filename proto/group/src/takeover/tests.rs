use bellwether_proto::{
    hash::Hash,
    key::KeyPair,
    record::{Level, Policy, Server},
    revision::{Epoch, Header},
};

use super::*;

/// `m` leads; `a` is this server, `b` another candidate, `c` none.
struct Farm {
    keys: Vec<KeyPair>,
    record: Record,
    account: Account,
    seen: Vec<SignedHeader>,
    others: BTreeMap<ServerName, Result<Answer, Silence>>,
}

fn name(text: &str) -> ServerName {
    text.parse().unwrap()
}

impl Farm {
    /// All revisions are 1.5; the manager does not answer.
    fn new() -> Self {
        let keys: Vec<KeyPair> = (0..4).map(|_| KeyPair::generate()).collect();
        let server = |(at, text): (usize, &str)| Server {
            name: name(text),
            key: keys[at].public(),
            address: format!("{text}:1"),
            role: if text == "m" { Role::Manager } else { Role::Member },
            candidate: text != "c",
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: Level::NEWEST,
            group: [1; 16].into(),
            version: Version { epoch: Epoch(1), version: 7 },
            servers: ["a", "b", "c", "m"].into_iter().enumerate().map(server).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        let mut farm = Self { keys, record, account: Account::default(), seen: Vec::new(), others: BTreeMap::new() };
        farm.seen = (1..=5).map(|sequence| farm.header(sequence)).collect();
        farm.account.at = farm.seen.last().cloned();
        farm.others.insert(name("m"), Err(Silence { there: false, why: "no answer".into() }));
        farm.answers("b", 5);
        farm.answers("c", 5);
        farm
    }

    fn header(&self, sequence: u64) -> SignedHeader {
        let header = Header {
            group: [1; 16].into(),
            number: Number { epoch: Epoch(1), sequence },
            parent: None,
            manager: name("m"),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: format!("change {sequence}"),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        SignedHeader::sign(header, &self.keys[3])
    }

    fn answers(&mut self, server: &str, sequence: u64) -> &mut Answer {
        let seen: Vec<_> = (1..=sequence).map(|sequence| self.header(sequence)).collect();
        let at = seen.last().cloned();
        let answer = Answer { record: self.record.version, at, seen, follows: false, leads: false, promotes: false };
        self.others.insert(name(server), Ok(answer));
        self.others.get_mut(&name(server)).unwrap().as_mut().unwrap()
    }

    fn judge(&self, force: bool, accept: bool) -> Result<Findings, Refused> {
        let own = name("a");
        let Self { record, account, seen, others, .. } = self;
        let led_by = |epoch: Epoch| (epoch == Epoch(1)).then(|| self.keys[3].public());
        Survey { led_by: &led_by, record, own: &own, account, seen, others }.judge(Insists { force, accept })
    }
}

#[test]
fn without_the_manager_the_most_advanced_candidate_takes_over() {
    let found = Farm::new().judge(false, false).expect("it may");
    assert_eq!((found.lost, found.epoch), (Vec::new(), 1));
    assert!(found.servers.iter().any(|line| line.starts_with("m, the manager, does not answer")));
}

#[test]
fn it_does_not_while_the_manager_answers_or_is_heard() {
    let mut farm = Farm::new();
    farm.answers("m", 5).leads = true;
    assert_eq!(farm.judge(false, false), Err(Refused::Answers(name("m"), name("a"))));
    assert!(farm.judge(true, false).is_ok());
    let mut farm = Farm::new();
    let refuses = Silence { there: true, why: "not a server of this group (any more)".into() };
    farm.others.insert(name("m"), Err(refuses));
    assert_eq!(farm.judge(false, false), Err(Refused::Answers(name("m"), name("a"))), "it was removed there");
    let mut farm = Farm::new();
    farm.answers("c", 5).follows = true;
    assert_eq!(farm.judge(false, false), Err(Refused::Heard(name("c"), name("m"))));
    assert!(farm.judge(true, false).is_ok());
}

#[test]
fn it_does_not_while_another_candidate_has_more_and_what_may_be_lost_is_named() {
    let mut farm = Farm::new();
    farm.answers("b", 7);
    let at = |sequence| Number { epoch: Epoch(1), sequence };
    assert_eq!(farm.judge(false, false), Err(Refused::Behind(name("b"), at(7), at(5))));
    let found = farm.judge(true, false).expect("insisted");
    assert_eq!(found.lost.len(), 2);
    assert!(found.lost[0].starts_with("1.6") && found.lost[1].contains("change 7 (seen by b)"), "{:?}", found.lost);
    // A server that is no candidate cannot take over instead: its revisions are named, but not waited for.
    let mut farm = Farm::new();
    farm.answers("c", 6);
    assert_eq!(farm.judge(false, false).expect("it may").lost.len(), 1);
}

#[test]
fn what_this_server_has_only_heard_of_is_lost_too() {
    let mut farm = Farm::new();
    let heard = farm.header(6);
    farm.seen.push(heard);
    let found = farm.judge(false, false).expect("it may");
    assert!(found.lost.len() == 1 && found.lost[0].contains("change 6 (seen by a)"), "{:?}", found.lost);
}

#[test]
fn what_was_edited_or_failed_here_does_not_become_the_truth_unasked() {
    let mut farm = Farm::new();
    farm.account.drift = (2, vec!["web:a".into(), "web:b".into()]);
    assert_eq!(farm.judge(true, false), Err(Refused::Drift(2, "web:a, web:b".into())));
    assert!(farm.judge(false, true).is_ok());
    let mut farm = Farm::new();
    farm.account.fault = Some("disk".into());
    assert_eq!(farm.judge(true, false), Err(Refused::Fault("disk".into())));
    farm.account.at = None;
    assert_eq!(farm.judge(true, true), Err(Refused::Empty));
}

#[test]
fn what_nobody_of_the_group_signed_is_not_said_to_be_lost() {
    let mut farm = Farm::new();
    let forged = SignedHeader::sign(farm.header(9).header().clone(), &KeyPair::generate());
    farm.answers("c", 5).seen.push(forged);
    assert_eq!(farm.judge(false, false).expect("it may").lost, [] as [String; 0]);
}

#[test]
fn a_higher_epoch_that_somebody_knows_is_told() {
    let mut farm = Farm::new();
    farm.answers("b", 5).record.epoch = Epoch(3);
    assert_eq!(farm.judge(true, false).expect("insisted").epoch, 3);
    farm.answers("c", 5).record.epoch = Epoch(u64::MAX);
    assert_eq!(farm.judge(true, false).expect("insisted").epoch, 3, "nobody uses the epochs up");
}

#[test]
fn a_claim_to_have_seen_more_counts_when_the_manager_signed_it() {
    let mut farm = Farm::new();
    let mut own = farm.header(9).header().clone();
    own.manager = name("b");
    let claim = SignedHeader::sign(own, &farm.keys[1]);
    farm.answers("b", 5).at = Some(claim);
    assert!(farm.judge(false, false).is_ok());
}

#[test]
fn of_two_that_promote_themselves_at_once_one_gives_way_whatever_each_has_seen() {
    let answer = |promotes| {
        let record = Version { epoch: Epoch(1), version: 1 };
        Ok(Answer { record, at: None, seen: Vec::new(), follows: false, leads: false, promotes })
    };
    let silent = || Err(Silence { there: false, why: "no answer".to_owned() });
    let turn = |own: &str, others: Vec<(&str, Result<Answer, Silence>)>| {
        Turn::of(&own.parse().unwrap(), &others.into_iter().map(|(name, said)| (name.parse().unwrap(), said)).collect())
    };
    assert_eq!(turn("b", vec![("a", answer(false)), ("c", silent())]), Turn::Mine);
    // Each sees the other: one waits, one gives way.
    assert_eq!(turn("a", vec![("b", answer(true))]), Turn::Waits("b".parse().unwrap()));
    assert_eq!(turn("b", vec![("a", answer(true))]), Turn::GivesWay("a".parse().unwrap()));
    assert_eq!(turn("b", vec![("a", answer(true)), ("c", answer(true))]), Turn::GivesWay("a".parse().unwrap()));
}
