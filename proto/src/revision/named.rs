//! How a person names a revision of the history.

use std::{fmt, str::FromStr};

use super::{Epoch, Number};
use crate::Malformed;

/// The name of a revision: `1.12`, `12` (sequences count up across epochs), `head`, or `head-2`, the second one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevisionName {
    /// So many revisions before the head.
    Head(u64),
    /// The revision with that sequence.
    Sequence(u64),
    /// The revision with that number.
    Number(Number),
}

impl fmt::Display for RevisionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head(0) => f.write_str("head"),
            Self::Head(back) => write!(f, "head-{back}"),
            Self::Sequence(sequence) => write!(f, "{sequence}"),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

impl FromStr for RevisionName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let number = |digits: &str| {
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| digits.parse::<u64>().ok()).flatten()
        };
        let named = match (text, text.strip_prefix("head-"), text.split_once('.')) {
            ("head", _, _) => Some(Self::Head(0)),
            (_, Some(back), _) => number(back).map(Self::Head),
            (_, None, Some((epoch, sequence))) => number(epoch)
                .zip(number(sequence))
                .map(|(epoch, sequence)| Self::Number(Number { epoch: Epoch(epoch), sequence })),
            (_, None, None) => number(text).map(Self::Sequence),
        };
        named.ok_or_else(|| {
            Malformed::new(format!(
                "'{}' is not a revision: EPOCH.SEQUENCE (1.12), SEQUENCE (12), head, or head-N",
                text.escape_default()
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_named_by_number_by_sequence_or_from_the_head() {
        let number = Number { epoch: Epoch(1), sequence: 12 };
        for (text, name) in [
            ("head", RevisionName::Head(0)),
            ("head-3", RevisionName::Head(3)),
            ("12", RevisionName::Sequence(12)),
            ("1.12", RevisionName::Number(number)),
        ] {
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_names_no_revision_is_refused() {
        for text in ["", "-1", "+1", "1.", ".1", "1.2.3", "head-", "head-x", "Head", "nginx", "99999999999999999999"] {
            assert!(text.parse::<RevisionName>().is_err(), "{text}");
        }
    }
}
