//! W5, W17: a change is propagated by itself from any server, and takes effect on the manager at once.

use std::fs;

use bellwether_daemon::{net::tls, state::identity};
use bellwether_proto::{
    hash::Hash,
    status::State,
    v1::{self, change_request::Change, group_client::GroupClient},
};
use bellwether_store::state::layout::Layout;
use tonic::{Code, Status, transport::Channel};

use crate::farm::{
    DEADLINE, Farm, Server,
    random::{self, Random},
    wait_for,
};

#[test]
fn w5_an_edit_of_a_file_at_the_manager_arrives_at_every_member() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("nginx.conf", "old"));
    farm.manager().write("nginx.conf", "new");
    farm.manager().write("sites/a.conf", "a new file in a new directory");
    farm.wait_equal();
    fs::remove_dir_all(farm.manager().web("sites")).expect("removed");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w5_w17_a_put_at_the_manager_takes_effect_there_at_once_then_at_the_members() {
    let farm = Farm::plan().members(2).start();
    farm.manager().command_with_input(&["put", "web:conf.d/x.conf"], "by put").success();
    assert_eq!(fs::read(farm.manager().web("conf.d/x.conf")).expect("in effect"), b"by put");
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w5_a_put_at_a_member_is_forwarded_to_the_manager_and_propagated() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "old"));
    let member = farm.member(1);
    member.command_with_input(&["put", "web:a.conf"], "asked at a member").success();
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("in effect"), b"asked at a member");
    farm.wait_equal();
    assert_eq!(member.command(&["get", "web:a.conf"]).success().stdout, "asked at a member");

    member.command(&["rm", "web:a.conf"]).refused().says(&["the only entry of web", "rm --accept web:a.conf"]);
    member.command(&["rm", "web:a.conf", "--accept"]).success();
    assert!(!farm.manager().web("a.conf").exists());
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn w5_commands_may_be_given_again() {
    let farm = Farm::plan().members(1).start();
    let put = || farm.manager().command_with_input(&["put", "web:a.conf"], "the same").success();
    put();
    let head = farm.wait_equal().head;
    put();
    farm.manager().command(&["publish"]).success();
    farm.manager().command(&["resume"]).success();
    farm.manager().command(&["sync"]).success();
    assert_eq!(farm.wait_equal().head, head, "no revision was made of nothing");
    farm.manager().command(&["rm", "web:a.conf", "--accept"]).success();
    farm.manager().command(&["rm", "web:a.conf"]).success();
}

#[test]
fn w5_a_put_replaces_only_what_its_caller_has_seen() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "first"));
    let put =
        |hash: &str, content| farm.member(1).command_with_input(&["put", "web:a.conf", "--expect", hash], content);
    let seen = farm.member(1).command(&["get", "--hash", "web:a.conf"]).success().stdout;
    put(seen.trim(), "second").success();
    put(seen.trim(), "by one who saw the first").refused();
    put("none", "by one who saw nothing").refused();
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"second");
    farm.wait_equal();
}

#[test]
fn w5_a_message_that_no_header_holds_is_refused_everywhere() {
    let farm = Farm::plan().members(1).start();
    let long = "why ".repeat(5_000);
    for server in [farm.manager(), farm.member(1)] {
        let put = ["put", "web:a.conf", "--message", &long];
        server.command_with_input(&put, "a").refused().says(&["a message of 20000 bytes; the limit is 16384"]);
    }
    farm.manager().command(&["publish", "--message", &long]).refused().says(&["nothing was published"]);
    assert!(!farm.manager().web("a.conf").exists());
}

#[test]
fn w5_a_path_outside_the_set_is_refused() {
    let farm = Farm::plan().members(1).start();
    for path in ["web:../escaped", "web:/etc/escaped", "web:a/../../escaped"] {
        for server in [farm.manager(), farm.member(1)] {
            let output = server.command_with_input(&["put", path], "no");
            assert!(matches!(output.code, Some(2 | 3)), "{output}");
        }
    }
    farm.manager().command_with_input(&["put", "nosuchset:a.conf"], "no").refused();
    assert!(!farm.manager().home.join("sets/escaped").exists());
}

#[test]
fn w5_any_edits_of_any_tree_arrive() {
    let mut random = Random::seeded();
    let farm = Farm::plan().members(2).start_with(|manager| random::fill(&mut random, manager.set("web"), 80));
    farm.wait_equal();
    for round in 0..12 {
        let edits: Vec<String> =
            (0..=random.below(6)).map(|_| random::edit(&mut random, farm.manager().set("web"))).collect();
        println!("round {round}: {edits:#?}");
        farm.wait_equal();
    }
    farm.assert_equal();
}

