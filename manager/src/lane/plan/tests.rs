use std::path::PathBuf;

use bellwether_proto::{
    key::KeyPair,
    revision::{Header, SignedHeader},
};
use bellwether_random::headers::header;

use super::*;

fn stored(sequence: u64, base: bool) -> Arc<Stored> {
    // Each has another key: headers identify revisions, and hashes identify packs.
    let header = SignedHeader::sign(header(1, sequence), &KeyPair::generate());
    let pack = Hash::of(&[base as u8, sequence as u8]);
    Arc::new(Stored { header, base, pack, size: 1000, changes_end: 100, changes: 1, path: PathBuf::new(), at: 0 })
}

/// Revisions 1 to 4; bases of 1 and of 3.
struct Farm {
    base1: Arc<Stored>,
    base3: Arc<Stored>,
    increments: Vec<Arc<Stored>>,
}

impl Farm {
    fn new() -> Self {
        Self { base1: stored(1, true), base3: stored(3, true), increments: (2..=4).map(|n| stored(n, false)).collect() }
    }

    fn id(&self, sequence: u64) -> RevisionId {
        if sequence == 1 { self.base1.header.id() } else { self.increments[sequence as usize - 2].header.id() }
    }

    fn plan(&self, member: &Member, paused: bool) -> Step {
        self.plan_newcomer(member, paused, Newcomer::GoesOn)
    }

    fn plan_newcomer(&self, member: &Member, paused: bool, newcomer: Newcomer) -> Step {
        let (revision, number) = (self.id(4), self.increments[2].header.number());
        let due = if paused { Due::Held } else { Due::Now };
        plan(member, &Target { revision, number, due }, newcomer, self)
    }

    fn sends(&self, member: &Member, paused: bool) -> Sending {
        match self.plan(member, paused) {
            Step::Send(sending) => sending,
            other => panic!("{other:?}"),
        }
    }
}

impl Ways for Farm {
    fn route(&self, from: Option<RevisionId>) -> Route {
        if from == Some(self.id(4)) {
            return Route::Nothing;
        }
        let known = (1..4).find(|n| from == Some(self.id(*n)));
        Route::Packs(match known {
            Some(n) => self.increments[n as usize - 1..].to_vec(),
            None => vec![self.base3.clone(), self.increments[2].clone()],
        })
    }

    fn leads_from(&self, _: RevisionId) -> bool {
        true
    }
}

fn at(id: RevisionId) -> Member {
    Member { at: Some(id), ..Member::default() }
}

#[test]
fn one_behind_gets_the_whole_increment_as_an_update() {
    let farm = Farm::new();
    let sending = farm.sends(&at(farm.id(3)), false);
    assert_eq!(sending.pack.header.id(), farm.id(4));
    assert_eq!((sending.from, sending.to, sending.sync), (0, 1000, false));
}

#[test]
fn further_behind_gets_the_chain_as_a_sync() {
    let farm = Farm::new();
    let sending = farm.sends(&at(farm.id(1)), false);
    assert_eq!(sending.pack.header.id(), farm.id(2));
    assert!(sending.sync);
}

#[test]
fn at_the_head_nothing_is_sent() {
    let farm = Farm::new();
    assert!(matches!(farm.plan(&at(farm.id(4)), false), Step::Nothing));
    assert!(matches!(farm.plan(&at(farm.id(4)), true), Step::Nothing));
}

#[test]
fn at_nothing_gets_the_changes_of_a_base_first() {
    let farm = Farm::new();
    let sending = farm.sends(&Member::default(), false);
    assert!(sending.pack.base && sending.sync);
    assert_eq!((sending.from, sending.to), (0, 100));
}

#[test]
fn a_newcomer_goes_to_the_head_in_one_step_where_that_is_soon_made() {
    let mut farm = Farm::new();
    let waits = |farm: &Farm, member: &Member| farm.plan_newcomer(member, false, Newcomer::Waits);
    let newcomer = Member::default();
    assert!(matches!(waits(&farm, &newcomer), Step::NeedBase));
    assert!(farm.sends(&newcomer, false).pack.base, "it has waited");
    assert!(matches!(waits(&farm, &at(farm.id(1))), Step::Send(sending) if !sending.pack.base), "it is no newcomer");
    farm.base3 = Arc::new(Stored { size: SMALL + 1, ..Stored::clone(&farm.base3) });
    let large = "a large tree is not packed again for one server";
    assert!(matches!(waits(&farm, &newcomer), Step::Send(sending) if sending.pack.base), "{large}");
}

