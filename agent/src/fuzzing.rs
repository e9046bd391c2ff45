//! What fuzzing feeds to the decoders of the agent (`fuzz/`): agent.toml and its state files.

use bellwether_proto::{revision::SignedHeader, ticket::Ticket};
use bellwether_store::state_file::fuzzing::body;

use crate::{config, layout::Held, member::HeldPosition as Position};

/// The bodies of a member's state files.
pub fn position(json: &[u8]) {
    let _ = body::<Held>(json);
    let _ = body::<Vec<SignedHeader>>(json);
    let _ = body::<Ticket>(json);
    if let Some(position) = body::<Position>(json) {
        let again = serde_json::to_vec(&position).expect("it has JSON");
        assert!(body::<Position>(&again).is_some());
    }
}

/// `agent.toml`.
pub fn agent_toml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        config::fuzz(text);
    }
}

/// What each decoder's fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let toml = "name = \"web1\"\nlisten = \"127.0.0.1:7440\"\nadvertise = \"web1:7440\"\nhttp = \"127.0.0.1:7441\"\n\
        [[set]]\nname = \"nginx\"\npath = \"/etc/nginx\"\nlocal = [\"*.local\"]\n\
        [[balancer]]\nname = \"f5\"\nkind = \"command\"\ncommand = \"true\"\ntimeout = \"60s\"\n";
    let position = serde_json::to_vec(&Position::default()).expect("it has JSON");
    vec![("agent_toml", vec![toml.into()]), ("position", vec![position])]
}
