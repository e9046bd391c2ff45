//! The manager's role: its config directories are the truth; every edit becomes a signed revision that all members get.
//!
//! [`form`](form()) makes a group; [`Manager::start`] runs it. Four kinds of task, all ended by the `shutdown` watch
//! and joined by [`Manager::stopped`]:
//!
//! ```text
//! watch ──PendingChanges──▶ publisher ──head (watch)──▶ lanes ──▶ one lane a member ──gRPC stream──▶ member
//!                              ▲   Command (mpsc)          ▲  record (watch), ToLanes (mpsc)
//!                              └────────── Manager ────────┘        all of them ──Event (mpsc)──▶ the monitor
//! rollout ──plan (watch)──▶ publisher, lanes; rollout ──Command (mpsc)──▶ publisher
//! forget ──Command (mpsc)──▶ publisher; servers' reports ──▶ forget
//! ```
//!
//! The rules of the record and the procedures are in `bellwether_group`, without I/O. [`publish::safety`], [`lane::plan`],
//! [`lane::Session`] and [`balancer::rules`] here are also without I/O.

// Only `agent/src/output.rs` and the log write text for people.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod balancer;
pub mod begin;
pub mod failpoints;
mod forget;
#[cfg(fuzzing)]
pub mod fuzzing;
mod inside;
pub mod lane;
mod manager;
mod members;
pub mod past;
pub mod procedures;
pub mod publish;
mod rollout;
mod shared;
pub mod tasks;

pub use begin::{
    form::{Form, FormError, Formed, form},
    start::StartError,
};
pub use forget::{Forget, ForgetError, ForgetPlan, Run};
pub use inside::{Inside, Queue};
pub use lane::{
    Deadlines,
    view::{InFlight, LaneView, Phase},
};
pub use manager::Manager;
pub use members::{
    entering::{EnterError, PreviewError},
    hand_over::HandOverError,
};
pub use publish::{
    adopt::{Adopt, AdoptError, Adopted},
    batch::{BatchError, BatchSession, BeginBatch, Begun, Finished, InBatch},
    discard::{Discard, DiscardError, Discarded},
    live::{Checkout, LiveError},
    preview::Preview,
    publisher::Published,
    put::{ChangeError, Changed},
    read::{FileRead, ReadError},
    rollback::{Rollback, RollbackError, RolledBack},
    round::{Changes, PublishError, Request},
};
pub use rollout::{ConfirmError, DecideError, Decision};
pub use shared::{Dial, Dialling, EditError, HaltFn, Setup, Timings};
