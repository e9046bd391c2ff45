//! Entries that cannot be published now: the reason, the beginning, and the time of the next try. Others do not wait
//! for them. These are rules over data; time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bellwether_proto::{
    entry::EntryPath,
    name::SetName,
    status::{UnreadCause, UnreadEntry},
};
use bellwether_store::scan::{Depth, Look, Patience, ScanError, Unread};

/// The interval of checks of an open file; closing it also makes an event.
const POLL: Duration = Duration::from_secs(1);
/// The pause before an unreadable entry is tried again: the first and the longest; it doubles each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(crate) type SetPath = (SetName, EntryPath);

/// Entries that could not be read at the last scan, and those that were published while they were open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    unread: BTreeMap<SetPath, Wait>,
    open: BTreeSet<SetPath>,
    /// Files that were being written before their first scan, and since when.
    written: BTreeMap<SetPath, Instant>,
}

#[derive(Debug, Clone)]
struct Wait {
    cause: UnreadCause,
    reason: String,
    since: Instant,
    since_ms: u64,
    next: Instant,
    pause: Duration,
    /// The number of failed reads, if it changed at every read.
    tries: u32,
}

impl Waiting {
    /// The way a scan at `now` treats an open file at `place`; `bound` is the longest wait.
    pub(crate) fn patience(&self, place: &SetPath, bound: Duration, now: Instant) -> Patience {
        let over = |since: &Instant| now >= *since + bound;
        match self.unread.get(place) {
            Some(wait) if wait.cause == UnreadCause::Changing && now < wait.next => Patience::Rests(wait.tries),
            Some(wait) if written(wait.cause) && over(&wait.since) => Patience::Over,
            None if bound.is_zero() || self.written.get(place).is_some_and(over) => Patience::Over,
            Some(_) | None => Patience::Waits,
        }
    }

    /// Takes the beginnings of writes: the files have waited since then.
    pub(crate) fn written(&mut self, files: Vec<(SetPath, Instant)>) {
        self.written = files.into_iter().collect();
    }

    /// Takes the findings of a scan: paths within it that it does not name wait no more.
    pub(crate) fn take(
        &mut self,
        looked: &Look,
        found: &[Unread],
        open: &[SetPath],
        bound: Duration,
        now: (Instant, u64),
    ) {
        let old = self.unread.clone();
        self.unread.retain(|place, _| !covers(looked, place));
        self.open.retain(|place| !covers(looked, place));
        self.open.extend(open.iter().cloned());
        for unread in found {
            let place = (unread.set.clone(), unread.path.clone());
            let mut wait = Wait::new(unread, old.get(&place), bound, now);
            wait.since = self.written.get(&place).map_or(wait.since, |since| wait.since.min(*since));
            if old.get(&place).is_none_or(|old| old.cause != wait.cause) {
                let (set, path) = &place;
                tracing::warn!(%set, %path, why = wait.reason, "not published: it stays as in the last revision; tried again");
            }
            self.unread.insert(place, wait);
        }
    }

    /// The entries that could not be read at the last scan.
    pub(crate) fn places(&self) -> impl Iterator<Item = &SetPath> {
        self.unread.keys()
    }

    /// The time of the next try.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.unread.values().map(|wait| wait.next).min()
    }

    /// The entries to scan again at `now`.
    pub(crate) fn look(&self, now: Instant) -> Option<Look> {
        let due = self.unread.iter().filter(|(_, wait)| wait.next <= now);
        let places: BTreeMap<SetPath, Depth> = due.map(|(place, _)| (place.clone(), Depth::All)).collect();
        (!places.is_empty()).then_some(Look::At(places))
    }

    /// The number of waiting entries of a set, and the first `most` of them.
    pub(crate) fn unread(&self, set: &SetName, most: usize) -> (u64, Vec<UnreadEntry>) {
        let of_set = || self.unread.iter().filter(|((of, _), _)| of == set);
        let entry = |((_, path), wait): (&SetPath, &Wait)| UnreadEntry {
            path: path.to_string(),
            cause: wait.cause,
            reason: wait.reason.clone(),
            since_ms: wait.since_ms,
        };
        (of_set().count() as u64, of_set().take(most).map(entry).collect())
    }

    /// The first `most` files of a set that were published while they were open for writing.
    pub(crate) fn open(&self, set: &SetName, most: usize) -> Vec<String> {
        self.open.iter().filter(|(of, _)| of == set).take(most).map(|(_, path)| path.to_string()).collect()
    }
}

