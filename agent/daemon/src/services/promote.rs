//! `promote`: the role goes to another server by a handover at the manager (W18), or to this one by a takeover (W24).

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_group::{
    edits::By,
    lost,
    roles::{self, Leave},
    takeover::{Account, Answer as TheirAnswer, Findings, Insists, Silence, Survey, Turn},
};
use bellwether_member::Input;
use bellwether_proto::{
    advice::Advice,
    clock::now_ms,
    limits,
    name::ServerName,
    record::{Record, Role, SignedRecord},
    revision::{Epoch, SignedHeader},
    v1::{PromoteReply, PromoteRequest},
};
use bellwether_store::{failpoint, state::record::SaveError};
use tokio::{sync::oneshot, time::timeout};
use tonic::{Code, Status};

use super::{
    Agent,
    refusal::{refusal, refused},
};
use crate::run::role::Standing;

/// The time to wait for the new manager after the record is durable.
const TAKE_UP: Duration = Duration::from_secs(15);
/// The time to wait for another server that is about to make itself the manager, and the interval of questions to it.
const GIVE_WAY: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Answers the command.
///
/// # Errors
/// Refused, or failed; nothing is changed before the record is durable.
pub(super) async fn promote(agent: &Arc<Agent>, request: PromoteRequest) -> Result<PromoteReply, Status> {
    if !request.take_over {
        return hand_over(agent, request).await;
    }
    // `promote NAME --self`: the name confirms which server is meant.
    if !request.server.is_empty() && request.server != agent.name.as_str() {
        let text = format!("--self makes the server on which it is given the manager, and this one is {}", agent.name);
        let advice = Advice::run(&format!("on {}", request.server), "bellwether promote --self");
        return Err(refused(Code::FailedPrecondition, text, advice));
    }
    let PromoteRequest { author, dry_run, force, accept, leave, .. } = request;
    let leave = leave_as(&leave, Leave::Disabled)?;
    take_over(agent, TakeOver { author, dry_run, insists: Insists { force, accept }, leave }).await
}

/// A request to take over.
pub(crate) struct TakeOver {
    pub(crate) author: String,
    pub(crate) dry_run: bool,
    pub(crate) insists: Insists,
    /// The later role of the lost manager.
    pub(crate) leave: Leave,
}

async fn hand_over(agent: &Arc<Agent>, request: PromoteRequest) -> Result<PromoteReply, Status> {
    let PromoteRequest { server, author, dry_run, leave, .. } = request;
    let to: ServerName =
        server.parse().map_err(|e: bellwether_proto::Malformed| Status::invalid_argument(e.to_string()))?;
    let leave = leave_as(&leave, Leave::Member)?;
    let current = agent.record.current();
    if current.record().manager().name == to {
        return Ok(reply(agent, &current, false).await);
    }
    let manager = agent.manager()?;
    if dry_run {
        let by = By::new(&author, now_ms());
        roles::hand_over(&manager.record(), &to, leave, &by).map_err(refusal)?;
        let from = &current.record().manager().name;
        let next = vec![
            format!("take no more changes at {from}, and publish its edits"),
            format!("wait until {to} holds the head without edits of its own"),
            format!("make {to} the manager, and {from} {}, in one signed record", becomes(leave)),
            format!("tell {to} until it has the record; it begins its epoch with an empty revision"),
        ];
        let version = current.record().version.to_string();
        return Ok(PromoteReply { version, manager: to.to_string(), next, ..PromoteReply::default() });
    }
    let signed = manager.hand_over(&to, leave, &author).await.map_err(refusal)?;
    point("handover.done").await?;
    Ok(reply(agent, &signed, true).await)
}

