//! The kept copies on this server, from their manifests.

use std::{fs::File, io::Read, path::Path};

use bellwether_proto::{Malformed, v1::RecoveryPoint};
use bellwether_store::apply::Manifest;

/// The most points that an answer names.
const NAMED: usize = 10;
/// The most entries of each point that an answer names.
const ENTRIES: usize = 5;
/// The most bytes of a manifest.
const MANIFEST: u64 = 16 << 20;

/// The newest kept copies below `recovery`, newest first, and the number of all. An unreadable one has no entries: its
/// reason says why.
pub(super) fn newest(recovery: &Path) -> (Vec<RecoveryPoint>, u64) {
    let directories = std::fs::read_dir(recovery).into_iter().flatten().flatten();
    let mut paths: Vec<_> = directories.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    // Their names begin with the time.
    paths.sort_by(|a, b| b.cmp(a));
    (paths.iter().take(NAMED).map(|path| point(path)).collect(), paths.len() as u64)
}

fn point(path: &Path) -> RecoveryPoint {
    let shown = path.display().to_string();
    match read(&path.join(Manifest::NAME)) {
        Ok(Manifest { when, why, entries, .. }) => {
            let count = entries.len() as u64;
            let first = entries.into_iter().take(ENTRIES).map(|entry| entry.from).collect();
            RecoveryPoint { path: shown, when, why, entries: count, first }
        }
        Err(unread) => RecoveryPoint { path: shown, why: unread.to_string(), ..RecoveryPoint::default() },
    }
}

fn read(path: &Path) -> Result<Manifest, Malformed> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MANIFEST).read_to_end(&mut bytes));
    read.map_err(|error| Malformed::new(format!("its manifest cannot be read: {error}")))?;
    Manifest::read(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_an_unreadable_one_is_named_with_the_reason() {
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
        made("20261123T000000Z-1.4", r#"{"format":99,"another":"form"}"#);
        let (points, total) = newest(directory.path());
        assert_eq!((points.len(), total), (3, 3));
        assert!(points[0].why.contains("made by a newer bellwether"), "{}", points[0].why);
        assert!(points[1].path.ends_with("Z-1.3") && points[1].why.contains("not the manifest of a kept copy"));
        assert_eq!((points[2].entries, points[2].first.as_slice()), (1, &["/etc/a".to_owned()][..]));
    }
}