impl Wait {
    fn new(unread: &Unread, old: Option<&Self>, bound: Duration, (now, now_ms): (Instant, u64)) -> Self {
        let cause = cause(&unread.why);
        let old = old.filter(|old| old.cause == cause || (written(old.cause) && written(cause)));
        let (since, since_ms) = old.map_or((now, now_ms), |old| (old.since, old.since_ms));
        let (next, pause) = match old {
            _ if cause == UnreadCause::Open => ((now + POLL).min(since + bound).max(now), RETRY.0),
            // It was scanned for another reason.
            Some(old) if now < old.next => (old.next, old.pause),
            Some(old) => (now + old.pause, (old.pause * 2).min(RETRY.1)),
            None => (now + RETRY.0, RETRY.0 * 2),
        };
        let tries = if let ScanError::Busy { tries, .. } = unread.why { tries } else { 0 };
        Self { cause, reason: unread.reason(), since, since_ms, next, pause, tries }
    }
}

fn written(cause: UnreadCause) -> bool {
    matches!(cause, UnreadCause::Open | UnreadCause::Changing)
}

fn cause(why: &ScanError) -> UnreadCause {
    match why {
        ScanError::Open { .. } => UnreadCause::Open,
        ScanError::Busy { .. } => UnreadCause::Changing,
        ScanError::Held { .. } | ScanError::Elsewhere { .. } => UnreadCause::Held,
        ScanError::Large { .. } => UnreadCause::Large,
        ScanError::Io { .. } | ScanError::Pattern { .. } => UnreadCause::Unreadable,
    }
}

