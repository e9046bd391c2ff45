//! The procedures' stateless access to the farm ([`Executor`]): the manager's handle, the balancers, and this server's
//! takeover.

use std::{collections::BTreeSet, sync::Arc};

use bellwether_group::{
    edits::RecordEdit,
    procedure::{ActError, Action, Insists, ObservedServer, Removed, Traffic, World},
    roles::Leave,
};
use bellwether_manager::{
    EditError, Manager,
    balancer::{Balancers, Patience, rules::Report},
    procedures::runner::{Executor, Whom},
};
use bellwether_proto::{
    error::chain,
    name::ServerName,
    record::{Record, Role, Server, SignedRecord},
    status::{Event, FarmStatus, Observation, ServerStatus, State},
};

use crate::{
    run::role::Standing,
    services::{
        Agent,
        promote::{TakeOver, take_over},
    },
};

/// The agent's implementation.
pub(crate) struct AgentExecutor {
    agent: Arc<Agent>,
}

impl AgentExecutor {
    /// For that agent.
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent }
    }

    fn manager(&self) -> Result<Manager, ActError> {
        match self.agent.standing() {
            Standing::Manager(manager) => Ok(manager),
            Standing::Member(_) | Standing::Changing => {
                Err(ActError::Failed("this server is taking up the manager's role".to_owned()))
            }
            Standing::Halted(why) => Err(ActError::Failed(why.to_string())),
        }
    }

    /// Procedures themselves check again whether a server has come up: nothing here waits for that.
    fn balancers(&self, record: &Record) -> Balancers {
        let patience = Patience { up: std::time::Duration::ZERO, ..Patience::default() };
        Balancers::patient(&record.policy.balancers, &self.agent.locals, patience)
    }
}

impl Executor for AgentExecutor {
    fn record(&self) -> Arc<SignedRecord> {
        self.agent.record.current()
    }

    async fn observe(&self, whom: &Whom) -> World {
        self.agent.folded().await;
        let signed = self.agent.record.current();
        let record = signed.record();
        let farm = self.agent.farm.borrow().clone();
        let manager = match self.agent.standing() {
            Standing::Manager(manager) => Some(manager),
            Standing::Member(_) | Standing::Changing | Standing::Halted(_) => None,
        };
        let informed = manager.as_ref().map(Manager::informed).unwrap_or_default();
        let gone: Vec<&Server> = record.removed.iter().filter(|gone| record.server(&gone.name).is_none()).collect();
        let named = |server: &Server| whom.servers.contains(&server.name);
        let there = record.servers.iter().filter(|server| whom.all || named(server));
        let asked: Vec<Server> = there.chain(gone.iter().copied().filter(|gone| named(gone))).cloned().collect();
        let traffic = traffic(&self.balancers(record), &asked).await;
        let routed = |server: &Server| {
            let place = asked.iter().position(|asked| asked.name == server.name);
            place.map_or(Traffic::Unknown, |place| traffic[place].clone())
        };
        let see = |server: &Server| {
            let mut seen = seen(server, &farm, routed(server), informed.contains(&server.name));
            // It matters only for the decision which servers to drain.
            seen.in_order = whom.all && !seen.current && in_order(manager.as_ref(), server, &farm);
            (server.name.clone(), seen)
        };
        let removed = |gone: &&Server| (gone.name.clone(), Removed { drained: gone.drained, traffic: routed(gone) });
        World {
            me: self.agent.name.clone(),
            manager: record.manager().name.clone(),
            servers: record.servers.iter().map(see).collect(),
            removed: gone.iter().map(removed).collect(),
            balancers: !record.policy.balancers.is_empty(),
            min_serving: record.policy.min_serving as usize,
            drain_timeout_ms: record.policy.drain_timeout_s.saturating_mul(1_000),
        }
    }

    async fn act(&self, action: &Action, by: &str) -> Result<Vec<String>, ActError> {
        let done = match action {
            Action::Drain(servers) => self.route(servers, true, by).await,
            Action::Undrain(servers) => self.route(servers, false, by).await,
            Action::HandOver { to, remove } => {
                let manager = self.manager()?;
                manager.hand_over(to, leave(*remove), by).await.map(drop).map_err(failed)
            }
            Action::Promote { remove, insists } => return self.promote(*remove, *insists, by).await,
            Action::Edit(edit) => edited(self.manager()?.edit_record(edit, by, false).await),
            Action::Sync(servers) => self.sync(servers, false).await,
            Action::Verify(servers) => self.sync(servers, true).await,
        };
        done.map(|()| Vec::new())
    }

    /// Handles each balancer by itself: one that does not answer does not delay the others.
    async fn remind(&self, drained: &BTreeSet<ServerName>) {
        match self.agent.standing() {
            Standing::Manager(_) | Standing::Member(_) => {}
            // This manager may have been set back, and not know what was undrained since.
            Standing::Changing | Standing::Halted(_) => return,
        }
        let record = self.agent.record.current();
        let known: Vec<Server> =
            drained.iter().filter_map(|name| record.record().server_or_removed(name)).cloned().collect();
        for balancer in &record.record().policy.balancers {
            let one = Balancers::patient(std::slice::from_ref(balancer), &self.agent.locals, Patience::default());
            // The probe reports a balancer that does not answer.
            let Ok(reports) = one.states(&known).await else { continue };
            let forgotten = known.iter().zip(reports).filter(|(_, report)| !report.is_absent() && !report.is_drained());
            for (server, found) in forgotten {
                tracing::warn!(balancer = %balancer.name, %found, "it was undrained there, and is drained again");
                match one.drain(server).await {
                    Ok(_) => {
                        let said = Observation::DrainedAgain(balancer.name.clone());
                        let _ = self.agent.events.send(Event::Server(server.name.clone(), said));
                    }
                    Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "it could not be drained"),
                }
            }
        }
    }
}

