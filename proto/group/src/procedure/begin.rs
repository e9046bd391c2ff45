//! Whether a procedure begins, and its first state: rules over the document and the world.

use bellwether_proto::{
    advice::{Advice, Advise},
    level::Level,
    name::ServerName,
    record::Record,
};

use super::{
    Attestation, Document, Id, Kind, PlanRefused, Procedure, Standing, Survey, Task, World, go_on_again,
    plan::{free, may_hand_over, plan},
    settle,
};

/// The request for a procedure.
#[derive(Debug, Clone)]
pub struct Request {
    /// The kind of the procedure.
    pub kind: Kind,
    /// The findings at the members, if a manager is recovered.
    pub survey: Survey,
    /// An answer to its first question; empty: none yet.
    pub attest: String,
    /// The author of the request.
    pub by: String,
    /// Only show the steps.
    pub dry_run: bool,
}

/// The reason why no procedure begins, resumes or is aborted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AskRefused {
    /// A rule refuses the request.
    #[error(transparent)]
    Plan(#[from] PlanRefused),
    /// The procedure came with a later level than the group has.
    #[error("{what} needs level {level}, and the group is of level {now}; nothing was changed")]
    NeedsLevel {
        /// The procedure, or its step.
        what: String,
        /// The level that it came with.
        level: Level,
        /// The group's.
        now: Level,
    },
    /// Another server drives procedures.
    #[error("procedures are driven at the manager, {0}")]
    Elsewhere(ServerName),
    /// There is no such procedure.
    #[error("there is no procedure {0}")]
    Unknown(Id),
}

impl Advise for AskRefused {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Plan(refused) => refused.advice(),
            Self::NeedsLevel { level, .. } => {
                Some(Advice::run("first, at the manager", format!("bellwether group set --level {level}")))
            }
            Self::Elsewhere(manager) => Some(Advice::run(
                &format!("run the command there; should {manager} be lost, at a candidate"),
                "bellwether recover manager",
            )),
            Self::Unknown(_) => Some(Advice::run("see", "bellwether procedure list")),
        }
    }
}

/// The unfinished procedure that a request for `kind` means: the same one, another way back for the same server, a sync
/// of one of its servers, or the recovery by which this server has become the manager, unless it was given up.
pub fn begun<'a>(document: &'a Document, record: &Record, kind: &Kind) -> Option<&'a Procedure> {
    let same = |procedure: &&Procedure| !procedure.is_over() && is_meant(procedure, kind);
    let recovered = |procedure: &&Procedure| match (&procedure.kind, kind) {
        (Kind::RecoverManager { new, .. }, Kind::RecoverManager { new: me, .. }) => {
            new == me && record.manager().name == *me && !matches!(procedure.standing, Standing::Aborted { .. })
        }
        _ => false,
    };
    let procedures = &document.procedures;
    procedures.iter().find(same).or_else(|| procedures.iter().rfind(recovered))
}

/// Whether an unfinished procedure is the one that `kind` means.
fn is_meant(procedure: &Procedure, kind: &Kind) -> bool {
    match (&procedure.kind, kind) {
        // Its findings at the others are old, so it begins anew.
        (Kind::RecoverManager { .. }, _) if procedure.has_stopped() && !procedure.is_promoted() => false,
        (Kind::ServerReplace { server, .. }, Kind::ServerReplace { server: asked, .. }) => server == asked,
        (Kind::Sync { .. }, Kind::Sync { servers }) => {
            procedure.has_to_do_with().any(|server| servers.is_empty() || servers.contains(server))
        }
        (begun, asked) => {
            begun == asked || begun.brings_back().is_some_and(|server| asked.brings_back() == Some(server))
        }
    }
}

/// Continues a stopped procedure that was requested again, with the new token's lifetime; a running one does not
/// change.
///
/// # Errors
/// The procedure would drain a manager for a successor that does not answer.
pub fn again(procedure: &mut Procedure, request: &Request, now_ms: u64) -> Result<(), PlanRefused> {
    if !procedure.has_stopped() {
        return Ok(());
    }
    may_hand_over(&procedure.kind, &request.survey)?;
    if let (Kind::ServerReplace { ttl_ms, .. }, Kind::ServerReplace { ttl_ms: now, .. }) =
        (&mut procedure.kind, &request.kind)
    {
        *ttl_ms = *now;
        for step in &mut procedure.steps {
            if let Task::Replace(joins) = &mut step.task {
                joins.ttl_ms = *now;
            }
        }
    }
    go_on_again(procedure, now_ms);
    Ok(())
}

/// Ends this server's recoveries that have stopped, or ask, before its promotion: `id` takes their place.
pub fn takes_the_place(document: &mut Document, id: Id, kind: &Kind, by: &str) {
    let Kind::RecoverManager { new: me, .. } = kind else { return };
    for other in document.procedures.iter_mut().filter(|other| other.id != id && !other.is_over()) {
        let mine = matches!(&other.kind, Kind::RecoverManager { new, .. } if new == me) && !other.is_promoted();
        if mine && (other.has_stopped() || other.asks().is_some()) {
            other.standing = Standing::Aborted { by: by.to_owned(), left: format!("{id} takes its place") };
        }
    }
}

