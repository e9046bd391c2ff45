//! This server's own settings: `agent.toml`, and flags over it. The group's rules are in the group record.

use std::{
    io,
    net::SocketAddr,
    path::{Component, Path, PathBuf},
};

use bellwether_local::set::SetCommands;
use bellwether_manager::balancer::Local;
use bellwether_proto::{
    limits,
    name::{ServerName, SetName},
};

mod address;
mod balancers;
mod commands;
pub mod duration;
mod file;
mod keys;

pub use file::to_toml;

/// The default path of the configuration file; the file may be missing.
pub const DEFAULT_FILE: &str = "/etc/bellwether/agent.toml";
const DEFAULT_LISTEN: &str = "[::]:7440";
const DEFAULT_HTTP: &str = "127.0.0.1:7441";
const DEFAULT_SOCKET: &str = "/run/bellwether/admin.sock";
const DEFAULT_STATE: &str = "/var/lib/bellwether";

/// The flags of every command about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// The configuration file; none: [`DEFAULT_FILE`], which may be missing.
    pub file: Option<PathBuf>,
    /// The admin socket.
    pub admin_socket: Option<PathBuf>,
    /// The state directory.
    pub state_dir: Option<PathBuf>,
}

/// The keys of agent.toml as flags; the flags of every command are a [`Given`].
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// This server's name in the group [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The address on which the agent listens for other servers [default: port 7440 of every address]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The address that other servers dial [default: the host's name if it resolves, else its address, and the port of
    /// --listen]
    #[arg(long, visible_alias = "address", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// The address for readiness checks, metrics and the page [default: 127.0.0.1:7441]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<String>,
    /// The address for HAProxy's agent checks [default: none]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub agent_check: Option<String>,
    /// A set and its directory on this server; may be repeated; replaces the sets of the configuration file
    #[arg(long, value_name = "NAME=PATH")]
    pub set: Vec<String>,
}

/// One set on this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetConfig {
    /// The name of the set in the group.
    pub name: SetName,
    /// The directory on this server: absolute, without `..`.
    pub path: PathBuf,
    /// The directory in which it is edited while this server is the manager; none: at its path.
    pub source: Option<PathBuf>,
    /// This server's patterns for `init`. After that the group record has them.
    pub local: Vec<String>,
    /// What this server runs for it.
    pub commands: SetCommands,
}

/// The paths of the state and of the admin socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
}

/// The checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This server's name.
    pub name: ServerName,
    /// The address on which the agent listens for other servers.
    pub listen: SocketAddr,
    /// `host:port` that other servers dial.
    pub advertise: String,
    /// The address for readiness checks, metrics and the page.
    pub http: SocketAddr,
    /// Host names that requests to `http` may use, beside this server's own name and addresses.
    pub http_names: Vec<String>,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The sets, sorted by name.
    pub sets: Vec<SetConfig>,
    /// The address for HAProxy's agent checks, if there is one.
    pub agent_check: Option<SocketAddr>,
    /// Balancers that this server drives by files and commands, sorted by name.
    pub balancers: Vec<Local>,
    /// The path of the configuration file.
    pub file: PathBuf,
    /// Whether that file exists.
    pub file_exists: bool,
}

/// An error in the settings. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not TOML, or has unknown keys.
    #[error("{file}: {what}")]
    File {
        /// The file.
        file: PathBuf,
        /// The place of the error, and what is allowed.
        what: String,
    },
    /// A value is not allowed for its key.
    #[error("{key}: {what}")]
    Value {
        /// `FILE: key`, or the flag.
        key: String,
        /// What is allowed.
        what: String,
    },
}

/// A setting as text, and its place.
struct Written {
    text: String,
    key: String,
}

impl Written {
    fn wrong(&self, what: impl std::fmt::Display) -> ConfigError {
        ConfigError::Value { key: self.key.clone(), what: what.to_string() }
    }

    fn address(&self) -> Result<SocketAddr, ConfigError> {
        self.text.parse().map_err(|_| {
            self.wrong(format!("'{}' is not an address and a port, as in 0.0.0.0:7440 or [::]:7440", self.text))
        })
    }

    fn path(&self) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(&self.text);
        if path.is_absolute() && !path.components().any(|c| matches!(c, Component::ParentDir)) {
            return Ok(path.components().collect());
        }
        Err(self.wrong(format!("'{}' is not an absolute path without ..", self.text)))
    }
}

