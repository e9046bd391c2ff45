//! The named points of a publish, where tests kill this program.

/// Every point, in the order in which a publish passes them; `record.saved` is passed by every edit of the record.
pub const POINTS: &[&str] = &[
    "publish.scanned",
    "publish.signed",
    "publish.begun",
    "publish.written",
    "publish.committed",
    "publish.announced",
    "record.saved",
];

/// Passes a point.
pub(crate) fn hit(point: &str) {
    debug_assert!(POINTS.contains(&point), "{point} is not in the list");
    bellwether_store::failpoint::hit(point);
}
