//! Realistic trees of configuration, from a seed: nginx blocks, JSON profiles, maps, certificates.

mod certificate;
mod edit;
mod map;
mod nginx;
mod profile;
mod spec;
mod words;

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use bellwether_random::Rng;

pub(crate) use self::{
    edit::{change_line, insert_line},
    spec::{Shape, Spec},
};

/// The number of files in a directory.
const IN_DIRECTORY: usize = 100;
/// The last change of the oldest file: 2024-01-01.
const OLDEST: u64 = 1_704_067_200;

/// A tree on disk, which is copied for every measurement.
#[derive(Debug)]
pub(crate) struct Template {
    /// Its path.
    pub(crate) directory: PathBuf,
    /// The files, with paths relative to it.
    pub(crate) files: Vec<PathBuf>,
    /// Files, directories and links.
    pub(crate) entries: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
}

/// Writes the tree of `spec` into `directory`, which it makes.
///
/// # Errors
/// The system's.
pub(crate) fn generate(spec: Spec, seed: u64, directory: &Path) -> io::Result<Template> {
    let mut template = Template { directory: directory.to_owned(), files: Vec::new(), entries: 0, bytes: 0 };
    fs::create_dir_all(directory)?;
    let mut text = String::new();
    for index in 0..spec.files {
        let mut rng = Rng::nth(seed, index);
        let kind = Kind::of(&spec, index);
        let path = kind.path(index);
        template.entries += made(&directory.join(path.parent().unwrap_or(Path::new(""))))?;
        text.clear();
        let size = spec.size(index, &mut rng);
        kind.fill(&mut rng, size, &mut text);
        if spec.shape == Shape::Tiny {
            cut(&mut text, spec.mean as usize);
        }
        write(&directory.join(&path), &text, kind.mode(), OLDEST + rng.below(60_000_000))?;
        template.bytes += text.len() as u64;
        template.entries += 1;
        template.files.push(path);
    }
    template.entries += enable(&template)?;
    Ok(template)
}

/// Makes a directory and its missing parents, and returns their number.
fn made(directory: &Path) -> io::Result<u64> {
    if directory.is_dir() {
        return Ok(0);
    }
    let above = directory.parent().map_or(Ok(0), made)?;
    fs::create_dir(directory).map(|()| above + 1)
}

/// Cuts a text to that number of bytes, with a newline at its end. The texts are ASCII.
fn cut(text: &mut String, bytes: usize) {
    text.truncate(bytes - 1);
    text.push('\n');
}

fn write(path: &Path, text: &str, mode: u32, modified_s: u64) -> io::Result<()> {
    let modified = UNIX_EPOCH + Duration::from_secs(modified_s);
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    File::options().write(true).open(path)?.set_modified(modified)
}

/// Links every twentieth site like Debian's sites-enabled, and returns the number of new entries.
fn enable(template: &Template) -> io::Result<u64> {
    let sites: Vec<_> = template.files.iter().filter(|path| path.starts_with("sites")).step_by(20).collect();
    if sites.is_empty() {
        return Ok(0);
    }
    let enabled = template.directory.join("sites-enabled");
    fs::create_dir(&enabled)?;
    for site in &sites {
        let name = site.file_name().unwrap_or_default();
        symlink(Path::new("..").join(site), enabled.join(name))?;
    }
    Ok(1 + sites.len() as u64)
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Site,
    Profile,
    Map,
    Certificate,
}

impl Kind {
    /// The kind of a tree's `index`th file: of twenty, eight sites, six profiles, three maps, three certificates.
    fn of(spec: &Spec, index: usize) -> Self {
        match spec.shape {
            _ if index == 0 && spec.first.is_some() => Self::Map,
            Shape::Large => [Self::Map, Self::Profile][index % 2],
            Shape::Mixed | Shape::Tiny => match index % 20 {
                0 | 4 | 5 | 8 | 9 | 12 | 13 | 16 => Self::Site,
                1 | 6 | 10 | 14 | 17 | 18 => Self::Profile,
                2 | 7 | 11 => Self::Map,
                _ => Self::Certificate,
            },
        }
    }

    fn path(self, index: usize) -> PathBuf {
        let directory = index / IN_DIRECTORY;
        let (place, extension) = match self {
            Self::Site => ("sites", "conf"),
            Self::Profile => ("profiles", "json"),
            Self::Map => ("maps", "map"),
            Self::Certificate => ("tls", "pem"),
        };
        format!("{place}/{:02}/{:03}/{place}-{index:06}.{extension}", directory / 100, directory % 100).into()
    }

    fn mode(self) -> u32 {
        if self == Self::Certificate { 0o600 } else { 0o644 }
    }

    /// Writes about `size` bytes.
    fn fill(self, rng: &mut Rng, size: u64, text: &mut String) {
        let size = size as usize;
        match self {
            Self::Site => nginx::fill(rng, size, text),
            Self::Profile => profile::fill(rng, size, text),
            Self::Map => map::fill(rng, size, text),
            Self::Certificate => certificate::fill(rng, size, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generated(spec: Spec, seed: u64) -> (tempfile::TempDir, Template) {
        let dir = tempfile::tempdir().expect("a directory");
        let template = generate(spec, seed, &dir.path().join("tree")).expect("a tree");
        (dir, template)
    }

    fn all(template: &Template) -> Vec<Vec<u8>> {
        template.files.iter().map(|path| fs::read(template.directory.join(path)).expect("a file")).collect()
    }

    #[test]
    fn a_seed_gives_the_same_tree_again() {
        let spec = Spec { name: "t", shape: Shape::Mixed, files: 120, mean: 5_000, first: None };
        let (_first, first) = generated(spec, 1);
        let (_again, again) = generated(spec, 1);
        let (_other, other) = generated(spec, 2);
        assert_eq!((first.files.len(), first.bytes, first.entries), (120, again.bytes, again.entries));
        assert_eq!(all(&first), all(&again));
        assert_ne!(all(&first), all(&other));
    }

    #[test]
    fn sizes_are_about_what_was_asked_for() {
        let (_dir, mixed) =
            generated(Spec { name: "t", shape: Shape::Mixed, files: 400, mean: 10_000, first: None }, 3);
        assert!((3_600_000..4_800_000).contains(&mixed.bytes), "{}", mixed.bytes);
        let (_dir, tiny) = generated(Spec { name: "t", shape: Shape::Tiny, files: 40, mean: 1_024, first: None }, 3);
        assert!(all(&tiny).iter().all(|content| content.len() == 1_024));
        let (_dir, large) = generated(Spec { name: "t", shape: Shape::Large, files: 2, mean: 100_000, first: None }, 3);
        assert!(all(&large).iter().all(|content| (100_000..102_000).contains(&content.len())));
    }

    #[test]
    fn entries_are_counted() {
        let (_dir, template) =
            generated(Spec { name: "t", shape: Shape::Mixed, files: 130, mean: 2_000, first: Some(90_000) }, 3);
        fn count(directory: &Path) -> u64 {
            let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry"));
            entries
                .map(|entry| {
                    1 + if entry.path().is_symlink() || entry.path().is_file() { 0 } else { count(&entry.path()) }
                })
                .sum()
        }
        assert_eq!(template.entries, count(&template.directory));
    }
}
