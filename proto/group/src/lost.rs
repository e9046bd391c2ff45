//! Lost revisions: an earlier manager made them, some server has seen them, and no history here has them. Each is
//! reported once, and named in the log of the group record (invariant 4, W14, W24).

use std::collections::{BTreeMap, HashSet};

use bellwether_proto::{
    key::PublicKey,
    record::{Edit, Record, SignedRecord},
    revision::{Epoch, Number, RevisionId, SignedHeader},
    time,
};

use crate::edits::{self, By};

/// The largest number of revisions that one change of the record names.
const NAMED: usize = 20;
/// The largest number of characters of a message.
const MESSAGE: usize = 200;

/// The revisions in the histories here, and the oldest one after which none is missing.
#[derive(Debug, Default)]
pub struct Known {
    ids: HashSet<RevisionId>,
    /// From this number on, no revision is missing.
    oldest: Option<Number>,
}

impl Known {
    /// Collects the revisions of these histories.
    pub fn of(headers: impl IntoIterator<Item = SignedHeader>) -> Self {
        let all: BTreeMap<_, _> = headers.into_iter().map(|h| ((h.number(), h.id()), h.header().parent)).collect();
        let numbers: BTreeMap<RevisionId, Number> = all.keys().map(|(number, id)| (*id, *number)).collect();
        let mut at = all.last_key_value().map(|(at, _)| *at);
        let mut oldest = None;
        // From the newest back to a revision without a parent, which began a history anew: earlier ones are older.
        while let Some(revision) = at {
            oldest = Some(revision.0);
            at = match all[&revision] {
                Some(parent) => numbers.get(&parent).map(|number| (*number, parent)),
                None => all.range(..revision).next_back().map(|(before, _)| *before),
            };
        }
        Self { ids: numbers.into_keys().collect(), oldest }
    }

    /// Whether that revision is missing here. Its number alone proves nothing: a restored manager may have used it
    /// again (W14). Revisions older than all here may have been deleted by retention.
    pub fn lacks(&self, header: &SignedHeader) -> bool {
        !self.ids.contains(&header.id()) && self.oldest.is_some_and(|oldest| header.number() >= oldest)
    }

    /// The lost ones of `seen`: missing here, and made in an epoch before that of `record`, by its manager (`led_by`
    /// gives the key) or by a candidate, who may have led in an epoch that the chain here does not know.
    pub fn lost<'a>(
        &self,
        record: &Record,
        led_by: impl Fn(Epoch) -> Option<PublicKey>,
        seen: &'a [SignedHeader],
    ) -> Vec<&'a SignedHeader> {
        let of_before = |h: &&SignedHeader| h.header().group == record.group && h.number().epoch < record.version.epoch;
        let candidate = |h: &SignedHeader| {
            let mut servers = record.servers.iter().chain(&record.removed).filter(|server| server.candidate);
            servers.any(|server| server.name == h.header().manager && h.signed_by(&server.key))
        };
        let led = |h: &SignedHeader| led_by(h.number().epoch).is_some_and(|manager| h.signed_by(&manager));
        let signed = |h: &&SignedHeader| led(h) || candidate(h);
        seen.iter().filter(of_before).filter(|header| self.lacks(header)).filter(signed).collect()
    }
}

/// The line that names a lost revision to people and in the log; `by` are the servers that have seen it.
pub fn line(header: &SignedHeader, by: &[&str]) -> String {
    let said = header.header();
    let time = time::utc((said.time_ms / 1_000) as i64);
    let message = if said.message.is_empty() { "no message" } else { &said.message };
    format!("{} of {time} UTC by {}: {} (seen by {})", mark(header), said.manager, plain(message), by.join(", "))
}

/// The mark that distinguishes revisions of one number.
fn mark(header: &SignedHeader) -> String {
    format!("{} {}", header.number(), header.id().0.short())
}

