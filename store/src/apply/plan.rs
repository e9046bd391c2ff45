//! From changes to operations: what has to happen to which entry, given what is on the disk.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use bellwether_proto::entry::{Entry, EntryPath, Kind, Meta};
use rustix::io::Errno;

use super::{
    Refused,
    journal::{Act, Operation, Wanted},
    look::{Seen, Shape},
    place::{Area, Held},
    verify,
};
use crate::{
    attributes::{Accounts, MissingAccount},
    durable,
    scan::{Excludes, ScanError},
    tree::{Node, Tree},
};

/// What one set's changes come to.
#[derive(Debug, Default)]
pub(super) struct Planned {
    pub(super) operations: Vec<Operation>,
    pub(super) wanted: Vec<Wanted>,
}

/// The trees that a plan is made from.
#[derive(Clone, Copy)]
pub(super) struct Trees<'a> {
    pub(super) live: &'a Tree,
    pub(super) target: &'a Tree,
}

type Entries = BTreeMap<EntryPath, Option<Entry>>;

/// Plans the changes of the set number `set`; `first` is the number of its first operation.
pub(super) fn plan(
    area: &Area,
    (set, first): (usize, usize),
    trees: Trees<'_>,
    accounts: &Accounts,
    changes: Entries,
) -> Result<Planned, Refused> {
    let excludes = Excludes::new(&area.rules).map_err(|error| unusable(area, error))?;
    let mut planner = Planner {
        area,
        set,
        first,
        trees,
        accounts,
        excludes,
        directories: HashMap::new(),
        planned: Planned::default(),
    };
    let entries = planner.complete(changes)?;
    planner.operations(&entries)?;
    let stays: Vec<EntryPath> = std::mem::take(&mut planner.planned.wanted).into_iter().map(|w| w.path).collect();
    let wanted = |(path, entry)| Wanted { set, stays: stays.contains(&path), path, entry };
    planner.planned.wanted = entries.into_iter().map(wanted).collect();
    Ok(planner.planned)
}

fn unusable(area: &Area, error: ScanError) -> Refused {
    Refused::Io { action: "use the patterns of", path: area.path.clone(), source: io::Error::other(error) }
}

struct Planner<'a> {
    area: &'a Area,
    set: usize,
    first: usize,
    trees: Trees<'a>,
    accounts: &'a Accounts,
    excludes: Excludes,
    /// Whether a path is a directory on the disk.
    directories: HashMap<EntryPath, bool>,
    /// Here `wanted` holds only what stays.
    planned: Planned,
}

