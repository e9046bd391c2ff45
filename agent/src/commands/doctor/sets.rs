//! The sets: whether they can be read, staged beside and switched, and which entries are left alone.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use bellwether_daemon::config::SetConfig;
use bellwether_monitor::text::bytes;
use bellwether_proto::record::SetRules;
use bellwether_store::{beneath, secret::SecretPaths};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::Check;

use crate::private;

/// Only Bellwether uses this name. The scan leaves it out, so that a probe inside a set is never published.
const STAGING: &str = ".bellwether";

/// Checks one set; returns the number of its directories, too.
pub(super) fn set(set: &SetConfig, state: &Path) -> (Vec<Check>, u64) {
    let name = format!("set {}", set.name);
    let root = match beneath::Root::open(&set.path) {
        Ok(root) => root,
        Err(error) => return (vec![cannot_open(&name, &set.path, &error)], 0),
    };
    if let Err(error) = root.directory(&bellwether_proto::entry::EntryPath::root()) {
        let todo = "Linux 5.6 or later is needed (openat2), and a container that lets it through";
        return (vec![Check::fail(name, format!("cannot open inside {}: {error}", set.path.display()), todo)], 0);
    }
    let mut seen = SetTotals::default();
    walk(&set.path, set.path.metadata().map_or(0, |metadata| metadata.dev()), &mut seen);
    let mut checks = vec![contents(&name, &set.path, &seen)];
    checks.extend(left_alone(&name, &seen));
    checks.push(staging(&name, &set.path));
    checks.push(space(&name, &set.path, state, seen.taken));
    checks.push(file_system(&name, &set.path));
    (checks, seen.directories)
}

/// The files of a set that belong to one machine, under the rules of the group (none: there is no group yet). The group knows of
/// those that are secret.
pub(super) fn private(set: &SetConfig, rules: Option<&SetRules>, secrets: &SecretPaths) -> Option<Check> {
    let own = SetRules { local: set.local.clone(), ..SetRules::new(set.name.clone()) };
    let line = private::look(&set.path, rules.unwrap_or(&own), secrets).line()?;
    let command = if rules.is_some() { "at the manager: `bellwether group set" } else { "`bellwether init" };
    let todo = format!(
        "exclude the files that are not meant for every server, {command} --exclude {0}=PATTERN`; if the others are meant, say \
             that they are secret, at the manager: `bellwether group set --secret {0}=PATTERN`",
        set.name
    );
    Some(Check::warn(format!("set {}", set.name), line, todo))
}

/// The directory in which a set is edited while this server is the manager, if that is not its path.
pub(super) fn source(set: &SetConfig) -> Option<Check> {
    let (name, path) = (format!("set {}", set.name), set.source.as_deref()?);
    let told = format!("{} is its source: edits are made there while this server is the manager", path.display());
    Some(match beneath::Root::open(path) {
        Ok(_) => Check::ok(name, told),
        Err(error) => cannot_open(&name, path, &error),
    })
}

fn cannot_open(name: &str, path: &Path, error: &io::Error) -> Check {
    let what = |problem: &str| format!("{} {problem}", path.display());
    match error.kind() {
        ErrorKind::NotFound => Check::fail(name, what("is not there"), "make the directory, or correct the path"),
        _ if path.is_symlink() => {
            Check::fail(name, what("is a symbolic link, which is not followed"), "name the directory it leads to")
        }
        ErrorKind::NotADirectory => Check::fail(name, what("is not a directory"), "a set is a directory: correct it"),
        _ => Check::fail(name, what(&format!("cannot be opened: {error}")), "run the agent as a user that may"),
    }
}

/// The findings of a walk through a set.
#[derive(Debug, Default)]
struct SetTotals {
    directories: u64,
    files: u64,
    links: u64,
    bytes: u64,
    /// The bytes on the disk, which are fewer if files have holes.
    taken: u64,
    /// Files with several names, by device and inode: the number of their names, and how many of them are in the set.
    names: BTreeMap<(u64, u64), (u64, u64)>,
    /// Unreadable entries, with reasons.
    unreadable: Vec<String>,
    mounts: Vec<PathBuf>,
    /// Sockets, fifos, devices.
    special: Vec<PathBuf>,
}

fn walk(directory: &Path, device: u64, seen: &mut SetTotals) {
    seen.directories += 1;
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) => return seen.unreadable.push(format!("{}: {e}", directory.display())),
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(STAGING.as_bytes()) {
            continue;
        }
        // An entry that has gone meanwhile is not reported.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let kind = metadata.file_type();
        if metadata.dev() != device {
            seen.mounts.push(path);
        } else if kind.is_dir() {
            walk(&path, device, seen);
        } else if kind.is_symlink() {
            seen.links += 1;
        } else if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            seen.special.push(path);
        } else {
            seen.files += 1;
            seen.bytes += metadata.len();
            seen.taken += metadata.len().min(metadata.blocks() * 512);
            if metadata.nlink() > 1 {
                let (names, here) = seen.names.entry((metadata.dev(), metadata.ino())).or_default();
                *names = metadata.nlink();
                *here += 1;
            }
            if let Err(e) = rustix::fs::access(&path, rustix::fs::Access::READ_OK) {
                seen.unreadable.push(format!("{}: {}", path.display(), io::Error::from(e)));
            }
        }
    }
}

