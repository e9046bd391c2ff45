//! The stop of a procedure: the state that it leaves, the servers that it brings back, its continuation by the same
//! command, and its end. A stopped procedure does nothing by itself.

use bellwether_proto::{
    advice::{Advice, Advise},
    name::ServerName,
    record::Role,
    status::State,
};
use serde::{Deserialize, Serialize};

use super::{
    Attestation, Fact, Id, Kind, ObservedServer, PlanRefused, Procedure, Standing, Step, Task, Traffic, World,
    engine::barred,
};

/// The reason why a procedure stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The event.
    pub reason: String,
    /// The state that is left.
    pub left: String,
    /// The next action.
    pub todo: String,
}

pub(super) fn failure(procedure: &Procedure, world: &World, reason: String) -> Failure {
    let (id, command) = (procedure.id, procedure.kind.command());
    let todo = match procedure.leads_nowhere(world) {
        true => format!("it cannot continue; end it: bellwether procedure abort {id}"),
        false => format!(
            "repair the cause, then run the command again: bellwether {command} (the same as bellwether procedure resume {id}); \
             or end it: bellwether procedure abort {id}"
        ),
    };
    Failure { reason, left: left(procedure, world), todo }
}

/// The servers that a stopping procedure brings back into service: those that it has drained, with unchanged roles.
pub(super) fn put_back(procedure: &Procedure, world: &World) -> Vec<ServerName> {
    let (Kind::MaintenanceStart { server, .. }, true) = (&procedure.kind, procedure.took_out) else {
        return Vec::new();
    };
    let Some(seen) = world.server(server) else { return Vec::new() };
    let out = seen.drained || matches!(seen.traffic, Traffic::Known { out: true, .. } | Traffic::Partly { .. });
    if out && may_serve(seen) { vec![server.clone()] } else { Vec::new() }
}

/// Whether the server has the manager's state (W12).
fn may_serve(seen: &ObservedServer) -> bool {
    let at_the_head = matches!(seen.state, State::InSync | State::GroupChange) && seen.current;
    match seen.role {
        Role::Manager => true,
        Role::Member => at_the_head,
        Role::Disabled => false,
    }
}

/// The state that a procedure leaves at its servers if it stops now.
fn left(procedure: &Procedure, world: &World) -> String {
    let mut names: Vec<&ServerName> = procedure.servers().collect();
    names.sort();
    names.dedup();
    let mut drained = Vec::new();
    let mut disabled = Vec::new();
    let mut removed = Vec::new();
    for name in names {
        match world.server(name) {
            Some(seen) => {
                let out = matches!(seen.traffic, Traffic::Known { out: true, .. } | Traffic::Partly { .. });
                if seen.drained || out {
                    drained.push(name.as_str());
                }
                if seen.role == Role::Disabled {
                    disabled.push(name.as_str());
                }
            }
            None => removed.push(name.as_str()),
        }
    }
    let mut said: Vec<String> = Vec::new();
    for (servers, word) in [(drained, "drained"), (disabled, "disabled"), (removed, "removed")] {
        if !servers.is_empty() {
            said.push(format!("still {word}: {}", servers.join(", ")));
        }
    }
    if said.is_empty() {
        said.push("nobody is left drained, disabled or removed by it".to_owned());
    }
    said.push(format!("{} is the manager", world.manager));
    said.join("; ")
}

impl Procedure {
    /// Whether the procedure cannot continue: another server has the role by now, or one of its servers is gone.
    fn leads_nowhere(&self, world: &World) -> bool {
        let place = |name: &ServerName| world.server(name).map(|seen| (seen.role, seen.candidate));
        let left = &self.steps[self.goes_on_at().min(self.steps.len())..];
        let is_elsewhere =
            |step: &Step| step.task.about().moves_role.is_some_and(|between| !between.contains(&&world.manager));
        let adds = left.iter().any(|step| matches!(step.task, Task::Add(_)));
        let is_gone = self
            .step()
            .filter(|step| step.task.about().needs_its_servers && !adds)
            .is_some_and(|step| step.task.about().servers.iter().any(|name| world.server(name).is_none()));
        barred(self, &world.manager, place).is_some() || left.iter().any(is_elsewhere) || is_gone
    }

