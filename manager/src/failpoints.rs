//! The named points of a publish and of an edit of the record, where tests kill this program.

/// Every point of a publish, in order.
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

/// Every point of a switch of the live paths. At the last one, the revision is in the history.
pub const LIVE: &[&str] = &["live.staged", "live.switched", "live.proved", "live.kept"];

/// Every point of a batch.
pub const BATCH: &[&str] = &["batch.begun", "batch.published", "batch.put-back"];

/// Every point of a change of the tokens: of an entry and of a removal, before the record.
pub const TOKENS: &[&str] = &["tokens.saved"];

/// Every point of a handover (W18); the record is durable between the last two.
pub const HANDOVER: &[&str] = &["handover.held", "handover.waited", "handover.signed", "handover.saved"];

/// Every point of rebuilding the group (W13); the record is durable from the third on.
pub const REBUILD: &[&str] =
    &["rebuild.begun", "rebuild.packed", "rebuild.saved", "rebuild.cleared", "rebuild.kept", "rebuild.placed"];

/// Every point of driving a procedure. All but the first occur again with its steps; `taken` is the new manager's.
pub const PROCEDURE: &[&str] = &[
    "procedure.begun",
    "procedure.trying",
    "procedure.acted",
    "procedure.noted",
    "procedure.passed",
    "procedure.taken",
];

/// Every point of erasing a content from the manager's history; the note in the record is durable before.
pub const FORGET: &[&str] = &["forget.searched", "forget.based", "forget.dropped"];

/// The point at which a member's message is handled.
pub const HEARD: &[&str] = &["lane.heard"];

/// Passes a point.
pub(crate) fn hit(point: &str) {
    let known = [POINTS, RECORD, BATCH, LIVE, TOKENS, HANDOVER, REBUILD, PROCEDURE, FORGET, HEARD]
        .iter()
        .any(|list| list.contains(&point));
    debug_assert!(known, "{point} is not in the list");
    bellwether_store::failpoint::hit(point);
}
