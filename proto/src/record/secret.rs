//! The files whose content no output shows.

use serde::{Deserialize, Serialize};

use crate::{Malformed, name::SetName};

/// The most patterns of one set.
const PATTERNS: usize = 10_000;

/// The secret files of one set.
///
/// They are no part of [`super::SetRules`], which are hashed into each tree: the patterns in force count for every revision,
/// the earlier ones included, and a new pattern makes no revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretFiles {
    /// The set.
    pub set: SetName,
    /// gitignore patterns, at least one.
    pub patterns: Vec<String>,
}

/// Checks a record's list: sorted by set, none twice.
///
/// # Errors
/// The rule that the list breaks.
pub(super) fn check(list: &[SecretFiles]) -> Result<(), Malformed> {
    if !list.is_sorted_by(|a, b| a.set < b.set) {
        return Err(Malformed::new("a group record whose secret files are not sorted, or twice there"));
    }
    match list.iter().find(|files| files.patterns.is_empty() || files.patterns.len() > PATTERNS) {
        Some(SecretFiles { set, patterns }) => {
            Err(Malformed::new(format!("{} secret patterns in set {set}; it may be 1 to {PATTERNS}", patterns.len())))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_is_there_once_and_has_patterns() {
        let files = |set: &str, patterns: &[&str]| SecretFiles {
            set: set.parse().unwrap(),
            patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        };
        assert_eq!(check(&[files("a", &["*.key"]), files("b", &["x", "y"])]), Ok(()));
        for wrong in [
            vec![files("b", &["x"]), files("a", &["x"])],
            vec![files("a", &["x"]), files("a", &["y"])],
            vec![files("a", &[])],
            vec![files("a", &["x"; PATTERNS + 1])],
        ] {
            assert!(check(&wrong).is_err());
        }
    }
}
