//! Begins a procedure and follows its steps, question and end. The agent goes on, whatever happens to the command.

use std::{
    error::Error,
    io::{self, IsTerminal},
    time::Duration,
};

use bellwether_daemon::config::duration;
use bellwether_group::procedure::{Fact, Id, Kind as What, Procedure, Shown, Standing};
use bellwether_proto::v1::{
    AbortProcedureRequest, ProceduresReply, ProceduresRequest, ResumeProcedureRequest, StartProcedureRequest,
    start_procedure_request,
};
use tonic::Streaming;

use super::farm;
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output::{self, utc},
    progress::Progress,
};

/// The options of a command that begins a procedure.
#[derive(Debug, clap::Args)]
pub(super) struct Begin {
    /// Print the steps (what, where, why) and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// The time at which the command ends
    #[arg(long, default_value = "done")]
    pub(super) wait: Wait,
}

/// The time for which the command follows its procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Wait {
    /// Until the procedure has begun.
    None,
    /// Until the procedure is done, or asks a question.
    Done,
}

/// Shows the steps, asks, begins the procedure and follows it.
///
/// # Errors
/// Refused before anything was done; failed or stopped; timed out.
pub(super) async fn begin(
    common: &Common,
    begin: &Begin,
    attest: &str,
    asked: start_procedure_request::Procedure,
) -> Result<(), CommandError> {
    let planned = ask(common, asked.clone(), attest, true).await?;
    if begin.dry_run {
        return show_plan(common, &planned).await;
    }
    confirm(common, &planned).await?;
    let begun = ask(common, asked, attest, false).await?;
    stay(common, begun, begin.wait).await
}

/// The procedure that would begin; none: no server has to be drained, so the command does its work by itself.
///
/// # Errors
/// Refused.
pub(super) async fn planned(
    common: &Common,
    asked: start_procedure_request::Procedure,
) -> Result<Option<Procedure>, CommandError> {
    let planned = ask(common, asked, "", true).await?;
    Ok(Some(planned).filter(|planned| !planned.steps.is_empty()))
}

/// Begins a procedure without a question.
///
/// # Errors
/// Refused.
pub(super) async fn start(
    common: &Common,
    asked: start_procedure_request::Procedure,
) -> Result<Procedure, CommandError> {
    ask(common, asked, "", false).await
}

/// Begins the planned procedure, unless it is a dry run, and follows it. A way back into service needs no question.
///
/// # Errors
/// Refused, failed or stopped; timed out.
pub(super) async fn way_back_into_service(
    common: &Common,
    begin: &Begin,
    planned: &Procedure,
    asked: start_procedure_request::Procedure,
) -> Result<(), CommandError> {
    if begin.dry_run {
        return show_plan(common, planned).await;
    }
    stay(common, start(common, asked).await?, begin.wait).await
}

/// Prints the planned steps, or the progress of a procedure that has begun already.
///
/// # Errors
/// The agent's error.
pub(super) async fn show_plan(common: &Common, planned: &Procedure) -> Result<(), CommandError> {
    let begun = is_begun(common, planned).await?;
    output::show(common.json, planned, |planned| {
        let (command, id) = (planned.kind.command(), planned.id);
        match (begun, &planned.standing) {
            (false, _) => format!("{command} would:\n{}\n(nothing was changed)", plan(planned)),
            (true, Standing::Failed(failure)) => format!(
                "{command} has stopped, as {id}, and would go on:\n{}\nstopped: {}\n(nothing was changed)",
                steps(planned),
                failure.reason
            ),
            (true, _) => format!("{command} is begun already, as {id}:\n{}\n(nothing was changed)", steps(planned)),
        }
    });
    Ok(())
}

/// Asks for consent to the steps, unless `--yes` was given or they have begun already.
///
/// # Errors
/// The answer was no.
pub(super) async fn confirm(common: &Common, planned: &Procedure) -> Result<(), CommandError> {
    if is_begun(common, planned).await? {
        return Ok(());
    }
    if common.yes {
        found(planned).iter().for_each(|line| output::note(line));
        return Ok(());
    }
    output::note(&format!("{}:\n{}", planned.kind.command(), plan(planned)));
    output::confirm("go on?", false)
}

/// Whether the planned procedure has begun before, by the same command.
pub(super) async fn is_begun(common: &Common, planned: &Procedure) -> Result<bool, CommandError> {
    Ok(all(common).await?.iter().any(|shown| shown.procedure.id == planned.id))
}

