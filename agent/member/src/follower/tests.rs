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
    /// The revisions after the one held that its history has.
    kept: Vec<SignedHeader>,
    fault: Option<v1::Fault>,
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
        let mut member =
            Self { key, record, at: Some(first), head, kept: Vec::new(), fault: None, now: Instant::now(), follower };
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
            fault: self.fault.as_ref(),
            proven: Proven::Yes,
            kept: &|id| self.at.iter().chain(&self.kept).find(|header| header.id() == id).cloned(),
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

    /// It is switched to, and commands are owed.
    fn switched(&mut self, validation: Validation) -> Vec<Output> {
        self.offered();
        assert!(has(&self.put(Input::Arrived(Ok(Arrived::Whole))), |output| matches!(
            output,
            Output::Stage { keep: false }
        )));
        let mut outputs = self.put(Input::Staged(Ok(validation)));
        if validation == Validation::Before {
            assert!(has(&outputs, |output| matches!(output, Output::Validate)));
            outputs = self.put(Input::Validated(Validated::Good));
        }
        assert!(has(&outputs, |output| matches!(output, Output::Switch(now) if *now == validation)));
        let (root, kept, edits) = (Hash::of(&[2]), Vec::new(), Edits::default());
        self.put(Input::Switched(Switched::Done { root, stage_us: 1, switch_us: 1, kept, edits, owed: true }))
    }

    fn returned(&mut self) -> Vec<Output> {
        let header = self.at.clone().expect("the first revision");
        self.put(Input::Returned(Ok(Returned { header, kept: Vec::new(), edits: Edits::default() })))
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
            [] => has(&outputs, |output| matches!(output, Output::Stage { .. })).then_some("stage"),
            [up::Message::Want(v1::Want { want: Some(v1::want::Want::Chunks(_)) })] => Some("chunks"),
            [up::Message::Want(v1::Want { want: Some(v1::want::Want::Range(_)) })] => Some("bytes"),
            _ => None,
        }
    };
    assert_eq!([0, 1, 4, 5, 9].map(want), ["stage", "chunks", "chunks", "bytes", "bytes"].map(Some));
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
    assert!(has(&outputs, |output| matches!(output, Output::Stage { .. })));
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
    let trouble =
        Trouble { reason: "no space".to_owned(), cause: Some(Cause::Space), look: None, output: String::new() };
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
    member.put(Input::Verified(v1::Verified::default(), edited()));
    assert!(matches!(member.put(Input::Revert).as_slice(), [Output::PutBack]));
    assert!(member.put(Input::Revert).is_empty(), "not again at once");
}

fn complaint(reason: &str) -> Complaint {
    Complaint { reason: reason.to_owned(), output: "line 1\nline 2".to_owned(), unconfirmed: false }
}

fn proves(outputs: &[Output]) -> bool {
    has(outputs, |output| matches!(output, Output::Prove))
}

fn done(outputs: &[Output]) -> bool {
    sent(outputs).iter().any(|message| matches!(message, up::Message::Report(r) if r.outcome() == Outcome::Done))
}

#[test]
fn a_revision_that_a_command_refuses_is_not_switched_to_and_not_taken_again_before_a_sync() {
    let mut member = Member::new(OnDrift::Report);
    member.offered();
    member.put(Input::Arrived(Ok(Arrived::Whole)));
    member.put(Input::Staged(Ok(Validation::Before)));
    let outputs = member.put(Input::Validated(Validated::Bad(complaint("bad"))));
    assert_eq!(refusal(&outputs), Some("bad"));
    let told =
        |message: &&up::Message| matches!(message, up::Message::Report(report) if report.output.ends_with("line 2"));
    assert!(sent(&outputs).iter().any(told), "{outputs:?}");
    assert!(matches!(outputs[..2], [Output::Shelve, Output::Drop]), "what is staged goes, and its pack stays");
    assert_eq!(refusal(&member.offered()), Some("bad"));
    member.said(down::Message::Sync(v1::Sync::default()));
    member.put(Input::Finished(Err("over".to_owned())));
    assert!(has(&member.offered(), |output| matches!(output, Output::Receive { .. })));
}

