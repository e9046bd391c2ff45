//! Records the operations of [`super`] for tests, which replay them elsewhere with parts missing, or fail one of them.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bellwether_proto::entry::Meta;

use super::Name;
use crate::{
    beneath::{open_root, os},
    mutex::locked,
};

/// One operation; its paths are absolute until a recorder takes it, and after that relative to the recorder's root.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Operation {
    Create {
        path: PathBuf,
        mode: u32,
    },
    Write {
        path: PathBuf,
        offset: u64,
        bytes: Vec<u8>,
    },
    Length {
        path: PathBuf,
        length: u64,
    },
    MetaOfFile {
        path: PathBuf,
        meta: Meta,
        ids: (u32, u32),
    },
    MetaOfLink {
        path: PathBuf,
        meta: Meta,
        ids: (u32, u32),
    },
    MetaOfDirectory {
        path: PathBuf,
        meta: Meta,
        ids: (u32, u32),
    },
    Numbers {
        path: PathBuf,
        mode: u16,
    },
    Directory {
        path: PathBuf,
        mode: u32,
    },
    Link {
        path: PathBuf,
        target: Vec<u8>,
    },
    HardLink {
        from: PathBuf,
        to: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        replace: bool,
    },
    Exchange {
        a: PathBuf,
        b: PathBuf,
    },
    Remove {
        path: PathBuf,
        directory: bool,
    },
    SyncFile {
        path: PathBuf,
    },
    SyncDirectory {
        path: PathBuf,
    },
    SyncFilesystem {
        path: PathBuf,
    },
    /// A mark that the test set among the operations.
    Mark {
        path: PathBuf,
        what: &'static str,
    },
}

struct Recorder {
    root: PathBuf,
    operations: Mutex<Vec<Operation>>,
    /// Operations with these numbers fail (first, one past the last).
    fail: (usize, usize),
    count: AtomicUsize,
}

static RECORDERS: Mutex<Vec<Arc<Recorder>>> = Mutex::new(Vec::new());