#[test]
fn no_way_leads_through_a_revision_whose_rollout_was_stopped() {
    for label in [TAKEN_BACK, REPLACES] {
        let mut farm = Farm::new();
        let taken_back = Header { labels: [(label.to_owned(), "1.3".to_owned())].into(), ..header(1, 4) };
        let taken_back = SignedHeader::sign(taken_back, &KeyPair::generate());
        farm.increments[2] = Arc::new(Stored { header: taken_back, ..Stored::clone(&farm.increments[2]) });
        assert!(matches!(farm.plan(&at(farm.id(2)), false), Step::NeedBase), "{label}");
        assert_eq!(farm.sends(&at(farm.id(3)), false).pack.header.id(), farm.id(4), "it holds the stopped one");
        let (head, id) = (farm.increments[2].header.clone(), farm.id(4));
        farm.base3 = Arc::new(Stored { header: head, ..Stored::clone(&farm.base3) });
        // The base of the head is followed by nothing.
        struct Based<'a>(&'a Farm);
        impl Ways for Based<'_> {
            fn route(&self, from: Option<RevisionId>) -> Route {
                if from.is_some() { self.0.route(from) } else { Route::Packs(vec![self.0.base3.clone()]) }
            }
            fn leads_from(&self, _: RevisionId) -> bool {
                true
            }
        }
        let target = Target { revision: id, number: farm.increments[2].header.number(), due: Due::Now };
        let step = plan(&at(farm.id(2)), &target, Newcomer::GoesOn, &Based(&farm));
        assert!(matches!(step, Step::Send(sending) if sending.pack.base), "{label}");
    }
}

#[test]
fn an_interrupted_pack_goes_on() {
    let farm = Farm::new();
    let partial = |pack: &Arc<Stored>, bytes| Member { partial: Some((pack.pack, bytes)), ..Member::default() };
    let went = |member: &Member| {
        let sending = farm.sends(member, false);
        (sending.from, sending.to)
    };
    assert_eq!(went(&partial(&farm.base3, 60)), (60, 100));
    assert_eq!(went(&partial(&farm.base3, 100)), (100, 1000));
    assert_eq!(went(&partial(&farm.base3, 500)), (500, 1000));
    assert_eq!(went(&partial(&farm.base3, 1001)), (0, 100), "more than there is: not believed");
    assert_eq!(went(&partial(&farm.base1, 60)), (0, 100), "another pack");
    let update = Member { at: Some(farm.id(3)), ..partial(&farm.increments[2], 300) };
    assert_eq!(went(&update), (300, 1000));
}

fn faulty(at: Option<RevisionId>) -> Member {
    Member { at, standing: Standing::Faulty { why: "it failed".to_owned(), refused: None }, ..Member::default() }
}

fn refusing(at: Option<RevisionId>, revision: RevisionId, until: Until) -> Member {
    Member { at, standing: Standing::Follows { refused: Some(Refusal { revision, until }) }, ..Member::default() }
}

fn asked(mut member: Member) -> Member {
    member.standing.ask();
    member
}

fn settled(mut member: Member) -> Member {
    member.standing.settle();
    member
}

#[test]
fn errors_pauses_and_refusals_wait_until_a_sync_is_asked_for() {
    let farm = Farm::new();
    let behind = at(farm.id(3));
    let fault = faulty(behind.at);
    assert!(matches!(farm.plan(&fault, false), Step::Wait(Wait::Fault)));
    assert!(matches!(farm.plan(&behind, true), Step::Wait(Wait::Paused)));
    let refused = refusing(behind.at, farm.id(4), Until::Sync);
    assert!(matches!(farm.plan(&refused, false), Step::Wait(Wait::Refused)));
    for member in [fault, behind, refused] {
        let asked = asked(member);
        assert!(matches!(farm.plan(&asked, true), Step::Settle), "first what it holds");
        let sending = farm.sends(&settled(asked), true);
        assert!(sending.sync);
    }
    assert!(farm.sends(&asked(faulty(None)), true).pack.base, "there is nothing to settle");
}

