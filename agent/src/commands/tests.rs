//! Commands against an agent that gives the answers of a test, over a real socket.

use std::{
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bellwether_daemon::net::socket;
use bellwether_group::procedure;
use bellwether_proto::{
    advice::{self, Advice, Outcome},
    hash::Hash,
    status::FarmStatus,
    v1::{
        self,
        admin_server::{Admin, AdminServer},
        edit_record_request::Edit,
    },
};
use bellwether_store::mutex::locked;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::*;
use crate::error::Kind;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An agent that notes the requests. `servers` are the servers of every status.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    servers: Vec<serde_json::Value>,
    /// The servers of the first status.
    before: Option<Vec<serde_json::Value>>,
}

impl Fake {
    fn note(&self, what: impl std::fmt::Debug) {
        locked(&self.asked).push(format!("{what:?}"));
    }

    fn asked(&self) -> String {
        locked(&self.asked).join("; ")
    }
}

fn farm(servers: &[serde_json::Value]) -> v1::StatusReply {
    let status = json!({
        "observer": "web1", "time_ms": 0, "record": "1.1", "manager": "web1", "head": "1.5", "head_message": "",
        "paused": false, "publish": "auto", "watching": "events", "unpublished": null, "sets": [], "servers": servers,
        "procedures": [], "warnings": [], "quarantined": [],
    });
    serde_json::from_value::<FarmStatus>(status.clone()).expect("a status");
    v1::StatusReply { json: status.to_string().into() }
}

fn member(name: &str, state: &str, revision: &str) -> serde_json::Value {
    json!({
        "name": name, "address": "a:1", "role": "member", "state": state, "revision": revision, "lag_revisions": 0,
        "lag_ms": 0, "reason": "the disk is full", "drift": [], "drift_entries": 0, "held": false, "progress": null, "seen_ms": null,
        "last_update_us": null, "version": null, "kept": [], "balancers": [], "drained": false,
        "verified": { "time_ms": 1, "full": true, "entries": 3, "micros": 900, "equal": true },
    })
}

fn no<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not asked here"))
}

/// Serves a fake through a shared reference.
struct Shared(Arc<Fake>);

#[tonic::async_trait]
impl Admin for Shared {
    type StatusStream = Replies<v1::StatusReply>;
    type TreeStream = Replies<v1::TreePart>;
    type ProceduresStream = Replies<v1::ProceduresReply>;

