//! Requests to the manager from senders that may not make them, and requests that no sender may make.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use bellwether_daemon::state::identity;
use bellwether_proto::{
    advice::{self, Outcome},
    hash::Hash,
    key::KeyPair,
    record::{Record, Role, SignedRecord},
    revision::Epoch,
    token::Token,
    v1::{self, change_request, group_client::GroupClient},
};
use bellwether_store::state::layout::Layout;
use tonic::{Code, Status, transport::Channel};

use super::{
    manager::fill,
    member::{Player, token},
    runtime, says,
    snapshot::Snapshot,
};
use crate::farm::{Farm, one, run, wait_for};

fn put(path: impl AsRef<[u8]>, data: &[u8]) -> v1::ChangeRequest {
    let put = v1::FileContent { data: bytes::Bytes::copy_from_slice(data), mode: None };
    v1::ChangeRequest {
        set: "web".into(),
        path: bytes::Bytes::copy_from_slice(path.as_ref()),
        expected: None,
        change: Some(change_request::Change::Put(put)),
        author: "nobody".into(),
        message: String::new(),
        accept: false,
    }
}

fn client(player: &Player, token: &Token) -> GroupClient<Channel> {
    runtime().block_on(player.client(token))
}

/// All requests that the group's servers may make.
fn ask_all(client: &mut GroupClient<Channel>) -> [Result<(), Status>; 5] {
    runtime().block_on(async {
        let read =
            v1::ReadRequest { set: "web".into(), path: bytes::Bytes::from_static(b"index.html"), ..Default::default() };
        [
            client.change(put("evil.txt", b"evil")).await.map(drop),
            client.read(read).await.map(drop),
            client.status(v1::StatusRequest {}).await.map(drop),
            client.survey(v1::SurveyRequest {}).await.map(drop),
            client.tell(tokio_stream::empty()).await.map(drop),
        ]
    })
}

#[test]
fn strangers_and_removed_servers_are_told_nothing() {
    let farm = Farm::plan().members(1).start_with(fill);
    let token = token(&farm, &[]);
    let before = Snapshot::of(farm.manager());
    let player = Player::new("player");
    let mut open = client(&player, &token);
    let refuse_all = |case: &str, words: &str, client: &mut GroupClient<Channel>| {
        for answer in ask_all(client) {
            let status = answer.expect_err(case);
            says(case, status.message(), &[words]);
            assert_eq!(status.code(), Code::PermissionDenied, "{case}");
        }
    };
    refuse_all("a stranger", "is not a server of this group", &mut open);

    runtime().block_on(player.enter(&token)).expect("entered");
    for answer in ask_all(&mut open).into_iter().skip(1) {
        answer.expect("a member may ask, over a connection that it made as a stranger");
    }
    farm.manager().command(&["server", "remove", "player", "--yes"]).success();
    refuse_all("a removed server, over the connection that it has", "player was removed from the group", &mut open);
    refuse_all("a removed server", "player was removed from the group", &mut client(&player, &token));
    assert_eq!(fs::read(farm.manager().web("evil.txt")).expect("what the member put"), b"evil");
    farm.manager().command(&["rm", "web:evil.txt"]).success();
    before.assert_unchanged(farm.manager(), "after strangers");
    farm.manager().write("index.html", "still publishing");
    farm.wait_same(farm.member(1));
}

/// Records that a server is told.
fn records(client: &mut GroupClient<Channel>) -> Result<Vec<SignedRecord>, Status> {
    runtime().block_on(async {
        let mut stream = client.records(v1::RecordsRequest::default()).await?.into_inner();
        let mut records = Vec::new();
        while let Some(wire) = stream.message().await? {
            records.push(SignedRecord::from_wire(&wire).expect("a record"));
        }
        Ok(records)
    })
}

