//! The index of the history's packs, with the rules for ancestry, routes and retention. There is no I/O here.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use bellwether_proto::revision::RevisionId;

use super::{Route, Stored, segment};

/// Bytes and number of increments after which a new base is due.
const DUE: (u64, usize) = (4 << 20, 500);

/// A revision's packs.
#[derive(Debug, Default)]
struct Slot {
    increment: Option<Arc<Stored>>,
    base: Option<Arc<Stored>>,
}

impl Slot {
    fn stored(&self) -> Option<&Arc<Stored>> {
        self.increment.as_ref().or(self.base.as_ref())
    }
}

/// All packs whose trees can be read: every increment's parent is in the index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Oldest first, and an increment before the base of the same revision.
    packs: Vec<Arc<Stored>>,
    slots: HashMap<RevisionId, Slot>,
    head: Option<RevisionId>,
}

pub(super) fn age(stored: &Stored) -> (u64, u64, RevisionId, bool) {
    let number = stored.header.number();
    (number.sequence, number.epoch.0, stored.header.id(), stored.base)
}

impl Index {
    /// Indexes `packs`, and returns those without a parent.
    pub(super) fn new(mut packs: Vec<Arc<Stored>>) -> (Self, Vec<Arc<Stored>>) {
        // A parent's sequence is lower than its child's, so parents come first.
        packs.sort_by_key(|stored| age(stored));
        let mut index = Self::default();
        let mut orphans = Vec::new();
        for stored in packs {
            if stored.base || index.has_parent(&stored) { index.insert(stored) } else { orphans.push(stored) }
        }
        (index, orphans)
    }

    /// Whether the revision that an increment changes is in the index.
    pub(super) fn has_parent(&self, stored: &Stored) -> bool {
        let parent = stored.header.header().parent.and_then(|parent| self.get(parent));
        parent.is_some_and(|parent| parent.header.number().sequence < stored.header.number().sequence)
    }

    /// Adds a pack, or replaces the one of the same revision and kind.
    pub(super) fn insert(&mut self, stored: Arc<Stored>) {
        let id = stored.header.id();
        let slot = self.slots.entry(id).or_default();
        let place = if stored.base { &mut slot.base } else { &mut slot.increment };
        *place = Some(stored.clone());
        match self.packs.binary_search_by_key(&age(&stored), |other| age(other)) {
            Ok(at) => self.packs[at] = stored.clone(),
            Err(at) => self.packs.insert(at, stored.clone()),
        }
        let rank = |stored: &Stored| (stored.header.number(), stored.header.id());
        if self.head().is_none_or(|head| rank(head) < rank(&stored)) {
            self.head = Some(id);
        }
    }

    /// Forgets the packs in these files, and the packs that need them.
    pub(super) fn remove(&mut self, gone: &HashSet<PathBuf>) {
        let kept = self.packs.iter().filter(|stored| !gone.contains(&stored.path)).cloned().collect();
        (*self, _) = Self::new(kept);
    }

    pub(super) fn head(&self) -> Option<&Arc<Stored>> {
        self.get(self.head?)
    }

    /// The newest pack in a file of its own, on the line back from the head; a revision's base comes before its increment.
    pub(super) fn newest_filed(&self) -> Option<&Arc<Stored>> {
        let mut packs =
            self.ancestry(self.head?).filter_map(|(_, slot)| slot.base.as_ref().or(slot.increment.as_ref()));
        packs.find(|stored| !segment::is_log(&stored.path))
    }

    pub(super) fn get(&self, id: RevisionId) -> Option<&Arc<Stored>> {
        self.slots.get(&id)?.stored()
    }

    /// A revision and those it descends from, newest first, also over a base whose increment is not here.
    pub(super) fn line(&self, from: RevisionId) -> impl Iterator<Item = &Arc<Stored>> {
        std::iter::successors(self.get(from), |stored| self.get(stored.header.header().parent?))
    }

