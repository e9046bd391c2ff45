//! `bellwether get SET:FILE`: prints one file of the head revision or of an earlier one, with control characters escaped on a terminal.

use std::ffi::OsString;

use bellwether_proto::{
    hash::Hash,
    revision::RevisionName,
    v1::{ReadAtRequest, ReadRequest},
};
use serde_json::json;

use super::{past, target};
use crate::{common::Common, error::CommandError, output};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file in the set, such as nginx:conf.d/a.conf
    #[arg(value_name = "SET:FILE")]
    pub file: OsString,
    /// Print only the BLAKE3 hash of the file, for `put --expect`
    #[arg(long)]
    pub hash: bool,
    /// Print the content although the group says that the file is secret
    #[arg(long, conflicts_with_all = ["at", "hash"])]
    pub reveal: bool,
    /// Read the file as it was in this revision: 1.12, 12, head, or head-1 for the one before the head
    #[arg(long, value_name = "REV")]
    pub at: Option<RevisionName>,
}

/// Runs the command.
///
/// # Errors
/// There is no such file.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let target = target::file(&args.file)?;
    let path = target.path.as_bytes().to_vec().into();
    let request = ReadRequest { set: target.set.to_string(), path, reveal: args.reveal, hash_only: args.hash };
    let reply = match args.at {
        None => {
            let mut client = common.connect().await?;
            common.read(client.read(request)).await?
        }
        Some(at) => {
            let mut client = past::connect(common).await?;
            let request = ReadAtRequest { revision: at.to_string(), read: Some(request) };
            common.read(client.read_at(request)).await?
        }
    };
    let reply = reply.into_inner();
    let hash = Hash::try_from(reply.hash.as_ref()).map_err(|e| CommandError::failed(&e))?;
    if common.json {
        let data = (!args.hash).then(|| data_encoding::BASE64.encode(&reply.data));
        let mode = format!("{:04o}", reply.mode);
        let hash = hash.to_string();
        output::document(
            &json!({ "target": target.to_string(), "revision": reply.revision, "hash": hash, "mode": mode, "data_base64": data }),
        );
    } else if args.hash {
        output::line(&hash.to_string());
    } else {
        output::content(&reply.data);
    }
    Ok(())
}
