//! The thin shell: observes, asks [`next`], saves, acts. It keeps no state: after a crash it observes again.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_group::procedure::{
    ActError, Action, AskRefused, Document, Id, Next, NotChanged, Procedure, Request, Step, Survey, World, abort,
    acted, again, begun, held, may_hand_over, next, propose, resume, settle, takes_the_place,
};
use bellwether_proto::{
    advice::{Advice, Advise},
    clock::now_ms,
    name::ServerName,
    record::SignedRecord,
};
use tokio::sync::watch;
use tracing::Instrument;

use super::store::{ProcedureStore, StoreError};
use crate::{failpoints::hit, tasks::stopped};

/// The interval of observations while something is under way.
const POLL: Duration = Duration::from_millis(250);
/// The interval of checks whether this server has something to drive.
const IDLE: Duration = Duration::from_secs(1);
/// The interval of checks whether the balancers still have the drained servers drained.
const REMINDED: Duration = Duration::from_secs(5);

/// Nothing is begun, resumed or aborted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A rule refuses.
    #[error(transparent)]
    Refused(#[from] AskRefused),
    /// The change is refused, or not saved.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Advise for AskError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Refused(refused) => refused.advice(),
            Self::Store(StoreError::Refused(refused)) => refused.advice(),
            Self::Store(StoreError::Document(_) | StoreError::Malformed(_) | StoreError::Save(_)) => None,
        }
    }
}

/// Observes and acts: the agent.
pub trait Executor: Send + Sync + 'static {
    /// The group record in force here.
    fn record(&self) -> Arc<SignedRecord>;

    /// The farm at this moment, as this server sees it; balancers are asked for the servers of `whom`.
    fn observe(&self, whom: &Whom) -> impl Future<Output = World> + Send;

    /// Executes an action. Returns when it is done or was refused; both are observed again. If it made this server the
    /// manager, returns the revisions that are lost.
    ///
    /// # Errors
    /// The action failed.
    fn act(&self, action: &Action, by: &str) -> impl Future<Output = Result<Vec<String>, ActError>> + Send;

    /// Drains those again that a balancer no longer has drained, and reports it. A failure is observed again.
    fn remind(&self, drained: &BTreeSet<ServerName>) -> impl Future<Output = ()> + Send;
}

/// The servers whose traffic matters.
#[derive(Debug, Clone, Default)]
pub struct Whom {
    /// These servers, even if they were removed.
    pub servers: Vec<ServerName>,
    /// Also all of the record: some must go on serving.
    pub all: bool,
}

/// Drives this server's procedures until `shutdown`. A started action is finished first.
pub async fn run<E: Executor>(
    procedure_store: Arc<ProcedureStore>,
    executor: Arc<E>,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut changes = procedure_store.follow();
    let mut reminded: Option<Instant> = None;
    loop {
        changes.borrow_and_update();
        let pause = if round(&procedure_store, &*executor).await { POLL } else { IDLE };
        if reminded.is_none_or(|when| when.elapsed() >= REMINDED) {
            // Between two rounds, so that an undrain by a step never looks like a loss.
            remind(&procedure_store, &*executor).await;
            reminded = Some(Instant::now());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Never an error: the store of procedures outlives this task.
            _ = changes.changed() => {}
            () = stopped(&mut shutdown) => return,
        }
    }
}

/// One round over all procedures that this server drives and that can go on; returns whether there are any.
async fn round<E: Executor>(procedure_store: &ProcedureStore, executor: &E) -> bool {
    let record = executor.record();
    let document = procedure_store.document(record.record().group);
    let manager = &record.record().manager().name;
    let mine = |procedure: &&Procedure| {
        procedure.goes_on(record.record()) && procedure.driver(manager) == procedure_store.name()
    };
    let leads = manager == procedure_store.name() && !document.procedures.is_empty();
    if leads && document.version.0 != record.record().version.epoch {
        // Signed by this server from now on, so that the candidates take it.
        if let Err(error) = procedure_store.change(record.record(), |_| Ok(())) {
            tracing::error!(error = &error as &dyn std::error::Error, "the procedures are not taken over");
        }
        hit("procedure.taken");
    }
    let mine: Vec<Id> = document.procedures.iter().filter(mine).map(|procedure| procedure.id).collect();
    for id in &mine {
        let span = tracing::error_span!("procedure", procedure = %id);
        async {
            if let Err(error) = drive(procedure_store, executor, &record, *id).await {
                tracing::error!(error = &error as &dyn std::error::Error, "not driven");
            }
        }
        .instrument(span)
        .await;
    }
    !mine.is_empty()
}

