//! Compares two trees byte for byte, with no code of the sync.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The counts of the comparison, and the differences.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Regular files that were read on both sides.
    pub(super) files: u64,
    /// Entries in all.
    pub(super) entries: u64,
    /// Bytes read on each side.
    pub(super) bytes: u64,
    /// `PATH: difference`.
    pub(super) differences: Vec<String>,
}

/// Compares names, kinds, modes, owners, contents, links, and the times of files in whole seconds.
///
/// # Errors
/// A file or directory cannot be read.
pub(super) fn compare(left: &Path, right: &Path) -> io::Result<Comparison> {
    let mut comparison = Comparison::default();
    entry(left, right, Path::new("."), &mut comparison)?;
    Ok(comparison)
}

fn entry(left: &Path, right: &Path, name: &Path, comparison: &mut Comparison) -> io::Result<()> {
    let (one, other) = (left.symlink_metadata()?, right.symlink_metadata()?);
    comparison.entries += 1;
    let mut differs = |what: String| comparison.differences.push(format!("{}: {what}", name.display()));
    if one.mode() != other.mode() {
        differs(format!("mode {:o} and {:o}", one.mode(), other.mode()));
    }
    if (one.uid(), one.gid()) != (other.uid(), other.gid()) {
        differs(format!("owner {}:{} and {}:{}", one.uid(), one.gid(), other.uid(), other.gid()));
    }
    if one.file_type() != other.file_type() {
        return Ok(());
    }
    if one.is_dir() {
        return directory(left, right, name, comparison);
    }
    if one.is_symlink() {
        let (here, there) = (fs::read_link(left)?, fs::read_link(right)?);
        if here != there {
            differs(format!("links to {} and {}", here.display(), there.display()));
        }
        return Ok(());
    }
    file((left, &one), (right, &other), name, comparison)
}

fn directory(left: &Path, right: &Path, name: &Path, comparison: &mut Comparison) -> io::Result<()> {
    let (here, there) = (names(left)?, names(right)?);
    for only in here.symmetric_difference(&there) {
        let side = if here.contains(only) { left } else { right };
        comparison.differences.push(format!("{}: only in {}", name.join(only).display(), side.display()));
    }
    for both in here.intersection(&there) {
        entry(&left.join(both), &right.join(both), &name.join(both), comparison)?;
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<BTreeSet<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn file(
    left: (&Path, &Metadata),
    right: (&Path, &Metadata),
    name: &Path,
    comparison: &mut Comparison,
) -> io::Result<()> {
    comparison.files += 1;
    comparison.bytes += left.1.len();
    if left.1.mtime() != right.1.mtime() {
        let what = format!("{}: changed at {} and {}", name.display(), left.1.mtime(), right.1.mtime());
        comparison.differences.push(what);
    }
    if left.1.len() != right.1.len() || !same_bytes(left.0, right.0)? {
        comparison.differences.push(format!("{}: the contents differ", name.display()));
    }
    Ok(())
}

fn same_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    let [mut here, mut there] = [BufReader::new(File::open(left)?), BufReader::new(File::open(right)?)];
    let (mut one, mut other) = (Vec::new(), Vec::new());
    loop {
        const STEP: u64 = 1 << 16;
        one.clear();
        other.clear();
        (&mut here).take(STEP).read_to_end(&mut one)?;
        (&mut there).take(STEP).read_to_end(&mut other)?;
        if one != other {
            return Ok(false);
        }
        if one.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn every_kind_of_difference_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let [left, right] = ["l", "r"].map(|name| dir.path().join(name));
        for (root, text, target, mode) in [(&left, "same size", "a", 0o644), (&right, "SAME SIZE", "b", 0o600)] {
            fs::create_dir_all(root.join("d")).unwrap();
            fs::write(root.join("d/contents"), text).unwrap();
            symlink(target, root.join("link")).unwrap();
            fs::write(root.join("mode"), "").unwrap();
            fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(mode)).unwrap();
            let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mode.into());
            File::options().write(true).open(root.join("d/contents")).unwrap().set_modified(old).unwrap();
        }
        fs::write(left.join("only"), "").unwrap();
        fs::write(right.join("d/also"), "").unwrap();
        let found = compare(&left, &right).unwrap().differences.join("\n");
        for part in [
            "d/contents: the contents",
            "d/contents: changed at",
            "link: links",
            "mode: mode",
            "only: only in",
            "d/also: only in",
        ] {
            assert!(found.contains(part), "{part} in {found}");
        }
        assert_eq!(found.lines().count(), 6, "{found}");
        assert_eq!(compare(&left, &left).unwrap().differences, [""; 0]);
    }
}
