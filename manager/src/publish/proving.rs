//! Has the manager's own services take the files that are there: one task runs the commands that reload and check them. A failure
//! is this server's error until the next success.

use std::{sync::Arc, time::Instant};

use bellwether_local::prove::{self, Commands};
use bellwether_proto::{
    clock::micros,
    revision::Number,
    status::{Event, Observation},
};
use bellwether_store::tree::Tree;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{publish::head::Head, shared::Shared};

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
        self.run(shared, number, shared.commands.clone(), true);
    }

    /// For a new head, in place of the tree `before`.
    pub(super) fn head(&mut self, shared: &Arc<Shared>, head: &Head, before: &Tree) {
        if !shared.commands.is_empty() {
            self.run(shared, head.stored.header.number(), shared.commands_for(&before.diff(&head.tree)), false);
        }
    }

    /// A run that has not ended is given up, and its commands run with the new ones.
    fn run(&mut self, shared: &Arc<Shared>, number: Number, commands: Commands, validates: bool) {
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
            if validates && let Err(complaint) = prove::validate(&commands, &shared.secrets()).await {
                tracing::warn!(complaint.reason, "a command refuses the manager's files: nothing is reloaded");
                return;
            }
            let began = Instant::now();
            let observed = match prove::prove(&commands, false, &shared.secrets(), |_| {}).await {
                Ok(()) => Observation::Done { revision: number, micros: micros(began), kept: Vec::new() },
                Err(complaint) => {
                    tracing::error!(complaint.reason, complaint.output, "the service of this manager fails");
                    Observation::Failed(format!("{}; correct the files, or: bellwether rollback", complaint.reason))
                }
            };
            shared.see(Event::Server(shared.name.clone(), observed));
        };
        self.task = Some(tokio::spawn(proving.instrument(span)));
    }
}
