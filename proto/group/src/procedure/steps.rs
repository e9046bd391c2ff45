//! A step: a task, and its reason. [`super::task`] has the tasks; an [`Action`] brings a task about.

use bellwether_proto::name::ServerName;
use serde::{Deserialize, Serialize};

use super::{Insists, Task};
use crate::edits::RecordEdit;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The task.
    pub task: Task,
    /// The reason, in one clause.
    pub why: String,
    /// A note on its end, if there is one.
    pub noted: Option<String>,
}

impl Step {
    pub(super) fn new(task: impl Into<Task>, why: impl Into<String>) -> Self {
        Self { task: task.into(), why: why.into(), noted: None }
    }
}

/// A change of the world; safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take servers out of service: in the record (their `/ready` answers 503) and at the balancers.
    Drain(Vec<ServerName>),
    /// Bring servers back into service.
    Undrain(Vec<ServerName>),
    /// At the manager: hand the role to `to`; this server becomes disabled or is removed, in the same record.
    HandOver {
        /// The new manager.
        to: ServerName,
        /// Whether this server is removed instead of disabled.
        remove: bool,
    },
    /// At the candidate: take the role; the lost manager becomes disabled or is removed.
    Promote {
        /// Whether the lost manager is removed instead of disabled.
        remove: bool,
        /// The options on which the person insists.
        insists: Insists,
    },
    /// Change the record.
    Edit(RecordEdit),
    /// Bring servers to the manager's state.
    Sync(Vec<ServerName>),
    /// Hash every byte of servers.
    Verify(Vec<ServerName>),
}
