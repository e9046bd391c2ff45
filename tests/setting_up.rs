//! The addresses by which servers find each other: without DNS, from the first command on, and after changes.

use std::{fs, process::Command, sync::Arc};

use bellwether_proto::token::Token;

use crate::{
    balancers::{Check, Site, in_record},
    farm::{DEADLINE, Farm, Network, free_port, one, run, run_with_input, wait_for},
};

/// The command on a machine whose name cannot be resolved.
fn without_a_name(command: &Command) -> Command {
    let mut alone = Command::new("unshare");
    let rename = "echo no-such-host.invalid > /proc/sys/kernel/hostname\nexec \"$@\"";
    alone.args(["--uts", "sh", "-ec", rename, "sh"]).arg(command.get_program()).args(command.get_args());
    alone
}

#[test]
fn without_dns_servers_advertise_the_address_of_their_interface() {
    let Some(network) = Network::new(2).map(Arc::new) else { return };
    let mut farm = Farm::plan().members(1).on(&network).unformed();
    let port = free_port();
    let listen = format!("0.0.0.0:{port}");
    let own = |index: usize| Network::listen(index).replace(":7100", &format!(":{port}"));

    let init = farm.manager().first_command_at("init", &listen, None);
    run(without_a_name(&init).arg("--yes")).success();
    assert_eq!(in_file(&farm, 0), own(0), "the only interface that others can dial");
    farm.server_mut(0).start();
    let token: Token = farm.token(&[]).parse().expect("a token");
    assert_eq!(token.address, own(0));

    let join = farm.member(1).first_command_at("join", &listen, None);
    run_with_input(without_a_name(&join).arg("--yes"), &token.to_string()).success();
    assert_eq!(in_file(&farm, 1), own(1), "the address towards the manager");
    farm.server_mut(1).start();
    farm.wait_equal();
}

/// The advertised address in agent.toml.
fn in_file(farm: &Farm, index: usize) -> String {
    let server = if index == 0 { farm.manager() } else { farm.member(index) };
    let text = fs::read_to_string(server.config()).expect("agent.toml");
    let table: toml::Table = text.parse().expect("TOML");
    table["advertise"].as_str().expect("an address").to_owned()
}

#[test]
fn a_server_that_the_manager_does_not_reach_does_not_enter() {
    let mut farm = Farm::plan().members(1).unformed();
    farm.form();
    let token = farm.token(&["--uses", "1"]);
    let nowhere = format!("127.0.0.1:{}", free_port());
    let astray = |advertise: &str| {
        let mut join = farm.member(1).first_command_at("join", &farm.member(1).listen, Some(advertise));
        run_with_input(join.arg("--yes"), &token)
    };
    astray(&nowhere).refused().says(&["dialled", &nowhere, "--advertise"]);
    // Another program answers there.
    astray(&farm.manager().listen).refused().says(&[&farm.manager().listen]);
    assert!(one(&farm.status(), "member1").is_none(), "it is not in the record");
    assert!(!farm.member(1).state().join("group.json").exists(), "it belongs to no group");

    farm.member(1).join(&token).success();
    farm.server_mut(1).start();
    farm.wait_in_sync();
}

#[test]
fn an_address_that_is_set_is_followed_by_agent_toml_by_doctor_and_by_tokens() {
    let farm = Farm::plan().members(1).start();
    for (index, name) in ["manager", "member1"].into_iter().enumerate() {
        let server = if index == 0 { farm.manager() } else { farm.member(index) };
        let address = server.listen.replace("127.0.0.1", "localhost");
        farm.manager().command(&["server", "set", name, "--address", &address]).success();
        wait_for("agent.toml with the new address", DEADLINE, || {
            let now = in_file(&farm, index);
            if now == address { Ok(()) } else { Err(now) }
        });
        let doctor = server.command(&["doctor"]);
        doctor.says(&[&format!("advertise: {address} is ")]);
    }
    let token: Token = farm.token(&[]).parse().expect("a token");
    assert!(token.address.starts_with("localhost:"), "{}", token.address);
    farm.manager().write("a.conf", "after the addresses changed");
    farm.wait_equal();
}

#[test]
fn a_newcomer_behind_a_proxy_that_vouches_for_it_enters_in_maintenance() {
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "<p>page</p>");
    farm.form();
    farm.admit(1);
    farm.wait_equal();
    let site = Site::checked(&farm, Check::Relay);
    for server in ["manager", "member1"] {
        site.haproxy.wait_status(server, "UP");
    }
    // As in docs/balancers.md, nginx answers for an agent that does not run, so the newcomer would get traffic.
    site.haproxy.wait_status("member2", "UP");
    site.haproxy.ask("set server app/member2 state maint").expect("in maintenance");
    site.haproxy.wait_status("member2", "MAINT");
    let client = site.client();
    client.wait_from("member1");
    let so_far = client.wait_more(50);
    assert_eq!(so_far.of("member2"), 0, "a server that has not joined is asked");

    farm.admit(2);
    farm.wait_equal();
    farm.manager().command(&["wait", "--servers", "member2"]).success();
    site.haproxy.ask("set server app/member2 state ready").expect("ready");
    client.wait_from("member2");
    client.stop().flawless();
    assert!(!in_record(&farm, "member2").drained);
}
