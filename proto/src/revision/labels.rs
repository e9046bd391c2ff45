//! The labels of a revision: a person's own, and those by which the program marks it.

use std::collections::BTreeMap;

use crate::{Malformed, limits};

/// The label of a revision that a person accepted: entries that went before it count no more, even after restarts.
pub const ACCEPTED: &str = "accepted";
/// The label of a revision that is sent while propagation is paused, and after which no edit is published by itself.
pub const HOLD: &str = "hold";

/// The label of a revision with earlier content that the manager published because a rollout had stopped: the number of the
/// stopped revision. It goes to all members at once.
pub const TAKEN_BACK: &str = "taken-back";
/// The label of a revision that a person published while a rollout was stopped: the number of the stopped revision.
pub const REPLACES: &str = "replaces";

/// The label of a revision that every server takes back by itself if nobody confirms it within so many milliseconds after the
/// switch.
pub const CONFIRM_WITHIN: &str = "confirm-within";

/// The labels that no person gives.
const RESERVED: [&str; 5] = [ACCEPTED, HOLD, TAKEN_BACK, REPLACES, CONFIRM_WITHIN];

/// Checks the labels that a person gives a revision.
///
/// # Errors
/// There are too many, one is too long, or a name is reserved or has other characters than `a-z 0-9 . _ -`.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Malformed> {
    let (count, name_bytes, value_bytes) = limits::LABELS;
    if labels.len() > count {
        return Err(Malformed::new(format!("{} labels; the limit is {count}", labels.len())));
    }
    for (name, value) in labels {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > name_bytes || !name.bytes().all(allowed) {
            let name = name.escape_default();
            return Err(Malformed::new(format!(
                "'{name}' is not a label's name: 1 to {name_bytes} of a-z, 0-9, '.', '_' and '-'"
            )));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Malformed::new(format!("the label '{name}' is reserved")));
        }
        if value.len() > value_bytes || value.chars().any(char::is_control) {
            return Err(Malformed::new(format!(
                "the value of the label '{name}' is not one line of at most {value_bytes} bytes"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[(&str, &str)]) -> Result<(), Malformed> {
        check_labels(&labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn labels_are_short_names_with_values_of_one_line() {
        let longest = ("n".repeat(limits::LABELS.1), "v".repeat(limits::LABELS.2));
        assert_eq!(check(&[("ticket", "OPS-12"), ("a.b_c-1", ""), (&longest.0, &longest.1)]), Ok(()));
        for wrong in [("", "v"), ("Ticket", "v"), ("a b", "v"), ("a", "two\nlines"), ("ä", "v")]
            .into_iter()
            .chain(RESERVED.map(|name| (name, "")))
        {
            assert!(check(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(check(&[(&"n".repeat(limits::LABELS.1 + 1), "v")]).is_err());
        assert!(check(&[("n", &"v".repeat(limits::LABELS.2 + 1))]).is_err());
        let names: Vec<_> = (0..=limits::LABELS.0).map(|at| at.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(check(&many).is_err() && check(&many[1..]).is_ok());
    }
}
