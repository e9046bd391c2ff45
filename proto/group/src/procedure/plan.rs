//! The steps of each procedure (W18–W27), as in an operator's handbook.

use bellwether_proto::{
    advice::{Advice, Advise},
    name::ServerName,
    record::Role,
    status::State,
};

use super::{
    Fact, Id, Insists, Kind, ObservedServer, Procedure, Step, Survey, Surveyed, Traffic, World,
    task::{
        Add, Attest, Complete, Disable, Drain, HandOver, Promote, Quiet, Remove, Replace, Sync, Task, Undrain, stays,
    },
};

/// The reason why a procedure does not begin. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    /// The server is unknown.
    #[error("there is no server {0} in this group")]
    Unknown(ServerName),
    /// The manager needs a successor.
    #[error("{server} is the manager: a member has to take its place")]
    Promote {
        /// The manager.
        server: ServerName,
        /// The possible successors.
        candidates: String,
    },
    /// The named successor cannot lead.
    #[error("{server} cannot become manager: {why}")]
    Successor {
        /// The named server.
        server: ServerName,
        /// The reason.
        why: String,
        /// The next action.
        first: Advice,
    },
    /// The server is not the manager, so the role stays.
    #[error("{0} is not the manager ({1} is), so no server can be promoted")]
    NotManager(ServerName, ServerName),
    /// The server is the manager.
    #[error("{0} is the manager")]
    Manager(ServerName, Advice),
    /// Another procedure works on the same server.
    #[error("{id} ({command}) works on {server} and is not over")]
    Busy {
        /// The other procedure.
        id: Id,
        /// The command that began it.
        command: String,
        /// The server of both.
        server: ServerName,
    },
    /// The other procedure has stopped, and was not ended.
    #[error("{id} ({command}) has stopped at {server} and is not over")]
    Stopped {
        /// The other procedure.
        id: Id,
        /// The command that began it.
        command: String,
        /// The server of both.
        server: ServerName,
    },
    /// The server is disabled.
    #[error("{0} is disabled, so it is sent nothing")]
    Disabled(ServerName),
    /// The server serves, and cannot be drained.
    #[error("{0} serves another state than the manager's, and cannot be drained before it is synced: {1}")]
    Undrainable(ServerName, String),
    /// The command was given at the wrong server.
    #[error("recover manager runs at the candidate that takes over, and {0} is {1}")]
    NotCandidate(ServerName, &'static str),
}

impl Advise for PlanRefused {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::Unknown(_) => Advice::run("see", "bellwether server list"),
            Self::Promote { server, candidates } => Advice::run(
                &format!("name its successor, one of {candidates}"),
                format!("bellwether maintenance start {server} --promote NAME"),
            ),
            Self::Successor { first, .. } | Self::Manager(_, first) => first.clone(),
            Self::NotManager(server, _) => {
                Advice::run("omit --promote", format!("bellwether maintenance start {server}"))
            }
            Self::Busy { id, .. } => Advice::run("wait for its end", format!("bellwether procedure show {id}"))
                .or(&Advice::run("or stop it", format!("bellwether procedure abort {id}"))),
            Self::Stopped { id, .. } => Advice::run("end it first", format!("bellwether procedure abort {id}")),
            Self::Disabled(server) => Advice::run("first", format!("bellwether server enable {server}")),
            Self::Undrainable(..) => Advice::run("repair it; see the cause", "bellwether doctor").or(&Advice::run(
                "or, to sync it in service, take the balancer out of the record",
                "bellwether group set --no-balancer NAME",
            )),
            Self::NotCandidate(..) => {
                Advice::run("run it at a member whose CANDIDATE is yes", "bellwether server list")
            }
        })
    }
}

