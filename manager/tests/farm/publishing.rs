//! The changes that become a revision, and those that do not.

use std::fs;

use bellwether_group::edits::{PolicyChange, RecordEdit};
use bellwether_manager::{ChangeError, PublishError, ReadError, Request};
use bellwether_proto::{
    hash::Hash,
    record::Publish,
    status::Event,
    v1::{self, change_request},
};

use crate::harness::{Farm, set};

fn put(path: &str, data: &str, expected: Option<&[u8]>) -> v1::ChangeRequest {
    let content = v1::FileContent { data: data.to_owned().into(), mode: None };
    v1::ChangeRequest {
        set: set().to_string(),
        path: path.to_owned().into(),
        expected: expected.map(bytes::Bytes::copy_from_slice),
        change: Some(change_request::Change::Put(content)),
        author: "me".into(),
        message: "why".into(),
        accept: false,
    }
}

fn unpublished(event: &Event) -> Option<String> {
    match event {
        Event::Unpublished(Some(why)) => Some(why.clone()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_a_burst_and_a_new_nested_directory_are_noticed() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    farm.until("events", |event| {
        matches!(event, Event::Watching(how) if how.values().all(Option::is_none)).then_some(())
    })
    .await;
    farm.write("a", "y");
    farm.head("1.2").await;
    fs::create_dir_all(farm.live().join("x/y/z")).unwrap();
    for n in 0..200 {
        farm.write(&format!("x/y/z/{n}"), n.to_string());
    }
    let entries = |farm: &Farm| farm.manager.tree().entries();
    while entries(&farm) != 2 + 3 + 200 {
        farm.until("a head", |event| matches!(event, Event::Head { .. }).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_replaced_is_followed() {
    let mut farm = Farm::new(&[("a", b"x"), ("b", b"y")]).await;
    farm.until("events", |event| matches!(event, Event::Watching(_)).then_some(())).await;
    let new = farm.directory.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("a"), "other").unwrap();
    fs::write(new.join("b"), "y").unwrap();
    fs::rename(farm.live(), farm.directory.path().join("old")).unwrap();
    fs::rename(&new, farm.live()).unwrap();
    let sees = |farm: &Farm, text: &str| {
        let path = bellwether_proto::entry::EntryPath::new(b"a").unwrap();
        farm.manager.tree().get(&set(), &path).is_some_and(|node| match node.entry().kind {
            bellwether_proto::entry::Kind::File(content) => content.hash() == Hash::of(text.as_bytes()),
            _ => false,
        })
    };
    while !sees(&farm, "other") {
        farm.until("a head", |event| matches!(event, Event::Head { .. }).then_some(())).await;
    }
    farm.write("a", "in the new one");
    while !sees(&farm, "in the new one") {
        farm.until("a head", |event| matches!(event, Event::Head { .. }).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_made_while_it_was_down_are_published_at_the_start() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    farm.restart(|live| fs::write(live.join("b"), "new").unwrap()).await;
    farm.head("1.2").await;
    assert_eq!(farm.manager.tree().entries(), 3);
    let parent = farm.manager.head().header().parent;
    assert!(parent.is_some());
    farm.restart(|_| {}).await;
    assert_eq!(farm.manager.head().number().to_string(), "1.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_most_is_gone_nothing_is_published_before_it_is_accepted() {
    let names: Vec<String> = (0..20).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
    let mut farm = Farm::new(&files).await;
    farm.until("events", |event| matches!(event, Event::Watching(_)).then_some(())).await;
    fs::rename(farm.live(), farm.directory.path().join("away")).unwrap();
    fs::create_dir(farm.live()).unwrap();
    let why = farm.until("unpublished", unpublished).await;
    assert!(why.contains("bellwether publish --accept"), "{why}");
    let refused = farm.manager.publish(Request::default()).await;
    assert!(matches!(refused, Err(PublishError::Frightening(_))), "{refused:?}");
    assert_eq!(farm.manager.head().number().to_string(), "1.1");
    let refused = farm.manager.change(put("new", "x", None)).await;
    assert!(matches!(refused, Err(ChangeError::Unpublished(_))), "{refused:?}");

    let accepted = farm.manager.publish(Request { accept: true, ..Request::default() }).await.unwrap();
    assert_eq!(accepted.revision.unwrap().number().to_string(), "1.2");
    farm.until("published", |event| matches!(event, Event::Unpublished(None)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_publishing_counts_edits_and_publishes_them_when_asked() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let manual = PolicyChange { publish: Some(Publish::Manual), ..PolicyChange::default() };
    farm.manager.edit_record(&RecordEdit::Policy(Box::new(manual)), "test", false).await.unwrap();
    farm.write("b", "new");
    let why = farm.until("unpublished", unpublished).await;
    assert!(why.contains("bellwether publish"), "{why}");
    let dry = farm.manager.publish(Request { dry_run: true, ..Request::default() }).await.unwrap();
    assert!(dry.revision.is_none());
    assert_eq!(dry.changes.first, ["+ nginx:b"]);
    let request = Request { message: "a reason".into(), author: "me".into(), ..Request::default() };
    let published = farm.manager.publish(request).await.unwrap();
    let header = published.revision.unwrap();
    assert_eq!((header.header().message.as_str(), header.header().author.as_str()), ("a reason", "me"));
    assert!(farm.manager.publish(Request::default()).await.unwrap().revision.is_none(), "nothing more");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_rules_are_a_revision() {
    let mut farm = Farm::new(&[("a", b"x"), ("a.bak", b"y")]).await;
    let exclude = bellwether_group::edits::Patterns { list: vec!["*.bak".into()], replace: false };
    let change = PolicyChange { set: Some(set()), exclude, ..PolicyChange::default() };
    farm.manager.edit_record(&RecordEdit::Policy(Box::new(change)), "test", false).await.unwrap();
    farm.head("1.2").await;
    assert_eq!(farm.manager.tree().entries(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_reads_by_compare_and_swap() {
    let farm = Farm::new(&[("a", b"x")]).await;
    let changed = farm.manager.change(put("dir/new", "text", Some(b""))).await.unwrap();
    let header = changed.revision.unwrap();
    assert_eq!(header.header().message, "why");
    let read =
        |path: &str| v1::ReadRequest { set: set().to_string(), path: path.to_owned().into(), ..Default::default() };
    let file = farm.manager.read(read("dir/new")).await.unwrap();
    assert_eq!((&file.data[..], file.hash, file.mode), (&b"text"[..], Hash::of(b"text"), 0o644));
    assert_eq!(file.revision, header.number());
    let refused = farm.manager.change(put("dir/new", "mine", Some(b""))).await;
    assert!(matches!(refused, Err(ChangeError::Conflict(..))), "{refused:?}");
    let again = farm.manager.change(put("dir/new", "mine", Some(file.hash.as_bytes()))).await.unwrap();
    assert!(again.revision.is_some());
    assert!(matches!(farm.manager.read(read("nothing")).await, Err(ReadError::NoFile { .. })));
    assert!(matches!(farm.manager.read(read("../a")).await, Err(ReadError::Malformed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_come_from_the_history_when_the_live_file_is_another_by_now() {
    let farm = Farm::new(&[("a", b"published")]).await;
    let manual = PolicyChange { publish: Some(Publish::Manual), ..PolicyChange::default() };
    farm.manager.edit_record(&RecordEdit::Policy(Box::new(manual)), "test", false).await.unwrap();
    farm.write("a", "edited!!!");
    let request = v1::ReadRequest { set: set().to_string(), path: "a".into(), ..Default::default() };
    assert_eq!(&farm.manager.read(request).await.unwrap().data[..], b"published");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_file_of_a_set_is_removed_when_that_is_accepted() {
    let farm = Farm::new(&[("a", b"x")]).await;
    let remove = v1::ChangeRequest { change: Some(change_request::Change::Remove(true)), ..put("a", "", None) };
    let refused = farm.manager.change(remove.clone()).await;
    assert!(matches!(refused, Err(ChangeError::Frightening(..))), "{refused:?}");
    let changed = farm.manager.change(v1::ChangeRequest { accept: true, ..remove }).await.unwrap();
    assert_eq!(changed.revision.unwrap().number().to_string(), "1.2");
    assert_eq!(farm.manager.tree().entries(), 1);
}
