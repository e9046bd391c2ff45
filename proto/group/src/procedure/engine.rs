//! The next action of a procedure, as a function of the procedure, the world and the time. Before an action, the
//! procedure with `tried_ms` set must be on the disk.

use bellwether_proto::{
    name::ServerName,
    record::{Record, Role},
};

use super::{
    Action, Fact, Failure, Kind, Procedure, Question, Standing, World,
    stop::{failure, put_back},
    task::{Check, MINUTE, NEVER, SECOND, Since, Task, TaskKind, Undrain},
};

/// The next action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Save the procedure (see [`Procedure::trying`]), then do this action.
    Do(Action),
    /// Wait for this, until that time at most; milliseconds since 1970.
    Wait(String, u64),
    /// A person must answer: `procedure resume ID --attest TEXT`.
    Ask(Question),
    /// The procedure stopped.
    Failed(Failure),
    /// Every step is done.
    Done,
}

/// The reason why an action was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// The action would be refused again.
    #[error("{0}")]
    Refused(String),
    /// The action may succeed later.
    #[error("{0}")]
    Failed(String),
}

/// The time for which a stopping procedure tries to bring its drained servers back into service.
const STOPPING_MS: u64 = MINUTE;

fn look(procedure: &Procedure, task: &Task, world: &World, now_ms: u64) -> Check {
    let place = |name: &ServerName| world.server(name).map(|seen| (seen.role, seen.candidate));
    if let Some(why) = barred(procedure, &world.manager, place) {
        return Check::Stuck(why);
    }
    let Procedure { attestations, started_ms, began_ms, tried_ms, trouble, .. } = procedure;
    let (started_ms, began_ms, tried_ms, trouble) = (*started_ms, *began_ms, *tried_ms, trouble.as_deref());
    task.check(&Since { attestations, started_ms, began_ms, tried_ms, trouble, now_ms }, world)
}

/// The reason why a recovery cannot continue, whatever a person answers: the lost server leads, its successor is no
/// candidate, or another server has taken its place.
pub(super) fn barred(
    procedure: &Procedure,
    manager: &ServerName,
    place: impl FnOnce(&ServerName) -> Option<(Role, bool)>,
) -> Option<String> {
    let leads = || Some(format!("{manager} has become manager meanwhile"));
    let (lost, new) = match &procedure.kind {
        Kind::RecoverManager { lost, new, .. } if new != manager && !procedure.is_promoted() => (lost, new),
        Kind::RecoverMember { server, .. } if server == manager && procedure.has_questions() => return leads(),
        _ => return None,
    };
    if lost != manager {
        return leads();
    }
    let what = match place(new) {
        Some((Role::Manager, _) | (Role::Member, true)) => return None,
        Some((Role::Member, false)) => "is no candidate any more",
        Some((Role::Disabled, _)) => "was disabled meanwhile",
        None => "was removed meanwhile",
    };
    Some(format!("{new} {what}, so it cannot take the place of {lost}"))
}

/// Passes finished steps; stops the procedure if it cannot continue. Returns whether it changed and must be saved.
pub fn settle(procedure: &mut Procedure, world: &World, now_ms: u64) -> bool {
    let mut changed = false;
    while let Some(note) = passed(procedure, world, now_ms) {
        if note.is_some() {
            procedure.steps[procedure.at].noted = note;
        }
        procedure.at += 1;
        procedure.began_ms = now_ms;
        procedure.tried_ms = None;
        procedure.trouble = None;
        changed = true;
    }
    let standing = match next(procedure, world, now_ms) {
        Next::Do(_) | Next::Wait(..) | Next::Ask(_) => return changed,
        Next::Failed(failure) if procedure.standing == Standing::Running && !put_back(procedure, world).is_empty() => {
            (procedure.began_ms, procedure.tried_ms) = (now_ms, None);
            procedure.trouble = None;
            Standing::Stopping(failure.reason)
        }
        Next::Failed(failure) => Standing::Failed(failure),
        Next::Done => Standing::Done,
    };
    if procedure.is_over() || procedure.standing == standing {
        return changed;
    }
    procedure.standing = standing;
    true
}