/// The steps of `kind` in `world`; `survey` matters if a manager is recovered. No steps for a `server add`, `enable`,
/// `replace` or `sync` that drains no server: the command does all by itself.
///
/// # Errors
/// The reason why the procedure does not begin.
pub fn plan(kind: &Kind, world: &World, survey: &Survey) -> Result<Vec<Step>, PlanRefused> {
    match kind {
        Kind::MaintenanceStart { server, promote, remove } => {
            may_hand_over(kind, survey)?;
            start(server, promote.as_ref(), *remove, world)
        }
        Kind::MaintenanceFinish { server } => bring_back(server, true, world),
        Kind::ServerAdd { server } | Kind::ServerEnable { server } => bring_back(server, false, world),
        Kind::ServerReplace { server, ttl_ms } => replace(server, *ttl_ms, world),
        Kind::Sync { servers } => sync(servers, world),
        Kind::RecoverMember { server, remove } => recover_member(server, *remove, world),
        Kind::RecoverManager { lost, new, remove, insists } => {
            recover_manager(lost, new, *remove, *insists, world, survey)
        }
    }
}

/// Refuses to drain a manager for a successor that does not answer.
///
/// # Errors
/// The reason why it does not answer.
pub fn may_hand_over(kind: &Kind, survey: &Survey) -> Result<(), PlanRefused> {
    let Kind::MaintenanceStart { promote: Some(to), .. } = kind else { return Ok(()) };
    match survey.members.get(to) {
        Some(Surveyed::Silent(why)) => Err(PlanRefused::Successor {
            server: to.clone(),
            why: format!("it does not answer: {why}"),
            first: Advice::run("mend that, or name another server", "bellwether server list"),
        }),
        Some(Surveyed::Equal | Surveyed::Behind | Surveyed::Differs(_)) | None => Ok(()),
    }
}

/// Refuses steps on a server that another procedure works on.
///
/// # Errors
/// The other procedure.
pub(super) fn free(steps: &[Step], others: &[Procedure]) -> Result<(), PlanRefused> {
    let touched: Vec<&ServerName> = steps.iter().flat_map(|step| step.task.about().servers).collect();
    for other in others.iter().filter(|other| !other.is_over()) {
        let Some(server) = other.has_to_do_with().find(|server| touched.contains(server)).cloned() else { continue };
        let (id, command) = (other.id, other.kind.command());
        return Err(match other.has_stopped() {
            true => PlanRefused::Stopped { id, command, server },
            false => PlanRefused::Busy { id, command, server },
        });
    }
    Ok(())
}

fn one(server: &ServerName) -> Vec<ServerName> {
    vec![server.clone()]
}

fn start(
    server: &ServerName,
    promote: Option<&ServerName>,
    remove: bool,
    world: &World,
) -> Result<Vec<Step>, PlanRefused> {
    let role = world.server(server).map(|seen| seen.role);
    let mut steps = vec![
        Step::new(Drain(one(server)), "no new request meets a server that is worked on"),
        Step::new(Quiet(one(server)), "open requests are answered"),
    ];
    match (role, promote) {
        (None, _) if world.removed.contains_key(server) => {}
        (None, _) => return Err(PlanRefused::Unknown(server.clone())),
        (Some(Role::Manager), None) => {
            let candidates = candidates(world);
            return Err(PlanRefused::Promote { server: server.clone(), candidates });
        }
        // The command is repeated: the role has moved already.
        (Some(Role::Member | Role::Disabled), Some(to)) if *to != world.manager => {
            return Err(PlanRefused::NotManager(server.clone(), world.manager.clone()));
        }
        (Some(_), Some(to)) => {
            if *to != world.manager || role == Some(Role::Manager) {
                successor(to, world)?;
            }
            let task = HandOver { from: server.clone(), to: to.clone(), remove };
            steps.push(Step::new(task, "one record, so there is never none and never two; the others go on serving"));
            return Ok(steps);
        }
        (Some(Role::Member | Role::Disabled), None) => {}
    }
    steps.push(put_away(server, remove, "it is sent nothing while it is worked on; the others go on serving"));
    Ok(steps)
}

fn candidates(world: &World) -> String {
    let able = world.servers.iter().filter(|(_, seen)| seen.role == Role::Member && seen.candidate);
    let names: Vec<_> = able.map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "none (bellwether server set NAME --candidate yes)".to_owned() } else { names.join(", ") }
}

