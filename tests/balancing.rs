//! A real HAProxy takes servers out of rotation and back while clients send requests.

use std::time::Duration;

use bellwether_manager::balancer::BalancerError;
use bellwether_proto::record::Server;

use crate::{
    balancers::{Site, balancers, block_on, in_record},
    farm::{DEADLINE, Farm, wait_for},
};

const AT_ONCE: Duration = Duration::from_millis(1);

#[test]
fn w21_draining_moves_traffic_without_a_failed_request() {
    let farm = Farm::plan().members(2).start();
    let site = Site::start(&farm);
    let (balancers, member1) = (site.balancers(), in_record(&farm, "member1"));
    let client = site.client();
    for server in ["manager", "member1", "member2"] {
        client.wait_from(server);
    }
    let report = block_on(balancers.drain_and_wait(&member1, DEADLINE)).expect("drained");
    assert!(report.is_drained() && report.sessions() == 0, "{report}");
    assert_eq!(site.haproxy.status("member1"), "DRAIN");
    let drained = client.so_far();
    let later = client.wait_more(100);
    assert_eq!(later.of("member1"), drained.of("member1"), "it is asked although it is drained");

    // A second drain changes nothing.
    block_on(balancers.drain(&member1)).expect("drained already");
    let report = block_on(balancers.ready(&member1)).expect("ready");
    assert!(report.serves(), "{report}");
    client.wait_from("member1");
    client.stop().flawless();
}

#[test]
fn w21_draining_waits_for_a_slow_session_and_says_how_many_are_left() {
    let farm = Farm::plan().members(1).start();
    let site = Site::start(&farm);
    let slow = site.slow_session();
    let (balancers, server) = (site.balancers(), in_record(&farm, &slow.server));
    let report = block_on(balancers.drain_and_wait(&server, AT_ONCE)).expect("drained");
    assert_eq!((report.is_drained(), report.sessions()), (true, 1), "{report}");
    let waiting = std::thread::spawn({
        let (balancers, server) = (balancers.clone(), server.clone());
        move || block_on(balancers.wait_idle(&server, DEADLINE))
    });
    drop(slow);
    let report = waiting.join().expect("no panic").expect("still drained");
    assert_eq!(report.sessions(), 0, "{report}");
}

#[test]
fn a_haproxy_that_was_restarted_meanwhile_is_noticed_while_waiting() {
    let farm = Farm::plan().members(1).start();
    let mut site = Site::start(&farm);
    let slow = site.slow_session();
    let (balancers, server) = (site.balancers(), in_record(&farm, &slow.server));
    block_on(balancers.drain(&server)).expect("drained");
    site.haproxy.kill();
    site.haproxy.revive();
    site.haproxy.wait_status(&slow.server, "UP");
    let error = block_on(balancers.wait_idle(&server, DEADLINE)).expect_err("it is not drained any more");
    assert!(matches!(error, BalancerError::Failed { .. }) && error.to_string().contains("not drained"), "{error}");
}

#[test]
fn a_serving_machine_that_dies_costs_only_what_it_was_answering() {
    let farm = Farm::plan().members(2).start();
    let mut site = Site::start(&farm);
    let client = site.client();
    for server in ["manager", "member1", "member2"] {
        client.wait_from(server);
    }
    site.nginx("member1").kill();
    site.haproxy.wait_status("member1", "DOWN");
    let down = client.so_far();
    let later = client.wait_more(100);
    assert_eq!(later.failures, down.failures, "requests fail although the balancer knows that the server is down");
    site.nginx("member1").revive();
    client.wait_from("member1");
    let answers = client.stop();
    assert!(answers.failures.len() <= 4, "one for each connection at the most: {:?}", answers.failures);
}