/// Whether the current step is done, with a note.
fn passed(procedure: &Procedure, world: &World, now_ms: u64) -> Option<Option<String>> {
    if procedure.standing != Standing::Running {
        return None;
    }
    match look(procedure, &procedure.step()?.task, world, now_ms) {
        Check::So(note) => Some(note),
        Check::Act(_) | Check::Wait(_) | Check::Ask(_) | Check::Stuck(_) => None,
    }
}

/// Notes the result of the current step's action, and passes the steps that are done then.
pub fn acted(procedure: &mut Procedure, done: Result<(), ActError>, world: &World, now_ms: u64) {
    match done {
        Ok(()) => procedure.trouble = None,
        Err(ActError::Failed(why)) => procedure.trouble = Some(why),
        Err(ActError::Refused(why)) => procedure.refused(why, world, now_ms),
    }
    settle(procedure, world, now_ms);
}

/// The next action of a stopping procedure: it brings its drained servers back into service.
fn stopping(procedure: &Procedure, why: &str, world: &World, now_ms: u64) -> Next {
    let servers = put_back(procedure, world);
    let until = procedure.began_ms.saturating_add(STOPPING_MS);
    let what = || Undrain(servers.clone()).about().what;
    if servers.is_empty() {
        return Next::Failed(failure(procedure, world, why.to_owned()));
    }
    match procedure.tried_ms {
        Some(_) if now_ms >= until => {
            let trouble = trouble(procedure, "it took longer than 1 min".to_owned());
            Next::Failed(failure(procedure, world, format!("{why}; and it was not put back into service: {trouble}")))
        }
        Some(tried) if now_ms < tried.saturating_add(2 * SECOND) => Next::Wait(trouble(procedure, what()), until),
        Some(_) | None => Next::Do(Action::Undrain(servers)),
    }
}

/// The next action of `procedure` in `world`.
pub fn next(procedure: &Procedure, world: &World, now_ms: u64) -> Next {
    let step = match (&procedure.standing, procedure.step()) {
        (Standing::Failed(failure), _) => return Next::Failed(failure.clone()),
        (Standing::Stopping(why), _) => return stopping(procedure, why, world, now_ms),
        (Standing::Aborted { .. } | Standing::Done, _) | (Standing::Running, None) => return Next::Done,
        (Standing::Running, Some(step)) => step,
    };
    let about = step.task.about();
    let (lasts_ms, again_ms) = (about.deadline_ms(world.drain_timeout_ms), about.again_ms);
    let until = procedure.began_ms.saturating_add(lasts_ms);
    let fail = |reason: String| Next::Failed(failure(procedure, world, reason));
    let wait = |what: String| match now_ms >= until {
        true => fail(format!("{} took longer than {} min: {what}", step.task.about().what, lasts_ms / MINUTE)),
        false => Next::Wait(what, until),
    };
    match look(procedure, &step.task, world, now_ms) {
        // `settle` passes this step; a caller that skipped it waits for that.
        Check::So(_) => Next::Wait(step.task.about().what, until),
        Check::Ask(question) => Next::Ask(question),
        Check::Stuck(why) => fail(why),
        Check::Wait(what) => wait(what),
        Check::Act(action) => match procedure.tried_ms {
            Some(tried) if now_ms < tried.saturating_add(again_ms) => wait(trouble(procedure, step.task.about().what)),
            Some(_) if now_ms >= until => wait(trouble(procedure, step.task.about().what)),
            // This server was off, or busy, at the deadline.
            None if now_ms >= until && step.task.about().moves_role.is_some() => wait(step.task.about().what),
            Some(_) | None => Next::Do(action),
        },
    }
}

fn trouble(procedure: &Procedure, otherwise: String) -> String {
    procedure.trouble.clone().unwrap_or(otherwise)
}

impl Procedure {
    /// Notes that the action of its step begins now.
    pub fn trying(&mut self, world: &World, now_ms: u64) {
        self.tried_ms = Some(now_ms);
        if let Kind::MaintenanceStart { server, .. } = &self.kind {
            let drains = self.step().is_some_and(|step| !step.task.about().drains.is_empty());
            self.took_out |= drains && !world.is_drained(server);
        }
    }