fn successor(to: &ServerName, world: &World) -> Result<(), PlanRefused> {
    let refused = |why: &str, first| Err(PlanRefused::Successor { server: to.clone(), why: why.to_owned(), first });
    match world.server(to) {
        None => Err(PlanRefused::Unknown(to.clone())),
        Some(seen) => match seen.role {
            Role::Manager => refused("it is the manager", Advice::run("name another server", "bellwether server list")),
            Role::Disabled => refused("it is disabled", Advice::run("first", format!("bellwether server enable {to}"))),
            Role::Member if !seen.candidate => {
                let command = format!("bellwether server set {to} --candidate yes");
                refused("it is not a candidate", Advice::run("first", command))
            }
            Role::Member => able(to, seen),
        },
    }
}

/// Checks that the successor can take the role, before any server is drained.
fn able(to: &ServerName, seen: &ObservedServer) -> Result<(), PlanRefused> {
    if !stays(seen.state) && seen.state != State::Unreachable {
        return Ok(());
    }
    let reason = seen.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let why = format!("it is {}{reason}", seen.state.word());
    let first = Advice::run("mend that, or name another server", "bellwether server list");
    Err(PlanRefused::Successor { server: to.clone(), why, first })
}

fn put_away(server: &ServerName, remove: bool, why: &str) -> Step {
    let server = server.clone();
    let task: Task = if remove { Remove(server).into() } else { Disable(server).into() };
    Step::new(task, why)
}

/// The steps from any state to complete and in service.
fn back(servers: &[ServerName]) -> Vec<Step> {
    let [has, complete, serves] = match servers.len() {
        1 => [
            "it gets the manager's state",
            "it returns only when every byte on its disk is the manager's",
            "it serves again",
        ],
        _ => ["they get the manager's state", "they return only when every byte is the manager's", "they serve again"],
    };
    let servers = || servers.to_vec();
    vec![
        Step::new(Sync(servers()), has),
        Step::new(Complete(servers()), complete),
        Step::new(Undrain(servers()), serves),
    ]
}

/// The way back into service, whichever command begins it (W19, W21, W25): drain, make a member again, sync, verify,
/// undrain. `server add` and `server enable` need no steps if the change of the record is enough. `maintenance finish`
/// brings back a server in the group, too; it waits for no sessions, because the maintenance did.
///
/// The server's files were not hashed since it was disabled or removed, so no hashes are equal before it is a member.
fn bring_back(server: &ServerName, finishes: bool, world: &World) -> Result<Vec<Step>, PlanRefused> {
    let drained = world.is_drained(server);
    match role(server, world)? {
        Some(Role::Manager | Role::Member) if !finishes => return Ok(Vec::new()),
        // The server was drained, but the procedure ended before it was disabled.
        Some(Role::Manager) => return Ok(vec![Step::new(Undrain(one(server)), "it serves again")]),
        None | Some(Role::Disabled) if !finishes && !world.balancers && !drained => return Ok(Vec::new()),
        None | Some(Role::Member | Role::Disabled) => {}
    }
    if world.server(server).is_some_and(|seen| is_back(seen, world)) {
        let sync = Step::new(Sync(one(server)), "it gets the manager's state");
        return Ok(vec![sync, Step::new(Undrain(one(server)), "it serves")]);
    }
    let mut steps = again(server);
    if !finishes && !drained {
        steps.insert(1, Step::new(Quiet(one(server)), "open requests are answered"));
    }
    steps.extend(back(&one(server)));
    Ok(steps)
}

/// Whether a member is complete and in service, so that it is not disturbed.
fn is_back(seen: &ObservedServer, world: &World) -> bool {
    let member = match seen.role {
        Role::Member => true,
        Role::Manager | Role::Disabled => false,
    };
    let out = seen.drained || matches!(seen.traffic, Traffic::Known { out: true, .. });
    member && !out && seen.current && world.serves(seen)
}

/// The role of a server of the group; none: the server was removed.
fn role(server: &ServerName, world: &World) -> Result<Option<Role>, PlanRefused> {
    match world.server(server) {
        None if !world.removed.contains_key(server) => Err(PlanRefused::Unknown(server.clone())),
        found => Ok(found.map(|seen| seen.role)),
    }
}

