//! The refusals of the admin socket.

use std::os::unix::fs::MetadataExt;

use tokio_stream::StreamExt;

use super::*;

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/admin.sock");
    (directory, path)
}

#[tokio::test]
async fn the_socket_is_closed_to_others_and_goes_with_its_agent() {
    let (_directory, path) = place();
    let (socket, _connections) = bind(&path).await.expect("offered");
    assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o600);
    drop(socket);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_second_agent_is_refused_and_the_first_goes_on() {
    let (_directory, path) = place();
    let (_socket, mut connections) = bind(&path).await.expect("offered");
    assert!(matches!(bind(&path).await, Err(BindError::InUse(_))));
    assert!(connections.next().await.is_some(), "the second asked who answers");
    let (own, _) = tokio::join!(UnixStream::connect(&path), connections.next());
    own.expect("the first still answers");
}

#[tokio::test]
async fn what_a_dead_agent_left_is_replaced() {
    let (_directory, path) = place();
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
    assert!(path.exists());
    let (_socket, mut connections) = bind(&path).await.expect("replaced");
    let (own, _) = tokio::join!(UnixStream::connect(&path), connections.next());
    own.expect("the new one answers");
}

#[tokio::test]
async fn what_is_no_socket_stays() {
    let (directory, _) = place();
    let path = directory.path().join("file");
    std::fs::write(&path, "precious").expect("written");
    assert!(matches!(bind(&path).await, Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
}

#[tokio::test]
async fn only_root_and_the_agents_own_user_may_ask() {
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    let mut request = Request::new(());
    request.extensions_mut().insert(tonic::transport::server::Connected::connect_info(&ours));
    only_owner(request).expect("this is our own user");
    // The system alone makes credentials; a request without any stands for every other user.
    let error = only_owner(Request::new(())).expect_err("nobody");
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    assert!(may_ask(0, 1000) && may_ask(1000, 1000));
    assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
}
