//! The named points of a publish and of an edit of the record, where tests kill this program.

/// Every point of a publish, in the order in which one passes them.
pub const POINTS: &[&str] = &[
    "publish.scanned",
    "publish.signed",
    "publish.begun",
    "publish.written",
    "publish.committed",
    "publish.announced",
];

/// Every point of an edit of the group record.
pub const RECORD: &[&str] = &["record.saved"];

/// Passes a point.
pub(crate) fn hit(point: &str) {
    debug_assert!(POINTS.contains(&point) || RECORD.contains(&point), "{point} is not in the list");
    bellwether_store::failpoint::hit(point);
}