/// Makes a server a member again, out of service until it is complete: it is drained before it is added.
fn again(server: &ServerName) -> Vec<Step> {
    vec![
        Step::new(Drain(one(server)), "a server in a sync is out of service"),
        Step::new(Add(server.clone()), "the manager brings it to its state by itself"),
    ]
}

/// `server replace`: the present owner of the name is drained; the name is out of service until the hardware is
/// complete.
fn replace(server: &ServerName, ttl_ms: u64, world: &World) -> Result<Vec<Step>, PlanRefused> {
    let seen = world.server(server).ok_or_else(|| PlanRefused::Unknown(server.clone()))?;
    match seen.role {
        Role::Manager => {
            let first = Advice::run("give the role to another server first", "bellwether promote NAME");
            return Err(PlanRefused::Manager(server.clone(), first));
        }
        Role::Member | Role::Disabled if !world.balancers && !seen.drained => return Ok(Vec::new()),
        Role::Member | Role::Disabled => {}
    }
    let mut steps = vec![Step::new(Drain(one(server)), "new hardware has no configuration yet")];
    if !seen.drained {
        steps.push(Step::new(Quiet(one(server)), "open requests are answered"));
    }
    let joins = Replace { server: server.clone(), old: seen.key, ttl_ms };
    steps.push(Step::new(joins, "with the token; the key that has the name now is refused from then on"));
    steps.extend(back(&one(server)));
    Ok(steps)
}

/// `sync` of serving servers with another state: a few at a time. Servers with equal hashes, servers that lack only
/// increments in order, and servers out of service need no steps.
fn sync(servers: &[ServerName], world: &World) -> Result<Vec<Step>, PlanRefused> {
    if let Some(unknown) = servers.iter().find(|name| world.server(name).is_none()) {
        return Err(PlanRefused::Unknown(unknown.clone()));
    }
    let disabled = |name: &&ServerName| world.server(name).is_some_and(|seen| seen.role == Role::Disabled);
    if let Some(disabled) = servers.iter().find(disabled) {
        return Err(PlanRefused::Disabled(disabled.clone()));
    }
    let meant = |name: &ServerName| servers.is_empty() || servers.contains(name);
    let stale: Vec<ServerName> = world
        .servers
        .iter()
        .filter(|(name, seen)| meant(name) && seen.role == Role::Member && is_stale_in_service(seen))
        .map(|(name, _)| name.clone())
        .collect();
    for name in &stale {
        match world.traffic(name) {
            Some(Traffic::Silent(why) | Traffic::Absent(why)) => {
                return Err(PlanRefused::Undrainable(name.clone(), why.clone()));
            }
            Some(Traffic::Known { .. } | Traffic::Partly { .. } | Traffic::Unknown) | None => {}
        }
    }
    let batches = stale.chunks(spare(world.serving().len(), world));
    Ok(batches.flat_map(|few| [out(few, "a server in a sync is out of service"), back(few)]).flatten().collect())
}

/// Whether a sync of it would change its responses now.
fn is_stale_in_service(seen: &ObservedServer) -> bool {
    let takes_requests = match seen.traffic {
        Traffic::Known { out, .. } => !out,
        Traffic::Partly { .. } | Traffic::Absent(_) | Traffic::Silent(_) => true,
        Traffic::Unknown => false,
    };
    let stale = match seen.state {
        State::InSync | State::GroupChange => !seen.current && !seen.in_order,
        // Increments in order are updates, each switched at once.
        State::AwaitingSync | State::Syncing | State::Waiting => !seen.in_order,
        State::Refused | State::Drifted | State::Error => true,
        // An update needs no sync; a server out of reach catches up when it is back.
        State::Updating
        | State::Disabled
        | State::Left
        | State::Unreachable
        | State::Superseded
        | State::Conflict
        | State::Unknown => false,
    };
    takes_requests && stale && !seen.drained
}

/// The number of serving servers that may be drained at a time; at least one, whose drain waits for others.
fn spare(serving: usize, world: &World) -> usize {
    serving.saturating_sub(world.min_serving).max(1)
}