#[test]
fn a_server_in_error_at_the_head_settles_when_asked() {
    let farm = Farm::new();
    let fault = faulty(Some(farm.id(4)));
    assert!(matches!(farm.plan(&fault, false), Step::Wait(Wait::Fault)));
    let asked = asked(fault);
    assert!(matches!(farm.plan(&asked, false), Step::Settle));
    assert!(matches!(farm.plan(&settled(asked), false), Step::Nothing));
}

#[test]
fn the_way_to_the_next_head_does_not_lead_through_a_refused_revision() {
    let farm = Farm::new();
    let sending = farm.sends(&refusing(Some(farm.id(1)), farm.id(2), Until::Sync), false);
    assert!(sending.pack.base, "the base of 3 leads round 2");
    // A newcomer that refused the base of 3 still gets the head if there is a base of it.
    let member = refusing(None, farm.base3.header.id(), Until::Sync);
    assert!(matches!(farm.plan(&member, false), Step::NeedBase));
}

#[test]
fn a_member_that_holds_its_edits_waits_until_a_sync_is_asked_for() {
    let farm = Farm::new();
    let held = Member { edits: Edits::Held, ..at(farm.id(3)) };
    assert!(matches!(farm.plan(&held, false), Step::Wait(Wait::Held)));
    let at_head = Member { at: Some(farm.id(4)), ..held.clone() };
    assert!(matches!(farm.plan(&at_head, false), Step::Nothing));
    assert!(matches!(farm.plan(&asked(held), false), Step::Settle));
}

#[test]
fn one_step_and_no_step_take_no_look_at_the_history() {
    let farm = Farm::new();
    let newest = &farm.increments[2];
    let target = Target { revision: farm.id(4), number: newest.header.number(), due: Due::Now };
    assert!(soon(&at(farm.id(3)), &target, newest).is_none(), "these headers name no parent");
    assert!(matches!(soon(&at(farm.id(4)), &target, newest), Some(Step::Nothing)));
    assert!(matches!(soon(&faulty(Some(farm.id(1))), &target, newest), Some(Step::Wait(Wait::Fault))));
    assert!(soon(&asked(at(farm.id(4))), &target, newest).is_none());
}

#[test]
fn an_error_outlives_what_the_member_says_and_ends_with_a_sync() {
    let Member { mut standing, .. } = faulty(None);
    standing.reached(None);
    assert_eq!(standing.fault(), Some("it failed"));
    standing.ask();
    assert_eq!(standing, Standing::Asked { fault: Some("it failed".to_owned()) });
    standing.end_sync();
    assert_eq!(standing, faulty(None).standing, "a sync that did not end well");
    standing.ask();
    standing.settle();
    standing.end_sync();
    assert_eq!(standing, Standing::default());
}

#[test]
fn a_sync_that_was_interrupted_settles_again() {
    let Member { mut standing, .. } = settled(asked(Member::default()));
    standing.reached(None);
    assert_eq!(standing, Standing::Asked { fault: None });
    standing.reached(Some("it failed".to_owned()));
    assert_eq!(standing.fault(), Some("it failed"));
}

#[test]
fn what_may_pass_is_offered_again_and_its_sync_goes_on() {
    let id = Farm::new().id(4);
    for (until, next) in [
        (Until::Sync, refusing(None, id, Until::Sync).standing),
        (Until::Passed, Standing::default()),
        (Until::PassedInSync, Standing::Asked { fault: None }),
    ] {
        let mut standing = Standing::Asked { fault: None };
        standing.refuse(Some(Refusal { revision: id, until }));
        assert!(!standing.is_sync(), "what is refused ends a sync");
        standing.try_again();
        assert_eq!(standing, next);
    }
}

fn able(member: Member) -> Member {
    Member { ability: Ability::Validates, ..member }
}

