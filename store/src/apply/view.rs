//! The new tree at the sets' own paths, for one process and those that it starts, before anything live is touched: an overlay over
//! each set, in a mount namespace of its own. Its upper layer is on a tmpfs, so that nothing that is written there reaches the
//! disk. The process is another one than the agent's: what it needs to know is in a file.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use bellwether_proto::entry::{EntryPath, Meta};
use nix::sched::CloneFlags;
use rustix::{
    fs::{CWD, fstat},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags},
};
use serde::{Deserialize, Serialize};

use super::{
    journal::{Act, form},
    keep,
    work::Work,
};
use crate::{
    apply::stage,
    attributes::Accounts,
    beneath::{open_directory, open_root},
    durable::{self, Name},
    root::mounts,
};

/// The most bytes of staged content that are copied into memory.
const MOST: u64 = 256 << 20;
/// What the layer holds beside the content: names, and what a command writes.
const SPARE: u64 = 16 << 20;
/// The file's name in staging, where names are numbers.
const FILE: &[u8] = b"view.json";

#[derive(Debug, Serialize, Deserialize)]
struct View(Vec<Layer>);

#[derive(Debug, Serialize, Deserialize)]
struct Layer {
    path: PathBuf,
    /// The device and the inode of the set.
    root: (u64, u64),
    staging: PathBuf,
    bytes: u64,
    entries: u64,
    steps: Vec<Step>,
}

/// One operation of the switch.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    #[serde(with = "form::path")]
    path: EntryPath,
    act: Act,
    staged: u64,
}