impl Planner<'_> {
    fn held(&self, path: &EntryPath, what: impl Into<String>) -> Refused {
        Refused::Held { set: self.area.rules.name.clone(), path: path.clone(), what: what.into() }
    }

    fn io(&self, action: &'static str, path: &EntryPath, error: impl Into<io::Error>) -> Refused {
        let source = error.into();
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP) => self.held(path, "behind a symbolic link"),
            Some(Errno::XDEV) => self.held(path, "a mount point, or behind one,"),
            _ => Refused::Io { action, path: self.area.path.join(crate::beneath::os(path.as_bytes())), source },
        }
    }

    /// The changes, with the directories above them that the disk lacks (somebody removed them), from the target.
    fn complete(&mut self, changes: Entries) -> Result<Entries, Refused> {
        let mut added = Entries::new();
        for (path, _) in changes.iter().filter(|(_, entry)| entry.is_some()) {
            let settled = |above: &EntryPath| !changes.contains_key(above) && !added.contains_key(above);
            // Where its directory can be opened, all above are directories, too.
            if let Some((above, _)) = path.split()
                && ancestors(path).iter().all(settled)
                && self.is_directory(&above).unwrap_or(false)
            {
                continue;
            }
            let mut there = true;
            for above in ancestors(path) {
                match changes.get(&above).or_else(|| added.get(&above)) {
                    Some(Some(Entry { kind: Kind::Directory, .. })) => {
                        there = there && self.is_directory(&above).unwrap_or(false);
                        continue;
                    }
                    Some(_) => return Err(self.held(path, "in something that is no directory")),
                    None => {}
                }
                there = there && self.is_directory(&above).map_err(|error| self.io("open", &above, error))?;
                if !there {
                    self.no_link(&above)?;
                    let Some(node @ Node::Directory(_)) = self.trees.target.get(&self.area.rules.name, &above) else {
                        return Err(self.held(path, "in no directory of the revision"));
                    };
                    added.insert(above, Some(node.entry()));
                }
            }
        }
        added.extend(changes);
        Ok(added)
    }

    /// Refuses a link that somebody put in a directory's place: it would be followed by whoever reads the set.
    fn no_link(&self, path: &EntryPath) -> Result<(), Refused> {
        let seen = match self.area.hold(path).and_then(|held| held.look()) {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR)) => None,
            other => other.map_err(|error| self.io("look at", path, error))?,
        };
        match seen {
            Some(seen) if seen.shape == Shape::Link => Err(self.held(path, "a symbolic link")),
            Some(_) | None => Ok(()),
        }
    }

    fn is_directory(&mut self, path: &EntryPath) -> io::Result<bool> {
        if let Some(known) = self.directories.get(path) {
            return Ok(*known);
        }
        let is = match self.area.directory(path).map(drop) {
            Ok(()) => true,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR) => false,
                _ => return Err(error),
            },
        };
        self.directories.insert(path.clone(), is);
        Ok(is)
    }

    fn operations(&mut self, entries: &Entries) -> Result<(), Refused> {
        // What is below a new directory is staged with it.
        let mut covered: Option<EntryPath> = None;
        let mut last: Option<(EntryPath, Held)> = None;
        for (path, entry) in entries {
            if let Some(entry) = entry {
                self.allowed(path, entry)?;
            }
            if covered.as_ref().is_some_and(|above| path.is_within(above)) {
                continue;
            }
            let held = match self.area.hold_after(last.as_ref().map(|(path, held)| (path, held)), path) {
                Ok(held) => held,
                Err(error) => match Errno::from_io_error(&error) {
                    // Its directory is gone, and so is it.
                    Some(Errno::NOENT | Errno::NOTDIR) if entry.is_none() => continue,
                    _ => return Err(self.io("open the directory of", path, error)),
                },
            };
            let seen = held.look().map_err(|error| self.io("look at", path, error))?;
            if self.entry(path, entry.as_ref(), &held, seen)? {
                covered = Some(path.clone());
            }
            last = Some((path.clone(), held));
        }
        Ok(())
    }

    /// Refuses what may not be made here, whoever asks for it.
    fn allowed(&self, path: &EntryPath, entry: &Entry) -> Result<(), Refused> {
        let rules = &self.area.rules;
        if path.is_root() && !matches!(entry.kind, Kind::Directory) {
            return Err(self.held(path, "no directory in this revision"));
        }
        if self.excludes.excluded(path, matches!(entry.kind, Kind::Directory)) {
            return Err(self.held(path, "excluded by the set's rules"));
        }
        let file = matches!(entry.kind, Kind::File(_));
        if file && entry.meta.mode & 0o6000 != 0 && !rules.allow_setuid {
            return Err(self.held(path, "setuid or setgid in this revision, which the set's rules do not allow,"));
        }
        let capability = |(name, _): &(Box<[u8]>, Box<[u8]>)| name.as_ref() == b"security.capability";
        if entry.meta.xattrs.iter().any(|list| list.iter().any(capability)) && !rules.allow_capabilities {
            return Err(self.held(path, "a file with capabilities, which the set's rules do not allow,"));
        }
        self.accounts.ids(&entry.meta.owner).map(drop).map_err(|MissingAccount { kind, name }| Refused::Owner {
            set: rules.name.clone(),
            path: path.clone(),
            kind,
            name,
        })
    }

    /// Plans one entry; whether that settles what is below it.
    fn entry(
        &mut self,
        path: &EntryPath,
        wanted: Option<&Entry>,
        held: &Held,
        seen: Option<Seen>,
    ) -> Result<bool, Refused> {
        let Some(seen) = seen else {
            if wanted.is_some() {
                self.add(path, Act::Put);
            }
            return Ok(true);
        };
        let directory = wanted.filter(|entry| matches!(entry.kind, Kind::Directory));
        if seen.mount && !(path.is_root() && directory.is_some()) {
            return Err(self.held(path, "a mount point"));
        }
        match (wanted, seen.shape) {
            (None, _) if self.excludes.excluded(path, seen.shape == Shape::Directory) => self.stays(path),
            (None, Shape::Other(_)) => self.stays(path),
            (None, Shape::File | Shape::Link) => self.add(path, Act::Remove),
            (None, Shape::Directory) => self.remove_directory(path)?,
            (Some(_), Shape::Other(what)) => return Err(self.held(path, what)),
            (Some(entry), Shape::Directory) if directory.is_some() => {
                self.directory(path, &entry.meta, held)?;
                return Ok(false);
            }
            (Some(_), Shape::Directory) if !self.managed_only(path)? => {
                let what = "a directory with excluded files in it, which the revision replaces,";
                return Err(self.held(path, what));
            }
            (Some(entry), Shape::File | Shape::Link | Shape::Directory) => {
                let live = self.trees.live.get(&self.area.rules.name, path);
                if !live.is_some_and(|live| seen.is(&live) && live.entry() == *entry) {
                    self.add(path, Act::Put);
                }
            }
        }
        Ok(true)
    }

    /// What is at `path` is no longer wanted, and is not ours to remove.
    fn stays(&mut self, path: &EntryPath) {
        self.planned.wanted.push(Wanted { set: self.set, path: path.clone(), entry: None, stays: true });
    }

    fn add(&mut self, path: &EntryPath, act: Act) {
        let staged = (self.first + self.planned.operations.len()) as u64;
        self.planned.operations.push(Operation {
            set: self.set,
            path: path.clone(),
            act,
            staged,
            inode: 0,
            was: None,
            keep: false,
        });
    }

    /// A directory that is there: only its attributes may change.
    fn directory(&mut self, path: &EntryPath, meta: &Meta, held: &Held) -> Result<(), Refused> {
        let old = verify::directory_meta(held.at(), &self.area.rules).map_err(|error| self.io("read", path, error))?;
        if old != *meta {
            self.add(path, Act::Meta { old, new: meta.clone() });
        }
        Ok(())
    }

    /// A directory that goes: whole, or without what is excluded in it.
    fn remove_directory(&mut self, path: &EntryPath) -> Result<(), Refused> {
        if self.managed_only(path)? {
            self.add(path, Act::Remove);
            return Ok(());
        }
        self.stays(path);
        for (path, shape) in self.children(path)? {
            match shape {
                _ if self.excludes.excluded(&path, shape == Shape::Directory) => {}
                Shape::Other(_) => {}
                Shape::File | Shape::Link => self.add(&path, Act::Remove),
                Shape::Directory => self.remove_directory(&path)?,
            }
        }
        Ok(())
    }

    /// Whether the directory holds, at any depth, only what revisions are made of.
    fn managed_only(&self, path: &EntryPath) -> Result<bool, Refused> {
        let mut open = vec![path.clone()];
        while let Some(directory) = open.pop() {
            for (path, shape) in self.children(&directory)? {
                match shape {
                    _ if self.excludes.excluded(&path, shape == Shape::Directory) => return Ok(false),
                    Shape::Other(_) => return Ok(false),
                    Shape::File | Shape::Link => {}
                    Shape::Directory => open.push(path),
                }
            }
        }
        Ok(true)
    }

    /// What a directory holds, sorted.
    fn children(&self, path: &EntryPath) -> Result<Vec<(EntryPath, Shape)>, Refused> {
        use std::os::fd::AsFd;
        let failed = |error| self.io("read", path, error);
        let directory = self.area.directory(path).map_err(failed)?;
        let mut children = Vec::new();
        for name in durable::names(directory.as_fd()).map_err(failed)? {
            let child = path.join(&name);
            let Some(seen) = super::look::look(directory.as_fd(), &name).map_err(failed)? else { continue };
            if seen.mount {
                return Err(self.held(&child, "a mount point"));
            }
            children.push((child, seen.shape));
        }
        children.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(children)
    }
}

/// The directories above `path`, the root first.
fn ancestors(path: &EntryPath) -> Vec<EntryPath> {
    let mut above: Vec<EntryPath> =
        std::iter::successors(path.split().map(|(above, _)| above), |path| path.split().map(|(above, _)| above))
            .collect();
    above.reverse();
    above
}