#[test]
fn the_record_is_for_servers_of_the_group_and_counts_by_its_signature() {
    let farm = Farm::plan().members(1).start_with(fill);
    let token = token(&farm, &[]);
    let player = Player::new("player");
    let mut asking = client(&player, &token);
    let refused = records(&mut asking).expect_err("a stranger");
    says("a stranger", refused.message(), &["is not a server of this group"]);
    runtime().block_on(player.enter(&token)).expect("entered");
    let held = records(&mut asking).expect("a member may ask").pop().expect("the record in force");

    let forger = KeyPair::generate();
    let signed = |edit: &dyn Fn(&mut Record), key: &KeyPair| {
        let mut record = held.record().clone();
        record.version.version += 1;
        edit(&mut record);
        SignedRecord::sign(record, key).expect("a record").to_wire()
    };
    let higher = |record: &mut Record| record.version.epoch = Epoch(9);
    let stranger = |record: &mut Record| {
        record.version.epoch = Epoch(9);
        record.servers.iter_mut().filter(|s| s.role == Role::Manager).for_each(|s| s.key = forger.public());
    };
    let foreign = |record: &mut Record| record.group = [9; 16].into();
    let rows: [(&str, Vec<v1::SignedRecord>, &[&str]); 5] = [
        ("a member's own edit", vec![signed(&|_| {}, &player.key)], &["may not make this change"]),
        ("a member's word for the manager", vec![signed(&higher, &player.key)], &["may not make this change"]),
        ("a stranger as manager", vec![signed(&stranger, &forger)], &["may not make this change"]),
        ("another group", vec![signed(&foreign, &player.key)], &["is of group 0909"]),
        ("without end", vec![held.to_wire(); 100], &["more records than a chain has"]),
    ];
    for (case, told, words) in rows {
        let refused = runtime().block_on(asking.tell(tokio_stream::iter(told))).expect_err(case);
        says(case, refused.message(), words);
    }
    assert_eq!(records(&mut asking).expect("a member may ask").pop(), Some(held), "nothing was taken");

    farm.manager().command(&["server", "remove", "player", "--yes"]).success();
    let last = records(&mut client(&player, &token)).expect("it may know that it was removed").pop().expect("a record");
    assert!(last.record().by_key(&player.key.public()).is_none());
}

#[test]
fn a_change_that_should_not_be_is_refused() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        fill(manager);
        std::os::unix::fs::symlink("../../outside", manager.web("way")).expect("a link");
        fs::create_dir_all(manager.home.join("outside")).expect("a directory");
    });
    farm.manager().command(&["group", "set", "--set-name", "web"]);
    let token = token(&farm, &[]);
    let player = Player::new("player");
    runtime().block_on(player.enter(&token)).expect("entered");
    let mut client = client(&player, &token);
    let before = Snapshot::of(farm.manager());
    let odd = vec![b"\xff".repeat(250); 15].join(&b'/');
    let expecting =
        |expected: Vec<u8>| v1::ChangeRequest { expected: Some(expected.into()), ..put("index.html", b"evil") };
    let with_mode = |mode: u32| {
        let content = v1::FileContent { data: bytes::Bytes::new(), mode: Some(mode) };
        v1::ChangeRequest { change: Some(change_request::Change::Put(content)), ..put("x", b"") }
    };
    let remove =
        |path: &str| v1::ChangeRequest { change: Some(change_request::Change::Remove(true)), ..put(path, b"") };
    let rows: Vec<(&str, v1::ChangeRequest, Code, &[&str])> = vec![
        ("above", put("../evil", b"evil"), Code::InvalidArgument, &["leads elsewhere"]),
        ("absolute", put("/etc/evil", b"evil"), Code::InvalidArgument, &["is empty"]),
        ("NUL", put(b"ev\0il", b"evil"), Code::InvalidArgument, &["NUL"]),
        ("the root", put("", b"evil"), Code::InvalidArgument, &["root of a set"]),
        ("staging", put(".bellwether", b"evil"), Code::FailedPrecondition, &["excluded"]),
        ("staging's child", put(".bellwether.web/evil", b"evil"), Code::FailedPrecondition, &["excluded"]),
        ("a temporary name", put("conf.d/.bellwether.put-1", b"evil"), Code::FailedPrecondition, &["excluded"]),
        ("through a link", put("way/evil", b"evil"), Code::FailedPrecondition, &["symbolic link", "not followed"]),
        ("a link", put("way", b"evil"), Code::FailedPrecondition, &["symbolic link"]),
        ("below a file", put("index.html/evil", b"evil"), Code::FailedPrecondition, &["index.html/evil"]),
        ("a long odd path", put([&b"index.html/"[..], &odd].concat(), b"evil"), Code::FailedPrecondition, &["\\xff"]),
        ("a directory", put("conf.d", b"evil"), Code::FailedPrecondition, &["is a directory"]),
        ("a directory removed", remove("conf.d"), Code::FailedPrecondition, &["is a directory"]),
        ("5 MiB", put("big", &vec![0; 5 << 20]), Code::InvalidArgument, &["5242880 bytes", "at most 4194304"]),
        ("9 MiB", put("big", &vec![0; 9 << 20]), Code::OutOfRange, &["message"]),
        (
            "another hash",
            expecting(Hash::of(b"another").as_bytes().to_vec()),
            Code::FailedPrecondition,
            &["not as expected"],
        ),
        ("half a hash", expecting(vec![1; 16]), Code::InvalidArgument, &["a hash of 16 bytes"]),
        ("expected to be absent", expecting(Vec::new()), Code::FailedPrecondition, &["there is a file"]),
        ("setuid", with_mode(0o4755), Code::InvalidArgument, &["mode 4755"]),
        ("a wild mode", with_mode(u32::MAX), Code::InvalidArgument, &["mode"]),
        ("no change", v1::ChangeRequest { change: None, ..put("x", b"") }, Code::InvalidArgument, &["changes nothing"]),
        (
            "no such set",
            v1::ChangeRequest { set: "etc".into(), ..put("x", b"") },
            Code::FailedPrecondition,
            &["no set etc"],
        ),
        (
            "a set that leads out",
            v1::ChangeRequest { set: "../web".into(), ..put("x", b"") },
            Code::InvalidArgument,
            &["not a set name"],
        ),
    ];
    for (case, request, code, words) in rows {
        let status = runtime().block_on(client.change(request)).map(drop).expect_err(case);
        says(case, status.message(), words);
        assert_eq!(status.code(), code, "{case}: {status:?}");
        let refused = code == Code::FailedPrecondition;
        assert!(!refused || advice::read(&status).0 == Outcome::Refused, "{case}: {status:?}");
        before.assert_unchanged(farm.manager(), case);
    }
    let reads: [(&str, &[u8], &[&str]); 4] = [
        ("read above", b"../../state/key.pem", &["leads elsewhere"]),
        ("read through a link", b"way/x", &["web:way/x"]),
        ("read a directory", b"conf.d", &["web:conf.d"]),
        ("read nothing", b"nowhere", &["web:nowhere"]),
    ];
    for (case, path, words) in reads {
        let read =
            v1::ReadRequest { set: "web".into(), path: bytes::Bytes::copy_from_slice(path), ..Default::default() };
        let status = runtime().block_on(client.read(read)).map(drop).expect_err(case);
        says(case, status.message(), words);
    }
    runtime().block_on(client.change(put("asked.txt", b"asked"))).expect("a good change is taken");
    wait_for("the change at the real member", crate::farm::DEADLINE, || {
        fs::read(farm.member(1).web("asked.txt"))
            .map(|content| assert_eq!(content, b"asked"))
            .map_err(|e| e.to_string())
    });
}

