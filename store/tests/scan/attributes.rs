//! Owners and extended attributes, from one file to another by way of a scan.

use std::{
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    sync::Arc,
};

use bellwether_proto::{entry::Meta, limits};
use bellwether_skip::skip;
use bellwether_store::{
    attributes::{Accounts, copy_label, put_on_directory, put_on_file, put_on_link},
    scan::Look,
};
use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr_query, setxattr},
    io::Errno,
};

use super::{Set, as_nobody, get, is_root, notices};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The value of an ACL that gives user 7 `rwx` within a mask of `rx`: version 2, then tag, permissions, id of each.
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] = [(1, 6, none), (2, 7, 7), (4, 4, none), (16, 5, none), (32, 0, none)];
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// Whether the file system of the tests has this kind of attribute.
fn set_or_skip(test: &str, path: &Path, name: &str, value: &[u8]) -> bool {
    match setxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(error @ (Errno::OPNOTSUPP | Errno::PERM | Errno::NOSPC)) => {
            skip(test, format!("{name}: {error}"));
            false
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

fn names(meta: &Meta) -> Vec<String> {
    meta.xattrs.iter().flat_map(|list| list.iter()).map(|(name, _)| name.escape_ascii().to_string()).collect()
}

fn ids(meta: &Meta) -> (u32, u32) {
    Accounts::new().ids(&meta.owner).unwrap()
}

#[test]
fn attributes_and_acls_travel() {
    let set = Set::new();
    let (from, to) = (set.write("from", "x"), set.write("to", "x"));
    let (from_dir, to_dir) = (set.mkdir("from.d"), set.mkdir("to.d"));
    let test = "attributes_and_acls_travel";
    for (path, name, value) in [
        (&from, "user.b", &b"second"[..]),
        (&from, "user.a", &b""[..]),
        (&from, ACCESS, &acl()),
        (&to, "user.old", &b"goes"[..]),
        (&from_dir, DEFAULT, &acl()),
        (&from_dir, "user.d", &b"\0\xff"[..]),
        (&to_dir, DEFAULT, &acl()),
    ] {
        if !set_or_skip(test, path, name, value) {
            return;
        }
    }
    // Its owner may not even write its attributes.
    fs::set_permissions(&to, fs::Permissions::from_mode(0o444)).unwrap();
    let before = set.fresh().tree;
    let (file, directory) = (get(&before, "from").meta().clone(), get(&before, "from.d").meta().clone());
    assert_eq!(names(&file), [ACCESS, "user.a", "user.b"]);
    assert_eq!(file.mode & 0o070, 0o050, "the mask shows as the group's bits");
    assert_eq!(names(&directory), [DEFAULT, "user.d"]);
    put_on_file(File::open(&to).unwrap().as_fd(), &file, ids(&file)).unwrap();
    put_on_directory(File::open(&to_dir).unwrap().as_fd(), &directory, ids(&directory)).unwrap();
    let after = set.scan(&before, &Look::Stats).tree;
    assert_eq!(*get(&after, "to").meta(), file);
    assert_eq!(*get(&after, "to.d").meta(), directory);
    let plain = Meta { xattrs: None, mode: 0o750, ..directory };
    put_on_directory(File::open(&to_dir).unwrap().as_fd(), &plain, ids(&plain)).unwrap();
    assert_eq!(*get(&set.scan(&after, &Look::Stats).tree, "to.d").meta(), plain, "directories are listed each time");
}

#[test]
fn too_many_attributes_are_left_out_and_said() {
    let set = Set::new();
    let path = set.write("file", "x");
    for number in 0..=limits::XATTRS.0 {
        if !set_or_skip("too_many_attributes", &path, &format!("user.{number:02}"), b"") {
            return;
        }
    }
    let mut tree = set.empty();
    for _ in 0..2 {
        let scanned = set.scan(&tree, &Look::Stats);
        assert_eq!(names(get(&scanned.tree, "file").meta()).len(), limits::XATTRS.0);
        assert!(notices(&scanned)["file"].starts_with("1 extended attributes"), "{:?}", scanned.notices);
        tree = scanned.tree;
    }
}

#[test]
fn capabilities_travel_only_when_allowed() {
    let mut set = Set::new();
    let path = set.write("tool", "x");
    // Version 2, effective, CAP_NET_BIND_SERVICE.
    let value: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    if !set_or_skip("capabilities_travel_only_when_allowed", &path, "security.capability", &value) {
        return;
    }
    let refused = set.settled();
    assert_eq!(get(&refused, "tool").meta().xattrs, None);
    set.rules.allow_capabilities = true;
    let allowed = set.scan(&refused, &Look::Stats).tree;
    let meta = get(&allowed, "tool").meta().clone();
    assert_eq!(names(&meta), ["security.capability"]);
    put_on_file(File::open(set.write("copy", "x")).unwrap().as_fd(), &meta, (1, 1)).unwrap();
    let copied = get(&set.scan(&allowed, &Look::Stats).tree, "copy").meta().clone();
    assert_eq!(copied.xattrs, meta.xattrs, "a change of owner does not clear it");
}

#[test]
fn mode_and_time_are_put_whatever_the_owner_clears() {
    let set = Set::with(|rules| rules.allow_setuid = true);
    let path = set.write("tool", "x");
    let before = get(&set.fresh().tree, "tool").meta().clone();
    let owner = if is_root() { (12_345, 54_321) } else { ids(&before) };
    let meta = Meta { mode: 0o6711, mtime: 1_000_000_000, ..before };
    put_on_file(File::open(&path).unwrap().as_fd(), &meta, owner).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.mode() & 0o7777, found.mtime(), found.mtime_nsec()), (0o6711, 1_000_000_000, 0));
    assert_eq!((found.uid(), found.gid()), owner);
    let scanned = get(&set.fresh().tree, "tool").meta().clone();
    assert_eq!((scanned.mode, scanned.mtime), (0o6711, 1_000_000_000));
}

