//! A member's answers to a hello and to the records in it: the right key, and the right group.

use bellwether_daemon::state::identity;
use bellwether_proto::{
    key::KeyPair,
    limits,
    record::{Edit, Role, SignedRecord},
    revision::{Epoch, SignedHeader},
    ticket::{Parties, Ticket},
    v1::{self, down},
};
use bellwether_store::state::layout::Layout;
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    forge::{change, directory},
    manager::Manager,
    runtime, says,
};

type Rows = Vec<(&'static str, down::Message, &'static [&'static str])>;

/// Signs any text as a record, even against the rules.
fn sign(json: &str, key: &KeyPair) -> v1::SignedRecord {
    v1::SignedRecord {
        record: Bytes::copy_from_slice(json.as_bytes()),
        signer: Bytes::copy_from_slice(key.public().as_bytes()),
        signature: Bytes::copy_from_slice(&key.sign("bellwether v1 group record", json.as_bytes())),
    }
}

/// The next record as JSON, changed by `edit` and signed by the manager.
fn forged(manager: &Manager, edit: impl FnOnce(&mut Value)) -> v1::SignedRecord {
    let mut json = serde_json::to_value(manager.next_record(|_| {}).record()).expect("JSON");
    edit(&mut json);
    sign(&json.to_string(), &manager.key)
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

/// Records that every member refuses.
fn records(manager: &Manager) -> Vec<(&'static str, v1::SignedRecord, &'static [&'static str])> {
    let stranger = KeyPair::generate();
    let good = manager.next_record(|_| {});
    let wire = good.to_wire();
    let note = |what: String| Edit { by: "nobody".into(), time_ms: 0, what };
    let by_stranger = |edit: &dyn Fn(&mut bellwether_proto::record::Record)| {
        let mut record = good.record().clone();
        edit(&mut record);
        SignedRecord::sign(record, &stranger).expect("a record").to_wire()
    };
    let takeover = |record: &mut bellwether_proto::record::Record| {
        record.version.epoch = Epoch(record.version.epoch.0 + 1);
        record.servers.iter_mut().filter(|s| s.role == Role::Manager).for_each(|s| s.key = stranger.public());
    };
    vec![
        ("replayed", manager.next_record(|r| r.version.version -= 2).to_wire(), &["is refused", "already seen"]),
        (
            "conflicting",
            manager
                .next_record(|r| (r.version.version, r.log) = (r.version.version - 1, vec![note("lie".into())]))
                .to_wire(),
            &["two managers in one epoch"],
        ),
        ("of another group", manager.next_record(|r| r.group = [9; 16].into()).to_wire(), &["is of group 0909"]),
        ("signed by a stranger", by_stranger(&|_| {}), &["signed by ed25519:", "may not make this change"]),
        ("a stranger's promotion", by_stranger(&takeover), &["may not make this change"]),
        ("a flipped byte", v1::SignedRecord { record: flipped(&wire.record, 40), ..wire.clone() }, &["did not sign"]),
        (
            "a flipped signature",
            v1::SignedRecord { signature: flipped(&wire.signature, 5), ..wire.clone() },
            &["did not sign"],
        ),
        ("half a key", v1::SignedRecord { signer: wire.signer.slice(..16), ..wire.clone() }, &["a key of 16 bytes"]),
        (
            "of 5 MiB",
            forged(manager, |json| json["log"] = json!([note("x".repeat(5 << 20))])),
            &["a group record of 52", "the limit is 4194304"],
        ),
        (
            "two managers",
            forged(manager, |json| json["servers"][1]["role"] = json!("manager")),
            &["without exactly one manager"],
        ),
        (
            "no manager",
            forged(manager, |json| json["servers"][0]["role"] = json!("member")),
            &["without exactly one manager"],
        ),
        (
            "duplicate keys",
            forged(manager, |json| json["servers"][1]["key"] = json["servers"][0]["key"].clone()),
            &["two servers have one key"],
        ),
        (
            "a name twice",
            forged(manager, |json| json["servers"][1]["name"] = json["servers"][0]["name"].clone()),
            &["not sorted, or twice there"],
        ),
        (
            "a name that leads out",
            forged(manager, |json| json["servers"][1]["name"] = json!("../x")),
            &["not a server name"],
        ),
        (
            "of a later level",
            forged(manager, |json| json["level"] = json!(9)),
            &["made by a newer bellwether", "level 9"],
        ),
        ("of no level", forged(manager, |json| json["level"] = json!(0)), &["too old", "level 0"]),
        ("with an unknown field", forged(manager, |json| json["more"] = json!(1)), &["unknown field `more`"]),
        (
            "with an endless name",
            forged(manager, |json| json["servers"][1]["name"] = json!("\0".repeat(1 << 18))),
            &["not a server name", "not a group record"],
        ),
        ("no JSON", sign("{]", &manager.key), &["not a group record"]),
        ("nested without end", sign(&"[".repeat(100_000), &manager.key), &["not a group record"]),
    ]
}

fn hellos(manager: &Manager) -> Rows {
    let stranger = KeyPair::generate();
    let hello = manager.hello();
    let with = |edit: &dyn Fn(&mut v1::DownHello)| {
        let mut hello = hello.clone();
        edit(&mut hello);
        down::Message::Hello(hello)
    };
    let root = manager.tree.root();
    let foreign = manager.header_by(&manager.key, root, |header| header.group = [9; 16].into()).to_wire();
    let unsigned = manager.header_by(&stranger, root, |_| {}).to_wire();
    let mut rows: Rows = vec![
        ("no hello", down::Message::Keepalive(v1::Keepalive { time_ms: 1 }), &["first message is not a hello"]),
        ("an offer first", down::Message::Offer(v1::Offer::default()), &["first message is not a hello"]),
        (
            "a newer protocol",
            with(&|h| (h.protocol_min, h.protocol_max) = (2, 9)),
            &["too far apart", concat!("upgrade the older one: member1 (", env!("CARGO_PKG_VERSION"), ")")],
        ),
        (
            "an older protocol",
            with(&|h| (h.protocol_min, h.protocol_max, h.version) = (0, 0, "0.0.9".to_owned())),
            &["too far apart", "upgrade the older one: manager (0.0.9)"],
        ),
        ("no record", with(&|h| h.record = None), &["without a group record"]),
        ("a stranger's head", with(&|h| h.head = Some(unsigned.clone())), &["not signed by the group's manager"]),
        ("a foreign head", with(&|h| h.head = Some(foreign.clone())), &["is of group 0909"]),
        (
            "no head at all",
            with(&|h| {
                h.head = Some(v1::SignedHeader { header: Bytes::from_static(b"\xff\xff"), signature: Bytes::new() })
            }),
            &["not a header"],
        ),
    ];
    let ticket =
        |parties: &Parties, epoch, count, key| Some(Ticket::issue(parties, Epoch(epoch), count, key).to_wire());
    let elsewhere = Parties { server: stranger.public(), ..manager.parties() };
    let not_ours: &'static [&'static str] = &["not the manager's for this server"];
    let short =
        v1::Ticket { nonce: Bytes::from_static(b"x"), ..ticket(&elsewhere, 1, 9, &stranger).unwrap_or_default() };
    let tickets: [(&'static str, Option<v1::Ticket>, &'static [&'static str]); 5] = [
        ("a stranger's ticket", ticket(&manager.parties(), 1, 9, &stranger), not_ours),
        ("another server's ticket", ticket(&elsewhere, 1, 9, &manager.key), not_ours),
        ("a ticket of another epoch", ticket(&manager.parties(), 2, 9, &manager.key), not_ours),
        ("another ticket of a session that was", ticket(&manager.parties(), 1, 1, &manager.key), &["state went back"]),
        ("half a ticket", Some(short), &["another length"]),
    ];
    for (case, ticket, words) in tickets {
        rows.push((case, with(&|h| h.ticket = ticket.clone()), words));
    }
    for (case, record, words) in records(manager) {
        rows.push((case, with(&|h| h.record = Some(record.clone())), words));
        if case != "replayed" && case != "conflicting" {
            rows.push((case, with(&|h| h.chain = vec![record.clone()]), words));
        }
    }
    rows
}

#[test]
fn a_hello_that_lies_is_refused() {
    let mut manager = Manager::play();
    for (case, first, words) in hellos(&manager) {
        let refused = runtime().block_on(manager.follow(&manager.key, first)).err();
        says(case, refused.unwrap_or_else(|| panic!("{case}: not refused")).message(), words);
    }
    manager.unharmed("after all hellos");
}

#[test]
fn who_is_not_the_manager_may_not_push() {
    let mut manager = Manager::play();
    let own = |layout: Layout| identity::load(&layout).expect("readable").expect("a key");
    let member = own(Layout::new(manager.member().state()));
    for (case, key) in [("a stranger", KeyPair::generate()), ("the member itself", member)] {
        let hello = down::Message::Hello(manager.hello());
        let refused = runtime().block_on(manager.follow(&key, hello)).err();
        let status = refused.unwrap_or_else(|| panic!("{case}: not refused"));
        says(case, status.message(), &["is not the group's manager; that is manager"]);
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{case}");
        manager.unharmed(case);
    }
}

/// Messages that end a stream after a good beginning.
#[test]
fn a_stream_that_breaks_the_rules_is_ended() {
    let mut manager = Manager::play();
    let slice = |length: usize| down::Message::Slice(v1::Slice { offset: 0, data: vec![0; length].into() });
    let foreign = manager.header_by(&manager.key, manager.tree.root(), |header| header.group = [9; 16].into());
    let unsigned = manager.header_by(&KeyPair::generate(), manager.tree.root(), |_| {});
    let head = |header: &SignedHeader| down::Message::Head(header.to_wire());
    let mut rows: Rows = vec![
        ("a second hello", down::Message::Hello(manager.hello()), &["a second hello"]),
        ("a slice of nothing offered", slice(10), &["not offered"]),
        ("a foreign head", head(&foreign), &["is of group 0909"]),
        ("a stranger's head", head(&unsigned), &["not signed by the group's manager"]),
    ];
    rows.extend(
        records(&manager).into_iter().map(|(case, record, words)| (case, down::Message::Record(record), words)),
    );
    for (case, message, words) in rows {
        let said = runtime().block_on(async {
            let mut talk = manager.talk().await;
            talk.send(message).await;
            talk.verdict().await.refusal(case)
        });
        says(case, &said, words);
    }
    manager.unharmed("after all streams");
    for (case, length, words) in [
        ("a huge slice", limits::SLICE + 1, &["131073 bytes; the limit is 131072"]),
        ("an empty slice", 0, &["no bytes"]),
    ] {
        let (offer, _) = manager.good().pack();
        let said = runtime().block_on(async {
            let mut talk = manager.talk().await;
            talk.send(down::Message::Offer(offer)).await;
            talk.send(slice(length)).await;
            talk.verdict().await.refusal(case)
        });
        says(case, &said, words);
        manager.unharmed(case);
    }
}

/// A member that was removed says so, and comes back when the record names it again.
#[test]
fn a_removed_member_takes_nothing() {
    let mut manager = Manager::play();
    let servers = manager.record.record().servers.clone();
    manager.record = manager.next_record(|record| record.servers.retain(|s| s.role == Role::Manager));
    let hello = down::Message::Hello(manager.hello());
    let refused = runtime().block_on(manager.follow(&manager.key, hello)).err().expect("refused");
    says("removed", refused.message(), &["removed from the group"]);
    manager.record = manager.next_record(|record| record.servers = servers);
    manager.unharmed("added again");
}

/// A newer stream replaces one that never reads its answers, even if they are many and long.
#[test]
fn a_manager_that_does_not_read_is_let_go_of() {
    let mut manager = Manager::play();
    let path = vec![b"\xff".repeat(250); 15].join(&b'/');
    let refused = manager.forge(vec![change(path, v1::Entry { mode: u32::MAX, ..directory() })], Vec::new());
    let deaf = runtime().block_on(async {
        let talk = manager.talk().await;
        let (offer, bytes) = refused.pack();
        let slice = v1::Slice { offset: 0, data: bytes.into() };
        talk.flood(&[down::Message::Offer(offer), down::Message::Slice(slice)]).await;
        talk
    });
    manager.unharmed("beside a stream that is not read");
    drop(deaf);
}
