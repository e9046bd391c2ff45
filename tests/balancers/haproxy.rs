//! A real HAProxy: an ordinary child process in the foreground, with its runtime API on a Unix socket.

use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::farm::{DEADLINE, free_port, wait_for};

/// HAProxy's way to find out whether a server is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// It asks nginx, which asks the agent: the documented setup.
    Relay,
    /// It asks nginx for the page, and the agent over the agent-check protocol: the other documented setup.
    Agent,
    /// It asks nginx for the page, and not whether the server is ready: only its runtime API keeps a server out.
    Page,
}

/// A server of the backend `app`.
#[derive(Debug, Clone)]
pub(crate) struct BackendServer {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) agent_check: String,
}

/// A HAProxy with one frontend and one backend, `app`.
#[derive(Debug)]
pub(crate) struct Haproxy {
    /// Its name in the group.
    pub(crate) name: String,
    /// The address for clients.
    pub(crate) address: String,
    /// Its runtime API, `level admin`.
    pub(crate) socket: PathBuf,
    home: PathBuf,
    process: Option<Child>,
}

impl Haproxy {
    /// Starts it and waits until it answers.
    pub(crate) fn start(site: &Path, name: &str, servers: Vec<BackendServer>, check: Check) -> Self {
        let home = site.join(name);
        fs::create_dir_all(&home).expect("HAProxy's directory");
        let address = format!("127.0.0.1:{}", free_port());
        let socket = home.join("admin.sock");
        let text = configuration(&socket, &address, &servers, check);
        fs::write(home.join("haproxy.cfg"), text).expect("HAProxy's configuration");
        let mut haproxy = Self { name: name.to_owned(), address, socket, home, process: None };
        haproxy.revive();
        haproxy
    }

    /// Starts it again, without the state that was set at run time.
    pub(crate) fn revive(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let log = || fs::File::options().append(true).create(true).open(self.home.join("log")).expect("a log");
        let mut command = Command::new(program());
        command.arg("-db").arg("-f").arg(self.home.join("haproxy.cfg"));
        let process = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn();
        self.process = Some(process.expect("haproxy: run tests/run, which installs it"));
        wait_for("HAProxy answering", DEADLINE, || match self.ask("show info") {
            Ok(text) if text.starts_with("Name: HAProxy") => Ok(()),
            other => Err(format!("{other:?}\n{}", fs::read_to_string(self.home.join("log")).unwrap_or_default())),
        });
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The address of the runtime API on the command line.
    pub(crate) fn text(&self) -> String {
        format!("{}=haproxy:unix:{},backend=app", self.name, self.socket.display())
    }

    /// A command of the runtime API, like an administrator's.
    pub(crate) fn ask(&self, command: &str) -> Result<String, String> {
        let ask = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            writeln!(stream, "{command}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        ask().map_err(|e| e.to_string())
    }

    /// UP, DOWN, DRAIN, MAINT …, as HAProxy shows that server.
    pub(crate) fn status(&self, server: &str) -> String {
        let status = self.column(server, "status");
        // "DRAIN 1/2" is in force, though the first of two checks has another result.
        status.split(' ').filter(|word| !word.contains('/')).collect::<Vec<_>>().join(" ")
    }

    /// A column of `show stat` for that server.
    pub(crate) fn column(&self, server: &str, column: &str) -> String {
        let text = self.ask("show stat -1 4 -1").expect("HAProxy's answer");
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = lines.next().expect("a header");
        let at = header.iter().position(|name| *name == column).expect("that column");
        let line = lines.find(|line| line.get(1) == Some(&server)).unwrap_or_else(|| panic!("no {server} in {text}"));
        line[at].to_owned()
    }

    /// Waits until the newest checks of that server have all passed, since one failed check does not take it out.
    pub(crate) fn wait_sound(&self, server: &str) {
        wait_for(&format!("{server} passing all checks of HAProxy"), DEADLINE, || {
            match self.column(server, "status") {
                now if now == "UP" => Ok(()),
                now => Err(now),
            }
        });
    }

    /// Waits until that server has this status.
    pub(crate) fn wait_status(&self, server: &str, status: &str) {
        wait_for(&format!("{server} being {status} at HAProxy"), DEADLINE, || match self.status(server) {
            now if now == status => Ok(()),
            now => Err(now),
        });
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The path of the program on Debian, which is not in the PATH of users who are not root.
pub(crate) fn program() -> PathBuf {
    let debian = Path::new("/usr/sbin/haproxy");
    if debian.exists() { debian.to_owned() } else { PathBuf::from("haproxy") }
}

/// The checks are the documented ones (docs/balancers.md), with shorter intervals, and with longer timeouts for a busy
/// machine.
fn configuration(socket: &Path, address: &str, servers: &[BackendServer], check: Check) -> String {
    let mut text = format!(
        "global\n  stats socket {} mode 600 level admin\n  maxconn 1000\n\
         defaults\n  mode http\n  timeout connect 60s\n  timeout client 180s\n  timeout server 180s\n  timeout check 60s\n\
         \x20 option redispatch\n\
         frontend site\n  bind {address}\n  default_backend app\n\
         backend app\n  balance roundrobin\n  option httpchk GET {}\n\
         \x20 default-server inter 200ms fall 2 rise 2\n",
        socket.display(),
        match check {
            Check::Relay => "/bellwether/ready",
            Check::Agent | Check::Page => "/index.html",
        }
    );
    for BackendServer { name, address, agent_check } in servers {
        let _ = write!(text, "  server {name} {address} check");
        if check == Check::Agent {
            let (host, port) = agent_check.rsplit_once(':').expect("HOST:PORT");
            let _ = write!(text, " agent-check agent-addr {host} agent-port {port} agent-inter 200ms");
        }
        text.push('\n');
    }
    text
}
