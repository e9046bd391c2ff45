//! Staging: files with their content, attributes and names in the staging place, before anything live is touched.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bellwether_proto::{
    entry::{Chunk, Content, EntryPath, Kind, Meta},
    hash::Hash,
};
use rayon::prelude::*;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};

use super::{journal::Operation, place::Area, sparse};
use crate::{
    attributes::{check, copy_label},
    beneath::{open_directory, open_file, os},
    durable::{self, New},
    failpoint,
    scan::content,
};

/// Up to so many files, links and directories each is synced; beyond, their file system, once. One fsync takes about a
/// millisecond, syncfs as long; but beside somebody who writes much it takes a hundred.
pub(super) const SYNC_EACH: usize = 32;

/// Where a chunk belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    offset: u64,
    length: u32,
}

#[derive(Debug)]
struct StagedFile {
    area: usize,
    /// Beneath the staging place.
    path: EntryPath,
    meta: Meta,
    ids: (u32, u32),
    /// Chunks that are still to come.
    left: usize,
    size: u64,
    /// One past the last byte that was written.
    end: u64,
    created: bool,
    /// Its mode is what it is to be.
    has_mode: bool,
    /// Kept open to be synced, when it is whole and there are few.
    whole: Option<File>,
    /// The live entry whose label it gets, where there are labels.
    label: Option<EntryPath>,
}

#[derive(Debug)]
struct StagedDirectory {
    area: usize,
    path: EntryPath,
    meta: Meta,
    ids: (u32, u32),
}

/// What is being staged.
#[derive(Debug, Default)]
pub(super) struct Staging {
    files: Vec<StagedFile>,
    directories: Vec<StagedDirectory>,
    links: usize,
    wanted: HashMap<Hash, Vec<Place>>,
    /// The large file that got the last chunk.
    open: Option<(usize, File)>,
    /// Whether a file that is created in an area with a mode has it: asked of the first one (the umask, an ACL).
    modes: HashMap<(usize, u16), bool>,
    /// Modes and owners that an area was seen to hold.
    held: HashSet<(usize, u16, (u32, u32))>,
    done: u64,
}

/// Which area and name in staging an error is about.
pub(super) type Failure = (usize, EntryPath, io::Error);

/// The name of an operation's file, link or directory in staging.
pub(super) fn name(operation: &Operation) -> Vec<u8> {
    operation.staged.to_string().into_bytes()
}

/// What an entry takes on the disk, in whole blocks.
pub(super) fn size(entry: &bellwether_proto::entry::Entry) -> u64 {
    const BLOCK: u64 = 4096;
    match &entry.kind {
        Kind::File(content) => content::data(content).next_multiple_of(BLOCK),
        Kind::Directory | Kind::Link(_) => BLOCK,
    }
}

/// The path of `path`, which is at or below the operation's, beneath staging.
pub(super) fn beneath(operation: &Operation, path: &EntryPath) -> Result<EntryPath, io::Error> {
    let skipped = operation.path.components().count();
    let mut staged = EntryPath::new(&name(operation)).map_err(io::Error::other)?;
    for component in path.components().skip(skipped) {
        staged = staged.join(component);
    }
    Ok(staged)
}

impl Staging {
    /// Adds the entry at `path`, which is at or below the operation's path; directories before what they hold.
    pub(super) fn add(
        &mut self,
        areas: &[Area],
        operation: &Operation,
        path: &EntryPath,
        entry: &bellwether_proto::entry::Entry,
        ids: (u32, u32),
    ) -> Result<(), Failure> {
        let area = operation.set;
        let staged = beneath(operation, path).map_err(|error| (area, EntryPath::root(), error))?;
        let at = |error| (area, staged.clone(), error);
        let meta = entry.meta.clone();
        match &entry.kind {
            Kind::File(content) => {
                let label = (path == &operation.path && areas[area].labelled()).then(|| path.clone());
                let left = content.chunks().len();
                self.want(content);
                self.files.push(StagedFile {
                    area,
                    path: staged.clone(),
                    meta,
                    ids,
                    left,
                    size: content.size(),
                    end: 0,
                    created: false,
                    has_mode: false,
                    whole: None,
                    label,
                });
            }
            Kind::Directory => {
                let (directory, name) = parent(&areas[area], &staged).map_err(at)?;
                durable::make_directory(directory.as_fd(), &name, 0o700).map_err(at)?;
                self.directories.push(StagedDirectory { area, path: staged.clone(), meta, ids });
            }
            Kind::Link(target) => {
                self.links += 1;
                let (directory, name) = parent(&areas[area], &staged).map_err(at)?;
                durable::make_link(directory.as_fd(), &name, target).map_err(at)?;
                durable::put_on_link(directory.as_fd(), &name, &meta, ids).map_err(at)?;
            }
        }
        Ok(())
    }

