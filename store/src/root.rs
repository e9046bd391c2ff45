//! What a set's root is: a directory of which file system, and which part of that is mounted there. Where a mount came or
//! went, or another file system is there, the directory is another place that has the same path: what it holds says nothing
//! of what was edited, so it is not believed until a person says so.
//!
//! Within a run the device and the mount tell it. Over restarts, where those are numbered anew, the file system's own identity
//! and the part of it do, as far as they are known. A directory that was replaced by another one of the same file system (a
//! deployment by `mv`) is an edit like any other.

mod mounts;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use bellwether_proto::{entry::EntryPath, level::State, name::SetName};
use rustix::fs::{AtFlags, StatxFlags, fstatvfs, statx};
use serde::{Deserialize, Serialize};

use crate::{
    mutex::locked,
    scan::Source,
    state::file::{self, StateFileError},
};

/// The state file.
const FILE: &str = "roots.json";
/// Hidden entries of one set that are remembered.
const HIDDEN: usize = 1_000;

/// What tells a file system from others, over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Identity {
    /// What statvfs says, where that is made of the file system's UUID.
    Number(u64),
    /// The UUID by which the block device is known.
    Uuid(String),
    /// What is mounted, where that is no device: `server:/export`, the directory behind a FUSE file system.
    Source(String),
}

/// What stays over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lasting {
    /// Where it is, without symbolic links.
    path: PathBuf,
    /// The file system's type: ext4, nfs4 …
    kind: String,
    /// None: the file system has none that is known here.
    identity: Option<Identity>,
    /// Where it is in the file system.
    inside: Option<PathBuf>,
}

/// What stays within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passing {
    device: (u32, u32),
    /// None before Linux 5.8.
    mount: Option<u64>,
    /// What statvfs says: the numbers above are given again to what is mounted next, this one mostly is not.
    number: u64,
}

impl Passing {
    fn of(fd: BorrowedFd<'_>) -> std::io::Result<Self> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
        let status = statx(fd, "", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        let known = status.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        let mount = known.then_some(status.stx_mnt_id);
        let device = (status.stx_dev_major, status.stx_dev_minor);
        Ok(Self { device, mount, number: fstatvfs(fd)?.f_fsid })
    }
}

/// A root as it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    lasting: Lasting,
    /// None: of another run.
    passing: Option<Passing>,
}

/// What is kept of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    lasting: Lasting,
    /// Paths in it, as bytes: see [`Root::hide`].
    hidden: Vec<Vec<u8>>,
}

/// What is kept of all roots.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct AllSaved(BTreeMap<SetName, Saved>);

impl State for AllSaved {}

/// The directory of a set is another place than before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is another place than before ({what}), so it is not believed")]
pub struct Elsewhere {
    /// The directory.
    pub path: PathBuf,
    /// What it was and is, for people.
    pub what: String,
}

impl Known {
    /// How `now` is another place; none: it is the same one, as far as can be known.
    fn differs(&self, now: &Known) -> Option<String> {
        let (was, is) = (&self.lasting, &now.lasting);
        if was.kind != is.kind {
            return Some(format!("it was on a file system of type {}, and is on one of type {}", was.kind, is.kind));
        }
        let other = || Some(format!("it is on another file system of type {}", is.kind));
        match (&was.identity, &is.identity) {
            (Some(a), Some(b)) if std::mem::discriminant(a) == std::mem::discriminant(b) => {
                if a != b {
                    return other();
                }
            }
            // Nothing else tells one from another: within a run these do.
            _ => match (self.passing, now.passing) {
                (Some(a), Some(b)) if (a.device, a.number) != (b.device, b.number) => return other(),
                _ => {}
            },
        }
        match (&was.inside, &is.inside) {
            (Some(a), Some(b)) if a != b && was.path == is.path => {
                let (a, b) = (a.display(), b.display());
                Some(format!("something was mounted or unmounted: it was {a} of its file system, and is {b}"))
            }
            _ => None,
        }
    }
}

