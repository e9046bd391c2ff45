//! What has to wait while a pack arrives, or chunks are awaited: what is staged was compared with the sets as they were.
//! Bounded: looks are one look.

use std::collections::BTreeMap;

use bellwether_store::scan::Look;

/// Paths that are kept apart; past so many everything is looked at.
const PATHS: usize = 50_000;

/// It; see the module.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    look: Option<Look>,
    /// Nothing but the time has come to look.
    plain: bool,
    verify: Option<bool>,
}

/// A look at nothing: only what is known already is judged again.
pub(crate) fn nowhere() -> Look {
    Look::At(BTreeMap::new())
}

impl Waiting {
    /// Something is to be looked at.
    pub(crate) fn look(&mut self, look: Look) {
        self.plain = false;
        self.look = Some(match self.look.take() {
            None => look,
            Some(before) => both(before, look),
        });
    }

    /// Everything is to be looked at, though nothing is known to have changed.
    pub(crate) fn rescan(&mut self) {
        let plain = self.look.is_none() && self.verify.is_none();
        self.look(Look::Stats);
        self.plain = plain;
    }

    /// Everything is to be looked at, every byte when `full`.
    pub(crate) fn verify(&mut self, full: bool) {
        self.verify = Some(full || self.verify == Some(true));
    }

    /// Whether a verification is due.
    pub(crate) fn wants_verify(&self) -> bool {
        self.verify.is_some()
    }

    /// Whether a verification is due; it looks at everything.
    pub(crate) fn take_verify(&mut self) -> Option<bool> {
        let full = self.verify.take()?;
        self.look = None;
        Some(full)
    }

    /// What is to be looked at, and whether only because it is time.
    pub(crate) fn take_look(&mut self) -> Option<(Look, bool)> {
        Some((self.look.take()?, std::mem::take(&mut self.plain)))
    }
}

fn both(a: Look, b: Look) -> Look {
    match (a, b) {
        (Look::Bytes, _) | (_, Look::Bytes) => Look::Bytes,
        (Look::Stats, _) | (_, Look::Stats) => Look::Stats,
        (Look::At(mut a), Look::At(b)) => {
            for (place, depth) in b {
                let known = a.entry(place).or_insert(depth);
                *known = depth.max(*known);
            }
            if a.len() > PATHS { Look::Stats } else { Look::At(a) }
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::entry::EntryPath;
    use bellwether_store::scan::Depth;

    use super::*;

    fn at(path: &str, depth: Depth) -> Look {
        let place = ("web".parse().expect("a name"), EntryPath::new(path.as_bytes()).expect("a path"));
        Look::At([(place, depth)].into())
    }

    #[test]
    fn what_is_seen_meanwhile_is_gathered() {
        let mut waiting = Waiting::default();
        assert!(waiting.take_look().is_none());
        waiting.look(at("a", Depth::All));
        waiting.look(at("b", Depth::Entry));
        waiting.look(at("a", Depth::Entry));
        let Some((Look::At(places), _)) = waiting.take_look() else { panic!("places") };
        assert_eq!(places.into_values().collect::<Vec<_>>(), [Depth::All, Depth::Entry]);
        waiting.look(at("a", Depth::All));
        waiting.look(Look::Stats);
        waiting.look(at("b", Depth::All));
        assert!(matches!(waiting.take_look(), Some((Look::Stats, false))));
        waiting.rescan();
        assert!(matches!(waiting.take_look(), Some((Look::Stats, true))));
        waiting.look(at("a", Depth::All));
        waiting.rescan();
        assert!(matches!(waiting.take_look(), Some((Look::Stats, false))), "an event told of something");
    }

    #[test]
    fn past_a_bound_everything_is_looked_at() {
        let mut waiting = Waiting::default();
        (0..=PATHS).for_each(|n| waiting.look(at(&n.to_string(), Depth::Entry)));
        assert!(matches!(waiting.take_look(), Some((Look::Stats, false))));
    }

    #[test]
    fn a_verification_looks_at_all_that_waits() {
        let mut waiting = Waiting::default();
        waiting.look(at("a", Depth::All));
        waiting.verify(true);
        waiting.verify(false);
        assert_eq!(waiting.take_verify(), Some(true));
        assert!(waiting.take_look().is_none() && waiting.take_verify().is_none());
    }
}
