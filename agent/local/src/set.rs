//! The commands of one set: `validate`, `reload` and `check` of its service.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    check::{Check, Probe},
    process::{Ended, Program},
};

/// How long a command may take where agent.toml does not say.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The beginning of what `bellwether inside-view` says where the new tree cannot be shown.
pub const NO_VIEW: &str = "the staged files cannot be shown";

/// A command of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// For a shell.
    pub run: String,
    /// The account that runs it; none: the agent's.
    pub user: Option<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Command {
    /// The command `run`, by the agent's account, with the usual time limit.
    pub fn new(run: &str) -> Self {
        Self { run: run.to_owned(), user: None, timeout: TIMEOUT }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Why it did not succeed, in a sentence, and the end of its output.
    pub async fn run(&self) -> Result<(), (String, String)> {
        self.run_as(&self.run, self.user.as_deref()).await
    }

    /// Runs it where the sets hold the new tree that the file `view` describes. `program`: the path of this program, which goes
    /// there and becomes the command (`bellwether inside-view`).
    ///
    /// # Errors
    /// As [`Command::run`]. If the output begins with [`NO_VIEW`], the new tree could not be shown.
    pub async fn run_inside(&self, program: &Path, view: &Path) -> Result<(), (String, String)> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let words = [&program.to_string_lossy(), "inside-view", &view.to_string_lossy(), &self.run].map(quoted);
        let user = self.user.as_deref().map(|user| format!(" --user {}", quoted(user))).unwrap_or_default();
        // Where the program cannot be run, it refuses nothing.
        let test =
            format!("[ -x {0} ] || {{ echo '{NO_VIEW}: the program of the agent cannot be run'; exit 1; }}", words[0]);
        self.run_as(&format!("{test}; exec {}{user}", words.join(" ")), None).await
    }

    async fn run_as(&self, command: &str, user: Option<&str>) -> Result<(), (String, String)> {
        let program = Program { command, environment: &[], user, limit: self.timeout };
        match program.run().await {
            Ok(Ended { well: true, .. }) => Ok(()),
            Ok(ended) => Err((format!("`{}` {}", self.run, ended.how), ended.output())),
            Err(error) => Err((format!("`{}` cannot be started: {error}", self.run), String::new())),
        }
    }
}

/// The commands of a set on this server. A step without a command has nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetCommands {
    /// Whether the service would take the new files: it sees them at the set's path before they are there for anyone else.
    pub validate: Option<Command>,
    /// Makes the service take the files that are there.
    pub reload: Option<Command>,
    /// Whether the service works after that.
    pub checks: Vec<Check>,
}

impl SetCommands {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What stands for the missing ones.
    pub fn or(self, other: Self) -> Self {
        Self {
            validate: self.validate.or(other.validate),
            reload: self.reload.or(other.reload),
            checks: if self.checks.is_empty() { other.checks } else { self.checks },
        }
    }
}

/// The commands that are known to work for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// nginx with a master process.
    Nginx,
    /// HAProxy with a master process (`-W` or `-Ws`).
    Haproxy,
    /// Apache httpd.
    Apache,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Apache];

    /// Its name in agent.toml.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
        }
    }

    /// The preset of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// The program that its commands begin with.
    pub fn program(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache2ctl",
        }
    }

    /// The directory that Debian and its relatives use for the configuration.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Nginx => "/etc/nginx",
            Self::Haproxy => "/etc/haproxy",
            Self::Apache => "/etc/apache2",
        }
    }

    /// Its commands. All three services end a reload with status 0 although they go on with the old configuration, where a
    /// port is in use, say: the check is that the master has started new workers since.
    pub fn commands(self) -> SetCommands {
        let (validate, reload, pid) = match self {
            Self::Nginx => ("nginx -t -q", "nginx -s reload", "/run/nginx.pid"),
            Self::Haproxy => {
                let reload = "kill -USR2 \"$(cat /run/haproxy.pid)\"";
                ("haproxy -c -f /etc/haproxy/haproxy.cfg", reload, "/run/haproxy.pid")
            }
            Self::Apache => ("apache2ctl configtest", "apache2ctl graceful", "/run/apache2/apache2.pid"),
        };
        SetCommands {
            validate: Some(Command::new(validate)),
            reload: Some(Command::new(reload)),
            checks: vec![Check::new(Probe::Workers(PathBuf::from(pid)))],
        }
    }
}