    pub(super) fn has_base(&self, id: RevisionId) -> bool {
        self.slots.get(&id).is_some_and(|slot| slot.base.is_some())
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Arc<Stored>> {
        self.packs.iter()
    }

    /// A revision and its ancestors, newest first, as far as increments lead.
    fn ancestry(&self, id: RevisionId) -> impl Iterator<Item = (RevisionId, &Slot)> {
        let at = |id: RevisionId| self.slots.get(&id).map(|slot| (id, slot));
        std::iter::successors(at(id), move |(_, slot)| at(slot.increment.as_ref()?.header.header().parent?))
    }

    /// The slot of the nearest revision, `id` or an ancestor, that is `wanted`, and the increments after it, oldest first.
    fn chain(&self, id: RevisionId, wanted: impl Fn(RevisionId, &Slot) -> bool) -> Option<(&Slot, Vec<Arc<Stored>>)> {
        let mut chain = Vec::new();
        for (id, slot) in self.ancestry(id) {
            if wanted(id, slot) {
                chain.reverse();
                return Some((slot, chain));
            }
            chain.push(slot.increment.clone()?);
        }
        None
    }

    /// The nearest base at or before `id`, and the increments from that base to `id`.
    pub(super) fn based_chain(&self, id: RevisionId) -> Option<Vec<Arc<Stored>>> {
        let (slot, chain) = self.chain(id, |_, slot| slot.base.is_some())?;
        Some(slot.base.iter().cloned().chain(chain).collect())
    }

    pub(super) fn route(&self, from: Option<RevisionId>) -> Route {
        let Some(head) = self.head.filter(|head| from != Some(*head)) else { return Route::Nothing };
        let chain = from.and_then(|from| self.chain(head, |id, _| id == from)).map(|(_, chain)| chain);
        let based = self.based_chain(head);
        let bytes = |packs: &[Arc<Stored>]| packs.iter().map(|stored| stored.size).sum::<u64>();
        Route::Packs(match (chain, based) {
            (Some(chain), Some(based)) if bytes(&based) < bytes(&chain) => based,
            (Some(chain), _) => chain,
            (None, based) => based.unwrap_or_default(),
        })
    }

    pub(super) fn leads_from(&self, from: RevisionId) -> bool {
        self.head.is_some_and(|head| self.chain(head, |id, _| id == from).is_some())
    }

    pub(super) fn base_due(&self) -> bool {
        let Some((slot, chain)) = self.head.and_then(|head| self.chain(head, |_, slot| slot.base.is_some())) else {
            return false;
        };
        let base = slot.base.as_ref().map_or(0, |base| base.size);
        chain.len() > DUE.1 || chain.iter().map(|stored| stored.size).sum::<u64>() > base + DUE.0
    }

    /// The packs that retention may delete if `revisions` of the head's ancestry stay, with a base below them: the sequence of
    /// that base, and the files to delete. Their order leaves no increment without its parent at any time.
    pub(super) fn doomed(&self, revisions: usize) -> Option<(u64, Vec<PathBuf>)> {
        let enough = self.ancestry(self.head?).skip(revisions.max(1) - 1);
        let base = enough.into_iter().find_map(|(_, slot)| slot.base.clone())?;
        Some((base.header.number().sequence, self.doomed_before(&base)))
    }

    /// The bases on the line of the head, newest first.
    pub(super) fn bases(&self) -> impl Iterator<Item = &Arc<Stored>> {
        self.head.into_iter().flat_map(|head| self.ancestry(head)).filter_map(|(_, slot)| slot.base.as_ref())
    }

    /// The files to delete if the history is to begin with `base`. Their order leaves no increment without its parent at any
    /// time.
    pub(super) fn doomed_before(&self, base: &Arc<Stored>) -> Vec<PathBuf> {
        let oldest = base.header.number().sequence;
        let stays = |stored: &&Arc<Stored>| Arc::ptr_eq(stored, base) || stored.header.number().sequence > oldest;
        let (kept, _) = Self::new(self.packs.iter().filter(stays).cloned().collect());
        let kept: HashSet<&PathBuf> = kept.packs.iter().map(|stored| &stored.path).collect();
        let mut doomed: Vec<&PathBuf> = Vec::new();
        for stored in &self.packs {
            if !kept.contains(&stored.path) && !doomed.contains(&&stored.path) {
                doomed.push(&stored.path);
            }
        }
        doomed.into_iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        revision::{Epoch, Header, Number, SignedHeader},
    };

    use super::*;

    /// A base and increments of `size` bytes each, every one the child of the one before.
    fn line(increments: u64, size: u64) -> Index {
        let key = KeyPair::generate();
        let mut index = Index::default();
        let mut parent = None;
        for sequence in 1..=increments + 1 {
            let header = Header {
                group: [0; 16].into(),
                number: Number { epoch: Epoch(1), sequence },
                parent,
                manager: "web1".parse().unwrap(),
                incarnation: 1,
                time_ms: 0,
                author: String::new(),
                message: String::new(),
                labels: Default::default(),
                root: Hash::of(b""),
            };
            let header = SignedHeader::sign(header, &key);
            parent = Some(header.id());
            let (base, path) = (sequence == 1, PathBuf::from(sequence.to_string()));
            let stored = Stored { header, base, pack: Hash::of(b""), size, changes_end: size, changes: 1, path, at: 0 };
            assert!(base || index.has_parent(&stored));
            index.insert(Arc::new(stored));
        }
        index
    }

    #[test]
    fn a_base_is_due_by_number_or_by_bytes() {
        assert!(!Index::default().base_due());
        assert!(!line(500, 100).base_due());
        assert!(line(501, 100).base_due());
        assert!(!line(5, 1 << 20).base_due());
        assert!(line(6, 1 << 20).base_due());
    }

    #[test]
    fn what_needs_a_removed_pack_goes_with_it() {
        let mut index = line(4, 100);
        index.remove(&HashSet::from([PathBuf::from("3")]));
        let left: Vec<_> = index.all().map(|stored| stored.header.number().sequence).collect();
        assert_eq!(left, [1, 2]);
        assert_eq!(index.head().unwrap().header.number().sequence, 2);
    }

    #[test]
    fn the_line_goes_from_a_revision_to_the_oldest() {
        let index = line(4, 100);
        let head = index.head().unwrap().header.id();
        let sequences: Vec<_> = index.line(head).map(|stored| stored.header.number().sequence).collect();
        assert_eq!(sequences, [5, 4, 3, 2, 1]);
        assert_eq!(Index::default().line(head).count(), 0);
    }

    /// Packs are found in any order.
    #[test]
    fn the_order_of_files_does_not_matter() {
        let packs: Vec<_> = line(4, 100).all().rev().cloned().collect();
        let (index, orphans) = Index::new(packs);
        assert!(orphans.is_empty());
        assert_eq!(index.head().unwrap().header.number().sequence, 5);
    }
}
