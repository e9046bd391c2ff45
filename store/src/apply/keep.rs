//! Kept copies: what a switch replaced and no revision has is moved to `recovery/<time>-<label>/<set>/<path>` of the
//! state directory (invariant 4).

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bellwether_proto::{Malformed, entry::EntryPath, level::Level};
use rustix::{
    fs::{Mode, OFlags, openat, readlinkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    carry::old_name,
    journal::{Journal, Operation},
    look::{Seen, Shape, look},
    place::Area,
    sparse, stage, verify,
};
use crate::{
    beneath::{open_file, os},
    durable::{self, Name},
};

/// Whose leftovers are in staging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftover {
    /// What was replaced, after the switch.
    Old,
    /// What was to be put, after it was taken back.
    New,
}

/// The manifest of a kept copy, for people and for a later restore.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The oldest level whose programs read it.
    format: Level,
    /// The moment of the switch, in UTC: `20261121T213000Z`.
    pub when: String,
    /// Why it was kept.
    pub why: String,
    revision: String,
    label: String,
    /// What was kept.
    pub entries: Vec<Point>,
}

/// A kept entry.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where it was.
    pub from: String,
    /// Where it is, beside this manifest.
    pub kept: String,
}

impl Manifest {
    /// Its name in the directory of the kept copy.
    pub const NAME: &str = "manifest.json";

    /// Reads a manifest.
    ///
    /// # Errors
    /// A newer bellwether made it, or it is malformed.
    pub fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Form {
            format: Level,
        }
        let wrong = |error| Malformed::new(format!("not the manifest of a kept copy: {error}"));
        let Form { format } = serde_json::from_slice(bytes).map_err(wrong)?;
        format.check("the manifest of a kept copy")?;
        serde_json::from_slice(bytes).map_err(wrong)
    }
}

const MANIFEST: &[u8] = Manifest::NAME.as_bytes();

/// A moment in UTC, as in names: `20261121T213000Z`.
pub(super) fn utc(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let readable = bellwether_proto::time::utc(i64::try_from(seconds).unwrap_or(i64::MAX));
    format!("{}Z", readable.replace(['-', ':'], "").replace(' ', "T"))
}

/// The directory of a switch's kept copies.
fn point(journal: &Journal) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let label: String = journal.label.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    format!("{}-{label}", journal.when)
}

/// Where what was at the operation's path is kept.
pub(super) fn kept_path(state: &Path, journal: &Journal, operation: &Operation) -> PathBuf {
    let set = journal.sets[operation.set].name.as_str();
    // The root itself, when it was replaced, is the set's name.
    let below = state.join("recovery").join(point(journal)).join(set);
    if operation.path.is_root() { below } else { below.join(os(operation.path.as_bytes())) }
}

/// Something in staging that has to be kept.
struct Item<'a> {
    operation: &'a Operation,
    name: Vec<u8>,
}

/// Which of the leftovers are no revision's and nobody else's copy.
fn items<'a>(journal: &'a Journal, areas: &[Area], leftover: Leftover) -> io::Result<Vec<Item<'a>>> {
    let mut items = Vec::new();
    for operation in &journal.operations {
        if !operation.act.moves() {
            continue;
        }
        for name in [stage::name(operation), old_name(operation)] {
            let staging = areas[operation.set].staging.as_fd();
            let Some(seen) = look(staging, &name)? else { continue };
            if has_to_be_kept(journal, operation, (staging, &seen), leftover) {
                items.push(Item { operation, name });
            }
        }
    }
    Ok(items)
}

