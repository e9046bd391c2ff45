//! The demo's servers: real processes of this program, each with its own directory, ports and socket.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bellwether_daemon::config::{Config, SetConfig, to_toml};
use bellwether_local::set::SetCommands;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    process::{ChildStdin, Command},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::say::Say;
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The time limit for anything that should be short.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two looks at an agent's socket.
const LOOK: Duration = Duration::from_millis(10);
/// The time in which an agent must end by itself.
const FAREWELL: Duration = Duration::from_secs(5);

/// A directory that is removed with its owner.
#[derive(Debug)]
pub(super) struct Dir(PathBuf);

impl Dir {
    /// Makes a new directory (0700) in the system's directory for temporary files.
    pub(super) fn new() -> Result<Self, CommandError> {
        let base = std::env::temp_dir();
        let base = std::path::absolute(&base).unwrap_or(base);
        let id = std::process::id();
        for attempt in 0..1_000 {
            let path = base.join(format!("bellwether-demo-{id}-{attempt}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(trouble(format!("cannot make {}: {e}", path.display()))),
            }
        }
        Err(trouble(format!("{} is full of earlier demos: remove bellwether-demo-*", base.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let removed = fs::remove_dir_all(&self.0).or_else(|_| {
            // A copied tree may hold directories that their owner may not write.
            unlock(&self.0)?;
            fs::remove_dir_all(&self.0)
        });
        if let Err(e) = removed {
            output::note(&format!("bellwether: cannot remove {}: {e}", self.0.display()));
        }
    }
}

/// Makes every directory below `dir` writable for its owner, so that it can be emptied.
fn unlock(dir: &Path) -> std::io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

/// One server of the demo.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    /// The content of its agent.toml.
    config: Config,
    agent: Option<Agent>,
}

/// A started agent. A task waits for its end, so that an end is noticed at any time.
#[derive(Debug)]
struct Agent {
    pid: Pid,
    ended: watch::Receiver<Option<ExitStatus>>,
    /// Closed when the demo ends, even by `kill -9`, and then the agent stops.
    _tie: Option<ChildStdin>,
    /// The task that owns the process, which is killed when the task is dropped.
    waiting: JoinHandle<()>,
}

impl Agent {
    fn start(mut command: Command) -> std::io::Result<Self> {
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or_else(|| std::io::Error::other("it ended at once"))?;
        let tie = child.stdin.take();
        let (end, ended) = watch::channel(None);
        let waiting = tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => drop(end.send_replace(Some(status))),
                Err(e) => output::note(&format!("bellwether: cannot wait for process {pid:?}: {e}")),
            }
        });
        Ok(Self { pid, ended, _tie: tie, waiting })
    }

    fn ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Sends a signal, unless the process has ended: then its number may belong to another process.
    fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            // The process may end at this moment, which is no error.
            let _ = kill_process(self.pid, signal);
        }
    }

    async fn end(&mut self) {
        // An error means that the waiting task is gone, and the process with it.
        let _ = self.ended.wait_for(Option::is_some).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.waiting.abort();
    }
}

impl Server {
    /// The path of the server's set.
    pub(super) fn set(&self) -> &Path {
        &self.config.sets[0].path
    }

    /// The URL of the server's page.
    pub(super) fn page(&self) -> String {
        format!("http://{}/", self.config.http)
    }

    /// The path of its agent.toml in the demo's directory.
    pub(super) fn file(&self) -> String {
        format!("{}/agent.toml", self.name)
    }

    /// The common options of a command on this server.
    pub(super) fn common(&self) -> Common {
        Common {
            json: false,
            yes: true,
            config: Some(self.config.file.clone()),
            admin_socket: None,
            state_dir: None,
            timeout: None,
        }
    }

    /// The process id of its agent.
    pub(super) fn pid(&self) -> Option<i32> {
        self.agent.as_ref().map(|agent| agent.pid.as_raw_nonzero().get())
    }

    fn log(&self) -> PathBuf {
        self.config.file.with_file_name("agent.log")
    }

