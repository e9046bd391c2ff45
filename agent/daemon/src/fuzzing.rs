//! Entry points for fuzzing the decoders of the agent (`fuzz/`): agent.toml and the state files. Each function returns
//! whether the decoder accepted its input.

use bellwether_member::{HeldFault as Fault, HeldPosition as Position};
use bellwether_proto::{fuzzing as proto, key::KeyPair, record::SignedRecord, revision::SignedHeader, ticket::Ticket};
use bellwether_store::state::{file::fuzzing::body, layout::Held};

use crate::config;

/// The bodies of a member's state files.
pub fn position(json: &[u8]) -> bool {
    let others =
        [body::<Held>(json).is_some(), body::<Vec<SignedHeader>>(json).is_some(), body::<Ticket>(json).is_some()];
    let Some(position) = body::<Position>(json) else { return others.contains(&true) };
    let written = self::json(&position);
    assert_eq!(body::<Position>(&written).map(|again| self::json(&again)), Some(written));
    true
}

/// `agent.toml`.
pub fn agent_toml(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(config::fuzz)
}

fn json(state: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(state).expect("it has JSON")
}

/// The seeds of each decoder.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let toml = "name = \"web1\"\nlisten = \"127.0.0.1:7440\"\nadvertise = \"web1:7440\"\nhttp = \"127.0.0.1:7441\"\n\
        [[set]]\nname = \"nginx\"\npath = \"/etc/nginx\"\nlocal = [\"*.local\"]\n\
        [[balancer]]\nname = \"f5\"\nkind = \"command\"\ncommand = \"true\"\ntimeout = \"60s\"\n";
    let key = KeyPair::generate();
    let header = proto::a_header(&key);
    let record = SignedRecord::sign(proto::a_record(1, [&key, &KeyPair::generate()]), &key).expect("it is sound");
    let fault = Fault { reason: "no space".to_owned(), since_ms: 1 };
    let json = [
        json(&Position::default()),
        json(&Position { at: Some(header.clone()), fault: Some(fault), leads: true, ..Position::default() }),
        json(&[&header]),
        json(&Held { current: record.clone(), chain: vec![record] }),
        json(&Ticket::from_wire(&proto::a_ticket()).expect("it is whole")),
    ];
    vec![("agent_toml", vec![toml.into()]), ("position", json.into())]
}
