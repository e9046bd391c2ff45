//! Entries that must never be made: paths that lead out, attributes that give power, owners without an account.

use std::fs;

use bellwether_proto::v1;

use super::{
    forge::{change, directory, file, link, with_xattr},
    manager::Manager,
};

const CONTENT: &[u8] = b"evil";

fn evil() -> v1::Entry {
    file(CONTENT)
}

/// Offers these changes (and the one chunk), and expects these words.
fn refused(manager: &mut Manager, case: &str, changes: Vec<v1::Change>, words: &[&str]) {
    let forged = manager.forge(changes, vec![CONTENT.to_vec()]);
    manager.refused(case, forged.pack(), words);
}

#[test]
fn paths_that_lead_out_are_refused() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let long = ["a"; 2_001].join("/");
    let deep = ["a"; 257].join("/");
    let component = "a".repeat(256);
    let rows: [(&str, &[u8], &[&str]); 12] = [
        ("above", b"..", &["leads elsewhere"]),
        ("beside", b"../neighbour/sentinel", &["leads elsewhere"]),
        ("down and up", b"conf.d/../../neighbour/sentinel", &["leads elsewhere"]),
        ("absolute", b"/etc/evil", &["is empty"]),
        ("an empty component", b"conf.d//evil", &["is empty"]),
        ("a trailing slash", b"conf.d/", &["is empty"]),
        ("here", b"./evil", &["leads elsewhere"]),
        ("NUL", b"ev\0il", &["NUL"]),
        ("too long", long.as_bytes(), &["a path of 4001 bytes; the limit is 4000"]),
        ("too deep", deep.as_bytes(), &["a path 257 deep; the limit is 256"]),
        ("a long component", component.as_bytes(), &["is too long"]),
        ("the root itself", b"", &["is the set's root and not a directory"]),
    ];
    for (case, path, words) in rows {
        refused(&mut manager, case, vec![change(path, evil())], words);
    }
}

#[test]
fn entries_in_no_directory_are_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    refused(manager, "below a file", vec![change("index.html/evil", evil())], &["in no directory"]);
    refused(manager, "below nothing", vec![change("nowhere/evil", evil())], &["in no directory"]);
    let through = vec![change("way", link("../neighbour")), change("way/evil", evil())];
    refused(manager, "through a link of its own", through, &["in no directory"]);
    let replaced = vec![change("conf.d", link("../neighbour")), change("conf.d/sentinel", evil())];
    refused(manager, "through a link in a directory's place", replaced, &["in no directory"]);
    let gone = vec![change("conf.d", None), change("conf.d/site.conf", evil())];
    refused(manager, "below what it removes", gone, &["in no directory"]);
    let never = manager.forge(vec![change("nowhere", None)], Vec::new());
    manager.refused("removed, but never there", never.pack(), &["was not there"]);

    // A link is configuration like any other, and its target is not.
    let way = manager.forge(vec![change("way", link("../neighbour"))], Vec::new());
    manager.push(&way, "a link");
    let through = vec![change("way/sentinel", evil())];
    refused(manager, "through a link that an earlier revision made", through, &["in no directory"]);
    assert_eq!(fs::read(manager.member().home.join("sets/neighbour/sentinel")).expect("there"), b"not to be touched");
}

