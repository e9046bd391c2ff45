//! `bellwether batch -- COMMAND`: runs a command while publishing is held, and publishes its edits once if it succeeds. If it
//! fails, its edits are put back. The stream to the agent lives as long as this process: its end without a result leaves the
//! edits unpublished.

mod child;

use std::{
    ffi::OsString,
    process::{self, ExitStatus},
    time::Duration,
};

use bellwether_daemon::config::duration;
use bellwether_proto::{
    advice::Advice,
    limits,
    v1::{
        BatchBegun, BatchPutBack, BatchReply, BatchRequest, BeginBatch, EndBatch, PublishReply,
        batch_reply::Step as Reply, batch_request::Step, batches_client::BatchesClient,
    },
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use self::child::Signals;
use super::{
    drift::listed,
    farm::Wait,
    publish::{self, label},
};
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The longest time for the command; after it, the edits are not published until a person decides
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration::parse)]
    pub deadline: Duration,
    /// The reason for the change
    #[arg(long, short, default_value = "")]
    pub message: String,
    /// A label that is signed with the revision, such as ticket=OPS-12; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Check that a batch can begin, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The progress to wait for before the command ends
    #[arg(long, default_value = "manager")]
    pub wait: Wait,
    /// The command and its arguments, such as ansible-playbook web.yml
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// The stream to the agent.
struct Line {
    steps: mpsc::Sender<BatchRequest>,
    answers: Streaming<BatchReply>,
}

/// What the agent said while the command ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Nothing: it holds publishing.
    Holds,
    /// The deadline has passed.
    Late,
    /// The agent has ended.
    Lost,
}

/// The end of the command.
enum End {
    /// It ran to this end.
    Ended(ExitStatus),
    /// It ran to this end, after a signal to the batch.
    Interrupted(ExitStatus),
    /// It did not run.
    NotStarted(String),
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, there is a batch already, or the edits are refused. Failed: the command failed.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let signals = Signals::take()?;
    let (mut line, begun) = begin(&args, common).await?;
    if args.dry_run {
        let plan = format!("would hold publishing and run: {} (nothing was changed)", shown(&args.command));
        output::show(common.json, &json!({ "command": shown(&args.command), "dry_run": true }), |_| plan);
        return Ok(());
    }
    if begun.unpublished > 0 {
        let before =
            "edits from before the batch that are not published; if the command succeeds, they are published, too:";
        output::note(&listed(before, &begun.first, begun.unpublished));
    }
    let (end, held) = run_command(&args, &mut line, signals).await;
    match held {
        Held::Holds => {}
        Held::Late => return Err(late(&args, &end)),
        Held::Lost => return Err(lost(&end)),
    }
    let succeeded = end.succeeded();
    let answer = async {
        let step = Some(Step::End(EndBatch { succeeded }));
        // Without an agent, there is no answer.
        let _ = line.steps.send(BatchRequest { step }).await;
        line.answers.message().await
    };
    let answer = common.in_time(answer).await.map_err(|error| match error.kind {
        Kind::Refused => CommandError { kind: Kind::NotPublished, ..error },
        _ => error,
    })?;
    match answer.and_then(|answer| answer.step) {
        Some(Reply::Published(reply)) => published(&args, common, &reply).await,
        Some(Reply::PutBack(reply)) => Err(put_back(common, &end, &reply)),
        Some(Reply::Late(_)) => Err(late(&args, &end)),
        Some(Reply::Begun(_)) | None => Err(lost(&end)),
    }
}

async fn begin(args: &Args, common: &Common) -> Result<(Line, BatchBegun), CommandError> {
    let (steps, sent) = mpsc::channel(2);
    let begin = BeginBatch {
        command: shown(&args.command),
        pid: process::id(),
        author: author(),
        message: args.message.clone(),
        labels: args.labels.iter().cloned().collect(),
        deadline_ms: args.deadline.as_millis().try_into().unwrap_or(u64::MAX),
        dry_run: args.dry_run,
    };
    // The channel has room, and its receiver is here.
    let _ = steps.send(BatchRequest { step: Some(Step::Begin(begin)) }).await;
    let mut client = BatchesClient::new(common.channel().await?).max_decoding_message_size(limits::MESSAGE);
    let answers = async {
        let mut answers = client.run(ReceiverStream::new(sent)).await?.into_inner();
        let begun = answers.message().await?;
        Ok::<_, CommandError>((answers, begun))
    };
    match common.in_time(answers).await? {
        (answers, Some(BatchReply { step: Some(Reply::Begun(begun)) })) => Ok((Line { steps, answers }, begun)),
        _ => Err(CommandError::new(Kind::Failed, "the agent on this machine did not begin the batch; nothing was run")),
    }
}

