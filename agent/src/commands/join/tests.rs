//! The forms of a token on the command line, and the answers that are accepted.

use bellwether_proto::{
    name::ServerName,
    record::{Level, Policy, Record, Role, Server, Version},
    revision::{Epoch, GroupId},
};

use super::*;

fn a_token(manager: &KeyPair) -> Token {
    Token {
        address: "web1:7440".to_owned(),
        manager: manager.public(),
        id: "0123456789".to_owned(),
        secret: "00ff".repeat(8),
    }
}

fn config() -> Config {
    Config {
        name: "web2".parse().expect("a name"),
        listen: "[::]:7440".parse().expect("an address"),
        advertise: "web2:7440".to_owned(),
        http: "127.0.0.1:7441".parse().expect("an address"),
        http_names: Vec::new(),
        admin_socket: "/run/bellwether/admin.sock".into(),
        state_dir: "/var/lib/bellwether".into(),
        sets: Vec::new(),
        agent_check: None,
        balancers: Vec::new(),
        file: "/etc/bellwether/agent.toml".into(),
        file_exists: true,
    }
}

#[test]
fn a_token_is_an_argument_or_a_file() {
    let written = a_token(&KeyPair::generate());
    assert_eq!(token(&written.to_string()).expect("an argument"), written);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    fs::write(&file, format!("{written}\n")).expect("written");
    assert_eq!(token(file.to_str().expect("UTF-8")).expect("a file"), written);
}

#[test]
fn what_is_no_token_is_usage() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    fs::write(&file, "nothing").expect("written");
    for text in ["bellwether-cut", "/nonexistent/token", file.to_str().expect("UTF-8")] {
        assert_eq!(token(text).expect_err(text).kind, Kind::Usage);
    }
}

fn server(name: &str, key: PublicKey, role: Role) -> Server {
    let name: ServerName = name.parse().expect("a name");
    Server { address: format!("{name}:7440"), name, key, role, candidate: true, backends: Vec::new(), drained: false }
}

fn reply(signer: &KeyPair, servers: Vec<Server>) -> EnterReply {
    let record = Record {
        level: Level::NEWEST,
        group: GroupId::from([7; 16]),
        version: Version { epoch: Epoch(1), version: 2 },
        servers,
        removed: Vec::new(),
        refused: Vec::new(),
        policy: Policy::new(Vec::new()),
        log: Vec::new(),
        previous: None,
    };
    let record = SignedRecord::sign(record, signer).expect("a good record").to_wire();
    EnterReply { record: Some(record.clone()), chain: vec![record] }
}

#[test]
fn the_answer_must_be_the_tokens_managers_and_name_this_server() {
    let (manager, own, other) = (KeyPair::generate(), KeyPair::generate().public(), KeyPair::generate());
    let token = a_token(&manager);
    let web1 = || server("web1", manager.public(), Role::Manager);
    let good = reply(&manager, vec![web1(), server("web2", own, Role::Member)]);
    let held = accept(good, &token, &config(), &own).expect("all is as it should be");
    assert!(held.is_manager(&manager.public()) && !held.is_manager(&own));

    let without = reply(&manager, vec![web1()]);
    let another_name = reply(&manager, vec![web1(), server("web3", own, Role::Member)]);
    let another_manager = reply(&other, vec![server("web1", other.public(), Role::Manager)]);
    for bad in [without, another_name, another_manager, EnterReply::default()] {
        accept(bad, &token, &config(), &own).expect_err("it is not what the token promised");
    }
}