/// Whether a scan covers a place.
pub(crate) fn covers(look: &Look, (set, path): &SetPath) -> bool {
    match look {
        Look::Stats | Look::Bytes => true,
        Look::At(paths) => paths.iter().any(|((of, above), depth)| {
            of == set && if *depth == Depth::All { path.is_within(above) } else { path == above }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(10);

    fn place() -> SetPath {
        ("web".parse().unwrap(), EntryPath::new(b"log").unwrap())
    }

    fn unread(why: fn(SetName, EntryPath) -> ScanError) -> Vec<Unread> {
        let (set, path) = place();
        vec![Unread { set: set.clone(), path: path.clone(), why: why(set, path) }]
    }

    fn open(set: SetName, path: EntryPath) -> ScanError {
        ScanError::Open { set, path }
    }

    fn busy(set: SetName, path: EntryPath) -> ScanError {
        ScanError::Busy { set, path, tries: 5 }
    }

    fn refused(set: SetName, path: EntryPath) -> ScanError {
        ScanError::Io { set, path, source: std::io::ErrorKind::PermissionDenied.into() }
    }

    /// Scans whenever that is due; returns the offsets in milliseconds of the first `count` scans.
    fn looks(why: fn(SetName, EntryPath) -> ScanError, count: usize) -> Vec<u128> {
        let start = Instant::now();
        let (mut waiting, mut now, mut times) = (Waiting::default(), start, Vec::new());
        for _ in 0..count {
            waiting.take(&Look::Stats, &unread(why), &[], BOUND, (now, 0));
            now = waiting.due().unwrap();
            times.push((now - start).as_millis());
            assert!(waiting.look(now).is_some() && waiting.look(now - Duration::from_millis(1)).is_none());
        }
        times
    }

    #[test]
    fn an_open_file_is_waited_for_until_the_bound() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        assert_eq!(waiting.patience(&place(), BOUND, start), Patience::Waits);
        assert_eq!(waiting.patience(&place(), Duration::ZERO, start), Patience::Over, "a group that does not wait");
        waiting.take(&Look::Stats, &unread(open), &[], BOUND, (start, 7));
        waiting.take(&Look::Stats, &unread(open), &[], BOUND, (start + BOUND / 2, 8));
        assert_eq!(waiting.unread(&place().0, 9).1[0].since_ms, 7);
        assert_eq!(waiting.patience(&place(), BOUND, start + BOUND - Duration::from_millis(1)), Patience::Waits);
        assert_eq!(waiting.patience(&place(), BOUND, start + BOUND), Patience::Over);
        assert_eq!(looks(open, 12)[8..10], [9_000, 10_000]);
        waiting.take(&Look::Stats, &[], &[place()], BOUND, (start + BOUND, 9));
        assert_eq!((waiting.due(), waiting.open(&place().0, 9)), (None, vec!["log".to_owned()]));
        assert_eq!(
            waiting.patience(&place(), BOUND, start + BOUND),
            Patience::Waits,
            "its next edit is waited for again"
        );
        waiting.take(&Look::Stats, &[], &[], BOUND, (start + BOUND, 10));
        assert!(waiting.open(&place().0, 9).is_empty(), "closed");
    }

    #[test]
    fn a_file_that_is_written_all_the_time_was_waited_for_already() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        waiting.written(vec![(place(), start)]);
        assert_eq!(waiting.patience(&place(), BOUND, start + BOUND / 2), Patience::Waits);
        assert_eq!(waiting.patience(&place(), BOUND, start + BOUND), Patience::Over);
        waiting.take(&Look::Stats, &unread(open), &[], BOUND, (start + BOUND / 2, 0));
        assert_eq!(waiting.patience(&place(), BOUND, start + BOUND), Patience::Over);
    }

    #[test]
    fn what_cannot_be_read_is_tried_again_more_and_more_rarely() {
        assert_eq!(looks(refused, 8), [1_000, 3_000, 7_000, 15_000, 31_000, 61_000, 91_000, 121_000]);
    }

    #[test]
    fn looks_for_other_reasons_do_not_put_it_off() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        for ms in [0, 300, 600, 900] {
            let now = start + Duration::from_millis(ms);
            waiting.take(&Look::Stats, &unread(refused), &[], BOUND, (now, 0));
            assert_eq!(waiting.due(), Some(start + RETRY.0));
        }
    }

    #[test]
    fn what_changes_at_every_read_is_not_read_at_every_look() {
        let start = Instant::now();
        let mut waiting = Waiting::default();
        waiting.take(&Look::Stats, &unread(busy), &[], BOUND, (start, 0));
        assert_eq!(waiting.patience(&place(), BOUND, start), Patience::Rests(5));
        assert_eq!(waiting.patience(&place(), BOUND, start + RETRY.0), Patience::Waits);
    }

    #[test]
    fn only_what_was_looked_at_is_forgotten() {
        let (mut waiting, now) = (Waiting::default(), (Instant::now(), 0));
        waiting.take(&Look::Stats, &unread(refused), &[place()], BOUND, now);
        let (set, _) = place();
        let other = Look::At([((set.clone(), EntryPath::new(b"a").unwrap()), Depth::All)].into());
        waiting.take(&other, &[], &[], BOUND, now);
        let above = Look::At([((set.clone(), EntryPath::root()), Depth::Entry)].into());
        waiting.take(&above, &[], &[], BOUND, now);
        assert_eq!((waiting.unread(&set, 9).0, waiting.open(&set, 9).len()), (1, 1));
        waiting.take(&Look::At([(place(), Depth::Entry)].into()), &[], &[], BOUND, now);
        assert_eq!((waiting.unread(&set, 9).0, waiting.open(&set, 9).len()), (0, 0));
    }
}