    /// Stops it at its step: its action was refused and would be refused again.
    fn refused(&mut self, reason: String, world: &World, now_ms: u64) {
        self.standing = match &self.standing {
            Standing::Running if !put_back(self, world).is_empty() => {
                (self.began_ms, self.tried_ms) = (now_ms, None);
                Standing::Stopping(reason)
            }
            Standing::Stopping(why) => {
                let reason = format!("{why}; and it was not put back into service: {reason}");
                Standing::Failed(failure(self, world, reason))
            }
            Standing::Running | Standing::Failed(_) | Standing::Aborted { .. } | Standing::Done => {
                Standing::Failed(failure(self, world, reason))
            }
        };
    }

    /// The deadline of its step in milliseconds since 1970; none: it waits for a person, or does not continue.
    pub fn until_ms(&self, drain_timeout_ms: u64) -> Option<u64> {
        let lasts_ms = match &self.standing {
            Standing::Running => self.step()?.task.about().deadline_ms(drain_timeout_ms),
            Standing::Stopping(_) => STOPPING_MS,
            Standing::Failed(_) | Standing::Aborted { .. } | Standing::Done => return None,
        };
        (lasts_ms != NEVER).then(|| self.began_ms.saturating_add(lasts_ms))
    }

    /// Whether it has work under that record: it runs and waits for no person, or no answer of the person could help.
    pub fn goes_on(&self, record: &Record) -> bool {
        let place = |name: &ServerName| record.server(name).map(|server| (server.role, server.candidate));
        let vain = || barred(self, &record.manager().name, place).is_some();
        match self.standing {
            Standing::Running => self.asks().is_none() || vain(),
            Standing::Stopping(_) => true,
            Standing::Failed(_) | Standing::Aborted { .. } | Standing::Done => false,
        }
    }

    /// Whether any of its present or later steps is a question.
    fn has_questions(&self) -> bool {
        self.steps.iter().skip(self.at).any(|step| step.task.about().asks.is_some())
    }

    /// The first question among its steps, answered or not.
    pub fn first_question(&self) -> Option<&Fact> {
        self.steps.iter().find_map(|step| step.task.about().asks)
    }

