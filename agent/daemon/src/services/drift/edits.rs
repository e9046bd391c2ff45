//! Sends the edits of a member to its manager: first the list, then the content of the files.

use std::time::Duration;

use bellwether_member::{Hand, SetPath, selected_with_parents};
use bellwether_proto::{
    advice::Advice,
    entry::Chunk,
    error::chain,
    limits,
    revision::{RevisionId, SignedHeader},
    v1,
};
use bellwether_store::{pack, tree::Change};
use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::{Client, refusal, refused};
use crate::drift::{self, Contents};

/// The time until the next part has to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes of the list of edits in one message.
const LIST: usize = 4 << 20;

/// A member's edits, received and checked.
pub(super) struct Fetched {
    pub(super) at: RevisionId,
    pub(super) edits: Vec<Change>,
    pub(super) chunks: Vec<(Chunk, Bytes)>,
}

/// Receives all parts from the member.
///
/// # Errors
/// The member's, or it sent malformed parts, or too much.
pub(super) async fn fetch(client: &mut Client, places: Vec<v1::Place>) -> Result<Fetched, Status> {
    let mut parts = client.edits(v1::EditsRequest { places }).await?.into_inner();
    let first = next(&mut parts).await?.ok_or_else(|| Status::internal("it sent nothing"))?;
    let at = first.at.ok_or_else(|| Status::internal("it does not say which revision was edited"))?;
    let at = SignedHeader::from_wire(at).map_err(refusal)?.id();
    let edits = drift::from_wire(first.edits).map_err(refusal)?;
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    while let Some(part) = next(&mut parts).await? {
        let came = pack::read_chunks(&part.frames).map_err(|e| Status::internal(chain(&e)))?;
        bytes += came.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        if bytes > limits::KEEP.1 || chunks.len() > limits::WANT {
            return Err(Status::resource_exhausted(format!("it sent more than {} bytes", limits::KEEP.1)));
        }
        chunks.extend(came);
    }
    Ok(Fetched { at, edits, chunks })
}

async fn next(parts: &mut Streaming<v1::EditsPart>) -> Result<Option<v1::EditsPart>, Status> {
    let late = |_| Status::deadline_exceeded("it stopped sending");
    tokio::time::timeout(PATIENCE, parts.message()).await.map_err(late)?
}

/// Scans, and sends the edits at `places` and the content of their files.
pub(super) async fn send(hand: Hand, places: Vec<SetPath>, to: mpsc::Sender<Result<v1::EditsPart, Status>>) {
    let looked = match hand.look().await {
        Ok(looked) => looked,
        Err(error) => return drop(to.send(Err(refusal(error))).await),
    };
    let sending = move || {
        let edits = selected_with_parents(&looked.edits, &places);
        let contents = match Contents::new(&looked.tree, &edits, &looked.sources) {
            Ok(contents) => contents,
            Err(error) => return drop(to.blocking_send(Err(refusal(error)))),
        };
        let first =
            v1::EditsPart { at: Some(looked.at.to_wire()), edits: drift::to_wire(&edits), frames: Bytes::new() };
        if first.encoded_len() > LIST {
            let text = "the list of edits is too long for one revision";
            let advice = Advice::say("name some of the paths");
            return drop(to.blocking_send(Err(refused(Code::FailedPrecondition, text, advice))));
        }
        let send_part = |part| to.blocking_send(Ok(part)).is_ok();
        if !send_part(first) {
            return;
        }
        let read = contents.read(&mut |frames| send_part(v1::EditsPart { frames, ..v1::EditsPart::default() }));
        if let Err(error) = read {
            let _ = to.blocking_send(Err(refusal(error)));
        }
    };
    // A panic there ends the stream, which the other side takes for a failure.
    let _ = tokio::task::spawn_blocking(sending).await;
}
