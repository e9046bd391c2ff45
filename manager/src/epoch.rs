//! The first revision of an epoch: it changes nothing, descends from what the new manager holds, and is signed by it. From
//! then on the head says whose it is, and a server with the same content only takes a small update (W24).

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bellwether_proto::{
    record::SetRules,
    revision::{Header, Number, SignedHeader},
};
use bellwether_store::pack::Contents;

use crate::{
    head::Head,
    publish,
    shared::{Shared, now_ms},
    start::StartError,
};

/// Makes it, where the head is of an older epoch than the record. Durable when this returns, and offered to nobody before.
///
/// # Errors
/// The history cannot take it.
pub(crate) fn begin(shared: &Shared) -> Result<(), StartError> {
    let (record, head) = (shared.record.borrow().clone(), shared.head.borrow().clone());
    let epoch = record.record().version.epoch;
    let before = head.stored.header.number();
    if before.epoch >= epoch {
        return Ok(());
    }
    let author = record.record().log.last().map(|edit| edit.by.clone()).unwrap_or_default();
    let header = Header {
        group: record.record().group,
        number: Number { epoch, sequence: before.sequence + 1 },
        parent: Some(head.id()),
        manager: shared.name.clone(),
        incarnation: shared.incarnation,
        time_ms: now_ms(),
        author,
        message: format!("{} is the manager since epoch {epoch}", shared.name),
        labels: BTreeMap::new(),
        root: head.stored.header.header().root,
    };
    let header = SignedHeader::sign(header, &shared.key);
    let rules: Vec<Arc<SetRules>> = head.tree.sets().iter().map(|set| set.rules.clone()).collect();
    let contents = Contents {
        header: &header,
        base: false,
        parent: &head.tree,
        rules: &rules,
        changes: &[],
        sources: &[],
        codec: record.record().policy.codec,
        outlines: None,
    };
    let stored = publish::store(shared, &contents).map_err(|source| StartError::Epoch { epoch, source })?;
    shared.head.send_replace(Arc::new(Head::new(stored, head.tree.clone(), Instant::now())));
    tracing::info!(revision = %header.number(), "leads from here on");
    Ok(())
}
