//! Edits on a member (W3): as people see them (each path with its differences, diffs of texts, the kept copies), and as
//! messages to the manager, which makes a revision of them.

mod content;
pub(crate) mod differences;
mod points;
mod text;

use bellwether_proto::{
    Malformed,
    entry::{Entry, EntryPath, Owners},
    limits, v1,
};
use bellwether_store::tree::Change;

pub use self::differences::SECRET;
pub use self::text::diff;
pub(crate) use self::{
    content::{ContentError, Contents},
    differences::server_drift,
};

/// The most edits that a plan or an answer lists.
const LISTED: usize = 100;

/// Checks the paths of a request.
///
/// # Errors
/// A path or a name is malformed, or there are too many.
pub(crate) fn places(wire: &[v1::Place]) -> Result<Vec<(bellwether_proto::name::SetName, EntryPath)>, Malformed> {
    if wire.len() > limits::PLACES {
        return Err(Malformed::new(format!("{} paths at once; the limit is {}", wire.len(), limits::PLACES)));
    }
    wire.iter().map(|place| Ok((place.set.parse()?, EntryPath::new(&place.path)?))).collect()
}

/// Encodes edits as messages.
pub(crate) fn to_wire(edits: &[Change]) -> Vec<v1::Edit> {
    let edit = |edit: &Change| v1::Edit {
        set: edit.set.to_string(),
        path: bytes::Bytes::copy_from_slice(edit.path.as_bytes()),
        entry: edit.entry.as_ref().map(Entry::to_wire),
    };
    edits.iter().map(edit).collect()
}

/// Decodes and checks edits.
///
/// # Errors
/// An edit is malformed, or there are too many, or they are not sorted.
pub(crate) fn from_wire(wire: Vec<v1::Edit>) -> Result<Vec<Change>, Malformed> {
    if wire.len() > limits::KEEP.0 {
        return Err(Malformed::new(format!("{} edits at once; the limit is {}", wire.len(), limits::KEEP.0)));
    }
    let mut owners = Owners::default();
    let edit = |edit: v1::Edit| {
        let entry = edit.entry.map(|entry| Entry::from_wire(entry, &mut owners)).transpose()?;
        Ok(Change { set: edit.set.parse()?, path: EntryPath::new(&edit.path)?, entry })
    };
    let edits = wire.into_iter().map(edit).collect::<Result<Vec<_>, Malformed>>()?;
    if edits.is_sorted_by(|a, b| (&a.set, &a.path) < (&b.set, &b.path)) {
        return Ok(edits);
    }
    Err(Malformed::new("edits that are not sorted"))
}

/// The first lines of a list of actions.
pub(crate) fn first(mut lines: Vec<String>) -> Vec<String> {
    lines.truncate(LISTED);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removed(path: &str) -> v1::Edit {
        v1::Edit { set: "web".into(), path: path.to_owned().into(), entry: None }
    }

    #[test]
    fn edits_survive_their_messages() {
        let edits = from_wire(vec![removed("a"), removed("b/c")]).expect("right");
        assert_eq!(to_wire(&edits), [removed("a"), removed("b/c")]);
    }

    #[test]
    fn edits_that_cannot_be_are_refused() {
        for wrong in [
            vec![removed("b"), removed("a")],
            vec![removed("a"), removed("a")],
            vec![removed("../a")],
            vec![v1::Edit { set: "a b".into(), ..removed("a") }],
            vec![v1::Edit { entry: Some(v1::Entry::default()), ..removed("a") }],
            vec![removed("a"); limits::KEEP.0 + 1],
        ] {
            assert!(from_wire(wrong).is_err());
        }
        assert!(places(&vec![v1::Place::default(); limits::PLACES + 1]).is_err());
        let outside = v1::Place { set: "web".into(), path: "/etc".into() };
        assert!(places(&[outside]).is_err());
    }
}