fn has_to_be_kept(
    journal: &Journal,
    operation: &Operation,
    (staging, seen): (BorrowedFd<'_>, &Seen),
    leftover: Leftover,
) -> bool {
    match (leftover, &operation.was) {
        (Leftover::New, _) => {
            !journal.wanted(operation.set, &operation.path).is_some_and(|entry| verify::resembles(staging, seen, entry))
        }
        // It came after the switch had begun.
        (Leftover::Old, None) => true,
        (Leftover::Old, Some(was)) => {
            let directory = seen.shape == Shape::Directory;
            let same = directory || (seen.size, seen.mtime) == (was.size, was.mtime);
            operation.keep || seen.inode != was.inode || directory != was.directory || !same
        }
    }
}

/// What would be kept, as paths.
pub(super) fn planned(journal: &Journal, areas: &[Area], state: &Path, leftover: Leftover) -> io::Result<Vec<String>> {
    let items = items(journal, areas, leftover)?;
    Ok(items.iter().map(|item| kept_path(state, journal, item.operation).display().to_string()).collect())
}

/// Moves what has to be kept out of staging. Safe to repeat.
pub(super) fn keep(journal: &Journal, areas: &[Area], state: &Path, leftover: Leftover) -> io::Result<()> {
    let items = items(journal, areas, leftover)?;
    if items.is_empty() {
        return Ok(());
    }
    let held = File::open(state)?;
    let recovery = directory(held.as_fd(), b"recovery")?;
    let at = directory(recovery.as_fd(), point(journal).as_bytes())?;
    manifest(at.as_fd(), journal, &items, leftover)?;
    for Item { operation, name } in items {
        let set = journal.sets[operation.set].name.as_str().as_bytes();
        let path = if operation.path.is_root() {
            EntryPath::new(set)
        } else {
            EntryPath::new(&[set, b"/", operation.path.as_bytes()].concat())
        };
        let from = Name { directory: areas[operation.set].staging.as_fd(), name: &name };
        take(from, at.as_fd(), &path.map_err(io::Error::other)?)?;
    }
    Ok(())
}

fn manifest(at: BorrowedFd<'_>, journal: &Journal, items: &[Item<'_>], leftover: Leftover) -> io::Result<()> {
    let entries = items.iter().map(|Item { operation, .. }| {
        let set = &journal.sets[operation.set];
        let path = os(operation.path.as_bytes());
        Point {
            from: set.path.join(path).display().to_string(),
            kept: Path::new(set.name.as_str()).join(path).display().to_string(),
        }
    });
    let why = match leftover {
        Leftover::Old => "replaced by the revision; it was not what the revision before had",
        Leftover::New => "changed after the switch to the revision, which was taken back",
    };
    let mut manifest = Manifest {
        format: Level::FIRST,
        when: journal.when.clone(),
        why: why.to_owned(),
        revision: journal.revision.to_string(),
        label: journal.label.clone(),
        entries: entries.collect(),
    };
    // What an interrupted try has moved already is not in staging any more.
    if look(at, MANIFEST)?.is_some() {
        let mut bytes = Vec::new();
        open_file(at, MANIFEST)?.read_to_end(&mut bytes)?;
        let before = Manifest::read(&bytes).map_err(io::Error::other)?;
        let moved = before.entries.into_iter().filter(|point| !manifest.entries.contains(point)).collect::<Vec<_>>();
        manifest.entries.extend(moved);
    }
    durable::replace_file(at, MANIFEST, &serde_json::to_vec_pretty(&manifest)?)
}

/// Opens `name`, made when it is not there, for this user only.
fn directory(above: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match durable::make_directory(above, name, 0o700) {
        Ok(()) => durable::sync_directory(above)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    open(Name { directory: above, name })
}

fn open(at: Name<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at.directory, os(at.name), flags, Mode::empty())?)
}

/// Moves `from` to `path` beneath `at`: a rename, or across file systems a copy.
fn take(from: Name<'_>, at: BorrowedFd<'_>, path: &EntryPath) -> io::Result<()> {
    let mut above = at.try_clone_to_owned()?;
    let (directories, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
    for component in directories.components() {
        above = directory(above.as_fd(), component)?;
    }
    // Kept twice under one name, the second time of an interrupted move or of two leftovers: the later gets a number.
    let mut name = name.to_vec();
    for number in 1.. {
        if look(above.as_fd(), &name)?.is_none() {
            break;
        }
        name = [path.split().map(|(_, name)| name).unwrap_or_default(), format!(".{number}").as_bytes()].concat();
    }
    let to = Name { directory: above.as_fd(), name: &name };
    match durable::rename_new(from, to) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => copy_whole(from, to)?,
        other => other?,
    }
    durable::sync_directory(above.as_fd())
}

fn copy_whole(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    let partial = [b".partial-", from.name].concat();
    let at = Name { directory: to.directory, name: &partial };
    durable::remove_all(at.directory, at.name)?;
    copy(from, at)?;
    durable::rename_new(at, to)?;
    durable::sync_directory(to.directory)?;
    durable::remove_all(from.directory, from.name)
}

/// Copies a file, a link, or a directory with all it holds, durably; owner and times as they were.
pub(super) fn copy(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    let Some(seen) = look(from.directory, from.name)? else { return Ok(()) };
    match seen.shape {
        Shape::File => {
            let source = open_file(from.directory, from.name)?;
            let copy = durable::create(to.directory, to.name, 0o600)?;
            sparse::copy(&source, &copy)?;
            durable::put_numbers(copy.as_fd(), seen.mode, seen.ids, seen.mtime)?;
            durable::sync_file(copy.as_fd())
        }
        Shape::Link => {
            let target = readlinkat(from.directory, os(from.name), Vec::new())?;
            durable::make_link(to.directory, to.name, target.as_bytes())
        }
        Shape::Directory => {
            durable::make_directory(to.directory, to.name, 0o700)?;
            let (source, copied) = (open(from)?, open(to)?);
            for name in durable::names(source.as_fd())? {
                let from = Name { directory: source.as_fd(), name: &name };
                copy(from, Name { directory: copied.as_fd(), name: &name })?;
            }
            durable::put_numbers(copied.as_fd(), seen.mode, seen.ids, seen.mtime)?;
            durable::sync_directory(copied.as_fd())
        }
        // Nothing that a set is made of.
        Shape::Other(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_named_in_utc() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_782_400), "20000229T000000Z");
        assert_eq!(at(1_709_251_199), "20240229T235959Z");
        assert_eq!(at(1_795_296_600), "20261121T213000Z");
    }
}
