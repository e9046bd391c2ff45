//! Batches, for commands on this machine. Each call is one batch, and a task of its own holds it: if the caller's stream ends
//! before its result was told, the batch ends without a result.

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use bellwether_manager::{BatchSession, BeginBatch, Begun, Discarded, Finished};
use bellwether_proto::v1::{
    self, BatchReply, BatchRequest, batch_reply::Step as Reply, batch_request::Step, batches_server::Batches,
};
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Agent, admin::published, refusal::refusal};

/// The most entries that an answer lists.
const LISTED: usize = 100;
/// The most characters of a command line that are shown.
const SHOWN: usize = 200;

/// The service, for the Unix socket.
pub(crate) struct BatchService(pub(crate) Arc<Agent>);

#[tonic::async_trait]
impl Batches for BatchService {
    type RunStream = Pin<Box<dyn Stream<Item = Result<BatchReply, Status>> + Send>>;

    async fn run(&self, request: Request<Streaming<BatchRequest>>) -> Result<Response<Self::RunStream>, Status> {
        let mut steps = request.into_inner();
        let Some(BatchRequest { step: Some(Step::Begin(begin)) }) = steps.message().await? else {
            return Err(Status::invalid_argument("a batch begins with its command"));
        };
        let begin = self.asked(begin);
        let Begun { session, deadline_ms, unpublished } =
            self.0.manager()?.begin_batch(begin).await.map_err(refusal)?;
        let (unpublished, first) = listed(unpublished);
        let (to, from) = mpsc::channel(2);
        let begun = Reply::Begun(v1::BatchBegun { deadline_ms, unpublished, first });
        // The channel has room, and its receiver is here.
        let _ = to.send(Ok(BatchReply { step: Some(begun) })).await;
        if let Some(session) = session {
            tokio::spawn(hold(session, steps, to, self.0.clone()));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(from))))
    }
}

impl BatchService {
    fn asked(&self, begin: v1::BeginBatch) -> BeginBatch {
        let v1::BeginBatch { command, pid, author, message, labels, deadline_ms, dry_run } = begin;
        BeginBatch {
            owner: self.0.author_here(&author),
            command: shortened(&command),
            pid,
            message,
            labels: labels.into_iter().collect::<BTreeMap<_, _>>(),
            deadline: Duration::from_millis(deadline_ms),
            dry_run,
        }
    }
}

/// Waits for the result of the command. The end of this task without a result is the end of the batch without a result.
async fn hold(
    mut session: BatchSession,
    mut steps: Streaming<BatchRequest>,
    to: mpsc::Sender<Result<BatchReply, Status>>,
    agent: Arc<Agent>,
) {
    let mut stop = agent.stop.subscribe();
    let succeeded = tokio::select! {
        step = steps.message() => match step {
            Ok(Some(BatchRequest { step: Some(Step::End(v1::EndBatch { succeeded })) })) => succeeded,
            // The caller is gone, or sends what is no result.
            Ok(_) | Err(_) => return,
        },
        () = session.late() => {
            // Nobody waits any more if this fails.
            let _ = to.send(Ok(BatchReply { step: Some(Reply::Late(v1::BatchLate {})) })).await;
            return;
        }
        () = to.closed() => return,
        () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
    };
    let done = session.finish(succeeded).await.map(finished).map_err(refusal);
    let _ = to.send(done).await;
}

fn finished(finished: Finished) -> BatchReply {
    let step = match finished {
        Finished::Published(done) => Reply::Published(published(*done)),
        Finished::PutBack { dropped: Discarded { count, first, kept }, left } => {
            let (left, left_first) = listed(left);
            Reply::PutBack(v1::BatchPutBack { entries: count, first, kept, left, left_first })
        }
    };
    BatchReply { step: Some(step) }
}

/// A command line in one line, cut at its limit.
fn shortened(command: &str) -> String {
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The number of entries, and the first of them.
fn listed(mut entries: Vec<String>) -> (u64, Vec<String>) {
    let count = entries.len() as u64;
    entries.truncate(LISTED);
    (count, entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_one_short_line() {
        assert_eq!(shortened("sh -c set -e\n  make  all"), "sh -c set -e make all");
        let long = shortened(&"ä".repeat(1_000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (SHOWN + 1, true));
    }
}
