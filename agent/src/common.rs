//! What every command takes, and what follows from it: where the agent's socket is, and how long to wait.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bellwether_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

use crate::{
    config::{self, Config, ConfigError, Flags, Places},
    duration,
    error::{CommandError, Kind, chain},
    layout::Layout,
    socket,
};

/// The options of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// Ask nothing: yes to every question
    #[arg(long, global = true)]
    pub yes: bool,
    /// The configuration file [default: /etc/bellwether/agent.toml]
    #[arg(
        long,
        global = true,
        help_heading = "Options of every command",
        value_name = "FILE",
        env = "BELLWETHER_CONFIG"
    )]
    pub config: Option<PathBuf>,
    /// The agent's socket on this machine [default: /run/bellwether/admin.sock]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// The agent's state directory [default: /var/lib/bellwether]
    #[arg(long, global = true, help_heading = "Options of every command", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Give up after this time, as 30s, 5m
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
        config::load(self, flags).map_err(|e| wrong(&e))
    }

    /// The same for a server that enters the group of the manager at `peer`.
    ///
    /// # Errors
    /// As [`Common::first_config`].
    pub fn config_towards(&self, flags: &Flags, peer: &str) -> Result<Config, CommandError> {
        config::load_towards(self, flags, Some(peer)).map_err(|e| wrong(&e))
    }

    fn places(&self) -> Result<Places, CommandError> {
        let places = config::places(self).map_err(|e| wrong(&e))?;
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
    /// It does not run, or this user may not ask it.
    pub async fn connect(&self) -> Result<AdminClient<Channel>, CommandError> {
        socket::connect(&self.places()?.admin_socket).await
    }

    /// A channel to the agent on this machine.
    ///
    /// # Errors
    /// As [`Common::connect`].
    pub async fn channel(&self) -> Result<Channel, CommandError> {
        socket::channel(&self.places()?.admin_socket).await
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