    async fn status(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let first = self.0.before.as_deref().unwrap_or(&self.0.servers);
        let replies = vec![Ok(farm(first)), Ok(farm(&self.0.servers))];
        if request.into_inner().follow {
            let all = tokio_stream::StreamExt::chain(tokio_stream::iter(replies), tokio_stream::pending());
            return Ok(Response::new(Box::pin(all)));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(replies.into_iter().take(1)))))
    }
    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishReply>, Status> {
        self.0.note(request.into_inner().message);
        Ok(Response::new(v1::PublishReply { revision: "1.5".into(), changed: 1, ..Default::default() }))
    }
    async fn sync(&self, request: Request<v1::SyncRequest>) -> Result<Response<v1::SyncReply>, Status> {
        let request = request.into_inner();
        self.0.note((&request.servers, request.full, request.verify_only));
        Ok(Response::new(v1::SyncReply { servers: request.servers, time_ms: 0 }))
    }
    async fn edit_record(&self, request: Request<v1::EditRecordRequest>) -> Result<Response<v1::RecordReply>, Status> {
        match request.into_inner().edit {
            Some(Edit::RemoveServer(name)) => {
                self.0.note(name);
                let advice = Advice::say("ask web9, the manager");
                Err(advice::status(Code::FailedPrecondition, Outcome::Refused, "web1 is a member", Some(&advice)))
            }
            Some(Edit::Paused(paused)) => {
                self.0.note(paused);
                Ok(Response::new(Default::default()))
            }
            Some(Edit::SetServer(set)) => {
                self.0.note((set.address, set.candidate, set.backends, set.replace_backends));
                Ok(Response::new(Default::default()))
            }
            _ => no(),
        }
    }
    async fn decide_rollout(
        &self,
        _: Request<v1::DecideRolloutRequest>,
    ) -> Result<Response<v1::DecideRolloutReply>, Status> {
        no()
    }
    async fn confirm(&self, _: Request<v1::ConfirmRequest>) -> Result<Response<v1::ConfirmReply>, Status> {
        no()
    }
    async fn acknowledge(
        &self,
        request: Request<v1::AcknowledgeRequest>,
    ) -> Result<Response<v1::AcknowledgeReply>, Status> {
        self.0.note(request.into_inner().servers);
        no()
    }
    async fn replace_server(
        &self,
        _: Request<v1::ReplaceServerRequest>,
    ) -> Result<Response<v1::CreateTokenReply>, Status> {
        no()
    }
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenReply>, Status> {
        let request = request.into_inner();
        self.0.note((request.uses, request.ttl_s, request.names));
        Ok(Response::new(Default::default()))
    }
    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensReply>, Status> {
        no()
    }
    async fn revoke_token(&self, _: Request<v1::RevokeTokenRequest>) -> Result<Response<v1::RevokeTokenReply>, Status> {
        no()
    }
    async fn change(&self, request: Request<v1::ChangeRequest>) -> Result<Response<v1::ChangeReply>, Status> {
        let request = request.into_inner();
        self.0.note((request.set, request.path, request.expected.map(|e| e.len()), request.change));
        Ok(Response::new(v1::ChangeReply { revision: "1.5".into(), ..Default::default() }))
    }
    async fn read(&self, _: Request<v1::ReadRequest>) -> Result<Response<v1::ReadReply>, Status> {
        let hash = Hash::of(b"old").into();
        Ok(Response::new(v1::ReadReply { data: "old".into(), hash, mode: 0o644, revision: "1.5".into() }))
    }
    async fn tree(&self, _: Request<v1::TreeRequest>) -> Result<Response<Self::TreeStream>, Status> {
        no()
    }
    async fn start_procedure(
        &self,
        request: Request<v1::StartProcedureRequest>,
    ) -> Result<Response<v1::ProcedureReply>, Status> {
        let request = request.into_inner();
        if let Some(v1::start_procedure_request::Procedure::Sync(_)) = request.procedure {
            // There is no balancer, so no server is drained.
            let kind = procedure::Kind::Sync { servers: Vec::new() };
            let empty = procedure::Procedure::new(procedure::Id(1), kind, Vec::new(), String::new(), 0);
            let json = serde_json::to_vec(&empty).expect("a procedure is JSON");
            return Ok(Response::new(v1::ProcedureReply { json: json.into() }));
        }
        self.0.note((request.procedure, request.attest, request.dry_run));
        Err(Status::failed_precondition("web1 is the manager\nname its successor"))
    }
    async fn procedures(&self, _: Request<v1::ProceduresRequest>) -> Result<Response<Self::ProceduresStream>, Status> {
        no()
    }
    async fn resume_procedure(
        &self,
        _: Request<v1::ResumeProcedureRequest>,
    ) -> Result<Response<v1::ProcedureReply>, Status> {
        no()
    }
    async fn abort_procedure(
        &self,
        _: Request<v1::AbortProcedureRequest>,
    ) -> Result<Response<v1::ProcedureReply>, Status> {
        no()
    }
    async fn rebuild(&self, _: Request<v1::RebuildRequest>) -> Result<Response<v1::RebuildReply>, Status> {
        no()
    }
    async fn leave(&self, _: Request<v1::LeaveRequest>) -> Result<Response<v1::LeaveReply>, Status> {
        no()
    }
    async fn dump(&self, _: Request<v1::DumpRequest>) -> Result<Response<v1::DumpReply>, Status> {
        Ok(Response::new(v1::DumpReply { json: "{}".into() }))
    }
    async fn promote(&self, _: Request<v1::PromoteRequest>) -> Result<Response<v1::PromoteReply>, Status> {
        no()
    }
}

struct Agent {
    directory: tempfile::TempDir,
    fake: Arc<Fake>,
    _socket: socket::AdminSocket,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    async fn start(fake: Fake) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let fake = Arc::new(fake);
        let (socket, connections) = socket::bind(&directory.path().join("s")).await.expect("offered");
        let service = AdminServer::with_interceptor(Shared(fake.clone()), socket::only_owner);
        let server = tonic::transport::Server::builder().add_service(service);
        let task = tokio::spawn(async move { server.serve_with_incoming(connections).await.expect("it serves") });
        Self { directory, fake, _socket: socket, task }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn run(&self, line: &str) -> Result<(), CommandError> {
        let socket = self.path().join("s");
        let state = self.path().join("state");
        let fixed = ["bellwether", "--admin-socket", socket.to_str().unwrap(), "--state-dir", state.to_str().unwrap()];
        let cli = Cli::try_parse_from(fixed.into_iter().chain(line.split_whitespace())).expect("clap takes it");
        super::run(cli.command, &cli.common).await
    }
}

