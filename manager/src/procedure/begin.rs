//! Whether a procedure is begun, and what is written down then: rules over the document and the world.

use bellwether_proto::{
    advice::{Advice, Advise},
    name::ServerName,
    record::Record,
};

use super::{
    Attestation, BoardError, Document, Id, Kind, PlanRefused, Procedure, Standing, Survey, World,
    plan::{free, plan},
    settle,
};

/// What is asked for when a procedure is to begin.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is to be done.
    pub kind: Kind,
    /// What was found at the members, where a manager is recovered.
    pub survey: Survey,
    /// An answer to its first question; empty: none yet.
    pub attest: String,
    /// Who.
    pub by: String,
    /// Only the steps.
    pub dry_run: bool,
}

/// Why nothing is begun, resumed or aborted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A rule says no.
    #[error(transparent)]
    Plan(#[from] PlanRefused),
    /// Not this server's to drive.
    #[error("procedures are driven at the manager, {0}")]
    Elsewhere(ServerName),
    /// No such procedure.
    #[error("there is no procedure {0}")]
    Unknown(Id),
    /// The change is refused, or not saved.
    #[error(transparent)]
    Board(#[from] BoardError),
}

impl Advise for AskError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Plan(refused) => refused.advice(),
            Self::Elsewhere(manager) => Some(Advice::run(
                &format!("run the command there; should {manager} be lost, at a candidate"),
                "bellwether recover manager",
            )),
            Self::Unknown(_) => Some(Advice::run("see", "bellwether procedure list")),
            Self::Board(BoardError::Refused(refused)) => refused.advice(),
            Self::Board(BoardError::Document(_) | BoardError::Malformed(_) | BoardError::Save(_)) => None,
        }
    }
}

/// The procedure that a request for `kind` means: the same one, begun and not over; or the recovery by which the server that
/// is asked has become the manager, unless it was given up.
pub fn begun<'a>(document: &'a Document, record: &Record, kind: &Kind) -> Option<&'a Procedure> {
    let same = |procedure: &&Procedure| !procedure.is_over() && procedure.kind == *kind;
    let recovered = |procedure: &&Procedure| match (&procedure.kind, kind) {
        (Kind::RecoverManager { new, .. }, Kind::RecoverManager { new: me, .. }) => {
            new == me && record.manager().name == *me && !matches!(procedure.standing, Standing::Aborted { .. })
        }
        _ => false,
    };
    let procedures = &document.procedures;
    procedures.iter().find(same).or_else(|| procedures.iter().rfind(recovered))
}

/// A new procedure, as the server that looks at `world` would drive it. One without steps is not to be begun.
///
/// # Errors
/// Why it is not begun.
pub fn propose(document: &Document, world: &World, request: Request, now_ms: u64) -> Result<Procedure, AskError> {
    let Request { kind, survey, attest, by, dry_run: _ } = request;
    let mut procedure = Procedure::new(document.next_id(), kind, Vec::new(), by.clone(), now_ms);
    let driver = procedure.driver(&world.manager);
    if *driver != world.me {
        return Err(AskError::Elsewhere(driver.clone()));
    }
    procedure.steps = plan(&procedure.kind, world, &survey)?;
    procedure.findings = survey.findings;
    match procedure.kind {
        // Whatever else is under way goes on after it.
        Kind::RecoverManager { .. } => {}
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

/// What the runner is about to find: one whose last step is so by now is in nobody's way.
fn settled(document: &Document, world: &World, now_ms: u64) -> Vec<Procedure> {
    let mut procedures = document.procedures.clone();
    for procedure in &mut procedures {
        settle(procedure, world, now_ms);
    }
    procedures
}
