//! W26: several servers promote themselves, or are promoted, at once. If they reach each other, one gives way and says so. If
//! they do not, neither manager accepts a change until a person has decided. Races are held at named points.

use std::thread;

use bellwether_proto::status::{FarmStatus, State};

use crate::farm::{
    DEADLINE, Farm, Output, Server,
    gate::{Gate, held_at},
    one, summary, wait_for,
};

fn farm(members: usize) -> Farm {
    Farm::plan().members(members).start_with(|manager| manager.write("index.html", "one"))
}

fn take_over(server: &Server) -> Output {
    server.command(&["promote", "--self", "--yes"])
}

fn recover(server: &Server) -> Output {
    server.command(&["recover", "manager", "--yes", "--attest", "its plug is pulled"])
}

fn wait_at(observer: &Server, what: &str, fits: impl Fn(&FarmStatus) -> bool) {
    wait_for(&format!("{what}, as {} sees it", observer.name), DEADLINE, || {
        let status = observer.status()?;
        if fits(&status) { Ok(()) } else { Err(summary(&status)) }
    });
}

/// Holds both commands after they have judged that they may take over, and then lets both go on.
fn race(command: fn(&Server) -> Output) {
    let mut farm = farm(3);
    let gates = [1, 2].map(|index| held_at(&mut farm, index, "takeover.judged"));
    farm.wait_in_sync();
    farm.server_mut(0).kill();
    let (first, second) = thread::scope(|scope| {
        let (first, second) = (scope.spawn(|| command(farm.server(1))), scope.spawn(|| command(farm.server(2))));
        gates.iter().for_each(Gate::wait_reached);
        gates.iter().for_each(Gate::open);
        (first.join().expect("a command"), second.join().expect("a command"))
    });
    assert_eq!(first.code, Some(0), "the first by name leads: {first}");
    assert_ne!(second.code, Some(0), "the other one says that it does not: {second}");
    second.says(&["member1"]);
    farm.led_by(1);
    farm.wait_leads(1);
    for index in [2, 3] {
        wait_at(farm.server(index), "the one manager", |status| status.manager.as_str() == "member1");
    }
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(2));
    farm.wait_same(farm.server(3));
    let shown = farm.status();
    assert!(shown.servers.iter().all(|server| server.state != State::Conflict), "{}", summary(&shown));
}

#[test]
fn w26_of_two_that_promote_themselves_at_once_one_leads_and_the_other_says_who() {
    race(take_over);
}

#[test]
fn w26_of_two_recoveries_at_once_one_leads_and_the_other_says_who() {
    race(recover);
}

#[test]
fn w26_who_comes_while_another_one_makes_it_durable_gives_way() {
    let mut farm = farm(2);
    // member1 has asked the others already, and has found no other manager.
    let gate = held_at(&mut farm, 1, "takeover.looked");
    farm.wait_in_sync();
    farm.server_mut(0).kill();
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| take_over(farm.server(1)));
        gate.wait_reached();
        // A second command at the same server is refused.
        take_over(farm.server(1)).refused().says(&["by an earlier command"]);
        take_over(farm.server(2)).refused().says(&["member1 is made the manager at this moment", "bellwether status"]);
        gate.open();
        first.join().expect("a command")
    });
    first.success().says(&["member1 is the manager"]);
    farm.led_by(1);
    farm.wait_leads(1);
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(2));
}

