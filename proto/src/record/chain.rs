//! The chain: who made whom manager. For every change of epoch it has the last record before and the first one after, so
//! that a server that was away verifies a manager that it has never met, pair by pair (W26).

use super::{RecordRefused, SignedRecord, Version};
use crate::{key::PublicKey, limits, revision::Epoch};

/// The records that a server that holds `held` takes, in order, to come to the newest of `links`; none: it has that one.
/// Those in between that lead nowhere from here are left out.
///
/// # Errors
/// Why the newest is refused; what is held stays in force.
pub fn walk(held: &SignedRecord, links: &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused> {
    let mut links: Vec<&SignedRecord> = links.iter().collect();
    links.sort_by_key(|link| link.record.version);
    let Some(last) = links.pop() else { return Ok(Vec::new()) };
    let mut way: Vec<SignedRecord> = Vec::new();
    for link in links {
        let at = way.last().unwrap_or(held);
        if link.record.version < last.record.version && link.may_follow(at) == Ok(true) {
            way.push(link.clone());
        }
    }
    match last.may_follow(way.last().unwrap_or(held)) {
        Ok(true) => way.push(last.clone()),
        Ok(false) => {}
        // Another branch was followed.
        Err(refused) if way.is_empty() => return Err(refused),
        Err(_) => way = if last.may_follow(held)? { vec![last.clone()] } else { Vec::new() },
    }
    Ok(way)
}

/// Adds to `chain` the step from `held` to `next`, where the epoch changes; the oldest go when it gets too long.
pub fn extend(chain: &mut Vec<SignedRecord>, held: &SignedRecord, next: &SignedRecord) {
    if next.record.version.epoch == held.record.version.epoch {
        return;
    }
    if chain.last() != Some(held) {
        chain.push(held.clone());
    }
    chain.push(next.clone());
    let over = chain.len().saturating_sub(limits::CHAIN);
    chain.drain(..over);
}

/// What a server at `from` lacks of `chain` and `current`, oldest first. Within its epoch it is given `current` whatever its
/// version: another record there is a conflict, which it has to see.
pub fn since<'a>(
    chain: &'a [SignedRecord],
    current: &'a SignedRecord,
    from: Version,
) -> impl Iterator<Item = &'a SignedRecord> {
    let links = chain.iter().filter(move |link| *link != current).chain([current]);
    let same_epoch = move |link: &SignedRecord| link == current && link.record.version.epoch == from.epoch;
    links.filter(move |link| link.record.version > from || same_epoch(link))
}

/// Whether `shown` makes another server the manager of the epoch in which that of `held` leads, and that server could come to
/// lead as that one did: what both change could never be one. Whoever could not have taken the role is nobody's rival.
pub fn is_rival(chain: &[SignedRecord], held: &SignedRecord, shown: &SignedRecord) -> bool {
    let (ours, theirs) = (&held.record, &shown.record);
    let before = chain.iter().rfind(|link| link.record.version.epoch < ours.version.epoch);
    theirs.version.epoch == ours.version.epoch
        && theirs.manager().key != ours.manager().key
        && before.is_some_and(|before| shown.may_follow(before) == Ok(true))
}

/// The newest of the chain that have no more than so many bytes together: what fits a message.
pub fn newest_within(chain: &[SignedRecord], bytes: usize) -> &[SignedRecord] {
    let mut left = bytes;
    let fits = |link: &&SignedRecord| {
        let fits = link.json.len() <= left;
        left = left.saturating_sub(link.json.len());
        fits
    };
    let count = chain.iter().rev().take_while(fits).count();
    &chain[chain.len() - count..]
}

/// The key of the manager of that epoch, as far as `chain` and `current` know.
pub fn manager_of(chain: &[SignedRecord], current: &SignedRecord, epoch: Epoch) -> Option<PublicKey> {
    let mut records = [current].into_iter().chain(chain.iter().rev());
    records.find(|record| record.record.version.epoch == epoch).map(|record| record.record.manager().key)
}