/// A new procedure in a group of that level, as the server that looks at `world` would drive it. One without steps must
/// not begin.
///
/// # Errors
/// The reason why it does not begin.
pub fn propose(
    (document, level): (&Document, Level),
    world: &World,
    request: Request,
    now_ms: u64,
) -> Result<Procedure, AskRefused> {
    let Request { kind, survey, attest, by, dry_run: _ } = request;
    let mut procedure = Procedure::new(document.next_id(), kind, Vec::new(), by.clone(), now_ms);
    let driver = procedure.driver(&world.manager);
    if *driver != world.me {
        return Err(AskRefused::Elsewhere(driver.clone()));
    }
    procedure.steps = plan(&procedure.kind, world, &survey)?;
    may_be_written(&procedure, level)?;
    (procedure.findings, procedure.lost) = (survey.findings, survey.lost);
    match procedure.kind {
        // Other unfinished procedures continue after it, except another recovery by this server, which drains already.
        Kind::RecoverManager { .. } => {
            let drains = |other: &&Procedure| match other.kind {
                Kind::RecoverManager { .. } => !other.is_promoted() && !other.has_stopped() && other.asks().is_none(),
                _ => false,
            };
            let others: Vec<Procedure> = document.procedures.iter().filter(drains).cloned().collect();
            free(&procedure.steps, &others)?;
        }
        Kind::MaintenanceStart { .. }
        | Kind::MaintenanceFinish { .. }
        | Kind::ServerAdd { .. }
        | Kind::ServerEnable { .. }
        | Kind::ServerReplace { .. }
        | Kind::Sync { .. }
        | Kind::RecoverMember { .. } => {
            free(&procedure.steps, &settled(document, world, now_ms))?;
        }
    }
    if let Some(fact) = procedure.first_question().filter(|_| !attest.is_empty()).cloned() {
        procedure.attestations.push(Attestation { fact, text: attest, by, time_ms: now_ms });
    }
    Ok(procedure)
}

/// Checks that all programs of the group's level read the procedure.
fn may_be_written(procedure: &Procedure, now: Level) -> Result<(), AskRefused> {
    procedure.beyond(now).map_or(Ok(()), |(what, level)| Err(AskRefused::NeedsLevel { what, level, now }))
}

