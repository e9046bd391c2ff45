//! The commands of a set with real services: nginx, HAProxy and Apache take a good configuration, and what they cannot take is
//! stopped or taken back while they serve.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use bellwether_local::set::Preset;
use bellwether_proto::status::{ServerStatus, State};
use bellwether_skip::skip;
use rustix::process::{Pid, Signal, kill_process};

use crate::farm::{DEADLINE, Farm, Server, free_port, get, run, wait_for};

/// A service with a master process that runs in the foreground. Ended with it.
pub(crate) struct Service(Child);

impl Service {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a service"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Its workers end with it.
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Requests without a pause, each of which has to be answered.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    asking: Option<JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn begin(address: String) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (stop.clone(), asked.clone());
        let asking = std::thread::spawn(move || {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                failed.extend(get(&address, "/").and_then(crate::farm::Answer::ok).err());
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(2));
            }
            failed
        });
        Self { stop, asked, asking: Some(asking) }
    }

    #[track_caller]
    pub(crate) fn assert_all_answered(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let failed = self.asking.take().expect("it asks").join().expect("it does not panic");
        assert!(self.asked.load(Ordering::SeqCst) > 10);
        assert_eq!(failed, Vec::<String>::new(), "requests that failed");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn answers(address: &str, body: &str) {
    wait_for(&format!("the answer {body:?} of {address}"), DEADLINE, || {
        let answer = get(address, "/").and_then(crate::farm::Answer::ok)?;
        if answer.trim() == body { Ok(()) } else { Err(answer) }
    });
}

/// A farm whose first member has these lines in its agent.toml, once the service is started that they are for.
fn farm(
    fill: impl Fn(&Server),
    lines: impl Fn(&Server) -> String,
    start: impl Fn(&Server) -> Service,
) -> (Farm, Service) {
    let mut farm = Farm::plan().members(2).unformed();
    fill(farm.manager());
    farm.form();
    farm.admit(2);
    farm.admit(1);
    farm.wait_equal();
    let service = start(farm.member(1));
    farm.server_mut(1).stop();
    let lines = lines(farm.member(1));
    farm.member(1).configure(&lines);
    farm.server_mut(1).start();
    farm.wait_in_sync();
    (farm, service)
}

fn refused(farm: &Farm) -> ServerStatus {
    farm.wait_server(farm.member(1), "refusing", |shown| shown.state == State::Refused)
}

fn nginx(port: u16, body: &str) -> String {
    format!(
        "worker_processes 1; daemon off; pid nginx.pid; error_log error.log;\n\
         events {{}}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{body}\\n'; }} }} }}\n"
    )
}

/// `nginx` with this set's configuration; `-p` is where its pid file and logs are.
fn nginx_command(server: &Server) -> String {
    format!("nginx -p {} -c {}", server.home.display(), server.web("nginx.conf").display())
}

#[test]
fn nginx_keeps_serving_whatever_is_published() {
    let (port, taken) = (free_port(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = (taken.local_addr().unwrap().port(), taken);
    let address = format!("127.0.0.1:{port}");
    let (farm, _service) = farm(
        |manager| manager.write("nginx.conf", nginx(port, "one")),
        |member| {
            let (nginx, home) = (nginx_command(member), member.home.display());
            format!("validate = '{nginx} -t -q'\nreload = '{nginx} -s reload'\ncheck = 'workers:{home}/nginx.pid'")
        },
        |member| Service::start(Command::new("sh").args(["-c", &format!("exec {}", nginx_command(member))])),
    );
    answers(&address, "one");
    let load = Load::begin(address.clone());
    farm.manager().write("nginx.conf", nginx(port, "two"));
    farm.wait_equal();
    answers(&address, "two");
    // A syntax error: nginx names the line, and no live file has changed.
    farm.manager().write("nginx.conf", "bogus;");
    let reason = refused(&farm).reason.expect("a reason");
    let live = farm.member(1).web("nginx.conf");
    for word in ["unknown directive \"bogus\"", &format!("{}:1", live.display())] {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
    assert_eq!(fs::read_to_string(&live).unwrap(), nginx(port, "two"));
    // A port that somebody else has: nginx -t takes it, the reload ends with status 0, and the service goes on with the old one.
    farm.manager().write("nginx.conf", nginx(port, "four").replace(&format!(":{port}"), &format!(":{}", taken.0)));
    let shown = farm.wait_server(farm.member(1), "going back", |shown| {
        shown.state == State::Refused && shown.reason.as_ref().is_some_and(|why| why.contains("was taken back"))
    });
    let reason = shown.reason.expect("a reason");
    assert!(reason.contains("did not start new workers after the reload"), "{reason}");
    assert_eq!(fs::read_to_string(&live).unwrap(), nginx(port, "two"));
    answers(&address, "two");
    farm.manager().write("nginx.conf", nginx(port, "five"));
    farm.wait_equal();
    answers(&address, "five");
    load.assert_all_answered();
}

fn haproxy(port: u16, word: &str) -> String {
    format!(
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
         frontend here\n  bind 127.0.0.1:{port}\n  http-request return status 200 content-type text/plain string {word}\n"
    )
}

#[test]
fn haproxy_keeps_serving_whatever_is_published() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let (farm, _service) = farm(
        |manager| manager.write("haproxy.cfg", haproxy(port, "one")),
        |member| {
            let (file, home) = (member.web("haproxy.cfg"), member.home.display());
            format!(
                "validate = 'haproxy -c -f {}'\nreload = 'kill -USR2 $(cat {home}/haproxy.pid)'\n\
                 check = 'workers:{home}/haproxy.pid'",
                file.display()
            )
        },
        |member| {
            let (file, pid) = (member.web("haproxy.cfg"), member.home.join("haproxy.pid"));
            let service = Service::start(Command::new("haproxy").arg("-W").arg("-p").arg(&pid).arg("-f").arg(file));
            // In the foreground it writes no pid file.
            fs::write(pid, service.0.id().to_string()).unwrap();
            service
        },
    );
    answers(&address, "one");
    farm.manager().write("haproxy.cfg", haproxy(port, "two"));
    farm.wait_equal();
    answers(&address, "two");
    farm.manager().write("haproxy.cfg", haproxy(port, "three").replace("bind", "bond"));
    let reason = refused(&farm).reason.expect("a reason");
    assert!(reason.contains("set web: validate:") && reason.contains("bond"), "{reason}");
    assert_eq!(fs::read_to_string(farm.member(1).web("haproxy.cfg")).unwrap(), haproxy(port, "two"));
    answers(&address, "two");
}

/// The commands of each preset that validate, on the system's own paths, in mounts that nobody else sees.
#[test]
fn the_presets_tell_a_good_configuration_from_a_bad_one() {
    if run(Command::new("unshare").args(["-m", "true"])).code != Some(0) {
        skip("presets at the system's paths", "mounts of its own need root");
        return;
    }
    let cases = [
        (Preset::Nginx, "nginx.conf", "events {}\n", "events {}\nbogus;\n"),
        (Preset::Haproxy, "haproxy.cfg", &haproxy(7, "x"), &haproxy(7, "x").replace("bind", "bond")),
        (Preset::Apache, "apache2.conf", "", "Bogus here\n"),
    ];
    for (preset, file, good, bad) in cases {
        let validate = preset.commands().validate.expect("each has one").run;
        let directory = preset.directory();
        assert!(Path::new(directory).is_dir(), "{directory} of Debian's package");
        let ends = |content: &str| {
            // Apache's configuration is the system's, and one line more.
            let keep = if preset == Preset::Apache { format!("cp -a {directory}/. /mnt/") } else { "true".to_owned() };
            let script = format!(
                "set -e; mount -t tmpfs none /mnt; {keep}; mount --bind /mnt {directory}\n\
                 printf '%s' \"$1\" >> {directory}/{file}\n{validate}"
            );
            run(Command::new("unshare").args(["-m", "sh", "-c", &script, "sh", content]))
        };
        let (taken, refused) = (ends(good), ends(bad));
        assert_eq!(taken.code, Some(0), "{}: {taken}", preset.name());
        assert_ne!(refused.code, Some(0), "{}: {refused}", preset.name());
    }
}
