use std::path::PathBuf;

use bellwether_group::rollout::{Order, Release};
use bellwether_proto::{
    key::KeyPair,
    record::{Level, Policy, Record, Role, RolloutPolicy, Server, SignedRecord},
    revision::{GroupId, Header},
};
use bellwether_random::headers::header;

use super::*;
use crate::lane::plan::Route;

/// A manager with revisions 1 to 3, and a member.
struct Farm {
    key: KeyPair,
    revisions: Vec<Arc<Stored>>,
    start: Now,
}

impl Farm {
    fn new() -> Self {
        let key = KeyPair::generate();
        let mut revisions: Vec<Arc<Stored>> = Vec::new();
        for sequence in 1..=3 {
            let parent = revisions.last().map(|parent| parent.header.id());
            let header = Header { parent, root: Hash::of(&[sequence as u8]), ..header(1, sequence) };
            let (header, pack) = (SignedHeader::sign(header, &key), Hash::of(&[sequence as u8]));
            let path = PathBuf::new();
            revisions.push(Arc::new(Stored {
                header,
                base: false,
                pack,
                size: 10,
                changes_end: 4,
                changes: 1,
                path,
                at: 0,
            }));
        }
        Self { key, revisions, start: Now { at: Instant::now(), ms: 1_000 } }
    }

    fn id(&self, sequence: usize) -> RevisionId {
        self.revisions[sequence - 1].header.id()
    }

    /// The session of a member at that revision, with that head.
    fn begin(&self, at: usize, head: usize, memory: Memory) -> (Session, Vec<Output>) {
        let server = |name: &str, key, role| Server {
            name: name.parse().unwrap(),
            key,
            address: format!("{name}:1"),
            role,
            candidate: false,
            backends: Vec::new(),
            drained: false,
        };
        let servers = vec![
            server("a", KeyPair::generate().public(), Role::Member),
            server("m", self.key.public(), Role::Manager),
        ];
        let record = Record {
            level: Level::NEWEST,
            group: GroupId::from([1; 16]),
            version: Version { epoch: Epoch(1), version: 4 },
            servers,
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        };
        let facts = Facts {
            record: Arc::new(SignedRecord::sign(record, &self.key).unwrap()),
            head: self.revisions[head - 1].clone(),
            published: self.start.at,
            procedures: None,
            order: Order { later: false, release: Release::default() },
        };
        let (manager, deadlines) = (self.key.public(), Deadlines::default());
        let ends = Ends { server: "a".parse().unwrap(), manager, deadlines };
        let at = self.revisions.get(at.wrapping_sub(1)).map(|at| at.header.to_wire());
        Session::begin(ends, facts, memory, &v1::UpHello { at, ..Default::default() }, self.start)
    }

    fn report(&self, sequence: usize, outcome: v1::Outcome) -> Input {
        let header = &self.revisions[sequence - 1].header;
        let root = header.header().root.into();
        let report = v1::Report { revision: header.id().0.into(), outcome: outcome.into(), root, ..Default::default() };
        Input::Heard(v1::Up { message: Some(v1::up::Message::Report(report)) })
    }
}

impl Ways for Farm {
    fn route(&self, _: Option<RevisionId>) -> Route {
        Route::Packs(self.revisions[1..].to_vec())
    }

    fn leads_from(&self, _: RevisionId) -> bool {
        true
    }
}

/// The kinds of the messages to send.
fn sent(session: &mut Session) -> Vec<&'static str> {
    use v1::down::Message;
    let kind = |outgoing| match outgoing {
        Outgoing::Message(Message::Record(_)) => "record",
        Outgoing::Message(Message::Keepalive(_)) => "keepalive",
        Outgoing::Message(Message::Offer(_)) => "offer",
        Outgoing::Message(Message::Head(_)) => "head",
        Outgoing::Message(Message::Sync(_)) => "sync",
        Outgoing::Message(_) | Outgoing::Supply { .. } => "other",
        Outgoing::Slice { .. } => "slice",
    };
    std::iter::from_fn(|| session.next_mail()).map(kind).collect()
}

fn sees(outputs: &[Output], wanted: impl Fn(&Observation) -> bool) -> bool {
    outputs.iter().any(|output| matches!(output, Output::See(seen) if wanted(seen)))
}

#[test]
fn one_step_behind_is_offered_at_once_and_the_pack_goes_before_the_word_of_the_head() {
    let farm = Farm::new();
    let (mut session, outputs) = farm.begin(2, 3, Memory::default());
    assert!(sees(&outputs, |seen| matches!(seen, Observation::Started { sync: false, .. })));
    assert!(matches!(outputs.last(), Some(Output::See(_))), "no look at the history: {outputs:?}");
    assert_eq!(sent(&mut session), ["record", "keepalive", "offer", "slice", "head"]);
    let outputs = session.handle(farm.start, farm.report(3, v1::Outcome::Done)).unwrap();
    assert!(sees(&outputs, |seen| matches!(seen, Observation::Done { .. })));
    assert_eq!(session.at().map(SignedHeader::id), Some(farm.id(3)));
    assert_eq!(session.phase().0, Phase::Idle);
}

