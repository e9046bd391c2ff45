//! Every durable operation: write, fsync, rename, fsync of the parent directory. Operations can be recorded, so that a test
//! can replay them without some unsynced ones (a power loss).
//!
//! Most functions are one system call on a name in a held directory. Nothing is retried, and no link is followed.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use bellwether_proto::entry::Meta;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, ResolveFlags};

use crate::{attributes, beneath::os};

#[cfg(test)]
pub mod recording;

const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_XDEV);

/// Notes the operation for the recorders of this place, and fails it if a test says so.
macro_rules! note {
    ($operation:ident { $($field:ident: $value:expr),* $(,)? }) => {
        #[cfg(test)]
        recording::note(|| Ok(recording::Operation::$operation { $($field: $value),* }))?;
    };
}

#[cfg(test)]
use recording::{of, place};

/// Creates a file that must not exist, beneath `directory`, for reading and writing. `path` may have several components.
///
/// # Errors
/// The system's; EEXIST if the name is in use.
pub fn create(directory: BorrowedFd<'_>, path: &[u8], mode: u32) -> io::Result<File> {
    note!(Create { path: place(directory, path)?, mode: mode });
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat2(directory, os(path), flags, Mode::from_raw_mode(mode), INSIDE)?))
}

/// Writes all of `bytes` at `offset`.
///
/// # Errors
/// The system's; ENOSPC and EDQUOT if the disk is full.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    note!(Write { path: of(file.as_fd())?, offset: offset, bytes: bytes.to_vec() });
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

/// Makes a file `length` bytes long; a part without content is a hole.
///
/// # Errors
/// The system's; EFBIG if the file system has no files of that length.
pub fn set_length(file: &File, length: u64) -> io::Result<()> {
    note!(Length { path: of(file.as_fd())?, length: length });
    file.set_len(length)
}

/// Puts mode, owner, time and attributes on an open file.
///
/// # Errors
/// The system's.
pub fn put_on_file(file: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    note!(MetaOfFile { path: of(file)?, meta: meta.clone(), ids: ids });
    attributes::put_on_file(file, meta, ids)
}

/// The attributes of a file that was just made.
#[derive(Debug, Clone, Copy)]
pub struct New {
    /// The file's owner and group.
    pub owner: (u32, u32),
    /// Whether its mode is already right.
    pub has_mode: bool,
}

/// As [`put_on_file`], on a file that was just made: one system call in the common case.
///
/// # Errors
/// The system's.
pub fn put_on_new_file(file: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32), is: New) -> io::Result<()> {
    if meta.xattrs.is_some() || ids != is.owner {
        return put_on_file(file, meta, ids);
    }
    note!(MetaOfFile { path: of(file)?, meta: meta.clone(), ids: ids });
    if !is.has_mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode.into()))?;
    }
    let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    Ok(rustix::fs::futimens(
        file,
        &rustix::fs::Timestamps {
            last_access: time(0, rustix::fs::UTIME_OMIT),
            last_modification: time(meta.mtime, 0),
        },
    )?)
}

/// Gives a copy the mode, owner and time of its original, as numbers. The owner is changed only if that is allowed.
///
/// # Errors
/// The system's.
pub fn put_numbers(fd: BorrowedFd<'_>, mode: u16, ids: (u32, u32), mtime: (i64, u32)) -> io::Result<()> {
    use rustix::fs::{Gid, Timespec, Timestamps, UTIME_OMIT, Uid};
    note!(Numbers { path: of(fd)?, mode: mode });
    match rustix::fs::fchown(fd, Some(Uid::from_raw(ids.0)), Some(Gid::from_raw(ids.1))) {
        Err(rustix::io::Errno::PERM) => {}
        other => other?,
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode.into()))?;
    let last_access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_modification = Timespec { tv_sec: mtime.0, tv_nsec: i64::from(mtime.1) as _ };
    Ok(rustix::fs::futimens(fd, &Timestamps { last_access, last_modification })?)
}

/// Puts owner and time on a symbolic link.
///
/// # Errors
/// The system's.
pub fn put_on_link(directory: BorrowedFd<'_>, name: &[u8], meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    note!(MetaOfLink { path: place(directory, name)?, meta: meta.clone(), ids: ids });
    attributes::put_on_link(directory, name, meta, ids)
}