impl AgentExecutor {
    /// Changes the record first, since `/ready` follows it. A candidate before its takeover cannot change it.
    async fn route(&self, servers: &[ServerName], out: bool, by: &str) -> Result<(), ActError> {
        let record = self.agent.record.current();
        if record.record().manager().name == self.agent.name {
            let edit = RecordEdit::Drained(servers.to_vec(), out);
            self.manager()?.edit_record(&edit, by, false).await.map_err(failed)?;
        }
        let balancers = self.balancers(record.record());
        if balancers.is_empty() {
            return Ok(());
        }
        let known = servers.iter().filter_map(|name| record.record().server_or_removed(name));
        let mut why = Vec::new();
        for server in known {
            let done = if out { balancers.drain(server).await } else { balancers.ready(server).await };
            why.extend(done.err().map(|error| chain(&error)));
        }
        if why.is_empty() { Ok(()) } else { Err(ActError::Failed(why.join("; "))) }
    }

    /// Makes this server take over, under the rules of `promote --self`. Returns the revisions that are lost.
    async fn promote(&self, remove: bool, insists: Insists, by: &str) -> Result<Vec<String>, ActError> {
        let asked = TakeOver { author: by.to_owned(), dry_run: false, insists, leave: leave(remove) };
        let why = match take_over(&self.agent, asked).await {
            Ok(reply) if reply.leads => return Ok(reply.lost),
            Ok(reply) if !reply.instead.is_empty() => return Err(ActError::Failed(reply.instead)),
            Ok(_) => return Err(ActError::Failed("this server does not lead yet".to_owned())),
            Err(status) => status,
        };
        let text = why.message().to_owned();
        match why.code() {
            tonic::Code::FailedPrecondition => Err(ActError::Refused(text)),
            _ => Err(ActError::Failed(text)),
        }
    }

    async fn sync(&self, servers: &[ServerName], verify_only: bool) -> Result<(), ActError> {
        let asked = self.manager()?.sync(servers.to_vec(), verify_only, verify_only).await;
        asked.map(drop).map_err(|error| ActError::Failed(chain(&error)))
    }
}

fn leave(remove: bool) -> Leave {
    if remove { Leave::Removed } else { Leave::Disabled }
}

fn failed(error: impl std::error::Error + 'static) -> ActError {
    ActError::Failed(chain(&error))
}

/// Turns the refusal of a rule into a refusal here.
fn edited(record: Result<Arc<SignedRecord>, EditError>) -> Result<(), ActError> {
    match record {
        Ok(_) => Ok(()),
        Err(error @ EditError::Refused(_)) => Err(ActError::Refused(chain(&error))),
        Err(error) => Err(failed(error)),
    }
}

/// The state of each of `servers` as the balancers report it.
async fn traffic(balancers: &Balancers, servers: &[Server]) -> Vec<Traffic> {
    if balancers.is_empty() {
        return vec![Traffic::Unknown; servers.len()];
    }
    match balancers.states(servers).await {
        Ok(reports) => servers.iter().zip(&reports).map(|(server, report)| routed(server, report)).collect(),
        Err(error) => vec![Traffic::Silent(chain(&error)); servers.len()],
    }
}

fn routed(server: &Server, report: &Report) -> Traffic {
    if !report.is_absent() {
        let (out, sessions) = (report.is_drained(), report.sessions());
        return match report.is_drained_somewhere() && !out {
            true => Traffic::Partly { sessions },
            false => Traffic::Known { out, up: report.serves(), sessions },
        };
    }
    let has_none = match server.traffic() {
        Ok(bellwether_proto::balancer::Traffic::None) => return Traffic::Unknown,
        Ok(bellwether_proto::balancer::Traffic::At(_)) => {
            format!("no balancer has {} at {}, where the group record has it", server.name, server.backends.join(", "))
        }
        Ok(bellwether_proto::balancer::Traffic::ByName) | Err(_) => {
            format!("no balancer has a server named {}", server.name)
        }
    };
    Traffic::Absent(format!(
        "{has_none}; if it has another name there: bellwether server set {} --backend BACKEND/SERVER; if it takes no \
         traffic: --backend none",
        server.name
    ))
}

/// Whether a server gets its missing revisions as increments in order, and has no edits of its own.
fn in_order(manager: Option<&Manager>, server: &Server, farm: &FarmStatus) -> bool {
    let status = farm.servers.iter().find(|status| status.name == server.name && status.drift_entries == 0);
    let at = status.and_then(|status| status.revision);
    at.is_some_and(|at| manager.is_some_and(|manager| manager.is_in_order(at)))
}

fn seen(server: &Server, farm: &FarmStatus, traffic: Traffic, informed: bool) -> ObservedServer {
    let status = farm.servers.iter().find(|status| status.name == server.name);
    let current = |status: &ServerStatus| status.revision.is_some() && status.revision == farm.head;
    let equal = |status: &ServerStatus| {
        let verified = status.verified.as_ref().filter(|verified| verified.full && verified.equal);
        verified.map(|verified| verified.time_ms)
    };
    let state = match server.role {
        Role::Disabled => State::Disabled,
        Role::Manager | Role::Member => status.map_or(State::Unknown, |status| status.state),
    };
    ObservedServer {
        key: server.key,
        role: server.role,
        candidate: server.candidate,
        drained: server.drained,
        state,
        reason: status.and_then(|status| status.reason.clone()),
        current: status.is_some_and(current),
        in_order: false,
        kept: status.and_then(|status| Some((status.kept_ms?, status.kept.first()?.clone()))),
        equal_ms: status.and_then(equal),
        traffic,
        informed,
    }
}
