//! A batch at the manager: publishing is held while a command runs, and its edits are published once if it succeeds.

use serde::{Deserialize, Serialize};

use crate::time::utc;

/// A batch: in the status, and in the manager's state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The user that began it, with the server.
    pub owner: String,
    /// Its command line, for people.
    pub command: String,
    /// The process of the command `batch`.
    pub pid: u32,
    /// Its beginning, in milliseconds since 1970.
    pub began_ms: u64,
    /// Its deadline, in milliseconds since 1970.
    pub deadline_ms: u64,
    /// Its state.
    pub state: BatchState,
}

/// The state of a batch. All but the first are ends without a result: a person decides on the edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Its command runs.
    Running,
    /// The command `batch` ended before the end of the batch.
    Gone,
    /// The manager's agent was stopped or killed during the batch.
    Restarted,
    /// The deadline passed.
    Late,
    /// Its command failed, and the edits could not be put back.
    NotPutBack,
}

impl BatchState {
    /// The reason for an end without a result; none: the batch runs.
    fn why(self) -> Option<&'static str> {
        match self {
            Self::Running => None,
            Self::Gone => Some("the command `batch` was ended"),
            Self::Restarted => Some("the agent was stopped or killed meanwhile"),
            Self::Late => Some("its deadline passed"),
            Self::NotPutBack => Some("its command failed, and the edits could not be put back"),
        }
    }
}

impl Batch {
    /// Whether its command runs and the deadline is not over.
    pub fn is_running(&self) -> bool {
        self.state == BatchState::Running
    }

    /// The batch and its state, in one clause for people.
    pub fn described(&self) -> String {
        let Self { owner, command, .. } = self;
        match self.state.why() {
            None => {
                let until = utc((self.deadline_ms / 1_000).try_into().unwrap_or(i64::MAX));
                format!("the batch of {owner} ({command}) runs, until {until} UTC at the latest")
            }
            Some(why) => {
                format!("the batch of {owner} ({command}) ended without a result; its edits are not published ({why})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_names_its_owner_its_command_and_its_end() {
        let mut batch = Batch {
            owner: "ann at web1".into(),
            command: "ansible-playbook web.yml".into(),
            pid: 7,
            began_ms: 0,
            deadline_ms: 3_600_000,
            state: BatchState::Running,
        };
        assert_eq!(
            batch.described(),
            "the batch of ann at web1 (ansible-playbook web.yml) runs, until 1970-01-01 01:00:00 UTC at the latest"
        );
        for state in [BatchState::Gone, BatchState::Restarted, BatchState::Late, BatchState::NotPutBack] {
            batch.state = state;
            let said = batch.described();
            assert!(
                !batch.is_running() && said.contains("ended without a result; its edits are not published"),
                "{said}"
            );
        }
    }
}
