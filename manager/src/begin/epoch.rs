//! The first revision of an epoch. It changes nothing, descends from the new manager's revision, and is signed by it.
//! The head then names its manager, and a server with the same content only takes a small update (W24).

use std::{sync::Arc, time::Instant};

use bellwether_proto::{
    Malformed,
    clock::now_ms,
    record::Record,
    revision::{HOLD, Header, SignedHeader},
};

use crate::{
    begin::start::StartError,
    publish::{head::Head, round},
    shared::Shared,
};

/// The header of that revision, by the manager of `record`, on top of `head`.
///
/// # Errors
/// No number follows that of `head`.
pub fn first_header(record: &Record, head: &SignedHeader, incarnation: u64, now_ms: u64) -> Result<Header, Malformed> {
    let (epoch, name) = (record.version.epoch, &record.manager().name);
    // Watching that is held stays so under the new manager.
    let hold = head.header().labels.get_key_value(HOLD).map(|(name, value)| (name.clone(), value.clone()));
    Ok(Header {
        group: record.group,
        number: head.number().next(epoch)?,
        parent: Some(head.id()),
        manager: name.clone(),
        incarnation,
        time_ms: now_ms,
        author: record.log.last().map(|edit| edit.by.clone()).unwrap_or_default(),
        message: format!("{name} is the manager since epoch {epoch}"),
        labels: hold.into_iter().collect(),
        root: head.header().root,
    })
}

/// Publishes it if the head is of an older epoch than the record. Durable when this returns, and not offered before.
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
    let header = first_header(record.record(), &head.stored.header, shared.incarnation, now_ms());
    let header = header.map_err(|e| StartError::Epoch { epoch, source: e.into() })?;
    let header = SignedHeader::sign(header, &shared.key);
    let stored = round::store_unchanged(shared, &header).map_err(|source| StartError::Epoch { epoch, source })?;
    shared.head.send_replace(Arc::new(Head::new(stored, head.tree.clone(), Instant::now())));
    tracing::error_span!("publish", revision = %header.number()).in_scope(|| tracing::info!("leads from here on"));
    Ok(())
}
