//! The kept copies on this server, from their manifests.

use std::{fs::File, io::Read, path::Path};

use bellwether_proto::v1::RecoveryPoint;
use serde::Deserialize;

/// The most points that an answer names.
const NAMED: usize = 10;
/// The most entries of each point that an answer names.
const ENTRIES: usize = 5;
/// The most bytes of a manifest.
const MANIFEST: u64 = 16 << 20;

#[derive(Deserialize)]
struct Manifest {
    when: String,
    why: String,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    from: String,
}

/// The newest kept copies below `recovery`, newest first, and the number of all. An unreadable one has only a path.
pub(super) fn newest(recovery: &Path) -> (Vec<RecoveryPoint>, u64) {
    let directories = std::fs::read_dir(recovery).into_iter().flatten().flatten();
    let mut paths: Vec<_> = directories.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    // Their names begin with the time.
    paths.sort_by(|a, b| b.cmp(a));
    (paths.iter().take(NAMED).map(|path| point(path)).collect(), paths.len() as u64)
}

fn point(path: &Path) -> RecoveryPoint {
    let shown = path.display().to_string();
    let Some(manifest) = read(&path.join("manifest.json")) else {
        return RecoveryPoint { path: shown, ..RecoveryPoint::default() };
    };
    let Manifest { when, why, entries } = manifest;
    let count = entries.len() as u64;
    let first = entries.into_iter().take(ENTRIES).map(|entry| entry.from).collect();
    RecoveryPoint { path: shown, when, why, entries: count, first }
}

fn read(path: &Path) -> Option<Manifest> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MANIFEST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_a_damaged_one_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(newest(&directory.path().join("none")), (Vec::new(), 0));
        let made = |name: &str, manifest: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path).expect("made");
            std::fs::write(path.join("manifest.json"), manifest).expect("written");
        };
        let manifest = r#"{"format":1,"when":"20261121T213000Z","why":"w","revision":"r","label":"1.2",
            "entries":[{"from":"/etc/a","kept":"web/a"}]}"#;
        made("20261121T213000Z-1.2", manifest);
        made("20261122T000000Z-1.3", "not JSON");
        let (points, total) = newest(directory.path());
        assert_eq!((points.len(), total), (2, 2));
        assert!(points[0].path.ends_with("Z-1.3") && points[0].when.is_empty());
        assert_eq!((points[1].entries, points[1].first.as_slice()), (1, &["/etc/a".to_owned()][..]));
    }
}
