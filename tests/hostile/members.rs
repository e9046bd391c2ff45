//! Members that send false messages, stall or flood, and a manager that goes on with the others.

use std::{fs, pin::Pin};

use bellwether_proto::{
    hash::Hash,
    status::State,
    v1::{self, down, up, want},
};
use bytes::Bytes;

use super::{
    manager::fill,
    member::{Call, Player, token},
    runtime, says,
};
use crate::farm::{DEADLINE, Farm, one, random::Random, wait_for};

type Playing = Pin<Box<dyn Future<Output = ()> + Send>>;
/// A member's behaviour on a stream.
type Part = fn(Call, v1::UpHello) -> Playing;

/// Enters the group, and behaves in this way on every stream.
fn play(farm: &Farm, name: &str, part: Part) {
    let token = token(farm, &[]);
    let player = Player::new(name);
    let hello = player.hello();
    runtime().block_on(async {
        let mut calls = player.listen().await;
        player.enter(&token).await.expect("entered");
        tokio::spawn(async move {
            let mut held = None;
            while let Some(mut call) = calls.recv().await {
                let mut hello = hello.clone();
                if let Ok(Some(v1::Down { message: Some(down::Message::Hello(down)) })) = call.downs.message().await {
                    hello.ticket = std::mem::replace(&mut held, down.ticket);
                }
                tokio::spawn(part(call, hello));
            }
        });
    });
}

/// Takes the offer, and then sends this.
async fn answer(mut call: Call, hello: v1::UpHello, message: impl FnOnce(v1::Offer) -> up::Message) {
    call.say(up::Message::Hello(hello)).await;
    if let Some(offer) = call.offered().await {
        call.say(message(offer)).await;
    }
    call.read_to_the_end().await;
}

async fn greet(mut call: Call, hello: v1::UpHello) {
    call.say(up::Message::Hello(hello)).await;
    call.read_to_the_end().await;
}

fn chunks(hashes: Vec<Bytes>) -> up::Message {
    up::Message::Want(v1::Want { want: Some(want::Want::Chunks(v1::Hashes { hashes })) })
}

fn range(from: u64, to: u64) -> up::Message {
    up::Message::Want(v1::Want { want: Some(want::Want::Range(v1::Range { from, to })) })
}

fn report(offer: &v1::Offer, outcome: v1::Outcome, root: &[u8]) -> up::Message {
    let header = offer.header.clone().unwrap_or_default().header;
    up::Message::Report(v1::Report {
        revision: Hash::of(&header).into(),
        outcome: outcome.into(),
        root: Bytes::copy_from_slice(root),
        reason: "because\u{1b}[31m".into(),
        ..v1::Report::default()
    })
}

