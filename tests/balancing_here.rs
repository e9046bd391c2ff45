//! The manager and candidates tell whether they can drive the balancers. Balancers that are driven by files and commands of
//! this machine: a real nginx that balances, and a command.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bellwether_manager::balancer::{BalancerError, Balancers, Local, LocalKind, LocalNginx, Locals, Patience};
use bellwether_proto::status::{FarmStatus, Reach};

use crate::{
    balancers::{Client, Site, block_on, in_record, nginx_program},
    farm::{DEADLINE, Farm, free_port, one, run, wait_for},
    maintenance::{is_done, wait_procedure},
};

fn reach(status: &FarmStatus, server: &str) -> Option<Reach> {
    one(status, server).and_then(|server| server.balancers.first().cloned())
}

#[test]
fn w24_a_candidate_says_which_balancers_it_cannot_reach() {
    let farm = Farm::plan().members(1).start();
    let mut site = Site::start(&farm);
    site.haproxy.kill();
    site.register(&farm);
    let status = farm.wait_status("nobody reaching lb1", |status| {
        ["manager", "member1"].iter().all(|name| reach(status, name).is_some_and(|reach| reach.fault.is_some()))
    });
    let fault = reach(&status, "member1").and_then(|reach| reach.fault).unwrap_or_default();
    assert!(fault.contains("cannot be reached at unix:"), "{fault}");
    farm.manager().command(&["status"]).says(&["member1 · balancer lb1", "it could not drain servers there"]);
    farm.member(1).command(&["doctor"]).exits(1).says(&["FAIL balancer lb1"]);

    site.haproxy.revive();
    farm.wait_status("everybody reaching lb1", |status| {
        ["manager", "member1"].iter().all(|name| reach(status, name).is_some_and(|reach| reach.fault.is_none()))
    });
    for server in ["manager", "member1"] {
        site.haproxy.wait_status(server, "UP");
    }
    let doctor = farm.member(1).command(&["doctor"]);
    doctor.says(&["ok   balancer lb1", "ok   traffic of manager: manager: app/manager serving at lb1"]);
}

#[test]
fn a_command_of_agent_toml_drives_a_balancer_and_only_there() {
    let mut farm = Farm::plan().members(1).start();
    let calls = farm.directory().join("calls");
    let hook = format!("echo $BELLWETHER_ACTION $BELLWETHER_BALANCER >> {}", calls.display());
    farm.manager().configure(&format!("[[balancer]]\nname = \"f5\"\nkind = \"command\"\ncommand = \"{hook}\"\n"));
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    farm.manager().command(&["group", "set", "--balancer", "f5=command"]).success();
    let status = farm.wait_status("both having tried f5", |status| {
        ["manager", "member1"].iter().all(|name| reach(status, name).is_some())
    });
    assert_eq!(reach(&status, "manager").and_then(|reach| reach.fault), None);
    let fault = reach(&status, "member1").and_then(|reach| reach.fault).unwrap_or_default();
    assert!(fault.contains("no [[balancer]] named f5"), "{fault}");
    assert!(fs::read_to_string(&calls).expect("it was called").starts_with("probe f5\n"));
}

/// An nginx that balances, with a master and workers.
struct Edge {
    home: PathBuf,
    address: String,
    process: Child,
}

