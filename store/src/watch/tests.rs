use bellwether_proto::record::SetRules;
use notify::{
    EventKind,
    event::{AccessKind, AccessMode, CreateKind, DataChange, Flag, MetadataKind, ModifyKind, RemoveKind, RenameMode},
};

use crate::scan::Source;

use super::{
    events::{EventMeaning, read, writing},
    *,
};

fn nginx() -> SetName {
    "nginx".parse().unwrap()
}

fn test_places() -> Vec<WatchedSet> {
    let mut rules = SetRules::new(nginx());
    rules.exclude = vec!["*.swp".into(), "cache/".into()];
    watched_sets(vec![Source::new(Arc::new(rules), "/etc/nginx".into())])
}

fn seen(kind: EventKind, path: &str) -> Vec<EventMeaning> {
    read(&notify::Event::new(kind).add_path(path.into()), &test_places())
}

fn at(path: &str, depth: Depth, writing: Writing) -> Vec<EventMeaning> {
    vec![EventMeaning::At(nginx(), EntryPath::new(path.as_bytes()).unwrap(), depth, writing)]
}

#[test]
fn files_are_looked_at_alone_and_new_directories_with_all_they_hold() {
    let data = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    assert_eq!(seen(data, "/etc/nginx/a/b"), at("a/b", Depth::Entry, Writing::Open));
    assert_eq!(seen(EventKind::Create(CreateKind::File), "/etc/nginx/a"), at("a", Depth::Entry, Writing::Over));
    assert_eq!(seen(EventKind::Create(CreateKind::Folder), "/etc/nginx/a"), at("a", Depth::All, Writing::Over));
    assert_eq!(
        seen(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/etc/nginx/a"),
        at("a", Depth::All, Writing::Over)
    );
    assert_eq!(seen(EventKind::Remove(RemoveKind::Folder), "/etc/nginx/a"), at("a", Depth::Entry, Writing::Over));
}

#[test]
fn a_file_that_is_written_is_open_until_it_is_closed() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "text").unwrap();
    symlink(&file, dir.path().join("link")).unwrap();
    let at = |kind, name: &str| writing(&notify::Event::new(kind).add_path(dir.path().join(name)));
    let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
    assert_eq!(at(EventKind::Create(CreateKind::File), "file"), Writing::Open);
    assert_eq!(at(EventKind::Create(CreateKind::File), "link"), Writing::Over);
    assert_eq!(at(closed, "file"), Writing::Over);
    std::fs::hard_link(&file, dir.path().join("same")).unwrap();
    assert_eq!(at(EventKind::Create(CreateKind::File), "same"), Writing::Over);
    assert_eq!(seen(closed, "/etc/nginx/a").len(), 1);
}

#[test]
fn what_is_excluded_elsewhere_or_our_own_is_not_looked_at() {
    let create = EventKind::Create(CreateKind::File);
    for path in [
        "/etc/nginx/.a.swp",
        "/etc/nginx/cache/x",
        "/etc/nginx/.bellwether/staged/x",
        "/etc/nginx/.bellwether.put-1",
        "/etc/other",
        "/etc/nginx2/a",
    ] {
        assert_eq!(seen(create, path), [], "{path}");
    }
    assert_eq!(seen(EventKind::Access(notify::event::AccessKind::Any), "/etc/nginx/a"), []);
}

#[test]
fn a_root_that_is_replaced_is_watched_anew() {
    assert_eq!(seen(EventKind::Remove(RemoveKind::Folder), "/etc/nginx"), [EventMeaning::Root(nginx())]);
    assert_eq!(seen(EventKind::Create(CreateKind::Folder), "/etc/nginx"), [EventMeaning::Root(nginx())]);
    let unmounted = EventKind::Remove(RemoveKind::Other);
    assert_eq!(seen(unmounted, "/etc/nginx/sites"), [EventMeaning::Root(nginx())], "the watches there are gone");
    let mode = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
    assert_eq!(seen(mode, "/etc/nginx"), at("", Depth::Entry, Writing::Unknown));
}

#[test]
fn lost_events_mean_everything() {
    let lost = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert_eq!(read(&lost, &test_places()), [EventMeaning::Everything]);
}

#[test]
fn each_set_says_for_itself_how_changes_are_noticed() {
    let (now, mut doubts) = (Instant::now(), Doubts::default());
    let watched_sets = test_places();
    assert!(!doubts.modes(&watched_sets).need_rescans());
    doubts.missed.insert("other".parse().unwrap(), (now, "no event".into()));
    assert!(!doubts.modes(&watched_sets).need_rescans(), "of another set");
    doubts.missed.insert(nginx(), (now, "no event".into()));
    doubts.refused.insert(nginx(), "no watches".into());
    let modes = doubts.modes(&watched_sets);
    assert!(modes.need_rescans());
    assert_eq!(modes.0.unwrap()[&nginx()].as_deref(), Some("no watches"));
}
