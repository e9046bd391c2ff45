//! What a step is: a task, and why. What a task is, is in [`super::task`]; how it is done, is an [`Action`].

use bellwether_proto::name::ServerName;
use serde::{Deserialize, Serialize};

use super::{Insists, Task};
use crate::edits::RecordEdit;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What is brought about.
    pub task: Task,
    /// Why, in one clause.
    pub why: String,
    /// How it ended, where there is something to say.
    pub noted: Option<String>,
}

impl Step {
    pub(super) fn new(task: impl Into<Task>, why: impl Into<String>) -> Self {
        Self { task: task.into(), why: why.into(), noted: None }
    }
}

/// What is done to the world; safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take them out of service: in the record (their `/ready` answers 503) and at the balancers.
    Drain(Vec<ServerName>),
    /// Back into service.
    Undrain(Vec<ServerName>),
    /// At the manager: hand the role to `to`; this server becomes disabled or is removed, in the same record.
    HandOver {
        /// Who becomes manager.
        to: ServerName,
        /// Removed instead of disabled.
        remove: bool,
    },
    /// At the candidate: take the role; the manager that is lost becomes disabled or is removed.
    Promote {
        /// Removed instead of disabled.
        remove: bool,
        /// What the person who asked insists on.
        insists: Insists,
    },
    /// Change the record.
    Edit(RecordEdit),
    /// Bring to the manager's state.
    Sync(Vec<ServerName>),
    /// Hash every byte.
    Verify(Vec<ServerName>),
}
