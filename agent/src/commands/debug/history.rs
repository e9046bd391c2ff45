//! `bellwether debug history`: the packs of this server's history, and the files there that cannot be used.

use std::{fs::File, path::Path};

use bellwether_store::{
    history::{self, Examined, Interrupted, LeftOut, Stored},
    pack::Examination,
};
use serde_json::{Value, json};

use super::header;
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// Prints the content of the history's directory; fails if a file there is damaged.
pub(super) fn run(common: &Common) -> Result<(), CommandError> {
    let directory = common.layout()?.history();
    let found = history::examine(&directory).map_err(|e| CommandError::failed(&e))?;
    let Examined { packs, head, left_out, interrupted } = &found;
    output::document(&json!({
        "directory": directory,
        "head": head,
        "packs": packs.iter().map(|stored| pack(stored)).collect::<Vec<_>>(),
        "left_out": left_out.iter().map(unusable).collect::<Vec<_>>(),
        "interrupted": interrupted.iter().map(part).collect::<Vec<_>>(),
    }));
    match left_out.len() {
        0 => Ok(()),
        1 => Err(CommandError::new(Kind::Failed, "one pack of the history cannot be used: see left_out")),
        count => {
            Err(CommandError::new(Kind::Failed, format!("{count} packs of the history cannot be used: see left_out")))
        }
    }
}

fn pack(stored: &Stored) -> Value {
    let mut value = header::as_json(&stored.header);
    value["file"] = json!(stored.path.file_name().map(|name| name.to_string_lossy()));
    value["base"] = json!(stored.base);
    value["pack"] = json!(stored.pack);
    value["at"] = json!(stored.at);
    value["size"] = json!(stored.size);
    value["changes_end"] = json!(stored.changes_end);
    value
}

fn unusable(LeftOut { path, at, why, .. }: &LeftOut) -> Value {
    json!({ "file": path, "at": at, "why": why, "damaged_at": damaged_at(path) })
}

/// The offset of the first damage in a file of packs; none: its frames are whole, or the file cannot be read.
fn damaged_at(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    Examination::new(&file, path).find_map(Result::err).map(|damage| damage.at)
}

fn part(Interrupted { path, at, pack, whole }: &Interrupted) -> Value {
    json!({ "file": path, "at": at, "pack": pack, "whole_bytes": whole })
}