#[test]
fn a_member_that_keeps_packs_switches_once_and_passes_what_was_stopped() {
    for label in [None, Some(TAKEN_BACK), Some(REPLACES)] {
        let mut farm = Farm::new();
        let labels = label.map(|label| (label.to_owned(), "1.3".to_owned())).into_iter().collect();
        let header = SignedHeader::sign(Header { labels, ..header(1, 4) }, &KeyPair::generate());
        farm.increments[2] = Arc::new(Stored { header, ..Stored::clone(&farm.increments[2]) });
        let next = |member: &Member| {
            let sending = farm.sends(member, false);
            (sending.pack.header.id(), sending.purpose)
        };
        let behind = able(at(farm.id(1)));
        assert_eq!(next(&behind), (farm.id(2), v1::Use::Keep));
        let ahead = |revision| Member { ahead: Some(farm.id(revision)), ..behind.clone() };
        assert_eq!(next(&ahead(2)), (farm.id(3), v1::Use::Keep));
        assert_eq!(next(&ahead(3)), (farm.id(4), v1::Use::Unspecified));
        assert_eq!(next(&ahead(4)), (farm.id(2), v1::Use::Keep), "what is only in its history is offered anew");
        let refused = Standing::Follows { refused: Some(Refusal { revision: farm.id(3), until: Until::Sync }) };
        assert_eq!(next(&Member { standing: refused, ..ahead(3) }).0, farm.id(4), "it has refused the one before");
        let synced = settled(asked(ahead(3)));
        assert!(matches!(
            farm.plan(&synced, false),
            Step::NeedBase | Step::Send(Sending { purpose: v1::Use::Unspecified, .. })
        ));
    }
}

#[test]
fn the_head_is_staged_first_and_switched_to_later() {
    let farm = Farm::new();
    let step = |member: &Member, due| {
        let target = Target { revision: farm.id(4), number: farm.increments[2].header.number(), due };
        plan(member, &target, Newcomer::GoesOn, &farm)
    };
    let behind = able(at(farm.id(3)));
    let Step::Send(sending) = step(&behind, Due::Staged) else { panic!("it is staged") };
    assert_eq!(sending.purpose, v1::Use::Stage);
    let staged = Member { staged: Some(farm.id(4)), ahead: Some(farm.id(4)), ..behind.clone() };
    assert!(matches!(step(&staged, Due::Staged), Step::Wait(Wait::Staged)));
    assert!(matches!(step(&staged, Due::Held), Step::Wait(Wait::Paused)));
    assert!(matches!(step(&staged, Due::Now), Step::Switch));
    assert!(matches!(step(&asked(staged.clone()), Due::Now), Step::Settle));
    assert!(matches!(step(&Member { edits: Edits::Held, ..staged }, Due::Now), Step::Wait(Wait::Held)));
    let synced = settled(asked(behind.clone()));
    assert!(matches!(step(&synced, Due::Staged), Step::Send(Sending { purpose: v1::Use::Unspecified, .. })));
    let plain = Member { ability: Ability::Keeps, ..behind };
    assert!(matches!(step(&plain, Due::Staged), Step::Wait(Wait::Paused)), "it has no command");
    assert!(matches!(step(&plain, Due::Now), Step::Send(_)));
}

#[test]
fn a_base_on_the_way_is_a_step_in_the_history_only() {
    let mut farm = Farm::new();
    // The chain from 1 is not known any more: the way begins with the base of 3.
    struct Based<'a>(&'a Farm);
    impl Ways for Based<'_> {
        fn route(&self, from: Option<RevisionId>) -> Route {
            match from == Some(self.0.base3.header.id()) {
                true => Route::Packs(vec![self.0.increments[2].clone()]),
                false => Route::Packs(vec![self.0.base3.clone(), self.0.increments[2].clone()]),
            }
        }
        fn leads_from(&self, _: RevisionId) -> bool {
            true
        }
    }
    farm.base1 = stored(1, true);
    let target = Target { revision: farm.id(4), number: farm.increments[2].header.number(), due: Due::Now };
    let next = |member: &Member| match plan(member, &target, Newcomer::GoesOn, &Based(&farm)) {
        Step::Send(sending) => (sending.pack.header.id(), sending.purpose, sending.to),
        other => panic!("{other:?}"),
    };
    let behind = able(at(farm.id(1)));
    assert_eq!(next(&behind), (farm.base3.header.id(), v1::Use::Keep, 1000), "with all its bytes");
    let ahead = Member { ahead: Some(farm.base3.header.id()), ..behind };
    assert_eq!(next(&ahead), (farm.id(4), v1::Use::Unspecified, 1000));
    assert_eq!(next(&able(Member::default())).1, v1::Use::Unspecified, "a newcomer serves as soon as it can");
    assert_eq!(next(&at(farm.id(1))).1, v1::Use::Unspecified, "a program of level 1");
}
