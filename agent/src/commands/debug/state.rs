//! `bellwether debug state`: the files of the state directory, and whether each is whole.

use std::{collections::BTreeSet, ffi::OsString, fs, io, os::unix::fs::MetadataExt, path::Path};

use bellwether_proto::{error::chain, level::State};
use bellwether_store::{
    index, log,
    state::{
        file::{self, StateFileError},
        layout::{Content, Layout},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// Prints the entries that exist; fails if one is damaged.
pub(super) fn run(common: &Common) -> Result<(), CommandError> {
    let layout = common.layout()?;
    let mut names = list(layout.state())?;
    let mut damaged = Vec::new();
    let files: Vec<Value> = layout
        .places()
        .into_iter()
        .map(|(path, holds)| {
            names.remove(path.file_name().unwrap_or_default());
            let shown = look(&layout, &path, holds);
            damaged.extend(shown["damage"].as_str().map(str::to_owned));
            shown
        })
        .collect();
    let others: Vec<_> = names.iter().map(|name| name.to_string_lossy()).collect();
    output::document(&json!({ "directory": layout.state(), "files": files, "others": others }));
    if damaged.is_empty() { Ok(()) } else { Err(CommandError::new(Kind::Failed, damaged.join("; "))) }
}

fn list(directory: &Path) -> Result<BTreeSet<OsString>, CommandError> {
    let listed = fs::read_dir(directory).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    listed.map_err(|e| CommandError::new(Kind::Failed, format!("cannot list {}: {e}", directory.display())))
}

fn look(layout: &Layout, path: &Path, holds: Content) -> Value {
    let mut shown = json!({ "file": path.file_name().map(|name| name.to_string_lossy()) });
    match path.symlink_metadata() {
        Ok(stat) => {
            shown["mode"] = json!(format!("{:04o}", stat.mode() & 0o7777));
            shown["modified"] = json!(output::utc(stat.mtime()));
            if stat.is_file() {
                shown["size"] = json!(stat.size());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            shown["is_there"] = json!(false);
            return shown;
        }
        Err(error) => {
            shown["damage"] = json!(format!("cannot look at {}: {error}", path.display()));
            return shown;
        }
    }
    shown["is_there"] = json!(true);
    match content(layout, path, holds) {
        Ok(Some((name, content))) => shown[name] = content,
        Ok(None) => {}
        Err(why) => shown["damage"] = json!(why),
    }
    shown
}

/// The content to show of an existing file, with its key. A record, a history and its log have commands of their own.
fn content(layout: &Layout, path: &Path, holds: Content) -> Result<Option<(&'static str, Value)>, String> {
    let said = |e: StateFileError| chain(&e);
    let shown_by = |command| ("shown_by", json!(format!("bellwether debug {command}")));
    Ok(match holds {
        Content::State if path == layout.group() => {
            body(path).map_err(said)?;
            Some(shown_by("record"))
        }
        Content::State => body(path).map_err(said)?.map(|body| ("content", body)),
        Content::States => Some(("content", each(path).map_err(|e| format!("cannot list {}: {e}", path.display()))?)),
        Content::History => {
            log::read(path).map_err(said)?;
            Some(shown_by("history"))
        }
        Content::Cache if path == layout.index() => {
            let read = index::read(path, &[]).map_err(|e| format!("{}: {}", path.display(), chain(&e)))?;
            Some(("same_boot", json!(read.same_boot)))
        }
        Content::Cache | Content::Other => None,
    })
}

/// The content of any state file.
#[derive(Serialize, Deserialize)]
struct Body(Value);

impl State for Body {}

fn body(path: &Path) -> Result<Option<Value>, StateFileError> {
    Ok(file::load(path)?.map(|Body(body)| body))
}

/// Each file of a directory of state files: its content, or its damage.
fn each(directory: &Path) -> io::Result<Value> {
    let mut shown = serde_json::Map::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = body(&path).map_err(|e| json!({ "damage": chain(&e) }));
        shown.insert(name, json!(content.unwrap_or_else(Some)));
    }
    Ok(Value::Object(shown))
}