#[test]
fn a_link_gets_its_owner_and_time_and_is_not_followed() {
    let set = Set::new();
    let target = set.write("target", "x");
    symlink("target", set.path("link")).unwrap();
    let before = fs::metadata(&target).unwrap();
    let meta = Meta { mtime: 1_000_000_001, ..get(&set.fresh().tree, "link").meta().clone() };
    let owner = if is_root() { (12_345, 54_321) } else { ids(&meta) };
    let directory = File::open(set.path("")).unwrap();
    put_on_link(directory.as_fd(), b"link", &meta, owner).unwrap();
    let link = fs::symlink_metadata(set.path("link")).unwrap();
    assert_eq!((link.uid(), link.gid(), link.mtime()), (owner.0, owner.1, 1_000_000_001));
    let after = fs::metadata(&target).unwrap();
    assert_eq!((after.uid(), after.mtime()), (before.uid(), before.mtime()));
    let impossible = Meta { xattrs: Some(Box::new([(b"user.x"[..].into(), b""[..].into())].into())), ..meta };
    assert!(put_on_link(directory.as_fd(), b"link", &impossible, owner).is_err());
}

#[test]
fn only_root_gives_files_away() {
    let set = Set::new();
    let path = set.write("file", "x");
    let meta = get(&set.fresh().tree, "file").meta().clone();
    if is_root() {
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
    }
    let file = File::open(&path).unwrap();
    let refused = as_nobody(|| put_on_file(file.as_fd(), &meta, (0, 0))).unwrap_err();
    assert!(refused.to_string().contains("not permitted"), "{refused}");
}

#[test]
fn a_number_without_a_name_is_carried_as_a_number() {
    if !is_root() {
        return skip("a_number_without_a_name_is_carried_as_a_number", "only root gives files away");
    }
    let set = Set::new();
    std::os::unix::fs::chown(set.write("file", "x"), Some(3_999_999_001), Some(0)).unwrap();
    let owner = Arc::clone(&get(&set.fresh().tree, "file").meta().owner);
    assert_eq!((&*owner.user, &*owner.group), ("3999999001", "root"));
}

#[test]
fn the_label_is_copied_where_there_is_one() {
    let set = Set::new();
    let (from, to) = (set.write("from", "x"), set.write("to", "x"));
    let label = "security.selinux";
    let labelled = set_or_skip("the_label_is_copied (the copy itself)", &from, label, b"system_u:object_r:etc_t:s0\0");
    let (from, to) = (File::open(from).unwrap(), File::open(to).unwrap());
    let before = flistxattr_query(&to).unwrap_or(0);
    copy_label(&from, &to).unwrap();
    let mut value = [0; 64];
    if labelled {
        let length = fgetxattr(&to, label, &mut value).unwrap();
        assert!(value[..length].starts_with(b"system_u:object_r:etc_t:s0"));
    } else {
        assert_eq!(flistxattr_query(&to).unwrap_or(0), before);
    }
}