#[test]
fn balancers_are_in_the_group_record_and_a_member_shows_them() {
    let farm = Farm::plan().members(1).start();
    let site = Site::start(&farm);
    site.register(&farm);
    farm.manager().command(&["group", "set", "--min-serving", "2", "--drain-timeout", "90s"]).success();
    let shown = [site.haproxy.text(), "sessions have 90s to end; at least 2 go on serving".to_owned()];
    wait_for("the record at the member", DEADLINE, || {
        let output = farm.member(1).command(&["group", "show"]).success();
        if shown.iter().all(|text| output.stdout.contains(text)) { Ok(()) } else { Err(output.stdout) }
    });
    farm.manager().command(&["group", "set", "--no-balancer", "lb1"]).success();
    let output = farm.manager().command(&["group", "show"]).success();
    assert!(!output.stdout.contains("haproxy"), "{output}");
    let wrong = ["group", "set", "--balancer", "lb1=haproxy:unix:admin.sock"];
    farm.manager().command(&wrong).exits(2).says(&["unix:/PATH"]);
    farm.member(1).command(&["group", "set", "--min-serving", "1"]).refused().says(&["manager"]);
}

#[test]
fn a_server_is_drained_at_every_balancer_and_one_that_fails_is_named() {
    let farm = Farm::plan().members(1).start();
    let site = Site::start(&farm);
    let mut second = site.another("lb2");
    let (both, member1) = (balancers(&[&site.haproxy.text(), &second.text()]), in_record(&farm, "member1"));
    second.kill();
    let error = block_on(both.drain(&member1)).expect_err("lb2 does not answer").to_string();
    for words in ["member1 could not be drained", "balancer lb2: it cannot be reached", "at lb1 it is drained"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(site.haproxy.status("member1"), "DRAIN");

    second.revive();
    second.wait_status("member1", "UP");
    let servers = [in_record(&farm, "manager"), member1.clone()];
    let serving = block_on(both.serving(&servers)).expect("both answer");
    assert_eq!(serving.iter().map(ToString::to_string).collect::<Vec<_>>(), ["manager"], "drained at one is drained");
    let report = block_on(both.drain(&member1)).expect("both answer");
    assert!(report.is_drained() && !report.takes_traffic(), "{report}");
    assert_eq!(second.status("member1"), "DRAIN");
    block_on(both.ready(&member1)).expect("ready");
    assert_eq!((site.haproxy.status("member1"), second.status("member1")), ("UP".into(), "UP".into()));
}

#[test]
fn a_server_that_no_balancer_has_is_an_error_unless_it_takes_no_traffic() {
    let farm = Farm::plan().members(1).start();
    let site = Site::start(&farm);
    let (lb1, member1) = (site.balancers(), in_record(&farm, "member1"));
    let named = |name: &str, backends: &[&str]| Server {
        name: name.parse().expect("a name"),
        backends: backends.iter().map(|text| (*text).to_owned()).collect(),
        ..member1.clone()
    };
    let error = block_on(lb1.drain(&named("web1", &[]))).expect_err("nobody has it");
    assert!(matches!(error, BalancerError::Absent { .. }), "{error}");
    let error = block_on(lb1.drain(&named("web1", &["app/web1"]))).expect_err("nobody has it");
    assert!(matches!(error, BalancerError::NoPlace { .. }), "{error}");
    assert!(block_on(lb1.drain(&named("web1", &["none"]))).expect("nothing to do").is_absent());
    block_on(lb1.drain(&named("web1", &["app/member1"]))).expect("its name there");
    assert_eq!(site.haproxy.status("member1"), "DRAIN");
}

#[test]
fn maintenance_that_an_administrator_has_set_is_left_alone() {
    let farm = Farm::plan().members(1).start();
    let site = Site::start(&farm);
    let (lb1, member1) = (site.balancers(), in_record(&farm, "member1"));
    site.haproxy.ask("set server app/member1 state maint").expect("an answer");
    assert!(block_on(lb1.drain(&member1)).expect("it takes nothing").is_drained());
    let error = block_on(lb1.ready(&member1)).expect_err("that is not ours to end").to_string();
    assert!(error.contains("app/member1 is in maintenance there"), "{error}");
    assert_eq!(site.haproxy.status("member1"), "MAINT");
    site.haproxy.ask("set server app/member1 state ready").expect("an answer");
    assert!(block_on(lb1.ready(&member1)).expect("ready").serves());
}
