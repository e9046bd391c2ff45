//! The next step of a lane: a pure function of its member's state and the target.

use std::sync::Arc;

use bellwether_proto::{
    hash::Hash,
    revision::{REPLACES, RevisionId, TAKEN_BACK},
    v1,
};
use bellwether_store::history::History;
pub use bellwether_store::history::{Route, Stored};

use bellwether_group::rollout::{Due, Target};

/// A member's last description of itself.
#[derive(Debug, Clone, Default)]
pub struct Member {
    /// The revision of its sets; none if it is none of this group's.
    pub at: Option<RevisionId>,
    /// An interrupted pack, and the number of its bytes that are kept.
    pub partial: Option<(Hash, u64)>,
    /// The newest revision in its history that follows the one in its sets.
    pub ahead: Option<RevisionId>,
    /// The revision that it has staged and validated.
    pub staged: Option<RevisionId>,
    /// Its program.
    pub ability: Ability,
    /// The content that it takes.
    pub standing: Standing,
    /// Whether it has edits of its own.
    pub edits: Edits,
}

/// The kinds of offers that a member takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// It switches to every revision that it is offered: a program of level 1.
    #[default]
    Switches,
    /// Its history takes a revision that its sets do not take, and it can stage a revision and wait.
    Keeps,
    /// It has commands that validate, too.
    Validates,
}

/// The content that a member takes, by its reports, its refusals and the requests. Outlives a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It takes updates, except for the revision that it refused.
    Follows {
        /// The last refusal, until something says that the revision is taken now.
        refused: Option<Refusal>,
    },
    /// It takes nothing, whatever it reports: it is in error until a sync has succeeded (W8).
    Faulty {
        /// The reason, by the member's report or the manager's.
        why: String,
        /// Its refusal before that.
        refused: Option<Refusal>,
    },
    /// A sync was requested: first its sets are to match its revision.
    Asked {
        /// Its error, until they do.
        fault: Option<String>,
    },
    /// Within that sync its sets match its revision, and it goes to the target.
    Settled,
}

/// A revision that a member refused before the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The revision.
    pub revision: RevisionId,
    /// The event that renews the offer.
    pub until: Until,
}

/// The event after which a refused revision is offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The request for a sync.
    Sync,
    /// The member's request, or a new connection: the obstacle may pass.
    Passed,
    /// The same, for the revision that the member holds; the sync to it goes on then.
    PassedInSync,
}

/// Whether edits of its own keep a member from taking updates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Edits {
    /// They do not.
    #[default]
    Free,
    /// They do (policy `hold`), or its sets are away and cannot be compared.
    Held,
}

impl Default for Standing {
    fn default() -> Self {
        Self::Follows { refused: None }
    }
}

impl Standing {
    /// The reason of its error.
    pub fn fault(&self) -> Option<&str> {
        match self {
            Self::Faulty { why, .. } | Self::Asked { fault: Some(why) } => Some(why),
            Self::Follows { .. } | Self::Asked { fault: None } | Self::Settled => None,
        }
    }

    /// Its refusal.
    pub fn refused(&self) -> Option<Refusal> {
        match self {
            Self::Follows { refused } | Self::Faulty { refused, .. } => *refused,
            Self::Asked { .. } | Self::Settled => None,
        }
    }

    /// Whether a requested sync has not ended.
    pub fn is_sync(&self) -> bool {
        match self {
            Self::Asked { .. } | Self::Settled => true,
            Self::Follows { .. } | Self::Faulty { .. } => false,
        }
    }

    /// Begins its next connection, in which it reports that error.
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

    /// Takes the request for a sync.
    pub fn ask(&mut self) {
        *self = match std::mem::take(self) {
            Self::Follows { .. } => Self::Asked { fault: None },
            Self::Faulty { why, .. } => Self::Asked { fault: Some(why) },
            same @ (Self::Asked { .. } | Self::Settled) => same,
        };
    }

    /// Its sets match its revision.
    pub fn settle(&mut self) {
        *self = match std::mem::take(self) {
            Self::Asked { .. } => Self::Settled,
            same @ (Self::Follows { .. } | Self::Faulty { .. } | Self::Settled) => same,
        };
    }

    /// The requested sync is over.
    pub fn end_sync(&mut self) {
        *self = match std::mem::take(self) {
            Self::Asked { fault: Some(why) } => Self::Faulty { why, refused: None },
            Self::Asked { fault: None } | Self::Settled => Self::default(),
            same @ (Self::Follows { .. } | Self::Faulty { .. }) => same,
        };
    }

