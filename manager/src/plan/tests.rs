use std::path::PathBuf;

use bellwether_proto::{
    key::KeyPair,
    revision::{Epoch, GroupId, Header, Number, SignedHeader},
};

use super::*;

fn stored(sequence: u64, base: bool) -> Arc<Stored> {
    let header = Header {
        group: GroupId::from([1; 16]),
        number: Number { epoch: Epoch(1), sequence },
        parent: None,
        manager: "m".parse().unwrap(),
        incarnation: 1,
        time_ms: 0,
        author: String::new(),
        message: String::new(),
        labels: Default::default(),
        root: Hash::of(b""),
    };
    // Another key each: revisions are told apart by their headers, packs by their identities.
    let header = SignedHeader::sign(header, &KeyPair::generate());
    let pack = Hash::of(&[base as u8, sequence as u8]);
    Arc::new(Stored { header, base, pack, size: 1000, changes_end: 100, path: PathBuf::new() })
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

    fn plan(&self, member: &Member, paused: bool) -> Step {
        let (revision, number) = (self.id(4), self.increments[2].header.number());
        let due = if paused { Due::Held } else { Due::Now };
        plan(member, &Target { revision, number, due }, |from| self.route(from))
    }

    fn sends(&self, member: &Member, paused: bool) -> Sending {
        match self.plan(member, paused) {
            Step::Send(sending) => sending,
            other => panic!("{other:?}"),
        }
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
    let newcomer = Member { waits: true, ..Member::default() };
    assert!(matches!(farm.plan(&newcomer, false), Step::NeedBase));
    assert!(farm.sends(&Member { waits: false, ..newcomer.clone() }, false).pack.base, "it has waited");
    assert!(!farm.sends(&Member { waits: true, ..at(farm.id(1)) }, false).pack.base, "it is no newcomer");
    farm.base3 = Arc::new(Stored { size: SMALL + 1, ..Stored::clone(&farm.base3) });
    assert!(farm.sends(&newcomer, false).pack.base, "a large tree is not packed again for one server");
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

#[test]
fn errors_pauses_and_refusals_wait_until_a_sync_is_asked_for() {
    let farm = Farm::new();
    let behind = at(farm.id(3));
    let fault = Member { fault: true, ..behind.clone() };
    assert!(matches!(farm.plan(&fault, false), Step::Wait(Wait::Fault)));
    assert!(matches!(farm.plan(&behind, true), Step::Wait(Wait::Paused)));
    let refused = Member { refused: Some(farm.id(4)), ..behind.clone() };
    assert!(matches!(farm.plan(&refused, false), Step::Wait(Wait::Refused)));
    for member in [fault, behind, refused] {
        let asked = Member { sync: true, ..member };
        assert!(matches!(farm.plan(&asked, true), Step::Settle), "first what it holds");
        let sending = farm.sends(&Member { settled: true, ..asked }, true);
        assert!(sending.sync);
    }
    let empty = Member { fault: true, sync: true, ..Member::default() };
    assert!(farm.sends(&empty, true).pack.base, "there is nothing to settle");
}

#[test]
fn a_server_in_error_at_the_head_settles_when_asked() {
    let farm = Farm::new();
    let fault = Member { fault: true, ..at(farm.id(4)) };
    assert!(matches!(farm.plan(&fault, false), Step::Wait(Wait::Fault)));
    let asked = Member { sync: true, ..fault };
    assert!(matches!(farm.plan(&asked, false), Step::Settle));
    assert!(matches!(farm.plan(&Member { settled: true, ..asked }, false), Step::Nothing));
}

#[test]
fn the_way_to_the_next_head_does_not_lead_through_a_refused_revision() {
    let farm = Farm::new();
    let refused = |n| Member { refused: Some(farm.id(n)), ..at(farm.id(1)) };
    let sending = farm.sends(&refused(2), false);
    assert!(sending.pack.base, "the base of 3 leads round 2");
    // A newcomer that refused the base of 3 gets the head all the same, when there is a base of it.
    let member = Member { refused: Some(farm.base3.header.id()), ..Member::default() };
    assert!(matches!(farm.plan(&member, false), Step::NeedBase));
}

#[test]
fn a_member_that_holds_its_edits_waits_until_a_sync_is_asked_for() {
    let farm = Farm::new();
    let held = Member { at: Some(farm.id(3)), held: true, ..Member::default() };
    assert!(matches!(farm.plan(&held, false), Step::Wait(Wait::Held)));
    let at_head = Member { at: Some(farm.id(4)), ..held.clone() };
    assert!(matches!(farm.plan(&at_head, false), Step::Nothing));
    assert!(matches!(farm.plan(&Member { sync: true, ..held }, false), Step::Settle));
}
