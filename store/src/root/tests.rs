use std::os::fd::AsFd;

use super::*;

fn known(kind: &str, identity: Option<Identity>, inside: &str, device: u32) -> Known {
    let lasting = Lasting { path: "/etc/web".into(), kind: kind.into(), identity, inside: Some(PathBuf::from(inside)) };
    Known { lasting, passing: Some(Passing { device: (8, device), mount: Some(u64::from(device)), number: 0 }) }
}

fn number(number: u64) -> Option<Identity> {
    Some(Identity::Number(number))
}

fn of_another_run(known: Known) -> Known {
    Known { passing: None, ..known }
}

#[test]
fn another_file_system_is_another_place() {
    let was = known("ext4", number(1), "/web", 1);
    assert_eq!(was.differs(&known("ext4", number(1), "/web", 1)), None);
    assert!(was.differs(&known("xfs", None, "/web", 1)).unwrap().contains("type ext4, and is on one of type xfs"));
    assert!(was.differs(&known("ext4", number(2), "/web", 1)).is_some());
    assert!(of_another_run(was).differs(&known("ext4", number(2), "/web", 1)).is_some());
}

#[test]
fn another_part_of_the_file_system_is_another_place_unless_a_link_leads_there() {
    let was = known("ext4", number(1), "/data/web", 1);
    let unmounted = known("ext4", number(1), "/etc/web", 1);
    assert!(was.differs(&unmounted).unwrap().contains("/data/web of its file system, and is /etc/web"));
    assert!(of_another_run(was.clone()).differs(&unmounted).is_some());
    let mut linked = unmounted;
    linked.lasting.path = "/srv/releases/2/web".into();
    assert_eq!(was.differs(&linked), None, "a link above was set anew");
}

#[test]
fn what_was_mounted_again_is_the_same_place() {
    let was = known("ext4", number(1), "/", 1);
    assert_eq!(was.differs(&known("ext4", number(1), "/", 2)), None);
    let source = |text: &str| Some(Identity::Source(text.to_owned()));
    let was = known("nfs4", source("filer:/web"), "/", 1);
    assert_eq!(was.differs(&known("nfs4", source("filer:/web"), "/", 2)), None);
    assert!(was.differs(&known("nfs4", source("filer:/old"), "/", 2)).is_some());
}

#[test]
fn where_nothing_tells_file_systems_apart_the_device_does_within_a_run() {
    let was = known("tmpfs", None, "/", 1);
    assert!(was.differs(&known("tmpfs", None, "/", 2)).is_some());
    assert_eq!(of_another_run(was).differs(&known("tmpfs", None, "/", 2)), None, "not known, so not held");
    // Another one with the same numbers.
    let mut again = known("tmpfs", None, "/", 1);
    again.passing.as_mut().unwrap().number = 7;
    assert!(known("tmpfs", None, "/", 1).differs(&again).is_some());
    // The device's name was known before and is not now: nothing can be compared.
    let uuid = known("xfs", Some(Identity::Uuid("a".into())), "/", 1);
    assert_eq!(of_another_run(uuid).differs(&known("xfs", None, "/", 2)), None);
}

#[test]
fn what_a_mount_hid_is_remembered_until_it_is_gone_or_accepted() {
    let state = tempfile::tempdir().unwrap();
    let name: SetName = "web".parse().unwrap();
    let here = std::fs::File::open(state.path()).unwrap();
    let path = |text: &str| EntryPath::new(text.as_bytes()).unwrap();
    let open = || Roots::open(state.path(), [name.clone()]).unwrap();
    let roots = open();
    let root = &roots.roots[&name];
    assert!(!root.hid(&path("a")));
    root.check(here.as_fd(), Path::new("/web")).unwrap();
    ["a", "b"].iter().for_each(|name| root.hide(&path(name)));
    root.unhide(&path("b"));
    roots.save().unwrap();
    let roots = open();
    let root = &roots.roots[&name];
    assert!(root.hid(&path("a")) && !root.hid(&path("b")));
    roots.accept();
    assert!(!root.hid(&path("a")));
}

#[test]
fn the_first_place_is_known_also_after_a_restart_until_another_is_accepted() {
    let state = tempfile::tempdir().unwrap();
    let name: SetName = "web".parse().unwrap();
    let here = std::fs::File::open(state.path()).unwrap();
    let proc = std::fs::File::open("/proc").unwrap();
    let open = || Roots::open(state.path(), [name.clone()]).unwrap();
    let check =
        |roots: &Roots, directory: &std::fs::File| roots.roots[&name].check(directory.as_fd(), Path::new("/web"));
    let roots = open();
    check(&roots, &here).unwrap();
    roots.save().unwrap();
    let error = check(&roots, &proc).unwrap_err();
    assert!(elsewhere(&error).unwrap().to_string().contains("type proc"), "{error}");
    let roots = open();
    assert!(check(&roots, &proc).is_err(), "after a restart, too");
    check(&roots, &here).unwrap();
    roots.accept();
    check(&roots, &proc).unwrap();
    roots.save().unwrap();
    assert!(check(&open(), &here).is_err());
}
