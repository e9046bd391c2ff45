//! A revision's header as JSON.

use bellwether_proto::revision::SignedHeader;
use serde_json::{Value, json};

/// All fields of the header.
pub(super) fn as_json(signed: &SignedHeader) -> Value {
    let header = signed.header();
    json!({
        "revision": header.number,
        "id": signed.id(),
        "parent": header.parent,
        "group": header.group,
        "manager": header.manager,
        "incarnation": header.incarnation,
        "time_ms": header.time_ms,
        "author": header.author,
        "message": header.message,
        "labels": header.labels,
        "root": header.root,
    })
}
