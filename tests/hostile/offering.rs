//! False headers and offers, and slices that do not fit the offer.

use bellwether_proto::{
    hash::Hash,
    key::KeyPair,
    limits,
    revision::{Epoch, Header, RevisionId, SignedHeader},
    v1::{self, down},
};
use bytes::Bytes;
use prost::Message;

use super::{
    forge::{CHUNKS, chunks_payload, frame},
    manager::Manager,
    runtime, says,
};

/// The good pack under a header that `edit` changed.
fn under(manager: &mut Manager, key: Option<&KeyPair>, edit: impl FnOnce(&mut Header)) -> (v1::Offer, Vec<u8>) {
    let mut forged = manager.good();
    let root = forged.header.header().root;
    forged.header = manager.header_by(key.unwrap_or(&manager.key), root, edit);
    forged.pack()
}

/// An offer with these bytes as its header, rightly signed.
fn raw_header(manager: &mut Manager, edit: impl FnOnce(&mut v1::Header)) -> (v1::Offer, Vec<u8>) {
    let (mut offer, bytes) = manager.good().pack();
    let mut header = v1::Header::decode(offer.header.unwrap_or_default().header).expect("a header");
    edit(&mut header);
    let header = Bytes::from(header.encode_to_vec());
    let signature = manager.key.sign("bellwether v1 revision header", &header).to_vec().into();
    offer.header = Some(v1::SignedHeader { header, signature });
    (offer, bytes)
}

#[test]
fn only_the_next_revision_of_this_group_is_taken() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    let stranger = KeyPair::generate();
    let offer = under(manager, Some(&stranger), |_| {});
    manager.refused("signed by another key", offer, &["not signed by the group's manager"]);
    let offer = under(manager, None, |header| header.group = [9; 16].into());
    manager.refused("of another group", offer, &["is of group 0909", "this server belongs to"]);
    let offer = under(manager, None, |header| header.number.sequence -= 2);
    manager.refused("an older number", offer, &["is not newer than"]);
    let offer = under(manager, None, |header| header.number.sequence -= 1);
    manager.refused("the number that is held", offer, &["is not newer than"]);
    let offer = under(manager, None, |header| header.number.sequence += 1);
    manager.refused("a gap", offer, &["does not follow"]);
    let offer = under(manager, None, |header| header.number.epoch = Epoch(99));
    manager.refused("an epoch that nobody began", offer, &["99.", "epoch"]);
    let offer = under(manager, None, |header| header.parent = Some(RevisionId(Hash::of(b"another"))));
    manager.refused("a wrong parent", offer, &["does not follow"]);
    let offer = under(manager, None, |header| header.parent = None);
    manager.refused("no parent", offer, &["does not follow"]);
    for (case, at) in [("a flipped bit of the header", true), ("a flipped bit of the signature", false)] {
        let (mut offer, bytes) = manager.good().pack();
        let header = offer.header.as_mut().expect("a header");
        let field = if at { &mut header.header } else { &mut header.signature };
        let mut flipped = field.to_vec();
        *flipped.last_mut().expect("a byte") ^= 1;
        *field = flipped.into();
        manager.refused(case, (offer, bytes), &["not signed by the group's manager"]);
    }
    let (mut offer, bytes) = manager.good().pack();
    offer.header = None;
    manager.refused("no header", (offer, bytes), &["without a header"]);
    let offer = raw_header(manager, |header| header.views.push(v1::View::default()));
    manager.refused("two views", offer, &["2 views"]);
    let offer = raw_header(manager, |header| header.epoch = 0);
    manager.refused("no epoch", offer, &["zero"]);
    let offer = raw_header(manager, |header| header.views[0].root = Bytes::from_static(b"short"));
    manager.refused("half a root", offer, &["a hash of 5 bytes"]);
    let offer = raw_header(manager, |header| header.manager = "../manager".into());
    manager.refused("a manager of no name", offer, &["not a server name"]);
    let offer = raw_header(manager, |header| header.message = "x".repeat(5 << 20));
    manager.refused("a header of 5 MiB", offer, &["a header of 52"]);
}