/// Reads the file, if there is one, applies the flags and checks all settings.
///
/// # Errors
/// The file, the key and what is allowed.
pub fn load(given: &Given, flags: &Flags) -> Result<Config, ConfigError> {
    load_towards(given, flags, None)
}

/// As [`load`], for a server that enters the group of the manager at `peer` (`host:port`): unless a setting names it,
/// the advertised address is the one towards that manager.
///
/// # Errors
/// The file, the key and what is allowed.
pub fn load_towards(given: &Given, flags: &Flags, peer: Option<&str>) -> Result<Config, ConfigError> {
    let (path, file) = file::read(given)?;
    let file_exists = file.is_some();
    let file = file.unwrap_or_default();
    let pick = |flag: &Option<String>, key: &'static str, in_file: &Option<String>| {
        let from_flag = flag.clone().map(|text| Written { text, key: format!("--{}", key.replace('_', "-")) });
        let from_file = || in_file.clone().map(|text| Written { text, key: format!("{}: {key}", path.display()) });
        from_flag.or_else(from_file)
    };
    let default = |key: &str, text: &str| Written { text: text.to_owned(), key: key.to_owned() };

    let name = pick(&flags.name, "name", &file.name).unwrap_or_else(|| default("--name (the host's name)", &host()));
    let name = name.text.parse().map_err(|e| name.wrong(e))?;
    let listen =
        pick(&flags.listen, "listen", &file.listen).unwrap_or_else(|| default("listen", DEFAULT_LISTEN)).address()?;
    let http = pick(&flags.http, "http", &file.http).unwrap_or_else(|| default("http", DEFAULT_HTTP)).address()?;
    let http_names = file.http_names.clone();
    if let Some(wrong) = http_names.iter().find(|name| !is_host(name)) {
        let key = format!("{}: http_names", path.display());
        let what = format!("'{wrong}' is not a host's name without a port, as in farm.example");
        return Err(ConfigError::Value { key, what });
    }
    let agent_check = pick(&flags.agent_check, "agent_check", &file.agent_check);
    let agent_check = agent_check.map(|written| written.address()).transpose()?;
    let advertise = match pick(&flags.advertise, "advertise", &file.advertise) {
        Some(written) => check_host_port(&written.text).map_err(|what| written.wrong(what))?,
        None if listen.port() == 0 => {
            return Err(default("advertise", "").wrong("must be given where listen has port 0"));
        }
        None => address::advertised(&hostname(), listen, peer),
    };
    let Places { admin_socket, state_dir } = places_of(given, &path, &file)?;
    let sets = sets(&path, &file, flags)?;
    let balancers = balancers::read(&path, &file.balancer)?;
    check_places(&sets, &state_dir, &path)?;
    Ok(Config {
        name,
        listen,
        advertise,
        http,
        http_names,
        admin_socket,
        state_dir,
        sets,
        agent_check,
        balancers,
        file: path,
        file_exists,
    })
}

/// Loads only the paths of the state and of the socket, for commands that need no more.
///
/// # Errors
/// The file, the key and what is allowed.
pub fn places(given: &Given) -> Result<Places, ConfigError> {
    let (path, file) = file::read(given)?;
    places_of(given, &path, &file.unwrap_or_default())
}

fn places_of(given: &Given, path: &Path, file: &file::File) -> Result<Places, ConfigError> {
    let place = |flag: &Option<PathBuf>, key: &str, in_file: &Option<String>, default: &str| match (flag, in_file) {
        // A flag may be a relative path.
        (Some(flag), _) => std::path::absolute(flag).map_err(|e| ConfigError::Value {
            key: format!("--{}", key.replace('_', "-")),
            what: format!("'{}' cannot be made absolute: {e}", flag.display()),
        }),
        (None, Some(text)) => Written { text: text.clone(), key: format!("{}: {key}", path.display()) }.path(),
        (None, None) => Ok(PathBuf::from(default)),
    };
    Ok(Places {
        admin_socket: place(&given.admin_socket, "admin_socket", &file.admin_socket, DEFAULT_SOCKET)?,
        state_dir: place(&given.state_dir, "state_dir", &file.state_dir, DEFAULT_STATE)?,
    })
}

