//! `bellwether debug pack FILE`: the frames of a file of packs, each with its offset.

use std::path::{Path, PathBuf};

use bellwether_proto::entry::{Entry, Kind};
use bellwether_store::{
    durable, log,
    pack::{Examination, Examined, Frame, Head, Patch},
    tree::Change,
};
use serde_json::{Value, json};

use super::header;
use crate::{
    common::Common,
    error::{CommandError, Kind as Failure},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pack: a path, or the name of a file in this server's history
    #[arg(value_name = "FILE")]
    pack: PathBuf,
}

/// Prints the packs, one frame at a time. A damaged file fails after the frames before the damage.
pub(super) fn run(args: &Args, common: &Common) -> Result<(), CommandError> {
    let path = place(&args.pack, common)?;
    let cannot = |e| CommandError::new(Failure::Failed, format!("cannot open {}: {e}", path.display()));
    let file = durable::open_regular(&path).map_err(cannot)?;
    let (mut damage, mut comma) = (None, "");
    output::json(&format!("{{\"file\": {}, \"frames\": [", json!(path)));
    let packs = match logged(&path)? {
        None => vec![Examination::new(&file, &path)],
        Some(starts) => starts.into_iter().map(|at| Examination::of_one(&file, &path, at)).collect(),
    };
    for next in packs.into_iter().flatten() {
        match next {
            Ok(frame) => output::json(&format!("{comma}{:#}", as_json(&frame))),
            Err(found) => damage = Some(found),
        }
        if !output::is_read() {
            return Ok(());
        }
        comma = ",";
    }
    let said = damage.as_ref().map(|found| json!({ "at": found.at, "what": found.source.to_string() }));
    output::json(&format!("], \"damage\": {:#}}}", json!(said)));
    match damage {
        None => Ok(()),
        Some(found) => Err(CommandError::new(Failure::Failed, format!("{} is damaged {found}", path.display()))),
    }
}

/// Where the packs begin in a log, which has other records between them; none: it is a file of packs.
fn logged(path: &Path) -> Result<Option<Vec<u64>>, CommandError> {
    match path.parent() {
        Some(directory) if log::path(directory) == path => {
            Ok(Some(log::read(directory).map_err(|e| CommandError::failed(&e))?.packs))
        }
        Some(_) | None => Ok(None),
    }
}

/// A name alone that is not in this directory is one of the history.
fn place(pack: &Path, common: &Common) -> Result<PathBuf, CommandError> {
    if pack.components().count() > 1 || pack.exists() {
        return Ok(pack.to_owned());
    }
    Ok(common.layout()?.history().join(pack))
}

fn as_json(frame: &Examined) -> Value {
    let (name, content) = match &frame.frame {
        Frame::Head(said) => ("head", head(said)),
        Frame::Changes(list) => ("changes", list.iter().map(change).collect()),
        Frame::Chunks(list) => {
            ("chunks", list.iter().map(|(c, _)| json!({ "hash": c.hash, "length": c.length })).collect())
        }
        Frame::Patches(list) => ("patches", list.iter().map(patch).collect()),
        Frame::End => ("end", Value::Null),
    };
    json!({
        "at": frame.at,
        "length": frame.length,
        "kind": frame.kind.to_string(),
        "codec": if frame.deflated { "deflate" } else { "none" },
        "raw_length": frame.raw_length,
        name: content,
    })
}

fn head(Head { pack, header, base, rules, changes, chunks, chunk_bytes }: &Head) -> Value {
    json!({
        "pack": pack,
        "header": header::as_json(header),
        "base": base,
        "sets": rules,
        "changes": changes,
        "chunks": chunks,
        "chunk_bytes": chunk_bytes,
    })
}

fn change(Change { set, path, entry }: &Change) -> Value {
    json!({ "set": set, "path": bytes(path.as_bytes()), "entry": entry.as_ref().map(self::entry) })
}

fn entry(Entry { meta, kind }: &Entry) -> Value {
    let (name, content) = match kind {
        Kind::Directory => ("directory", Value::Null),
        Kind::File(content) => {
            ("file", content.chunks().iter().map(|c| json!({ "hash": c.hash, "length": c.length })).collect())
        }
        Kind::Link(target) => ("link", bytes(target)),
    };
    let xattrs = meta.xattrs.iter().flat_map(|list| list.iter());
    json!({
        "mode": format!("{:04o}", meta.mode),
        "user": meta.owner.user,
        "group": meta.owner.group,
        "mtime": meta.mtime,
        "xattrs": xattrs.map(|(name, value)| json!([bytes(name), bytes(value)])).collect::<Vec<_>>(),
        "kind": name,
        "content": content,
    })
}

fn patch(Patch { old, chunk, prefix, suffix, middle }: &Patch) -> Value {
    json!({
        "old": old,
        "hash": chunk.hash,
        "length": chunk.length,
        "prefix": prefix,
        "suffix": suffix,
        "middle": middle.len(),
    })
}

/// Bytes as text, or as a list of numbers if they are not UTF-8.
fn bytes(bytes: &[u8]) -> Value {
    std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text))
}