    /// Tries the attributes that a directory in its place is to get, on one in staging.
    pub(super) fn try_meta(
        &self,
        areas: &[Area],
        operation: &Operation,
        meta: &Meta,
        ids: (u32, u32),
    ) -> Result<(), Failure> {
        let (staging, name) = (areas[operation.set].staging.as_fd(), name(operation));
        let tried = || {
            durable::make_directory(staging, &name, 0o700)?;
            let directory = open_directory(staging, &EntryPath::new(&name).map_err(io::Error::other)?)?;
            durable::put_on_directory(directory.as_fd(), meta, ids)?;
            check(directory.as_fd(), meta, ids)?;
            durable::remove_directory(staging, &name)
        };
        tried().map_err(|error| (operation.set, EntryPath::new(&name).unwrap_or(EntryPath::root()), error))
    }

    fn want(&mut self, content: &Content) {
        let (file, mut offset) = (self.files.len(), 0);
        for chunk in content.chunks() {
            self.wanted.entry(chunk.hash).or_default().push(Place { file, offset, length: chunk.length });
            offset += u64::from(chunk.length);
        }
    }

    fn sync_each(&self) -> bool {
        self.files.len() + self.directories.len() + self.links <= SYNC_EACH
    }

    /// Makes the files that are empty: nothing is ever supplied for them.
    pub(super) fn make_empty(&mut self, areas: &[Area]) -> Result<(), Failure> {
        for number in 0..self.files.len() {
            if self.files[number].left == 0 {
                let file = self.create(areas, number)?;
                self.complete(areas, number, file)?;
            }
        }
        Ok(())
    }

    /// Whether a chunk is still needed.
    pub(super) fn wants(&self, hash: &Hash) -> bool {
        self.wanted.contains_key(hash)
    }

    /// Whether no chunk is needed any more.
    pub(super) fn is_whole(&self) -> bool {
        self.wanted.is_empty()
    }

    /// The chunks that are still needed.
    pub(super) fn missing(&self) -> Vec<Chunk> {
        self.wanted
            .iter()
            .filter_map(|(hash, places)| Some(Chunk { hash: *hash, length: places.first()?.length }))
            .collect()
    }

