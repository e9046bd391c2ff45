//! Procedures, for the commands on this machine.

use std::sync::Arc;

use bellwether_group::procedure::{self, AskRefused, Id, Insists, Kind, Procedure, Request, Shown, Survey, Surveyed};
use bellwether_manager::procedures::{
    runner::{self, AskError},
    store::StoreError,
};
use bellwether_proto::{
    Malformed,
    advice::Advice,
    name::ServerName,
    record::{Role, Server},
    status::{Event, ProcedureState, ProcedureStatus},
    v1,
};
use tokio::sync::mpsc;
use tonic::{Code, Response, Status};

use super::{
    Agent,
    promote::gather,
    refusal::{Refusal, refusal, refused},
};
use crate::run::{executor::AgentExecutor, role::Standing};

type Answer<T> = Result<Response<T>, Status>;

/// The most characters of an attestation.
const SAID: usize = 1_000;

impl Refusal for AskError {
    fn code(&self) -> Code {
        match self {
            Self::Refused(AskRefused::Plan(_) | AskRefused::NeedsLevel { .. } | AskRefused::Elsewhere(_)) => {
                Code::FailedPrecondition
            }
            Self::Refused(AskRefused::Unknown(_)) => Code::NotFound,
            Self::Store(StoreError::Refused(_)) => Code::FailedPrecondition,
            Self::Store(StoreError::Document(_) | StoreError::Malformed(_) | StoreError::Save(_)) => Code::Internal,
        }
    }
}

/// Starts a procedure.
pub(super) async fn start(agent: &Arc<Agent>, request: v1::StartProcedureRequest) -> Answer<v1::ProcedureReply> {
    let v1::StartProcedureRequest { procedure, attest, author, dry_run } = request;
    able(agent)?;
    let executor = AgentExecutor::new(agent.clone());
    if matches!(procedure, Some(v1::start_procedure_request::Procedure::Manager(_))) {
        // A server that answers may know of another manager, so whether that one is lost is decided by that record.
        agent.peers.ask_everybody().await;
    }
    let kind = kind(agent, procedure)?;
    let survey = match &kind {
        Kind::MaintenanceStart { promote: Some(to), .. } => successor(agent, to).await,
        Kind::RecoverManager { new, lost, insists, .. } if new != lost => survey(agent, *insists).await?,
        // Refused as the calls of the same name are elsewhere.
        Kind::ServerAdd { .. } | Kind::ServerEnable { .. } | Kind::ServerReplace { .. } | Kind::Sync { .. } => {
            agent.manager().map(|_| Survey::default())?
        }
        Kind::RecoverManager { .. }
        | Kind::MaintenanceStart { .. }
        | Kind::MaintenanceFinish { .. }
        | Kind::RecoverMember { .. } => Survey::default(),
    };
    let request = Request { kind, survey, attest: said(attest)?, by: author, dry_run };
    reply(runner::begin(&agent.procedure_store, &executor, request).await)
}

/// Refuses a start at a manager that cannot lead: it could not do any step (W13, W14).
fn able(agent: &Agent) -> Result<(), Status> {
    match agent.standing() {
        Standing::Halted(why) => Err(super::halted(&why)),
        Standing::Manager(_) | Standing::Member(_) | Standing::Changing => Ok(()),
    }
}

/// Resumes a procedure.
pub(super) async fn resume(agent: &Arc<Agent>, request: v1::ResumeProcedureRequest) -> Answer<v1::ProcedureReply> {
    let v1::ResumeProcedureRequest { id, attest, author } = request;
    able(agent)?;
    let executor = AgentExecutor::new(agent.clone());
    let id = named(&id)?;
    let document = agent.procedure_store.document(agent.record.current().record().group);
    let kind = document.get(id).filter(|procedure| procedure.has_stopped()).map(|procedure| &procedure.kind);
    let survey = match kind {
        Some(Kind::MaintenanceStart { promote: Some(to), .. }) => successor(agent, to).await,
        _ => Survey::default(),
    };
    reply(runner::go_on(&agent.procedure_store, &executor, id, &survey, &said(attest)?, &author).await)
}

