//! W4 and other refusals before the switch: too little space, missing owners.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    process::Command,
};

use bellwether_proto::status::State;
use bellwether_skip::skip;

use crate::farm::{Farm, random::Random, run};

/// Whether this user may mount in its own namespace; if not, the skip is reported.
fn may_mount() -> bool {
    let script = "mount -t tmpfs none /mnt";
    let may = run(Command::new("unshare").args(["-m", "sh", "-ec", script])).code == Some(0);
    if !may {
        skip("a file system that is too small", "mounting one needs root");
    }
    may
}

#[test]
fn w4_too_little_space_is_refused_with_the_figures_before_anything_is_touched() {
    if !may_mount() {
        return;
    }
    let mut random = Random::seeded();
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "small");
    farm.form();
    farm.admit(2);
    let token = farm.token(&[]);
    farm.member(1).join(&token).success();
    let set = farm.member(1).set("web").to_owned();
    let script = format!("mount -t tmpfs -o size=4m,mode=755 none '{}'", set.display());
    farm.server_mut(1).start_in_script(&["unshare", "-m"], &script);
    farm.wait_in_sync();
    let seen = farm.member(1).as_agent_sees(&set);
    assert_eq!(fs::read(seen.join("index.html")).expect("the member's file"), b"small");

    farm.manager().write("index.html", "small, too");
    let mut noise = vec![0; 8 << 20];
    noise.fill_with(|| random.number() as u8);
    farm.manager().write("large.bin", &noise);
    farm.wait_same(farm.member(2));
    let shown = farm.wait_server(farm.member(1), "the refusal", |s| s.state == State::Waiting);
    let reason = shown.reason.expect("a reason");
    for word in ["free", "needed", "staged", set.to_str().expect("a path")] {
        assert!(reason.contains(word), "no '{word}' in: {reason}");
    }
    assert!(!seen.join("large.bin").exists());

    // The next revision fits: the earlier refusal did not put the server in error.
    fs::remove_file(farm.manager().web("large.bin")).expect("removed");
    farm.wait_in_sync();
    assert_eq!(fs::read(seen.join("index.html")).expect("the member's file"), b"small, too");
}

#[test]
fn a_sparse_file_fits_where_its_data_do() {
    if !may_mount() {
        return;
    }
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "small");
    farm.form();
    farm.admit(2);
    let token = farm.token(&[]);
    farm.member(1).join(&token).success();
    let set = farm.member(1).set("web").to_owned();
    let script = format!("mount -t tmpfs -o size=4m,mode=755 none '{}'", set.display());
    farm.server_mut(1).start_in_script(&["unshare", "-m"], &script);
    farm.wait_in_sync();
    let on_disk = |path: &Path| fs::metadata(path).expect("the file").blocks() * 512;
    for end in ["end", "another end"] {
        let beside = farm.manager().home.join("sparse");
        let file = fs::File::create(&beside).expect("a file");
        file.write_all_at(end.as_bytes(), 41_943_000).expect("written");
        drop(file);
        fs::rename(&beside, farm.manager().web("index.bin")).expect("in its place");
        farm.wait_in_sync();
        farm.wait_same(farm.member(2));
        let seen = farm.member(1).as_agent_sees(&set).join("index.bin");
        for path in [&seen, &farm.member(2).web("index.bin")] {
            assert!(on_disk(path) < 1 << 20, "{} takes {} bytes", path.display(), on_disk(path));
            assert_eq!(fs::metadata(path).expect("the file").len(), 41_943_000 + end.len() as u64);
        }
    }
    for server in [farm.manager(), farm.member(1), farm.member(2)] {
        let history = fs::read_dir(server.state().join("history")).expect("a history");
        let bytes: u64 = history.map(|pack| pack.expect("a pack").metadata().expect("a pack").len()).sum();
        assert!(bytes < 1 << 20, "the history of {} has {bytes} bytes", server.name);
    }
}

/// A user database without the last user, for one agent.
fn without_user(farm: &Path, name: &str) -> String {
    let passwd = fs::read_to_string("/etc/passwd").expect("users");
    let kept: Vec<&str> = passwd.lines().filter(|line| !line.starts_with(&format!("{name}:"))).collect();
    let file = farm.join("passwd");
    fs::write(&file, kept.join("\n") + "\n").expect("written");
    format!("mount --bind '{}' /etc/passwd", file.display())
}

#[test]
fn an_owner_that_a_member_does_not_have_is_refused_before_the_switch() {
    if !may_mount() {
        return;
    }
    let mut farm = Farm::plan().members(2).unformed();
    farm.manager().write("index.html", "by root");
    farm.form();
    farm.admit(2);
    let token = farm.token(&[]);
    farm.member(1).join(&token).success();
    let script = without_user(&farm.directory(), "games");
    farm.server_mut(1).start_in_script(&["unshare", "-m"], &script);
    farm.wait_equal();

    farm.manager().write("game.conf", "by games");
    run(Command::new("chown").arg("games").arg(farm.manager().web("game.conf"))).success();
    farm.wait_same(farm.member(2));
    let shown = farm.wait_server(farm.member(1), "the refusal", |s| s.state == State::Waiting);
    assert!(shown.reason.as_ref().is_some_and(|reason| reason.contains("'games'")), "{shown:?}");
    assert_eq!(fs::read(farm.member(1).web("index.html")).expect("as it was"), b"by root");

    run(Command::new("chown").arg("root").arg(farm.manager().web("game.conf"))).success();
    farm.wait_equal();
    farm.assert_equal();
}