impl Lasting {
    fn of(fd: BorrowedFd<'_>, passing: Passing) -> std::io::Result<Self> {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        let mount = passing.mount.map(mounts::find).transpose()?.flatten();
        let Some(mount) = mount else {
            // Without the table of mounts only the file system's number says anything.
            let kind = format!("{:x}", rustix::fs::fstatfs(fd)?.f_type);
            return Ok(Self { path, kind, identity: None, inside: None });
        };
        let inside = path.strip_prefix(&mount.at).ok().map(|below| mount.root.join(below));
        let identity = identity(&mount, fd, passing.device)?;
        Ok(Self { path, kind: mount.kind, identity, inside })
    }
}

fn identity(mount: &mounts::Mount, fd: BorrowedFd<'_>, device: (u32, u32)) -> std::io::Result<Option<Identity>> {
    Ok(match mount.kind.as_str() {
        "ext2" | "ext3" | "ext4" | "btrfs" | "zfs" => {
            Some(fstatvfs(fd)?.f_fsid).filter(|id| *id != 0).map(Identity::Number)
        }
        // Their sources are words, and they begin anew with each mount.
        "tmpfs" | "ramfs" | "overlay" => None,
        _ if device.0 != 0 => mounts::uuid(device).map(Identity::Uuid),
        _ => Some(mount.source.clone()).filter(|source| !source.starts_with("/dev/")).map(Identity::Source),
    })
}

/// A set's root as this server knows it. Clones of an [`Arc`] of it go with the set's [`Source`].
#[derive(Debug, Default)]
pub struct Root {
    known: Mutex<Option<Known>>,
    hidden: Hidden,
}

/// Entries that something mounted there hides, or hid, of which no revision is known.
#[derive(Debug, Default)]
struct Hidden {
    /// There are some: looked at first, for there mostly are none.
    any: AtomicBool,
    paths: Mutex<BTreeSet<EntryPath>>,
}

impl Hidden {
    fn change<T>(&self, change: impl FnOnce(&mut BTreeSet<EntryPath>) -> T) -> T {
        let mut paths = locked(&self.paths);
        let changed = change(&mut paths);
        self.any.store(!paths.is_empty(), Ordering::Relaxed);
        changed
    }
}

impl Root {
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        locked(&self.known)
    }

    /// Whether the open directory `fd`, found at `path`, is the place that is known; the first one is. Where it came back
    /// (mounted again, say), it is known by its new mount from then on.
    ///
    /// # Errors
    /// It is another place (with [`Elsewhere`] inside), or the system's error.
    pub fn check(&self, fd: BorrowedFd<'_>, path: &Path) -> std::io::Result<()> {
        let passing = Passing::of(fd)?;
        let mut known = self.known();
        if known.as_ref().is_some_and(|known| known.passing == Some(passing)) {
            return Ok(());
        }
        let now = Known { lasting: Lasting::of(fd, passing)?, passing: Some(passing) };
        match known.as_ref().and_then(|known| known.differs(&now)) {
            Some(what) => Err(std::io::Error::other(Elsewhere { path: path.to_owned(), what })),
            None => {
                *known = Some(now);
                Ok(())
            }
        }
    }

    /// Something is mounted at `path`, of which nothing was ever carried: what it hides says nothing of what was edited, so it
    /// is not believed when the mount has gone.
    pub(crate) fn hide(&self, path: &EntryPath) {
        self.hidden.change(|paths| {
            if paths.len() < HIDDEN {
                paths.insert(path.clone());
            }
        });
    }

    /// Whether what is at `path` was hidden by a mount.
    pub(crate) fn hid(&self, path: &EntryPath) -> bool {
        self.hidden.any.load(Ordering::Relaxed) && self.hidden.change(|paths| paths.contains(path))
    }

    /// Nothing is at `path` (any more).
    pub(crate) fn unhide(&self, path: &EntryPath) {
        if self.hid(path) {
            self.hidden.change(|paths| paths.remove(path));
        }
    }
}

/// The roots of all sets on this server; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    roots: Arc<BTreeMap<SetName, Arc<Root>>>,
    file: PathBuf,
    saved: Arc<Mutex<AllSaved>>,
}