/// Stops a procedure for good.
pub(super) async fn abort(agent: &Arc<Agent>, request: v1::AbortProcedureRequest) -> Answer<v1::ProcedureReply> {
    let v1::AbortProcedureRequest { id, author } = request;
    let executor = AgentExecutor::new(agent.clone());
    reply(runner::give_up(&agent.procedure_store, &executor, named(&id)?, &author).await)
}

/// Sends all procedures: once, or at every change until the caller goes or the agent stops.
pub(super) async fn follow(agent: Arc<Agent>, follow: bool, to: mpsc::Sender<Result<v1::ProceduresReply, Status>>) {
    let (mut held, mut doing) = (agent.procedure_store.follow(), agent.procedure_store.follow_doing());
    let mut record = agent.record.follow();
    let mut stop = agent.stop.subscribe();
    loop {
        held.borrow_and_update();
        doing.borrow_and_update();
        record.borrow_and_update();
        if to.send(shown(&agent)).await.is_err() || !follow {
            return;
        }
        tokio::select! {
            _ = held.changed() => {}
            _ = doing.changed() => {}
            _ = record.changed() => {}
            () = to.closed() => return,
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Tells the monitor of the procedures that are not over, at every change, until the agent stops.
pub(crate) async fn watch(agent: Arc<Agent>) {
    let (mut held, mut doing) = (agent.procedure_store.follow(), agent.procedure_store.follow_doing());
    let mut record = agent.record.follow();
    let mut stop = agent.stop.subscribe();
    let mut told = Vec::new();
    loop {
        held.borrow_and_update();
        record.borrow_and_update();
        let doing_now = doing.borrow_and_update().clone();
        let record_now = agent.record.current();
        let manager = &record_now.record().manager().name;
        let document = agent.procedure_store.document(record_now.record().group);
        let unfinished = document.procedures.iter().filter(|procedure| !procedure.is_over());
        let now: Vec<_> =
            unfinished.map(|procedure| status(procedure, doing_now.get(&procedure.id), manager)).collect();
        if now != told {
            let _ = agent.events.send(Event::Procedures(now.clone()));
            told = now;
        }
        tokio::select! {
            _ = held.changed() => {}
            _ = doing.changed() => {}
            _ = record.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// A procedure's line of the status.
fn status(procedure: &Procedure, doing: Option<&(usize, String)>, manager: &ServerName) -> ProcedureStatus {
    let step = procedure.step().map(|step| step.task.about().what).unwrap_or_default();
    let doing = doing.filter(|(at, _)| *at == procedure.at).map(|(_, what)| what.clone());
    let (state, what) = match (&procedure.standing, procedure.asks()) {
        (procedure::Standing::Failed(failure), _) => (ProcedureState::Stopped, failure.reason.clone()),
        (procedure::Standing::Stopping(why), _) => (ProcedureState::Running, format!("stopping: {why}")),
        (_, Some(fact)) => (ProcedureState::Asks, fact.question().asks),
        (_, None) => match (doing, &procedure.trouble) {
            (_, Some(trouble)) => (ProcedureState::Blocked, trouble.clone()),
            (Some(doing), None) if doing != step => (ProcedureState::Waiting, doing),
            (Some(_) | None, None) => (ProcedureState::Running, step),
        },
    };
    let mut servers: Vec<ServerName> = procedure.has_to_do_with().cloned().collect();
    servers.sort();
    servers.dedup();
    ProcedureStatus {
        id: procedure.id.to_string(),
        command: procedure.kind.command(),
        driver: procedure.driver(manager).clone(),
        state,
        step: (procedure.at + 1).min(procedure.steps.len()),
        steps: procedure.steps.len(),
        what,
        servers,
    }
}

fn shown(agent: &Agent) -> Result<v1::ProceduresReply, Status> {
    let record = agent.record.current();
    let record = record.record();
    let manager = &record.manager().name;
    let told = |server: &Server| server.candidate || server.name == *manager;
    if !record.by_key(&agent.record.own_key()).is_none_or(told) {
        let advice = Advice::say(format!("run the command at the manager, {manager}"));
        let text = "this server is no candidate, so it is not told of procedures";
        return Err(refused(Code::FailedPrecondition, text, advice));
    }
    let doing = agent.procedure_store.follow_doing().borrow().clone();
    let show = |procedure: Procedure| {
        let driver = procedure.driver(manager).clone();
        let driven =
            doing.get(&procedure.id).filter(|(at, _)| *at == procedure.at && driver == *agent.procedure_store.name());
        let driven = driven.map(|(_, what)| what.clone());
        let doing = procedure.asks().map(|fact| fact.question().asks).or(driven);
        let until_ms = procedure.until_ms(record.policy.drain_timeout_s.saturating_mul(1_000));
        Shown { doing, until_ms, driver, procedure }
    };
    let all: Vec<Shown> = agent.procedure_store.document(record.group).procedures.into_iter().map(show).collect();
    let json = serde_json::to_vec(&all).map_err(|e| Status::internal(e.to_string()))?;
    Ok(v1::ProceduresReply { json: json.into() })
}

/// Asks whether the new manager answers: no server is drained for one that does not.
async fn successor(agent: &Agent, to: &ServerName) -> Survey {
    let mut survey = Survey::default();
    let known = agent.record.current().record().server(to).is_some_and(|server| server.role == Role::Member);
    if let Standing::Manager(manager) = agent.standing()
        && known
        && let Err(why) = manager.answers(to).await
    {
        survey.members.insert(to.clone(), Surveyed::Silent(why));
    }
    survey
}

/// Compares the members' state with this candidate's; refused if it may not take over.
async fn survey(agent: &Arc<Agent>, insists: Insists) -> Result<Survey, Status> {
    gather(agent).await?.judge(agent, insists, Survey::of)
}

fn reply(procedure: Result<Procedure, AskError>) -> Answer<v1::ProcedureReply> {
    let json = serde_json::to_vec(&procedure.map_err(refusal)?).map_err(|e| Status::internal(e.to_string()))?;
    Ok(Response::new(v1::ProcedureReply { json: json.into() }))
}

fn invalid(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn named(id: &str) -> Result<Id, Status> {
    id.parse().map_err(invalid)
}

fn said(attest: String) -> Result<String, Status> {
    if attest.chars().count() <= SAID && !attest.chars().any(char::is_control) {
        return Ok(attest);
    }
    let what = format!("an attestation is a line of at most {SAID} characters");
    Err(Status::invalid_argument(what))
}

fn kind(agent: &Agent, asked: Option<v1::start_procedure_request::Procedure>) -> Result<Kind, Status> {
    use v1::start_procedure_request::Procedure as Asked;
    let server = |name: &str| name.parse::<ServerName>().map_err(invalid);
    Ok(match asked.ok_or_else(|| Status::invalid_argument("no procedure was named"))? {
        Asked::Start(v1::StartMaintenance { server: name, promote, remove }) => {
            let promote = if promote.is_empty() { None } else { Some(server(&promote)?) };
            Kind::MaintenanceStart { server: server(&name)?, promote, remove }
        }
        Asked::Finish(name) => Kind::MaintenanceFinish { server: server(&name)? },
        Asked::Add(name) => Kind::ServerAdd { server: server(&name)? },
        Asked::Enable(name) => Kind::ServerEnable { server: server(&name)? },
        Asked::Replace(v1::ReplaceServer { server: name, ttl_s }) => {
            Kind::ServerReplace { server: server(&name)?, ttl_ms: ttl_s.saturating_mul(1_000) }
        }
        Asked::Sync(v1::SyncServers { servers }) => {
            let mut servers = servers.iter().map(|name| server(name)).collect::<Result<Vec<_>, _>>()?;
            servers.sort();
            servers.dedup();
            Kind::Sync { servers }
        }
        Asked::Member(v1::RecoverMember { server: name, remove }) => {
            Kind::RecoverMember { server: server(&name)?, remove }
        }
        Asked::Manager(v1::RecoverManager { remove, force, accept }) => {
            let record = agent.record.current();
            let lost = record.record().manager().name.clone();
            Kind::RecoverManager {
                lost,
                new: agent.procedure_store.name().clone(),
                remove,
                insists: Insists { force, accept },
            }
        }
    })
}
