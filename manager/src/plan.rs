//! What a lane does next: a pure function of where its member is and what it is to hold.

use std::sync::Arc;

use bellwether_proto::{hash::Hash, revision::RevisionId};
use bellwether_store::history::{Route, Stored};

use crate::rollout::{Due, Target};

/// A member as it last described itself.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// The revision that its sets hold; none: none of this group's.
    pub at: Option<RevisionId>,
    /// Its error: it takes nothing until a sync (W8).
    pub fault: bool,
    /// A pack that was interrupted, and how many bytes of it are kept.
    pub partial: Option<(Hash, u64)>,
    /// The revision that it refused before the switch.
    pub refused: Option<RevisionId>,
    /// A person asked for a sync, which has not ended.
    pub sync: bool,
    /// The head does not descend from what it holds, as far as is known: only a base of the head takes it there.
    pub forked: bool,
    /// Within that sync: its sets hold again what its revision says, and its error is cleared.
    pub settled: bool,
    /// It takes no updates because of edits of its own (policy `hold`).
    pub held: bool,
    /// Where it holds nothing: it may wait a moment for a base of the head.
    pub waits: bool,
}

/// Bytes of a base that is packed again for a newcomer: it takes some tenths of a second, in which nothing is published.
const SMALL: u64 = 8 << 20;

/// Why nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// It is in error: until a sync is asked for.
    Fault,
    /// It has edits of its own, and takes nothing over them: until they are kept or reverted, or a sync is asked for.
    Held,
    /// Propagation is held: until `resume`, or a sync is asked for.
    Paused,
    /// It refused the head: until there is another, or a sync is asked for.
    Refused,
}

/// What to do next.
#[derive(Debug, Clone)]
pub enum Step {
    /// It is at the head.
    Nothing,
    /// Not now.
    Wait(Wait),
    /// Its sets are to hold what its revision says, whatever was edited there; it reports when they do.
    Settle,
    /// Every way leads through the revision that it refused, or none from where it is, or back to where the group was once: a
    /// base of the head is needed.
    NeedBase,
    /// Offer a pack and send these of its bytes.
    Send(Sending),
}

/// A pack to offer.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The pack.
    pub pack: Arc<Stored>,
    /// The first byte to send.
    pub from: u64,
    /// One past the last byte to send before the member asks for more.
    pub to: u64,
    /// From anything to the manager's state; otherwise one change.
    pub sync: bool,
    /// It keeps what this replaces: the head does not descend from what it holds.
    pub forked: bool,
}

/// What to do next for `member`. `route` gives the packs from a revision to the target.
pub fn plan(member: &Member, target: &Target, route: impl Fn(Option<RevisionId>) -> Route) -> Step {
    let head = target.revision;
    if !member.sync {
        if member.fault {
            return Step::Wait(Wait::Fault);
        }
        if member.at == Some(head) {
            return Step::Nothing;
        }
        if member.held {
            return Step::Wait(Wait::Held);
        }
        if target.due == Due::Held {
            return Step::Wait(Wait::Paused);
        }
        if member.refused == Some(head) {
            return Step::Wait(Wait::Refused);
        }
    }
    if member.sync && !member.settled && member.at.is_some() {
        return Step::Settle;
    }
    let Route::Packs(packs) = route(member.at) else { return Step::Nothing };
    if member.waits && member.at.is_none() && is_detour(&packs) {
        return Step::NeedBase;
    }
    let refused = member.refused.filter(|_| !member.sync);
    if member.forked && !starts_at(&packs, head) {
        return Step::NeedBase;
    }
    let through = |packs: &[Arc<Stored>]| packs.iter().any(|pack| Some(pack.header.id()) == refused);
    if !through(&packs) {
        return send(member, &packs);
    }
    match route(None) {
        Route::Packs(packs) if !through(&packs) || starts_at(&packs, head) => send(member, &packs),
        Route::Packs(_) | Route::Nothing => Step::NeedBase,
    }
}

/// Whether a newcomer would go back to what the group had once, and come to the head step by step, where one step is soon
/// made.
fn is_detour(packs: &[Arc<Stored>]) -> bool {
    packs.len() > 1 && packs[0].base && packs[0].size <= SMALL
}

fn starts_at(packs: &[Arc<Stored>], head: RevisionId) -> bool {
    packs.first().is_some_and(|first| first.base && first.header.id() == head)
}

fn send(member: &Member, packs: &[Arc<Stored>]) -> Step {
    let Some(pack) = packs.first() else { return Step::Nothing };
    let kept = member.partial.filter(|(id, bytes)| *id == pack.pack && *bytes <= pack.size).map(|(_, bytes)| bytes);
    let (from, to) = match kept {
        // The member had asked for what it has beyond the changes, so the rest is what it needs.
        Some(bytes) if pack.base && bytes < pack.changes_end => (bytes, pack.changes_end),
        Some(bytes) => (bytes, pack.size),
        None if pack.base => (0, pack.changes_end),
        None => (0, pack.size),
    };
    let sync = member.sync || pack.base || packs.len() > 1;
    Step::Send(Sending { pack: pack.clone(), from, to, sync, forked: member.forked })
}

#[cfg(test)]
mod tests;
