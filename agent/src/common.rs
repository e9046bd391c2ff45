//! What every command takes, and what follows from it: where the agent's socket is, and how long to wait.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::Duration,
};

use bellwether_daemon::config::{self, Config, ConfigError, Flags, Given, Places, duration};
use bellwether_proto::{error::chain, v1::admin_client::AdminClient};
use bellwether_store::state::layout::Layout;
use tonic::{Status, transport::Channel};

use crate::{
    admin,
    error::{CommandError, Kind},
};

/// How long an answer that changes nothing is waited for, unless `--timeout` says otherwise.
const READ: Duration = Duration::from_secs(10);

/// The options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// Answer every question with yes
    #[arg(long, global = true)]
    pub yes: bool,
    /// The configuration file [default: /etc/bellwether/agent.toml]
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "FILE",
        env = "BELLWETHER_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// The agent's socket on this machine [default: /run/bellwether/admin.sock]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// The agent's state directory [default: /var/lib/bellwether]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Give up after this time, such as 30s or 5m
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
}

impl Common {
    /// The configuration: the file, where there is one, and `flags` over it.
    ///
    /// # Errors
    /// Usage: the file, the key and what is allowed; a file that was named must be there.
    pub fn config(&self, flags: &Flags) -> Result<Config, CommandError> {
        self.first_config(flags).and_then(|config| match &self.config {
            Some(_) if !config.file_exists => Err(missing(&config.file)),
            _ => Ok(config),
        })
    }

    /// The same for `init` and `join`, which write the file where it is missing.
    ///
    /// # Errors
    /// Usage: the file, the key and what is allowed.
    pub fn first_config(&self, flags: &Flags) -> Result<Config, CommandError> {
        config::load(&self.given(), flags).map_err(|e| wrong(&e))
    }

    /// The same for a server that enters the group of the manager at `peer`.
    ///
    /// # Errors
    /// As [`Common::first_config`].
    pub fn config_towards(&self, flags: &Flags, peer: &str) -> Result<Config, CommandError> {
        config::load_towards(&self.given(), flags, Some(peer)).map_err(|e| wrong(&e))
    }

    pub(crate) fn given(&self) -> Given {
        Given { file: self.config.clone(), admin_socket: self.admin_socket.clone(), state_dir: self.state_dir.clone() }
    }

    fn places(&self) -> Result<Places, CommandError> {
        let places = config::places(&self.given()).map_err(|e| wrong(&e))?;
        match &self.config {
            // Flags that say all leave nothing for the file to say.
            Some(file) if !file.exists() && (self.admin_socket.is_none() || self.state_dir.is_none()) => {
                Err(missing(file))
            }
            _ => Ok(places),
        }
    }

    /// Where the agent keeps its state.
    ///
    /// # Errors
    /// Usage: the configuration file is wrong.
    pub fn layout(&self) -> Result<Layout, CommandError> {
        Ok(Layout::new(self.places()?.state_dir))
    }

    /// The agent on this machine.
    ///
    /// # Errors
    /// It does not run, this user may not ask it, or it does not answer.
    pub async fn connect(&self) -> Result<AdminClient<Channel>, CommandError> {
        self.within(admin::connect(&self.places()?.admin_socket)).await
    }

    /// A channel to the agent on this machine.
    ///
    /// # Errors
    /// As [`Common::connect`].
    pub async fn channel(&self) -> Result<Channel, CommandError> {
        self.within(admin::channel(&self.places()?.admin_socket)).await
    }

    /// Awaits an answer of the agent that changes nothing: for as long as `--timeout` says, or 10 s.
    ///
    /// # Errors
    /// Timed out, the connection ended, or the agent's.
    pub async fn read<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, CommandError> {
        self.within(async {
            answer.await.map_err(|status| match status.source() {
                // Only what was made up on this side has a cause.
                Some(_) => CommandError::new(Kind::Failed, "the agent on this machine ended while it was asked")
                    .hint("nothing was changed; start it with `bellwether serve` and ask again"),
                None => status.into(),
            })
        })
        .await
    }

    /// Awaits one answer of a wait that `--timeout` bounds as a whole: an agent that runs says something every few seconds.
    ///
    /// # Errors
    /// As [`Common::read`]; timed out only where there is no `--timeout`.
    pub async fn next<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, CommandError> {
        match self.timeout {
            Some(_) => answer.await.map_err(Into::into),
            None => self.read(answer).await,
        }
    }

    /// Awaits the same of several answers, or of one whose errors are told already.
    ///
    /// # Errors
    /// Timed out, or the answer's.
    pub async fn within<T>(&self, answer: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
        let limit = self.timeout.unwrap_or(READ);
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            let text = format!("no answer of the agent on this machine within {}", duration::format(limit));
            Err(CommandError::new(Kind::TimedOut, text).hint(
                "nothing was changed by asking; is the agent stopped, or the machine too busy? `--timeout` waits longer",
            ))
        })
    }

    /// Awaits `answer` for as long as `--timeout` says, or without end.
    ///
    /// # Errors
    /// Timed out, or the answer's own.
    pub async fn in_time<T, E: Into<CommandError>>(
        &self,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CommandError> {
        let Some(limit) = self.timeout else { return answer.await.map_err(Into::into) };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => {
                let text = format!("no answer within {}", duration::format(limit));
                Err(CommandError::new(Kind::TimedOut, text)
                    .hint("what was asked may still be done; `bellwether status` shows it"))
            }
        }
    }
}

fn wrong(error: &ConfigError) -> CommandError {
    CommandError::new(Kind::Usage, chain(error))
}

fn missing(file: &Path) -> CommandError {
    CommandError::new(Kind::Usage, format!("there is no configuration file {}", file.display()))
        .hint("`bellwether init` and `bellwether join` write one")
}

/// Who runs the command, as far as the machine knows.
pub fn author() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|key| std::env::var(key).ok());
    named
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
