//! The staging place of a set: beside it where that is possible, else `.bellwether` inside it.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwether_proto::{
    entry::{EntryPath, Meta, Owner},
    hash::Hash,
    key::PublicKey,
    record::SetRules,
};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, StatxAttributes, flock, fstat, fstatfs, openat},
    io::Errno,
};

use super::{
    Refused, look, obstacle,
    probe::{self, Identity},
};
use crate::{
    attributes::copy_label,
    beneath::{open_directory, os},
    durable::{self, Name},
    mutex::locked,
    scan::Source,
};

/// The staging directory inside a set; never scanned, never part of a revision.
pub(super) const INSIDE: &[u8] = b".bellwether";
/// Characters of a hash that tell servers apart.
const SHORT: usize = 12;

/// A set's directory, held open, and its staging place. While it is held no other process stages for this set.
#[derive(Debug)]
pub(super) struct Area {
    pub(super) rules: Arc<SetRules>,
    pub(super) path: PathBuf,
    parent: OwnedFd,
    base: Vec<u8>,
    /// The name of staging beside the set.
    pub(super) beside: Vec<u8>,
    root: Option<OwnedFd>,
    pub(super) staging: OwnedFd,
    pub(super) inside: bool,
    /// Case does not count in the set's root.
    pub(super) folds: bool,
    /// Who owns a file that is made in staging.
    pub(super) fresh: (u32, u32),
    /// What the directory that holds the set and its root were when staging was found; none: nothing is known of that.
    found: Option<[Identity; 2]>,
    /// Whether the name of the staging directory survives a power loss.
    named: AtomicBool,
}

/// Staging directories beside sets that wait for the next apply, each empty, and not held open: nobody's unmounting has to wait.
/// They are removed when this is dropped, so they may live as long as their agent.
#[derive(Debug, Default)]
pub struct Idle(Mutex<Vec<Waiting>>);

/// A staging directory between two applies.
#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    beside: Vec<u8>,
    /// What the directory that holds the set, its root and the staging directory were.
    found: [Identity; 2],
    staging: Identity,
    folds: bool,
    fresh: (u32, u32),
    named: AtomicBool,
}

impl Idle {
    /// The place of that set, where the directories around it are still those that it was found for.
    fn take(&self, path: &Path, found: Option<[Identity; 2]>) -> Option<Waiting> {
        let mut waiting = locked(&self.0);
        let at = waiting.iter().position(|waiting| waiting.path == path && Some(waiting.found) == found)?;
        Some(waiting.remove(at))
    }

    /// Empties a place; it waits here, if it can be used again.
    pub(super) fn put(&self, area: Area) {
        let cleared = durable::clear(area.staging.as_fd());
        // Inside a set it is in the way of whoever looks at the set.
        let found = area.found.filter(|_| cleared.is_ok() && !area.inside);
        let Some((found, staging)) = found.zip(probe::identity(area.staging.as_fd()).ok().flatten()) else {
            return area.discard();
        };
        let Area { path, beside, folds, fresh, named, .. } = area;
        locked(&self.0).push(Waiting { path, beside, found, staging, folds, fresh, named });
    }

    /// Removes all of them.
    pub(super) fn clear(&self) {
        for Waiting { path, beside, .. } in locked(&self.0).drain(..) {
            let removed = parent(&path).and_then(|(parent, _)| durable::remove_directory(parent.as_fd(), &beside));
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, set = %path.display(), "cannot remove the staging directory beside it");
            }
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Waiting {
    /// Opens and locks the directory, where it is the one that waited.
    fn open(&self, parent: BorrowedFd<'_>) -> Option<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let staging = openat(parent, os(&self.beside), flags, Mode::empty()).ok()?;
        let same = probe::identity(staging.as_fd()).ok()? == Some(self.staging);
        (same && lock(&staging).is_ok()).then_some(staging)
    }
}

/// An entry of a set: the directory that holds it, held open, and its name there.
#[derive(Debug, Clone)]
pub(super) struct Held {
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
}

impl Held {
    pub(super) fn at(&self) -> Name<'_> {
        Name { directory: self.directory.as_fd(), name: &self.name }
    }

    pub(super) fn look(&self) -> io::Result<Option<look::Seen>> {
        look::look(self.directory.as_fd(), &self.name)
    }

    /// The flags of the directory that keep what it holds from being replaced.
    pub(super) fn flags(&self) -> io::Result<StatxAttributes> {
        look::flags(self.directory.as_fd())
    }
}

