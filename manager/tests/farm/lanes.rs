//! Lanes against members of every manner.

use std::time::Duration;

use bellwether_group::edits::RecordEdit;
use bellwether_manager::{Deadlines, Request};
use bellwether_proto::status::{Cause, Event, Observation};
use bellwether_random::Rng;

use crate::{
    fake::{Fake, Manner},
    harness::{Farm, name},
};

/// Bytes that do not compress, others for every seed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    Rng::new(seed).bytes(length)
}

const LONG: Duration = Duration::from_secs(60);

fn short(answer: u64, stall: u64, progress: u64) -> Deadlines {
    let of = |ms| if ms == 0 { LONG } else { Duration::from_millis(ms) };
    Deadlines { answer: of(answer), stall: of(stall), progress: of(progress) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_gets_the_base_and_then_each_edit_as_an_update() {
    for manner in [Manner::Honest, Manner::Picky] {
        let big = noise(1, 3 << 20);
        let mut farm = Farm::new(&[("a", b"one"), ("dir/b", b"two"), ("big", &big)]).await;
        let member = farm.join("a", manner).await;
        farm.done("a", "1.1").await;
        assert_eq!(member.memory().offers[0].0, "1.1");
        assert!(member.memory().offers[0].1, "a base");

        farm.write("a", "changed");
        let update = farm
            .observed("a", "started", |seen| match seen {
                Observation::Started { sync, .. } => Some(!sync),
                _ => None,
            })
            .await;
        assert!(update, "one behind is an update");
        farm.done("a", "1.2").await;
        // The offer goes first: the head may come after the report.
        member.hears_of("1.2").await;
        let memory = member.memory();
        assert_eq!(memory.offers.len(), 2);
        assert_eq!(memory.tree.root(), farm.manager.tree().root());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_member_delays_nobody_and_is_dropped() {
    // Far more than the windows and buffers of a connection.
    let big = noise(2, 32 << 20);
    let mut farm = Farm::with_deadlines(&[("big", &big)], short(0, 3000, 0)).await;
    farm.join("stalled", Manner::StallsMidway).await;
    farm.observed("stalled", "started", |seen| matches!(seen, Observation::Started { .. }).then_some(())).await;
    farm.join("good", Manner::Honest).await;
    farm.done("good", "1.1").await;
    farm.write("small", "x");
    farm.done("good", "1.2").await;
    let why = farm.lost("stalled").await;
    assert!(why.contains("taken nothing"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_does_not_answer_is_dropped() {
    let mut farm = Farm::with_deadlines(&[("a", b"x")], short(300, 0, 0)).await;
    farm.join("stalled", Manner::Stalled).await;
    let why = farm.lost("stalled").await;
    assert!(why.contains("not answered"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_reports_is_dropped_and_tried_again() {
    let mut farm = Farm::with_deadlines(&[("a", b"x")], short(0, 0, 300)).await;
    let mute = farm.join("a", Manner::Mute).await;
    let why = farm.lost("a").await;
    assert!(why.contains("no progress"), "{why}");
    mute.memory().manner = Manner::Honest;
    farm.done("a", "1.1").await;
    assert!(mute.memory().hellos >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_than_the_revisions_is_a_failure_until_a_sync() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let liar = farm.join("a", Manner::Liar).await;
    let why = farm
        .observed("a", "failed", |seen| match seen {
            Observation::Failed(why) => Some(why.clone()),
            _ => None,
        })
        .await;
    assert!(why.contains("not that revision"), "{why}");
    farm.write("a", "y");
    farm.join("b", Manner::Honest).await;
    farm.done("b", "1.2").await;
    assert_eq!(liar.memory().offers.len(), 1, "no updates to a server in error (W8)");

    liar.memory().manner = Manner::Honest;
    let asked = farm.manager.sync(vec![name("a")], false, false).await.unwrap();
    assert_eq!(asked, [name("a")]);
    farm.done("a", "1.2").await;
    assert_eq!(liar.memory().syncs, 1);
    farm.write("a", "z");
    farm.done("a", "1.3").await;
    assert_eq!(liar.memory().syncs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_error_at_the_head_settles_by_a_sync() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let member = farm.join("a", Manner::Honest).await;
    farm.done("a", "1.1").await;
    farm.manager.sync(Vec::new(), false, false).await.unwrap();
    farm.done("a", "1.1").await;
    assert_eq!(member.memory().syncs, 1);
    assert_eq!(member.memory().offers.len(), 1);
    assert!(farm.manager.sync(vec![name("nobody")], false, false).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_base_goes_on_from_what_has_arrived() {
    let big = noise(3, 5 << 20);
    let mut farm = Farm::new(&[("big", &big), ("a", b"x")]).await;
    let member = farm.join("a", Manner::HangsUp).await;
    farm.lost("a").await;
    farm.done("a", "1.1").await;
    let memory = member.memory();
    assert_eq!(memory.offers.len(), 2);
    let (_, base, from, to) = memory.offers[1].clone();
    assert!(base && from > 0 && to > from, "{:?}", memory.offers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_revision_is_not_offered_again_and_the_next_one_leads_round_it() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let member = farm.join("a", Manner::Honest).await;
    farm.done("a", "1.1").await;
    // Asking again changes nothing where nothing may pass.
    member.memory().manner = Manner::Refuses;
    farm.write("a", "refused");
    let reason = farm
        .observed("a", "refused", |seen| match seen {
            Observation::Refused { revision, reason, cause: None, .. } if revision.to_string() == "1.2" => {
                Some(reason.clone())
            }
            _ => None,
        })
        .await;
    assert_eq!(reason, "because");
    member.memory().manner = Manner::Honest;
    farm.join("b", Manner::Honest).await;
    farm.done("b", "1.2").await;
    assert_eq!(member.memory().offers.len(), 2, "not offered again");

    farm.write("a", "better");
    farm.done("a", "1.3").await;
    let memory = member.memory();
    assert_eq!(memory.offers.len(), 3);
    assert_eq!((memory.offers[2].0.as_str(), memory.offers[2].1), ("1.3", true), "a base leads round 1.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_what_waited_for_something_there_is_offered_again_when_the_member_asks() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let member = farm.join("a", Manner::Honest).await;
    farm.done("a", "1.1").await;
    member.memory().manner = Manner::Waits;
    farm.write("a", "too large");
    let cause = farm
        .observed("a", "waiting", |seen| match seen {
            Observation::Refused { revision, cause, .. } if revision.to_string() == "1.2" => Some(*cause),
            _ => None,
        })
        .await;
    assert_eq!(cause, Some(Cause::Space));
    farm.done("a", "1.2").await;
    let offers: Vec<_> = member.memory().offers.iter().map(|(number, ..)| number.clone()).collect();
    assert_eq!(offers, ["1.1", "1.2", "1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_what_waited_is_offered_again_to_one_who_is_reached_anew() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let member = farm.join("a", Manner::Honest).await;
    farm.done("a", "1.1").await;
    member.memory().manner = Manner::WaitsAndHangsUp;
    farm.write("a", "too large");
    farm.done("a", "1.2").await;
    let offers: Vec<_> = member.memory().offers.iter().map(|(number, ..)| number.clone()).collect();
    assert_eq!(offers, ["1.1", "1.2", "1.2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_revisions_are_made_and_announced_but_sent_only_by_a_sync_or_after_the_pause() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let (one, two) = (farm.join("a", Manner::Honest).await, farm.join("b", Manner::Honest).await);
    farm.until_both_done().await;
    farm.manager.edit_record(&RecordEdit::Paused(true), "test", false).await.unwrap();
    farm.write("a", "y");
    farm.head("1.2").await;
    farm.manager.sync(vec![name("a")], false, false).await.unwrap();
    farm.done("a", "1.2").await;
    assert_eq!(one.memory().offers.len(), 2);
    assert_eq!(two.memory().offers.len(), 1, "held");
    farm.manager.edit_record(&RecordEdit::Paused(false), "test", false).await.unwrap();
    farm.done("b", "1.2").await;
}

impl Farm {
    async fn until_both_done(&mut self) {
        let mut left = vec![name("a"), name("b")];
        while !left.is_empty() {
            let of = self
                .until("both done", |event| match event {
                    Event::Server(of, Observation::Done { .. }) => Some(of.clone()),
                    _ => None,
                })
                .await;
            left.retain(|name| *name != of);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_what_is_not_there_is_dropped() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    farm.join("a", Manner::Greedy).await;
    let why = farm.lost("a").await;
    assert!(why.contains("asked for bytes"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_name_and_a_higher_epoch_are_not_talked_to() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let other = Fake::start("somebody", Manner::Honest).await;
    farm.join_fake("a", &other).await;
    assert!(farm.lost("a").await.contains("calls itself 'somebody'"));
    let ahead = Fake::start("b", Manner::Honest).await;
    ahead.memory().epoch = 2;
    farm.join_fake("b", &ahead).await;
    assert!(farm.lost("b").await.contains("another manager has taken over"));
    assert!(other.memory().offers.is_empty() && ahead.memory().offers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_away_gets_the_chain_in_order() {
    let mut farm = Farm::new(&[("a", b"x"), ("big", &noise(4, 300_000))]).await;
    let member = farm.join("a", Manner::Honest).await;
    farm.done("a", "1.1").await;
    farm.manager.edit_record(&RecordEdit::Paused(true), "test", false).await.unwrap();
    for n in 2..=4 {
        farm.write("a", format!("text {n}"));
        farm.manager.publish(Request::default()).await.unwrap();
    }
    farm.manager.edit_record(&RecordEdit::Paused(false), "test", false).await.unwrap();
    farm.done("a", &farm.manager.head().number().to_string()).await;
    let memory = member.memory();
    let offered: Vec<&str> = memory.offers.iter().map(|offer| offer.0.as_str()).collect();
    assert!(offered.is_sorted() && offered.len() >= 2, "{offered:?}");
    assert!(memory.offers[1..].iter().all(|offer| !offer.1), "increments are fewer bytes than the base");
    assert_eq!(memory.tree.root(), farm.manager.tree().root());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_servers_lane_ends_at_once_and_every_task_ends_at_the_stop() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let member = farm.join("a", Manner::Honest).await;
    farm.done("a", "1.1").await;
    assert!(farm.manager.lacking().await.is_empty());
    farm.manager.edit_record(&RecordEdit::Remove(name("a")), "test", false).await.unwrap();
    farm.write("a", "y");
    farm.head("1.2").await;
    farm.join("b", Manner::Honest).await;
    farm.done("b", "1.2").await;
    assert_eq!(member.memory().offers.len(), 1);
    farm.manager.edit_record(&RecordEdit::Add(name("a")), "test", false).await.unwrap();
    farm.done("a", "1.2").await;
    member.stop();
    farm.stop().await;
}