#[test]
fn a_new_stream_ends_a_validation_but_not_the_proof_of_what_is_in_the_sets() {
    let mut member = Member::new(OnDrift::Report);
    member.offered();
    member.put(Input::Arrived(Ok(Arrived::Whole)));
    member.put(Input::Staged(Ok(Validation::Before)));
    assert!(has(&member.put(Input::Closed(1)), |output| matches!(output, Output::Drop)));
    assert!(member.put(Input::Validated(Validated::Good)).is_empty(), "it was given up");

    let mut member = Member::new(OnDrift::Report);
    assert!(proves(&member.switched(Validation::After)));
    assert!(!has(&member.put(Input::Closed(1)), |output| matches!(output, Output::Drop)));
    let outputs = member.put(Input::Proved(Ok(())));
    assert!(done(&outputs) && has(&outputs, |output| matches!(output, Output::Proved)), "{outputs:?}");
}

#[test]
fn while_commands_run_an_offer_is_put_off_and_a_sync_waits() {
    let mut member = Member::new(OnDrift::Report);
    member.switched(Validation::Before);
    assert!(member.offered().is_empty(), "it is the same one: its report is the answer");
    let next = member.head.header().clone();
    let next = Header { parent: Some(member.head.id()), number: next.number.next(Epoch(1)).unwrap(), ..next };
    let next = SignedHeader::sign(next, &member.key);
    let proved = std::mem::replace(&mut member.head, next);
    let outputs = member.offered();
    member.head = proved;
    assert!(refusal(&outputs).is_some_and(|why| why.contains("are running")), "{outputs:?}");
    assert!(member.said(down::Message::Sync(v1::Sync::default())).is_empty());
    let outputs = member.put(Input::Proved(Ok(())));
    assert!(done(&outputs) && has(&outputs, |output| matches!(output, Output::Finish)), "{outputs:?}");
}

#[test]
fn what_a_command_refuses_after_the_switch_is_taken_back_and_the_service_is_proved_again() {
    let mut member = Member::new(OnDrift::Report);
    member.switched(Validation::Before);
    let outputs = member.put(Input::Proved(Err(complaint("no answer"))));
    assert!(matches!(outputs.as_slice(), [Output::Return(why)] if why.reason == "no answer"), "{outputs:?}");
    assert!(proves(&member.returned()));
    let outputs = member.put(Input::Proved(Ok(())));
    assert_eq!(refusal(&outputs), Some("no answer; 1.2 was taken back, and 1.1 is in force again"));
    assert!(!done(&outputs) && member.follower.is_idle());
}

#[test]
fn a_service_that_fails_with_the_revision_before_too_is_an_error() {
    for come in [true, false] {
        let mut member = Member::new(OnDrift::Report);
        member.switched(Validation::Before);
        member.put(Input::Proved(Err(complaint("no answer"))));
        let outputs = if come {
            member.returned();
            member.put(Input::Proved(Err(complaint("dead"))))
        } else {
            member.put(Input::Returned(Err("a chunk is missing".to_owned())))
        };
        let fault =
            outputs.iter().find_map(|output| if let Output::Fault(why) = output { why.as_deref() } else { None });
        let expected =
            if come { "with 1.1 its service fails, too: dead" } else { "stays in the sets: a chunk is missing" };
        assert!(fault.is_some_and(|why| why.contains("no answer") && why.contains(expected)), "{outputs:?}");
        assert!(has(&outputs, |output| matches!(output, Output::Proved)), "nothing is owed any more");
    }
}

#[test]
fn what_was_owed_goes_on_after_a_start() {
    let owed = |member: &Member, back| Owed { held: member.head.clone(), root: Hash::of(&[2]), back };
    let mut member = Member::new(OnDrift::Report);
    let forward = owed(&member, None);
    assert!(proves(&member.put(Input::Owed(Box::new(forward)))));
    assert!(done(&member.put(Input::Proved(Ok(())))));

    let mut member = Member::new(OnDrift::Report);
    let goes = owed(&member, Some(Back::Goes(complaint("no answer"))));
    assert!(matches!(member.put(Input::Owed(Box::new(goes))).as_slice(), [Output::Return(_)]));
    assert!(proves(&member.returned()));

    let mut member = Member::new(OnDrift::Report);
    let came = Some(Back::Came(Box::new(member.head.clone()), complaint("no answer")));
    let came = Owed { held: member.at.clone().expect("the first"), ..owed(&member, came) };
    assert!(proves(&member.put(Input::Owed(Box::new(came)))));
    assert!(
        refusal(&member.put(Input::Proved(Ok(())))).is_some_and(|why| why.starts_with("no answer; 1.2 was taken back"))
    );
}

