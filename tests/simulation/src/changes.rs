//! Sets of changes. One history has fewer than 128, so that every step can be judged quickly.

use std::fmt;

/// A change that a client made, or an edit that somebody made by hand.
pub(crate) type Change = u8;

/// How many changes one history may have.
pub(crate) const MOST: Change = 127;

/// A set of changes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Changes(u128);

impl Changes {
    /// That one.
    pub(crate) fn one(change: Change) -> Self {
        Self(1 << change)
    }

    /// These and those.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without those.
    #[must_use]
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn has(self, change: Change) -> bool {
        self.0 & (1 << change) != 0
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The bytes that a tree of these would be hashed by.
    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=MOST).filter(|change| self.has(*change))).finish()
    }
}