    /// The end of its log.
    pub(super) fn log_end(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// The demo's servers, the manager first. Dropping them kills them.
#[derive(Debug)]
pub(super) struct Farm {
    dir: PathBuf,
    program: PathBuf,
    pub(super) servers: Vec<Server>,
}

/// The output of a command that succeeded.
pub(super) struct Printed {
    pub(super) out: String,
}

impl Farm {
    /// A manager and `members` members in `dir`, all stopped; each has its agent.toml.
    pub(super) fn lay_out(dir: &Path, members: u16, set: &str) -> Result<Self, CommandError> {
        let program = std::env::current_exe().map_err(|e| trouble(format!("cannot find this program: {e}")))?;
        let names = std::iter::once("manager".to_owned()).chain((1..=members).map(|n| format!("web{n}")));
        let ports = free_ports(2 * (usize::from(members) + 1))?;
        let servers = names.zip(ports.chunks(2)).map(|(name, ports)| server(dir, name, set, ports[0], ports[1]));
        Ok(Self { dir: dir.to_owned(), program, servers: servers.collect::<Result<_, _>>()? })
    }

    pub(super) fn manager(&self) -> &Server {
        &self.servers[0]
    }

    pub(super) fn members(&self) -> &[Server] {
        &self.servers[1..]
    }

    /// Runs `bellwether ARGS`, and prints the command.
    pub(super) async fn run(&self, say: &Say, args: &[&str]) -> Result<Printed, CommandError> {
        self.run_with(say, args, "").await
    }

    /// As [`Farm::run`], with `input` on standard input.
    pub(super) async fn run_with(&self, say: &Say, args: &[&str], input: &str) -> Result<Printed, CommandError> {
        let line = format!("bellwether {}", args.join(" "));
        say.command(&if input.is_empty() { line.clone() } else { format!("{line} < token") });
        let mut child = self
            .command(args)
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| trouble(format!("cannot start `{line}`: {e}")))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that ends without reading reports its own error.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = timeout(PATIENCE, child.wait_with_output())
            .await
            .map_err(|_| trouble(format!("`{line}` did not end within {} s", PATIENCE.as_secs())))?
            .map_err(|e| trouble(format!("`{line}`: {e}")))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if !output.status.success() {
            let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
            return Err(trouble(format!("`{line}` ended with {}", output.status)).hint(said.trim().to_owned()));
        }
        Ok(Printed { out: text(&output.stdout) })
    }

    /// Adds a line to the set in a server's agent.toml, where the set is the last table.
    pub(super) fn configure(&self, index: usize, line: &str) -> Result<(), CommandError> {
        let file = &self.servers[index].config.file;
        let added = fs::File::options().append(true).open(file).and_then(|mut file| file.write_all(line.as_bytes()));
        added.map_err(|e| not_written(file, &e))
    }

    /// Starts a server's agent and waits until it answers.
    pub(super) async fn serve(&mut self, say: &Say, index: usize) -> Result<(), CommandError> {
        let file = self.servers[index].file();
        let args = ["serve", "--config", &file];
        say.command(&format!("bellwether {} &", args.join(" ")));
        let log = self.servers[index].log();
        let log = fs::File::options().create(true).append(true).open(&log).map_err(|e| not_written(&log, &e))?;
        let error = log.try_clone().map_err(|e| trouble(format!("cannot share a log file: {e}")))?;
        let mut command = self.command(&args);
        command.arg("--until-eof").stdin(Stdio::piped()).stdout(log).stderr(error);
        let agent = Agent::start(command).map_err(|e| trouble(format!("cannot start {}: {e}", self.program.display())));
        self.servers[index].agent = Some(agent?);
        answers(&self.servers[index]).await
    }

    /// A command as one types it in the demo's directory. It is killed when it is dropped.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).current_dir(&self.dir).kill_on_drop(true);
        command.env_remove("BELLWETHER_CONFIG").env_remove("BELLWETHER_LOG");
        command
    }

    /// Kills a server's agent as `kill -9` does.
    pub(super) async fn kill(&mut self, index: usize) {
        if let Some(mut agent) = self.servers[index].agent.take() {
            agent.signal(Signal::KILL);
            agent.end().await;
        }
    }

    /// Returns an error when an agent ends unexpectedly.
    pub(super) async fn an_agent_ends(&self) -> CommandError {
        loop {
            let ended = |server: &&Server| server.agent.as_ref().is_some_and(|agent| agent.ended().is_some());
            if let Some(server) = self.servers.iter().find(ended) {
                let status = server.agent.as_ref().and_then(Agent::ended);
                return gone(server, status);
            }
            sleep(LOOK).await;
        }
    }

    /// Ends every agent: asks first, then kills. Returns the names of the killed ones.
    pub(super) async fn end(mut self) -> Vec<String> {
        self.servers.iter().filter_map(|server| server.agent.as_ref()).for_each(|agent| agent.signal(Signal::TERM));
        let mut killed = Vec::new();
        let deadline = Instant::now() + FAREWELL;
        for server in &mut self.servers {
            let Some(mut agent) = server.agent.take() else { continue };
            if timeout_at(deadline, agent.end()).await.is_err() {
                agent.signal(Signal::KILL);
                agent.end().await;
                killed.push(server.name.clone());
            }
        }
        killed
    }
}