#[test]
fn further_behind_is_planned_by_the_history_and_goes_on_as_a_sync() {
    let farm = Farm::new();
    let (mut session, outputs) = farm.begin(1, 3, Memory::default());
    let Some(Output::Plan(look)) = outputs.last() else { panic!("{outputs:?}") };
    let outputs = session.handle(farm.start, Input::Planned(look.plan(&farm))).unwrap();
    assert!(matches!(&outputs[0], Output::Open(pack) if pack.header.id() == farm.id(2)));
    let outputs = session.handle(farm.start, farm.report(2, v1::Outcome::Done)).unwrap();
    assert!(sees(&outputs, |seen| matches!(seen, Observation::Started { sync: true, .. })), "{outputs:?}");
}

#[test]
fn what_waits_is_not_planned_again_before_something_happens() {
    let farm = Farm::new();
    let (mut session, _) = farm.begin(1, 3, Memory::default());
    let outputs = session.handle(farm.start, Input::Planned(Step::NeedBase)).unwrap();
    assert!(matches!(outputs.as_slice(), [Output::WantBase]), "{outputs:?}");
    let outputs = session.handle(farm.start, Input::Tick).unwrap();
    assert!(matches!(outputs.as_slice(), [Output::Plan(_)]), "{outputs:?}");
    let outputs = session.handle(farm.start, Input::Planned(Step::NeedBase)).unwrap();
    assert!(outputs.is_empty(), "a base is asked for once: {outputs:?}");
}

#[test]
fn a_member_waits_for_its_wave() {
    let farm = Farm::new();
    let (mut session, _) = farm.begin(2, 2, Memory::default());
    let record = session.facts.record.record().clone();
    let policy = Policy { rollout: Some(RolloutPolicy::default()), ..record.policy.clone() };
    let record = Arc::new(SignedRecord::sign(Record { policy, ..record }, &farm.key).unwrap());
    session.handle(farm.start, Input::Record(record)).unwrap();
    sent(&mut session);
    let taken = |id| Release { gated: true, staged: None, taken: Some(id) };
    let offers = |outputs: Vec<Output>| outputs.iter().any(|output| matches!(output, Output::Open(_)));
    let inputs = [
        (Input::Head(farm.revisions[2].clone(), farm.start.at), false),
        (Input::Released(taken(farm.id(2))), false),
        (Input::Released(taken(farm.id(3))), true),
    ];
    for (input, goes) in inputs {
        let what = format!("{input:?}");
        assert_eq!(offers(session.handle(farm.start, input).unwrap()), goes, "{what}");
    }
}

#[test]
fn a_sync_settles_first_and_an_interrupted_one_begins_again() {
    let farm = Farm::new();
    let mut memory = Memory::default();
    memory.note(Control::Sync { full: false });
    let (mut session, outputs) = farm.begin(3, 3, memory);
    let Some(Output::Plan(look)) = outputs.last() else { panic!("{outputs:?}") };
    session.handle(farm.start, Input::Planned(look.plan(&farm))).unwrap();
    assert_eq!(sent(&mut session), ["record", "keepalive", "sync", "head"]);
    session.handle(farm.start, farm.report(3, v1::Outcome::Done)).unwrap();
    assert_eq!(session.memory().standing, Standing::Settled);
    let (session, _) = farm.begin(3, 3, session.end());
    assert_eq!(session.memory().standing, Standing::Asked { fault: None });
}

#[test]
fn a_report_of_what_was_never_offered_ends_the_connection() {
    let farm = Farm::new();
    for known in [true, false] {
        let (mut session, _) = farm.begin(3, 3, Memory::default());
        let outputs = session.handle(farm.start, farm.report(2, v1::Outcome::Refused)).unwrap();
        assert!(matches!(outputs.as_slice(), [Output::Find(id)] if *id == farm.id(2)), "{outputs:?}");
        let found = known.then(|| farm.revisions[1].header.clone());
        let ended = session.handle(farm.start, Input::Found(found));
        assert_eq!(matches!(ended, Err(End::Breach(_))), !known, "what an earlier connection offered counts");
    }
}

#[test]
fn a_member_whose_state_went_back_is_told_first_and_takes_nothing() {
    let farm = Farm::new();
    let mut memory = Memory::default();
    memory.keep_out("its state went back".to_owned());
    let (mut session, _) = farm.begin(2, 3, memory);
    assert!(session.at().is_none());
    assert_eq!(sent(&mut session), ["other", "record", "keepalive", "head"]);
}
