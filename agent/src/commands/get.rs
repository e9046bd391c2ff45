//! `bellwether get SET:FILE`: one file of the head revision, on standard output.

use std::{
    ffi::OsString,
    io::{self, Write},
};

use bellwether_proto::{hash::Hash, v1::ReadRequest};
use serde_json::json;

use super::target;
use crate::{common::Common, error::CommandError, output};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file in the set, as nginx:conf.d/a.conf
    #[arg(value_name = "SET:FILE")]
    pub file: OsString,
    /// Print its BLAKE3 hash only, for `put --expect`
    #[arg(long)]
    pub hash: bool,
}

/// Runs it.
///
/// # Errors
/// There is no such file.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let target = target::file(&args.file)?;
    let mut client = common.connect().await?;
    let request = ReadRequest { set: target.set.to_string(), path: target.path.as_bytes().to_vec().into() };
    let reply = common.in_time(client.read(request)).await?.into_inner();
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
        let mut out = io::stdout().lock();
        match out.write_all(&reply.data).and_then(|()| out.flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(CommandError::failed(&e)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}
