//! Reads a file of the revision that this member holds from its own history, while the manager does not answer.

use std::collections::{HashMap, HashSet};

use bellwether_manager::ReadError;
use bellwether_member::Looked;
use bellwether_proto::{entry::EntryPath, error::chain, hash::Hash, limits, v1};
use bellwether_store::{secret::SecretPaths, tree::Node};
use tonic::Status;

use super::{link::ManagerLink, refusal::refusal};

/// Reads the file; the answer names the revision.
///
/// # Errors
/// The file does not exist, is too large, is one of `secrets` and not to be revealed, or the history lacks it.
pub(super) async fn read(
    link: &ManagerLink,
    read: &v1::ReadRequest,
    secrets: &SecretPaths,
) -> Result<v1::ReadReply, Status> {
    let set = read.set.parse().map_err(refusal::<bellwether_proto::Malformed>)?;
    let path = EntryPath::new(&read.path).map_err(refusal)?;
    let hash_only = read.hash_only;
    if !read.reveal && !hash_only && secrets.covers(&set, &path) {
        return Err(refusal(ReadError::Secret { set, path }));
    }
    let looked = link.hand.look().await.map_err(refusal)?;
    let reading = move || {
        let revision = looked.at.number();
        let Some(Node::File { meta, content, .. }) = looked.tree.get(&set, &path) else {
            return Err(Status::not_found(format!(
                "revision {revision}, which is held here, has no file {set}:{path}"
            )));
        };
        if content.size() > limits::PUT as u64 {
            let text = format!("{set}:{path} has {} bytes; at most {} are read this way", content.size(), limits::PUT);
            return Err(Status::failed_precondition(text));
        }
        let chunks: Vec<Hash> = content.chunks().iter().map(|chunk| chunk.hash).collect();
        let data = joined(&looked, &chunks)?;
        let hash = Hash::of(&data).into();
        let data = if hash_only { Vec::new() } else { data };
        Ok(v1::ReadReply { data: data.into(), hash, mode: meta.mode.into(), revision: revision.to_string() })
    };
    tokio::task::spawn_blocking(reading).await.map_err(|e| Status::internal(e.to_string()))?
}

fn joined(looked: &Looked, chunks: &[Hash]) -> Result<Vec<u8>, Status> {
    let wanted: HashSet<Hash> = chunks.iter().copied().collect();
    let mut found = HashMap::new();
    let read = looked.packs.chunks(&wanted, &mut |chunk, bytes| {
        found.insert(chunk.hash, bytes);
    });
    read.map_err(|e| Status::internal(chain(&e)))?;
    let mut data = Vec::new();
    for chunk in chunks {
        let bytes = found.get(chunk).ok_or_else(|| Status::not_found("this server's history lacks its content"))?;
        data.extend_from_slice(bytes);
    }
    Ok(data)
}