impl Area {
    /// Opens the set, finds its staging place by a real rename (inside the set when it may not be `beside`), and empties
    /// it. One that is `idle` is there and empty: only the directories around it may have been replaced since.
    pub(super) fn open(source: &Source, server: &PublicKey, idle: &Idle, beside: bool) -> Result<Self, Refused> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| Refused::Io { action, path, source }
        };
        let (parent, base) = parent(&source.path).map_err(failed("open the directory of", &source.path))?;
        let root = root(parent.as_fd(), &base).map_err(|error| held_root(source, error))?;
        if let Some(root) = &root {
            source.check(root.as_fd()).map_err(failed("stage", &source.path))?;
        }
        let found = root.as_ref().and_then(|root| probe::identities(parent.as_fd(), root.as_fd()));
        if let Some(waiting) = idle.take(&source.path, found)
            && let Some(staging) = waiting.open(parent.as_fd())
        {
            let Waiting { path, beside, folds, fresh, named, .. } = waiting;
            let rules = source.rules.clone();
            return Ok(Self {
                rules,
                path,
                parent,
                base,
                beside,
                root,
                staging,
                inside: false,
                folds,
                fresh,
                found,
                named,
            });
        }
        let name = name_beside(&source.rules, server);
        let beside =
            beside.then(|| Self::beside(source, &name, parent.as_fd(), (&base, root.as_ref().map(AsFd::as_fd))));
        let ((staging, folds), inside) = match (beside, &root) {
            (Some(Ok(staging)), _) => (staging, false),
            (Some(Err(error)), None) => return Err(failed("stage beside", &source.path)(error)),
            (None, None) => return Err(failed("stage inside", &source.path)(Errno::NOENT.into())),
            (Some(Err(error)), Some(_)) if !leads_inside(&error) => {
                return Err(failed("stage beside", &source.path)(error));
            }
            (Some(Err(_)) | None, Some(root)) => {
                (Self::within(source, root.as_fd()).map_err(|error| not_within(source, root.as_fd(), error))?, true)
            }
        };
        if let Some(root) = &root {
            // New files get the label they have in the set, not the one of its parent.
            copy_label(root, &staging).map_err(failed("label the staging of", &source.path))?;
        }
        let stat = fstat(&staging).map_err(|error| failed("stage", &source.path)(error.into()))?;
        let fresh = (stat.st_uid, stat.st_gid);
        let (rules, path) = (source.rules.clone(), source.path.clone());
        let named = AtomicBool::new(false);
        Ok(Self { rules, path, parent, base, beside: name, root, staging, inside, folds, fresh, found, named })
    }

    /// Opens the set and the staging place that was used, with all that is in it.
    pub(super) fn reopen(source: &Source, inside: bool, beside: &str) -> io::Result<Self> {
        let beside = beside.as_bytes().to_vec();
        let (parent, base) = parent(&source.path)?;
        let root = root(parent.as_fd(), &base)?;
        if let Some(root) = &root {
            source.check(root.as_fd())?;
        }
        let staging = match (&root, inside) {
            (None, true) => return Err(Errno::NOENT.into()),
            (Some(root), true) => make(root.as_fd(), INSIDE, source)?,
            (_, false) => make(parent.as_fd(), &beside, source)?,
        };
        let stat = fstat(&staging)?;
        let fresh = (stat.st_uid, stat.st_gid);
        let (rules, path) = (source.rules.clone(), source.path.clone());
        // Names were looked at before the switch.
        let (folds, found, named) = (false, None, AtomicBool::new(false));
        Ok(Self { rules, path, parent, base, beside, root, staging, inside, folds, fresh, found, named })
    }

    /// Removes what an interrupted staging of this server left, in both places.
    pub(super) fn remove_leftovers(source: &Source, server: &PublicKey) -> io::Result<()> {
        let (parent, base) = match parent(&source.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let beside = name_beside(&source.rules, server);
        let root = root(parent.as_fd(), &base)?;
        let places = [Some((parent.as_fd(), &beside[..])), root.as_ref().map(|root| (root.as_fd(), INSIDE))];
        if let Some(root) = &root {
            probe::remove(root.as_fd())?;
        }
        for (directory, name) in places.into_iter().flatten() {
            if look::look(directory, name)?.is_none() {
                continue;
            }
            // Whoever holds the lock is staging at this moment.
            let staging = own(directory, name, source)?;
            durable::clear(staging.as_fd())?;
            durable::remove_directory(directory, name)?;
        }
        Ok(())
    }

    fn beside(
        source: &Source,
        name: &[u8],
        parent: BorrowedFd<'_>,
        (base, root): (&[u8], Option<BorrowedFd<'_>>),
    ) -> io::Result<(OwnedFd, bool)> {
        let staging = make(parent, name, source)?;
        durable::clear(staging.as_fd())?;
        let probed = match root {
            Some(root) => probe::prove(parent, staging.as_fd(), root),
            None => look::look(parent, base).map(|_| false),
        };
        match probed {
            Ok(folds) => Ok((staging, folds)),
            Err(error) => {
                durable::remove_all(parent, name)?;
                Err(error)
            }
        }
    }

    fn within(source: &Source, root: BorrowedFd<'_>) -> io::Result<(OwnedFd, bool)> {
        probe::remove(root)?;
        let staging = make(root, INSIDE, source)?;
        durable::clear(staging.as_fd())?;
        let folds = probe::prove(root, staging.as_fd(), root)?;
        Ok((staging, folds))
    }

    /// Tries whether the file system takes that name.
    pub(super) fn takes_name(&self, name: &[u8]) -> io::Result<()> {
        match durable::create(self.staging.as_fd(), name, 0o600) {
            Ok(_) => durable::remove(self.staging.as_fd(), name),
            // One of staging's own names, so it is taken.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The set's root; none where it is missing.
    pub(super) fn root(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd)
    }

    /// Whether what is moved may have to be copied first: on an overlay, from a lower layer.
    pub(super) fn copies_up(&self) -> bool {
        /// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
        const OVERLAY: u64 = 0x794c_7630;
        fstatfs(&self.staging).is_ok_and(|stat| stat.f_type as u64 == OVERLAY)
    }

    /// Whether entries have SELinux labels here.
    pub(super) fn labelled(&self) -> bool {
        let mut label = [0; 4096];
        self.root().is_some_and(|root| rustix::fs::fgetxattr(root, "security.selinux", &mut label).is_ok())
    }

    /// Opens the root again, when the switch made it.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        self.root = root(self.parent.as_fd(), &self.base)?;
        Ok(())
    }

    /// The entry at `path`, held by its directory.
    ///
    /// ENOENT and ENOTDIR when its directory is not there; ELOOP through a link, EXDEV across a mount.
    pub(super) fn hold(&self, path: &EntryPath) -> io::Result<Held> {
        let Some((above, name)) = path.split() else {
            return Ok(Held { directory: Arc::new(self.parent.try_clone()?), name: self.base.clone() });
        };
        let root = self.root().ok_or(Errno::NOENT)?;
        Ok(Held { directory: Arc::new(open_directory(root, &above)?), name: name.to_vec() })
    }

    /// As [`Area::hold`], opening nothing when `last` is in the same directory.
    pub(super) fn hold_after(&self, last: Option<(&EntryPath, &Held)>, path: &EntryPath) -> io::Result<Held> {
        match (last, path.split()) {
            (Some((before, held)), Some((above, name)))
                if before.split().is_some_and(|(before, _)| before == above) =>
            {
                Ok(Held { directory: held.directory.clone(), name: name.to_vec() })
            }
            _ => self.hold(path),
        }
    }

    /// The directory at `path`, open.
    pub(super) fn directory(&self, path: &EntryPath) -> io::Result<OwnedFd> {
        open_directory(self.root().ok_or(Errno::NOENT)?, path)
    }

    /// Whether the directory at `path` can be moved to staging with all that it holds: tried with a place that is taken,
    /// which a file system looks at after everything else. (An overlay moves no directory of a lower layer, rename(2).)
    pub(super) fn moves(&self, path: &EntryPath) -> io::Result<bool> {
        let taken = Name { directory: self.staging.as_fd(), name: b"taken" };
        if look::look(taken.directory, taken.name)?.is_none() {
            durable::make_directory(taken.directory, taken.name, 0o700)?;
        }
        let inside = open_directory(taken.directory, &EntryPath::new(taken.name).map_err(io::Error::other)?)?;
        if look::look(inside.as_fd(), b"taken")?.is_none() {
            drop(durable::create(inside.as_fd(), b"taken", 0o600)?);
        }
        let held = self.hold(path)?;
        let at = held.at();
        // Never done, so no operation for `durable`.
        let moved = rustix::fs::renameat(at.directory, os(at.name), taken.directory, os(taken.name));
        Ok(moved != Err(Errno::XDEV))
    }

    /// The directory that holds the set.
    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// Makes the name of the staging directory survive a power loss, unless it does.
    pub(super) fn sync_name(&self) -> io::Result<()> {
        if self.named.load(Ordering::Relaxed) {
            return Ok(());
        }
        durable::sync_directory(match &self.root {
            Some(root) if self.inside => root.as_fd(),
            Some(_) | None => self.parent(),
        })?;
        self.named.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Where staging is, for people.
    pub(super) fn staging_path(&self) -> PathBuf {
        staging_at(&self.path, if self.inside { INSIDE } else { &self.beside })
    }

    /// Removes all that is staged, and the staging place.
    pub(super) fn discard(self) {
        if let Err(error) = self.remove_staging() {
            // The next apply or start removes it.
            tracing::warn!(%error, staging = %self.staging_path().display(), "cannot remove what was staged");
        }
    }

    fn remove_staging(&self) -> io::Result<()> {
        durable::clear(self.staging.as_fd())?;
        match (self.inside, self.root()) {
            (true, None) => return Ok(()),
            (true, Some(root)) => return durable::remove_directory(root, INSIDE),
            // After a power loss the probe may be there still.
            (false, Some(root)) => probe::remove(root)?,
            (false, None) => {}
        }
        durable::remove_directory(self.parent(), &self.beside)
    }
}

/// The name of staging beside a set: of this server, since another agent's sets may be in the same directory.
pub(super) fn name_beside(rules: &SetRules, server: &PublicKey) -> Vec<u8> {
    let hash = Hash::of(server.as_bytes()).to_string();
    [INSIDE, b".", rules.name.as_str().as_bytes(), b".", &hash.as_bytes()[..SHORT]].concat()
}

/// The path of the staging directory of that name, for the set at `set`.
fn staging_at(set: &Path, name: &[u8]) -> PathBuf {
    if name == INSIDE { set.join(os(INSIDE)) } else { set.with_file_name(os(name)) }
}

/// The refusal where staging inside the set failed so.
fn not_within(source: &Source, root: BorrowedFd<'_>, error: io::Error) -> Refused {
    match look::flags(root).ok().and_then(obstacle::flag) {
        Some((flag, letter)) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
            let (set, path, at) = (source.rules.name.clone(), EntryPath::root(), source.path.clone());
            Refused::Flag { set, path, at, flag, letter }
        }
        _ => Refused::Io { action: "stage inside", path: source.path.clone(), source: error },
    }
}

/// The parent an administrator named (links in it are theirs), and the set's name in it.
fn parent(path: &Path) -> io::Result<(OwnedFd, Vec<u8>)> {
    let base = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.as_bytes().to_vec();
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = File::open(above)?;
    Ok((parent.into(), base))
}

fn root(parent: BorrowedFd<'_>, base: &[u8]) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, os(base), flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(None),
        other => Ok(Some(other?)),
    }
}

