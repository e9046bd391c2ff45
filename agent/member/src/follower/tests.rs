use std::time::{Duration, Instant};

use bellwether_proto::{
    key::KeyPair,
    record::{Level, Policy, Record, Role, Server, Version},
    revision::{Epoch, GroupId, Header},
};

use super::*;

/// A member of a group whose manager has two revisions; the first one is held.
struct Member {
    key: KeyPair,
    record: Record,
    at: Option<SignedHeader>,
    head: SignedHeader,
    now: Instant,
    follower: Follower,
}

impl Member {
    fn new(drift: OnDrift) -> Self {
        let key = KeyPair::generate();
        let header = |sequence: u64, parent: Option<&SignedHeader>| {
            let header = Header {
                group: GroupId::from([1; 16]),
                number: Number { epoch: Epoch(1), sequence },
                parent: parent.map(SignedHeader::id),
                manager: "m".parse().unwrap(),
                incarnation: 1,
                time_ms: 0,
                author: String::new(),
                message: String::new(),
                labels: Default::default(),
                root: Hash::of(&[sequence as u8]),
            };
            SignedHeader::sign(header, &key)
        };
        let first = header(1, None);
        let head = header(2, Some(&first));
        let manager = Server {
            name: "m".parse().unwrap(),
            key: key.public(),
            address: "m:1".to_owned(),
            role: Role::Manager,
            candidate: true,
            backends: Vec::new(),
            drained: false,
        };
        let record = Record {
            level: Level::NEWEST,
            group: GroupId::from([1; 16]),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: vec![manager],
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy { drift, ..Policy::new(Vec::new()) },
            log: Vec::new(),
            previous: None,
        };
        let follower = Follower::new("a".parse().unwrap());
        let mut member = Self { key, record, at: Some(first), head, now: Instant::now(), follower };
        let hello = Box::default();
        member.put(Input::Opened { session: 1, key: member.key.public(), hello });
        member
    }

    fn put(&mut self, input: Input) -> Vec<Output> {
        let manager = Some(self.key.public());
        let facts = Facts {
            now: self.now,
            now_ms: 0,
            record: &self.record,
            manager_of: &|_| manager,
            quarantined: &|_| None,
            at: self.at.as_ref(),
            fault: None,
        };
        self.follower.handle(&facts, input)
    }

    fn said(&mut self, message: down::Message) -> Vec<Output> {
        self.put(Input::Said(1, message))
    }

    /// The base of the head is offered.
    fn offered(&mut self) -> Vec<Output> {
        let header = Some(self.head.to_wire());
        self.said(down::Message::Offer(v1::Offer { header, base: true, size: 100, to: 10, ..Default::default() }))
    }

    /// It has come as far as its changes, and so many chunks of one byte are missing of ten.
    fn lacks(&mut self, missing: u8) -> Vec<Output> {
        self.offered();
        let missing = (0..missing).map(|n| Chunk { hash: Hash::of(&[n]), length: 1 }).collect();
        let rest = v1::Range { from: 10, to: 100 };
        self.put(Input::Arrived(Ok(Arrived::Paused { missing, in_pack: 10, rest })))
    }

    fn supply(&mut self, last: bool) -> Vec<Output> {
        self.said(down::Message::Supply(v1::Supply { frames: vec![1].into(), last, missing: Vec::new() }))
    }
}

fn sent(outputs: &[Output]) -> Vec<&up::Message> {
    outputs.iter().filter_map(|output| if let Output::Send(message) = output { Some(message) } else { None }).collect()
}

fn refusal(outputs: &[Output]) -> Option<&str> {
    sent(outputs).into_iter().find_map(|message| match message {
        up::Message::Report(report) if report.outcome() == Outcome::Refused => Some(report.reason.as_str()),
        _ => None,
    })
}

fn has(outputs: &[Output], is: impl Fn(&Output) -> bool) -> bool {
    outputs.iter().any(is)
}

fn edited() -> Edits {
    Edits { entries: 1, paths: vec!["web:x".to_owned()], ungiven: true, away: String::new() }
}

#[test]
fn only_the_stream_that_is_followed_is_heard() {
    let mut member = Member::new(OnDrift::Report);
    let head = down::Message::Head(member.head.to_wire());
    assert!(member.put(Input::Said(7, head.clone())).is_empty());
    assert!(member.put(Input::Closed(7)).is_empty());
    assert!(has(&member.said(head), |output| matches!(output, Output::Head(_))));
    assert!(member.said(down::Message::Slice(v1::Slice::default())).is_empty(), "nothing was offered");
}

