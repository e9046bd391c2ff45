//! Edits during the arrival of a pack: they are found after it, and not lost if it replaces them.

use std::fs;

use bellwether_proto::{limits, v1::down};

use super::{
    forge::{change, file},
    manager::Manager,
    runtime,
};

/// A time after which the member's watch has surely seen the edit: asking takes many times as long.
fn look_again_and_again(manager: &Manager) {
    (0..5).for_each(|_| drop(manager.member().command(&["drift", "show"]).success()));
}

#[test]
fn w3_an_edit_made_while_a_pack_arrives_is_told_when_it_has() {
    let mut manager = Manager::play();
    let content = b"of the next revision".to_vec();
    let forged = manager.forge(vec![change("index.html", file(&content))], vec![content]);
    let (offer, bytes) = forged.pack();
    let (half, to) = (bytes.len() / 2, offer.to as usize);
    assert!(half < limits::SLICE, "it has not been switched to after one slice");
    let (verdict, drift) = runtime().block_on(async {
        let mut talk = manager.talk().await;
        talk.send(down::Message::Offer(offer)).await;
        talk.slices(&bytes, 0, half).await;
        manager.member().write("conf.d/site.conf", "edited meanwhile");
        manager.member().write("index.html", "edited, and replaced");
        look_again_and_again(&manager);
        talk.slices(&bytes, half, to).await;
        (talk.verdict().await, talk.drift().await)
    });
    let report = verdict.taken("with edits under it");
    assert_eq!((drift.entries, drift.paths.as_slice()), (1, &["web:conf.d/site.conf".to_owned()][..]));
    assert_eq!(fs::read(manager.member().web("conf.d/site.conf")).expect("a file"), b"edited meanwhile");
    assert_eq!(fs::read(&report.kept[0]).expect("the kept copy"), b"edited, and replaced");
    manager.taken(&forged);
    manager.unharmed("after edits under a pack");
}