#[test]
fn what_is_held_by_now_is_reported_again_where_it_is_offered() {
    let mut member = Member::new(OnDrift::Report);
    member.at = Some(member.head.clone());
    let header = Some(member.head.to_wire());
    let outputs = member.said(down::Message::Offer(v1::Offer { header, size: 100, to: 10, ..Default::default() }));
    assert!(done(&outputs) && refusal(&outputs).is_none(), "{outputs:?}");
}

#[test]
fn commands_that_run_keep_nobody_from_looking() {
    let mut member = Member::new(OnDrift::Report);
    member.offered();
    member.put(Input::Arrived(Ok(Arrived::Whole)));
    member.put(Input::Staged(Ok(Validation::Before)));
    member.put(Input::Changed(Look::Stats));
    assert!(matches!(member.put(Input::CatchUp).as_slice(), [Output::Look { .. }]));
    member.put(Input::Validated(Validated::Good));
    let (root, kept, edits) = (Hash::of(&[2]), Vec::new(), Edits::default());
    member.put(Input::Switched(Switched::Done { root, stage_us: 1, switch_us: 1, kept, edits, owed: false }));
    assert!(matches!(member.put(Input::CatchUp).as_slice(), [Output::Look { .. }]), "again after the switch");
}

#[test]
fn a_sync_waits_for_the_way_back_too() {
    let mut member = Member::new(OnDrift::Report);
    member.switched(Validation::Before);
    member.said(down::Message::Sync(v1::Sync::default()));
    member.put(Input::Proved(Err(complaint("no answer"))));
    member.returned();
    assert!(has(&member.put(Input::Proved(Ok(()))), |output| matches!(output, Output::Finish)));
}

