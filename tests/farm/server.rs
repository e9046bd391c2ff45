//! One server of a farm: its directories, its agent's process and its commands.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use bellwether_proto::status::FarmStatus;
use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, Output, PROGRAM, bellwether_inside, ports, run, run_with_input, wait_for};

/// A set on this server.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    /// Its name in the group.
    pub(crate) name: String,
    /// Its path on this server.
    pub(crate) path: PathBuf,
}

/// A server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name.
    pub(crate) name: String,
    /// Its own directory, with state, socket, sets and logs.
    pub(crate) home: PathBuf,
    /// The address at which its agent listens for servers.
    pub(crate) listen: String,
    /// The address at which its agent listens for browsers and balancers.
    pub(crate) http: String,
    /// The address at which its agent answers HAProxy's agent checks.
    pub(crate) agent_check: String,
    /// Its sets.
    pub(crate) sets: Vec<Set>,
    /// Its network namespace; none: the tests' own.
    namespace: Option<PathBuf>,
    /// The program of its commands and its agent.
    program: PathBuf,
    agent: Option<Child>,
}

impl Server {
    pub(super) fn new(farm: &Path, name: &str, sets: &[String]) -> Self {
        let home = farm.join(name);
        let set = |set: &String| Set { name: set.clone(), path: home.join("sets").join(set) };
        let sets: Vec<Set> = sets.iter().map(set).collect();
        for set in &sets {
            fs::create_dir_all(&set.path).expect("a set's directory");
        }
        let address = || format!("127.0.0.1:{}", ports::free());
        let (listen, http, agent_check) = (address(), address(), address());
        Self {
            name: name.to_owned(),
            home,
            listen,
            http,
            agent_check,
            sets,
            namespace: None,
            program: PROGRAM.into(),
            agent: None,
        }
    }

    /// Runs everything of this server in that network namespace, where it listens at `listen`.
    pub(super) fn put_into(&mut self, namespace: PathBuf, listen: String) {
        (self.namespace, self.listen) = (Some(namespace), listen);
    }

    /// Uses that program for this server's commands from now on, and for the agent after its next start.
    pub(crate) fn run_by(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The path of that set on this server.
    #[track_caller]
    pub(crate) fn set(&self, name: &str) -> &Path {
        &self.sets.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no set {name}")).path
    }

    /// The path of a file in the set `web`.
    pub(crate) fn web(&self, path: &str) -> PathBuf {
        self.set("web").join(path)
    }

    /// Writes a file in the set `web`, with its directories. It is saved whole at once, like by an editor, so that one write
    /// is one change on a busy machine, too.
    #[track_caller]
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.web(path);
        fs::create_dir_all(path.parent().expect("below the set")).expect("its directory");
        let beside = self.home.join("being written");
        let written = fs::write(&beside, content).and_then(|()| fs::rename(&beside, &path));
        written.unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.join("state")
    }

    /// Its agent.toml.
    pub(crate) fn config(&self) -> PathBuf {
        self.home.join("agent.toml")
    }

    /// `init` or `join` with every key of agent.toml as a flag; the command writes the file.
    fn first_command(&self, name: &str) -> Command {
        self.first_command_at(name, &self.listen, Some(&self.listen))
    }

    /// As before, with these addresses to listen at and to advertise; none: the command finds them by itself.
    pub(crate) fn first_command_at(&self, name: &str, listen: &str, advertise: Option<&str>) -> Command {
        let mut command = self.prepared(&[name]);
        command.args(["--name", &self.name, "--listen", listen]);
        if let Some(address) = advertise {
            command.args(["--advertise", address]);
        }
        command.args(["--http", &self.http, "--agent-check", &self.agent_check]).arg("--state-dir").arg(self.state());
        command.arg("--admin-socket").arg(self.home.join("admin.sock"));
        for set in &self.sets {
            command.arg("--set").arg(format!("{}={}", set.name, set.path.display()));
        }
        command
    }

    /// Adds lines to agent.toml, which the agent reads at its start.
    pub(crate) fn configure(&self, lines: &str) {
        let mut file = File::options().append(true).open(self.config()).expect("agent.toml, which init or join wrote");
        writeln!(file, "\n{lines}").expect("written");
    }

    /// Forms a group on this server.
    pub(crate) fn init(&self) -> Output {
        run(self.first_command("init").arg("--yes"))
    }

