//! The commands of the sets: whether a revision may be switched to, and whether the services work with it.
//!
//! Each run is a task of the agent's runtime, and the member's thread goes on with everything else. What comes of it is an
//! [`Input`] of the member.

use std::path::PathBuf;

use bellwether_local::{
    prove::{self, Commands, Inside},
    secret::Secrets,
};
use bellwether_store::failpoint;
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Duration, interval},
};
use tracing::Instrument;

use super::{
    Input,
    follower::{Input as Happened, Validated},
};

/// The places between two steps of the commands at which tests end the agent.
pub const FAILPOINTS: [&str; 8] = [
    "member.kept",
    "member.staged",
    "member.validated",
    "member.owed",
    "member.reloaded",
    "member.proved",
    "member.returning",
    "member.returned",
];

/// How often the manager is told that commands are still running.
const BEAT: Duration = Duration::from_secs(5);

/// Commands that are running. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Running {
    /// Tells the runs apart.
    pub(crate) number: u64,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a run tells what comes of it.
#[derive(Debug, Clone)]
pub(crate) struct Teller {
    /// Its number.
    pub(crate) number: u64,
    /// To the member.
    pub(crate) inputs: mpsc::WeakSender<Input>,
    /// Where it runs.
    pub(crate) runtime: tokio::runtime::Handle,
}

impl Teller {
    async fn tell(&self, happened: Happened) {
        if let Some(inputs) = self.inputs.upgrade() {
            // An error: the role has ended.
            let _ = inputs.send(Input::Ran(self.number, happened)).await;
        }
    }
}

/// Runs the commands that validate; they see the new tree that the file `view` describes.
pub(crate) fn validate(teller: &Teller, commands: Commands, secrets: Secrets, view: PathBuf) -> Running {
    begin(teller, "validating", async move {
        Happened::Validated(match prove::validate_inside(&commands, &secrets, &view).await {
            Inside::Good => Validated::Good,
            Inside::Unable => Validated::Unable,
            Inside::Bad(complaint) => Validated::Bad(complaint),
        })
    })
}

/// Runs what is owed for what the sets hold now: the commands that validate, where they could not before, then the reloads, then
/// the checks. The first one that fails ends it.
pub(crate) fn prove(teller: &Teller, commands: Commands, secrets: Secrets, validate: bool) -> Running {
    let told = teller.clone();
    begin(teller, "reloading", async move {
        let proved = prove::prove(&commands, validate, &secrets, |phase| {
            if phase == "checking" {
                failpoint::hit("member.reloaded");
            }
            // A lost word does no harm: the next one follows.
            if let Some(inputs) = told.inputs.upgrade() {
                let _ = inputs.try_send(Input::Ran(told.number, Happened::Working(phase)));
            }
        });
        Happened::Proved(proved.await)
    })
}

/// Begins a run.
fn begin(teller: &Teller, phase: &'static str, work: impl Future<Output = Happened> + Send + 'static) -> Running {
    let told = teller.clone();
    let run = async move {
        tokio::pin!(work);
        let mut beat = interval(BEAT);
        beat.tick().await;
        let ended = loop {
            tokio::select! {
                ended = &mut work => break ended,
                _ = beat.tick() => told.tell(Happened::Working(phase)).await,
            }
        };
        told.tell(ended).await;
    };
    let task = teller.runtime.spawn(run.in_current_span());
    Running { number: teller.number, task: task.abort_handle() }
}