/// A message as one line of text, shortened.
fn plain(message: &str) -> String {
    message.chars().take(MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether the record names that revision as lost.
pub fn is_named(record: &Record, header: &SignedHeader) -> bool {
    names(record, &mark(header))
}

fn names(record: &Record, mark: &str) -> bool {
    let begins = format!("lost: {mark} ");
    record.log.iter().any(|edit| edit.what.starts_with(&begins))
}

/// Adds the newest of these lines to the log of an unsigned record, unless it has them.
pub fn enter(record: &mut Record, lines: &[String], by: &By) {
    for line in &lines[lines.len().saturating_sub(NAMED)..] {
        // The first two words are the mark.
        let mark = line.match_indices(' ').nth(1).map_or(line.as_str(), |(end, _)| &line[..end]);
        if !names(record, mark) {
            let (by, time_ms) = (by.author.clone(), by.time_ms);
            edits::log(&mut record.log, Edit { by, time_ms, what: format!("lost: {line}") });
        }
    }
}

/// The record after `held`, whose log names these lines; none: there are none.
pub fn next(held: &SignedRecord, lines: &[String], by: &By) -> Option<Record> {
    let (last, before) = lines.split_last()?;
    Some(edits::next(held, by, format!("lost: {last}"), |record| enter(record, before, by)))
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{hash::Hash, key::KeyPair, revision::Header};

    use super::*;
    use crate::edits::tests::Group;

    fn header(key: &KeyPair, epoch: u64, sequence: u64, parent: Option<&SignedHeader>) -> SignedHeader {
        let header = Header {
            group: [7; 16].into(),
            number: Number { epoch: Epoch(epoch), sequence },
            parent: parent.map(SignedHeader::id),
            manager: "m".parse().unwrap(),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: "a change\u{1b}".to_owned(),
            labels: Default::default(),
            root: Hash::of(b"root"),
        };
        SignedHeader::sign(header, key)
    }

    fn line_of(key: &KeyPair, epoch: u64, sequences: std::ops::RangeInclusive<u64>) -> Vec<SignedHeader> {
        let mut all: Vec<SignedHeader> = Vec::new();
        for sequence in sequences {
            all.push(header(key, epoch, sequence, all.last()));
        }
        all
    }

    #[test]
    fn invariant_4_what_no_history_has_is_lost_whoever_has_another_of_its_number() {
        let key = KeyPair::generate();
        let ours = line_of(&key, 2, 3..=6);
        let before = Known::of(ours.clone());
        assert!(!ours.iter().any(|header| before.lacks(header)));
        assert!(before.lacks(&header(&key, 2, 5, None)) && before.lacks(&header(&key, 2, 7, None)));
        assert!(!before.lacks(&header(&key, 2, 2, None)), "retention");
        assert!(!Known::default().lacks(&header(&key, 2, 2, None)), "nothing is known here");
    }

    #[test]
    fn what_is_older_than_a_gap_is_not_judged() {
        let key = KeyPair::generate();
        let (old, away) = (line_of(&key, 1, 1..=3), header(&key, 1, 8, None));
        let base = header(&key, 1, 9, Some(&away));
        let before = Known::of(old.iter().cloned().chain([base]));
        assert!(!before.lacks(&away), "a base was sent instead of it");
        assert!(before.lacks(&header(&key, 1, 9, None)));
    }

    #[test]
    fn a_history_that_was_begun_anew_goes_on_with_the_one_before() {
        let key = KeyPair::generate();
        let mut ours = line_of(&key, 1, 1..=3);
        ours.push(header(&key, 5, 4, None));
        let before = Known::of(ours);
        assert!(before.lacks(&header(&key, 1, 4, None)), "made by the one before, and not among what was kept");
    }

    #[test]
    fn only_what_a_manager_or_a_candidate_has_signed_counts() {
        let (key, other, candidate) = (KeyPair::generate(), KeyPair::generate(), KeyPair::generate());
        let mut record = Group::new().held.record().clone();
        record.group = [7; 16].into();
        record.servers[0].key = candidate.public();
        record.version.epoch = Epoch(3);
        let before = Known::of(line_of(&key, 1, 1..=3));
        let led_by = |epoch: Epoch| (epoch <= Epoch(2)).then(|| key.public());
        let lost = |header: SignedHeader| !before.lost(&record, led_by, &[header]).is_empty();
        assert!(lost(header(&key, 1, 4, None)) && lost(header(&key, 2, 4, None)));
        assert!(!lost(header(&key, 3, 4, None)), "of this epoch: a manager whose state went back");
        assert!(lost(header(&candidate, 2, 4, None)), "of a branch, perhaps");
        record.servers[0].candidate = false;
        let lost = |header: SignedHeader| !before.lost(&record, led_by, &[header]).is_empty();
        assert!(!lost(header(&candidate, 2, 4, None)) && !lost(header(&other, 1, 4, None)), "anybody's word");
    }

    #[test]
    fn a_lost_revision_is_named_once() {
        let key = KeyPair::generate();
        let (mut record, header) = (Group::new().held.record().clone(), header(&key, 1, 4, None));
        let by = By { author: "m".to_owned(), time_ms: 7 };
        assert!(!is_named(&record, &header));
        let line = line(&header, &["a", "b"]);
        assert!(line.ends_with(" by m: a change  (seen by a, b)"), "{line}");
        enter(&mut record, std::slice::from_ref(&line), &by);
        assert!(is_named(&record, &header));
        let before = record.log.len();
        enter(&mut record, &[line], &by);
        assert_eq!(record.log.len(), before);
        let many: Vec<String> = (0..64).map(|n| format!("1.{n} {n:08x} of some time")).collect();
        enter(&mut record, &many, &by);
        assert_eq!(record.log.len(), before + NAMED);
    }
}
