//! What fuzzing feeds to the decoders of this crate (`fuzz/`).

use prost::Message;

use crate::{
    entry::{Entry, Owners},
    key::KeyPair,
    record::{Level, Policy, Record, Role, Server, SetRules, SignedRecord, Version, chain},
    revision::{Epoch, Header, Number, SignedHeader},
    ticket::Ticket,
    token::Token,
    v1,
};

/// The context that records are signed under.
const CONTEXT: &str = "bellwether v1 group record";

/// A signed header, as in a message; what is taken gives the same message again.
pub fn header(bytes: &[u8]) {
    let Ok(wire) = v1::SignedHeader::decode(bytes) else { return };
    if let Ok(header) = SignedHeader::from_wire(wire) {
        assert_eq!(SignedHeader::from_wire(header.to_wire()).as_ref(), Ok(&header));
    }
}

/// The JSON of a record, signed by whoever sends it.
pub fn record(json: &[u8]) {
    if let Ok(taken) = SignedRecord::from_wire(&signed(&KeyPair::generate(), json)) {
        assert!(taken.record().check().is_ok());
    }
    if let Ok(wire) = v1::SignedRecord::decode(json) {
        let _ = SignedRecord::from_wire(&wire);
    }
}

/// A chain of records, one a line, each signed by one of two keys in turn: it leads where the rules let it, or nowhere.
pub fn chain(lines: &[u8]) {
    let keys = [KeyPair::generate(), KeyPair::generate()];
    let Ok(text) = std::str::from_utf8(lines) else { return };
    // The seeds cannot know the keys of a run.
    let text = text.replace("@0", &keys[0].public().to_string()).replace("@1", &keys[1].public().to_string());
    let taken = |(at, json): (usize, &str)| SignedRecord::from_wire(&signed(&keys[at % 2], json.as_bytes())).ok();
    let lines = text.lines().take(8);
    let mut links: Vec<SignedRecord> = lines.enumerate().filter_map(taken).collect();
    let Some(held) = links.pop() else { return };
    if let Ok(way) = chain::walk(&held, &links) {
        let steps = std::iter::once(&held).chain(&way).zip(&way);
        steps.for_each(|(from, to)| assert_eq!(to.may_follow(from), Ok(true)));
    }
}

/// A session ticket, as a message and as text.
pub fn ticket(bytes: &[u8]) {
    if let Ok(wire) = v1::Ticket::decode(bytes)
        && let Ok(ticket) = Ticket::from_wire(&wire)
    {
        assert_eq!(Ticket::try_from(String::from(ticket.clone())).as_ref(), Ok(&ticket));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Ticket::try_from(text.to_owned());
    }
}

/// A join token; what is taken is written the same.
pub fn token(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_string().parse::<Token>().as_ref(), Ok(&token));
    }
}

/// The messages that servers send one another, and what is made of their parts.
pub fn messages(bytes: &[u8]) {
    if let Ok(wire) = v1::Entry::decode(bytes)
        && let Ok(entry) = Entry::from_wire(wire, &mut Owners::default())
    {
        assert_eq!(Entry::from_wire(entry.to_wire(), &mut Owners::default()), Ok(entry));
    }
    if let Ok(wire) = v1::SetRules::decode(bytes)
        && let Ok(rules) = SetRules::from_wire(wire)
    {
        assert_eq!(SetRules::from_wire(rules.to_wire()), Ok(rules));
    }
    if let Ok(down) = v1::Down::decode(bytes) {
        let header = match down.message {
            Some(v1::down::Message::Hello(hello)) => {
                let _ = hello.record.as_ref().map(SignedRecord::from_wire);
                hello.chain.iter().for_each(|link| drop(SignedRecord::from_wire(link)));
                let _ = hello.ticket.as_ref().map(Ticket::from_wire);
                hello.head
            }
            Some(v1::down::Message::Offer(offer)) => offer.header,
            Some(v1::down::Message::Head(head)) => Some(head),
            _ => None,
        };
        let _ = header.map(SignedHeader::from_wire);
    }
    if let Ok(v1::Up { message: Some(v1::up::Message::Hello(hello)) }) = v1::Up::decode(bytes) {
        hello.seen.into_iter().chain(hello.at).for_each(|header| drop(SignedHeader::from_wire(header)));
        let _ = hello.ticket.as_ref().map(Ticket::from_wire);
    }
}