    /// Puts it in error.
    pub fn fail(&mut self, why: String) {
        *self = Self::Faulty { why, refused: self.refused() };
    }

    /// Notes a refusal, or that the refused revision is taken now (none).
    pub fn refuse(&mut self, refusal: Option<Refusal>) {
        if refusal.is_some() {
            self.end_sync();
        }
        match self {
            Self::Follows { refused } | Self::Faulty { refused, .. } => *refused = refusal,
            Self::Asked { .. } | Self::Settled => {}
        }
    }

    /// Renews the offer of a refused revision if the obstacle may pass; a refused sync goes on.
    pub fn try_again(&mut self) {
        match self.refused().map(|refusal| refusal.until) {
            None | Some(Until::Sync) => {}
            Some(Until::Passed) => self.refuse(None),
            Some(Until::PassedInSync) => self.ask(),
        }
    }
}

/// The most bytes of a base that is packed again for a newcomer: nothing is published during that time.
const SMALL: u64 = 8 << 20;

/// The reason that nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The member is in error, until a sync is requested.
    Fault,
    /// It has edits of its own, and takes nothing over them, until they are kept or reverted, or a sync is requested.
    Held,
    /// Propagation is held, until `resume`, or its wave has not begun, or a sync is requested.
    Paused,
    /// It has staged the target, and no member switches yet.
    Staged,
    /// It refused the head, until there is another, or a sync is requested.
    Refused,
}

/// The next step.
#[derive(Debug, Clone)]
pub enum Step {
    /// None: the member is at the head.
    Nothing,
    /// Wait.
    Wait(Wait),
    /// Have its sets match its revision, over any edits; it reports when they do.
    Settle,
    /// Get a base of the head: every way leads through the refused revision or a stopped one, or no way leads from its revision, or the
    /// way leads back to an older state of the group.
    NeedBase,
    /// Offer a pack and send these of its bytes.
    Send(Sending),
    /// Switch to the revision that it has staged.
    Switch,
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
    /// Whether this is a sync, from any state; otherwise it is one change.
    pub sync: bool,
    /// Whether the member keeps the files that this replaces: the head does not descend from its revision.
    pub forked: bool,
    /// What the member does with it.
    pub purpose: v1::Use,
}

/// The history's ways to the target.
pub trait Ways {
    /// The packs from a revision to the target.
    fn route(&self, from: Option<RevisionId>) -> Route;

    /// Whether the target is known to descend from that revision: otherwise only a base takes a member there.
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

/// The newest revision, one step after its parent.
struct OneStep<'a>(&'a Arc<Stored>);

impl Ways for OneStep<'_> {
    fn route(&self, _: Option<RevisionId>) -> Route {
        Route::Packs(vec![self.0.clone()])
    }

    fn leads_from(&self, _: RevisionId) -> bool {
        true
    }
}

/// Whether a member that holds nothing waits for a base of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newcomer {
    /// It waits.
    Waits,
    /// It takes what there is.
    GoesOn,
}

/// The next step for `member` if that needs no look at the history: the case of one step behind must be quick.
pub fn soon(member: &Member, target: &Target, newest: &Arc<Stored>) -> Option<Step> {
    let next = member.at.is_some() && member.at == newest.header.header().parent && member.ahead.is_none();
    let quick = next && !newest.base && newest.header.id() == target.revision && member.standing.refused().is_none();
    let still = match member.standing {
        Standing::Follows { .. } => member.at == Some(target.revision) || member.staged == Some(target.revision),
        Standing::Faulty { .. } => true,
        Standing::Asked { .. } | Standing::Settled => false,
    };
    (quick || still).then(|| plan(member, target, Newcomer::GoesOn, &OneStep(newest)))
}