#[test]
fn a_burst_of_many_files_is_one_revision_or_few() {
    let farm = Farm::plan().members(1).start();
    let before = farm.status().head.expect("a revision").sequence;
    for i in 0..400 {
        farm.manager().write(&format!("burst/{}/{i}.conf", i % 20), format!("file {i}"));
    }
    let after = farm.wait_equal().head.expect("a revision").sequence;
    // The quiet time begins at 5 ms, so a machine that stops for longer in the middle of the burst makes two revisions.
    assert!(after - before <= 10, "{} revisions for one burst", after - before);
    farm.assert_equal();
}

#[test]
fn w5_a_file_is_edited_through_any_server() {
    let farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "listen 80;\n"));
    let edit = |server: &Server, editor: &str, arguments: &[&str]| {
        let arguments = [&["edit"], arguments].concat();
        server.command_with(&arguments, &[("VISUAL", ""), ("EDITOR", editor)])
    };
    edit(farm.member(1), "sed -i s/80/81/", &["web:a.conf", "--wait", "all"]).success();
    farm.wait_equal();
    assert_eq!(fs::read(farm.member(2).web("a.conf")).expect("a file"), b"listen 81;\n");
    let head = farm.status().head;

    edit(farm.member(1), "true", &["web:a.conf"]).success().says(&["nothing was changed"]);
    edit(farm.member(1), "sed -i s/81/82/", &["web:a.conf", "--dry-run"])
        .success()
        .says(&["-listen 81;", "+listen 82;"]);
    edit(farm.member(1), "false", &["web:a.conf"]).exits(1).says(&["the editor", "nothing was changed"]);
    edit(farm.member(1), "touch", &["web:new.conf"]).success().says(&["nothing was changed"]);
    assert_eq!(farm.status().head, head);
    edit(farm.manager(), "tee", &["web:new.conf"]).success();
    let script = farm.directory().join("editor");
    fs::write(&script, "echo a new one > \"$1\"\n").expect("an editor");
    edit(farm.manager(), &format!("sh {}", script.display()), &["web:conf.d/new.conf"]).success();
    farm.wait_equal();
    assert_eq!(fs::read(farm.member(2).web("conf.d/new.conf")).expect("a file"), b"a new one\n");
}

/// The path of the kept text in an error.
fn kept(stderr: &str) -> &str {
    stderr.split("the edited text is kept in ").nth(1).expect("a path").lines().next().expect("a line")
}

#[test]
fn w5_an_edit_that_comes_too_late_is_kept_and_named() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "first\n"));
    let script = farm.directory().join("editor");
    let live = farm.manager().web("a.conf");
    let slow = format!("echo faster > '{}'\necho mine > \"$1\"\n", live.display());
    fs::write(&script, slow).expect("an editor");
    let editor = format!("sh {}", script.display());
    let late = farm.member(1).command_with(&["edit", "web:a.conf"], &[("VISUAL", ""), ("EDITOR", &editor)]);
    let late = late.refused().says(&["web:a.conf", "nothing was changed"]);
    let path = std::path::Path::new(kept(&late.stderr));
    assert_eq!(fs::read(path).expect("the edited text"), b"mine\n");
    fs::remove_dir_all(path.parent().expect("its directory")).expect("removed");
    assert_eq!(fs::read(&live).expect("a file"), b"faster\n");
    farm.wait_equal();
}

#[test]
fn w11_without_the_manager_every_change_is_refused_and_reads_go_on() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "served"));
    farm.wait_equal();
    farm.server_mut(0).kill();
    let member = farm.member(1);
    let words = ["manager", "does not answer", "nothing was changed"];
    member.command_with_input(&["put", "web:a.conf"], "no").refused().says(&words);
    member.command(&["rm", "web:a.conf"]).refused().says(&words);
    member.command(&["drift", "keep", "member1"]).refused().says(&words);
    let edited = member.command_with(&["edit", "web:a.conf"], &[("VISUAL", ""), ("EDITOR", "sed -i s/served/no/")]);
    let edited = edited.refused().says(&words);
    let path = std::path::Path::new(kept(&edited.stderr));
    assert_eq!(fs::read(path).expect("the edited text"), b"no");
    fs::remove_dir_all(path.parent().expect("its directory")).expect("removed");

    assert_eq!(member.command(&["get", "web:a.conf"]).success().stdout, "served");
    member.command(&["get", "web:none.conf"]).refused().says(&["no file web:none.conf"]);
    member.command(&["tree"]).success().says(&["web:a.conf"]);
    member.command(&["status"]).success();
    assert_eq!(fs::read(member.web("a.conf")).expect("a file"), b"served");
    farm.server_mut(0).start();
    farm.wait_in_sync();
    farm.member(1).command_with_input(&["put", "web:a.conf"], "again").success();
    farm.wait_equal();
}

