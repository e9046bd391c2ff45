//! Which revision of the line a name means. A rule, without I/O.

use bellwether_proto::{
    advice::{Advice, Advise},
    revision::{Number, RevisionName},
};
use bellwether_store::history::HistoryError;

/// No revision has that name.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It would be newer than the head.
    #[error("there is no revision {name}: the head is {head}")]
    Newer {
        /// The name.
        name: RevisionName,
        /// The head.
        head: Number,
    },
    /// It is older than what is kept.
    #[error(
        "revision {name} is not in the history any more: it was dropped by retention or by `forget`, or this manager joined the \
         group after it; the oldest revision here is {oldest}"
    )]
    Dropped {
        /// The name.
        name: RevisionName,
        /// The oldest that is kept.
        oldest: Number,
    },
    /// There never was one: it would be older than the first.
    #[error("there is no revision {name}: the first is {first}")]
    Older {
        /// The name.
        name: RevisionName,
        /// The first.
        first: Number,
    },
    /// The sequence is of another epoch.
    #[error("there is no revision {name} in this history: sequence {} is revision {is}", is.sequence)]
    Elsewhere {
        /// The name.
        name: RevisionName,
        /// The revision of that sequence.
        is: Number,
    },
    /// The history cannot be read.
    #[error("the history cannot be read")]
    History(#[source] HistoryError),
}

impl Advise for FindError {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::Newer { .. } | Self::Dropped { .. } | Self::Older { .. } | Self::Elsewhere { .. } => {
                Some(Advice::run("to see the revisions", "bellwether log"))
            }
            Self::History(_) => None,
        }
    }
}

/// The place of the revision in `line`, which is the head and those before it. `dropped`: older ones were, and are gone.
pub(super) fn find((head, line): (Number, &[Number]), dropped: bool, name: RevisionName) -> Result<usize, FindError> {
    let oldest = line.last().copied().unwrap_or(head);
    let older = || match dropped {
        true => FindError::Dropped { name, oldest },
        false => FindError::Older { name, first: oldest },
    };
    let sequence = match name {
        RevisionName::Head(back) => {
            return usize::try_from(back).ok().filter(|back| *back < line.len()).ok_or_else(older);
        }
        RevisionName::Sequence(sequence) | RevisionName::Number(Number { sequence, .. }) => sequence,
    };
    if sequence > head.sequence {
        return Err(FindError::Newer { name, head });
    }
    // Newest first.
    let at = line.partition_point(|number| number.sequence > sequence);
    match (line.get(at).copied(), name) {
        (Some(is), RevisionName::Number(number)) if is != number => Err(FindError::Elsewhere { name, is }),
        (Some(is), _) if is.sequence == sequence => Ok(at),
        (Some(is), _) => Err(FindError::Elsewhere { name, is }),
        (None, _) => Err(older()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Vec<Number> {
        ["3.9", "3.8", "1.7", "1.6", "1.5"].map(|text| text.parse().unwrap()).to_vec()
    }

    fn found(name: &str) -> Result<String, String> {
        let line = line();
        find((line[0], &line), true, name.parse().unwrap())
            .map(|at| line[at].to_string())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_means_one_revision_over_epochs() {
        for (name, number) in
            [("head", "3.9"), ("head-2", "1.7"), ("9", "3.9"), ("6", "1.6"), ("1.5", "1.5"), ("3.8", "3.8")]
        {
            assert_eq!(found(name).as_deref(), Ok(number), "{name}");
        }
    }

    #[test]
    fn what_is_not_there_is_said_with_what_is() {
        for (name, said) in [
            ("3.10", "the head is 3.9"),
            ("4", "dropped by retention"),
            ("1.4", "the oldest revision here is 1.5"),
            ("head-5", "dropped by retention"),
            ("1.8", "sequence 8 is revision 3.8"),
        ] {
            assert!(found(name).expect_err(name).contains(said), "{name}");
        }
        let first = find((line()[0], &line()), false, RevisionName::Head(5)).expect_err("there is none");
        assert!(first.to_string().contains("the first is 1.5"), "{first}");
    }
}
