//! `[[balancer]]`: load balancers that this machine drives by files and commands. Their names are in the group record;
//! the files and commands never come from the network.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bellwether_manager::balancer::{Local, LocalCommand, LocalKind, LocalNginx};
use bellwether_proto::limits;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Written};
use crate::config::duration;

/// The default commands for nginx.
const TEST: &str = "nginx -t";
const RELOAD: &str = "nginx -s reload";
const PID: &str = "/run/nginx.pid";
const TIMEOUT: Duration = Duration::from_secs(30);

/// An entry as it is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Balancer {
    name: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
}

/// Checks all entries.
pub(super) fn read(file: &Path, written: &[Balancer]) -> Result<Vec<Local>, ConfigError> {
    let key = |at: usize| format!("{}: [[balancer]] number {}", file.display(), at + 1);
    let read = |(at, balancer)| one(&key(at), balancer);
    let mut balancers = written.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    balancers.sort_by(|a, b| a.name.cmp(&b.name));
    let wrong = |what: String| Err(ConfigError::Value { key: format!("{}: balancer", file.display()), what });
    if let Some(twice) = balancers.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return wrong(format!("{} is there twice", twice[0].name));
    }
    if balancers.len() > limits::BALANCERS {
        return wrong(format!("{} balancers; the limit is {}", balancers.len(), limits::BALANCERS));
    }
    Ok(balancers)
}

fn one(key: &str, written: &Balancer) -> Result<Local, ConfigError> {
    let value = |name: &str, text: &str| Written { text: text.to_owned(), key: format!("{key}: {name}") };
    let missing = |name: &str| ConfigError::Value {
        key: format!("{key}: {name}"),
        what: format!("a balancer of the kind {} needs it", written.kind),
    };
    let name = value("name", &written.name);
    let name = name.text.parse().map_err(|e| name.wrong(e))?;
    let timeout = match &written.timeout {
        Some(text) => duration::parse(text).map_err(|what| value("timeout", text).wrong(what))?,
        None => TIMEOUT,
    };
    let path = |name: &str, text: &str| value(name, text).path();
    let kind = match written.kind.as_str() {
        "nginx" => {
            not_there(key, &written.kind, &[("command", &written.command)])?;
            let file = path("file", written.file.as_deref().ok_or_else(|| missing("file"))?)?;
            let pid = written.pid.as_deref().map_or(Ok(PathBuf::from(PID)), |text| path("pid", text))?;
            let or = |text: &Option<String>, default: &str| text.as_deref().unwrap_or(default).to_owned();
            let (test, reload) = (or(&written.test, TEST), or(&written.reload, RELOAD));
            LocalKind::Nginx(LocalNginx { file, pid, test, reload, timeout })
        }
        "command" => {
            let others =
                [("file", &written.file), ("pid", &written.pid), ("test", &written.test), ("reload", &written.reload)];
            not_there(key, &written.kind, &others)?;
            let command = written.command.clone().ok_or_else(|| missing("command"))?;
            LocalKind::Command(LocalCommand { command, timeout })
        }
        "haproxy" => {
            let what = "a HAProxy has no entry here, only an address in the group record: bellwether group set --balancer NAME=haproxy:ADDRESS";
            return Err(value("kind", "").wrong(what));
        }
        other => return Err(value("kind", other).wrong(format!("'{other}' is neither nginx nor command"))),
    };
    Ok(Local { name, kind })
}

fn not_there(key: &str, kind: &str, others: &[(&str, &Option<String>)]) -> Result<(), ConfigError> {
    match others.iter().find(|(_, text)| text.is_some()) {
        Some((name, _)) => Err(ConfigError::Value {
            key: format!("{key}: {name}"),
            what: format!("a balancer of the kind {kind} has no such key"),
        }),
        None => Ok(()),
    }
}

/// The entry for `local`.
pub(super) fn written(local: &Local) -> Balancer {
    let empty = Balancer {
        name: local.name.to_string(),
        kind: String::new(),
        file: None,
        pid: None,
        test: None,
        reload: None,
        command: None,
        timeout: None,
    };
    let text = |path: &Path| Some(path.to_string_lossy().into_owned());
    match &local.kind {
        LocalKind::Nginx(LocalNginx { file, pid, test, reload, timeout }) => Balancer {
            kind: "nginx".to_owned(),
            file: text(file),
            pid: text(pid),
            test: Some(test.clone()),
            reload: Some(reload.clone()),
            timeout: Some(duration::format(*timeout)),
            ..empty
        },
        LocalKind::Command(LocalCommand { command, timeout }) => Balancer {
            kind: "command".to_owned(),
            command: Some(command.clone()),
            timeout: Some(duration::format(*timeout)),
            ..empty
        },
    }
}