/// Every behaviour, with the state and the words for it in the manager's status.
fn parts() -> Vec<(&'static str, Part, State, &'static [&'static str])> {
    use State::{Error, Refused, Unreachable};
    vec![
        (
            "wrong-root",
            |c, h| Box::pin(answer(c, h, |o| report(&o, v1::Outcome::Done, &[7; 32]))),
            Error,
            &["read back", "sync"],
        ),
        (
            "no-root",
            |c, h| Box::pin(answer(c, h, |o| report(&o, v1::Outcome::Done, &[]))),
            Error,
            &["read back", "sync"],
        ),
        ("refuses", |c, h| Box::pin(answer(c, h, |o| report(&o, v1::Outcome::Refused, &[]))), Refused, &["because"]),
        ("fails", |c, h| Box::pin(answer(c, h, |o| report(&o, v1::Outcome::Failed, &[]))), Error, &["because"]),
        (
            "no-outcome",
            |c, h| Box::pin(answer(c, h, |o| report(&o, v1::Outcome::Unspecified, &[]))),
            Unreachable,
            &["no outcome"],
        ),
        (
            "half-a-revision",
            |c, h| {
                Box::pin(answer(c, h, |_| {
                    up::Message::Report(v1::Report { revision: Bytes::from_static(b"x"), ..Default::default() })
                }))
            },
            Unreachable,
            &["a hash of 1 bytes"],
        ),
        (
            "never-offered",
            |c, h| {
                let never = v1::Report { revision: Hash::of(b"never").into(), outcome: 1, ..v1::Report::default() };
                Box::pin(async move {
                    let mut c = c;
                    c.say(up::Message::Hello(v1::UpHello { fault: Some(v1::Fault::default()), ..h })).await;
                    c.say(up::Message::Report(never)).await;
                    c.read_to_the_end().await;
                })
            },
            Unreachable,
            &["was not offered"],
        ),
        (
            "want-too-many",
            |c, h| Box::pin(answer(c, h, |_| chunks(vec![Hash::of(b"x").into(); 100_001]))),
            Unreachable,
            &["100001", "100000"],
        ),
        (
            "want-half-a-hash",
            |c, h| Box::pin(answer(c, h, |_| chunks(vec![Bytes::from_static(b"x")]))),
            Unreachable,
            &["a hash of 1 bytes"],
        ),
        (
            "want-beyond",
            |c, h| Box::pin(answer(c, h, |o| range(0, o.size + 1))),
            Unreachable,
            &["asked for bytes 0 to"],
        ),
        (
            "want-the-end-of-time",
            |c, h| Box::pin(answer(c, h, |_| range(u64::MAX, u64::MAX))),
            Unreachable,
            &["asked for bytes"],
        ),
        ("want-backwards", |c, h| Box::pin(answer(c, h, |_| range(10, 5))), Unreachable, &["asked for bytes 10 to 5"]),
        (
            "two-hellos",
            |c, h| Box::pin(answer(c, h.clone(), move |_| up::Message::Hello(h))),
            Unreachable,
            &["hello twice"],
        ),
        (
            "no-hello",
            |c, _| {
                Box::pin(async move {
                    let mut c = c;
                    c.say(chunks(Vec::new())).await;
                    c.read_to_the_end().await
                })
            },
            Unreachable,
            &["did not begin with a hello"],
        ),
        (
            "other-name",
            |c, h| Box::pin(greet(c, v1::UpHello { server: "manager".into(), ..h })),
            Unreachable,
            &["calls itself 'manager'"],
        ),
        (
            "no-name",
            |c, h| Box::pin(greet(c, v1::UpHello { server: "\u{1b}[2J../".into(), ..h })),
            Unreachable,
            &["not no-name"],
        ),
        (
            "other-protocol",
            |c, h| Box::pin(greet(c, v1::UpHello { protocol: 99, protocol_min: 98, ..h })),
            Unreachable,
            &["too far apart", "upgrade the older one: manager ("],
        ),
        ("later-epoch", |c, h| Box::pin(greet(c, v1::UpHello { epoch: 99, ..h })), Unreachable, &["has seen epoch 99"]),
        (
            "in-error",
            |c, h| {
                Box::pin(greet(
                    c,
                    v1::UpHello { fault: Some(v1::Fault { reason: "its disk".repeat(100_000), since_ms: 0 }), ..h },
                ))
            },
            Error,
            &["its disk"],
        ),
        (
            "faulty",
            |c, h| Box::pin(answer(c, h, |_| up::Message::Fault(v1::Fault { reason: "its disk".into(), since_ms: 0 }))),
            Error,
            &["its disk"],
        ),
    ]
}

/// The manager's status has the words for each. None is in sync, and the real member gets every update meanwhile.
#[test]
fn a_member_that_lies_is_shown_as_what_it_is() {
    let farm = Farm::plan().members(1).start_with(fill);
    let parts = parts();
    for (name, part, ..) in &parts {
        play(&farm, name, *part);
    }
    for (name, _, state, words) in &parts {
        let seen = wait_for(&format!("{name} shown as {state:?}"), DEADLINE, || {
            let status = farm.status();
            let server = one(&status, name).cloned().ok_or("not there")?;
            // Between two tries the manager dials it.
            if server.state == *state && server.reason.is_some() { Ok(server) } else { Err(format!("{server:?}")) }
        });
        let reason = seen.reason.unwrap_or_default();
        says(name, &reason, words);
        assert!(reason.len() < 20_000 && !reason.contains('\u{1b}'), "{name}: {} bytes of reason", reason.len());
    }
    for number in 0..5 {
        farm.manager().write("index.html", format!("beside them all, {number}"));
        farm.wait_same(farm.member(1));
    }
    let status = farm.status();
    assert!(parts.iter().all(|(name, ..)| one(&status, name).is_some_and(|s| s.state != State::InSync)));
}

/// A hello about unknown packs, and requests for unknown chunks, are skipped or answered.
#[test]
fn what_never_was_is_passed_over() {
    let farm = Farm::plan().members(1).start_with(fill);
    play(&farm, "dreamer", |mut call, hello| {
        Box::pin(async move {
            call.say(up::Message::Hello(v1::UpHello {
                partial: Hash::of(b"no pack").into(),
                partial_bytes: u64::MAX,
                at: Some(v1::SignedHeader { header: Bytes::from_static(b"\xff"), signature: Bytes::new() }),
                ..hello
            }))
            .await;
            if call.offered().await.is_some() {
                let unknown: Vec<Bytes> = (0..1_000u32).map(|n| Hash::of(&n.to_le_bytes()).into()).collect();
                call.say(chunks(unknown)).await;
                call.say(up::Message::Verified(v1::Verified { full: true, ..v1::Verified::default() })).await;
                let mut missing = 0;
                while let Ok(Some(down)) = call.downs.message().await {
                    if let Some(down::Message::Supply(supply)) = down.message {
                        missing += supply.missing.len();
                        if supply.last {
                            let reason = format!("{missing} were missing");
                            call.say(up::Message::Fault(v1::Fault { reason, since_ms: 0 })).await;
                        }
                    }
                }
            }
        })
    });
    let seen = wait_for("the dreamer's questions answered", DEADLINE, || {
        let status = farm.status();
        let server = one(&status, "dreamer").cloned().ok_or("not there")?;
        if server.state == State::Error { Ok(server) } else { Err(format!("{server:?}")) }
    });
    says("the dreamer", &seen.reason.unwrap_or_default(), &["1000 were missing"]);
    farm.manager().write("index.html", "still publishing");
    farm.wait_same(farm.member(1));
}

/// The manager's resident memory in KiB.
fn resident(farm: &Farm) -> u64 {
    let status = fs::read_to_string(farm.manager().process().join("status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}

/// One member reads nothing, and another floods: the third gets its updates, and the manager keeps its memory (invariant 6).
#[test]
fn a_member_that_stalls_and_one_that_floods_cost_nobody_anything() {
    let farm = Farm::plan().members(1).start_with(fill);
    play(&farm, "stalled", |call, hello| {
        Box::pin(async move {
            call.say(up::Message::Hello(hello)).await;
            // This keeps the stream and never reads.
            std::future::pending::<()>().await;
            drop(call);
        })
    });
    play(&farm, "flooding", |call, hello| {
        Box::pin(async move {
            call.say(up::Message::Hello(hello)).await;
            let paths = vec!["x".repeat(100); 10_000];
            let phase = "p".repeat(1 << 20);
            loop {
                let drift = v1::Drift {
                    entries: u64::MAX,
                    paths: paths.clone(),
                    time_ms: u64::MAX,
                    held: true,
                    kept: paths.clone(),
                    away: "a".repeat(10_000),
                };
                let progress = v1::Progress { phase: phase.clone(), files: u64::MAX, ..v1::Progress::default() };
                let small = v1::Drift { entries: 1, paths: vec![String::new(); 1_000], ..v1::Drift::default() };
                let fault = v1::Fault { reason: "f".repeat(10_000), since_ms: 0 };
                for message in [
                    up::Message::Drift(drift),
                    up::Message::Progress(progress),
                    up::Message::Drift(small),
                    up::Message::Fault(fault),
                    up::Message::Report(v1::Report { revision: Hash::of(b"none").into(), ..v1::Report::default() }),
                ] {
                    if !call.say(message).await {
                        return;
                    }
                }
            }
        })
    });
    farm.wait_status("both reached", |status| {
        let state = |name| one(status, name).map(|s| s.state);
        state("stalled").is_some_and(|s| s != State::Unknown) && state("flooding").is_some_and(|s| s != State::Unknown)
    });
    // The first large update fills buffers that are kept; more updates must need no more memory.
    let mut random = Random::seeded();
    let mut publish = |number: usize| {
        farm.manager().write(&format!("large{}", number % 2), random.text(8 << 20));
        farm.wait_same(farm.member(1));
    };
    publish(0);
    publish(1);
    let before = resident(&farm);
    for number in 2..8 {
        publish(number);
    }
    let after = resident(&farm);
    assert!(after < before + (32 << 10), "the manager grew from {before} to {after} KiB with 48 MiB published");
    let status = farm.status();
    assert!(
        status.time_ms > 0
            && one(&status, "member1").is_some_and(|s| s.state == State::InSync || s.state == State::Updating)
    );
    let lines = farm.manager().read_log().lines().count();
    assert!(lines < 20_000, "{lines} lines in the manager's log");
}
