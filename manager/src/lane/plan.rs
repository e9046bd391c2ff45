//! What a lane does next: a pure function of where its member is and what it is to hold.

use std::sync::Arc;

use bellwether_proto::{hash::Hash, revision::RevisionId};
use bellwether_store::history::History;
pub use bellwether_store::history::{Route, Stored};

use bellwether_group::rollout::{Due, Target};

/// A member as it last described itself.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// The revision that its sets hold; none: none of this group's.
    pub at: Option<RevisionId>,
    /// A pack that was interrupted, and how many bytes of it are kept.
    pub partial: Option<(Hash, u64)>,
    /// What it takes.
    pub standing: Standing,
    /// Whether it has edits of its own.
    pub edits: Edits,
}

/// What a member takes, by what was said, refused and asked for. Outlives a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Updates, but for the revision that it refused.
    Follows {
        /// The last one, as long as nothing says that it is taken now.
        refused: Option<Refusal>,
    },
    /// Nothing, whatever it says the next time: it is in error until a sync has ended well (W8).
    Faulty {
        /// Why, by its own word or the manager's.
        why: String,
        /// What it refused before that.
        refused: Option<Refusal>,
    },
    /// A sync was asked for: first its sets are to hold what its revision says.
    Asked {
        /// Its error, until they do.
        fault: Option<String>,
    },
    /// Within that sync its sets hold what its revision says: it goes to the target.
    Settled,
}

/// A revision that a member refused before the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The revision.
    pub revision: RevisionId,
    /// When it is offered again.
    pub until: Until,
}

/// When a revision that was refused is offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When a sync is asked for.
    Sync,
    /// When the member asks, or is reached anew: what stood in the way may pass.
    Passed,
    /// The same; it was the revision that the member holds, and the sync to it goes on then.
    PassedInSync,
}

/// Whether edits of its own keep a member from taking updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Edits {
    /// It takes updates.
    #[default]
    Free,
    /// It takes none (policy `hold`), or its sets are where they cannot be compared.
    Held,
}

impl Default for Standing {
    fn default() -> Self {
        Self::Follows { refused: None }
    }
}

impl Standing {
    /// Why it is in error.
    pub fn fault(&self) -> Option<&str> {
        match self {
            Self::Faulty { why, .. } | Self::Asked { fault: Some(why) } => Some(why),
            Self::Follows { .. } | Self::Asked { fault: None } | Self::Settled => None,
        }
    }

    /// What it refused.
    pub fn refused(&self) -> Option<Refusal> {
        match self {
            Self::Follows { refused } | Self::Faulty { refused, .. } => *refused,
            Self::Asked { .. } | Self::Settled => None,
        }
    }

    /// A sync was asked for and has not ended.
    pub fn is_sync(&self) -> bool {
        match self {
            Self::Asked { .. } | Self::Settled => true,
            Self::Follows { .. } | Self::Faulty { .. } => false,
        }
    }

    /// Its next connection begins, in which it says that error of itself.
    pub fn reached(&mut self, said: Option<String>) {
        self.try_again();
        *self = match (std::mem::take(self), said) {
            (Self::Follows { refused }, Some(why)) | (Self::Faulty { refused, .. }, Some(why)) => {
                Self::Faulty { why, refused }
            }
            (Self::Asked { .. } | Self::Settled, Some(why)) => Self::Asked { fault: Some(why) },
            (Self::Settled, None) => Self::Asked { fault: None },
            (same @ (Self::Follows { .. } | Self::Faulty { .. } | Self::Asked { .. }), None) => same,
        };
    }

    /// A sync is asked for.
    pub fn ask(&mut self) {
        *self = match std::mem::take(self) {
            Self::Follows { .. } => Self::Asked { fault: None },
            Self::Faulty { why, .. } => Self::Asked { fault: Some(why) },
            same @ (Self::Asked { .. } | Self::Settled) => same,
        };
    }

    /// Its sets hold what its revision says.
    pub fn settle(&mut self) {
        *self = match std::mem::take(self) {
            Self::Asked { .. } => Self::Settled,
            same @ (Self::Follows { .. } | Self::Faulty { .. } | Self::Settled) => same,
        };
    }

    /// The sync that was asked for is over.
    pub fn end_sync(&mut self) {
        *self = match std::mem::take(self) {
            Self::Asked { fault: Some(why) } => Self::Faulty { why, refused: None },
            Self::Asked { fault: None } | Self::Settled => Self::default(),
            same @ (Self::Follows { .. } | Self::Faulty { .. }) => same,
        };
    }

    /// It is in error.
    pub fn fail(&mut self, why: String) {
        *self = Self::Faulty { why, refused: self.refused() };
    }

