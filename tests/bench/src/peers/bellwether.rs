//! Bellwether: real agents, each a process with its own state and address, and the commands of an administrator.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    crew::Crew,
    network::{self, Side},
    peers::{PATIENCE, START},
    problem::{Problem, Result},
    site::Site,
};

/// The set's name.
const SET: &str = "web";

/// The program under test, and the codec of its packs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'p> {
    pub(crate) path: &'p Path,
    pub(crate) codec: &'p str,
}

/// A group on a site.
#[derive(Debug)]
pub(crate) struct Farm<'s, 'a> {
    site: &'s Site<'a>,
    program: Program<'s>,
}

impl<'s, 'a> Farm<'s, 'a> {
    /// A site without a group.
    pub(crate) fn new(site: &'s Site<'a>, program: Program<'s>) -> Self {
        Self { site, program }
    }

    /// Runs `init` at the manager, which packs its tree, and starts its agent.
    ///
    /// # Errors
    /// The command's.
    pub(crate) fn form(&self, crew: &mut Crew<'_>) -> Result<()> {
        let home = self.site.manager();
        let mut init = self.first("init", &home, "manager", network::MANAGER);
        init.args(["--codec", self.program.codec]);
        crew.run(Side::Manager, vec![init], PATIENCE)?;
        crew.start(Side::Manager, self.command(&home, &["serve"]))?;
        answers(&home.join("admin.sock"))
    }

    /// A token that admits every member.
    ///
    /// # Errors
    /// The command's.
    pub(crate) fn token(&self, crew: &mut Crew<'_>) -> Result<String> {
        let members = self.site.cell.members.to_string();
        let create = self.manager(&["token", "create", "--json", "--uses", &members]);
        let printed = crew.run(Side::Manager, vec![create], START)?.concat();
        let document: Option<serde_json::Value> = serde_json::from_str(&printed).ok();
        let token = document.as_ref().and_then(|document| document["token"].as_str());
        token.map(str::to_owned).ok_or_else(|| Problem::new(format!("no token in: {printed}")))
    }

    /// Makes all members enter the group at once and start their agents; ends when all are in sync by the manager's status.
    ///
    /// # Errors
    /// A command's.
    pub(crate) fn join(&self, crew: &mut Crew<'_>, token: &str) -> Result<()> {
        let join = |index: usize| {
            let mut join =
                self.first("join", &self.site.member(index), &format!("member{index}"), &network::member(index));
            join.arg(token);
            join
        };
        crew.run_then(Side::Members, self.site.members().map(join).collect(), PATIENCE, |crew, index, _| {
            crew.start(Side::Members, self.command(&self.site.member(index + 1), &["serve"]))
        })?;
        self.wait(crew)
    }

    /// Forms the group, lets all members join, and waits until they are in sync.
    ///
    /// # Errors
    /// A command's.
    pub(crate) fn start(&self, crew: &mut Crew<'_>) -> Result<()> {
        self.form(crew)?;
        let token = self.token(crew)?;
        self.join(crew, &token)
    }

    /// Runs `wait` until all members are in sync.
    fn wait(&self, crew: &mut Crew<'_>) -> Result<()> {
        let timeout = format!("{}s", PATIENCE.as_secs());
        crew.run(Side::Manager, vec![self.manager(&["wait", "--timeout", &timeout])], PATIENCE).map(drop)
    }

    /// Runs `put` for a file of the set, with its new content.
    pub(crate) fn put(&self, file: &Path, content: &Path) -> Command {
        let mut put = self.manager(&["put"]);
        put.arg(format!("{SET}:{}", file.display())).arg(content);
        put
    }

    /// Runs `verify` for all members, which ends after all answers.
    pub(crate) fn verify(&self, full: bool) -> Command {
        self.manager(if full { &["verify"] } else { &["verify", "--quick"] })
    }

    fn manager(&self, arguments: &[&str]) -> Command {
        self.command(&self.site.manager(), arguments)
    }

    fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program.path);
        command.args(arguments).arg("--config").arg(home.join("agent.toml"));
        command.env_remove("BELLWETHER_CONFIG").env_remove("BELLWETHER_LOG");
        command
    }

    /// `init` or `join` with every setting as a flag; the command writes agent.toml.
    fn first(&self, what: &str, home: &Path, name: &str, address: &str) -> Command {
        let mut command = self.command(home, &[what, "--yes", "--name", name]);
        command.args(["--listen", &format!("{address}:7440"), "--advertise", &format!("{address}:7440")]);
        command.args(["--http", &format!("{address}:7441")]).arg("--state-dir").arg(home.join("state"));
        command.arg("--admin-socket").arg(home.join("admin.sock"));
        command.arg("--set").arg(format!("{SET}={}", home.join("tree").display()));
        command
    }
}

/// Waits until an agent answers at its socket.
fn answers(socket: &PathBuf) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = UnixStream::connect(socket) {
        if began.elapsed() > START {
            return Err(Problem::new(format!("nobody answers at {}: {error}", socket.display())));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
