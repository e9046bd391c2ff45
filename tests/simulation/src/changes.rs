//! Sets of changes. One history has fewer than 128 changes, so that every step can be judged quickly.

use std::fmt;

/// A client's change, or an edit by hand.
pub(crate) type Change = u8;

/// The most changes of one history.
pub(crate) const MOST: Change = 127;

/// A set of changes.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Changes(u128);

impl Changes {
    /// The set with that change alone.
    pub(crate) fn one(change: Change) -> Self {
        Self(1 << change)
    }

    /// The union of both sets.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without the other one.
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

    /// The bytes that are hashed for a tree with these changes.
    pub(crate) fn bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((0..=MOST).filter(|change| self.has(*change))).finish()
    }
}