#[test]
fn an_offer_that_lies_about_its_bytes_is_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    type Lie = fn(&mut v1::Offer);
    let rows: [(&str, Lie, &[&str]); 10] = [
        ("from beyond to", |o| (o.from, o.to) = (5, 3), &["bytes 5 to 3 of"]),
        ("to beyond the size", |o| o.to = o.size + 1, &["the pack is not what was offered"]),
        ("a size that is too small", |o| (o.size, o.to) = (o.size - 1, o.size - 1), &["were due"]),
        ("a size that is too large", |o| (o.size, o.to) = (o.size + 1, o.size + 1), &["ends after"]),
        ("no bytes", |o| (o.size, o.to) = (0, 0), &["stops before all changes"]),
        ("it goes on with what is not here", |o| o.from = 100, &["goes on at byte 100; 0 are here"]),
        ("it stops before the changes", |o| o.to = 50, &["were due"]),
        ("another pack's identity", |o| o.pack = Hash::of(b"another").into(), &["not what was offered"]),
        ("half an identity", |o| o.pack = Bytes::from_static(b"short"), &["a hash of 5 bytes"]),
        ("a base that is none", |o| o.base = true, &["not what was offered"]),
    ];
    for (case, lie, words) in rows {
        let (mut offer, bytes) = manager.good().pack();
        lie(&mut offer);
        let said = runtime().block_on(async {
            let mut talk = manager.talk().await;
            let from = offer.from as usize;
            talk.send(down::Message::Offer(offer)).await;
            talk.slices(&bytes, from, bytes.len()).await;
            talk.verdict().await.refusal(case)
        });
        says(case, &said, words);
        manager.unharmed(case);
    }
}

#[test]
fn slices_come_in_order_and_end() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    // These are the offsets and lengths of slices of a good pack.
    type Slices = &'static [(usize, usize)];
    let rows: [(&str, Slices, &[&str]); 4] = [
        ("out of order", &[(50, 50), (0, 50)], &["bytes 50 to 100 came, 0 to"]),
        ("overlapping", &[(0, 50), (40, 50)], &["bytes 40 to 90 came, 50 to"]),
        ("twice", &[(0, 50), (0, 50)], &["bytes 0 to 50 came, 50 to"]),
        ("with a hole", &[(0, 50), (60, 20)], &["bytes 60 to 80 came, 50 to"]),
    ];
    for (case, slices, words) in rows {
        let (offer, bytes) = manager.good().pack();
        let said = runtime().block_on(async {
            let mut talk = manager.talk().await;
            talk.send(down::Message::Offer(offer)).await;
            for &(offset, length) in slices {
                let data = Bytes::copy_from_slice(&bytes[offset..offset + length]);
                talk.send(down::Message::Slice(v1::Slice { offset: offset as u64, data })).await;
            }
            talk.verdict().await.refusal(case)
        });
        says(case, &said, words);
        manager.unharmed(case);
    }
    let (offer, bytes) = manager.good().pack();
    let wrapping = down::Message::Slice(v1::Slice { offset: u64::MAX - 3, data: bytes.into() });
    let said = runtime().block_on(async {
        let mut talk = manager.talk().await;
        talk.send(down::Message::Offer(offer)).await;
        talk.send(wrapping).await;
        talk.verdict().await.refusal("an offset that wraps")
    });
    says("an offset that wraps", &said, &["came, 0 to"]);
    manager.unharmed("an offset that wraps");
}

#[test]
fn a_pack_without_end_is_refused_at_its_first_byte_too_many() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let good = manager.good();
    let (mut offer, bytes) = good.pack();
    (offer.size, offer.to) = (u64::MAX, u64::MAX);
    let end = bytes.len() - good.end_frame().len();
    let more = frame(CHUNKS, &chunks_payload(&[vec![7; 1 << 20]]));
    let said = runtime().block_on(async {
        let mut talk = manager.talk().await;
        talk.offer(offer, &bytes[..end]).await;
        let mut at = end as u64;
        // The member ends the stream long before that, and sending on does no harm.
        for piece in more.chunks(limits::SLICE) {
            let data = Bytes::copy_from_slice(piece);
            let length = data.len() as u64;
            talk.send(down::Message::Slice(v1::Slice { offset: at, data })).await;
            at += length;
        }
        talk.verdict().await.refusal("without end")
    });
    says("without end", &said, &["more than the 1 chunks"]);
    manager.unharmed("without end");
}

#[test]
fn a_pack_whose_head_is_another_revision_is_refused() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let good = manager.good();
    let (_, bytes) = good.pack();
    let other = manager.header_by(&manager.key, good.header.header().root, |header| header.message = "other".into());
    let (offer, _) = good.pack();
    let offer = v1::Offer { header: Some(SignedHeader::to_wire(&other)), ..offer };
    manager.refused("another head", (offer, bytes), &["not what was offered", "it holds revision"]);
}

/// A server never holds a newer revision than the head that it knows, in any order of the messages.
#[test]
fn w15_an_offer_is_word_of_the_head_that_it_makes() {
    let mut manager = Manager::play();
    let next = manager.good();
    manager.push(&next, "without a word of the head");
    assert_eq!(manager.member().status().expect("a status").head, Some(next.header.header().number));
}