fn sets(path: &Path, file: &file::File, flags: &Flags) -> Result<Vec<SetConfig>, ConfigError> {
    let mut sets = Vec::new();
    for text in &flags.set {
        let key = "--set".to_owned();
        let (name, root) = text.split_once('=').ok_or_else(|| ConfigError::Value {
            key: key.clone(),
            what: format!("'{text}' is not NAME=PATH, as in nginx=/etc/nginx"),
        })?;
        sets.push(set(key, name, root)?);
    }
    if flags.set.is_empty() {
        for (at, written) in file.set.iter().enumerate() {
            let key = format!("{}: [[set]] number {}", path.display(), at + 1);
            let (local, commands) = (written.local.clone(), written.commands().read(&key)?);
            let source = written.source.clone().map(|text| Written { text, key: format!("{key}: source") }.path());
            let source = source.transpose()?;
            sets.push(SetConfig { source, local, commands, ..set(key, &written.name, &written.path)? });
        }
    }
    if sets.len() > limits::SETS {
        let what = format!("{} sets; the limit is {}", sets.len(), limits::SETS);
        return Err(ConfigError::Value { key: "set".to_owned(), what });
    }
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = sets.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(ConfigError::Value { key: "set".to_owned(), what: format!("{} is there twice", twice[0].name) });
    }
    Ok(sets)
}

fn set(key: String, name: &str, path: &str) -> Result<SetConfig, ConfigError> {
    let name = name.parse().map_err(|e| ConfigError::Value { key: format!("{key}: name"), what: format!("{e}") })?;
    let path = Written { text: path.to_owned(), key: format!("{key}: path") }.path()?;
    Ok(SetConfig { name, path, source: None, local: Vec::new(), commands: SetCommands::default() })
}

/// Checks that no directory of a set contains one of another set, the state, or the file that says what this agent may run, and
/// that none lies in the state. `init` and `join` write that file if it is missing.
fn check_places(sets: &[SetConfig], state: &Path, file: &Path) -> Result<(), ConfigError> {
    let directories: Vec<_> = sets
        .iter()
        .flat_map(|set| std::iter::once(&set.path).chain(&set.source).map(move |path| (set, path)))
        .collect();
    let real_state = real(state);
    for (at, (set, path)) in directories.iter().copied().enumerate() {
        let wrong = |set: &SetConfig, what: String| {
            Err(ConfigError::Value { key: format!("set {}", set.name), what: format!("{} {what}", path.display()) })
        };
        let root = real(path);
        if let Some(other) = directories.iter().enumerate().find(|(i, (_, o))| *i != at && real(o).starts_with(&root)) {
            let (other, within) = other.1;
            return match other.name == set.name {
                true => wrong(
                    set,
                    format!("holds or is {}; the source of a set and its path must not nest", within.display()),
                ),
                false => wrong(set, format!("holds or is set {}; sets must not nest", other.name)),
            };
        }
        if real_state.starts_with(&root) {
            let state = state.display();
            return wrong(set, format!("holds the state directory {state}; move one of them (state_dir)"));
        }
        if root.starts_with(&real_state) {
            return wrong(
                set,
                format!("lies in the state directory {}; move one of them (state_dir)", state.display()),
            );
        }
        if real(file).starts_with(&root) {
            let what = format!(
                "holds this agent's own {}, which no other server may write; name the directories below that are to be \
                 synchronised, or put that file elsewhere (--config)",
                file.display()
            );
            return wrong(set, what);
        }
    }
    Ok(())
}

/// The path with its symbolic links resolved, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        if let Ok(found) = at.canonicalize() {
            return missing.iter().rev().fold(found, |path, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

fn check_host_port(text: &str) -> Result<String, String> {
    let wrong = || format!("'{text}' is not HOST:PORT, as in web1.example:7440 or [2001:db8::1]:7440");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port_fits = port.parse::<u16>().is_ok_and(|port| port != 0);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    if port_fits && host_fits { Ok(text.to_owned()) } else { Err(wrong()) }
}

fn is_host(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The host's name up to its first dot.
fn host() -> String {
    let name = hostname();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Feeds fuzzed text to the reader of agent.toml; returns whether it was accepted.
#[cfg(fuzzing)]
pub(crate) fn fuzz(text: &str) -> bool {
    let path = Path::new("agent.toml");
    file::parse(path, text).is_ok_and(|file| balancers::read(path, &file.balancer).is_ok())
}

#[cfg(test)]
mod tests;