impl Roots {
    /// The roots of these sets as they were known when the state in the directory `state` was saved.
    ///
    /// # Errors
    /// The state file cannot be used.
    pub fn open(state: &Path, sets: impl IntoIterator<Item = SetName>) -> Result<Self, StateFileError> {
        let file = state.join(FILE);
        let saved: AllSaved = file::load(&file)?.unwrap_or_default();
        let root = |set: SetName| {
            let known = saved.0.get(&set).map(|saved| Known { lasting: saved.lasting.clone(), passing: None });
            let root = Root { known: Mutex::new(known), hidden: Hidden::default() };
            let hidden = saved.0.get(&set).map(|saved| saved.hidden.as_slice()).unwrap_or_default();
            root.hidden.change(|paths| paths.extend(hidden.iter().filter_map(|path| EntryPath::new(path).ok())));
            (set, Arc::new(root))
        };
        let roots = sets.into_iter().map(root).collect();
        Ok(Self { roots: Arc::new(roots), file, saved: Arc::new(Mutex::new(saved)) })
    }

    /// The sources, which are believed only where their roots are what is known of them.
    pub fn guard(&self, sources: Vec<Source>) -> Vec<Source> {
        let guard = |source: Source| Source { root: self.roots.get(&source.rules.name).cloned(), ..source };
        sources.into_iter().map(guard).collect()
    }

    /// A person said that the sets are where they are: whatever is there when they are looked at next is believed.
    pub fn accept(&self) {
        for root in self.roots.values() {
            *root.known() = None;
            root.hidden.change(BTreeSet::clear);
        }
    }

    /// Saves what is known, where that is another than what was saved. Losing it costs that a root that becomes another place
    /// over a restart is not noticed.
    ///
    /// # Errors
    /// The state file cannot be written.
    pub fn save(&self) -> Result<(), StateFileError> {
        let save = |(set, root): (&SetName, &Arc<Root>)| {
            let lasting = root.known().as_ref()?.lasting.clone();
            let hidden = root.hidden.change(|paths| paths.iter().map(|path| path.as_bytes().to_vec()).collect());
            Some((set.clone(), Saved { lasting, hidden }))
        };
        let now: BTreeMap<SetName, Saved> = self.roots.iter().filter_map(save).collect();
        let mut saved = locked(&self.saved);
        // What is not known now (a set was not looked at since it was accepted) is not forgotten.
        if now.iter().all(|(set, now)| saved.0.get(set) == Some(now)) {
            return Ok(());
        }
        saved.0.extend(now);
        file::save(&self.file, &*saved)
    }
}

/// That a directory is another place, where that is what the error says.
pub fn elsewhere(error: &std::io::Error) -> Option<&Elsewhere> {
    error.get_ref()?.downcast_ref()
}

/// What an error of the system means for a file system that is not there as it should be; empty for any other.
pub fn in_words(error: &std::io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::NOTCONN) => " (the program that serves the file system there has ended: mount it again)",
        Some(Errno::STALE) => " (the file server has another directory there by now: mount it again)",
        Some(Errno::HOSTDOWN | Errno::HOSTUNREACH | Errno::TIMEDOUT) => " (the file server does not answer)",
        Some(Errno::IO) => " (the device fails: see the system's log)",
        Some(Errno::NODEV | Errno::NXIO) => " (the device is gone)",
        Some(_) | None => "",
    }
}

/// Every mount of this process: its number and where it is.
///
/// # Errors
/// The system's.
pub fn mounts() -> std::io::Result<Vec<(u64, PathBuf)>> {
    Ok(mounts::all()?.into_iter().map(|(number, mount)| (number, mount.at)).collect())
}

/// The type of the file system at `path`, where others than this machine may change what is in it, and are not seen here.
pub fn shared_kind(path: &Path) -> Option<&'static str> {
    // linux/magic.h, and the clustered file systems' own headers.
    let kind = rustix::fs::statfs(path).ok()?.f_type as u32;
    Some(match kind {
        0x6969 => "nfs",
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => "cifs",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x00c3_6400 => "ceph",
        0x5346_414f | 0x6b41_4653 => "afs",
        0x0bd0_0bd0 => "lustre",
        0x0116_1970 => "gfs2",
        0x7461_636f => "ocfs2",
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
