//! The identity of a set's root: the directory, its file system, and the part of that which is mounted there. After a
//! mount, an unmount, or a change of the file system, the directory is another place with the same path. Its content
//! then shows no edits, so it is not trusted until a person confirms it.
//!
//! Within a run the device and the mount identify it. After a restart, which numbers those anew, the file system's own
//! identity and the mounted part do, as far as they are known. A directory that another one of the same file system
//! replaced (a deployment by `mv`) is an edit like any other.

pub(crate) mod mounts;

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

const FILE: &str = "roots.json";
/// The most hidden entries of one set that are remembered.
const HIDDEN: usize = 1_000;

/// The identity of a file system, which outlives restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Identity {
    /// The number of statvfs, if that is made from the file system's UUID.
    Number(u64),
    /// The UUID by which the block device is known.
    Uuid(String),
    /// The mounted source if that is no device: `server:/export`, the directory behind a FUSE file system.
    Source(String),
}

/// The parts that outlive restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lasting {
    /// Its path, without symbolic links.
    path: PathBuf,
    /// The file system's type: ext4, nfs4 …
    kind: String,
    /// None if the file system has no known identity.
    identity: Option<Identity>,
    /// Its path in the file system.
    inside: Option<PathBuf>,
}

/// The parts that last for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passing {
    device: (u32, u32),
    /// None before Linux 5.8.
    mount: Option<u64>,
    /// The number of statvfs: the ids above are given again to the next mount, but this one mostly is not.
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

/// A trusted root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    lasting: Lasting,
    /// None if it is of another run.
    passing: Option<Passing>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    lasting: Lasting,
    /// Paths in it, as bytes: see [`Root::hide`].
    hidden: Vec<Vec<u8>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct AllSaved(BTreeMap<SetName, Saved>);

impl State for AllSaved {}

/// The directory of a set is another place than before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is another place than before ({what}), so it is not trusted")]
pub struct Elsewhere {
    /// The directory.
    pub path: PathBuf,
    /// The difference, for people.
    pub what: String,
}

impl Known {
    /// The difference that makes `now` another place; none if it is the same one, as far as this is known.
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
            // Without the table of mounts only the file system's number tells something.
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
        // Their sources are arbitrary words, and they are empty after each mount.
        "tmpfs" | "ramfs" | "overlay" => None,
        _ if device.0 != 0 => mounts::uuid(device).map(Identity::Uuid),
        _ => Some(mount.source.clone()).filter(|source| !source.starts_with("/dev/")).map(Identity::Source),
    })
}

/// A set's root as this server knows it. Clones of its [`Arc`] go with the set's [`Source`].
#[derive(Debug, Default)]
pub struct Root {
    known: Mutex<Option<Known>>,
    hidden: Hidden,
}

/// Entries that a mount hides, or hid, and that no revision has.
#[derive(Debug, Default)]
struct Hidden {
    /// Whether there are some; checked first, since there mostly are none.
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

    /// Checks that the open directory `fd`, found at `path`, is the known place; the first one becomes it. A place that
    /// comes back (mounted again, say) is known by its new mount from then on.
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

    /// Notes a mount at `path`, where no revision has an entry: the entries that it hides show no edits, so they are
    /// not trusted when the mount is gone.
    pub(crate) fn hide(&self, path: &EntryPath) {
        self.hidden.change(|paths| {
            if paths.len() < HIDDEN {
                paths.insert(path.clone());
            }
        });
    }

    /// Whether a mount hid the entry at `path`.
    pub(crate) fn hid(&self, path: &EntryPath) -> bool {
        self.hidden.any.load(Ordering::Relaxed) && self.hidden.change(|paths| paths.contains(path))
    }

    /// Notes that nothing is at `path` (any more).
    pub(crate) fn unhide(&self, path: &EntryPath) {
        if self.hid(path) {
            self.hidden.change(|paths| paths.remove(path));
        }
    }
}

/// The roots of all sets on this server; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Roots {
    roots: Arc<BTreeMap<SetName, Arc<Root>>>,
    file: PathBuf,
    saved: Arc<Mutex<AllSaved>>,
}

impl Roots {
    /// The roots of these sets, as the state directory `state` has them.
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

    /// The sources, which are trusted only if their roots are the known ones.
    pub fn guard(&self, sources: Vec<Source>) -> Vec<Source> {
        let guard = |source: Source| Source { root: self.roots.get(&source.rules.name).cloned(), ..source };
        sources.into_iter().map(guard).collect()
    }

    /// Notes that a person confirmed the places of the sets: the next roots found are trusted.
    pub fn accept(&self) {
        for root in self.roots.values() {
            *root.known() = None;
            root.hidden.change(BTreeSet::clear);
        }
    }

    /// Saves the roots if they changed. Without this, a root that becomes another place over a restart is not noticed.
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
        // A root that is not known now (its set was not scanned since it was accepted) is not forgotten.
        if now.iter().all(|(set, now)| saved.0.get(set) == Some(now)) {
            return Ok(());
        }
        saved.0.extend(now);
        file::save(&self.file, &*saved)
    }
}

/// The [`Elsewhere`] in an error, if there is one.
pub fn elsewhere(error: &std::io::Error) -> Option<&Elsewhere> {
    error.get_ref()?.downcast_ref()
}

/// The meaning of a system's error for an absent file system; empty for any other.
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

/// Every mount of this process: its number and its path.
///
/// # Errors
/// The system's.
pub fn mounts() -> std::io::Result<Vec<(u64, PathBuf)>> {
    Ok(mounts::all()?.into_iter().map(|(number, mount)| (number, mount.at)).collect())
}

/// The type of the file system at `path` if other machines may change it without an event here.
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