/// Asks all servers, judges, and makes this server the manager. The record is durable here before it is sent.
pub(crate) async fn take_over(agent: &Arc<Agent>, asked: TakeOver) -> Result<PromoteReply, Status> {
    let TakeOver { author, dry_run, insists, leave } = asked;
    // Taken first, so that another server that promotes itself sees it when it asks.
    let promoting = if dry_run { None } else { Some(agent.peers.promote().ok_or_else(promoting_already)?) };
    // A server that answers may know of a takeover that this one has not heard of.
    agent.peers.ask_everybody().await;
    let held = agent.record.current();
    let lost = held.record().manager().name.clone();
    if agent.record.is_led_here() && !insists.force {
        return Ok(reply(agent, &held, false).await);
    }
    let found = gather(agent).await?.judge(agent, insists, |_, found| found)?;
    let by = By::new(&author, now_ms());
    let own = agent.record.own_key();
    let mut next = roles::take_over(&held, &own, leave, Epoch(found.epoch), &by).map_err(refusal)?;
    lost::enter(&mut next, &found.lost, &by);
    let mut answer = if dry_run {
        let next = steps(agent, &next, &lost, leave);
        PromoteReply { version: held.record().version.to_string(), next, ..PromoteReply::default() }
    } else {
        let signed = agent.peers.sign(next).map_err(|e| Status::internal(e.to_string()))?;
        point("takeover.judged").await?;
        look_again(agent, &held).await?;
        let (record, saved) = (agent.record.clone(), signed.clone());
        let save = move || {
            failpoint::hit("takeover.looked");
            record.save(&saved)?;
            failpoint::hit("takeover.saved");
            Ok::<_, SaveError>(())
        };
        let saved = tokio::task::spawn_blocking(save).await.map_err(|e| Status::internal(e.to_string()))?;
        saved.map_err(refusal)?;
        tracing::warn!(record = %signed.record().version, %lost, "this server takes over as the manager");
        let mut answer = reply(agent, &signed, true).await;
        drop(promoting);
        answer.next = afterwards(agent, &lost, leave);
        // Learns of changes at servers that could not be asked before.
        agent.peers.look(&lost).await;
        answer.instead = instead(agent, &signed).unwrap_or_default();
        answer.leads &= answer.instead.is_empty();
        answer
    };
    answer.manager = agent.record.current().record().manager().name.to_string();
    if dry_run {
        answer.manager = agent.name.to_string();
    }
    (answer.findings, answer.lost) = (found.servers, found.lost);
    Ok(answer)
}

fn promoting_already() -> Status {
    let what = "this server is being made the manager at this moment, by an earlier command";
    refused(Code::FailedPrecondition, what, Advice::run("see", "bellwether status"))
}

/// A named point at which a test holds or kills this program.
async fn point(name: &'static str) -> Result<(), Status> {
    tokio::task::spawn_blocking(move || failpoint::hit(name)).await.map_err(|e| Status::internal(e.to_string()))
}

