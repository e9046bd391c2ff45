//! The contents that every server erases from its history.

use serde::{Deserialize, Serialize};

use crate::{Malformed, hash::Hash, limits, revision::Number};

/// A content that was erased from the manager's history (`forget`), and that every other server erases, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    /// Counts up in the group.
    pub id: u64,
    /// The place that had the content, as `SET:PATH`, for people.
    pub place: String,
    /// The chunks that only this content had.
    pub chunks: Vec<Hash>,
    /// The head at that time: later revisions are kept, even if one has the content again.
    pub until: Number,
    /// The oldest revision in the manager's history after that.
    pub begins: Number,
    /// The person who gave the command.
    pub by: String,
    /// The time of the command, in milliseconds since 1970.
    pub time_ms: u64,
    /// Whether every server of the group has erased the content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// Checks a record's list: the ids ascend, and the limits are kept.
///
/// # Errors
/// The rule that the list breaks.
pub(super) fn check(list: &[Forgotten]) -> Result<(), Malformed> {
    let wrong = |what: String| Err(Malformed::new(format!("a group record with {what}")));
    let (notes, chunks) = limits::FORGOTTEN;
    let all: usize = list.iter().map(|forgotten| forgotten.chunks.len()).sum();
    if list.len() > notes || all > chunks {
        let count = list.len();
        return wrong(format!("{count} forgotten contents of {all} chunks; the limits are {notes} and {chunks}"));
    }
    if !list.is_sorted_by(|a, b| a.id < b.id) || list.iter().any(|forgotten| forgotten.chunks.is_empty()) {
        return wrong("forgotten contents that are not in order, or have no chunks".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::Epoch;

    fn forgotten(id: u64, chunks: usize) -> Forgotten {
        let number = Number { epoch: Epoch(1), sequence: 4 };
        Forgotten {
            id,
            place: "web:a.key".to_owned(),
            chunks: vec![Hash::of(b"x"); chunks],
            until: number,
            begins: number,
            by: "root".to_owned(),
            time_ms: 1,
            done: false,
        }
    }

    #[test]
    fn the_list_is_in_order_and_bounded() {
        let (notes, chunks) = limits::FORGOTTEN;
        assert_eq!(check(&[forgotten(1, 1), forgotten(4, 2)]), Ok(()));
        assert_eq!(check(&[forgotten(1, chunks)]), Ok(()));
        for wrong in [
            vec![forgotten(2, 1), forgotten(2, 1)],
            vec![forgotten(1, 0)],
            vec![forgotten(1, chunks), forgotten(2, 1)],
            (0..=notes as u64).map(|id| forgotten(id, 1)).collect(),
        ] {
            assert!(check(&wrong).is_err());
        }
    }
}
