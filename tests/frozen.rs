//! An agent that hangs (SIGSTOP acts like a hanging disk, or a machine that swaps): commands end, with a message that fits the
//! request.

use rustix::process::Signal;

use crate::farm::{Farm, Output, Server};

/// Lets the agent go on, so that the farm ends like others.
struct Frozen<'a>(&'a Server);

impl<'a> Frozen<'a> {
    fn new(server: &'a Server) -> Self {
        server.signal(Signal::STOP);
        Self(server)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

#[track_caller]
fn says_what_fits_a_read(output: Output) {
    let output =
        output.exits(4).says(&["no answer of the agent on this machine within", "nothing was changed by asking"]);
    assert!(!output.stderr.contains("may be done") && !output.stderr.contains("may still be done"), "{output}");
}

#[test]
fn what_only_asks_ends_when_the_agent_is_frozen() {
    let farm = Farm::plan().start();
    let manager = farm.manager();
    manager.write("a.conf", "a");
    farm.wait_in_sync();
    let _frozen = Frozen::new(manager);
    // Without `--timeout` the command ends by itself.
    says_what_fits_a_read(manager.command(&["status"]));
    says_what_fits_a_read(manager.command(&["wait"]));
    says_what_fits_a_read(manager.command(&["verify"]));
    for arguments in [
        &["status", "--json"][..],
        &["tree"],
        &["get", "web:a.conf"],
        &["token", "list"],
        &["procedure", "list"],
        &["procedure", "show", "00000001"],
        &["drift", "show"],
        &["monitor"],
        &["rm", "web:a.conf", "--dry-run"],
        &["pause", "--dry-run"],
    ] {
        let output = manager.command(&[arguments, &["--timeout", "1s"]].concat());
        match arguments {
            ["monitor"] => drop(output.success()),
            ["status", "--json"] => drop(output.exits(4)),
            ["procedure", "show", _] if output.code == Some(2) => {}
            _ => says_what_fits_a_read(output),
        }
    }
}

#[test]
fn a_change_ends_too_and_says_that_it_may_be_done() {
    let farm = Farm::plan().start();
    let _frozen = Frozen::new(farm.manager());
    let output = farm.manager().command_with_input(&["put", "web:a.conf"], "a");
    assert_ne!(output.code, Some(0), "{output}");
    output.says(&["may be done all the same"]);
    farm.manager()
        .command_with_input(&["put", "web:a.conf", "--timeout", "1s"], "a")
        .exits(4)
        .says(&["may still be done"]);
}

#[test]
fn w11_members_answer_while_their_manager_is_frozen() {
    let farm = Farm::plan().members(1).start();
    farm.manager().write("a.conf", "held here");
    farm.wait_same(farm.member(1));
    farm.wait_in_sync();
    let member = farm.member(1);
    let _frozen = Frozen::new(farm.manager());
    let status = member.status().expect("what it knows itself");
    assert_eq!(status.observer.as_str(), member.name);
    assert_eq!(member.command(&["get", "web:a.conf"]).success().stdout, "held here");
    member.command(&["tree"]).success().says(&["a.conf"]);
    member.command(&["wait", "--servers", &member.name]).success();
    for arguments in [&["wait", "--timeout", "6s"][..], &["wait", "--serving", "--timeout", "6s"]] {
        member.command(arguments).exits(4).says(&["the manager, manager, does not answer"]);
    }
}

#[test]
fn verify_names_a_member_that_does_not_answer() {
    let farm = Farm::plan().members(2).start();
    let _frozen = Frozen::new(farm.member(2));
    let output = farm.manager().command(&["verify", "--timeout", "100s"]);
    output.exits(5).says(&["1 of 2 servers did not answer", "member2: "]);
    farm.manager().command(&["verify", "member1"]).success();
}