    /// It refuses a revision, or takes what it refused (none).
    pub fn refuse(&mut self, refusal: Option<Refusal>) {
        if refusal.is_some() {
            self.end_sync();
        }
        match self {
            Self::Follows { refused } | Self::Faulty { refused, .. } => *refused = refusal,
            Self::Asked { .. } | Self::Settled => {}
        }
    }

    /// What it refused is offered again, where that may pass; a sync that was refused goes on.
    pub fn try_again(&mut self) {
        match self.refused().map(|refusal| refusal.until) {
            None | Some(Until::Sync) => {}
            Some(Until::Passed) => self.refuse(None),
            Some(Until::PassedInSync) => self.ask(),
        }
    }
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

/// What the history says of the ways to the target.
pub trait Ways {
    /// The packs from a revision to the target.
    fn route(&self, from: Option<RevisionId>) -> Route;

    /// Whether the target descends from that revision, as far as is known: otherwise only a base takes a member there.
    fn leads_from(&self, at: RevisionId) -> bool;
}

impl Ways for History {
    fn route(&self, from: Option<RevisionId>) -> Route {
        History::route(self, from)
    }

    fn leads_from(&self, at: RevisionId) -> bool {
        History::leads_from(self, at)
    }
}

/// The newest revision after the one before it.
struct OneStep<'a>(&'a Arc<Stored>);

impl Ways for OneStep<'_> {
    fn route(&self, _: Option<RevisionId>) -> Route {
        Route::Packs(vec![self.0.clone()])
    }

    fn leads_from(&self, _: RevisionId) -> bool {
        true
    }
}

/// Whether a member that holds nothing waits a moment for a base of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newcomer {
    /// It waits.
    Waits,
    /// It takes what there is.
    GoesOn,
}

/// What to do next for `member` where that takes no look at the history: the case that must be quick is one step behind.
pub fn soon(member: &Member, target: &Target, newest: &Arc<Stored>) -> Option<Step> {
    let next = member.at.is_some() && member.at == newest.header.header().parent;
    let quick = next && !newest.base && newest.header.id() == target.revision && member.standing.refused().is_none();
    let still = match member.standing {
        Standing::Follows { .. } => member.at == Some(target.revision),
        Standing::Faulty { .. } => true,
        Standing::Asked { .. } | Standing::Settled => false,
    };
    (quick || still).then(|| plan(member, target, Newcomer::GoesOn, &OneStep(newest)))
}

/// What to do next for `member`.
pub fn plan(member: &Member, target: &Target, newcomer: Newcomer, ways: &impl Ways) -> Step {
    let refused = match &member.standing {
        Standing::Faulty { .. } => return Step::Wait(Wait::Fault),
        Standing::Follows { .. } if member.at == Some(target.revision) => return Step::Nothing,
        Standing::Follows { .. } if member.edits == Edits::Held => return Step::Wait(Wait::Held),
        Standing::Follows { .. } if target.due == Due::Held => return Step::Wait(Wait::Paused),
        Standing::Follows { refused: Some(refused) } if refused.revision == target.revision => {
            return Step::Wait(Wait::Refused);
        }
        Standing::Follows { refused } => refused.map(|refused| refused.revision),
        Standing::Asked { .. } if member.at.is_some() => return Step::Settle,
        Standing::Asked { .. } | Standing::Settled => None,
    };
    let Route::Packs(packs) = ways.route(member.at) else { return Step::Nothing };
    if newcomer == Newcomer::Waits && member.at.is_none() && is_detour(&packs) {
        return Step::NeedBase;
    }
    let forked = member.at.is_some_and(|at| !ways.leads_from(at));
    if forked && !starts_at(&packs, target.revision) {
        return Step::NeedBase;
    }
    let through = |packs: &[Arc<Stored>]| packs.iter().any(|pack| Some(pack.header.id()) == refused);
    if !through(&packs) {
        return send(member, &packs, forked);
    }
    match ways.route(None) {
        Route::Packs(packs) if !through(&packs) || starts_at(&packs, target.revision) => send(member, &packs, forked),
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

fn send(member: &Member, packs: &[Arc<Stored>], forked: bool) -> Step {
    let Some(pack) = packs.first() else { return Step::Nothing };
    let kept = member.partial.filter(|(id, bytes)| *id == pack.pack && *bytes <= pack.size).map(|(_, bytes)| bytes);
    let (from, to) = match kept {
        // The member had asked for what it has beyond the changes, so the rest is what it needs.
        Some(bytes) if pack.base && bytes < pack.changes_end => (bytes, pack.changes_end),
        Some(bytes) => (bytes, pack.size),
        None if pack.base => (0, pack.changes_end),
        None => (0, pack.size),
    };
    let sync = member.standing.is_sync() || pack.base || packs.len() > 1;
    Step::Send(Sending { pack: pack.clone(), from, to, sync, forked })
}

#[cfg(test)]
mod tests;