/// Runs the command to its end, whatever happens to the agent and to the batch.
async fn run_command(args: &Args, line: &mut Line, mut signals: Signals) -> (End, Held) {
    let mut child = match child::start(&args.command) {
        Ok(child) => child,
        Err(error) => return (End::NotStarted(error.to_string()), Held::Holds),
    };
    let (mut held, mut interrupted) = (Held::Holds, false);
    loop {
        tokio::select! {
            ended = child.wait() => {
                let end = match ended {
                    Ok(status) if interrupted => End::Interrupted(status),
                    Ok(status) => End::Ended(status),
                    Err(error) => End::NotStarted(error.to_string()),
                };
                return (end, held);
            }
            signal = signals.next() => {
                interrupted = true;
                child::pass_on(&child, signal);
            }
            said = line.answers.message(), if held == Held::Holds => {
                let late = matches!(said, Ok(Some(BatchReply { step: Some(Reply::Late(_)) })));
                held = if late { Held::Late } else { Held::Lost };
                let what = if late { "the deadline of the batch has passed" } else { "the agent on this machine has ended" };
                output::note(&format!("bellwether: {what}: the edits of the command will not be published; it goes on"));
            }
        }
    }
}

impl End {
    fn succeeded(&self) -> bool {
        matches!(self, Self::Ended(status) if status.success())
    }

    /// In one clause.
    fn told(&self) -> String {
        match self {
            Self::Ended(status) => format!("the command ended with {status}"),
            Self::Interrupted(status) => format!("the command was interrupted (it ended with {status})"),
            Self::NotStarted(why) => format!("the command could not be run ({why})"),
        }
    }
}

async fn published(args: &Args, common: &Common, reply: &PublishReply) -> Result<(), CommandError> {
    publish::until(common, args.wait, reply).await?;
    output::show(common.json, &publish::document(reply, false), |_| publish::text(reply, false, args.wait));
    Ok(())
}

/// The failure of the command, with what was put back.
fn put_back(common: &Common, end: &End, reply: &BatchPutBack) -> CommandError {
    if common.json {
        output::document(&json!({
            "error": end.told(),
            "exit": Kind::Failed.exit_code(),
            "put_back": reply.entries,
            "first": reply.first,
            "kept_copies": reply.kept,
            "left": reply.left,
            "left_first": reply.left_first,
        }));
        return CommandError::told(Kind::Failed);
    }
    CommandError::new(Kind::Failed, put_back_text(end, reply))
}

fn put_back_text(end: &End, BatchPutBack { entries, first, kept, left, left_first }: &BatchPutBack) -> String {
    let done = if *entries == 0 { "it changed nothing" } else { "its edits were put back" };
    let mut lines = vec![format!("{}; nothing was published, and {done}", end.told())];
    if *entries > 0 {
        lines.push(listed("as in the head revision again:", first, *entries));
    }
    lines.extend(kept.iter().map(|path| format!("the dropped content is kept in {path}")));
    if *left > 0 {
        lines.push(listed("edits from before the batch, which stay as they are:", left_first, *left));
    }
    lines.join("\n")
}

fn late(args: &Args, end: &End) -> CommandError {
    let text = format!(
        "{}, after the deadline of the batch ({}); its edits are not published, and not put back",
        end.told(),
        duration::format(args.deadline)
    );
    CommandError::new(Kind::TimedOut, text).advice(Some(decide()))
}

fn lost(end: &End) -> CommandError {
    let text = format!(
        "{}, and the agent on this machine has ended meanwhile; the edits are not published, and not put back",
        end.told()
    );
    CommandError::new(Kind::Failed, text).advice(Some(decide()))
}

/// The advice for a batch without a result.
fn decide() -> Advice {
    Advice::run("to publish the edits that are there", "bellwether publish")
        .or(&Advice::run("or, to drop them", "bellwether discard"))
}

/// The command line, for people.
fn shown(command: &[OsString]) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_failure_says_the_status_and_what_was_put_back() {
        let end = End::Ended(ExitStatus::from_raw(2 << 8));
        let nothing = put_back_text(&end, &BatchPutBack::default());
        assert_eq!(nothing, "the command ended with exit status: 2; nothing was published, and it changed nothing");
        let reply = BatchPutBack {
            entries: 1,
            first: vec!["~ web:a".into()],
            kept: vec!["/var/x".into()],
            left: 2,
            left_first: vec!["web:b".into()],
        };
        assert_eq!(
            put_back_text(&end, &reply),
            "the command ended with exit status: 2; nothing was published, and its edits were put back\n\
             as in the head revision again:\n  ~ web:a\nthe dropped content is kept in /var/x\n\
             edits from before the batch, which stay as they are:\n  web:b\n  and 1 more"
        );
    }

    #[test]
    fn an_interrupted_command_has_failed_whatever_its_status() {
        let zero = ExitStatus::from_raw(0);
        assert!(End::Ended(zero).succeeded());
        assert!(!End::Interrupted(zero).succeeded());
        assert!(!End::NotStarted("no such file".into()).succeeded());
    }
}