fn contents(name: &str, path: &Path, seen: &SetTotals) -> Check {
    let what = format!(
        "{} holds {} files ({}), {} directories, {} links",
        path.display(),
        seen.files,
        bytes(seen.bytes),
        seen.directories,
        seen.links
    );
    match seen.unreadable.as_slice() {
        [] => Check::ok(name, what),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            let what = format!("cannot be read: {first}{more}");
            Check::fail(name, what, "run the agent as a user that may read all of the set, or exclude them")
        }
    }
}

fn left_alone(name: &str, seen: &SetTotals) -> Vec<Check> {
    let list = |paths: &[PathBuf]| {
        let first: Vec<_> = paths.iter().take(3).map(|path| path.display().to_string()).collect();
        let more = if paths.len() > 3 { format!(" and {} more", paths.len() - 3) } else { String::new() };
        format!("{}{more}", first.join(", "))
    };
    let mut checks = Vec::new();
    if !seen.mounts.is_empty() {
        let what = format!("mounted inside, and not followed: {}", list(&seen.mounts));
        checks.push(Check::warn(name, what, "unmount it, or exclude it, or make it a set of its own"));
    }
    if !seen.special.is_empty() {
        let what = format!("sockets, fifos or devices, which are not carried: {}", list(&seen.special));
        checks.push(Check::warn(name, what, "exclude them to end this warning"));
    }
    let outside = seen.names.values().filter(|(names, here)| names > here).count();
    if outside > 0 {
        let what =
            format!("files with other hard links outside the set: {outside}; an edit through those is seen late");
        checks.push(Check::warn(name, what, "edit them by their names in the set, or make them files of their own"));
    }
    checks
}

/// Tries by renaming where files can be staged: in the set's parent, or in a directory inside the set.
fn staging(name: &str, set: &Path) -> Check {
    let id = std::process::id();
    let inside = set.join(format!("{STAGING}.doctor-{id}"));
    let beside = set.parent().map(|parent| parent.join(format!("{STAGING}.doctor-{id}-beside")));
    let within = match probe(&inside, &inside) {
        Ok(exchange) => exchange,
        Err(error) => {
            let what = format!("{} cannot be written: {error}", set.display());
            return Check::fail(name, what, "a member must be able to: run the agent as root, or as the set's owner");
        }
    };
    let place = match beside.map(|beside| probe(&beside, &inside)) {
        Some(Ok(_)) => "beside the set",
        Some(Err(_)) | None => "inside the set (its parent cannot be written, or it is a mount point)",
    };
    match within {
        true => Check::ok(name, format!("files can be staged {place} and exchanged")),
        false => Check::warn(
            name,
            format!("files can be staged {place}, but the file system exchanges no names"),
            "files are renamed one by one instead; ext4, xfs, btrfs and tmpfs exchange them",
        ),
    }
}

/// Whether a file made in `from` can be renamed into `to`, a directory of the set; returns whether the file system
/// exchanges names. Leaves nothing behind.
fn probe(from: &Path, to: &Path) -> io::Result<bool> {
    let make = |directory: &Path| match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    };
    let tried = make(from).and_then(|()| make(to)).and_then(|()| {
        fs::write(from.join("a"), "a")?;
        fs::rename(from.join("a"), to.join("b"))?;
        fs::write(from.join("a"), "a")?;
        Ok(renameat_with(CWD, from.join("a"), CWD, to.join("b"), RenameFlags::EXCHANGE).is_ok())
    });
    for directory in [from, to] {
        // A directory that was never made need not be removed.
        let _ = fs::remove_dir_all(directory);
    }
    tried
}

/// W4: files are staged and replaced on the set's file system; the history is on that of the state directory.
fn space(name: &str, set: &Path, state: &Path, size: u64) -> Check {
    let existing = state.ancestors().find(|at| at.exists()).unwrap_or(Path::new("/"));
    let free = |path: &Path| rustix::fs::statvfs(path).map(|found| found.f_bavail * found.f_frsize);
    match (free(set), free(existing)) {
        (Ok(here), Ok(there)) => enough_space(name, size, (set, here), (existing, there)),
        (Err(e), _) | (_, Err(e)) => {
            Check::warn(name, format!("free space is not known: {}", io::Error::from(e)), "look at it with `df`")
        }
    }
}

