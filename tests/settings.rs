//! agent.toml compared with the group, and content that a set should not have.

use std::fs;

use crate::farm::{Farm, Server};

#[test]
fn a_set_that_would_hold_the_settings_is_refused_by_init_as_by_serve() {
    let mut farm = Farm::plan().unformed();
    let server = farm.manager();
    // The directory that agent.toml will be written to.
    let home = server.home.display().to_string();
    let refused = server.init_with(&[&format!("--set=home={home}"), "--state-dir=/var/lib/bellwether-not-there"]);
    assert_eq!(refused.code, Some(2), "{refused}");
    assert!(refused.stderr.contains("agent.toml, which no other server may write"), "{refused}");
    assert!(!server.home.join("agent.toml").exists());
    farm.form();
}

#[test]
fn keys_and_identity_in_a_set_are_warned_of_before_and_after() {
    let farm = Farm::plan().members(1).unformed();
    let fill = |server: &Server| {
        server.write("machine-id", "0123");
        server.write("ssl/site.key", "-----BEGIN PRIVATE KEY-----\n");
    };
    fill(farm.manager());
    let formed = farm.manager().init();
    for words in ["warning: set web holds", "machine-id (this machine's identity)", "ssl/site.key (a private key)"] {
        assert!(formed.stderr.contains(words), "no '{words}' in {formed}");
    }
    let doctor = farm.manager().command(&["doctor"]);
    assert!(doctor.stdout.contains("ssl/site.key (a private key)"), "{doctor}");
    let (mut farm, member) = (farm, 1);
    farm.server_mut(0).start();
    fill(farm.member(member));
    let joined = farm.member(member).join(&farm.token(&[]));
    assert!(joined.stderr.contains("machine-id (this machine's identity)"), "{joined}");
}

#[test]
fn a_set_that_the_group_does_not_have_is_warned_of_at_the_manager_and_at_members() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "a"));
    for index in 0..2 {
        let extra = farm.server(index).home.join("extra");
        fs::create_dir(&extra).expect("made");
        farm.server(index).configure(&format!("[[set]]\nname = \"extra\"\npath = \"{}\"", extra.display()));
        farm.server_mut(index).stop();
        farm.server_mut(index).start();
    }
    farm.wait_in_sync();
    for index in 0..2 {
        let server = farm.server(index);
        let says = "set extra is in this server's agent.toml and is none of the group's";
        let status = server.status().expect("a status");
        assert!(status.warnings.iter().any(|warning| warning.contains(says)), "{:?}", status.warnings);
        let shown = server.command(&["status"]);
        assert!(shown.stdout.contains("neither published nor synced"), "{shown}");
        assert!(server.read_log().contains(says), "{}", server.name);
        let doctor = server.command(&["doctor"]);
        assert!(doctor.stdout.contains(says), "{doctor}");
    }
}
