//! The fuzz targets of this crate's decoders (`fuzz/`). Each function returns whether the decoder took the input.

use prost::Message;

use crate::{
    entry::{Entry, Kind, Meta, Owner, Owners},
    key::KeyPair,
    record::{Level, Policy, Record, Role, Server, SetRules, SignedRecord, Version, chain},
    revision::{Epoch, Header, Number, SignedHeader},
    ticket::Ticket,
    token::{ID, SECRET, Token},
    v1,
};

/// The context that records are signed under.
const CONTEXT: &str = "bellwether v1 group record";

/// A signed header, as in a message; a taken header gives the same message again.
pub fn header(bytes: &[u8]) -> bool {
    let Ok(wire) = v1::SignedHeader::decode(bytes) else { return false };
    let Ok(header) = SignedHeader::from_wire(wire) else { return false };
    assert_eq!(SignedHeader::from_wire(header.to_wire()).as_ref(), Ok(&header));
    true
}

/// The JSON of a record, signed by its sender.
pub fn record(json: &[u8]) -> bool {
    let signed = SignedRecord::from_wire(&signed(&KeyPair::generate(), json));
    let sent = v1::SignedRecord::decode(json).ok().and_then(|wire| SignedRecord::from_wire(&wire).ok());
    let taken: Vec<SignedRecord> = signed.into_iter().chain(sent).collect();
    assert!(taken.iter().all(|taken| taken.record().check().is_ok()));
    !taken.is_empty()
}

/// A chain of records, one per line, each signed by one of two keys in turn: the rules take a way through it, or none.
pub fn chain(lines: &[u8]) -> bool {
    let keys = [KeyPair::generate(), KeyPair::generate()];
    let Ok(text) = std::str::from_utf8(lines) else { return false };
    // The seeds cannot know the keys of a run.
    let text = text.replace("@0", &keys[0].public().to_string()).replace("@1", &keys[1].public().to_string());
    let taken = |(at, json): (usize, &str)| SignedRecord::from_wire(&signed(&keys[at % 2], json.as_bytes())).ok();
    let lines = text.lines().take(8);
    let mut links: Vec<SignedRecord> = lines.enumerate().filter_map(taken).collect();
    let Some(held) = links.pop() else { return false };
    let Ok(way) = chain::walk(&held, &links) else { return false };
    let steps = std::iter::once(&held).chain(&way).zip(&way);
    steps.for_each(|(from, to)| assert_eq!(to.may_follow(from), Ok(true)));
    !way.is_empty()
}

/// A session ticket, as a message and as text.
pub fn ticket(bytes: &[u8]) -> bool {
    let sent = v1::Ticket::decode(bytes).ok().and_then(|wire| Ticket::from_wire(&wire).ok());
    let text = std::str::from_utf8(bytes).ok().and_then(|text| Ticket::try_from(text.to_owned()).ok());
    let taken: Vec<Ticket> = sent.into_iter().chain(text).collect();
    let again = |ticket: &Ticket| Ticket::try_from(String::from(ticket.clone()));
    taken.iter().for_each(|ticket| assert_eq!(again(ticket).as_ref(), Ok(ticket)));
    !taken.is_empty()
}

/// A join token; a taken token has the same text again.
pub fn token(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok(token) = text.parse::<Token>() else { return false };
    assert_eq!(token.to_string().parse::<Token>().as_ref(), Ok(&token));
    true
}

/// The messages between servers, and the conversions of their parts.
pub fn messages(bytes: &[u8]) -> bool {
    [entry(bytes), rules(bytes), down(bytes), up(bytes)].contains(&Some(true))
}

fn entry(bytes: &[u8]) -> Option<bool> {
    let entry = Entry::from_wire(v1::Entry::decode(bytes).ok()?, &mut Owners::default()).ok()?;
    assert_eq!(Entry::from_wire(entry.to_wire(), &mut Owners::default()), Ok(entry));
    Some(true)
}

fn rules(bytes: &[u8]) -> Option<bool> {
    let rules = SetRules::from_wire(v1::SetRules::decode(bytes).ok()?).ok()?;
    assert_eq!(SetRules::from_wire(rules.to_wire()), Ok(rules));
    Some(true)
}

