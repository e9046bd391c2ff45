//! The packs of one file, as it is found.
//!
//! A file's first pack was durable before the file got its name. Each later one was appended by one write and one fsync, so a
//! power loss or a kill may leave any part of the last: it is whole, or it was never part of the history.

use std::{fs::File, path::Path};

use bellwether_proto::Malformed;

use super::{HistoryError, Stored, disk, reading};
use crate::{
    log,
    pack::{self, PackError},
};

/// Names of a file among which its own is looked for.
const COPIES: usize = 100;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Segment {
    /// Whole ones, in their order.
    pub(super) packs: Vec<Stored>,
    /// Where they end.
    pub(super) end: u64,
    /// What follows.
    pub(super) rest: Rest,
}

/// What follows the whole packs of a file.
#[derive(Debug)]
pub(super) enum Rest {
    Nothing,
    /// An append that was interrupted; the next one takes its place.
    Torn,
    /// What was durable once and cannot be read any more.
    Damaged(PackError),
}

/// Whether that is the history's log, whose packs stand between other records.
pub(super) fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == log::NAME)
}

/// Looks at a file of the history: at every frame's header, and at all bytes of the pack that may be torn.
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

/// The packs that a log has; its records were checked.
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

/// The first pack says the file's name.
fn named(survey: pack::Survey, path: &Path, at: u64) -> Result<Stored, PackError> {
    let stored = reading::from_survey(path.to_owned(), at, survey);
    let mut names = disk::names(&stored.header, stored.base).take(COPIES);
    if at == 0 && !names.any(|name| path.file_name().is_some_and(|is| is == name.as_str())) {
        let name = disk::names(&stored.header, stored.base).next().unwrap_or_default();
        return Err(Malformed::new(format!("by what is in it, its name should be {name}")).into());
    }
    Ok(stored)
}

/// What it is that is not whole at `at`: an append was interrupted where another pack is before it and none behind it.
fn rest(file: &File, path: &Path, at: u64, what: Malformed) -> Result<Rest, PackError> {
    if at > 0 && !pack::begins_behind(file, path, at)? {
        return Ok(Rest::Torn);
    }
    Ok(Rest::Damaged(what.into()))
}

/// Whether the checksums of all frames of a pack fit.
fn is_whole(file: &File, stored: &Stored) -> Result<bool, HistoryError> {
    let whole = pack::whole_frames(file, &stored.path, stored.at).map_err(reading::named(&stored.path))?;
    // It counts what is whole of the next one, too.
    Ok(whole.is_some_and(|(_, bytes)| bytes >= stored.size))
}