fn server(dir: &Path, name: String, set: &str, port: u16, http: u16) -> Result<Server, CommandError> {
    let own = dir.join(&name);
    fs::create_dir(&own).map_err(|e| not_written(&own, &e))?;
    let config = Config {
        name: name.parse().expect("the demo's names are fit for servers"),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        advertise: format!("127.0.0.1:{port}"),
        http: SocketAddr::from((Ipv4Addr::LOCALHOST, http)),
        http_names: Vec::new(),
        admin_socket: own.join("admin.sock"),
        state_dir: own.join("state"),
        sets: vec![SetConfig {
            name: set.parse().expect("the demo's set names are fit for sets"),
            path: own.join(set),
            source: None,
            local: Vec::new(),
            commands: SetCommands::default(),
        }],
        agent_check: None,
        balancers: Vec::new(),
        file: own.join("agent.toml"),
        file_exists: true,
    };
    fs::write(&config.file, to_toml(&config)).map_err(|e| not_written(&config.file, &e))?;
    Ok(Server { name, config, agent: None })
}

/// Free ports of the loopback. If another program takes one before it is used, `serve` fails, and [`taken`] tells.
fn free_ports(count: usize) -> Result<Vec<u16>, CommandError> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let held: Result<Vec<_>, _> = (0..count).map(|_| bind()).collect();
    let ports = held.and_then(|held| held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect());
    ports.map_err(|e| trouble(format!("cannot find {count} free ports on the loopback: {e}")))
}

/// Whether another program has a port of a server that does not run.
fn taken(server: &Server) -> bool {
    [server.config.listen, server.config.http]
        .into_iter()
        .any(|address| matches!(TcpListener::bind(address), Err(e) if e.kind() == std::io::ErrorKind::AddrInUse))
}

/// Waits until the agent answers at its socket.
async fn answers(server: &Server) -> Result<(), CommandError> {
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&server.config.admin_socket).await.is_err() {
        if let Some(status) = server.agent.as_ref().and_then(Agent::ended) {
            return Err(gone(server, Some(status)));
        }
        if Instant::now() > deadline {
            let text = format!("the agent of {} does not answer at its socket", server.name);
            return Err(trouble(text).hint(server.log_end()));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn gone(server: &Server, status: Option<ExitStatus>) -> CommandError {
    let status = status.map_or_else(String::new, |status| format!(" with {status}"));
    let error = trouble(format!("the agent of {} ended{status}", server.name));
    if taken(server) { error.hint(PORT_TAKEN) } else { error.hint(server.log_end()) }
}

/// The hint of a failed start that is worth another attempt.
pub(super) const PORT_TAKEN: &str = "another program took its port meanwhile";

fn not_written(path: &Path, error: &std::io::Error) -> CommandError {
    trouble(format!("cannot write {}: {error}", path.display()))
}

/// The error for a demo that did not work.
pub(super) fn trouble(text: impl Into<String>) -> CommandError {
    CommandError::new(Kind::Failed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_its_own_of_everything() {
        let dir = Dir::new().unwrap();
        let farm = Farm::lay_out(dir.path(), 3, "nginx").unwrap();
        assert_eq!(farm.members().iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["web1", "web2", "web3"]);
        let mut ports: Vec<_> =
            farm.servers.iter().flat_map(|s| [s.config.listen.port(), s.config.http.port()]).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        for server in &farm.servers {
            let flags = bellwether_daemon::config::Flags::default();
            let read = bellwether_daemon::config::load(&server.common().given(), &flags).unwrap();
            assert_eq!(read, server.config, "what is written is what is read");
            assert!(!taken(server));
        }
    }

    #[test]
    fn a_port_that_was_taken_is_noticed() {
        let dir = Dir::new().unwrap();
        let farm = Farm::lay_out(dir.path(), 1, "nginx").unwrap();
        let _other = TcpListener::bind(farm.servers[1].config.http).unwrap();
        assert!(taken(&farm.servers[1]) && !taken(&farm.servers[0]));
    }

    #[test]
    fn the_directory_goes_with_its_owner() {
        let dir = Dir::new().unwrap();
        let path = dir.path().to_owned();
        fs::write(path.join("f"), "").unwrap();
        drop(dir);
        // Another test may have made a directory of that name meanwhile.
        assert!(!path.join("f").exists());
    }
}