/// The head, an increment, is offered to be staged, and arrives whole.
fn staged(member: &mut Member) -> Vec<Output> {
    let header = Some(member.head.to_wire());
    let offer = v1::Offer { header, size: 100, to: 100, r#use: v1::Use::Stage.into(), ..v1::Offer::default() };
    assert!(has(&member.said(down::Message::Offer(offer)), |o| matches!(o, Output::Receive { plan: true, .. })));
    let outputs = member.put(Input::Arrived(Ok(Arrived::Whole)));
    assert!(has(&outputs, |output| matches!(output, Output::Stage { keep: true })), "{outputs:?}");
    member.put(Input::Staged(Ok(Validation::Before)));
    let outputs = member.put(Input::Validated(Validated::Good));
    assert!(!has(&outputs, |output| matches!(output, Output::Switch(_))), "it waits: {outputs:?}");
    outputs
}

fn switch(header: &SignedHeader) -> down::Message {
    down::Message::Switch(v1::Switch { revision: header.id().0.into() })
}

fn switches(outputs: &[Output]) -> bool {
    has(outputs, |output| matches!(output, Output::Switch(Validation::Before)))
}

#[test]
fn a_staged_revision_waits_until_the_manager_says_that_it_is_switched_to() {
    let mut member = Member::new(OnDrift::Report);
    let outputs = staged(&mut member);
    let told = |message: &&up::Message| matches!(message, up::Message::Staged(staged) if !staged.later);
    assert!(sent(&outputs).iter().any(told), "{outputs:?}");
    let other = member.at.clone().expect("the first");
    assert!(member.said(switch(&other)).is_empty(), "another revision");
    member.put(Input::Changed(Look::Stats));
    assert!(matches!(member.put(Input::CatchUp).as_slice(), [Output::Look { .. }]), "the sets are looked at");
    let head = member.head.clone();
    assert!(switches(&member.said(switch(&head))));

    let mut member = Member::new(OnDrift::Report);
    staged(&mut member);
    assert!(has(&member.put(Input::Closed(1)), |output| matches!(output, Output::Drop)));
    assert!(member.said(switch(&head)).is_empty(), "it went with the stream");
}

#[test]
fn what_needs_the_sets_does_not_wait_for_a_staged_revision() {
    type Ask = fn(&mut Member) -> Vec<Output>;
    let asks: [(&str, Ask); 3] = [
        ("a person", |member| member.put(Input::Asked)),
        ("a verification", |member| {
            member.said(down::Message::Verify(v1::Verify { full: true }));
            member.put(Input::CatchUp)
        }),
        ("the policy for drift", |member| {
            member.put(Input::Compared(edited()));
            member.put(Input::Revert)
        }),
    ];
    for (what, ask) in asks {
        let mut member = Member::new(OnDrift::Revert);
        staged(&mut member);
        let outputs = ask(&mut member);
        assert!(has(&outputs, |output| matches!(output, Output::Drop)), "{what}: {outputs:?}");
        assert!(refusal(&outputs).is_some_and(|why| why.contains("needed for something else")), "{what}: {outputs:?}");
        assert!(member.follower.is_idle() && member.follower.waits(), "{what}: it is asked for again");
    }
}

#[test]
fn a_revision_that_is_only_kept_is_a_step_to_the_next_one() {
    let mut member = Member::new(OnDrift::Report);
    let offer = |header: &SignedHeader, purpose: v1::Use| {
        let (header, purpose) = (Some(header.to_wire()), purpose.into());
        down::Message::Offer(v1::Offer { header, size: 100, to: 100, r#use: purpose, ..v1::Offer::default() })
    };
    let second = member.head.clone();
    let third = Header {
        parent: Some(second.id()),
        number: second.number().next(Epoch(1)).unwrap(),
        ..second.header().clone()
    };
    let third = SignedHeader::sign(third, &member.key);
    assert!(refusal(&member.said(offer(&third, v1::Use::Unspecified))).is_some(), "its parent is not here");

    let outputs = member.said(offer(&second, v1::Use::Keep));
    assert!(has(&outputs, |output| matches!(output, Output::Receive { plan: false, .. })), "{outputs:?}");
    assert!(matches!(member.put(Input::Arrived(Ok(Arrived::Whole))).as_slice(), [Output::Keep { stage: false }]));
    let outputs = member.put(Input::Kept(Ok(Vec::new())));
    assert!(matches!(sent(&outputs).as_slice(), [up::Message::Kept(_)]) && member.follower.is_idle());

    member.kept.push(second);
    let outputs = member.said(offer(&third, v1::Use::Unspecified));
    assert!(has(&outputs, |output| matches!(output, Output::Receive { plan: false, .. })), "{outputs:?}");
    assert!(matches!(member.put(Input::Arrived(Ok(Arrived::Whole))).as_slice(), [Output::Keep { stage: true }]));
    let missing = vec![Chunk { hash: Hash::of(&[0]), length: 1 }];
    let outputs = member.put(Input::Kept(Ok(missing)));
    assert!(matches!(sent(&outputs).as_slice(), [up::Message::Want(_)]), "{outputs:?}");
    member.supply(true);
    let outputs = member.put(Input::Supplied(Ok(vec![Hash::of(&[0])])));
    assert!(has(&outputs, |output| matches!(output, Output::Stage { keep: false })), "{outputs:?}");
}

#[test]
fn the_way_back_of_an_unconfirmed_revision_is_tried_once_and_then_waits_for_a_sync() {
    let mut member = Member::new(OnDrift::Report);
    let unconfirmed = || Input::Unconfirmed(Complaint::unconfirmed("nobody confirmed it".to_owned()));
    assert!(matches!(member.put(unconfirmed()).as_slice(), [Output::Return(_)]));
    member.put(Input::Returned(Err("a chunk is missing".to_owned())));
    member.fault = Some(v1::Fault { reason: "a chunk is missing".to_owned(), since_ms: 0 });
    assert!(member.put(unconfirmed()).is_empty());
    member.fault = None;
    assert!(matches!(member.put(unconfirmed()).as_slice(), [Output::Return(_)]), "after the sync");
}