    /// Files that are whole, and all.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.done, self.files.len() as u64)
    }

    /// Writes a chunk wherever it is needed.
    pub(super) fn supply(&mut self, areas: &[Area], hash: &Hash, bytes: &[u8]) -> Result<(), Failure> {
        let Some(places) = self.wanted.remove(hash) else { return Ok(()) };
        // A hole in each of its many places.
        let zeros = *hash == content::zeros().hash;
        for Place { file, offset, length } in places {
            let staged = &self.files[file];
            let at = |error| (staged.area, staged.path.clone(), error);
            failpoint::check("apply.supply").map_err(at)?;
            if bytes.len() != length as usize {
                let what = format!("a chunk of {} bytes came for one of {length}", bytes.len());
                return Err(at(io::Error::other(what)));
            }
            self.write(areas, file, if zeros { &[] } else { bytes }, offset)?;
        }
        Ok(())
    }

    fn write(&mut self, areas: &[Area], number: usize, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        let file = match self.open.take() {
            Some((open, file)) if open == number => file,
            _ if self.files[number].created => self.reopen(areas, number)?,
            _ => self.create(areas, number)?,
        };
        let staged = &mut self.files[number];
        let written = sparse::write(&file, bytes, offset);
        staged.end = written.map_err(|error| (staged.area, staged.path.clone(), error))?.max(staged.end);
        staged.left -= 1;
        if staged.left == 0 {
            return self.complete(areas, number, file);
        }
        self.open = Some((number, file));
        Ok(())
    }

    /// Creates a file, with its own mode when it is written at once: nobody else can enter staging.
    fn create(&mut self, areas: &[Area], number: usize) -> Result<File, Failure> {
        let staged = &mut self.files[number];
        staged.created = true;
        let mode = if staged.left <= 1 { staged.meta.mode & 0o777 } else { 0o600 };
        let mut create = || -> io::Result<File> {
            let staging = areas[staged.area].staging.as_fd();
            let file = durable::create(staging, staged.path.as_bytes(), mode.into())?;
            if mode == staged.meta.mode {
                staged.has_mode = match self.modes.entry((staged.area, mode)) {
                    Entry::Occupied(known) => *known.get(),
                    Entry::Vacant(first) => *first.insert(fstat(&file)?.st_mode & 0o7777 == u32::from(mode)),
                };
            }
            Ok(file)
        };
        create().map_err(|error| (self.files[number].area, self.files[number].path.clone(), error))
    }

    fn reopen(&self, areas: &[Area], number: usize) -> Result<File, Failure> {
        let staged = &self.files[number];
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(&areas[staged.area].staging, os(staged.path.as_bytes()), flags, Mode::empty(), resolve)
            .map(File::from)
            .map_err(|error| (staged.area, staged.path.clone(), error.into()))
    }

    /// The last of a file: its attributes.
    fn complete(&mut self, areas: &[Area], number: usize, file: File) -> Result<(), Failure> {
        let each = self.sync_each();
        let staged = &mut self.files[number];
        let area = &areas[staged.area];
        let mut finish = || -> io::Result<()> {
            if staged.end < staged.size {
                durable::set_length(&file, staged.size)?;
            }
            if let Some(live) = &staged.label {
                label(area, live, file.as_fd())?;
            }
            let is = New { owner: area.fresh, has_mode: staged.has_mode };
            durable::put_on_new_file(file.as_fd(), &staged.meta, staged.ids, is)?;
            let new = self.held.insert((staged.area, staged.meta.mode, staged.ids));
            if new || staged.meta.xattrs.is_some() { check(file.as_fd(), &staged.meta, staged.ids) } else { Ok(()) }
        };
        finish().map_err(|error| (staged.area, staged.path.clone(), error))?;
        staged.whole = each.then_some(file);
        self.done += 1;
        Ok(())
    }

    /// Puts the attributes on the directories.
    pub(super) fn finish(&mut self, areas: &[Area]) -> Result<(), Failure> {
        for StagedDirectory { area, path, meta, ids } in self.directories.iter().rev() {
            let finish = || {
                let directory = open_directory(areas[*area].staging.as_fd(), path)?;
                durable::put_on_directory(directory.as_fd(), meta, *ids)?;
                check(directory.as_fd(), meta, *ids)
            };
            finish().map_err(|error| (*area, path.clone(), error))?;
        }
        Ok(())
    }

    /// Whether one file is all that is staged.
    pub(super) fn is_one_file(&self) -> bool {
        self.files.len() == 1 && self.directories.is_empty() && self.links == 0
    }

    /// Makes all that is staged survive a power loss. The name of one that is `alone` may be lost: then it has not been
    /// put in its place either, and what was there is.
    pub(super) fn sync(&self, areas: &[Area], alone: bool) -> Result<(), Failure> {
        if self.sync_each() {
            self.sync_entries(areas)?;
        }
        for (number, area) in areas.iter().enumerate() {
            let staging = area.staging.as_fd();
            let synced = match (self.sync_each(), alone) {
                (true, true) => area.sync_name(),
                (true, false) => durable::sync_directory(staging).and_then(|()| area.sync_name()),
                (false, _) => durable::sync_filesystem(staging),
            };
            synced.map_err(|error| (number, EntryPath::root(), error))?;
        }
        Ok(())
    }

    fn sync_entries(&self, areas: &[Area]) -> Result<(), Failure> {
        let sync = |StagedFile { area, path, whole, .. }: &StagedFile| {
            let synced = whole.as_ref().map_or(Ok(()), |file| durable::sync_file(file.as_fd()));
            synced.map_err(|error| (*area, path.clone(), error))
        };
        match &self.files[..] {
            [alone] => sync(alone)?,
            files => files.par_iter().try_for_each(sync)?,
        }
        for StagedDirectory { area, path, .. } in &self.directories {
            let sync = || durable::sync_directory(open_directory(areas[*area].staging.as_fd(), path)?.as_fd());
            sync().map_err(|error| (*area, path.clone(), error))?;
        }
        Ok(())
    }
}

/// The directory of staging that holds `staged`, and its name there.
fn parent(area: &Area, staged: &EntryPath) -> io::Result<(OwnedFd, Vec<u8>)> {
    let (above, name) = staged.split().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((open_directory(area.staging.as_fd(), &above)?, name.to_vec()))
}

/// Gives a staged file the label of the file it replaces, else of the directory it comes into.
fn label(area: &Area, live: &EntryPath, to: BorrowedFd<'_>) -> io::Result<()> {
    let held = area.hold(live)?;
    let at = held.at();
    match open_file(at.directory, at.name) {
        Ok(file) => copy_label(file, to),
        Err(_) => copy_label(at.directory, to),
    }
}