    /// `init` with these arguments, without this server's sets and addresses.
    pub(crate) fn init_with(&self, arguments: &[&str]) -> Output {
        let mut command = self.prepared(&["init", "--yes", "--name", &self.name]);
        run(command.args(arguments))
    }

    /// Enters a group with the token on standard input, and agrees to replace the differences.
    pub(crate) fn join(&self, token: &str) -> Output {
        self.join_with(token, &["--yes"])
    }

    /// Enters a group with these further arguments.
    pub(crate) fn join_with(&self, token: &str, arguments: &[&str]) -> Output {
        run_with_input(self.first_command("join").args(arguments), token)
    }

    /// Starts the agent, and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the agent with these variables, and waits until it answers or has ended.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.prepared(&["serve"]);
        command.envs(environment.iter().copied());
        self.start_as(&mut command);
    }

    /// Starts the agent as the last command, `exec "$@"`, of this shell script.
    pub(crate) fn start_in_script(&mut self, wrapper: &[&str], script: &str) {
        let serve = self.prepared(&["serve"]);
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).args(["sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]);
        command.arg(serve.get_program()).args(serve.get_args());
        self.start_as(&mut command);
    }

    fn start_as(&mut self, command: &mut Command) {
        assert!(self.agent.is_none(), "{} runs already", self.name);
        let log = || File::options().append(true).create(true).open(self.log()).expect("the agent's log");
        let agent = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().expect("an agent");
        self.agent = Some(agent);
        wait_for(&format!("{} answering", self.name), DEADLINE, || {
            if self.ended().is_some() { Ok(()) } else { self.status().map(drop) }
        });
    }

    /// Runs `serve --recover-only` to its end.
    pub(crate) fn recover_only(&self) -> Output {
        assert!(self.agent.is_none(), "{} runs", self.name);
        self.command(&["serve", "--recover-only"])
    }

    /// The path for the agent, which may have its own mounts.
    pub(crate) fn as_agent_sees(&self, path: &Path) -> PathBuf {
        self.process().join("root").join(path.strip_prefix("/").expect("absolute"))
    }

    /// The directory of the agent's process in /proc.
    pub(crate) fn process(&self) -> PathBuf {
        let agent = self.agent.as_ref().expect("an agent that runs");
        Path::new("/proc").join(agent.id().to_string())
    }

    /// Whether its agent was started, and the test has not killed it.
    pub(crate) fn runs(&self) -> bool {
        self.agent.is_some()
    }

    /// The agent's exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.agent.as_mut().and_then(|agent| agent.try_wait().expect("an agent's state"))
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            // A stopped process takes SIGKILL, too, and one that has ended needs none.
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// Sends SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let what = format!("the end of {}", self.name);
        let status = wait_for(&what, DEADLINE, || self.ended().ok_or("it runs".to_owned()));
        self.agent = None;
        status
    }

    /// Sends its agent a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let agent = self.agent.as_ref().expect("an agent that runs");
        let pid = Pid::from_raw(agent.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("a signal to the agent");
    }

    /// Gives a command on this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        run(&mut self.prepared(arguments))
    }

    /// Gives a command on this server, with input.
    pub(crate) fn command_with_input(&self, arguments: &[&str], input: &str) -> Output {
        run_with_input(&mut self.prepared(arguments), input)
    }

    /// Gives a command on this server, with these variables.
    pub(crate) fn command_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        run(self.prepared(arguments).envs(environment.iter().copied()))
    }

    /// A command for this server that has not run yet.
    pub(crate) fn prepared(&self, arguments: &[&str]) -> Command {
        let mut command = bellwether_inside(self.namespace.as_deref(), &self.program);
        command.args(arguments).arg("--config").arg(self.config());
        command
    }

    /// This server's status of the farm.
    pub(crate) fn status(&self) -> Result<FarmStatus, String> {
        let output = self.command(&["status", "--json"]);
        // The exit code of `status` may report a problem, but only its output counts here.
        serde_json::from_str(&output.stdout).map_err(|e| format!("no status ({e}): {output}"))
    }

    fn log(&self) -> PathBuf {
        self.home.join("agent.log")
    }

    /// The whole log of the agent.
    pub(crate) fn read_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Prints the end of the agent's log, for a test that fails.
    pub(super) fn print_log(&self) {
        let log = self.read_log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(40)..];
        eprintln!("--- the end of {}'s log\n{}", self.name, tail.join("\n"));
    }
}
