//! From changes to operations: what has to happen to which entry, given what is on the disk.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::AsFd,
};

use bellwether_proto::entry::{Entry, EntryPath, Kind, Meta};
use rustix::{fs::StatxAttributes, io::Errno};

use super::{
    Refused,
    journal::{Act, Operation, Wanted},
    look::{Seen, Shape},
    obstacle,
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
        names: HashMap::new(),
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
    /// Where case does not count: the names so far, in small letters.
    names: HashMap<EntryPath, EntryPath>,
    /// Here `wanted` holds only what stays.
    planned: Planned,
}

impl Planner<'_> {
    /// The revision itself cannot be taken here.
    fn held(&self, path: &EntryPath, what: impl Into<String>) -> Refused {
        Refused::Held { set: self.area.rules.name.clone(), path: path.clone(), what: what.into(), here: None }
    }

    /// What is on the disk is in the way.
    fn in_the_way(&self, path: &EntryPath, what: impl Into<String>) -> Refused {
        let (set, here) = (self.area.rules.name.clone(), Some(self.area.path.clone()));
        Refused::Held { set, path: path.clone(), what: what.into(), here }
    }

    /// Refuses to replace or remove `path`, or to change its attributes, where it or its directory may not be.
    fn may_change(&self, path: &EntryPath, held: &Held, seen: Option<&Seen>) -> Result<(), Refused> {
        let entry = seen.map(|seen| (seen.flags, path.clone()));
        let above = path.split().map(|(above, _)| above);
        let directory = above.map(|above| held.flags().map(|flags| (flags, above)));
        let directory = directory.transpose().map_err(|error| self.io("look at the directory of", path, error))?;
        entry.into_iter().chain(directory).try_for_each(|(flags, at)| self.unflagged(path, flags, &at))
    }

    fn unflagged(&self, path: &EntryPath, flags: StatxAttributes, at: &EntryPath) -> Result<(), Refused> {
        let Some((flag, letter)) = obstacle::flag(flags) else { return Ok(()) };
        let at = obstacle::full(&self.area.path, at);
        Err(Refused::Flag { set: self.area.rules.name.clone(), path: path.clone(), at, flag, letter })
    }

    fn io(&self, action: &'static str, path: &EntryPath, error: impl Into<io::Error>) -> Refused {
        let source = error.into();
        match Errno::from_io_error(&source) {
            Some(Errno::LOOP) => self.in_the_way(path, "behind a symbolic link"),
            Some(Errno::XDEV) => self.in_the_way(path, "a mount point, or behind one,"),
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
            Some(seen) if seen.shape == Shape::Link => Err(self.in_the_way(path, "a symbolic link")),
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
                self.may_be_named(path)?;
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
            owner: (*entry.meta.owner).clone(),
        })
    }

    /// Refuses a name that the file system does not take, or takes for another's: only where case does not count, as others
    /// take any name.
    fn may_be_named(&mut self, path: &EntryPath) -> Result<(), Refused> {
        let Some((above, name)) = path.split().filter(|_| self.area.folds) else { return Ok(()) };
        let what = |what: String| Refused::Attribute {
            set: self.area.rules.name.clone(),
            path: path.clone(),
            what: "this name".to_owned(),
            why: what,
        };
        let small =
            |path: &EntryPath| EntryPath::new(String::from_utf8_lossy(path.as_bytes()).to_lowercase().as_bytes());
        let folded = small(path).map_err(|error| self.io("name", path, io::Error::other(error)))?;
        if let Some(other) = self.names.insert(folded, path.clone()).filter(|other| other != path) {
            return Err(what(format!("case does not count there, and {other} has the same")));
        }
        let directory = match self.area.directory(&above) {
            Ok(directory) => directory,
            Err(_) => return Ok(()),
        };
        let names = durable::names(directory.as_fd()).map_err(|error| self.io("read", &above, error))?;
        if names.iter().any(|known| **known == *name) {
            return Ok(());
        }
        let folded = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
        if let Some(known) = names.iter().find(|known| folded(known) == folded(name)) {
            return Err(what(format!("case does not count there, and {} has the same", above.join(known))));
        }
        self.area.takes_name(name).map_err(|error| what(error.to_string()))
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
                self.may_change(path, held, None)?;
                self.add(path, Act::Put);
            }
            return Ok(true);
        };
        let directory = wanted.filter(|entry| matches!(entry.kind, Kind::Directory));
        if seen.mount && !(path.is_root() && directory.is_some()) {
            return Err(self.in_the_way(path, "a mount point"));
        }
        match (wanted, seen.shape) {
            (None, _) if self.excludes.excluded(path, seen.shape == Shape::Directory) => self.stays(path),
            (None, Shape::Other(_)) => self.stays(path),
            (None, Shape::File | Shape::Link) => {
                self.may_change(path, held, Some(&seen))?;
                self.add(path, Act::Remove);
            }
            (None, Shape::Directory) => {
                self.may_change(path, held, Some(&seen))?;
                self.remove_directory(path)?;
            }
            (Some(_), Shape::Other(what)) => return Err(self.in_the_way(path, what)),
            (Some(entry), Shape::Directory) if directory.is_some() => {
                self.directory(path, &entry.meta, held, &seen)?;
                return Ok(false);
            }
            (Some(_), Shape::Directory) if !self.managed_only(path)? => {
                let what = "a directory with excluded files in it, which the revision replaces,";
                return Err(self.in_the_way(path, what));
            }
            (Some(_), Shape::Directory) if !self.moves(path)? => {
                self.may_change(path, held, Some(&seen))?;
                self.dismantle(path)?;
                self.add(path, Act::Put);
            }
            (Some(entry), Shape::File | Shape::Link | Shape::Directory) => {
                let live = self.trees.live.get(&self.area.rules.name, path);
                if !live.is_some_and(|live| seen.is(&live) && live.entry() == *entry) {
                    self.may_change(path, held, Some(&seen))?;
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
    fn directory(&mut self, path: &EntryPath, meta: &Meta, held: &Held, seen: &Seen) -> Result<(), Refused> {
        let old = verify::directory_meta(held.at(), &self.area.rules).map_err(|error| self.io("read", path, error))?;
        if old != *meta {
            self.unflagged(path, seen.flags, path)?;
            self.add(path, Act::Meta { old, new: meta.clone() });
        }
        Ok(())
    }

    /// A directory that goes: whole, or without what is excluded in it.
    fn remove_directory(&mut self, path: &EntryPath) -> Result<(), Refused> {
        if self.managed_only(path)? {
            if !self.moves(path)? {
                return self.dismantle(path);
            }
            self.add(path, Act::Remove);
            return Ok(());
        }
        self.stays(path);
        for (path, seen) in self.children(path)? {
            let excluded = self.excludes.excluded(&path, seen.shape == Shape::Directory);
            if !excluded && !matches!(seen.shape, Shape::Other(_)) {
                self.unflagged(&path, seen.flags, &path)?;
            }
            match seen.shape {
                _ if excluded => {}
                Shape::Other(_) => {}
                Shape::File | Shape::Link => self.add(&path, Act::Remove),
                Shape::Directory => self.remove_directory(&path)?,
            }
        }
        Ok(())
    }

    /// Whether a directory can be moved to staging, with all that it holds.
    fn moves(&self, path: &EntryPath) -> Result<bool, Refused> {
        self.area.moves(path).map_err(|error| self.io("move", path, error))
    }

    /// A directory that cannot be moved as a whole (of an overlay's lower layer) goes entry by entry. All that it holds is
    /// what revisions are made of.
    fn dismantle(&mut self, path: &EntryPath) -> Result<(), Refused> {
        let held = self.area.hold(path).map_err(|error| self.io("open the directory of", path, error))?;
        let old = verify::directory_meta(held.at(), &self.area.rules).map_err(|error| self.io("read", path, error))?;
        for (path, seen) in self.children(path)? {
            match seen.shape {
                Shape::Directory => self.dismantle(&path)?,
                Shape::File | Shape::Link | Shape::Other(_) => self.add(&path, Act::Remove),
            }
        }
        self.add(path, Act::Unmake { old });
        Ok(())
    }

    /// Whether the directory holds, at any depth, only what revisions are made of. Then none of it may be protected, either.
    fn managed_only(&self, path: &EntryPath) -> Result<bool, Refused> {
        let mut open = vec![path.clone()];
        let mut flagged = None;
        while let Some(directory) = open.pop() {
            for (path, seen) in self.children(&directory)? {
                if self.excludes.excluded(&path, seen.shape == Shape::Directory) {
                    return Ok(false);
                }
                if flagged.is_none() && !seen.flags.is_empty() {
                    flagged = Some((path.clone(), seen.flags));
                }
                match seen.shape {
                    Shape::Other(_) => return Ok(false),
                    Shape::File | Shape::Link => {}
                    Shape::Directory => open.push(path),
                }
            }
        }
        flagged.map_or(Ok(true), |(path, flags)| self.unflagged(&path, flags, &path).map(|()| true))
    }

    /// What a directory holds, sorted.
    fn children(&self, path: &EntryPath) -> Result<Vec<(EntryPath, Seen)>, Refused> {
        let failed = |error| self.io("read", path, error);
        let directory = self.area.directory(path).map_err(failed)?;
        let mut children = Vec::new();
        for name in durable::names(directory.as_fd()).map_err(failed)? {
            let child = path.join(&name);
            let Some(seen) = super::look::look(directory.as_fd(), &name).map_err(failed)? else { continue };
            if seen.mount {
                return Err(self.in_the_way(&child, "a mount point"));
            }
            children.push((child, seen));
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
