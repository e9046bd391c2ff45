//! Entering, tokens and previews.

use bellwether_group::{
    edits::{By, GroupRefused, RecordEdit},
    roles::{Leave, hand_over},
    tokens::TokenRefused,
};
use bellwether_manager::{EditError, EnterError, Form, FormError, form};
use bellwether_proto::{
    key::KeyPair,
    record::{Codec, Role, SignedRecord},
    revision::Epoch,
};
use bellwether_store::{
    pack::{Frame, Reader},
    state::record::SaveError,
    tree::Tree,
};

use crate::harness::{Farm, name, set};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_admits_one_key_and_that_again_after_a_restart() {
    let mut farm = Farm::new(&[("a", b"x")]).await;
    let (key, other) = (KeyPair::generate().public(), KeyPair::generate().public());
    let request = farm.enter_request("a", "127.0.0.1:9").await;
    let record = farm.manager.enter(&request, &key).await.unwrap();
    assert_eq!(record.record().server(&name("a")).unwrap().role, Role::Member);
    let version = record.record().version;
    assert_eq!(farm.manager.enter(&request, &key).await.unwrap().record().version, version, "idempotent");
    farm.restart(|_| {}).await;
    assert_eq!(farm.manager.record().record().version, version, "durable");
    let spent = farm.manager.enter(&request, &other).await.unwrap_err();
    assert!(matches!(spent, EnterError::Token(TokenRefused::Spent { .. })), "{spent}");
    farm.manager.revoke_token(&request.token_id).await.unwrap();
    let revoked = farm.manager.enter(&request, &key).await.unwrap_err();
    assert!(matches!(revoked, EnterError::Token(TokenRefused::Revoked(_))), "{revoked}");
    assert!(farm.manager.list_tokens().await[0].1.revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_by_the_record_takes_no_use_of_the_token() {
    let farm = Farm::new(&[("a", b"x")]).await;
    let key = KeyPair::generate().public();
    let mut request = farm.enter_request("m", "127.0.0.1:9").await;
    let taken = farm.manager.enter(&request, &key).await.unwrap_err();
    assert!(matches!(taken, EnterError::Edit(EditError::Refused(GroupRefused::NameTaken(_)))), "{taken}");
    request.sets.clear();
    request.server = "a".into();
    assert!(matches!(farm.manager.enter(&request, &key).await.unwrap_err(), EnterError::Set(_)));
    assert!(farm.manager.list_tokens().await[0].1.used_by.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_preview_is_the_heads_tree_without_content() {
    let mut farm = Farm::new(&[("a", b"x"), ("dir/b", b"y")]).await;
    farm.write("c", "more");
    farm.head("1.2").await;
    let request = farm.enter_request("a", "127.0.0.1:9").await;
    let mut preview = farm.manager.preview(&request, &KeyPair::generate().public()).await.unwrap();
    let (mut reader, mut tree, mut changes) = (Reader::default(), Tree::default(), Vec::new());
    while let Some(bytes) = preview.read_slice().unwrap() {
        for frame in reader.push(&bytes).unwrap() {
            match frame {
                Frame::Head(head) => tree = tree.with_rules(&head.rules),
                Frame::Changes(more) => changes.extend(more),
                Frame::Chunks(_) | Frame::Patches(_) => panic!("content in a preview"),
                Frame::End => {}
            }
        }
    }
    assert_eq!(tree.apply(changes).unwrap().root(), farm.manager.head().header().root);
    let mut wrong = request;
    wrong.secret = "wrong".into();
    assert!(farm.manager.preview(&wrong, &KeyPair::generate().public()).await.is_err());
}

/// Invariant 3: a candidate took over and its record has just come, but this manager's tasks have not ended yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_manager_changes_nothing_over_the_record_of_another_one() {
    let farm = Farm::new(&[("a", b"x")]).await;
    let key = KeyPair::generate();
    let request = farm.enter_request("a", "127.0.0.1:9").await;
    let held = farm.manager.enter(&request, &key.public()).await.unwrap();
    let mut theirs = hand_over(&held, &name("a"), Leave::Member, &By::new("test", 1)).unwrap().unwrap();
    theirs.version.epoch = Epoch(held.record().version.epoch.0 + 2);
    let theirs = SignedRecord::sign(theirs, &key).unwrap();
    farm.group.take(theirs.clone()).unwrap();
    let refused = farm.manager.edit_record(&RecordEdit::Paused(true), "test", false).await;
    assert!(matches!(refused, Err(EditError::Save(SaveError::Superseded(_)))), "{refused:?}");
    assert_eq!(*farm.group.current(), theirs, "it is in force as before");
    assert_eq!(farm.manager.record().record(), held.record(), "its tasks act on nothing that another one made");
}

#[test]
fn a_group_is_not_formed_of_directories_that_are_missing_or_overlap() {
    let directory = tempfile::tempdir().unwrap();
    let key = KeyPair::generate();
    let attempt = |sets| {
        form(Form {
            name: name("m"),
            key: &key,
            address: "m:1".into(),
            sets,
            rules: Vec::new(),
            codec: Codec::default(),
            state: &directory.path().join("state"),
            author: String::new(),
            time_ms: 1,
        })
    };
    let missing = attempt(vec![(set(), directory.path().join("missing"))]).unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
    let overlap = vec![(set(), directory.path().join("a")), ("b".parse().unwrap(), directory.path().join("a/b"))];
    assert!(matches!(attempt(overlap), Err(FormError::Overlap(..))));
    assert!(matches!(attempt(Vec::new()), Err(FormError::NoSets)));
    assert!(!directory.path().join("state").exists(), "nothing was made");
}
