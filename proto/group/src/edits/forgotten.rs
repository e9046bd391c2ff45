//! The notes of forgotten contents: a note is in the record before the manager erases anything, so that every server erases the
//! content, and a promoted manager goes on.

use bellwether_proto::{
    limits,
    record::{Forgotten, Record, SignedRecord},
};

use super::{By, GroupRefused, next};

/// Adds the note `new`, whose id, author and time are set here. Notes that are done make room, the oldest first. None: the last
/// note says the same, and is not done.
///
/// # Errors
/// There is no room for it.
pub fn forget(held: &SignedRecord, new: Forgotten, by: &By) -> Result<Option<Record>, GroupRefused> {
    let mut list = held.record().policy.forgotten.clone();
    let is_there = |last: &Forgotten| !last.done && (&last.place, &last.chunks) == (&new.place, &new.chunks);
    if list.last().is_some_and(is_there) {
        return Ok(None);
    }
    let id = list.last().map_or(0, |last| last.id) + 1;
    let what = format!("forget {}", new.place);
    list.push(Forgotten { id, by: by.author.clone(), time_ms: by.time_ms, done: false, ..new });
    while over(&list) {
        let oldest = list.iter().position(|note| note.done).ok_or(GroupRefused::TooMuchForgotten)?;
        list.remove(oldest);
    }
    Ok(Some(next(held, by, what, |record| record.policy.forgotten = list)))
}

fn over(list: &[Forgotten]) -> bool {
    let chunks: usize = list.iter().map(|note| note.chunks.len()).sum();
    list.len() > limits::FORGOTTEN.0 || chunks > limits::FORGOTTEN.1
}

/// Notes that every server of the group has erased these contents; none: the record says so, or has none of them.
pub fn forgotten_by_all(held: &SignedRecord, ids: &[u64], by: &By) -> Option<Record> {
    let notes = held.record().policy.forgotten.iter().filter(|note| !note.done && ids.contains(&note.id));
    let places: Vec<&str> = notes.map(|note| note.place.as_str()).collect();
    let what = format!("no server holds any more: {}", places.join(", "));
    (!places.is_empty()).then(|| {
        next(held, by, what, |record| {
            record.policy.forgotten.iter_mut().filter(|note| ids.contains(&note.id)).for_each(|note| note.done = true);
        })
    })
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        hash::Hash,
        revision::{Epoch, Number},
    };

    use super::{
        super::tests::{Group, by},
        *,
    };

    fn note(place: &str, chunks: usize) -> Forgotten {
        let number = Number { epoch: Epoch(1), sequence: 4 };
        Forgotten {
            id: 0,
            place: place.to_owned(),
            chunks: vec![Hash::of(place.as_bytes()); chunks],
            until: number,
            begins: number,
            by: String::new(),
            time_ms: 0,
            done: true,
        }
    }

    fn ids(group: &Group) -> Vec<(u64, bool)> {
        group.held.record().policy.forgotten.iter().map(|note| (note.id, note.done)).collect()
    }

    #[test]
    fn a_note_is_added_once_and_is_done_once() {
        let mut group = Group::new();
        let record = forget(&group.held, note("web:a", 1), &by()).unwrap();
        assert!(group.take(record));
        assert_eq!(forget(&group.held, note("web:a", 1), &by()), Ok(None), "again");
        let record = forget(&group.held, note("web:b", 2), &by()).unwrap();
        assert!(group.take(record));
        assert_eq!(ids(&group), [(1, false), (2, false)]);
        assert_eq!(forgotten_by_all(&group.held, &[7], &by()), None);
        let record = forgotten_by_all(&group.held, &[1], &by());
        assert!(group.take(record));
        assert_eq!(ids(&group), [(1, true), (2, false)]);
        assert_eq!(forgotten_by_all(&group.held, &[1], &by()), None);
        assert_eq!(group.held.record().log.last().unwrap().what, "no server holds any more: web:a");
    }

    #[test]
    fn notes_that_are_done_make_room_and_others_do_not() {
        let mut group = Group::new();
        let (_, most) = limits::FORGOTTEN;
        for (place, chunks) in [("web:a", most / 2), ("web:b", most / 2)] {
            let record = forget(&group.held, note(place, chunks), &by()).unwrap();
            assert!(group.take(record));
        }
        assert_eq!(forget(&group.held, note("web:c", 1), &by()), Err(GroupRefused::TooMuchForgotten));
        let record = forgotten_by_all(&group.held, &[1], &by());
        assert!(group.take(record));
        let record = forget(&group.held, note("web:c", 1), &by()).unwrap();
        assert!(group.take(record));
        assert_eq!(ids(&group), [(2, false), (3, false)]);
    }
}
