//! Any bytes fed to the decoders of the group record, the header, the token and the entry give a value that keeps its
//! rules, or an error: never a panic (invariant 7).

use bellwether_proto::{
    entry::{Entry, EntryPath, Owners},
    key::KeyPair,
    record::{Level, Policy, Record, Role, Server, SetRules, SignedRecord, Version},
    revision::{Epoch, SignedHeader},
    token::Token,
    v1,
};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

/// The context that records are signed under: part of the format.
const CONTEXT: &str = "bellwether v1 group record";

fn record(key: &KeyPair) -> Record {
    let server = |name: &str, key, role| Server {
        name: name.parse().expect("a name"),
        key,
        address: format!("{name}.example:7440"),
        role,
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    Record {
        level: Level::NEWEST,
        group: [7; 16].into(),
        version: Version { epoch: Epoch(1), version: 3 },
        servers: vec![
            server("web1", key.public(), Role::Manager),
            server("web2", KeyPair::generate().public(), Role::Member),
        ],
        removed: Vec::new(),
        refused: Vec::new(),
        policy: Policy {
            codec: "deflate:6".parse().expect("a codec"),
            ..Policy::new(vec![SetRules::new("nginx".parse().expect("a name"))])
        },
        log: Vec::new(),
        previous: None,
    }
}

fn signed(key: &KeyPair, json: &[u8]) -> v1::SignedRecord {
    v1::SignedRecord {
        record: Bytes::copy_from_slice(json),
        signer: Bytes::copy_from_slice(key.public().as_bytes()),
        signature: Bytes::copy_from_slice(&key.sign(CONTEXT, json)),
    }
}

#[test]
fn a_record_survives_its_message() {
    let key = KeyPair::generate();
    let made = SignedRecord::sign(record(&key), &key).expect("a record that keeps its rules");
    assert_eq!(SignedRecord::from_wire(&made.to_wire()).expect("the same"), made);
}

proptest! {
    #[test]
    fn any_bytes_signed_are_no_panic(json: Vec<u8>) {
        // A hostile manager can sign what it likes.
        prop_assert!(SignedRecord::from_wire(&signed(&KeyPair::generate(), &json)).is_err());
    }

    #[test]
    fn a_changed_record_keeps_the_rules_or_is_refused(at: prop::sample::Index, with: u8, cut in 0..3usize) {
        let key = KeyPair::generate();
        let mut json = serde_json::to_vec(&record(&key)).expect("it has JSON");
        let at = at.index(json.len());
        json.splice(at..(at + cut).min(json.len()), [with]);
        if let Ok(taken) = SignedRecord::from_wire(&signed(&key, &json)) {
            prop_assert!(taken.record().check().is_ok());
        }
    }

    #[test]
    fn a_record_changed_after_it_was_signed_is_refused(at: prop::sample::Index, bit in 0..8u8) {
        let key = KeyPair::generate();
        let mut wire = SignedRecord::sign(record(&key), &key).expect("a record").to_wire();
        let mut json = wire.record.to_vec();
        let at = at.index(json.len());
        json[at] ^= 1 << bit;
        wire.record = json.into();
        prop_assert!(SignedRecord::from_wire(&wire).is_err());
    }

    #[test]
    fn any_bytes_as_a_header_are_no_panic(header: Vec<u8>, signature: Vec<u8>) {
        let wire = v1::SignedHeader { header: header.into(), signature: signature.into() };
        if let Ok(header) = SignedHeader::from_wire(wire) {
            prop_assert!(!header.signed_by(&KeyPair::generate().public()));
        }
    }

    #[test]
    fn any_text_as_a_token_is_no_panic(text in "(bellwether-)?[A-Za-z0-9_-]{0,200}") {
        prop_assert!(text.parse::<Token>().is_err());
    }

    #[test]
    fn any_bytes_as_an_entry_are_no_panic(bytes: Vec<u8>) {
        let entry = v1::Entry::decode(Bytes::from(bytes)).map(|wire| Entry::from_wire(wire, &mut Owners::default()));
        if let Ok(Ok(entry)) = entry {
            prop_assert_eq!(Entry::from_wire(entry.to_wire(), &mut Owners::default()), Ok(entry));
        }
    }

    #[test]
    fn a_path_stays_below_its_set(bytes in prop::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), any::<u8>()], 0..40)) {
        if let Ok(path) = EntryPath::new(&bytes) {
            prop_assert!(!bytes.starts_with(b"/") && !bytes.contains(&0));
            prop_assert!(path.components().all(|c| !c.is_empty() && c != b"." && c != b".."));
        }
    }
}