/// Puts mode, owner and attributes on an open directory.
///
/// # Errors
/// The system's.
pub fn put_on_directory(directory: BorrowedFd<'_>, meta: &Meta, ids: (u32, u32)) -> io::Result<()> {
    note!(MetaOfDirectory { path: of(directory)?, meta: meta.clone(), ids: ids });
    attributes::put_on_directory(directory, meta, ids)
}

/// Makes a directory.
///
/// # Errors
/// The system's.
pub fn make_directory(directory: BorrowedFd<'_>, name: &[u8], mode: u32) -> io::Result<()> {
    note!(Directory { path: place(directory, name)?, mode: mode });
    Ok(rustix::fs::mkdirat(directory, os(name), Mode::from_raw_mode(mode))?)
}

/// Makes a symbolic link to `target`.
///
/// # Errors
/// The system's.
pub fn make_link(directory: BorrowedFd<'_>, name: &[u8], target: &[u8]) -> io::Result<()> {
    note!(Link { path: place(directory, name)?, target: target.to_vec() });
    Ok(rustix::fs::symlinkat(os(target), directory, os(name))?)
}

/// A name beneath a held directory.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    /// The directory.
    pub directory: BorrowedFd<'a>,
    /// One component in it.
    pub name: &'a [u8],
}

/// Gives the file or link at `from` a second name.
///
/// # Errors
/// The system's.
pub fn link(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    note!(HardLink { from: place(from.directory, from.name)?, to: place(to.directory, to.name)? });
    Ok(rustix::fs::linkat(from.directory, os(from.name), to.directory, os(to.name), AtFlags::empty())?)
}

/// Renames, and replaces any entry at `to`.
///
/// # Errors
/// The system's.
pub fn rename(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    note!(Rename { from: place(from.directory, from.name)?, to: place(to.directory, to.name)?, replace: true });
    Ok(rustix::fs::renameat(from.directory, os(from.name), to.directory, os(to.name))?)
}

/// Renames to a name that must be free.
///
/// # Errors
/// The system's; EEXIST if the name is in use.
pub fn rename_new(from: Name<'_>, to: Name<'_>) -> io::Result<()> {
    note!(Rename { from: place(from.directory, from.name)?, to: place(to.directory, to.name)?, replace: false });
    let flags = RenameFlags::NOREPLACE;
    match rustix::fs::renameat_with(from.directory, os(from.name), to.directory, os(to.name), flags) {
        // The file system does not have the flag, so the name is looked up first.
        Err(rustix::io::Errno::INVAL) => {
            match rustix::fs::statat(to.directory, os(to.name), AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => {
                    Ok(rustix::fs::renameat(from.directory, os(from.name), to.directory, os(to.name))?)
                }
                Err(error) => Err(error.into()),
                Ok(_) => Err(rustix::io::Errno::EXIST.into()),
            }
        }
        other => Ok(other?),
    }
}

/// Exchanges the entries at two names, atomically.
///
/// # Errors
/// The system's; EINVAL, ENOSYS or EXDEV if the file system cannot do that.
pub fn exchange(a: Name<'_>, b: Name<'_>) -> io::Result<()> {
    note!(Exchange { a: place(a.directory, a.name)?, b: place(b.directory, b.name)? });
    Ok(rustix::fs::renameat_with(a.directory, os(a.name), b.directory, os(b.name), RenameFlags::EXCHANGE)?)
}

/// Removes a file or link.
///
/// # Errors
/// The system's.
pub fn remove(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    note!(Remove { path: place(directory, name)?, directory: false });
    Ok(rustix::fs::unlinkat(directory, os(name), AtFlags::empty())?)
}

/// Removes an empty directory.
///
/// # Errors
/// The system's.
pub fn remove_directory(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    note!(Remove { path: place(directory, name)?, directory: true });
    Ok(rustix::fs::unlinkat(directory, os(name), AtFlags::REMOVEDIR)?)
}

/// Makes a file's bytes and attributes survive a power loss.
///
/// # Errors
/// The system's.
pub fn sync_file(file: BorrowedFd<'_>) -> io::Result<()> {
    note!(SyncFile { path: of(file)? });
    Ok(rustix::fs::fsync(file)?)
}

/// Makes a file's bytes and length survive a power loss, but perhaps not its times and other attributes.
///
/// # Errors
/// The system's.
pub fn sync_data(file: BorrowedFd<'_>) -> io::Result<()> {
    note!(SyncFile { path: of(file)? });
    Ok(rustix::fs::fdatasync(file)?)
}