/// The present path of `name` in `directory`.
pub(super) fn place(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<PathBuf> {
    Ok(of(directory)?.join(os(name)))
}

/// The present path of an open file or directory.
pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

pub(super) fn note(operation: impl FnOnce() -> io::Result<Operation>) -> io::Result<()> {
    let recorders = locked(&RECORDERS).clone();
    if recorders.is_empty() {
        return Ok(());
    }
    let operation = operation()?;
    for recorder in recorders {
        let Some(operation) = operation.relative_to(&recorder.root) else { continue };
        let number = recorder.count.fetch_add(1, Ordering::SeqCst);
        if (recorder.fail.0..recorder.fail.1).contains(&number) {
            return Err(io::Error::other(format!("injected at operation {number}: {operation:?}")));
        }
        locked(&recorder.operations).push(operation);
    }
    Ok(())
}

/// Sets a mark for the recorders of `root`.
pub fn mark(root: &Path, what: &'static str) {
    let _ = note(|| Ok(Operation::Mark { path: root.to_owned(), what }));
}

fn run<R>(root: &Path, fail: (usize, usize), f: impl FnOnce() -> R) -> (R, Vec<Operation>) {
    struct Gone(Arc<Recorder>);
    impl Drop for Gone {
        fn drop(&mut self) {
            locked(&RECORDERS).retain(|other| !Arc::ptr_eq(other, &self.0));
        }
    }
    let root = root.canonicalize().unwrap();
    let recorder = Arc::new(Recorder { root, operations: Mutex::default(), fail, count: AtomicUsize::new(0) });
    locked(&RECORDERS).push(recorder.clone());
    let gone = Gone(recorder);
    let result = f();
    let operations = std::mem::take(&mut *locked(&gone.0.operations));
    (result, operations)
}

/// Runs `f`, and returns the operations of all threads below `root` meanwhile.
pub fn record<R>(root: &Path, f: impl FnOnce() -> R) -> (R, Vec<Operation>) {
    run(root, (usize::MAX, usize::MAX), f)
}

/// Runs `f`; the operations below `root` with numbers from `first` to before `end` fail.
pub fn failing<R>(root: &Path, first: usize, end: usize, f: impl FnOnce() -> R) -> R {
    run(root, (first, end), f).0
}

impl Operation {
    fn relative_to(&self, root: &Path) -> Option<Self> {
        let cut = |path: &PathBuf| path.strip_prefix(root).ok().map(Path::to_owned);
        let mut copy = self.clone();
        for path in copy.paths_mut() {
            *path = cut(path)?;
        }
        Some(copy)
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::HardLink { from, to } | Self::Rename { from, to, .. } => vec![from, to],
            Self::Exchange { a, b } => vec![a, b],
            Self::Create { path, .. }
            | Self::Write { path, .. }
            | Self::Length { path, .. }
            | Self::MetaOfFile { path, .. }
            | Self::MetaOfLink { path, .. }
            | Self::MetaOfDirectory { path, .. }
            | Self::Numbers { path, .. }
            | Self::Directory { path, .. }
            | Self::Link { path, .. }
            | Self::Remove { path, .. }
            | Self::SyncFile { path }
            | Self::SyncDirectory { path }
            | Self::SyncFilesystem { path }
            | Self::Mark { path, .. } => vec![path],
        }
    }

    /// The operation after which the operation number `at` of `all` survives a power loss; none if no operation makes it
    /// durable. Entries need a sync of their directories (of both, if there are two); bytes and attributes need a sync of
    /// their file. An exchange needs one of its two directories, since it is one transaction in every file system that has it.
    pub fn durable_after(&self, at: usize, all: &[Operation]) -> Option<usize> {
        let synced = |path: &Path| {
            let later = all.iter().enumerate().skip(at + 1);
            later.into_iter().find_map(|(number, operation)| match operation {
                Self::SyncFilesystem { .. } => Some(number),
                Self::SyncFile { path: synced } | Self::SyncDirectory { path: synced } if synced == path => {
                    Some(number)
                }
                // A directory is gone for good with all entries that were taken out of it.
                Self::Remove { path: removed, directory: true } if removed == path => {
                    operation.durable_after(number, all)
                }
                _ => None,
            })
        };
        match self {
            Self::Write { path, .. }
            | Self::Length { path, .. }
            | Self::MetaOfFile { path, .. }
            | Self::MetaOfDirectory { path, .. }
            | Self::Numbers { path, .. } => synced(path),
            Self::Exchange { a, b } => [a, b].into_iter().filter_map(|path| synced(path.parent()?)).min(),
            Self::Create { path, .. } => {
                let exchanged = |(number, operation): (usize, &Self)| match operation {
                    Self::Exchange { a, b } if a == path || b == path => operation.durable_after(number, all),
                    _ => None,
                };
                synced(path.parent()?).or_else(|| all.iter().enumerate().skip(at + 1).find_map(exchanged))
            }
            _ => {
                let mut copy = self.clone();
                let above = copy.paths_mut().into_iter().map(|path| synced(path.parent()?));
                above.collect::<Option<Vec<usize>>>()?.into_iter().max()
            }
        }
    }

    /// Repeats the operation below `root`.
    ///
    /// # Errors
    /// The system's: an earlier operation is missing.
    pub fn replay(&self, root: &Path) -> io::Result<()> {
        let held = |path: &Path| open_root(root.join(path).parent().unwrap_or(root));
        let name = |path: &Path| path.file_name().unwrap_or_default().as_bytes().to_vec();
        match self {
            Self::Create { path, mode } => {
                OpenOptions::new().write(true).create_new(true).mode(*mode).open(root.join(path)).map(drop)
            }
            Self::Write { path, offset, bytes } => {
                OpenOptions::new().write(true).open(root.join(path))?.write_all_at(bytes, *offset)
            }
            Self::Length { path, length } => OpenOptions::new().write(true).open(root.join(path))?.set_len(*length),
            Self::MetaOfFile { path, meta, ids } => {
                super::put_on_file(fs::File::open(root.join(path))?.as_fd(), meta, *ids)
            }
            Self::MetaOfDirectory { path, meta, ids } => {
                super::put_on_directory(open_root(&root.join(path))?.as_fd(), meta, *ids)
            }
            Self::MetaOfLink { path, meta, ids } => super::put_on_link(held(path)?.as_fd(), &name(path), meta, *ids),
            Self::Directory { path, mode } => super::make_directory(held(path)?.as_fd(), &name(path), *mode),
            Self::Link { path, target } => super::make_link(held(path)?.as_fd(), &name(path), target),
            Self::HardLink { from, to } | Self::Rename { from, to, .. } | Self::Exchange { a: from, b: to } => {
                let (from_held, to_held, from_name, to_name) = (held(from)?, held(to)?, name(from), name(to));
                let from = Name { directory: from_held.as_fd(), name: &from_name };
                let to = Name { directory: to_held.as_fd(), name: &to_name };
                match self {
                    Self::HardLink { .. } => super::link(from, to),
                    Self::Exchange { .. } => super::exchange(from, to),
                    Self::Rename { replace: true, .. } => super::rename(from, to),
                    _ => super::rename_new(from, to),
                }
            }
            Self::Remove { path, directory: false } => super::remove(held(path)?.as_fd(), &name(path)),
            Self::Remove { path, directory: true } => super::remove_directory(held(path)?.as_fd(), &name(path)),
            Self::Numbers { path, mode } => {
                fs::set_permissions(root.join(path), std::os::unix::fs::PermissionsExt::from_mode((*mode).into()))
            }
            Self::SyncFile { .. } | Self::SyncDirectory { .. } | Self::SyncFilesystem { .. } | Self::Mark { .. } => {
                Ok(())
            }
        }
    }
}

/// xorshift64*; each message names its seed.
pub struct Random(pub u64);

impl Random {
    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end.max(1)
    }
}

/// The part of `operations` that was on the disk at a power loss at a random moment, and that moment.
pub fn survivors(operations: &[Operation], random: &mut Random) -> (Vec<Operation>, usize) {
    let end = random.below(operations.len() + 1);
    let lost_of_ten = [0, 1, 5, 9, 10][random.below(5)];
    let happened = &operations[..end];
    let mut left = Vec::new();
    for (number, operation) in happened.iter().enumerate() {
        let durable = operation.durable_after(number, happened).is_some();
        if !durable && random.below(10) < lost_of_ten {
            continue;
        }
        left.push(match operation {
            Operation::Write { path, offset, bytes } if !durable && random.below(2) == 0 => {
                let bytes = bytes[..random.below(bytes.len() + 1)].to_vec();
                Operation::Write { path: path.clone(), offset: *offset, bytes }
            }
            other => other.clone(),
        });
    }
    (left, end)
}

/// Repeats `operations` below `home`, without those that need a missing one.
pub fn replay(operations: &[Operation], home: &Path) {
    for operation in operations {
        let _ = operation.replay(home);
    }
}
