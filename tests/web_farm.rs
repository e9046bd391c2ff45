//! A web farm as users have it: a real nginx on each of twelve members, and a real HAProxy before them under load. Whatever is
//! published, no request fails.

use std::{fs, process::Command};

use bellwether_proto::status::{FarmStatus, RolloutState, RolloutStatus, State};

use crate::{
    farm::{DEADLINE, Farm, Server, free_port, get, wait_for},
    services::{Load, Service},
};

/// The members.
const MEMBERS: usize = 12;

/// A farm, its nginxes, and HAProxy before them.
struct Site {
    farm: Farm,
    ports: Vec<u16>,
    load: Load,
    _services: Vec<Service>,
}

/// The part of nginx's configuration that is the group's: it sends one page.
fn site(page: &str) -> String {
    format!("location / {{ root {page}; try_files /page.html =500; }}\n")
}

/// The part that is the server's own: its port, the certificate, and the set by its absolute path.
fn own(server: &Server, port: u16) -> String {
    format!(
        "worker_processes 1; daemon off; pid nginx.pid; error_log error.log;\nevents {{}}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:{port}; include {}/*.conf; }} }}\n",
        server.set("web").display()
    )
}

fn nginx(server: &Server) -> String {
    format!("nginx -p {home} -c {home}/nginx.conf", home = server.home.display())
}

/// Below the server's prefix: the pages of each release.
fn deploy(server: &Server, page: &str) {
    let directory = server.home.join(page);
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(directory.join("page.html"), page).expect("a page");
}

impl Site {
    fn start() -> Self {
        let mut farm = Farm::plan().members(MEMBERS).unformed();
        farm.manager().write("site.conf", site("one"));
        farm.form();
        let (mut ports, mut services) = (vec![0], Vec::new());
        for index in 0..=MEMBERS {
            let port = free_port();
            let server = farm.server(index);
            deploy(server, "one");
            fs::write(server.home.join("nginx.conf"), own(server, port)).expect("written");
            let nginx = nginx(server);
            let lines = format!(
                "validate = '{nginx} -t -q'\nreload = '{nginx} -s reload'\n\
                 check = ['workers:{home}/nginx.pid', {{ probe = 'http://127.0.0.1:{port}/', retries = 3, interval = '50ms' }}]",
                home = server.home.display()
            );
            if index == 0 {
                // The manager serves nobody, and validates.
                farm.server_mut(0).stop();
                farm.server(0).configure(&format!("validate = '{nginx} -t -q'"));
                farm.server_mut(0).start();
                continue;
            }
            let token = farm.token(&[]);
            farm.server(index).join(&token).success();
            // The content is there before the service starts.
            farm.server_mut(index).start();
            farm.wait_same(farm.server(index));
            farm.server_mut(index).stop();
            services.push(Service::start(Command::new("sh").args(["-c", &format!("exec {nginx}")])));
            farm.server(index).configure(&lines);
            farm.server_mut(index).start();
            ports.push(port);
        }
        farm.wait_in_sync();
        let front = free_port();
        let servers: String = ports[1..]
            .iter()
            .enumerate()
            .map(|(at, port)| format!("  server web{at} 127.0.0.1:{port} check\n"))
            .collect();
        let haproxy = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n  retries 3\n  \
             option redispatch 1\n  retry-on all-retryable-errors\n\
             frontend front\n  bind 127.0.0.1:{front}\n  default_backend all\nbackend all\n  balance roundrobin\n{servers}"
        );
        let file = farm.directory().join("haproxy.cfg");
        fs::write(&file, haproxy).expect("written");
        services.push(Service::start(Command::new("haproxy").arg("-f").arg(&file)));
        let front = format!("127.0.0.1:{front}");
        wait_for("HAProxy's answer", DEADLINE, || get(&front, "/").and_then(crate::farm::Answer::ok).map(drop));
        Self { farm, ports, load: Load::begin(front), _services: services }
    }

    fn wait_rollout(&self, what: &str, fits: impl Fn(&RolloutStatus) -> bool) -> FarmStatus {
        self.farm.wait_status(what, |status| status.rollout.as_ref().is_some_and(&fits))
    }

    /// Asserts that every member has that page, on the disk and from its nginx.
    #[track_caller]
    fn assert_serves(&self, page: &str) {
        for index in 1..=MEMBERS {
            let (server, address) = (self.farm.member(index), format!("127.0.0.1:{}", self.ports[index]));
            wait_for(&format!("{page} from {}", server.name), DEADLINE, || {
                let there = fs::read_to_string(server.web("site.conf")).unwrap_or_default();
                let answer = get(&address, "/").and_then(crate::farm::Answer::ok)?;
                if answer == page && there == site(page) { Ok(()) } else { Err(format!("{answer}, {there}")) }
            });
        }
    }
}

