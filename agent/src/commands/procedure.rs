//! `bellwether procedure list | show | resume | abort`: procedures that go on, wait for a person, or have ended.

use bellwether_group::procedure::{Id, Procedure, Shown, Standing};
use bellwether_proto::v1::{AbortProcedureRequest, ResumeProcedureRequest};
use clap::Subcommand;

use super::{
    following::{self, Wait},
    record,
};
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the current procedures and the last that ended
    List,
    /// Show one procedure with its steps
    Show {
        /// The name of the procedure, such as p7
        id: Id,
    },
    /// Continue a procedure after its cause was mended, or answer its question
    Resume {
        /// The name of the procedure, such as p7
        id: Id,
        /// Your answer; the text is recorded
        #[arg(long, value_name = "TEXT", default_value = "")]
        attest: String,
        /// The time at which the command ends
        #[arg(long, default_value = "done")]
        wait: Wait,
        /// Show the step at which the procedure would continue, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// End a procedure for good; its finished steps are not undone
    Abort {
        /// The name of the procedure, such as p7
        id: Id,
        /// Show the step at which the procedure would end, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// No such procedure; refused; or an error of the resumed procedure.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::List => list(common).await,
        Action::Show { id } => show(common, id).await,
        Action::Resume { id, dry_run: true, .. } => would(common, id, "let", "go on").await,
        Action::Abort { id, dry_run: true } => would(common, id, "have", "stop for good").await,
        Action::Resume { id, attest, wait, dry_run: false } => resume(common, id, attest, wait).await,
        Action::Abort { id, dry_run: false } => abort(common, id).await,
    }
}

async fn list(common: &Common) -> Result<(), CommandError> {
    let all = following::all(common).await?;
    output::show(common.json, &all, |all| {
        if all.is_empty() {
            return "there are no procedures".to_owned();
        }
        let mut rows = vec![["ID", "BEGUN", "PROCEDURE", "STEP", "STATE"].map(str::to_owned).to_vec()];
        rows.extend(all.iter().map(row));
        output::columns(&rows)
    });
    Ok(())
}

fn row(shown: &Shown) -> Vec<String> {
    let procedure = &shown.procedure;
    let begun = output::utc((procedure.started_ms / 1_000) as i64);
    // The current step, or the step of the stop.
    let count = procedure.steps.len();
    let step = format!("{}/{count}", (procedure.at + 1).min(count));
    vec![procedure.id.to_string(), begun, procedure.kind.command(), step, state(shown)]
}

/// The state of a procedure, in a few words.
fn state(shown: &Shown) -> String {
    match &shown.procedure.standing {
        Standing::Running => match (&shown.doing, shown.procedure.asks()) {
            (_, Some(fact)) => format!("asks: {}", fact.question().asks),
            (Some(doing), None) => doing.clone(),
            (None, None) => format!("goes on at {}", shown.driver),
        },
        Standing::Stopping(why) => format!("stopping: {why}"),
        Standing::Failed(failure) => format!("stopped: {}", failure.reason),
        Standing::Aborted { by, .. } => format!("aborted by {by}"),
        Standing::Done => "done".to_owned(),
    }
}

async fn show(common: &Common, id: Id) -> Result<(), CommandError> {
    output::show(common.json, &one(common, id).await?, described);
    Ok(())
}

async fn one(common: &Common, id: Id) -> Result<Shown, CommandError> {
    let all = following::all(common).await?;
    all.into_iter().find(|shown| shown.procedure.id == id).ok_or_else(|| unknown(id))
}

/// Prints the effect of `resume` or `abort`, and the current step.
async fn would(common: &Common, id: Id, word: &str, what: &str) -> Result<(), CommandError> {
    let shown = one(common, id).await?;
    let Some(step) = shown.procedure.step().filter(|_| !shown.procedure.is_over()) else {
        return Err(CommandError::new(Kind::Refused, format!("{id} is over"))
            .hint(format!("see: bellwether procedure show {id}")));
    };
    let plan = format!("{word} {id} {what} at step {}, {}", shown.procedure.at + 1, step.task.about().what);
    record::show_plan(common, &plan);
    Ok(())
}

fn unknown(id: Id) -> CommandError {
    CommandError::new(Kind::Refused, format!("there is no procedure {id}")).hint("see: bellwether procedure list")
}

fn described(shown: &Shown) -> String {
    let procedure = &shown.procedure;
    let at = |ms: u64| output::utc((ms / 1_000) as i64);
    let mut lines = vec![format!(
        "{}: {}, begun {} UTC by {}",
        procedure.id,
        procedure.kind.command(),
        at(procedure.started_ms),
        procedure.by
    )];
    lines.extend(procedure.findings.iter().map(|line| format!("found: {line}")));
    lines.extend(following::lost(procedure));
    lines.push(following::steps(procedure));
    for said in &procedure.attestations {
        lines.push(format!("attested by {} at {} UTC: {}: {}", said.by, at(said.time_ms), said.fact, said.text));
    }
    lines.push(match &procedure.standing {
        Standing::Failed(failure) => format!("stopped: {}\n{}\n{}", failure.reason, failure.left, failure.todo),
        Standing::Aborted { by, left } => format!("aborted by {by}; {left}"),
        Standing::Done => format!("done; {}", procedure.kind.afterwards()),
        Standing::Running | Standing::Stopping(_) => match following::deadline(shown) {
            Some(until) => format!("{}; {until}", state(shown)),
            None => state(shown),
        },
    });
    lines.join("\n")
}

async fn resume(common: &Common, id: Id, attest: String, wait: Wait) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = ResumeProcedureRequest { id: id.to_string(), attest, author: author() };
    let reply = common.in_time(client.resume_procedure(request)).await?.into_inner();
    let procedure: Procedure = serde_json::from_slice(&reply.json).map_err(|e| CommandError::failed(&e))?;
    following::stay(common, procedure, wait).await
}

async fn abort(common: &Common, id: Id) -> Result<(), CommandError> {
    if !common.yes {
        output::note(&described(&one(common, id).await?));
    }
    output::confirm(&format!("stop {id} for good? Its finished steps stay done."), common.yes)?;
    let mut client = common.connect().await?;
    let request = AbortProcedureRequest { id: id.to_string(), author: author() };
    let reply = common.in_time(client.abort_procedure(request)).await?.into_inner();
    let procedure: Procedure = serde_json::from_slice(&reply.json).map_err(|e| CommandError::failed(&e))?;
    output::show(common.json, &procedure, |procedure| match &procedure.standing {
        Standing::Aborted { left, .. } => format!("{id} is aborted; {left}\n{}", following::way_back(procedure)),
        Standing::Running | Standing::Stopping(_) | Standing::Failed(_) | Standing::Done => {
            format!("{id} is not aborted")
        }
    });
    Ok(())
}