fn held_root(source: &Source, error: io::Error) -> Refused {
    let code = error.raw_os_error();
    if [Errno::LOOP, Errno::NOTDIR].iter().any(|errno| code == Some(errno.raw_os_error())) {
        let what = "no directory (a file or a symbolic link)".to_owned();
        let (set, here) = (source.rules.name.clone(), Some(source.path.clone()));
        return Refused::Held { set, path: EntryPath::root(), what, here };
    }
    Refused::Io { action: "open", path: source.path.clone(), source: error }
}

/// Whether staging inside the set may work where staging beside it failed so.
fn leads_inside(error: &io::Error) -> bool {
    let errnos = [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::XDEV, Errno::BUSY];
    errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Makes the staging directory, or takes over the one that is there.
fn make(parent: BorrowedFd<'_>, name: &[u8], source: &Source) -> io::Result<OwnedFd> {
    match durable::make_directory(parent, name, 0o700) {
        // What holds it is synced with what is staged in it.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    own(parent, name, source)
}

/// Opens a staging directory that must be this user's own, and locks it.
fn own(parent: BorrowedFd<'_>, name: &[u8], source: &Source) -> io::Result<OwnedFd> {
    let foreign = |what: &str| {
        let at = staging_at(&source.path, name);
        let text = format!("{} is {what}, where this agent stages files; move it away", at.display());
        io::Error::other(text)
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let staging = match openat(parent, os(name), flags, Mode::empty()) {
        // Linux says the same of both: the link would have to be a directory.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let is_link = look::look(parent, name)?.is_some_and(|seen| seen.shape == look::Shape::Link);
            return Err(foreign(if is_link { "a symbolic link" } else { "no directory" }));
        }
        other => other?,
    };
    let stat = fstat(&staging)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(foreign("a directory of another user"));
    }
    lock(&staging)?;
    // An ACL, setgid or group inherited from the parent would be handed on to what is staged.
    let owner = Arc::new(Owner { user: "".into(), group: "".into() });
    let meta = Meta { mode: 0o700, owner, mtime: 0, xattrs: None };
    durable::put_on_directory(staging.as_fd(), &meta, (stat.st_uid, rustix::process::getegid().as_raw()))?;
    Ok(staging)
}

/// Locks a staging directory. Tried for half a second: a child that another thread has just forked holds all our locks
/// until it runs its program.
fn lock(staging: &OwnedFd) -> io::Result<()> {
    for _ in 0..25 {
        match flock(staging, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(20)),
            other => return Ok(other?),
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process is applying to this set"))
}