/// Requests to a member from a server that is no manager: nothing is forwarded, and nobody is admitted.
#[test]
fn a_member_admits_nobody() {
    let farm = Farm::plan().members(1).start_with(fill);
    let token = token(&farm, &[]);
    let layout = Layout::new(farm.member(1).state());
    let member = identity::load(&layout).expect("readable").expect("a key").public();
    let player = Player::new("player");
    // The token is the manager's, and the address and the key are the member's.
    let astray = Token { address: farm.member(1).listen.clone(), manager: member, ..token };
    let status = runtime().block_on(player.enter(&astray)).expect_err("a member is no manager");
    let hint = advice::read(&status).1.expect("what to do").hint;
    says("a member", &format!("{}\n{hint}", status.message()), &["is a member", "at the manager, manager"]);
    assert!(one(&farm.status(), "player").is_none());
}

/// Another user on the manager's machine, who can reach the socket.
#[test]
fn the_admin_socket_is_for_root_and_the_agents_own_user() {
    if !rustix::process::geteuid().is_root() {
        return bellwether_skip::skip("the admin socket asked by another user", "only root plays one");
    }
    let farm = Farm::plan().members(0).start_with(fill);
    let socket = farm.manager().home.join("admin.sock");
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        run(command.arg(env!("CARGO_BIN_EXE_bellwether")).args(arguments).arg("--admin-socket").arg(&socket))
    };
    let open = |path: &std::path::Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    for directory in [farm.directory(), farm.manager().home.clone()] {
        open(&directory, 0o755);
    }
    as_nobody(&["pause"]).refused().says(&["admin.sock"]);
    open(&socket, 0o666);
    for command in [&["pause"][..], &["token", "create"], &["status"], &["publish"]] {
        let output = as_nobody(command);
        assert_ne!(output.code, Some(0), "{output}");
        output.says(&["user 65534 may not ask this agent"]);
    }
    assert!(!farm.status().paused);
    farm.manager().command(&["pause"]).success();
}
