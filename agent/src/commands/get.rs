//! `bellwether get SET:FILE`: prints one file of the head revision, with control characters escaped on a terminal.

use std::ffi::OsString;

use bellwether_proto::{hash::Hash, v1::ReadRequest};
use serde_json::json;

use super::target;
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
}

/// Runs the command.
///
/// # Errors
/// There is no such file.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let target = target::file(&args.file)?;
    let mut client = common.connect().await?;
    let request = ReadRequest { set: target.set.to_string(), path: target.path.as_bytes().to_vec().into() };
    let reply = common.read(client.read(request)).await?.into_inner();
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
