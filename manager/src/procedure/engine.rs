//! What a procedure does next. Everything here is a function of the procedure, the world and the time; what must be on
//! the disk before an action is done: the procedure with `tried_ms` set.

use bellwether_proto::{
    advice::{Advice, Advise},
    name::ServerName,
    record::{Record, Role},
};
use serde::{Deserialize, Serialize};

use super::{
    Action, Attestation, Fact, Kind, Procedure, Question, Standing, Task, Traffic, World,
    check::{Check, Since, check},
};

/// Why a procedure stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What happened.
    pub reason: String,
    /// What is left as it is.
    pub left: String,
    /// What to do.
    pub todo: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Save the procedure (see [`Procedure::trying`]), then do this.
    Do(Action),
    /// Wait for this, until then at the most; milliseconds since 1970.
    Wait(String, u64),
    /// A person must answer: `procedure resume ID --attest TEXT`.
    Ask(Question),
    /// It stopped.
    Failed(Failure),
    /// Every step is so.
    Done,
}

/// Why an action was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    /// It would be refused again.
    #[error("{0}")]
    Refused(String),
    /// It may succeed later.
    #[error("{0}")]
    Failed(String),
}

/// How long a step may take, and after how long its action is tried again, in milliseconds.
struct Patience {
    deadline_ms: u64,
    again_ms: u64,
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

fn patience(task: &Task) -> Patience {
    match task {
        // A question waits as long as people do.
        Task::Attest(_) => Patience { deadline_ms: u64::MAX, again_ms: u64::MAX },
        // Until enough others serve.
        Task::Drain(_) => Patience { deadline_ms: 10 * MINUTE, again_ms: 2 * SECOND },
        // They have ends of their own: the policy's, the token's.
        Task::Quiet(_) | Task::Replace { .. } => Patience { deadline_ms: u64::MAX, again_ms: u64::MAX },
        Task::HandOver { .. } => Patience { deadline_ms: 10 * MINUTE, again_ms: 5 * SECOND },
        Task::Promote { .. } => Patience { deadline_ms: 2 * MINUTE, again_ms: 5 * SECOND },
        Task::Disable(_) | Task::Remove(_) | Task::Add(_) => {
            Patience { deadline_ms: 10 * MINUTE, again_ms: 2 * SECOND }
        }
        // A first sync of a large configuration, after the machine has booted.
        Task::Sync(_) | Task::Complete(_) => Patience { deadline_ms: 60 * MINUTE, again_ms: 10 * SECOND },
        Task::Undrain(_) => Patience { deadline_ms: 5 * MINUTE, again_ms: 2 * SECOND },
    }
}

fn look(procedure: &Procedure, task: &Task, world: &World, now_ms: u64) -> Check {
    let place = |name: &ServerName| world.server(name).map(|seen| (seen.role, seen.candidate));
    if let Some(why) = barred(procedure, &world.manager, place) {
        return Check::Stuck(why);
    }
    let Procedure { attestations, began_ms, tried_ms, trouble, .. } = procedure;
    let (began_ms, tried_ms, trouble) = (*began_ms, *tried_ms, trouble.as_deref());
    check(task, &Since { attestations, began_ms, tried_ms, trouble, now_ms }, world)
}

/// Why a recovery leads nowhere any more, whatever a person answers: who is lost leads, or who takes the manager's place is no
/// candidate, or another one has taken it.
fn barred(
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

/// Passes the steps that are so; stops the procedure where it cannot go on. Whether anything changed: then it is to be
/// saved.
pub fn settle(procedure: &mut Procedure, world: &World, now_ms: u64) -> bool {
    let mut changed = false;
    while let Some(note) = passed(procedure, world, now_ms) {
        procedure.steps[procedure.at].noted = note;
        procedure.at += 1;
        procedure.began_ms = now_ms;
        procedure.tried_ms = None;
        procedure.trouble = None;
        changed = true;
    }
    let standing = match next(procedure, world, now_ms) {
        Next::Do(_) | Next::Wait(..) | Next::Ask(_) => return changed,
        Next::Failed(failure) => Standing::Failed(failure),
        Next::Done => Standing::Done,
    };
    if procedure.is_over() || procedure.standing == standing {
        return changed;
    }
    procedure.standing = standing;
    true
}

/// Whether the step it is at is so, and what there is to say of it.
fn passed(procedure: &Procedure, world: &World, now_ms: u64) -> Option<Option<String>> {
    if procedure.standing != Standing::Running {
        return None;
    }
    match look(procedure, &procedure.step()?.task, world, now_ms) {
        Check::So(note) => Some(note),
        Check::Act(_) | Check::Wait(_) | Check::Ask(_) | Check::Stuck(_) => None,
    }
}

/// Notes how its action ended, and what is so after it.
pub fn acted(procedure: &mut Procedure, done: Result<(), ActError>, world: &World, now_ms: u64) {
    match done {
        Ok(()) => procedure.trouble = None,
        Err(ActError::Failed(why)) => procedure.trouble = Some(why),
        Err(ActError::Refused(why)) => procedure.refused(why, world),
    }
    settle(procedure, world, now_ms);
}

/// What `procedure` does next in `world`.
pub fn next(procedure: &Procedure, world: &World, now_ms: u64) -> Next {
    let step = match (&procedure.standing, procedure.step()) {
        (Standing::Failed(failure), _) => return Next::Failed(failure.clone()),
        (Standing::Aborted { .. } | Standing::Done, _) | (Standing::Running, None) => return Next::Done,
        (Standing::Running, Some(step)) => step,
    };
    let Patience { deadline_ms, again_ms } = patience(&step.task);
    let until = procedure.began_ms.saturating_add(deadline_ms);
    let fail = |reason: String| Next::Failed(failure(procedure, world, reason));
    let wait = |what: String| match now_ms >= until {
        true => fail(format!("{} took longer than {} min: {what}", step.task.what(), deadline_ms / MINUTE)),
        false => Next::Wait(what, until),
    };
    match look(procedure, &step.task, world, now_ms) {
        // Passed by `settle`; who did not call it waits for that.
        Check::So(_) => Next::Wait(step.task.what(), until),
        Check::Ask(question) => Next::Ask(question),
        Check::Stuck(why) => fail(why),
        Check::Wait(what) => wait(what),
        Check::Act(action) => match procedure.tried_ms {
            Some(tried) if now_ms < tried.saturating_add(again_ms) => wait(trouble(procedure, step.task.what())),
            Some(_) if now_ms >= until => wait(trouble(procedure, step.task.what())),
            Some(_) | None => Next::Do(action),
        },
    }
}

fn trouble(procedure: &Procedure, otherwise: String) -> String {
    procedure.trouble.clone().unwrap_or(otherwise)
}

impl Procedure {
    /// Notes that the action of its step begins now.
    pub fn trying(&mut self, now_ms: u64) {
        self.tried_ms = Some(now_ms);
    }

    /// Stops it at its step: its action was refused and would be again.
    fn refused(&mut self, reason: String, world: &World) {
        self.standing = Standing::Failed(failure(self, world, reason));
    }

    /// Whether there is anything to do or to look at under that record: it runs, and waits for no person; or whatever that one
    /// answers would be in vain.
    pub fn goes_on(&self, record: &Record) -> bool {
        let place = |name: &ServerName| record.server(name).map(|server| (server.role, server.candidate));
        let vain = || barred(self, &record.manager().name, place).is_some();
        self.standing == Standing::Running && (self.asks().is_none() || vain())
    }

    /// Whether it has or will come to a question.
    fn has_questions(&self) -> bool {
        let mut left = self.steps.iter().skip(self.at);
        left.any(|step| matches!(step.task, Task::Attest(_)))
    }

    /// The first question among its steps, answered or not.
    pub(super) fn first_question(&self) -> Option<&Fact> {
        self.steps.iter().find_map(|step| match &step.task {
            Task::Attest(fact) => Some(fact),
            _ => None,
        })
    }

    /// The question it waits for.
    pub fn asks(&self) -> Option<&Fact> {
        match self.step().map(|step| &step.task) {
            Some(Task::Attest(fact)) if self.standing == Standing::Running => {
                Some(fact).filter(|fact| self.attestations.iter().all(|said| said.fact != **fact))
            }
            _ => None,
        }
    }
}

fn failure(procedure: &Procedure, world: &World, reason: String) -> Failure {
    let id = procedure.id;
    Failure {
        reason,
        left: left(procedure, world),
        todo: format!("mend that, then: bellwether procedure resume {id}; or give up: bellwether procedure abort {id}"),
    }
}

/// What a procedure that stops now leaves behind, of the servers that it touches.
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
                if seen.role == bellwether_proto::record::Role::Disabled {
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

/// Lets it go on: after a failure with its step's time anew; after a question, with the answer.
///
/// # Errors
/// It is over, its question is not answered, or there is none to answer.
pub fn resume(procedure: &mut Procedure, attest: &str, by: &str, now_ms: u64) -> Result<(), NotChanged> {
    let id = procedure.id;
    if procedure.is_over() {
        return Err(NotChanged::Over(id));
    }
    if matches!(procedure.standing, Standing::Failed(_)) {
        procedure.standing = Standing::Running;
        procedure.began_ms = now_ms;
        procedure.tried_ms = None;
        procedure.trouble = None;
    }
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

/// Why a procedure does not go on, or is not aborted. It stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// Its question was not answered.
    #[error("{id} asks: {question}")]
    Asks {
        /// The procedure.
        id: super::Id,
        /// What it asks.
        question: String,
    },
    /// There is nothing to answer.
    #[error("{0} asks nothing now")]
    AsksNothing(super::Id),
    /// It is done, or was aborted.
    #[error("{0} is over")]
    Over(super::Id),
}

impl Advise for NotChanged {
    fn advice(&self) -> Option<Advice> {
        Some(match self {
            Self::Asks { id, .. } => Advice::run("answer", format!("bellwether procedure resume {id} --attest TEXT")),
            Self::AsksNothing(id) | Self::Over(id) => Advice::run("see", format!("bellwether procedure show {id}")),
        })
    }
}

/// Stops it for good; what was done stays done, and is said. Given again, it says the same.
///
/// # Errors
/// It is done already.
pub fn abort(procedure: &mut Procedure, world: &World, by: &str) -> Result<(), NotChanged> {
    match procedure.standing {
        Standing::Running | Standing::Failed(_) => {}
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
            Id, Insists, Kind, Survey,
            model::{farm, names},
            plan,
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
        procedure.trying(0);
        procedure.trouble = Some("lb does not answer".to_owned());
        assert_eq!(next(&procedure, &world, 1), Next::Wait("lb does not answer".to_owned(), 10 * MINUTE));
        assert!(matches!(next(&procedure, &world, 2 * SECOND), Next::Do(_)));
        procedure.trying(10 * MINUTE - 1);
        let Next::Failed(failure) = next(&procedure, &world, 10 * MINUTE) else { panic!("no deadline") };
        assert!(failure.reason.contains("lb does not answer"), "{failure:?}");
        assert!(failure.todo.contains("procedure resume p1"), "{failure:?}");
    }

    #[test]
    fn after_a_failure_it_goes_on_with_its_time_anew() {
        let (mut procedure, world) = member();
        procedure.trying(0);
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
        procedure.at =
            procedure.steps.iter().position(|step| matches!(step.task, Task::Attest(_))).expect("a question");
        assert!(matches!(next(&procedure, &world, 1_000 * MINUTE), Next::Ask(_)));
        assert!(matches!(resume(&mut procedure, "", "root", 0), Err(NotChanged::Asks { .. })));
        resume(&mut procedure, "pulled its cable", "root", 7).expect("answered");
        assert_eq!(procedure.attestations[0].text, "pulled its cable");
        assert!(procedure.asks().is_none(), "answered, whoever looks at it next");
        assert!(settle(&mut procedure, &world, 8));
        assert!(resume(&mut procedure, "again", "root", 9).is_err(), "nothing is asked now");
    }
}