impl Edge {
    /// Starts it in front of the site's nginxes.
    fn start(farm: &Farm, site: &mut Site) -> Self {
        let home = farm.directory().join("edge");
        fs::create_dir_all(&home).expect("a directory");
        let address = format!("127.0.0.1:{}", free_port());
        let lines = ["manager", "member1"]
            .map(|name| format!("    server {} max_fails=0; # {name}\n", site.nginx(name).address));
        fs::write(home.join("app.conf"), format!("upstream app {{\n{}}}\n", lines.concat())).expect("written");
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let at = home.display();
        let text = format!(
            "daemon off; worker_processes 2; {user} pid {at}/nginx.pid; error_log {at}/error.log;\n\
             events {{}}\n\
             http {{ access_log off; include {at}/app.conf;\n\
               client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n\
               uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
               server {{ listen {address}; location / {{ proxy_pass http://app; }}\n\
                 location = /slow {{ limit_rate 1k; proxy_pass http://app/large; }} }} }}\n"
        );
        fs::write(home.join("nginx.conf"), text).expect("written");
        let mut command = Command::new(nginx_program());
        command.arg("-c").arg(home.join("nginx.conf")).arg("-p").arg(&home).stdin(Stdio::null());
        let process = command.spawn().expect("nginx: run tests/run, which installs it");
        let edge = Self { home, address, process };
        wait_for("the balancing nginx", DEADLINE, || {
            block_on(edge.balancers().probe()).remove(0).1.map_err(|e| e.to_string())
        });
        edge
    }

    fn command(&self, arguments: &str) -> String {
        let (program, home) = (nginx_program(), self.home.display());
        format!("{} -c {home}/nginx.conf -p {home} {arguments}", program.display())
    }

    fn balancers(&self) -> Balancers {
        let nginx = LocalNginx {
            file: self.home.join("app.conf"),
            pid: self.home.join("nginx.pid"),
            test: self.command("-t"),
            reload: self.command("-s reload"),
            timeout: DEADLINE,
        };
        let local = Local { name: "edge".parse().expect("a name"), kind: LocalKind::Nginx(nginx) };
        let patience = Patience { up: DEADLINE, ..Patience::default() };
        Balancers::patient(&["edge=nginx".parse().expect("a balancer")], &Locals::new([local]), patience)
    }

    fn file(&self) -> String {
        fs::read_to_string(self.home.join("app.conf")).expect("the upstream file")
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // The master ends its workers.
        run(Command::new("sh").args(["-c", &self.command("-s stop")]));
        let _ = self.process.wait();
    }
}

#[test]
fn w21_a_balancing_nginx_drains_a_server_without_a_failed_request() {
    let farm = Farm::plan().members(1).start();
    let mut site = Site::start(&farm);
    let edge = Edge::start(&farm, &mut site);
    let (balancers, member1) = (edge.balancers(), in_record(&farm, "member1"));
    let before = edge.file();
    let client = Client::start(&edge.address);
    for server in ["manager", "member1"] {
        client.wait_from(server);
    }
    let slow = crate::balancers::Slow::open(&edge.address);
    let report = block_on(balancers.drain_and_wait(&member1, Duration::from_millis(1))).expect("drained");
    assert!(report.is_drained() && report.sessions() > 0, "an old worker serves the slow session: {report}");
    drop(slow);
    let report = block_on(balancers.wait_idle(&member1, DEADLINE)).expect("still drained");
    assert_eq!(report.sessions(), 0, "{report}");
    let drained = client.so_far();
    assert_eq!(client.wait_more(60).of("member1"), drained.of("member1"), "it is asked although it is drained");
    assert!(block_on(balancers.ready(&member1)).expect("ready").serves());
    assert_eq!(edge.file(), before);
    client.wait_from("member1");
    client.stop().flawless();
}

/// A drain and a return by agent.toml and the record. HAProxy takes the server back at once, and nginx fails at first.
#[test]
fn w21_a_procedure_drives_a_balancing_nginx_and_ends_where_one_balancer_was_late() {
    let mut farm = Farm::plan().members(1).start();
    let mut site = Site::start(&farm);
    let edge = Edge::start(&farm, &mut site);
    let home = edge.home.display();
    farm.manager().configure(&format!(
        "[[balancer]]\nname = \"edge\"\nkind = \"nginx\"\nfile = \"{home}/app.conf\"\npid = \"{home}/nginx.pid\"\n\
         test = \"{}\"\nreload = \"{}\"\ntimeout = \"60s\"\n",
        edge.command("-t"),
        edge.command("-s reload"),
    ));
    farm.server_mut(0).stop();
    farm.server_mut(0).start();
    site.register(&farm);
    farm.manager().command(&["group", "set", "--balancer", "edge=nginx"]).success();
    let before = edge.file();
    farm.manager().command(&["maintenance", "start", "member1", "--yes"]).success();
    assert!(edge.file().contains(" down; # member1"), "{}", edge.file());

    let config = edge.home.join("nginx.conf");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, text.replace("http {", "http { nonsense;")).expect("written");
    farm.manager().command(&["maintenance", "finish", "member1", "--yes", "--wait", "none"]).success();
    wait_procedure(farm.manager(), "p2", "saying what nginx says", |shown| {
        shown["doing"].as_str().is_some_and(|doing| doing.contains("nonsense"))
    });
    site.haproxy.wait_status("member1", "UP");
    fs::write(&config, text).expect("written");
    wait_procedure(farm.manager(), "p2", "done", is_done);
    assert_eq!(edge.file(), before);
}

#[test]
fn an_upstream_file_that_fails_its_test_is_put_back() {
    let farm = Farm::plan().members(1).start();
    let mut site = Site::start(&farm);
    let edge = Edge::start(&farm, &mut site);
    let before = edge.file();
    // Another part of the configuration is wrong, so nginx would refuse to read it again.
    let config = edge.home.join("nginx.conf");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, text.replace("http {", "http { nonsense;")).expect("written");
    let error = block_on(edge.balancers().drain(&in_record(&farm, "member1"))).expect_err("nginx -t fails");
    assert!(matches!(error, BalancerError::Failed { .. }) && error.to_string().contains("nonsense"), "{error}");
    assert!(error.to_string().contains("was put back as it was"), "{error}");
    assert_eq!(edge.file(), before);
    fs::write(&config, text).expect("written");
}