/// The procedures as the runner is about to find them: one whose last step is reached by now blocks no other.
fn settled(document: &Document, world: &World, now_ms: u64) -> Vec<Procedure> {
    let mut procedures = document.procedures.clone();
    for procedure in &mut procedures {
        settle(procedure, world, now_ms);
    }
    procedures
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        key::KeyPair,
        record::{Level, Policy, Role, Server, Version},
        revision::{Epoch, GroupId},
    };

    use super::{
        super::{
            Failure, Insists, Step, Surveyed,
            model::{farm, names},
            task,
        },
        *,
    };

    fn name(text: &str) -> ServerName {
        names(&[text])[0].clone()
    }

    /// A record whose manager is the first server.
    fn record(servers: &[&str]) -> Record {
        let server = |(at, name): (usize, ServerName)| Server {
            key: KeyPair::generate().public(),
            address: format!("{name}:1"),
            role: if at == 0 { Role::Manager } else { Role::Member },
            candidate: true,
            backends: Vec::new(),
            drained: false,
            name,
        };
        Record {
            refused: Vec::new(),
            level: Level::NEWEST,
            group: GroupId::from([7; 16]),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: names(servers).into_iter().enumerate().map(server).collect(),
            removed: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        }
    }

    fn asked(kind: Kind) -> Request {
        Request { kind, survey: Survey::default(), attest: String::new(), by: "root".into(), dry_run: false }
    }

    /// A procedure of these steps that has stopped at the first.
    fn stopped(kind: Kind, steps: Vec<super::super::Step>) -> Procedure {
        let mut procedure = Procedure::new(Id(1), kind, steps, "root".into(), 0);
        let (reason, left, todo) = ("the disk".to_owned(), String::new(), String::new());
        procedure.standing = Standing::Failed(Failure { reason, left, todo });
        procedure
    }

    fn sync(servers: &[&str]) -> Kind {
        Kind::Sync { servers: names(servers) }
    }

    fn found(procedure: &Procedure, kind: &Kind) -> bool {
        let mut document = Document::empty(GroupId::from([7; 16]));
        document.put(procedure.clone());
        begun(&document, &record(&["m", "a", "b", "c"]), kind).is_some()
    }

    #[test]
    fn w8_the_command_that_a_stop_names_is_the_procedure_that_stopped() {
        let task = |servers: &[&str]| super::super::Step::new(super::super::task::Sync(names(servers)), "");
        let all = stopped(sync(&[]), vec![task(&["a"]), task(&["b"])]);
        for (servers, is_it) in [(&["a"][..], true), (&["b"], true), (&[], true), (&["c"], false), (&["c", "b"], true)]
        {
            assert_eq!(found(&all, &sync(servers)), is_it, "{servers:?}");
        }
        let beyond = Procedure { at: 1, ..all };
        assert!(!found(&beyond, &sync(&["a"])), "it has done with that one");
        let finish = stopped(Kind::MaintenanceFinish { server: name("a") }, vec![task(&["a"])]);
        for kind in [
            Kind::MaintenanceFinish { server: name("a") },
            Kind::ServerAdd { server: name("a") },
            Kind::ServerEnable { server: name("a") },
        ] {
            assert!(found(&finish, &kind), "{kind:?}");
        }
        for other in ["b", "c"] {
            assert!(!found(&finish, &Kind::ServerAdd { server: name(other) }));
        }
        assert!(!found(&finish, &Kind::RecoverMember { server: name("a"), remove: false }), "another plan");
    }

    #[test]
    fn given_again_it_goes_on_and_one_that_has_not_stopped_is_left_as_it_is() {
        let finish = Kind::MaintenanceFinish { server: name("a") };
        let steps = plan(&finish, &farm(&["m", "a"]), &Survey::default()).unwrap();
        let mut procedure = stopped(finish.clone(), steps);
        again(&mut procedure, &asked(finish.clone()), 9).unwrap();
        assert_eq!((&procedure.standing, procedure.began_ms, procedure.resumed), (&Standing::Running, 9, 1));
        let running = procedure.clone();
        again(&mut procedure, &asked(finish), 99).unwrap();
        assert_eq!(procedure, running);
    }

    #[test]
    fn w25_another_token_gives_new_hardware_its_own_time() {
        let mut world = farm(&["m", "a"]);
        world.balancers = true;
        let kind = |ttl_ms| Kind::ServerReplace { server: name("a"), ttl_ms };
        let steps = plan(&kind(1_000), &world, &Survey::default()).unwrap();
        let mut procedure = stopped(kind(1_000), steps);
        assert!(found(&procedure, &kind(2_000)));
        again(&mut procedure, &asked(kind(2_000)), 9).unwrap();
        let waits = procedure.steps.iter().find_map(|step| match step.task {
            Task::Replace(ref joins) => Some(joins.ttl_ms),
            _ => None,
        });
        assert_eq!((&procedure.kind, waits), (&kind(2_000), Some(2_000)));
    }

    #[test]
    fn w18_nobody_is_drained_again_for_a_successor_that_does_not_answer() {
        let kind = Kind::MaintenanceStart { server: name("m"), promote: Some(name("a")), remove: false };
        let steps = plan(&kind, &farm(&["m", "a"]), &Survey::default()).unwrap();
        let mut procedure = stopped(kind.clone(), steps);
        let before = procedure.clone();
        let mut request = asked(kind);
        request.survey.members.insert(name("a"), Surveyed::Silent("no answer".into()));
        assert!(matches!(again(&mut procedure, &request, 9), Err(PlanRefused::Successor { .. })));
        assert_eq!(procedure, before);
        request.survey = Survey::default();
        assert!(again(&mut procedure, &request, 9).is_ok());
    }

    #[test]
    fn w24_a_recovery_that_stopped_before_it_promoted_anybody_makes_room_for_a_new_one() {
        let mut world = farm(&["m", "a", "b"]);
        world.me = name("a");
        let kind = |force| {
            let insists = Insists { force, accept: false };
            Kind::RecoverManager { lost: name("m"), new: name("a"), remove: false, insists }
        };
        let steps = plan(&kind(false), &world, &Survey::default()).unwrap();
        let old = stopped(kind(false), steps.clone());
        assert!(!found(&old, &kind(false)), "what it found at the others is old");
        let mut document = Document::empty(GroupId::from([7; 16]));
        document.put(old.clone());
        let new = propose((&document, Level::FIRST), &world, asked(kind(true)), 9).expect("it is begun");
        takes_the_place(&mut document, new.id, &new.kind, "root");
        assert!(document.procedures[0].is_over(), "{:?}", document.procedures[0]);
        // What came with a later level waits for it.
        let step = Step::new(task::Later(Level(2)), "it is new");
        let newer = Procedure { steps: vec![step], ..new };
        assert!(may_be_written(&newer, Level(2)).is_ok());
        let refused = may_be_written(&newer, Level(1)).unwrap_err();
        assert!(
            refused.to_string().starts_with("the step 'do what is new' needs level 2, and the group is of level 1")
        );
        assert!(refused.advice().is_some_and(|advice| advice.hint.contains("group set --level 2")));
        // A recovery that drains already blocks another one.
        document.procedures[0] = Procedure { standing: Standing::Running, at: 1, ..old };
        assert!(matches!(
            propose((&document, Level::FIRST), &world, asked(kind(true)), 9),
            Err(AskRefused::Plan(PlanRefused::Busy { .. }))
        ));
    }
}