#[test]
fn w8_changes_asked_of_a_server_in_error_are_refused() {
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "a"));
    farm.wait_equal();
    farm.server_mut(1).stop();
    farm.server_mut(1).start_with(&[("BELLWETHER_FAILPOINT", "apply.synced=error")]);
    farm.wait_in_sync();
    farm.manager().write("a.conf", "b");
    farm.wait_server(farm.member(1), "the error", |s| s.state == State::Error);
    let head = farm.status().head;
    for command in [&["put", "web:a.conf"][..], &["rm", "web:a.conf"], &["drift", "keep", "member1"]] {
        farm.member(1).command_with_input(command, "no").refused().says(&["in error", "bellwether sync member1"]);
    }
    assert_eq!(farm.status().head, head);
    farm.manager().command(&["sync", "member1"]).success();
    farm.member(1).command_with_input(&["put", "web:a.conf"], "c").success();
    farm.wait_equal();
}

/// The calls of an admin tool: the group's RPCs over mutual TLS, with a key of the group, at any server.
#[test]
fn w5_w11_a_client_changes_files_by_grpc_at_any_server() {
    let mut farm = Farm::plan().members(2).start_with(|manager| manager.write("a.conf", "first"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let key_of = |server: &Server| identity::load(&Layout::new(server.state())).expect("readable").expect("a key");
    let client = |server: &Server| {
        let (own, pinned) = (key_of(farm.member(1)), key_of(server).public());
        let channel = runtime.block_on(tls::connect(&own, &server.listen, pinned)).expect("a connection");
        GroupClient::new(channel)
    };
    let put = |expected: Option<&[u8]>, data: &str| v1::ChangeRequest {
        set: "web".into(),
        path: "a.conf".into(),
        expected: expected.map(|data| Hash::of(data).into()),
        change: Some(Change::Put(v1::FileContent { data: data.to_owned().into(), mode: None })),
        author: "a tool".into(),
        message: "by gRPC".into(),
        accept: false,
    };
    let change = |client: &mut GroupClient<Channel>, request| -> Result<v1::ChangeReply, Status> {
        runtime.block_on(client.change(request)).map(tonic::Response::into_inner)
    };
    let mut at_manager = client(farm.manager());
    let mut at_member = client(farm.member(2));
    let done = change(&mut at_manager, put(Some(b"first"), "second")).expect("at the manager");
    assert!(!done.revision.is_empty());
    let forwarded = change(&mut at_member, put(Some(b"second"), "third")).expect("forwarded by a member");
    assert_ne!(forwarded.revision, done.revision);
    assert_eq!(fs::read(farm.manager().web("a.conf")).expect("a file"), b"third");
    let late = change(&mut at_member, put(Some(b"second"), "too late")).expect_err("a conflict");
    assert_eq!(late.code(), Code::FailedPrecondition);
    assert!(late.message().contains("not as expected"), "{late:?}");
    let read = v1::ReadRequest { set: "web".into(), path: "a.conf".into(), ..Default::default() };
    let reply = runtime.block_on(at_member.read(read)).expect("read through a member").into_inner();
    assert_eq!(reply.data.as_ref(), b"third");
    farm.wait_equal();

    // A forwarded change that is forwarded again would go round and round.
    let mut again = tonic::Request::new(put(None, "round"));
    again.metadata_mut().insert("bellwether-forwarded", "1".parse().expect("a value"));
    let refused = runtime.block_on(at_member.change(again)).expect_err("passed on twice");
    assert!(refused.message().contains("is a member"), "{refused:?}");

    farm.server_mut(0).kill();
    // The first call may meet the end of the connection.
    wait_for("W11's refusal", DEADLINE, || {
        let away = change(&mut at_member, put(None, "no")).expect_err("W11");
        assert_eq!(away.code(), Code::Unavailable);
        let (outcome, _) = bellwether_proto::advice::read(&away);
        let refused = outcome == bellwether_proto::advice::Outcome::Refused;
        if refused && away.message().contains("does not answer") { Ok(()) } else { Err(away.to_string()) }
    });
}

/// Edits that never pause become a revision every 10 s. Until then nothing says that all is in sync.
#[test]
fn w6_edits_that_go_on_are_shown_and_waited_for() {
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "first"));
    let mut round = 0;
    let shown = wait_for("edits that go on", DEADLINE, || {
        // The more files a burst has, the longer is its pause.
        round += 1;
        (0..50).for_each(|file| farm.manager().write(&format!("{file}.conf"), format!("round {round}")));
        let status = farm.manager().status()?;
        if status.pending { Ok(status) } else { Err(format!("{:?}", status.unpublished)) }
    });
    assert!(shown.unpublished.is_some_and(|why| why.contains("edits go on")));
    farm.manager().write("a.conf", "last");
    farm.manager().command(&["wait", "--timeout", "60s"]).success();
    assert_eq!(fs::read_to_string(farm.member(1).web("a.conf")).expect("a file"), "last");
    let status = farm.wait_in_sync();
    assert!(!status.pending && status.unpublished.is_none(), "{status:?}");
}