#[test]
fn w26_managers_in_conflict_take_no_change_until_one_is_chosen() {
    let mut farm = farm(2);
    farm.server_mut(0).kill();
    // Neither hears the other during its takeover.
    farm.server_mut(2).kill();
    take_over(farm.server(1)).success();
    farm.server_mut(1).kill();
    farm.server_mut(2).start();
    take_over(farm.server(2)).success();
    farm.server_mut(1).start();
    let orders: [&[&str]; 12] = [
        &["rm", "web:index.html"],
        &["publish"],
        &["pause"],
        &["sync"],
        &["group", "set", "--codec", "none"],
        &["server", "set", "member1", "--candidate", "no"],
        &["server", "disable", "member1", "--yes"],
        &["server", "remove", "member2", "--yes"],
        &["server", "add", "manager"],
        &["token", "create"],
        &["token", "revoke", "nothing"],
        &["promote", "manager"],
    ];
    for index in [1, 2] {
        let server = farm.server(index);
        // The server has met the other manager. This command asks for the present setting, so it changes nothing.
        wait_for(&format!("{} in conflict", server.name), DEADLINE, || {
            let said = server.command(&["group", "set", "--min-serving", "1"]);
            if said.code == Some(3) { Ok(()) } else { Err(said.to_string()) }
        });
        let words = ["two managers lead in epoch 3", "promote --self --force"];
        server.command_with_input(&["put", "web:asked.conf"], "no").refused().says(&words);
        for order in orders {
            // Some orders do not apply to the manager at which they are given, and those errors come first.
            let said = server.command(order);
            assert!(matches!(said.code, Some(3 | 1)) && !said.stderr.is_empty(), "{said}");
            if !said.stderr.contains("already") && !said.stderr.contains("is the manager") {
                assert!(said.stderr.contains(words[0]), "{said}");
            }
        }
        let head = server.status().expect("its status").head;
        server.write("edited.conf", "by hand");
        wait_at(server, "an edit that is not published", |status| {
            status.unpublished.as_ref().is_some_and(|why| why.contains(words[0]))
        });
        assert_eq!(server.status().expect("its status").head, head);
        server.command(&["token", "list"]).success();
    }
    for (observer, other) in [(1, "member2"), (2, "member1")] {
        wait_at(farm.server(observer), "the conflict", |status| {
            one(status, other).is_some_and(|server| server.state == State::Conflict)
        });
    }
    farm.server(1).command(&["promote", "--self", "--force", "--yes"]).success().says(&["member1 is the manager"]);
    farm.led_by(1);
    farm.manager().command_with_input(&["put", "web:chosen.conf"], "yes").success();
    farm.wait_same_file(farm.server(2), "chosen.conf");
    farm.wait_same_file(farm.server(2), "edited.conf");
}

#[test]
fn w18_of_two_handovers_the_second_is_refused_and_names_the_first() {
    let mut farm = farm(2);
    let gate = held_at(&mut farm, 0, "handover.signed");
    farm.wait_in_sync();
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| farm.server(0).command(&["promote", "member1"]));
        gate.wait_reached();
        farm.server(0).command(&["promote", "member2"]).refused().says(&["being handed over to member1"]);
        farm.server(0).command(&["promote", "member1"]).refused().says(&["being handed over to member1"]);
        gate.open();
        first.join().expect("a command")
    });
    first.success().says(&["member1 is the manager (group record 2.1)"]);
    farm.led_by(1);
    farm.wait_leads(1);
    farm.manager().write("index.html", "two");
    farm.wait_same(farm.server(2));
}

#[test]
fn w18_a_handover_tells_what_really_became_of_it() {
    let mut farm = farm(2);
    let gate = held_at(&mut farm, 0, "handover.done");
    farm.wait_in_sync();
    let first = thread::scope(|scope| {
        let first = scope.spawn(|| farm.server(0).command(&["promote", "member1"]));
        gate.wait_reached();
        farm.wait_leads(1);
        wait_for("member1 hands on", DEADLINE, || {
            let said = farm.server(1).command(&["promote", "member2"]);
            if said.code == Some(0) { Ok(()) } else { Err(said.to_string()) }
        });
        wait_at(farm.server(0), "the third manager", |status| status.manager.as_str() == "member2");
        gate.open();
        first.join().expect("a command")
    });
    first.exits(5).says(&["member2 is the manager by now, by group record 3.1"]);
}