/// The next step for `member`.
pub fn plan(member: &Member, target: &Target, newcomer: Newcomer, ways: &impl Ways) -> Step {
    let refused = match &member.standing {
        Standing::Faulty { .. } => return Step::Wait(Wait::Fault),
        Standing::Follows { .. } if member.at == Some(target.revision) => return Step::Nothing,
        Standing::Follows { .. } if member.edits == Edits::Held => return Step::Wait(Wait::Held),
        Standing::Follows { refused } => match target.due {
            Due::Held => return Step::Wait(Wait::Paused),
            Due::Staged if member.ability < Ability::Validates => return Step::Wait(Wait::Paused),
            Due::Staged if member.staged == Some(target.revision) => return Step::Wait(Wait::Staged),
            Due::Now if member.staged == Some(target.revision) => return Step::Switch,
            Due::Staged | Due::Now => match refused {
                Some(refused) if refused.revision == target.revision => return Step::Wait(Wait::Refused),
                _ => refused.map(|refused| refused.revision),
            },
        },
        Standing::Asked { .. } if member.at.is_some() => return Step::Settle,
        Standing::Asked { .. } | Standing::Settled => None,
    };
    // A sync relies on nothing but the sets.
    let keeps = member.ability >= Ability::Keeps && !member.standing.is_sync();
    let ahead = member.ahead.filter(|ahead| keeps && *ahead != target.revision && ways.leads_from(*ahead));
    let from = ahead.or(member.at);
    let Route::Packs(packs) = ways.route(from) else { return Step::Nothing };
    if newcomer == Newcomer::Waits && member.at.is_none() && is_detour(&packs) {
        return Step::NeedBase;
    }
    let forked = from.is_some_and(|from| !ways.leads_from(from));
    if forked && !starts_at(&packs, target.revision) {
        return Step::NeedBase;
    }
    // A member with a revision takes a base, too, as a step in its history only.
    let keeps_bases = keeps && member.at.is_some() && !forked;
    let send = |packs: &[Arc<Stored>]| send(member, packs, forked, (keeps, keeps_bases), target.due);
    let through = |packs: &[Arc<Stored>]| {
        // A member that keeps a stopped revision in its history does not switch to it.
        let held = !keeps || packs.first().is_some_and(|pack| pack.base && !keeps_bases);
        held && leads_through_a_stop(packs) || packs.iter().any(|pack| Some(pack.header.id()) == refused)
    };
    if !through(&packs) {
        return send(&packs);
    }
    match ways.route(None) {
        Route::Packs(packs) if !through(&packs) || starts_at(&packs, target.revision) => send(&packs),
        Route::Packs(_) | Route::Nothing => Step::NeedBase,
    }
}

/// Whether a newcomer would start at an old state and come to the head by steps, although a base is soon made.
fn is_detour(packs: &[Arc<Stored>]) -> bool {
    packs.len() > 1 && packs[0].base && packs[0].size <= SMALL
}

/// Whether a way leads through a revision whose rollout was stopped: the one after it says so.
fn leads_through_a_stop(packs: &[Arc<Stored>]) -> bool {
    let says_so = |pack: &Arc<Stored>| {
        let labels = &pack.header.header().labels;
        labels.contains_key(TAKEN_BACK) || labels.contains_key(REPLACES)
    };
    packs.iter().skip(1).any(says_so)
}

fn starts_at(packs: &[Arc<Stored>], head: RevisionId) -> bool {
    packs.first().is_some_and(|first| first.base && first.header.id() == head)
}

fn send(member: &Member, packs: &[Arc<Stored>], forked: bool, (keeps, keeps_bases): (bool, bool), due: Due) -> Step {
    let Some(pack) = packs.first() else { return Step::Nothing };
    let purpose = match packs.len() {
        // A sync, which a person asks for, waits for no other member.
        1 if due == Due::Staged && !member.standing.is_sync() => v1::Use::Stage,
        // It switches once, to the last one.
        2.. if if pack.base { keeps_bases } else { keeps } => v1::Use::Keep,
        _ => v1::Use::Unspecified,
    };
    // A base that is switched to begins with its changes: most of the content may be there already.
    let changes_first = pack.base && purpose != v1::Use::Keep;
    let kept = member.partial.filter(|(id, bytes)| *id == pack.pack && *bytes <= pack.size).map(|(_, bytes)| bytes);
    let (from, to) = match kept {
        // The member asked for the content that the changes do not bring, so it needs the rest.
        Some(bytes) if changes_first && bytes < pack.changes_end => (bytes, pack.changes_end),
        Some(bytes) => (bytes, pack.size),
        None if changes_first => (0, pack.changes_end),
        None => (0, pack.size),
    };
    let sync = member.standing.is_sync() || pack.base || packs.len() > 1;
    Step::Send(Sending { pack: pack.clone(), from, to, sync, forked, purpose })
}

#[cfg(test)]
mod tests;