async fn ask(
    common: &Common,
    asked: start_procedure_request::Procedure,
    attest: &str,
    dry_run: bool,
) -> Result<Procedure, CommandError> {
    let mut client = common.connect().await?;
    let (procedure, attest) = (Some(asked), attest.to_owned());
    let request = StartProcedureRequest { procedure, attest, author: author(), dry_run };
    let reply = common.in_time(client.start_procedure(request)).await?.into_inner();
    serde_json::from_slice(&reply.json).map_err(|e| CommandError::failed(&e))
}

/// The task, the server and the reason of every step.
fn plan(procedure: &Procedure) -> String {
    let mut rows = vec![["", "WHAT", "WHERE", "WHY"].map(str::to_owned).to_vec()];
    rows.extend(
        procedure
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| (at, step.task.about(), step.why.clone()))
            .map(|(at, about, why)| vec![format!("{}", at + 1), about.what, about.place, why]),
    );
    let mut lines = found(procedure);
    lines.push(output::columns(&rows));
    lines.join("\n")
}

/// The findings before the procedure began, and its losses.
fn found(procedure: &Procedure) -> Vec<String> {
    [procedure.findings.clone(), lost(procedure)].concat()
}

/// The revisions that are lost.
pub(super) fn lost(procedure: &Procedure) -> Vec<String> {
    procedure.lost.iter().map(|revision| format!("lost, unless it is taken back: {revision}")).collect()
}

/// The steps, and which of them are done.
pub(super) fn steps(procedure: &Procedure) -> String {
    let rows = procedure.steps.iter().enumerate().map(|(at, step)| {
        let mark = match at.cmp(&procedure.at) {
            std::cmp::Ordering::Less => "done",
            std::cmp::Ordering::Equal if !procedure.is_over() => "now",
            std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => "",
        };
        let number = format!("{}/{}", at + 1, procedure.steps.len());
        vec![number, mark.to_owned(), step.task.about().what, step.noted.clone().unwrap_or_default()]
    });
    output::columns(&rows.collect::<Vec<_>>())
}

/// All procedures that this server knows of.
///
/// # Errors
/// The agent's error.
pub(super) async fn all(common: &Common) -> Result<Vec<Shown>, CommandError> {
    let mut client = common.connect().await?;
    let mut replies = common.read(client.procedures(ProceduresRequest { follow: false })).await?.into_inner();
    common.within(next(&mut replies)).await
}

async fn next(replies: &mut Streaming<ProceduresReply>) -> Result<Vec<Shown>, CommandError> {
    let gone = || {
        CommandError::new(Kind::Failed, "the agent on this machine has stopped").hint(
            "the procedure goes on when it runs again: bellwether procedure list; should this machine be lost and be the \
             manager, at a candidate: bellwether recover manager",
        )
    };
    let reply = match replies.message().await {
        // Only an error that was made on this side has a cause: the connection ended with the agent.
        Err(status) if status.source().is_some() => return Err(gone()),
        reply => reply?.ok_or_else(gone)?,
    };
    serde_json::from_slice(&reply.json).map_err(|e| CommandError::failed(&e))
}

/// Follows a procedure until it is done or asks a question that has no answer here.
///
/// # Errors
/// The procedure failed (1), was aborted (1), waits for a person (5), or the time is up (4) and it goes on.
pub(super) async fn stay(common: &Common, procedure: Procedure, wait: Wait) -> Result<(), CommandError> {
    let (id, end) = (procedure.id, procedure.steps.len());
    if wait == Wait::None {
        output::show(common.json, &procedure, |procedure| {
            format!("{id} has begun: {}; see: bellwether procedure show {id}", procedure.kind.command())
        });
        return Ok(());
    }
    let ended = watch(common, procedure, end, output::line).await?;
    let after = afterwards(common, &ended).await?;
    output::show(common.json, &ended, |_| format!("{id} is done; {after}"));
    Ok(())
}

/// The result and the next actions of a finished procedure; after a takeover with losses and the state of propagation.
async fn afterwards(common: &Common, ended: &Procedure) -> Result<String, CommandError> {
    let mut lines = vec![ended.kind.afterwards()];
    if let What::RecoverManager { .. } = ended.kind {
        lines.extend(lost(ended));
        if ended.lost.is_empty() {
            lines.push("nothing is known to be lost".to_owned());
        }
        let status = common.in_time(farm::status(&mut common.connect().await?)).await?;
        lines.push(match status.paused {
            true => {
                "propagation is paused: changes go to no member until, at the manager: bellwether resume".to_owned()
            }
            false => "changes go to the members (propagation is not paused)".to_owned(),
        });
    }
    Ok(lines.join("\n"))
}