fn signed(key: &KeyPair, json: &[u8]) -> v1::SignedRecord {
    v1::SignedRecord {
        record: bytes::Bytes::copy_from_slice(json),
        signer: bytes::Bytes::copy_from_slice(key.public().as_bytes()),
        signature: bytes::Bytes::copy_from_slice(&key.sign(CONTEXT, json)),
    }
}

fn a_record(epoch: u64, key: &KeyPair) -> Record {
    let server = |name: &str, key, role| Server {
        name: name.parse().expect("a name"),
        key,
        address: format!("{name}.example:7440"),
        role,
        candidate: true,
        backends: vec!["app/web1".to_owned()],
        drained: false,
    };
    Record {
        level: Level::NEWEST,
        group: [7; 16].into(),
        version: Version { epoch: Epoch(epoch), version: 3 },
        servers: vec![
            server("web1", key.public(), Role::Manager),
            server("web2", KeyPair::generate().public(), Role::Member),
        ],
        removed: Vec::new(),
        policy: Policy::new(vec![SetRules::new("nginx".parse().expect("a name"))]),
        log: Vec::new(),
        previous: None,
    }
}

/// A header that `key` signed.
pub fn a_header(key: &KeyPair) -> SignedHeader {
    let header = Header {
        group: [7; 16].into(),
        number: Number { epoch: Epoch(1), sequence: 1 },
        parent: None,
        manager: "web1".parse().expect("a name"),
        incarnation: 1,
        time_ms: 1,
        author: "root".into(),
        message: "message".into(),
        labels: Default::default(),
        root: crate::hash::Hash::of(b"root"),
    };
    SignedHeader::sign(header, key)
}

/// What each decoder's fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let key = KeyPair::generate();
    let json = |epoch| serde_json::to_vec(&a_record(epoch, &key)).expect("it has JSON");
    let anonymous = |epoch, at: &str| {
        let text = String::from_utf8(json(epoch)).expect("JSON is UTF-8");
        text.replace(&key.public().to_string(), at).into_bytes()
    };
    let token = Token {
        group: [7; 16].into(),
        address: "web1.example:7440".into(),
        manager: key.public(),
        id: "id".into(),
        secret: "0".repeat(64),
    };
    let header = a_header(&key).to_wire();
    let ticket = v1::Ticket { epoch: 1, count: 2, nonce: vec![1; 16].into(), signature: vec![2; 64].into() };
    let hello = v1::DownHello {
        protocol_min: 1,
        protocol_max: 1,
        record: Some(signed(&key, &json(1))),
        head: Some(header.clone()),
        chain: vec![signed(&key, &json(2))],
        incarnation: 1,
        ticket: Some(ticket.clone()),
        ..Default::default()
    };
    let down = v1::Down { message: Some(v1::down::Message::Hello(hello)) };
    let up = v1::UpHello { server: "web2".into(), at: Some(header.clone()), ..Default::default() };
    let up = v1::Up { message: Some(v1::up::Message::Hello(up)) };
    let rules = SetRules::new("nginx".parse().expect("a name")).to_wire();
    vec![
        ("header", vec![header.encode_to_vec()]),
        ("record", vec![json(1), signed(&key, &json(1)).encode_to_vec()]),
        (
            "chain",
            vec![
                [anonymous(2, "@0"), anonymous(1, "@1")].join(&b'\n'),
                [anonymous(3, "@0"), anonymous(2, "@1"), anonymous(1, "@0")].join(&b'\n'),
            ],
        ),
        ("ticket", vec![ticket.encode_to_vec(), b"CAEQAg==".to_vec()]),
        ("token", vec![token.to_string().into_bytes()]),
        ("messages", vec![down.encode_to_vec(), up.encode_to_vec(), rules.encode_to_vec()]),
    ]
}