#[test]
fn little_that_is_missing_is_asked_for_by_hash_and_much_by_bytes() {
    let want = |missing| {
        let outputs = Member::new(OnDrift::Report).lacks(missing);
        let messages = sent(&outputs);
        match messages.as_slice() {
            [] => has(&outputs, |output| matches!(output, Output::Switch)).then_some("switch"),
            [up::Message::Want(v1::Want { want: Some(v1::want::Want::Chunks(_)) })] => Some("chunks"),
            [up::Message::Want(v1::Want { want: Some(v1::want::Want::Range(_)) })] => Some("bytes"),
            _ => None,
        }
    };
    assert_eq!([0, 1, 4, 5, 9].map(want), ["switch", "chunks", "chunks", "bytes", "bytes"].map(Some));
}

#[test]
fn a_chunk_comes_once_and_only_where_it_was_asked_for() {
    for came in [vec![Hash::of(&[9])], vec![Hash::of(&[0]), Hash::of(&[0])]] {
        let mut member = Member::new(OnDrift::Report);
        member.lacks(2);
        assert!(has(&member.supply(false), |output| matches!(output, Output::Supply(_))));
        let outputs = member.put(Input::Supplied(Ok(came)));
        assert!(refusal(&outputs).is_some_and(|why| why.contains("was not asked for, or came before")), "{outputs:?}");
    }
    let mut member = Member::new(OnDrift::Report);
    member.lacks(2);
    let nothing = v1::Supply::default();
    assert!(refusal(&member.said(down::Message::Supply(nothing))).is_some_and(|why| why.contains("it brings nothing")));
    let mut member = Member::new(OnDrift::Report);
    member.lacks(2);
    member.supply(true);
    let outputs = member.put(Input::Supplied(Ok([0u8, 1].map(|n| Hash::of(&[n])).into())));
    assert!(has(&outputs, |output| matches!(output, Output::Switch)));
}

#[test]
fn edits_hold_a_revision_back_but_not_the_sync_of_a_member_that_is_fenced() {
    let mut member = Member::new(OnDrift::Hold);
    member.put(Input::Compared(edited()));
    assert!(refusal(&member.offered()).is_some_and(|why| why.contains("1 entry was edited here, web:x first")));
    let outputs = member.said(down::Message::Fence(v1::Fence { reason: "it went back".to_owned() }));
    assert!(has(&outputs, |output| matches!(output, Output::Fence(_))));
    member.at = None;
    member.said(down::Message::Sync(v1::Sync::default()));
    assert!(has(&member.put(Input::Finished(Ok(()))), |output| matches!(output, Output::Fault(None))));
    assert!(has(&member.offered(), |output| matches!(output, Output::Receive { .. })));
}

#[test]
fn a_revision_is_asked_for_again_when_its_obstacle_is_gone() {
    let mut member = Member::new(OnDrift::Report);
    member.offered();
    let trouble = Trouble { reason: "no space".to_owned(), cause: Some(Cause::Space), look: None };
    assert_eq!(refusal(&member.put(Input::Arrived(Err(trouble)))), Some("no space"));
    assert!(member.follower.waits());
    let look = |member: &mut Member, there| {
        let outputs = member.put(Input::LookForObstacle);
        assert!(matches!(outputs.as_slice(), [Output::LookForObstacle]));
        member.now += Duration::from_millis(100);
        member.put(Input::Obstacle(Some(there)))
    };
    assert!(look(&mut member, true).is_empty());
    assert!(matches!(look(&mut member, false).as_slice(), [Output::Send(up::Message::Again(_))]));
    assert!(member.put(Input::LookForObstacle).is_empty(), "it was asked for, and is waited for");
}

#[test]
fn what_waits_is_done_when_nothing_is_under_way() {
    let mut member = Member::new(OnDrift::Revert);
    member.offered();
    member.said(down::Message::Verify(v1::Verify { full: true }));
    assert!(member.put(Input::CatchUp).is_empty() && member.put(Input::Revert).is_empty());
    let outputs = member.put(Input::Closed(1));
    assert!(has(&outputs, |output| matches!(output, Output::Drop)));
    assert!(matches!(member.put(Input::CatchUp).as_slice(), [Output::Verify { full: true }]));
    member.put(Input::Verified(Ok((v1::Verified::default(), edited()))));
    assert!(matches!(member.put(Input::Revert).as_slice(), [Output::PutBack]));
    assert!(member.put(Input::Revert).is_empty(), "not again at once");
}
