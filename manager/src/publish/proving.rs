//! Has the manager's own services take the files that are there: one task runs the commands that reload and check them. A failure
//! is this server's error until the next success.

use std::{sync::Arc, time::Instant};

use bellwether_local::{
    prove::{self, Commands},
    secret::Secrets,
};
use bellwether_proto::{
    clock::micros,
    name::{ServerName, SetName},
    revision::Number,
    status::{Event, Observation},
};
use bellwether_store::tree::{Change, Tree};
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{publish::head::Head, shared::Shared};

/// The treatment of files that a command refuses before anything is reloaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Validation {
    /// They were validated before.
    Done,
    /// They are edits that are not published, and the state stays as it is.
    Silent,
    /// The person who asked is told.
    Told,
}

/// The commands that run, or ran last.
#[derive(Default)]
pub(crate) struct Proving {
    task: Option<JoinHandle<()>>,
    commands: Commands,
}

impl Proving {
    /// As the role begins: what was due when it ended is not known. Files that a command refuses are edits that are not published,
    /// and nothing is reloaded then.
    pub(super) fn begin(&mut self, shared: &Arc<Shared>) {
        let number = shared.head.borrow().stored.header.number();
        self.run(shared, number, shared.commands.clone(), Validation::Silent);
    }

    /// At a person's request (`sync`). When this returns, the monitor shows that they run.
    pub(super) async fn again(&mut self, shared: &Arc<Shared>) {
        if let Some(task) = self.task.take() {
            // Its last word must not be taken for the end of this run, which has all its commands.
            task.abort();
            let _ = task.await;
        }
        let number = shared.head.borrow().stored.header.number();
        shared.see(Event::Server(shared.name.clone(), Observation::Started { sync: true, to: number }));
        self.run(shared, number, shared.commands.clone(), Validation::Told);
    }

    /// For a new head, in place of the tree `before`.
    pub(super) fn head(&mut self, shared: &Arc<Shared>, head: &Head, before: &Tree) {
        if !shared.commands.is_empty() {
            self.run(
                shared,
                head.stored.header.number(),
                shared.commands_for(&before.diff(&head.tree)),
                Validation::Done,
            );
        }
    }

    /// The files of these changes are as in the head again.
    pub(super) fn put_back(&mut self, shared: &Arc<Shared>, changes: &[Change]) {
        let number = shared.head.borrow().stored.header.number();
        self.run(shared, number, shared.commands_for(changes), Validation::Done);
    }

    /// The files of these sets' own paths are as in the head again.
    pub(super) fn live(&mut self, shared: &Arc<Shared>, sets: &[SetName]) {
        let number = shared.head.borrow().stored.header.number();
        self.run(shared, number, shared.commands_of(sets), Validation::Done);
    }

    /// A run that has not ended is given up, and its commands run with the new ones.
    fn run(&mut self, shared: &Arc<Shared>, number: Number, commands: Commands, validation: Validation) {
        if commands.is_empty() {
            return;
        }
        match self.task.take().filter(|task| !task.is_finished()) {
            Some(task) => {
                task.abort();
                self.commands.extend(commands);
            }
            None => self.commands = commands,
        }
        let (shared, commands) = (shared.clone(), self.commands.clone());
        let span = tracing::error_span!("publish", revision = %number);
        let proving = async move {
            let validated = match validation {
                Validation::Done => Ok(()),
                Validation::Silent | Validation::Told => prove::validate(&commands, &shared.secrets()).await,
            };
            let name = &shared.name;
            let observed = match validated {
                Err(complaint) => {
                    tracing::warn!(complaint.reason, "a command refuses the manager's files: nothing is reloaded");
                    if validation == Validation::Silent {
                        return;
                    }
                    let next = format!("correct the files, or: bellwether discard; then: bellwether sync {name}");
                    Observation::Failed(format!("nothing was reloaded: {}; {next}", complaint.reason))
                }
                Ok(()) => {
                    let (observed, failure) = reloaded(&commands, &shared.secrets(), number, name).await;
                    shared.rollouts.observe_own(name, number, failure.as_deref());
                    observed
                }
            };
            shared.see(Event::Server(shared.name.clone(), observed));
        };
        self.task = Some(tokio::spawn(proving.instrument(span)));
    }
}

/// Runs the commands that reload and check; the reason if one fails, too.
async fn reloaded(
    commands: &Commands,
    secrets: &Secrets,
    number: Number,
    name: &ServerName,
) -> (Observation, Option<String>) {
    let began = Instant::now();
    match prove::prove(commands, false, secrets, |_| {}).await {
        Ok(()) => (Observation::Done { revision: number, micros: micros(began), kept: Vec::new() }, None),
        Err(complaint) => {
            tracing::error!(complaint.reason, complaint.output, "the service of this manager fails");
            let next = format!("correct the files, or: bellwether rollback; to try again: bellwether sync {name}");
            (Observation::Failed(format!("{}; {next}", complaint.reason)), Some(complaint.reason))
        }
    }
}