/// Reminds balancers: one that was restarted has lost its run-time settings.
async fn remind<E: Executor>(procedure_store: &ProcedureStore, executor: &E) {
    let record = executor.record();
    let record = record.record();
    let drained = held(record, &procedure_store.document(record.group), procedure_store.name());
    if !drained.is_empty() && !record.policy.balancers.is_empty() {
        executor.remind(&drained).await;
    }
}

async fn drive<E: Executor>(
    procedure_store: &ProcedureStore,
    executor: &E,
    record: &SignedRecord,
    id: Id,
) -> Result<(), StoreError> {
    let record = record.record();
    let Some(before) = procedure_store.document(record.group).get(id).cloned() else { return Ok(()) };
    let world = executor.observe(&whom(&before)).await;
    let mut procedure = before.clone();
    if settle(&mut procedure, &world, now_ms()) {
        tracing::info!(at = procedure.at, standing = ?procedure.standing, "a step further");
        if !replace(procedure_store, record, &before, procedure.clone())? {
            return Ok(());
        }
        hit("procedure.passed");
    }
    let (action, doing) = match next(&procedure, &world, now_ms()) {
        // The last failure is shown during the retry.
        Next::Do(action) => {
            let what = || procedure.step().map(|step| step.task.about().what).unwrap_or_default();
            (Some(action), procedure.trouble.clone().unwrap_or_else(what))
        }
        Next::Wait(what, _) => (None, what),
        Next::Ask(question) => (None, question.asks),
        Next::Failed(_) | Next::Done => (None, String::new()),
    };
    procedure_store.doing(id, procedure.at, doing);
    let Some(action) = action else { return Ok(()) };
    let before = procedure.clone();
    procedure.trying(&world, now_ms());
    if !replace(procedure_store, record, &before, procedure.clone())? {
        return Ok(());
    }
    hit("procedure.trying");
    tracing::info!(?action, "acting");
    // The agent's end does not cancel it: `run` checks `shutdown` only between two rounds.
    let done = executor.act(&action, &format!("{} ({id})", procedure.by)).await;
    hit("procedure.acted");
    let before = procedure.clone();
    let world = executor.observe(&whom(&before)).await;
    let done = done.map(|lost| {
        let new: Vec<String> = lost.into_iter().filter(|line| !procedure.lost.contains(line)).collect();
        procedure.lost.extend(new);
    });
    // Under the old epoch if the action gave the role away: the new manager's document is newer.
    acted(&mut procedure, done, &world, now_ms());
    if procedure != before {
        replace(procedure_store, record, &before, procedure)?;
        hit("procedure.noted");
    }
    Ok(())
}

/// The servers whose balancers matter for its step: all if some must go on serving.
fn whom(procedure: &Procedure) -> Whom {
    let Some(Step { task, .. }) = procedure.step() else { return Whom::default() };
    let about = task.about();
    Whom { servers: about.servers.into_iter().cloned().collect(), all: !about.drains.is_empty() }
}

/// Saves `now` in the place of `before`; false if it was changed meanwhile, and must be observed again.
fn replace(
    procedure_store: &ProcedureStore,
    record: &bellwether_proto::record::Record,
    before: &Procedure,
    now: Procedure,
) -> Result<bool, StoreError> {
    if procedure_store.document(record.group).get(before.id) != Some(before) {
        return Ok(false);
    }
    let put = |document: &mut Document| {
        let same = document.get(before.id) == Some(before);
        if same {
            document.put(now);
        }
        Ok(same)
    };
    procedure_store.change(record, put)
}

