//! Erases chunks from the kept copies: a file that holds one of them is deleted. A kept history is a directory of packs, whose
//! files are searched like those of the history itself.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use bellwether_proto::{entry::Content, hash::Hash};
use rustix::fs::{Mode, OFlags, openat};

use crate::{
    apply::Manifest,
    beneath::{open_root, os},
    durable, history,
    scan::content,
};

/// The result.
#[derive(Debug, Default)]
pub struct Erased {
    /// The deleted files.
    pub deleted: Vec<PathBuf>,
    /// Files that could not be searched, with the reason. They are still there.
    pub unsearched: Vec<String>,
}

/// Deletes, durably, the files below `recovery` that hold one of the chunks, and takes them out of their manifests. Safe to
/// repeat.
///
/// # Errors
/// The system's; what was deleted stays deleted.
pub fn erase(recovery: &Path, chunks: &HashSet<Hash>) -> io::Result<Erased> {
    let mut erased = Erased::default();
    let points = match fs::read_dir(recovery) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(erased),
        points => points?,
    };
    for point in points {
        let point = point?;
        if point.file_type()?.is_dir() {
            let before = erased.deleted.len();
            directory(&point.path(), chunks, &mut erased)?;
            if erased.deleted.len() > before {
                forget(&point.path(), &erased.deleted[before..])?;
            }
        }
    }
    Ok(erased)
}

fn directory(path: &Path, chunks: &HashSet<Hash>, erased: &mut Erased) -> io::Result<()> {
    let held = open_root(path)?;
    for name in durable::names(held.as_fd())? {
        let below = path.join(os(&name));
        let kind = fs::symlink_metadata(&below)?.file_type();
        if kind.is_dir() {
            directory(&below, chunks, erased)?;
        } else if kind.is_file() {
            match holds(held.as_fd(), &name, &below, chunks) {
                Ok(true) => {
                    durable::remove(held.as_fd(), &name)?;
                    durable::sync_directory(held.as_fd())?;
                    erased.deleted.push(below);
                }
                Ok(false) => {}
                Err(error) => erased.unsearched.push(format!("{}: {error}", below.display())),
            }
        }
    }
    Ok(())
}

/// Whether a file holds one of the chunks.
fn holds(held: impl AsFd, name: &[u8], path: &Path, chunks: &HashSet<Hash>) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(held, os(name), flags, Mode::empty())?);
    let size = file.metadata()?.len();
    let content: Content = content::cut(&file, size)?;
    if content.chunks().iter().any(|chunk| chunks.contains(&chunk.hash)) {
        return Ok(true);
    }
    let mut magic = [0; 3];
    let is_packs = file.read_exact_at(&mut magic, 0).is_ok() && matches!(&magic, b"BWF" | b"BWL");
    if !is_packs || path.parent().and_then(Path::file_name).is_none_or(|within| within != "history") {
        return Ok(false);
    }
    // An interrupted pack cannot be searched, and is of no use in a kept history.
    let is_part = path.extension().is_some_and(|extension| extension == "part");
    Ok(is_part || history::file_holds(path, chunks).map_err(io::Error::other)?)
}

/// Takes deleted files out of the manifest of their kept copy.
fn forget(point: &Path, deleted: &[PathBuf]) -> io::Result<()> {
    let held = open_root(point)?;
    let bytes = match durable::read_regular(&point.join(Manifest::NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        bytes => bytes?,
    };
    let Ok(mut manifest) = Manifest::read(&bytes) else { return Ok(()) };
    let is_gone = |kept: &str| deleted.iter().any(|path| point.join(kept) == *path);
    manifest.entries.retain(|entry| !is_gone(&entry.kept));
    durable::replace_file(held.as_fd(), Manifest::NAME.as_bytes(), &serde_json::to_vec_pretty(&manifest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bytes: &[u8]) -> HashSet<Hash> {
        HashSet::from([Hash::of(bytes)])
    }

    #[test]
    fn files_with_the_chunk_are_deleted_and_leave_the_manifest() {
        let recovery = tempfile::tempdir().unwrap();
        let point = recovery.path().join("20261121T213000Z-1.5");
        fs::create_dir_all(point.join("web/d")).unwrap();
        fs::write(point.join("web/d/a.key"), "a secret").unwrap();
        fs::write(point.join("web/b.conf"), "no secret").unwrap();
        let entry = |path: &str| serde_json::json!({ "from": format!("/etc/{path}"), "kept": format!("web/{path}") });
        let manifest = serde_json::json!({
            "format": 1, "when": "20261121T213000Z", "why": "replaced", "revision": "x", "label": "1.5",
            "entries": [entry("d/a.key"), entry("b.conf")],
        });
        fs::write(point.join("manifest.json"), manifest.to_string()).unwrap();
        for _ in 0..2 {
            let erased = erase(recovery.path(), &chunk(b"a secret")).unwrap();
            assert!(erased.unsearched.is_empty());
            assert!(!point.join("web/d/a.key").exists());
            let read = Manifest::read(&fs::read(point.join("manifest.json")).unwrap()).unwrap();
            let kept: Vec<_> = read.entries.iter().map(|entry| entry.kept.as_str()).collect();
            assert_eq!(kept, ["web/b.conf"]);
            assert!(point.join("web/b.conf").exists());
        }
        assert!(erase(&recovery.path().join("none"), &chunk(b"x")).unwrap().deleted.is_empty());
    }

    #[test]
    fn a_large_file_is_found_by_any_of_its_chunks() {
        let recovery = tempfile::tempdir().unwrap();
        let point = recovery.path().join("point");
        fs::create_dir_all(&point).unwrap();
        let bytes: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        fs::write(point.join("large"), &bytes).unwrap();
        let cut = content::cut(bytes.as_slice(), bytes.len() as u64).unwrap();
        let third = HashSet::from([cut.chunks()[2].hash]);
        assert_eq!(erase(recovery.path(), &third).unwrap().deleted, [point.join("large")]);
    }
}