#[test]
fn the_command_line_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[tokio::test]
async fn a_publish_that_waits_for_all_ends_when_all_are_there() {
    let fake = Fake {
        before: Some(vec![member("web2", "updating", "1.4")]),
        servers: vec![member("web2", "in_sync", "1.5")],
        ..Fake::default()
    };
    let agent = Agent::start(fake).await;
    agent.run("publish --message why --wait all").await.expect("it arrived");
    assert_eq!(agent.fake.asked(), "\"why\"");
}

#[tokio::test]
async fn one_server_in_error_makes_it_partly_done_and_names_it() {
    let servers = vec![member("web2", "in_sync", "1.5"), member("web3", "error", "1.4")];
    let agent = Agent::start(Fake { servers, ..Fake::default() }).await;
    let error = agent.run("publish --wait all").await.expect_err("web3 is in error");
    assert_eq!(error.kind, Kind::Partly);
    assert!(error.message.contains("web3: the disk is full") && !error.message.contains("web2"), "{error}");
    agent.run("publish").await.expect("the manager has it");
}

#[tokio::test]
async fn the_time_being_up_names_whom_was_waited_for() {
    let servers = vec![member("web2", "syncing", "1.4")];
    let agent = Agent::start(Fake { servers, ..Fake::default() }).await;
    let error = agent.run("sync web2 --timeout 300ms").await.expect_err("it never arrives");
    assert_eq!(error.kind, Kind::TimedOut);
    assert!(error.message.contains("not everywhere after 300ms: still waiting for 1.5"), "{error}");
}

#[tokio::test]
async fn sync_and_verify_ask_for_what_they_say() {
    let servers = vec![member("web2", "in_sync", "1.5")];
    let agent = Agent::start(Fake { servers, ..Fake::default() }).await;
    agent.run("sync web2 --full").await.expect("in sync");
    agent.run("verify web2").await.expect("asked");
    agent.run("sync --dry-run").await.expect("only said");
    assert_eq!(agent.fake.asked(), "([\"web2\"], true, false); ([\"web2\"], true, true)");
}

#[tokio::test]
async fn a_refusal_keeps_the_managers_hint() {
    let agent = Agent::start(Fake::default()).await;
    let error = agent.run("server remove web2 --yes").await.expect_err("a member refuses");
    assert_eq!((error.kind, error.hint.as_deref()), (Kind::Refused, Some("ask web9, the manager")));
    let error = agent.run("server remove web2").await.expect_err("nobody can be asked");
    assert_eq!(error.kind, Kind::Refused);
    assert_eq!(agent.fake.asked(), "\"web2\"", "the second was not asked of the agent");
}

#[tokio::test]
async fn a_put_carries_the_bytes_and_what_is_expected() {
    let agent = Agent::start(Fake::default()).await;
    let local = agent.path().join("new.conf");
    std::fs::write(&local, "new").expect("written");
    let line = format!("put nginx:a.conf {} --mode 0600 --expect", local.display());
    agent.run(&format!("{line} none")).await.expect("the fake takes all");
    let asked = agent.fake.asked();
    assert!(asked.contains("\"nginx\"") && asked.contains("b\"new\"") && asked.contains("Some(0)"), "{asked}");
    assert!(asked.contains("mode: Some(384)"), "{asked}");
    let error = agent.run(&format!("{line} none --dry-run")).await.expect_err("something is there");
    assert_eq!(error.kind, Kind::Refused);
    agent.run(&format!("{line} {} --dry-run", Hash::of(b"old"))).await.expect("it is what is there");
    assert_eq!(agent.fake.asked(), asked, "a dry run asks for no change");
}

#[tokio::test]
async fn tokens_and_pause_are_asked_for_as_said() {
    let agent = Agent::start(Fake::default()).await;
    agent.run("token create --uses 3 --ttl 90m --names web*").await.expect("made");
    agent.run("token create").await.expect("made");
    agent.run("pause").await.expect("held");
    agent.run("resume").await.expect("let go");
    agent.run("resume --dry-run").await.expect("only said");
    assert_eq!(agent.fake.asked(), "(3, 5400, \"web*\"); (1, 86400, \"*\"); true; false");
}

#[tokio::test]
async fn leaving_where_there_is_no_group_is_done_already() {
    let agent = Agent::start(Fake::default()).await;
    agent.run("leave --yes").await.expect("nothing to do");
}
