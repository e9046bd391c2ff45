//! The options of every command, and what follows from them: the agent's socket and the time limits.

use std::{
    error::Error,
    path::{Path, PathBuf},
    time::Duration,
};

use bellwether_daemon::config::{self, Config, ConfigError, Flags, Given, Places, duration};
use bellwether_proto::{error::chain, v1::admin_client::AdminClient};
use bellwether_store::{attributes::Names, state::layout::Layout};
use tonic::{Status, transport::Channel};

use crate::{
    admin,
    error::{CommandError, Kind},
};

/// The time limit of a request that changes nothing, unless `--timeout` sets another.
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
    /// The configuration: the file, if there is one, overridden by `flags`.
    ///
    /// # Errors
    /// Usage: the error names the file, the key and the allowed values. A file that the command line names must exist.
    pub fn config(&self, flags: &Flags) -> Result<Config, CommandError> {
        self.first_config(flags).and_then(|config| match &self.config {
            Some(_) if !config.file_exists => Err(missing(&config.file)),
            _ => Ok(config),
        })
    }

    /// The configuration for `init` and `join`, which write the file if it is missing.
    ///
    /// # Errors
    /// Usage: the error names the file, the key and the allowed values.
    pub fn first_config(&self, flags: &Flags) -> Result<Config, CommandError> {
        config::load(&self.given(), flags).map_err(|e| wrong(&e))
    }

    /// The configuration for a server that enters the group of the manager at `peer`.
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
            // With all flags given, the file has nothing to add.
            Some(file) if !file.exists() && (self.admin_socket.is_none() || self.state_dir.is_none()) => {
                Err(missing(file))
            }
            _ => Ok(places),
        }
    }

    /// The layout of the agent's state directory.
    ///
    /// # Errors
    /// Usage: the configuration file is wrong.
    pub fn layout(&self) -> Result<Layout, CommandError> {
        Ok(Layout::new(self.places()?.state_dir))
    }

    /// Connects to the agent on this machine.
    ///
    /// # Errors
    /// The agent does not run, does not answer, or refuses this user.
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

    /// Awaits an answer of the agent that changes nothing, for `--timeout` or 10 s.
    ///
    /// # Errors
    /// The time is up, the connection ended, or the agent returned an error.
    pub async fn read<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, CommandError> {
        self.within(async {
            answer.await.map_err(|status| match status.source() {
                // Only an error that was made on this side has a cause.
                Some(_) => CommandError::new(Kind::Failed, "the agent on this machine ended while it was asked")
                    .hint("nothing was changed; start it with `bellwether serve` and ask again"),
                None => status.into(),
            })
        })
        .await
    }

    /// Awaits one answer of a wait that `--timeout` bounds as a whole. A running agent sends one every few seconds.
    ///
    /// # Errors
    /// As [`Common::read`]; the time limit applies only without `--timeout`.
    pub async fn next<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, CommandError> {
        match self.timeout {
            Some(_) => answer.await.map_err(Into::into),
            None => self.read(answer).await,
        }
    }

    /// As [`Common::read`], for several answers, or for an answer whose errors are converted already.
    ///
    /// # Errors
    /// The time is up, or the answer's error.
    pub async fn within<T>(&self, answer: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
        let limit = self.timeout.unwrap_or(READ);
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            let text = format!("no answer of the agent on this machine within {}", duration::format(limit));
            Err(CommandError::new(Kind::TimedOut, text).hint(
                "nothing was changed by asking; is the agent stopped, or the machine too busy? `--timeout` waits longer",
            ))
        })
    }

    /// Awaits `answer` for `--timeout`, or without a limit.
    ///
    /// # Errors
    /// The time is up, or the answer's error.
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
                    .hint("the request may still be done; `bellwether status` shows it"))
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

/// The user that runs the command, as far as the machine knows: the login name behind sudo, or the account.
pub fn author() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|key| std::env::var(key).ok());
    named.into_iter().find(|name| !name.is_empty()).unwrap_or_else(account)
}

/// The account that this process has.
fn account() -> String {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    match Names::new().owner(uid, gid).user.to_string() {
        number if number == uid.to_string() => format!("uid {number}"),
        name => name,
    }
}