fn down(bytes: &[u8]) -> Option<bool> {
    let header = |header: Option<v1::SignedHeader>| header.map(|header| SignedHeader::from_wire(header).is_ok());
    match v1::Down::decode(bytes).ok()?.message? {
        v1::down::Message::Hello(hello) => {
            let record = hello.record.map(|record| SignedRecord::from_wire(&record).is_ok());
            let chain = hello.chain.iter().map(|link| SignedRecord::from_wire(link).is_ok()).reduce(|a, b| a & b);
            let ticket = hello.ticket.map(|ticket| Ticket::from_wire(&ticket).is_ok());
            all_of([record, chain, ticket, header(hello.head)])
        }
        v1::down::Message::Offer(offer) => header(offer.header),
        v1::down::Message::Head(head) => header(Some(head)),
        _ => None,
    }
}

fn up(bytes: &[u8]) -> Option<bool> {
    let v1::up::Message::Hello(hello) = v1::Up::decode(bytes).ok()?.message? else { return None };
    let headers = hello.seen.into_iter().chain(hello.at).map(|header| SignedHeader::from_wire(header).is_ok());
    let ticket = hello.ticket.map(|ticket| Ticket::from_wire(&ticket).is_ok());
    all_of([headers.reduce(|a, b| a & b), ticket])
}

/// Whether all present parts were taken; none: there are none.
fn all_of<const N: usize>(parts: [Option<bool>; N]) -> Option<bool> {
    parts.into_iter().flatten().reduce(|a, b| a & b)
}

fn signed(key: &KeyPair, json: &[u8]) -> v1::SignedRecord {
    v1::SignedRecord {
        record: bytes::Bytes::copy_from_slice(json),
        signer: bytes::Bytes::copy_from_slice(key.public().as_bytes()),
        signature: bytes::Bytes::copy_from_slice(&key.sign(CONTEXT, json)),
    }
}

/// A record in which the first of these keys leads, and the second belongs to a candidate.
pub fn a_record(epoch: u64, [manager, candidate]: [&KeyPair; 2]) -> Record {
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
            server("web1", manager.public(), Role::Manager),
            server("web2", candidate.public(), Role::Member),
        ],
        removed: Vec::new(),
        refused: Vec::new(),
        policy: Policy::new(vec![SetRules::new("nginx".parse().expect("a name"))]),
        log: Vec::new(),
        previous: None,
    }
}

/// A ticket without a valid signature.
pub fn a_ticket() -> v1::Ticket {
    v1::Ticket { epoch: 1, count: 2, nonce: vec![1; 16].into(), signature: vec![2; 64].into() }
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

/// The seeds of each decoder's fuzzing.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let (key, other) = (KeyPair::generate(), KeyPair::generate());
    let json = |epoch| serde_json::to_vec(&a_record(epoch, [&key, &other])).expect("it has JSON");
    let anonymous = |epoch, manager: &str, candidate: &str| {
        let text = String::from_utf8(json(epoch)).expect("JSON is UTF-8");
        let text = text.replace(&key.public().to_string(), manager);
        text.replace(&other.public().to_string(), candidate).into_bytes()
    };
    let lines = |epochs: &[u64]| {
        let line = |(at, epoch): (usize, &u64)| anonymous(*epoch, ["@0", "@1"][at % 2], ["@1", "@0"][at % 2]);
        epochs.iter().enumerate().map(line).collect::<Vec<_>>().join(&b'\n')
    };
    let token = Token {
        address: "web1.example:7440".into(),
        manager: key.public(),
        id: "01".repeat(ID),
        secret: "23".repeat(SECRET),
    };
    let header = a_header(&key).to_wire();
    let ticket = a_ticket();
    let text = Ticket::from_wire(&ticket).expect("it is whole");
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
    let owner = Owner { user: "root".into(), group: "root".into() };
    let meta = Meta { mode: 0o777, mtime: 1, owner: owner.into(), xattrs: None };
    let entry = Entry { kind: Kind::Link(b"target".as_slice().into()), meta }.to_wire();
    vec![
        ("header", vec![header.encode_to_vec()]),
        ("record", vec![json(1), signed(&key, &json(1)).encode_to_vec()]),
        ("chain", vec![lines(&[2, 1]), lines(&[3, 2, 1])]),
        ("ticket", vec![ticket.encode_to_vec(), String::from(text).into_bytes()]),
        ("token", vec![token.to_string().into_bytes()]),
        ("messages", vec![down.encode_to_vec(), up.encode_to_vec(), rules.encode_to_vec(), entry.encode_to_vec()]),
    ]
}