/// Begins a procedure that has steps, or resumes the same unfinished one; answers its first question if that is given.
///
/// # Errors
/// It was refused or not saved.
pub async fn begin<E: Executor>(
    procedure_store: &ProcedureStore,
    executor: &E,
    request: Request,
) -> Result<Procedure, AskError> {
    let record = executor.record();
    let record = record.record();
    let document = procedure_store.document(record.group);
    if let Some(begun) = begun(&document, record, &request.kind) {
        return if request.dry_run {
            Ok(begun.clone())
        } else {
            stay_with(procedure_store, executor, begun, &request).await
        };
    }
    let world = executor.observe(&Whom { servers: Vec::new(), all: true }).await;
    let dry_run = request.dry_run;
    let mut procedure = propose((&document, record.level), &world, request, now_ms())?;
    if dry_run || procedure.steps.is_empty() {
        return Ok(procedure);
    }
    let put = |document: &mut Document| {
        procedure.id = document.next_id();
        takes_the_place(document, procedure.id, &procedure.kind, &procedure.by);
        document.put(procedure.clone());
        Ok(procedure)
    };
    let begun = procedure_store.change(record, put)?;
    hit("procedure.begun");
    Ok(begun)
}

/// Resumes a stopped procedure whose command was given again, with the answer to its first question if that is given.
async fn stay_with<E: Executor>(
    procedure_store: &ProcedureStore,
    executor: &E,
    begun: &Procedure,
    request: &Request,
) -> Result<Procedure, AskError> {
    let now = now_ms();
    let mut looked = begun.clone();
    again(&mut looked, request, now).map_err(AskRefused::from)?;
    let asks = looked.asks().is_some() && looked.asks() == looked.first_question();
    let answer = if asks { request.attest.as_str() } else { "" };
    if looked == *begun && answer.is_empty() {
        return Ok(looked);
    }
    change(procedure_store, executor, begun.id, |procedure, _| {
        again(procedure, request, now)?;
        if answer.is_empty() { Ok(()) } else { resume(procedure, answer, &request.by, now) }
    })
    .await
}

/// Resumes a procedure, with the answer to its question.
///
/// # Errors
/// It was refused or not saved.
pub async fn go_on<E: Executor>(
    procedure_store: &ProcedureStore,
    executor: &E,
    id: Id,
    survey: &Survey,
    attest: &str,
    by: &str,
) -> Result<Procedure, AskError> {
    change(procedure_store, executor, id, |procedure, _| {
        may_hand_over(&procedure.kind, survey)?;
        resume(procedure, attest, by, now_ms())
    })
    .await
}

/// Stops a procedure for good.
///
/// # Errors
/// It was refused or not saved.
pub async fn give_up<E: Executor>(
    procedure_store: &ProcedureStore,
    executor: &E,
    id: Id,
    by: &str,
) -> Result<Procedure, AskError> {
    change(procedure_store, executor, id, |procedure, world| abort(procedure, world, by)).await
}

async fn change<E: Executor>(
    procedure_store: &ProcedureStore,
    executor: &E,
    id: Id,
    change: impl FnOnce(&mut Procedure, &World) -> Result<(), NotChanged>,
) -> Result<Procedure, AskError> {
    let record = executor.record();
    let record = record.record();
    let Some(found) = procedure_store.document(record.group).get(id).cloned() else {
        return Err(AskRefused::Unknown(id).into());
    };
    let driver = found.driver(&record.manager().name);
    if driver != procedure_store.name() {
        return Err(AskRefused::Elsewhere(driver.clone()).into());
    }
    let whom = Whom { servers: found.servers().cloned().collect(), all: false };
    let world = executor.observe(&whom).await;
    let changed = procedure_store.change(record, |document| {
        let mut procedure = document.get(id).cloned().unwrap_or(found);
        change(&mut procedure, &world)?;
        document.put(procedure.clone());
        Ok(procedure)
    })?;
    Ok(changed)
}