fn recover_member(server: &ServerName, remove: bool, world: &World) -> Result<Vec<Step>, PlanRefused> {
    match role(server, world)? {
        Some(Role::Manager) => {
            let todo = Advice::run("at the candidate that takes over", "bellwether recover manager");
            return Err(PlanRefused::Manager(server.clone(), todo));
        }
        None | Some(Role::Member | Role::Disabled) => {}
    }
    let mut steps = vec![
        Step::new(Drain(one(server)), "no request waits for a server that is lost"),
        Step::new(Attest(Fact::Isolated(server.clone())), "half a server is worse than none"),
        put_away(server, remove, "it is refused and sent nothing; the others serve"),
        Step::new(Attest(Fact::Repaired(server.clone())), "only the person who repairs it knows"),
    ];
    steps.extend(again(server));
    steps.extend(back(&one(server)));
    Ok(steps)
}

fn recover_manager(
    lost: &ServerName,
    new: &ServerName,
    remove: bool,
    insists: Insists,
    world: &World,
    survey: &Survey,
) -> Result<Vec<Step>, PlanRefused> {
    match world.server(new) {
        _ if world.manager == *new => {
            return Err(PlanRefused::Manager(
                new.clone(),
                Advice::run("there is nothing to recover here; see", "bellwether status"),
            ));
        }
        None => return Err(PlanRefused::Unknown(new.clone())),
        Some(seen) => match seen.role {
            Role::Member if seen.candidate => {}
            Role::Member => return Err(PlanRefused::NotCandidate(new.clone(), "not one")),
            Role::Disabled => return Err(PlanRefused::NotCandidate(new.clone(), "disabled")),
            Role::Manager => return Err(PlanRefused::NotCandidate(new.clone(), "the manager")),
        },
    }
    let mut steps = vec![
        Step::new(Attest(Fact::Isolated(lost.clone())), "two managers would be worse than none"),
        Step::new(Drain(one(lost)), "no request waits for a server that is lost"),
    ];
    let batches = batches(lost, world, survey);
    let mut batches = batches.iter();
    let first = batches.next();
    if let Some(servers) = first {
        steps.extend(out(servers, "before the group changes: they hold what the new manager does not have"));
    }
    let promote = Promote { lost: lost.clone(), new: new.clone(), remove, insists };
    steps.push(Step::new(promote, "from there, for the manager cannot be asked; it goes on serving"));
    steps.push(Step::new(Drain(one(lost)), "in the record, too, until it is brought back"));
    if let Some(servers) = first {
        let why = "in the record, too: /ready answers 503";
        steps.push(Step::new(Drain(servers.clone()), why));
        steps.extend(back(servers));
    }
    for servers in batches {
        steps.extend(out(servers, "the next few: never fewer serving than the group wants"));
        steps.extend(back(servers));
    }
    let equal = |found: &Surveyed| matches!(found, Surveyed::Equal | Surveyed::Behind);
    let rest = found(world, survey, equal);
    if !rest.is_empty() {
        steps.push(Step::new(Sync(rest.clone()), "by an update, which takes nobody out of service"));
    }
    Ok(steps)
}

fn out(servers: &[ServerName], why: &str) -> Vec<Step> {
    vec![Step::new(Drain(servers.to_vec()), why), Step::new(Quiet(servers.to_vec()), "open requests are answered")]
}

/// The members whose finding satisfies `is`; disabled servers are left out.
fn found(world: &World, survey: &Survey, is: impl Fn(&Surveyed) -> bool) -> Vec<ServerName> {
    let member = |name: &ServerName| world.server(name).is_some_and(|seen| seen.role == Role::Member);
    survey.members.iter().filter(|(name, what)| member(name) && is(what)).map(|(name, _)| name.clone()).collect()
}

/// The members to sync, in batches that the others can do without.
fn batches(lost: &ServerName, world: &World, survey: &Survey) -> Vec<Vec<ServerName>> {
    let differs = |found: &Surveyed| match found {
        Surveyed::Differs(_) => true,
        Surveyed::Equal | Surveyed::Behind | Surveyed::Silent(_) => false,
    };
    let stale = found(world, survey, differs);
    let serving = world.serving().into_iter().filter(|name| *name != lost).count();
    stale.chunks(spare(serving, world)).map(<[ServerName]>::to_vec).collect()
}

#[cfg(test)]
mod tests;