/// Reserves space for `length` bytes from `at` on, so that the disk need not find space at each write. The file's length does
/// not change. A file system without this operation does nothing.
pub fn reserve(file: &File, at: u64, length: u64) {
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, at, length);
}

/// Makes a directory's entries and attributes survive a power loss.
///
/// # Errors
/// The system's.
pub fn sync_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    note!(SyncDirectory { path: of(directory)? });
    Ok(rustix::fs::fsync(directory)?)
}

/// Makes everything on the file system of `at` survive a power loss.
///
/// # Errors
/// The system's.
pub fn sync_filesystem(at: BorrowedFd<'_>) -> io::Result<()> {
    note!(SyncFilesystem { path: of(at)? });
    Ok(rustix::fs::syncfs(at)?)
}

/// Opens a file for reading. Any other kind of entry (a pipe, a device, a directory) is refused without waiting.
///
/// # Errors
/// The system's, or the entry is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"))
}

/// The bytes of a file, as [`open_regular`] opens it.
///
/// # Errors
/// As [`open_regular`].
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes).map(|_| bytes)
}

/// Replaces the file `name` by one with `bytes` (mode 0600). The new file survives a power loss when this returns; until then
/// the old one does.
///
/// # Errors
/// The system's; the old file is unchanged.
pub fn replace_file(directory: BorrowedFd<'_>, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let temporary = [b".", name, b".new"].concat();
    let written = write_new(directory, &temporary, bytes).and_then(|file| {
        sync_file(file.as_fd())?;
        rename(Name { directory, name: &temporary }, Name { directory, name })?;
        sync_directory(directory)
    });
    if written.is_err() {
        // The temporary file was never seen as `name`, so nothing is lost if it stays.
        let _ = remove(directory, &temporary);
    }
    written
}

/// Writes `bytes` to a new file (mode 0600), which replaces an old one; it is not durable yet.
///
/// # Errors
/// The system's.
pub fn write_new(directory: BorrowedFd<'_>, name: &[u8], bytes: &[u8]) -> io::Result<File> {
    let file = match create(directory, name, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(directory, name)?;
            create(directory, name, 0o600)?
        }
        other => other?,
    };
    write_at(&file, bytes, 0)?;
    Ok(file)
}

/// Removes a file, a link, or a directory with all its content; a missing entry is no error. No mount is crossed.
///
/// # Errors
/// The system's; entries that could not be removed are still there.
pub fn remove_all(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    if remove_leaf(directory, name)? {
        return Ok(());
    }
    clear(open_inside(directory, name)?.as_fd())?;
    remove_directory(directory, name)
}

/// Removes the content of one of this program's own directories. A directory in it is emptied by moving its directories up
/// beside it, so that no depth needs more than two descriptors.
///
/// # Errors
/// As [`remove_all`].
pub fn clear(directory: BorrowedFd<'_>) -> io::Result<()> {
    let mut moved = 0u64;
    loop {
        let mut leaves = true;
        for name in names(directory)? {
            if remove_leaf(directory, &name)? {
                continue;
            }
            leaves = false;
            let below = open_inside(directory, &name)?;
            for child in self::names(below.as_fd())? {
                if !remove_leaf(below.as_fd(), &child)? {
                    match move_up(Name { directory: below.as_fd(), name: &child }, directory, &mut moved) {
                        // An overlay cannot move a directory of a lower layer.
                        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) => {
                            clear(open_inside(below.as_fd(), &child)?.as_fd())?;
                            remove_directory(below.as_fd(), &child)?;
                        }
                        other => other?,
                    }
                }
            }
            remove_directory(directory, &name)?;
        }
        if leaves {
            return Ok(());
        }
    }
}

fn move_up(from: Name<'_>, directory: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let name = format!("moved-{moved}");
        match rename_new(from, Name { directory, name: name.as_bytes() }) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
}

/// Removes an entry that is no directory. Returns false for a directory, which is made accessible instead.
fn remove_leaf(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    match remove(directory, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::ISDIR.raw_os_error()) => {
            let mode = rustix::fs::statat(directory, os(name), AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
            if mode & 0o700 != 0o700 {
                rustix::fs::chmodat(directory, os(name), Mode::RWXU, AtFlags::empty())?;
            }
            Ok(false)
        }
        other => other.map(|()| true),
    }
}

/// Opens the directory `name` of `directory`; no link and no mount is followed.
fn open_inside(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(directory, os(name), flags, Mode::empty(), INSIDE)?)
}

/// The names in a directory, unordered.
///
/// # Errors
/// The system's.
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_bytes().into());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
