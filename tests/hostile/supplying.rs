//! Chunks that a member requested by hash, and a manager's possible answers.

use bellwether_proto::{
    hash::Hash,
    v1::{self, down, want},
};
use bytes::Bytes;

use super::{
    forge::{CHUNKS, Forged, HEAD, change, chunks_payload, file, frame},
    manager::Manager,
    runtime, says,
    talk::{Talk, Verdict},
};

const NEW: &[u8] = b"the one thing that the member lacks";

fn supply(frames: Vec<u8>, last: bool, missing: &[&[u8]]) -> down::Message {
    let missing = missing.iter().map(|content| Hash::of(content).into()).collect();
    down::Message::Supply(v1::Supply { frames: frames.into(), last, missing })
}

fn chunks(contents: &[&[u8]]) -> Vec<u8> {
    frame(CHUNKS, &chunks_payload(&contents.iter().map(|content| content.to_vec()).collect::<Vec<_>>()))
}

/// A base of which the member lacks one small chunk, offered up to its changes, so that the member requests that chunk.
fn lacking(manager: &Manager) -> Forged {
    let mut base = manager.forge_base(vec![change("new.txt", file(NEW))], vec![NEW.to_vec()]);
    // These are all chunks of a real base.
    base.chunks.push(vec![0; 200_000]);
    base
}

async fn asked(manager: &Manager, base: &Forged) -> Talk {
    let (mut offer, bytes) = base.pack();
    offer.to = base.changes_end() as u64;
    let mut talk = manager.talk().await;
    talk.offer(offer, &bytes).await;
    match talk.verdict().await {
        Verdict::Wants(want::Want::Chunks(hashes)) => assert_eq!(hashes.hashes, [Bytes::from(Hash::of(NEW))]),
        other => panic!("not asked for a chunk: {other:?}"),
    }
    talk
}

#[test]
fn only_what_was_asked_for_is_taken() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    let rows: Vec<(&str, Vec<down::Message>, &[&str])> = vec![
        ("a wrong chunk", vec![supply(chunks(&[b"another"]), true, &[])], &["was not asked for"]),
        ("a chunk more", vec![supply(chunks(&[NEW, b"another"]), true, &[])], &["was not asked for"]),
        (
            "a chunk twice",
            vec![supply(chunks(&[NEW]), false, &[]), supply(chunks(&[NEW]), true, &[])],
            &["was not asked for"],
        ),
        ("nothing", vec![supply(Vec::new(), true, &[])], &["1 chunks are missing"]),
        ("nothing, without end", vec![supply(Vec::new(), false, &[])], &["brings nothing"]),
        ("missing", vec![supply(Vec::new(), true, &[NEW])], &["1 chunks are missing"]),
        ("missing what was not asked for", vec![supply(Vec::new(), true, &[b"another"])], &["was not asked for"]),
        ("no frames", vec![supply(b"garbage that is no frame at all".to_vec(), true, &[])], &["no frame where one"]),
        ("half a frame", vec![supply(chunks(&[NEW])[..30].to_vec(), true, &[])], &["cut short"]),
        ("a head", vec![supply(frame(HEAD, b"x"), true, &[])], &["a head frame among chunks"]),
    ];
    for (case, messages, words) in rows {
        let base = lacking(manager);
        let said = runtime().block_on(async {
            let mut talk = asked(manager, &base).await;
            for message in messages {
                talk.send(message).await;
            }
            talk.verdict().await.refusal(case)
        });
        says(case, &said, words);
        manager.unharmed(case);
    }
}

#[test]
fn endless_supplies_end_at_the_first_that_is_too_many() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let base = lacking(&manager);
    let said = runtime().block_on(async {
        let mut talk = asked(&manager, &base).await;
        for number in 0..50 {
            let content = vec![number; 1 << 20];
            talk.send(supply(chunks(&[&content]), false, &[])).await;
        }
        talk.verdict().await.refusal("endless")
    });
    says("endless", &said, &["was not asked for"]);
    manager.unharmed("endless");
    // Chunks that were not requested are skipped.
    runtime().block_on(async {
        let mut talk = manager.talk().await;
        talk.send(supply(chunks(&[NEW]), true, &[])).await;
        talk.send(down::Message::Verify(v1::Verify { full: false })).await;
        assert!(matches!(talk.verdict().await, Verdict::Verified));
    });
    manager.unharmed("unasked");
}

#[test]
fn what_was_asked_for_is_taken() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let base = lacking(&manager);
    let verdict = runtime().block_on(async {
        let mut talk = asked(&manager, &base).await;
        talk.send(supply(chunks(&[NEW]), true, &[])).await;
        talk.verdict().await
    });
    verdict.taken("what was asked for");
    manager.taken(&base);
    manager.unharmed("a good supply");
}
