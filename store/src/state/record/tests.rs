use bellwether_proto::{
    key::KeyPair,
    level::Level,
    record::{Policy, Record, Role},
};

use super::*;

/// Two servers, this one first.
struct Pair {
    state: tempfile::TempDir,
    keys: [KeyPair; 2],
    group: GroupRecord,
}

fn record(keys: &[KeyPair; 2], (epoch, version): (u64, u64), leads: usize) -> SignedRecord {
    let server = |at: usize| Server {
        name: ["a", "b"][at].parse().unwrap(),
        key: keys[at].public(),
        address: "x:1".into(),
        role: if at == leads { Role::Manager } else { Role::Member },
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    let record = Record {
        level: Level::NEWEST,
        group: [1; 16].into(),
        version: Version { epoch: Epoch(epoch), version },
        servers: vec![server(0), server(1)],
        removed: Vec::new(),
        refused: Vec::new(),
        policy: Policy::new(Vec::new()),
        log: Vec::new(),
        previous: None,
    };
    SignedRecord::sign(record, &keys[leads]).unwrap()
}

impl Pair {
    fn new() -> Self {
        let (state, keys) = (tempfile::tempdir().unwrap(), [KeyPair::generate(), KeyPair::generate()]);
        let (layout, events) = (Layout::new(state.path().to_owned()), mpsc::unbounded_channel().0);
        let held = Held { current: record(&keys, (1, 1), 0), chain: Vec::new() };
        let group = GroupRecord::new(layout, keys[0].public(), held, events);
        Self { state, keys, group }
    }

    fn record(&self, version: (u64, u64), leads: usize) -> SignedRecord {
        record(&self.keys, version, leads)
    }

    /// The version that the next start finds.
    fn on_disk(&self) -> Option<Version> {
        let held = Layout::new(self.state.path().to_owned()).held().unwrap();
        held.map(|held| held.current.record().version)
    }
}

fn version(epoch: u64, version: u64) -> Version {
    Version { epoch: Epoch(epoch), version }
}

#[test]
fn the_managers_next_record_is_in_force_and_on_the_disk() {
    let pair = Pair::new();
    let mut led = pair.group.lead();
    let (held, next) = (pair.group.current(), pair.record((1, 2), 0));
    pair.group.save_next(&held, &next).unwrap();
    assert!(led.has_changed().unwrap());
    assert_eq!((&**led.borrow_and_update(), &*pair.group.current()), (&next, &next));
    assert_eq!(pair.on_disk(), Some(version(1, 2)));
}

/// Invariant 3: another manager's record came between reading the record and saving the next one.
#[test]
fn a_record_that_came_meanwhile_is_never_overwritten() {
    let pair = Pair::new();
    let led = pair.group.lead();
    let (held, theirs) = (led.borrow().clone(), pair.record((3, 1), 1));
    pair.group.take(theirs.clone()).unwrap();
    // An edit, and a handover by which this server could give the role away.
    for next in [pair.record((1, 2), 0), pair.record((2, 1), 0)] {
        let refused = pair.group.save_next(&held, &next);
        assert!(matches!(refused, Err(SaveError::Superseded(_))), "{refused:?}");
    }
    assert_eq!((&*pair.group.current(), pair.on_disk()), (&theirs, Some(version(3, 1))));
    assert!(!led.has_changed().unwrap(), "the manager's tasks act on nothing that another one made");
    assert_eq!(led.borrow().record().version, version(1, 1));
}

/// The network shows a state that went back its own later record: it makes nothing from that record or instead of it.
#[test]
fn a_record_of_its_own_that_the_network_brings_is_not_led_by() {
    let pair = Pair::new();
    let led = pair.group.lead();
    let held = led.borrow().clone();
    pair.group.take(pair.record((1, 5), 0)).unwrap();
    for next in [pair.record((1, 2), 0), pair.record((1, 6), 0), pair.record((2, 1), 0)] {
        let refused = pair.group.save_next(&held, &next);
        assert!(matches!(refused, Err(SaveError::Superseded(_))), "{refused:?}");
    }
    assert!(!led.has_changed().unwrap());
    assert_eq!(pair.on_disk(), Some(version(1, 5)));
}

#[test]
fn the_record_that_ends_the_role_is_followed_but_not_led_by() {
    let pair = Pair::new();
    let (led, held) = (pair.group.lead(), pair.group.current());
    let over = SignedRecord::sign(pair.record((2, 1), 1).record().clone(), &pair.keys[0]).unwrap();
    pair.group.save_next(&held, &over).unwrap();
    assert_eq!(*pair.group.current(), over);
    assert!(!led.has_changed().unwrap());
    // This server leads again, by the record that is in force then.
    let again = pair.record((4, 1), 0);
    pair.group.save(&again).unwrap();
    assert_eq!(led.borrow().record().version, version(1, 1), "the tasks of the epoch before see none of it");
    assert_eq!(**pair.group.lead().borrow(), again);
}
