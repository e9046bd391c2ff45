//! The packs of one file.
//!
//! A file's first pack was durable before the file got its name. Each later pack was appended by one write and one fsync, so a
//! power loss or a kill may leave any part of the last pack. That pack is whole, or it was never part of the history.

use std::{fs::File, path::Path};

use bellwether_proto::Malformed;

use super::{HistoryError, Stored, disk, reading};
use crate::{
    log,
    pack::{self, PackError},
};

/// The number of names that a file may have.
const COPIES: usize = 100;

/// The content of a file.
#[derive(Debug)]
pub(super) struct Segment {
    /// The whole packs in order.
    pub(super) packs: Vec<Stored>,
    /// The end of the last whole pack.
    pub(super) end: u64,
    /// The kind of content after that.
    pub(super) rest: Rest,
}

/// The kind of content after the whole packs of a file.
#[derive(Debug)]
pub(super) enum Rest {
    Nothing,
    /// An append was interrupted; the next append replaces it.
    Torn,
    /// A pack that was durable once cannot be read any more.
    Damaged(PackError),
}

/// Whether that is the history's log, which has packs between other records.
pub(super) fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == log::NAME)
}

/// Reads a file of the history: every frame's header, and all bytes of a pack that may be torn.
///
/// # Errors
/// The system's, or a newer bellwether made a pack.
pub(super) fn read(path: &Path) -> Result<Segment, HistoryError> {
    if is_log(path) {
        return logged(path);
    }
    let file = reading::open(path)?;
    let failed = |source| HistoryError::Io { action: "look at", path: path.to_owned(), source };
    let length = file.metadata().map_err(failed)?.len();
    let mut segment = Segment { packs: Vec::new(), end: 0, rest: Rest::Nothing };
    while segment.end < length || segment.packs.is_empty() {
        match pack::survey(&file, path, segment.end).and_then(|survey| named(survey, path, segment.end)) {
            Ok(stored) => {
                segment.end += stored.size;
                segment.packs.push(stored);
            }
            Err(PackError::Malformed(what)) => {
                segment.rest = rest(&file, path, segment.end, what).map_err(reading::named(path))?;
                break;
            }
            Err(error) => return Err(reading::named(path)(error)),
        }
    }
    if matches!(segment.rest, Rest::Nothing | Rest::Torn)
        && let [_, .., last] = &segment.packs[..]
        && !is_whole(&file, last)?
    {
        segment.end = last.at;
        segment.packs.pop();
        segment.rest = Rest::Torn;
    }
    Ok(segment)
}

/// The packs in a log, whose records were checked.
fn logged(path: &Path) -> Result<Segment, HistoryError> {
    let records = log::read(path.parent().unwrap_or(path))?;
    let mut segment = Segment { packs: Vec::new(), end: 0, rest: Rest::Nothing };
    if records.packs.is_empty() {
        return Ok(segment);
    }
    let file = reading::open(path)?;
    for at in records.packs {
        let survey = pack::survey(&file, path, at).map_err(reading::named(path))?;
        segment.packs.push(reading::from_survey(path.to_owned(), at, survey));
    }
    Ok(segment)
}

/// Checks that the file is named after its first pack.
fn named(survey: pack::Survey, path: &Path, at: u64) -> Result<Stored, PackError> {
    let stored = reading::from_survey(path.to_owned(), at, survey);
    let mut names = disk::names(&stored.header, stored.base).take(COPIES);
    if at == 0 && !names.any(|name| path.file_name().is_some_and(|is| is == name.as_str())) {
        let name = disk::names(&stored.header, stored.base).next().unwrap_or_default();
        return Err(Malformed::new(format!("its first pack belongs to a file named {name}")).into());
    }
    Ok(stored)
}

/// Tells a torn file from a damaged one: it is torn at `at` if a pack is before `at` and none is behind it.
fn rest(file: &File, path: &Path, at: u64, what: Malformed) -> Result<Rest, PackError> {
    if at > 0 && !pack::begins_behind(file, path, at)? {
        return Ok(Rest::Torn);
    }
    Ok(Rest::Damaged(what.into()))
}

/// Whether the checksums of all frames of a pack are right.
fn is_whole(file: &File, stored: &Stored) -> Result<bool, HistoryError> {
    let whole = pack::whole_frames(file, &stored.path, stored.at).map_err(reading::named(&stored.path))?;
    // `whole_frames` also counts whole frames of the next pack.
    Ok(whole.is_some_and(|(_, bytes)| bytes >= stored.size))
}