/// Writes the file for what is staged; its path. It is in staging, and goes with that at the latest.
///
/// # Errors
/// A set that is not there yet, more content than fits into memory, or the system's.
pub(super) fn write(work: &Work) -> io::Result<PathBuf> {
    let mut layers = Vec::new();
    for (number, area) in work.areas.iter().enumerate() {
        let operations = work.journal.operations.iter().filter(|operation| operation.set == number);
        let makes = |operation: &super::journal::Operation| operation.path.is_root() && operation.act == Act::Put;
        let root = area.root().filter(|_| !operations.clone().any(makes));
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{} is not there yet", area.path.display()));
        let root = fstat(root.ok_or_else(missing)?)?;
        let (mut bytes, mut entries) = (0, 0);
        for operation in operations.clone().filter(|operation| operation.act == Act::Put) {
            for wanted in work.journal.wanted_within(number, &operation.path) {
                bytes += wanted.entry.as_ref().map_or(0, stage::size);
                entries += 1;
            }
        }
        let step = |operation: &super::journal::Operation| Step {
            path: operation.path.clone(),
            act: operation.act.clone(),
            staged: operation.staged,
        };
        let steps = operations.map(step).collect();
        let (path, root, staging) = (area.path.clone(), (root.st_dev, root.st_ino), area.staging_path());
        layers.push(Layer { path, root, staging, bytes, entries, steps });
    }
    let bytes: u64 = layers.iter().map(|layer| layer.bytes).sum();
    if bytes > MOST {
        let what = format!("{bytes} bytes change, and at most {MOST} are held in memory for it");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    let first = work.areas.first().ok_or(io::ErrorKind::NotFound)?;
    let json = serde_json::to_vec(&View(layers)).map_err(io::Error::other)?;
    durable::remove_all(first.staging.as_fd(), FILE)?;
    drop(durable::write_new(first.staging.as_fd(), FILE, &json)?);
    Ok(first.staging_path().join(crate::beneath::os(FILE)))
}

/// Gives the calling thread mounts of its own, in which the sets hold the new tree that `file` describes. What the thread
/// starts, or becomes by exec, sees them, too. There is no way back.
///
/// # Errors
/// This process may not do so (EPERM), or the system's others.
pub fn enter(file: &Path) -> io::Result<()> {
    let View(layers) = serde_json::from_slice(&durable::read_regular(file)?).map_err(io::Error::other)?;
    let opened: Vec<OwnedFd> = layers.iter().map(|layer| open_root(&layer.staging)).collect::<io::Result<_>>()?;
    alone()?;
    layers.iter().zip(&opened).try_for_each(|(layer, staging)| layer.mount(staging.as_fd()))
}

/// Tries whether a command can be shown new files at the path of a set here: with mounts of its own, on a thread of its own.
///
/// # Errors
/// As [`enter`].
pub fn possible(set: &Path) -> io::Result<()> {
    let trying = || {
        alone()?;
        overlay(set, open_root(set)?.as_fd(), set, (SPARE, 1_000))
    };
    std::thread::scope(|scope| scope.spawn(trying).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Gives the calling thread mounts of its own.
fn alone() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted here is seen nowhere else; what others unmount goes here, too, so that nobody has to wait for this.
    Ok(rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Mounts an overlay at `path` over `lower`, with an upper layer in memory that is mounted at `memory`: of at most so many bytes
/// and inodes.
fn overlay(path: &Path, lower: BorrowedFd<'_>, memory: &Path, (size, inodes): (u64, u64)) -> io::Result<()> {
    let is = fstat(lower)?;
    let options = cstring(&format!("mode=0700,size={size},nr_inodes={inodes}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", memory, "tmpfs", flags, Some(options.as_c_str()))?;
    let memory = open_root(memory)?;
    for name in ["upper", "work"] {
        rustix::fs::mkdirat(&memory, name, 0o700.into())?;
    }
    // The root itself is as it is now; a step may change it.
    let upper = open_directory(memory.as_fd(), &EntryPath::new(b"upper").map_err(io::Error::other)?)?;
    durable::put_numbers(
        upper.as_fd(),
        is.st_mode as u16 & 0o7777,
        (is.st_uid, is.st_gid),
        (is.st_mtime as i64, is.st_mtime_nsec as u32),
    )?;
    let at = |fd| format!("/proc/self/fd/{fd}");
    let (lower, memory) = (at(lower.as_raw_fd()), at(memory.as_raw_fd()));
    let options = cstring(&format!("lowerdir={lower},upperdir={memory}/upper,workdir={memory}/work"))?;
    Ok(rustix::mount::mount("overlay", path, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
}

impl Layer {
    fn mount(&self, staging: BorrowedFd<'_>) -> io::Result<()> {
        let lower = open_root(&self.path)?;
        let is = fstat(&lower)?;
        if self.root != (is.st_dev, is.st_ino) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "the set was replaced meanwhile"));
        }
        let inner = self.mounts_inside()?;
        overlay(&self.path, lower.as_fd(), &self.staging, (self.bytes + SPARE, self.entries * 4 + 10_000))?;
        for (tree, at) in inner {
            rustix::mount::move_mount(&tree, "", CWD, &at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        let root = open_root(&self.path)?;
        let accounts = Accounts::new();
        self.steps.iter().try_for_each(|step| step.carry_out(root.as_fd(), staging, &accounts))
    }

    /// Copies of the mounts inside the set, which an overlay does not show, and their paths.
    fn mounts_inside(&self) -> io::Result<Vec<(OwnedFd, PathBuf)>> {
        let real = self.path.canonicalize()?;
        let mut inside: Vec<PathBuf> = Vec::new();
        for (_, mount) in mounts::all()? {
            if mount.at.starts_with(&real) && mount.at != real && !inside.contains(&mount.at) {
                inside.push(mount.at);
            }
        }
        inside.sort();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        inside.into_iter().map(|at| Ok((rustix::mount::open_tree(CWD, &at, flags)?, at))).collect()
    }
}

impl Step {
    fn carry_out(&self, root: BorrowedFd<'_>, staging: BorrowedFd<'_>, accounts: &Accounts) -> io::Result<()> {
        let Some((above, name)) = self.path.split() else {
            return if let Act::Meta { new, .. } = &self.act { meta(root, new, accounts) } else { Ok(()) };
        };
        let directory = match open_directory(root, &above) {
            // It went with a directory above.
            Err(error) if self.act == Act::Remove && Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                return Ok(());
            }
            other => other?,
        };
        match &self.act {
            Act::Put => {
                durable::remove_all(directory.as_fd(), name)?;
                let name_there = self.staged.to_string();
                let staged = Name { directory: staging, name: name_there.as_bytes() };
                keep::copy(staged, Name { directory: directory.as_fd(), name })
            }
            Act::Remove => durable::remove_all(directory.as_fd(), name),
            Act::Meta { new, .. } => meta(open_directory(root, &self.path)?.as_fd(), new, accounts),
            Act::Unmake { .. } => durable::remove_directory(directory.as_fd(), name),
        }
    }
}

fn meta(directory: BorrowedFd<'_>, meta: &Meta, accounts: &Accounts) -> io::Result<()> {
    let ids = accounts.ids(&meta.owner).map_err(io::Error::other)?;
    durable::put_numbers(directory, meta.mode, ids, (meta.mtime, 0))
}

fn cstring(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}