fn enough_space(name: &str, size: u64, set: (&Path, u64), state: (&Path, u64)) -> Check {
    let figures = format!(
        "a whole sync needs {} at {} ({} free) and {} at {} ({} free)",
        bytes(2 * size),
        set.0.display(),
        bytes(set.1),
        bytes(size),
        state.0.display(),
        bytes(state.1)
    );
    if set.1 < 2 * size || state.1 < size {
        return Check::fail(name, figures, "make room, or move state_dir: a sync without it is refused");
    }
    if set.1 / 4 < size || state.1 / 4 < size {
        return Check::warn(name, figures, "make room before the history grows");
    }
    Check::ok(name, figures)
}

fn file_system(name: &str, set: &Path) -> Check {
    let kind = match rustix::fs::statfs(set) {
        // statfs(2): the magic numbers have 32 bits.
        Ok(found) => u32::try_from(found.f_type & 0xffff_ffff).unwrap_or(0),
        Err(e) => {
            let what = format!("the file system is not known: {}", io::Error::from(e));
            return Check::warn(name, what, "look at it with `stat -f`");
        }
    };
    let remote = "changes made on another machine are found by rescanning only; prefer a local directory";
    match kind {
        0xef53 => Check::ok(name, "on ext4 (or ext2, ext3)"),
        0x5846_5342 => Check::ok(name, "on xfs"),
        0x9123_683e => Check::ok(name, "on btrfs"),
        0x2fc1_2fc1 => Check::ok(name, "on zfs"),
        0x0102_1994 => Check::warn(name, "on tmpfs", "it is empty after a restart; a member is synced again then"),
        0x794c_7630 => Check::ok(name, "on overlayfs: names are renamed where they cannot be exchanged"),
        0x6969 => Check::warn(name, "on NFS", remote),
        0xff53_4d42 | 0xfe53_4d42 => Check::warn(name, "on SMB", remote),
        0x6573_5546 => Check::warn(name, "on FUSE", remote),
        other => Check::ok(name, format!("on a file system of type {other:#x}")),
    }
}

#[cfg(test)]
mod tests {
    use bellwether_local::set::SetCommands;

    use super::*;
    use crate::commands::doctor::Level;

    fn config(path: PathBuf) -> SetConfig {
        SetConfig {
            name: "nginx".parse().unwrap(),
            path,
            source: None,
            local: Vec::new(),
            commands: SetCommands::default(),
        }
    }

    #[test]
    fn a_plain_directory_is_well_and_nothing_is_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("nginx");
        fs::create_dir_all(root.join("conf.d")).unwrap();
        fs::write(root.join("nginx.conf"), "x").unwrap();
        let (checks, directories) = set(&config(root.clone()), dir.path());
        assert_eq!(directories, 2);
        assert!(checks.iter().all(|check| check.level != Level::Fail), "{checks:#?}");
        assert!(checks.iter().any(|check| check.what.contains("staged beside the set")), "{checks:#?}");
        let mut left: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["conf.d", "nginx.conf"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_a_set_fails() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        for (name, part) in [("none", "is not there"), ("file", "not a directory"), ("link", "symbolic link")] {
            let (checks, _) = set(&config(dir.path().join(name)), dir.path());
            assert_eq!(checks.len(), 1);
            assert!(checks[0].level == Level::Fail && checks[0].what.contains(part), "{checks:?}");
        }
    }

    #[test]
    fn what_is_not_carried_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("app.sock")).unwrap();
        let (checks, _) = set(&config(dir.path().to_owned()), dir.path());
        assert!(checks.iter().any(|c| c.level == Level::Warn && c.what.contains("app.sock")), "{checks:#?}");
    }

    #[test]
    fn hard_links_to_places_outside_are_said() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("set");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a"), "x").unwrap();
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        let said = || {
            let (checks, _) = set(&config(root.clone()), dir.path());
            checks.iter().any(|c| c.level == Level::Warn && c.what.contains("outside the set: 1;"))
        };
        assert!(!said(), "all names are in the set");
        fs::hard_link(root.join("a"), dir.path().join("outside")).unwrap();
        assert!(said());
    }

    #[test]
    fn a_key_in_a_set_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("site.key"), "-----BEGIN PRIVATE KEY-----").unwrap();
        let set = config(dir.path().to_owned());
        let check = private(&set, None, &SecretPaths::default()).expect("a warning");
        assert!(check.level == Level::Warn && check.what.contains("site.key (a private key)"), "{check:?}");
        let excluded = SetRules { exclude: vec!["*.key".to_owned()], ..SetRules::new(set.name.clone()) };
        assert_eq!(private(&set, Some(&excluded), &SecretPaths::default()), None);
    }

    #[test]
    fn space_is_counted_on_both_file_systems() {
        let level = |set, state| enough_space("s", 100, (Path::new("/a"), set), (Path::new("/b"), state)).level;
        assert_eq!(level(1_000, 1_000), Level::Ok);
        assert_eq!(level(199, 1_000), Level::Fail);
        assert_eq!(level(1_000, 99), Level::Fail);
        assert_eq!(level(300, 1_000), Level::Warn);
    }
}
