//! `agent.toml` as it is written.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::Given;
use super::{
    Config, ConfigError, DEFAULT_FILE,
    balancers::{self, Balancer},
    commands::{Checks, Commands, OneCommand},
    keys,
};

/// The keys of the file, not yet checked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) listen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advertise: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) http: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) http_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admin_socket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) state_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent_check: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) set: Vec<Set>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) balancer: Vec<Balancer>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) local: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validate: Option<OneCommand>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reload: Option<OneCommand>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Checks>,
}

impl Set {
    /// The keys of its commands.
    pub(super) fn commands(&self) -> Commands<'_> {
        let Self { preset, user, validate, reload, check, .. } = self;
        Commands {
            preset: preset.as_deref(),
            user: user.as_ref(),
            validate: validate.as_ref(),
            reload: reload.as_ref(),
            check: check.as_ref(),
        }
    }
}

/// The path and content of the file; no content if it is missing and no flag named it.
pub(super) fn read(given: &Given) -> Result<(PathBuf, Option<File>), ConfigError> {
    let named = given.file.as_deref();
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let path = std::path::absolute(path).map_err(|source| ConfigError::Read { file: path.to_owned(), source })?;
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&path, &text).map(|file| (path, Some(file))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((path, None)),
        Err(source) => Err(ConfigError::Read { file: path, source }),
    }
}

pub(super) fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let wrong = |what: String| ConfigError::File { file: path.to_owned(), what };
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
    keys::check(&table).map_err(wrong)?;
    toml::from_str(text).map_err(|e| wrong(e.to_string()))
}

/// The text of the file for `config`.
pub fn to_toml(config: &Config) -> String {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let file = File {
        name: Some(config.name.to_string()),
        listen: Some(config.listen.to_string()),
        advertise: Some(config.advertise.clone()),
        http: Some(config.http.to_string()),
        http_names: config.http_names.clone(),
        admin_socket: Some(text(&config.admin_socket)),
        state_dir: Some(text(&config.state_dir)),
        set: config
            .sets
            .iter()
            .map(|set| Set {
                name: set.name.to_string(),
                path: text(&set.path),
                source: set.source.as_deref().map(text),
                local: set.local.clone(),
                preset: None,
                user: None,
                validate: set.commands.validate.as_ref().map(OneCommand::from),
                reload: set.commands.reload.as_ref().map(OneCommand::from),
                check: Checks::of(&set.commands.checks),
            })
            .collect(),
        agent_check: config.agent_check.map(|address| address.to_string()),
        balancer: config.balancers.iter().map(balancers::written).collect(),
    };
    toml::to_string(&file).expect("strings and lists of them have a TOML form")
}