    /// The question that it waits for.
    pub fn asks(&self) -> Option<&Fact> {
        let fact = self.step()?.task.about().asks.filter(|_| self.standing == Standing::Running)?;
        self.attestations.iter().all(|said| said.fact != *fact).then_some(fact)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Id, Insists, Kind, NotChanged, Survey, abort,
            model::{farm, names},
            plan, resume,
        },
        *,
    };

    fn member() -> (Procedure, World) {
        let world = farm(&["m", "a", "b"]);
        let kind = Kind::MaintenanceStart { server: names(&["a"])[0].clone(), promote: None, remove: false };
        let steps = plan(&kind, &world, &Survey::default()).expect("a plan");
        (Procedure::new(Id(1), kind, steps, "root".into(), 0), world)
    }

    #[test]
    fn an_action_is_tried_again_after_a_while_and_not_for_ever() {
        let (mut procedure, world) = member();
        assert!(matches!(next(&procedure, &world, 0), Next::Do(Action::Drain(_))));
        procedure.trying(&world, 0);
        procedure.trouble = Some("lb does not answer".to_owned());
        assert_eq!(next(&procedure, &world, 1), Next::Wait("lb does not answer".to_owned(), 10 * MINUTE));
        assert!(matches!(next(&procedure, &world, 2 * SECOND), Next::Do(_)));
        procedure.trying(&world, 10 * MINUTE - 1);
        let Next::Failed(failure) = next(&procedure, &world, 10 * MINUTE) else { panic!("no deadline") };
        assert!(failure.reason.contains("lb does not answer"), "{failure:?}");
        assert!(failure.todo.contains("procedure resume p1"), "{failure:?}");
    }

    #[test]
    fn after_a_failure_it_goes_on_with_its_time_anew() {
        let (mut procedure, world) = member();
        procedure.trying(&world, 0);
        assert!(settle(&mut procedure, &world, 10 * MINUTE));
        assert!(matches!(procedure.standing, Standing::Failed(_)));
        assert!(!settle(&mut procedure, &world, 11 * MINUTE), "said once");
        assert_eq!(resume(&mut procedure, "", "root", 20 * MINUTE), Ok(()));
        assert!(matches!(next(&procedure, &world, 20 * MINUTE), Next::Do(Action::Drain(_))));
    }

    #[test]
    fn an_abort_says_what_is_drained_still() {
        let (mut procedure, mut world) = member();
        world.servers.get_mut(&names(&["a"])[0]).unwrap().drained = true;
        abort(&mut procedure, &world, "root").unwrap();
        let Standing::Aborted { left, .. } = &procedure.standing else { panic!("{procedure:?}") };
        assert_eq!(left, "still drained: a; m is the manager");
        assert_eq!(next(&procedure, &world, 0), Next::Done);
        assert_eq!(abort(&mut procedure, &world, "somebody else"), Ok(()), "given again");
        assert!(matches!(&procedure.standing, Standing::Aborted { by, .. } if by == "root"));
        assert!(resume(&mut procedure, "", "root", 0).is_err());
    }

    #[test]
    fn w22_a_recovery_that_leads_nowhere_any_more_asks_nobody_to_isolate_a_server() {
        let mut world = farm(&["m", "a", "b"]);
        world.me = names(&["a"])[0].clone();
        let (lost, new) = (names(&["m"])[0].clone(), world.me.clone());
        let kind = Kind::RecoverManager { lost, new: new.clone(), remove: false, insists: Insists::default() };
        let steps = plan(&kind, &world, &Survey::default()).expect("a plan");
        let asking = Procedure::new(Id(1), kind, steps, "root".into(), 0);
        let settled = |world: &World| {
            let mut procedure = asking.clone();
            settle(&mut procedure, world, 1);
            procedure.standing
        };
        assert_eq!(settled(&world), Standing::Running);
        world.servers.get_mut(&new).unwrap().role = Role::Disabled;
        let Standing::Failed(failure) = settled(&world) else { panic!("it asks in vain") };
        assert_eq!(failure.reason, "a was disabled meanwhile, so it cannot take the place of m");
        world.servers.remove(&new);
        assert!(matches!(settled(&world), Standing::Failed(_)));
        let mut world = farm(&["m", "a", "b"]);
        world.manager = names(&["b"])[0].clone();
        let Standing::Failed(failure) = settled(&world) else { panic!("it asks in vain") };
        assert_eq!(failure.reason, "b has become manager meanwhile");
        world.manager = new.clone();
        assert_eq!(settled(&world), Standing::Running, "the role came to it another way");

        let kind = Kind::RecoverMember { server: new, remove: false };
        let steps = plan(&kind, &farm(&["m", "a", "b"]), &Survey::default()).expect("a plan");
        let mut member = Procedure::new(Id(1), kind, steps, "root".into(), 0);
        settle(&mut member, &world, 1);
        assert!(matches!(member.standing, Standing::Failed(_)), "nobody isolates who leads: {member:?}");
    }

    #[test]
    fn w22_a_question_waits_for_its_answer_which_is_recorded() {
        let world = farm(&["m", "a", "b"]);
        let kind = Kind::RecoverMember { server: names(&["a"])[0].clone(), remove: false };
        let steps = plan(&kind, &world, &Survey::default()).expect("a plan");
        let mut procedure = Procedure::new(Id(1), kind, steps, "root".into(), 0);
        procedure.at = procedure.steps.iter().position(|step| step.task.about().asks.is_some()).expect("a question");
        assert!(matches!(next(&procedure, &world, 1_000 * MINUTE), Next::Ask(_)));
        assert!(matches!(resume(&mut procedure, "", "root", 0), Err(NotChanged::Asks { .. })));
        resume(&mut procedure, "pulled its cable", "root", 7).expect("answered");
        assert_eq!(procedure.attestations[0].text, "pulled its cable");
        assert!(procedure.asks().is_none(), "answered, whoever looks at it next");
        assert!(settle(&mut procedure, &world, 8));
        assert!(resume(&mut procedure, "again", "root", 9).is_err(), "nothing is asked now");
    }
}