#[test]
fn names_that_are_not_the_groups_are_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    for path in [".bellwether", ".bellwether.web", "conf.d/.bellwether.put-1"] {
        refused(manager, path, vec![change(path, evil())], &["excluded by the set's rules"]);
    }
    type Edit = fn(&mut Vec<v1::SetRules>);
    let rows: [(&str, Edit, u32, &str, &[&str]); 3] = [
        (
            "a local file",
            |r| r[0].local = vec!["local-*".into()],
            0,
            "local-1",
            &["web:local-1", "excluded by the set's"],
        ),
        ("a pattern that is none", |r| r[0].exclude = vec!["a{b".into()], 0, "evil", &["a{b"]),
        (
            "a set that has no path here",
            |r| r.push(v1::SetRules { name: "webb".into(), ..v1::SetRules::default() }),
            1,
            "",
            &["set webb has no path on this server"],
        ),
    ];
    for (case, edit, set, path, words) in rows {
        let mut rules = manager.rules();
        edit(&mut rules);
        let entry = if path.is_empty() { directory() } else { evil() };
        let chunks = if path.is_empty() { Vec::new() } else { vec![CONTENT.to_vec()] };
        let changes = vec![v1::Change { set, ..change(path, entry) }];
        let forged = manager.forge_from(&manager.tree, false, rules, changes, chunks);
        manager.refused(case, forged.pack(), words);
    }
}

#[test]
fn attributes_that_give_power_are_refused() {
    let mut manager = Manager::play();
    let manager = &mut manager;
    manager.unharmed("to begin with");
    let rows: Vec<(&str, v1::Entry, &[&str])> = vec![
        ("setuid", v1::Entry { mode: 0o4755, ..evil() }, &["setuid or setgid"]),
        ("setgid", v1::Entry { mode: 0o2755, ..evil() }, &["setuid or setgid"]),
        ("a mode of too many bits", v1::Entry { mode: 0o104_755, ..evil() }, &["mode 104755"]),
        ("a capability", with_xattr(evil(), "security.capability", &[1, 0, 0, 2]), &["capabilities"]),
        ("a label", with_xattr(evil(), "security.selinux", b"system_u:object_r:shadow_t:s0"), &["'security.selinux'"]),
        ("trusted", with_xattr(evil(), "trusted.overlay.opaque", b"y"), &["'trusted.overlay.opaque'"]),
        ("attributes out of order", with_xattr(with_xattr(evil(), "user.b", b""), "user.a", b""), &["not sorted"]),
        ("a huge attribute", with_xattr(evil(), "user.a", &vec![0; 129 << 10]), &["extended attributes of"]),
        ("an unknown user", v1::Entry { user: "nosuchuser".into(), ..evil() }, &["'nosuchuser'", "does not have"]),
        ("an unknown group", v1::Entry { group: "nosuchgroup".into(), ..evil() }, &["'nosuchgroup'", "does not have"]),
        ("a number that is root's here", v1::Entry { user: "0".into(), ..evil() }, &["user '0'", "does not have"]),
        ("an owner that is none", v1::Entry { user: "root:0".into(), ..evil() }, &["owner 'root:0'"]),
        ("no owner", v1::Entry { user: String::new(), ..evil() }, &["owner ''"]),
        ("no kind", v1::Entry { kind: None, ..evil() }, &["an entry of no kind"]),
        ("a link to nowhere", link(""), &["a link target of 0 bytes"]),
        ("a link with NUL", link(b"a\0b"), &["with NUL"]),
        ("a link with a mode", v1::Entry { mode: 0o755, ..link("x") }, &["is a link with a mode"]),
        ("a directory with a time", v1::Entry { mtime: 5, ..directory() }, &["a directory with a time"]),
    ];
    for (case, entry, words) in rows {
        let chunks = if matches!(entry.kind, Some(v1::entry::Kind::File(_))) { vec![CONTENT.to_vec()] } else { vec![] };
        let forged = manager.forge(vec![change("evil", entry)], chunks);
        manager.refused(case, forged.pack(), words);
    }
}

#[test]
fn a_tree_as_deep_as_may_be_is_taken() {
    let mut manager = Manager::play();
    manager.unharmed("to begin with");
    let deep = (1..=256).map(|depth| change(vec!["a"; depth].join("/"), directory())).collect();
    let forged = manager.forge(deep, Vec::new());
    manager.push(&forged, "a deep tree");
    let gone = manager.forge(vec![change("a", None)], Vec::new());
    manager.push(&gone, "a deep tree that goes");
    manager.unharmed("after a deep tree");
}