/// Follows a procedure until `steps` of its steps are done; returns its state. Standard error gets the steps, because
/// standard output holds the command's result.
///
/// # Errors
/// As [`stay`].
pub(super) async fn until(common: &Common, procedure: Procedure, steps: usize) -> Result<Procedure, CommandError> {
    watch(common, procedure, steps, output::note).await
}

async fn watch(common: &Common, procedure: Procedure, steps: usize, say: fn(&str)) -> Result<Procedure, CommandError> {
    let id = procedure.id;
    let mut last = None;
    let following = follow(common, procedure, steps, say, &mut last);
    let (kind, text) = tokio::select! {
        ended = following => return ended,
        limit = over(common.timeout) => (Kind::TimedOut, format!("{id} is not done after {}", duration::format(limit))),
        // If signals cannot be received, Ctrl-C ends the command.
        Ok(()) = tokio::signal::ctrl_c() => (Kind::Partly, format!("{id} is not done; nobody watches it here any more")),
    };
    let on = last.as_ref().map_or_else(|| format!("see: bellwether procedure show {id}"), goes_on);
    let late = CommandError::new(kind, text).hint(&on);
    if kind == Kind::TimedOut && is_to_end(id, &late.message, &on)? {
        let request = AbortProcedureRequest { id: id.to_string(), author: author() };
        let reply = common.connect().await?.abort_procedure(request).await?.into_inner();
        let ended: Procedure = serde_json::from_slice(&reply.json).map_err(|e| CommandError::failed(&e))?;
        return Err(aborted(&ended));
    }
    Err(late)
}

/// The procedure that goes on unwatched, its deadline, and the command that stops it.
fn goes_on(shown: &Shown) -> String {
    let (procedure, id) = (&shown.procedure, shown.procedure.id);
    let step = procedure.step().map(|step| step.task.about().what).unwrap_or_default();
    let doing =
        shown.doing.clone().filter(|doing| *doing != step).map(|doing| format!(" ({doing})")).unwrap_or_default();
    let until = deadline(shown).map(|until| format!(", {until}")).unwrap_or_default();
    format!(
        "it goes on by itself at step {} of {}, {step}{doing}{until}\nhow far it is: bellwether procedure show {id}; to stop it: \
         bellwether procedure abort {id}",
        (procedure.at + 1).min(procedure.steps.len()),
        procedure.steps.len()
    )
}

/// The deadline of the step, and its consequence; none: the step waits for a person.
pub(super) fn deadline(shown: &Shown) -> Option<String> {
    let goes_on = shown.procedure.step().is_some_and(|step| step.task.about().lasts_as_sessions);
    let then = if goes_on { "goes on" } else { "stops" };
    let until = utc((shown.until_ms? / 1_000) as i64);
    Some(format!("until {until} UTC at the latest, then it {then}"))
}

/// Asks the person at the terminal whether to end the procedure; without a terminal it goes on.
fn is_to_end(id: Id, late: &str, on: &str) -> Result<bool, CommandError> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    output::note(&format!("{late}\n{on}"));
    let answer = output::ask(&format!("end {id} now? What it has done stays done [y/N] "))?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

/// Returns the limit when it is over; without a limit it never returns.
async fn over(limit: Option<Duration>) -> Duration {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
    limit.unwrap_or_default()
}

