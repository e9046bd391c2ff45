//! The table of mounts (proc_pid_mountinfo(5)), and the names of block devices.

use std::{
    ffi::OsString,
    io,
    os::unix::{ffi::OsStringExt, fs::MetadataExt},
    path::PathBuf,
};

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The part of the file system that is mounted.
    pub(super) root: PathBuf,
    /// Its path.
    pub(crate) at: PathBuf,
    /// The file system's type.
    pub(super) kind: String,
    /// The mounted source: a device, a server's export, a word.
    pub(super) source: String,
}

/// Every mount of this process, with its number.
pub(crate) fn all() -> io::Result<Vec<(u64, Mount)>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(read).collect())
}

/// The mount of that number; none if this process's table lacks it.
pub(super) fn find(number: u64) -> io::Result<Option<Mount>> {
    Ok(all()?.into_iter().find(|(of, _)| *of == number).map(|(_, mount)| mount))
}

fn read(line: &[u8]) -> Option<(u64, Mount)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let root = path(fields.nth(2)?);
    let at = path(fields.next()?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = path(rest.next()?).to_string_lossy().into_owned();
    Some((number, Mount { root, at, kind, source }))
}

/// Decodes an escaped field (`\040`).
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The UUID of the file system on a block device, as the system names it.
pub(super) fn uuid((major, minor): (u32, u32)) -> Option<String> {
    let wanted = rustix::fs::makedev(major, minor);
    let is = |entry: &std::fs::DirEntry| std::fs::metadata(entry.path()).is_ok_and(|device| device.rdev() == wanted);
    let entry = std::fs::read_dir("/dev/disk/by-uuid").ok()?.flatten().find(is)?;
    Some(entry.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line = br"36 35 98:0 /mnt1 /with\040space rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue";
        let mount = |root: &str, at: &str| Mount {
            root: root.into(),
            at: at.into(),
            kind: "ext3".into(),
            source: "/dev/root".into(),
        };
        assert_eq!(read(line), Some((36, mount("/mnt1", "/with space"))));
        assert_eq!(read(b"36 35 98:0 / / rw - ext3 /dev/root rw"), Some((36, mount("/", "/"))));
        for line in [&b""[..], b"x", b"36 35 98:0 / / rw", b"36 35"] {
            assert_eq!(read(line), None);
        }
    }

    #[test]
    fn the_root_of_this_process_is_in_its_table() {
        let (number, mount) = all().unwrap().swap_remove(0);
        assert_eq!(find(number).unwrap(), Some(mount));
        assert_eq!(find(u64::MAX).unwrap(), None);
    }
}