/// Asks all others but the lost manager again, right before the promotion counts: if two candidates that reach each
/// other promote themselves at once, one gives way (W26).
///
/// # Errors
/// Another server leads by now, or is about to; nothing was changed.
async fn look_again(agent: &Arc<Agent>, held: &SignedRecord) -> Result<(), Status> {
    let deadline = Instant::now() + GIVE_WAY;
    loop {
        let answers = agent.peers.look(&held.record().manager().name).await;
        let current = agent.record.current();
        if *current != *held {
            let (version, manager) = (current.record().version, &current.record().manager().name);
            let what = format!(
                "group record {version} came while this server was about to take over: {manager} is the manager"
            );
            let again = format!("if {manager} is lost, too");
            let advice = Advice::run("see", "bellwether status").or(&Advice::run(&again, "bellwether promote --self"));
            return Err(refused(Code::FailedPrecondition, what, advice));
        }
        match Turn::of(&agent.name, &answers) {
            Turn::Mine => return Ok(()),
            Turn::GivesWay(other) => {
                let what = format!("{other} is made the manager at this moment, by a command there");
                let wait = format!("wait until {other} leads; see");
                let advice = Advice::run(&wait, "bellwether status")
                    .or(&Advice::run("if it does not", "bellwether promote --self"));
                return Err(refused(Code::FailedPrecondition, what, advice));
            }
            Turn::Waits(other) if Instant::now() > deadline => {
                let seconds = GIVE_WAY.as_secs();
                let what = format!("{other} has been about to make itself the manager for {seconds} s");
                let advice = Advice::run("check the command there, then run here again", "bellwether promote --self");
                return Err(refused(Code::Unavailable, what, advice));
            }
            Turn::Waits(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// The change of manager that is in force instead of `signed`; none if `signed` is.
fn instead(agent: &Agent, signed: &SignedRecord) -> Option<String> {
    let current = agent.record.current();
    let (now, meant) = (current.record(), signed.record());
    if now.manager().key != meant.manager().key {
        return Some(format!(
            "{} is the manager by now, by group record {}: {} was, by {}; see: bellwether status",
            now.manager().name,
            now.version,
            meant.manager().name,
            meant.version
        ));
    }
    let disputed = agent.record.disputes().borrow().clone();
    disputed.map(|why| format!("{why}\n{}", bellwether_store::state::record::decide().hint))
}

/// The state of this server and of all that answer.
pub(super) struct Gathered {
    pub(super) account: Account,
    pub(super) seen: Vec<SignedHeader>,
    pub(super) others: BTreeMap<ServerName, Result<TheirAnswer, Silence>>,
}

impl Gathered {
    /// Judges whether this server may take over; `with` makes the result of the request and the survey.
    pub(super) fn judge<T>(
        &self,
        agent: &Agent,
        insists: Insists,
        with: impl FnOnce(&Survey<'_>, Findings) -> T,
    ) -> Result<T, Status> {
        let held = agent.record.current();
        let Self { account, seen, others } = self;
        let led_by = |epoch| agent.record.manager_of(epoch);
        let survey = Survey { led_by: &led_by, record: held.record(), own: &agent.name, account, seen, others };
        let found = survey.judge(insists).map_err(refusal)?;
        Ok(with(&survey, found))
    }
}

/// Asks all servers.
///
/// # Errors
/// This server itself does not answer.
pub(super) async fn gather(agent: &Arc<Agent>) -> Result<Gathered, Status> {
    let (account, seen) = match agent.settled().await {
        Standing::Changing => return Err(super::changing()),
        Standing::Halted(why) => return Err(super::halted(&why)),
        Standing::Manager(manager) => {
            let account = Account { at: Some(manager.head()), ..Account::default() };
            (account, manager.newest(limits::SEEN))
        }
        Standing::Member(following) => {
            let (answer, answered) = oneshot::channel();
            let asked = async {
                following.inputs.send(Input::Account(answer)).await.ok()?;
                answered.await.ok()
            };
            let account = timeout(TAKE_UP, asked).await.ok().flatten();
            let busy = || refused(Code::Unavailable, "this server is busy with its sets", Advice::say("try again"));
            (account.ok_or_else(busy)?, agent.seen.newest())
        }
    };
    let others = agent.peers.survey_all().await;
    Ok(Gathered { account, seen, others })
}

fn steps(agent: &Agent, next: &Record, lost: &ServerName, leave: Leave) -> Vec<String> {
    let (own, epoch) = (&agent.name, next.version.epoch);
    let mut steps = vec![format!("make {own} the manager of epoch {epoch}, in one record that it signs itself")];
    if lost != own {
        steps.push(format!("make {lost}, the manager that is lost, {} in it", becomes(leave)));
    }
    steps.push(format!("begin epoch {epoch} with an empty revision; servers with equal content only take that"));
    steps
}

fn afterwards(agent: &Agent, lost: &ServerName, leave: Leave) -> Vec<String> {
    let mut next = vec!["the members are brought to this server's state: bellwether monitor".to_owned()];
    if *lost != agent.name {
        let back = if leave == Leave::Removed { "add" } else { "enable" };
        next.push(format!(
            "keep {lost} off the network and the load balancer until it is repaired; if it comes back \
             before that, it is refused and saves its changes as a kept copy"
        ));
        next.push(format!("when it is repaired, here: bellwether server {back} {lost}"));
    }
    next
}

/// The later role of the old manager.
fn leave_as(word: &str, default: Leave) -> Result<Leave, Status> {
    match word {
        "" => Ok(default),
        "member" => Ok(Leave::Member),
        "disabled" => Ok(Leave::Disabled),
        "removed" => Ok(Leave::Removed),
        other => {
            let what = format!("the old manager becomes member, disabled or removed, not '{}'", other.escape_debug());
            Err(Status::invalid_argument(what))
        }
    }
}

fn becomes(leave: Leave) -> &'static str {
    match leave {
        Leave::Member => "a member",
        Leave::Disabled => "disabled",
        Leave::Removed => "removed from the group",
    }
}

/// Names the manager of `signed`, and waits until it leads or the time is over.
async fn reply(agent: &Arc<Agent>, signed: &SignedRecord, changed: bool) -> PromoteReply {
    let manager = signed.record().manager().name.clone();
    let leads = !changed || leads(agent, signed).await;
    let mut next = Vec::new();
    if !leads {
        next.push(format!(
            "{manager} does not lead yet: it is told until it has the record; if it is lost now, at another candidate: \
             bellwether promote --self"
        ));
    }
    if changed {
        next.extend(after(signed.record(), agent));
    }
    let instead = if changed { instead(agent, signed).unwrap_or_default() } else { String::new() };
    let (version, leads) = (signed.record().version.to_string(), leads && instead.is_empty());
    PromoteReply { version, manager: manager.to_string(), leads, next, changed, instead, ..PromoteReply::default() }
}

/// The next steps at the new manager.
fn after(record: &Record, agent: &Agent) -> Option<String> {
    let (own, manager) = (&agent.name, &record.manager().name);
    match record.server(own).map(|server| server.role) {
        Some(Role::Disabled) => Some(format!("to bring {own} back, at {manager}: bellwether server enable {own}")),
        None => Some(format!("to bring {own} back, at {manager}: bellwether server add {own}")),
        Some(Role::Member | Role::Manager) => None,
    }
}

/// Whether the manager of `signed`, this server or one that it tells, leads by it in time.
async fn leads(agent: &Arc<Agent>, signed: &SignedRecord) -> bool {
    let version = signed.record().version;
    if signed.record().manager().key == agent.record.own_key() {
        return agent.leads(version.epoch).await;
    }
    let mut told = agent.peers.told();
    let told = timeout(TAKE_UP, told.wait_for(|told| told.is_some_and(|told| told.version >= version))).await;
    told.is_ok_and(|told| told.is_ok_and(|told| told.is_some_and(|told| told.leads)))
}