    /// The step at which a stopped procedure continues: from the beginning of its repeatable steps, for the farm may
    /// have changed. Servers are not disabled or removed again, and a person is not asked again.
    pub(super) fn goes_on_at(&self) -> usize {
        let back_to_the_sync = |at: usize| match self.steps.get(at).map(|step| &step.task) {
            Some(Task::Complete(_)) => at.saturating_sub(1),
            _ => at,
        };
        match &self.kind {
            Kind::MaintenanceStart { .. }
            | Kind::MaintenanceFinish { .. }
            | Kind::ServerAdd { .. }
            | Kind::ServerEnable { .. } => 0,
            Kind::RecoverMember { .. } => {
                let before = self.steps[..self.at].iter();
                let repaired = |step: &Step| matches!(step.task.about().asks, Some(Fact::Repaired(_)));
                before.rev().position(repaired).map_or(self.at, |back| self.at - back)
            }
            Kind::ServerReplace { .. } | Kind::Sync { .. } | Kind::RecoverManager { .. } => back_to_the_sync(self.at),
        }
    }
}

/// Lets a stopped procedure continue, with its time anew. A running one does not change.
pub fn go_on_again(procedure: &mut Procedure, now_ms: u64) {
    if procedure.has_stopped() {
        procedure.at = procedure.goes_on_at();
        procedure.standing = Standing::Running;
        procedure.began_ms = now_ms;
        procedure.tried_ms = None;
        procedure.trouble = None;
        procedure.took_out = false;
        procedure.resumed = procedure.resumed.saturating_add(1);
    }
}

/// Resumes a procedure: after a failure with its step's time anew; after a question, with the answer.
///
/// # Errors
/// The procedure is over, its question is not answered, or it asks nothing.
pub fn resume(procedure: &mut Procedure, attest: &str, by: &str, now_ms: u64) -> Result<(), NotChanged> {
    let id = procedure.id;
    if procedure.is_over() {
        return Err(NotChanged::Over(id));
    }
    go_on_again(procedure, now_ms);
    match (procedure.asks().cloned(), attest.is_empty()) {
        (Some(fact), false) => {
            let (text, by) = (attest.to_owned(), by.to_owned());
            procedure.attestations.push(Attestation { fact, text, by, time_ms: now_ms });
            Ok(())
        }
        (Some(fact), true) => Err(NotChanged::Asks { id, question: fact.question().asks }),
        (None, true) => Ok(()),
        (None, false) => Err(NotChanged::AsksNothing(id)),
    }
}

/// The reason why a procedure is not resumed or aborted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// The question was not answered.
    #[error("{id} asks: {question}")]
    Asks {
        /// The procedure.
        id: Id,
        /// The question.
        question: String,
    },
    /// There is no question.
    #[error("{0} asks nothing now")]
    AsksNothing(Id),
    /// The procedure is done, or was aborted.
    #[error("{0} is over")]
    Over(Id),
    /// A new beginning is refused.
    #[error(transparent)]
    Plan(#[from] PlanRefused),
}

impl Advise for NotChanged {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::Asks { id, .. } => Advice::run("answer", format!("bellwether procedure resume {id} --attest TEXT")),
            Self::AsksNothing(id) | Self::Over(id) => Advice::run("see", format!("bellwether procedure show {id}")),
            Self::Plan(refused) => return refused.advice(),
        })
    }
}

