use bellwether_proto::{key::KeyPair, revision::Epoch};

use super::{Phase as P, *};

fn number() -> Number {
    Number { epoch: Epoch(1), sequence: 5 }
}

/// Every observation of a server.
fn observations() -> [Observation; 17] {
    use Observation as O;
    let reached = |fault: Option<&str>| O::Reached {
        program: bellwether_proto::level::Program::own(),
        at: None,
        fault: fault.map(str::to_owned),
    };
    let progress =
        Progress { phase: "receiving".into(), files: 1, files_total: 2, bytes: 3, bytes_total: 4, bytes_per_s: 0 };
    [
        reached(None),
        reached(Some("disk full")),
        O::Lost("no answer".into()),
        O::Started { sync: true, to: number() },
        O::Started { sync: false, to: number() },
        O::Progress(progress),
        O::Done { revision: number(), micros: 1, kept: Vec::new() },
        O::Refused { revision: number(), reason: "nginx -t".into(), cause: None, output: String::new() },
        O::Failed("disk full".into()),
        O::Drift { entries: 1, paths: Vec::new(), held: false, kept: Vec::new() },
        O::Verified(Verified { time_ms: 1, full: true, entries: 1, micros: 1, equal: true, unread: String::new() }),
        O::Record(Version { epoch: Epoch(1), version: 1 }),
        O::Knocked("somebody".into()),
        O::Left,
        O::Alive,
        O::DrainedAgain("lb1".parse().unwrap()),
        O::SawLost("1.4".into()),
    ]
}

/// The phase after each observation, for each phase (the first column), in the observations' order.
#[rustfmt::skip]
const TABLE: [(P, [P; 17]); 7] = [
    (P::Unseen, [P::Idle, P::Faulty, P::Away, P::Syncing, P::Updating, P::Unseen, P::Idle, P::Idle, P::Faulty,
                 P::Unseen, P::Unseen, P::Unseen, P::Unseen, P::Left, P::Unseen, P::Unseen, P::Unseen]),
    (P::Idle, [P::Idle, P::Faulty, P::Away, P::Syncing, P::Updating, P::Idle, P::Idle, P::Idle, P::Faulty,
               P::Idle, P::Idle, P::Idle, P::Idle, P::Left, P::Idle, P::Idle, P::Idle]),
    (P::Faulty, [P::Faulty, P::Faulty, P::Away, P::Syncing, P::Faulty, P::Faulty, P::Faulty, P::Faulty, P::Faulty,
                 P::Faulty, P::Faulty, P::Faulty, P::Faulty, P::Left, P::Faulty, P::Faulty, P::Faulty]),
    (P::Syncing, [P::Idle, P::Faulty, P::Away, P::Syncing, P::Syncing, P::Syncing, P::Idle, P::Idle, P::Faulty,
                  P::Syncing, P::Syncing, P::Syncing, P::Syncing, P::Left, P::Syncing, P::Syncing, P::Syncing]),
    (P::Updating, [P::Idle, P::Faulty, P::Away, P::Syncing, P::Updating, P::Updating, P::Idle, P::Idle, P::Faulty,
                   P::Updating, P::Updating, P::Updating, P::Updating, P::Left, P::Updating, P::Updating, P::Updating]),
    (P::Away, [P::Idle, P::Faulty, P::Away, P::Away, P::Away, P::Away, P::Idle, P::Idle, P::Faulty,
               P::Away, P::Away, P::Away, P::Away, P::Left, P::Away, P::Away, P::Away]),
    (P::Left, [P::Idle, P::Faulty, P::Left, P::Left, P::Left, P::Left, P::Left, P::Left, P::Left,
               P::Left, P::Left, P::Left, P::Left, P::Left, P::Left, P::Left, P::Left]),
];

#[test]
fn w15_every_phase_with_every_observation() {
    let server = Server {
        name: "a".parse().unwrap(),
        key: KeyPair::generate().public(),
        address: "a:7440".into(),
        role: Role::Member,
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    for (phase, becomes) in TABLE {
        for (observation, expected) in observations().into_iter().zip(becomes) {
            let mut known = Known::new(1, &server);
            known.phase = phase;
            known.fault = (phase == P::Faulty).then(|| "it failed before".to_owned());
            let what = format!("{phase:?} and {observation:?}");
            known.observe(2, observation);
            assert_eq!(known.phase, expected, "{what}");
            assert!(known.fault.is_some() || known.phase != P::Faulty, "{what}: a fault has a reason");
        }
    }
}
