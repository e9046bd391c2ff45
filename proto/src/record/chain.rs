//! The chain of managers. For every change of epoch it has the last record before and the first one after, so that a
//! server that was away verifies an unknown manager, pair by pair (W26).

use super::{RecordRefused, SignedRecord, Version};
use crate::{key::PublicKey, limits, revision::Epoch};

/// The records that a server with `held` takes, in order, to come to the newest of `links`; none: it has that one.
/// Records that lead nowhere from here are left out. Only the newest must be of a level at which this program works: a
/// server that was away comes over records of any older level.
///
/// # Errors
/// The reason why the newest is refused; the held record stays in force.
pub fn walk(held: &SignedRecord, links: &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused> {
    let mut links: Vec<&SignedRecord> = links.iter().collect();
    links.sort_by_key(|link| link.record.version);
    let Some(last) = links.pop() else { return Ok(Vec::new()) };
    last.may_be_in_force()?;
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
        // The server followed another branch.
        Err(refused) if way.is_empty() => return Err(refused),
        Err(_) => way = if last.may_follow(held)? { vec![last.clone()] } else { Vec::new() },
    }
    Ok(way)
}

/// Adds the step from `held` to `next` to `chain`, if the epoch changes; the oldest go when it gets too long.
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

/// The records of `chain` and `current` that a server at `from` lacks, oldest first. Within its epoch it always gets
/// `current`, because another record there is a conflict, which it must see.
pub fn since<'a>(
    chain: &'a [SignedRecord],
    current: &'a SignedRecord,
    from: Version,
) -> impl Iterator<Item = &'a SignedRecord> {
    let links = chain.iter().filter(move |link| *link != current).chain([current]);
    let same_epoch = move |link: &SignedRecord| link == current && link.record.version.epoch == from.epoch;
    links.filter(move |link| link.record.version > from || same_epoch(link))
}

/// Whether `shown` makes another server the manager of the epoch of `held`, by a valid way to the role: the changes of
/// both could never be merged. A server that could not have taken the role is no rival.
pub fn is_rival(chain: &[SignedRecord], held: &SignedRecord, shown: &SignedRecord) -> bool {
    let (ours, theirs) = (&held.record, &shown.record);
    let before = chain.iter().rfind(|link| link.record.version.epoch < ours.version.epoch);
    theirs.version.epoch == ours.version.epoch
        && theirs.manager().key != ours.manager().key
        && before.is_some_and(|before| shown.may_follow(before) == Ok(true))
}

/// The newest records of the chain that have at most `bytes` together, to fit a message.
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