/// Ends a procedure; its finished steps stay done and are reported. A repeated call returns the same.
///
/// # Errors
/// The procedure is done already.
pub fn abort(procedure: &mut Procedure, world: &World, by: &str) -> Result<(), NotChanged> {
    match procedure.standing {
        Standing::Running | Standing::Stopping(_) | Standing::Failed(_) => {}
        Standing::Aborted { .. } => return Ok(()),
        Standing::Done => return Err(NotChanged::Over(procedure.id)),
    }
    let left = left(procedure, world);
    procedure.standing = Standing::Aborted { by: by.to_owned(), left };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Action, Next, Survey,
            model::{farm, names},
            next, plan, settle, task,
        },
        *,
    };

    const MINUTE: u64 = 60_000;

    fn name(text: &str) -> ServerName {
        names(&[text])[0].clone()
    }

    fn begun(kind: Kind, world: &World) -> Procedure {
        let steps = plan(&kind, world, &Survey::default()).expect("a plan");
        Procedure::new(Id(1), kind, steps, "root".into(), 0)
    }

    /// A handover from m to a that has drained m, which was in service, and waits.
    fn handing_over() -> (Procedure, World) {
        let mut world = farm(&["m", "a", "b"]);
        let kind = Kind::MaintenanceStart { server: name("m"), promote: Some(name("a")), remove: false };
        let mut procedure = begun(kind, &world);
        assert!(matches!(next(&procedure, &world, 0), Next::Do(Action::Drain(_))));
        procedure.trying(&world, 0);
        world.servers.get_mut(&name("m")).unwrap().drained = true;
        settle(&mut procedure, &world, 1);
        settle(&mut procedure, &world, 20_000);
        assert_eq!(procedure.at, 2, "{procedure:?}");
        world.servers.get_mut(&name("a")).unwrap().state = State::Unreachable;
        (procedure, world)
    }

    fn failure_of(procedure: &Procedure) -> &Failure {
        let Standing::Failed(failure) = &procedure.standing else { panic!("it has not stopped: {procedure:?}") };
        failure
    }

    #[test]
    fn w18_a_hand_over_that_does_not_come_is_stopped_and_the_manager_serves_again() {
        let (mut procedure, mut world) = handing_over();
        assert!(matches!(next(&procedure, &world, MINUTE), Next::Wait(..)));
        assert!(settle(&mut procedure, &world, 5 * MINUTE));
        assert!(matches!(procedure.standing, Standing::Stopping(_)), "{procedure:?}");
        // The procedure continues after its deadline.
        world.servers.get_mut(&name("a")).unwrap().state = State::InSync;
        let now = 5 * MINUTE + 1;
        assert_eq!(next(&procedure, &world, now), Next::Do(Action::Undrain(vec![name("m")])));
        procedure.trying(&world, now);
        world.servers.get_mut(&name("m")).unwrap().drained = false;
        assert!(settle(&mut procedure, &world, now));
        let failure = failure_of(&procedure);
        assert!(failure.reason.contains("took longer than 2 min: a is unreachable"), "{failure:?}");
        assert!(failure.left.contains("nobody is left drained"), "{failure:?}");
        assert!(failure.todo.contains("bellwether maintenance start m --promote a"), "{failure:?}");
        assert!(!settle(&mut procedure, &world, 100 * MINUTE));
        assert!(
            matches!(next(&procedure, &world, 100 * MINUTE), Next::Failed(_)),
            "nothing happens by itself any more"
        );
        go_on_again(&mut procedure, 101 * MINUTE);
        assert_eq!((procedure.at, procedure.resumed), (0, 1), "it is drained anew");
        assert!(matches!(next(&procedure, &world, 101 * MINUTE), Next::Do(Action::Drain(_))));
    }

    #[test]
    fn w18_what_was_due_while_this_server_was_off_is_not_handed_over_late() {
        let (mut procedure, mut world) = handing_over();
        world.servers.get_mut(&name("a")).unwrap().state = State::InSync;
        assert!(matches!(next(&procedure, &world, MINUTE), Next::Do(Action::HandOver { .. })));
        assert!(settle(&mut procedure, &world, 180 * MINUTE));
        assert!(matches!(procedure.standing, Standing::Stopping(_)), "{procedure:?}");
    }

    #[test]
    fn who_cannot_be_put_back_is_named_and_tried_for_a_minute_only() {
        let (mut procedure, world) = handing_over();
        settle(&mut procedure, &world, 5 * MINUTE);
        procedure.trying(&world, 5 * MINUTE);
        procedure.trouble = Some("lb1 does not answer".to_owned());
        assert!(matches!(next(&procedure, &world, 5 * MINUTE + 1), Next::Wait(what, _) if what.contains("lb1")));
        settle(&mut procedure, &world, 6 * MINUTE);
        let failure = failure_of(&procedure);
        assert!(failure.reason.contains("not put back into service: lb1 does not answer"), "{failure:?}");
        assert_eq!(failure.left, "still drained: m; m is the manager");
    }

    #[test]
    fn who_was_out_of_service_before_stays_so() {
        let (mut procedure, mut world) = handing_over();
        procedure.took_out = false;
        settle(&mut procedure, &world, 5 * MINUTE);
        assert!(failure_of(&procedure).left.contains("still drained: m"));
        // A member that lacks revisions is not brought back, either (W12).
        let mut member = begun(Kind::MaintenanceStart { server: name("b"), promote: None, remove: false }, &world);
        member.took_out = true;
        let seen = world.servers.get_mut(&name("b")).unwrap();
        seen.drained = true;
        assert_eq!(put_back(&member, &world), [name("b")]);
        world.servers.get_mut(&name("b")).unwrap().current = false;
        assert_eq!(put_back(&member, &world), []);
    }

    #[test]
    fn what_leads_nowhere_any_more_names_its_end_and_nothing_else() {
        let (mut procedure, mut world) = handing_over();
        world.manager = name("b");
        world.servers.get_mut(&name("m")).unwrap().role = Role::Disabled;
        settle(&mut procedure, &world, MINUTE);
        let failure = failure_of(&procedure);
        assert_eq!(failure.reason, "b has become manager meanwhile");
        assert!(failure.todo.ends_with("bellwether procedure abort p1"), "{failure:?}");
        assert!(!failure.todo.contains("maintenance start"), "it would stop again: {failure:?}");
    }

    #[test]
    fn w8_a_way_back_that_stopped_begins_with_the_sync_again() {
        let world = farm(&["m", "a", "b"]);
        let at_complete = |kind: Kind, world: &World| {
            let mut procedure = begun(kind, world);
            procedure.at = procedure.steps.iter().position(|step| matches!(step.task, Task::Complete(_))).unwrap();
            procedure.standing = Standing::Failed(failure(&procedure, world, "the disk".into()));
            go_on_again(&mut procedure, 7);
            (procedure.step().unwrap().task.clone(), procedure)
        };
        let (task, procedure) = at_complete(Kind::RecoverMember { server: name("a"), remove: false }, &world);
        assert!(matches!(task, Task::Drain(_)), "after what a person answered for: {task:?}");
        assert!(procedure.at > 3, "it is not put away again");
        let mut drained = world.clone();
        drained.servers.get_mut(&name("a")).unwrap().drained = true;
        let (task, _) = at_complete(Kind::MaintenanceFinish { server: name("a") }, &drained);
        assert!(matches!(task, Task::Drain(_)), "{task:?}");
        let mut drifted = world.clone();
        for seen in drifted.servers.values_mut() {
            seen.traffic = Traffic::Known { out: false, up: true, sessions: 0 };
        }
        drifted.servers.get_mut(&name("a")).unwrap().state = State::Drifted;
        let (task, _) = at_complete(Kind::Sync { servers: vec![name("a")] }, &drifted);
        assert_eq!(task, task::Sync(vec![name("a")]).into());
    }
}