#[test]
fn no_request_fails_whatever_is_published() {
    let mut served = Site::start();
    let farm = &served.farm;
    // A syntax error stops at the manager.
    farm.manager().write("site.conf", "bogus;\n");
    let held = farm.wait_status("the edit refused at the manager", |status| status.unpublished.is_some());
    let why = held.unpublished.unwrap_or_default();
    assert!(why.contains("unknown directive \"bogus\""), "{why}");
    farm.manager().command(&["discard", "--yes"]).success();
    served.assert_serves("one");

    // What one member alone cannot take, because its system differs, comes to no member.
    let extra = |server: &Server| server.home.join("extra.conf");
    (0..=MEMBERS)
        .filter(|index| *index != 5)
        .for_each(|index| fs::write(extra(farm.server(index)), "").expect("written"));
    farm.manager().write("site.conf", format!("{}include extra.conf;\n", site("one")));
    let stopped = served.wait_rollout("the stop before any switch", |rollout| rollout.state == RolloutState::Stopped);
    let rollout = stopped.rollout.expect("it is there");
    let why = rollout.reason.unwrap_or_default();
    assert!(rollout.untouched && why.starts_with("member5 refuses it") && why.contains("extra.conf"), "{why}");
    served.assert_serves("one");
    farm.manager().command(&["rollback", "--yes"]).success();
    farm.wait_equal();

    // In waves of a quarter, the check of two members of the second wave fails: both waves go back.
    farm.manager().command(&["group", "set", "--canary", "1", "--batch", "25%", "--stop-at", "2"]).success();
    (1..=MEMBERS).filter(|index| ![2, 3].contains(index)).for_each(|index| deploy(farm.member(index), "two"));
    // The order of names: member1, member10, member11, member12, member2, member3 …
    deploy(farm.manager(), "two");
    farm.manager().write("site.conf", site("two"));
    let back = served.wait_rollout("the revision taken back", |rollout| {
        let reason = rollout.reason.as_deref().unwrap_or_default();
        rollout.state == RolloutState::TakenBack && reason.contains("2 servers failed")
    });
    let reason = back.rollout.and_then(|rollout| rollout.reason).unwrap_or_default();
    assert!(reason.contains("member2") && reason.contains("member3"), "{reason}");
    farm.wait_equal();
    served.assert_serves("one");

    // The manager is killed in the second wave, and goes on.
    [2, 3].iter().for_each(|index| deploy(farm.member(*index), "two"));
    farm.manager().command(&["group", "set", "--soak", "1s"]).success();
    farm.manager().write("site.conf", site("two"));
    served.wait_rollout("the second wave", |rollout| rollout.wave == 2);
    served.farm.server_mut(0).kill();
    served.farm.server_mut(0).start();
    let farm = &served.farm;
    served.wait_rollout("the end", |rollout| rollout.state == RolloutState::Done);
    farm.wait_equal();
    served.assert_serves("two");

    // It is killed while a revision waits for its confirmation: all members go back by themselves.
    farm.manager().command(&["group", "set", "--all-at-once", "--publish", "manual"]).success();
    farm.manager().write("site.conf", site("one"));
    farm.manager().command(&["publish", "--confirm-within", "10s", "--wait", "all"]).success();
    served.assert_serves("one");
    served.farm.server_mut(0).kill();
    served.assert_serves("two");
    served.farm.server_mut(0).start();
    let farm = &served.farm;
    farm.wait_equal();
    assert!(farm.status().servers.iter().all(|server| server.state == State::InSync));
    served.assert_serves("two");
    served.load.assert_all_answered();
}