async fn follow(
    common: &Common,
    begun: Procedure,
    steps: usize,
    say: fn(&str),
    last: &mut Option<Shown>,
) -> Result<Procedure, CommandError> {
    let id = begun.id;
    let mut client = common.connect().await?;
    let mut replies = common.read(client.procedures(ProceduresRequest { follow: true })).await?.into_inner();
    let mut teller = Teller { json: common.json, told: begun.at, say, progress: None };
    loop {
        let all = next(&mut replies).await?;
        // After two recoveries at once, the other one's procedure may have this name now.
        let others = all.iter().find(|shown| shown.procedure.id == id).map(|shown| shown.driver.clone());
        let same = |shown: &Shown| shown.procedure.id == id && shown.procedure.kind == begun.kind;
        let Some(shown) = all.into_iter().find(same) else {
            let text = match others {
                Some(driver) => {
                    format!("{id} is over: {driver} runs a similar command now, under the same name")
                }
                None => format!("{id} is not known to this server any more"),
            };
            return Err(CommandError::new(Kind::Failed, text).hint("see, at the manager: bellwether procedure list"));
        };
        teller.tell(&shown);
        let procedure = shown.procedure.clone();
        *last = Some(shown);
        match &procedure.standing {
            Standing::Done => return Ok(procedure),
            Standing::Failed(failure) => {
                return Err(CommandError::new(Kind::Failed, format!("{id} stopped: {}", failure.reason))
                    .hint(format!("{}\n{}", failure.left, failure.todo)));
            }
            Standing::Aborted { .. } => return Err(aborted(&procedure)),
            Standing::Running if procedure.at >= steps => return Ok(procedure),
            Standing::Running | Standing::Stopping(_) => {}
        }
        if let Some(fact) = procedure.asks() {
            teller.progress = None;
            let attest = answer(id, fact)?;
            let request = ResumeProcedureRequest { id: id.to_string(), attest, author: author() };
            client.resume_procedure(request).await?;
        }
    }
}

/// The error for a procedure that was aborted, here or elsewhere.
fn aborted(procedure: &Procedure) -> CommandError {
    let (by, left) = match &procedure.standing {
        Standing::Aborted { by, left } => (by.as_str(), left.as_str()),
        Standing::Running | Standing::Stopping(_) | Standing::Failed(_) | Standing::Done => {
            ("nobody", "it is not over")
        }
    };
    CommandError::new(Kind::Failed, format!("{} was aborted by {by}", procedure.id))
        .hint(format!("{left}\n{}", way_back(procedure)))
}

/// The answer of the person at the terminal.
///
/// # Errors
/// Partly, with the command that goes on: there is no terminal, or the answer is empty.
fn answer(id: Id, fact: &Fact) -> Result<String, CommandError> {
    let question = fact.question();
    let asks = CommandError::new(Kind::Partly, format!("{id} asks: {}", question.asks))
        .hint(format!("{}\nthen: bellwether procedure resume {id} --attest TEXT", question.first));
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(asks);
    }
    output::note(&format!("{}\n  {}", question.asks, question.first));
    let answer = output::ask("your answer, which is recorded (empty: later): ")?;
    if answer.is_empty() { Err(asks) } else { Ok(answer) }
}

/// Prints the news: a line for each finished step, and the present action or wait.
struct Teller {
    json: bool,
    told: usize,
    say: fn(&str),
    progress: Option<Progress>,
}

impl Teller {
    fn tell(&mut self, shown: &Shown) {
        if self.json {
            return;
        }
        let procedure = &shown.procedure;
        if let Standing::Stopping(_) = procedure.standing {
            return;
        }
        let count = procedure.steps.len();
        if procedure.at > self.told {
            // Ends the progress line before our lines begin.
            self.progress = None;
        }
        for (at, step) in procedure.steps.iter().enumerate().take(procedure.at).skip(self.told) {
            let noted = step.noted.as_ref().map(|noted| format!(": {noted}")).unwrap_or_default();
            (self.say)(&format!("{} {}/{count} {}{noted}", procedure.id, at + 1, step.task.about().what));
        }
        self.told = self.told.max(procedure.at);
        if procedure.standing == Standing::Running
            && procedure.asks().is_none()
            && let Some(doing) = &shown.doing
        {
            let what = format!("{} {}/{count} {doing}", procedure.id, procedure.at + 1);
            match &self.progress {
                Some(progress) => progress.now(what),
                None => self.progress = Some(Progress::begin(&what)),
            }
        }
    }
}

/// The way to repair the state that an aborted procedure has left.
pub(super) fn way_back(procedure: &Procedure) -> String {
    match &procedure.kind {
        What::RecoverManager { .. } => {
            "into service again, of each that is drained, at the manager: bellwether maintenance finish NAME; who it is: \
             bellwether server list"
                .to_owned()
        }
        What::Sync { .. } => {
            "into service again, of each that is drained, at the manager: bellwether maintenance finish NAME".to_owned()
        }
        What::MaintenanceStart { server, .. }
        | What::MaintenanceFinish { server }
        | What::ServerAdd { server }
        | What::ServerEnable { server }
        | What::ServerReplace { server, .. }
        | What::RecoverMember { server, .. } => {
            format!("into service again, at the manager: bellwether maintenance finish {server}")
        }
    }
}
