//! The refusal of files by a command of a set on this server, and the edits that are to be corrected or dropped.

use bellwether_local::prove::Complaint;
use bellwether_proto::advice::Advice;
use bellwether_store::tree::Change;

/// The most edits that a command to drop them names.
const NAMED: usize = 3;

/// A command of a set refuses the files that it saw.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// Its words.
    pub complaint: Complaint,
    /// Edits that it saw, that are not published, and that are still there, as `SET:PATH`. For a change by a command, which is
    /// taken out of the sets again, these are the edits of others.
    pub edits: Vec<String>,
}

impl Rejection {
    pub(super) fn new(complaint: Complaint, edits: &[Change]) -> Self {
        Self { complaint, edits: edits.iter().map(name).collect() }
    }

    /// The advice for edits that are not published by themselves.
    pub(super) fn advice(&self) -> Advice {
        Advice::say("correct the files").or(&Advice::run("or, to drop the edits, at the manager", self.discard()))
    }

    /// The refusal of a change by a command, for people.
    pub(super) fn of_change(&self) -> String {
        let reason = &self.complaint.reason;
        match self.named() {
            None => format!("refused, and the manager's sets are as they were: {reason}"),
            Some(edits) => format!(
                "refused, and the manager's sets are as they were: {reason}; the command saw other edits there that are not \
                 published, too: {edits}"
            ),
        }
    }

    /// The advice for a change by a command.
    pub(super) fn advice_for_change(&self) -> Advice {
        match self.edits.is_empty() {
            true => Advice::say("correct the content, and give the command again"),
            false => Advice::run("correct these edits first, or drop them, at the manager", self.discard()),
        }
    }

    fn named(&self) -> Option<String> {
        let more = self.edits.len().saturating_sub(NAMED);
        let names = self.edits.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| if more == 0 { names } else { format!("{names} and {more} more") })
    }

    fn discard(&self) -> String {
        match self.edits.len() {
            1..=NAMED => format!("bellwether discard {}", self.edits.join(" ")),
            _ => "bellwether discard".to_owned(),
        }
    }
}

/// An edit, as `SET:PATH`.
pub(super) fn name(change: &Change) -> String {
    format!("{}:{}", change.set, change.path)
}
