//! The entries of a directory that travel, and those that stay: special files, excluded and local files, ACLs, owners.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::Command,
};

use crate::farm::{DEADLINE, Farm, Server, compare::total_bytes, run, wait_for};

fn tool(server: &Server, arguments: &[&str]) {
    run(Command::new(arguments[0]).args(&arguments[1..]).current_dir(server.set("web"))).success();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[test]
fn acls_attributes_and_owners_arrive_and_so_does_a_change_of_them_alone() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("acl.conf", "with an ACL");
        manager.write("attribute.conf", "with an attribute");
        manager.write("dir/inherits.conf", "below a default ACL");
        tool(manager, &["setfacl", "-m", "u:1:rw,g:2:r", "acl.conf"]);
        tool(manager, &["setfacl", "-d", "-m", "u:1:rx", "dir"]);
        tool(manager, &["setfattr", "-n", "user.origin", "-v", "a test", "attribute.conf"]);
        if rustix::process::getuid().is_root() {
            tool(manager, &["chown", "www-data:daemon", "attribute.conf"]);
            tool(manager, &["chown", "daemon:www-data", "dir"]);
        }
    });
    farm.wait_equal();
    farm.assert_equal();
    let acl = || run(Command::new("getfacl").arg("-n").arg(farm.member(1).web("acl.conf"))).success();
    acl().says(&["user:1:rw-", "group:2:r--"]);
    let attribute = run(Command::new("getfattr").arg("-d").arg(farm.member(1).web("attribute.conf"))).success();
    attribute.says(&["user.origin=\"a test\""]);

    tool(farm.manager(), &["setfacl", "-b", "acl.conf"]);
    wait_for("the ACL gone", DEADLINE, || {
        let acl = acl();
        if acl.stdout.contains("user:1:") { Err(acl.stdout) } else { Ok(()) }
    });
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn sockets_and_fifos_are_left_out_and_said() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("a.conf", "carried");
        tool(manager, &["mkfifo", "a.fifo"]);
    });
    let _socket = UnixListener::bind(farm.manager().web("a.sock")).expect("a socket");
    farm.manager().write("b.conf", "carried");
    let status = farm.wait_status("both notices", |s| {
        let notices = &s.sets[0].notices;
        ["a.fifo", "a.sock"].iter().all(|name| notices.iter().any(|notice| notice.contains(name)))
    });
    assert_eq!(status.sets[0].notices.len(), 2, "each is said once: {:?}", status.sets[0].notices);
    wait_for("b.conf at the member", DEADLINE, || fs::read(farm.member(1).web("b.conf")).map_err(|e| e.to_string()));
    farm.wait_in_sync();
    assert!(!farm.member(1).web("a.fifo").exists() && !farm.member(1).web("a.sock").exists());
}

#[test]
fn setuid_travels_only_when_it_is_allowed() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("tool", "#!/bin/sh\n");
        fs::set_permissions(manager.web("tool"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    });
    assert_eq!(mode(&farm.member(1).web("tool")), 0o755);
    farm.manager().command(&["group", "set", "--set", "web", "--allow-setuid", "true"]).success();
    wait_for("the setuid bit at the member", DEADLINE, || match mode(&farm.member(1).web("tool")) {
        0o4755 => Ok(()),
        mode => Err(format!("{mode:o}")),
    });
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn excluded_and_local_files_stay_each_servers_own() {
    let farm = Farm::plan().members(1).start();
    let group_set = ["group", "set", "--exclude", "web=*.bak", "--local", "web=conf.d/local-*.conf"];
    farm.manager().command(&group_set).success();
    for server in [farm.manager(), farm.member(1)] {
        server.write("old.bak", &server.name);
        server.write("conf.d/local-1.conf", &server.name);
    }
    farm.manager().write("conf.d/shared.conf", "shared");
    wait_for("the shared file", DEADLINE, || {
        fs::read(farm.member(1).web("conf.d/shared.conf")).map_err(|e| e.to_string())
    });
    farm.wait_in_sync();
    for server in [farm.manager(), farm.member(1)] {
        for own in ["old.bak", "conf.d/local-1.conf"] {
            assert_eq!(fs::read_to_string(server.web(own)).expect("its own file"), server.name);
        }
    }
    // Each output names the two kinds apart.
    for server in [farm.manager(), farm.member(1)] {
        server.command(&["doctor"]).says(&["never sent or changed: conf.d/local-1.conf; 1 entry is excluded"]);
        let tree = server.command(&["tree", "web"]).success();
        tree.says(&["each server has its own: web=conf.d/local-*.conf", "they are excluded: web=*.bak"]);
        let put = |file| server.command_with_input(&["put", file], "x").refused();
        put("web:conf.d/local-1.conf").says(&["is local", "edit the file on the server that it belongs to"]);
        put("web:old.bak").says(&["is excluded from the group"]);
    }
    farm.manager().command(&["group", "show"]).success().says(&["  exclude *.bak", "  local conf.d/local-*.conf"]);
    // Neither a sync nor the removal of all shared files around them changes the servers' own files.
    fs::remove_file(farm.manager().web("conf.d/shared.conf")).expect("removed");
    farm.manager().command(&["publish", "--accept"]).success();
    farm.manager().command(&["sync"]).success();
    wait_for("the shared file gone", DEADLINE, || {
        if farm.member(1).web("conf.d/shared.conf").exists() { Err("there") } else { Ok(()) }.map_err(str::to_owned)
    });
    farm.wait_in_sync();
    assert_eq!(fs::read_to_string(farm.member(1).web("conf.d/local-1.conf")).expect("its own file"), "member1");
}

#[test]
fn local_patterns_of_agent_toml_are_the_groups_when_it_is_formed() {
    let farm = Farm::plan().unformed();
    let manager = farm.manager();
    let (listen, state, web) = (&manager.listen, manager.state(), manager.set("web").display().to_string());
    let keys = format!(
        "listen = \"{listen}\"\nadvertise = \"{listen}\"\nstate_dir = \"{}\"\nadmin_socket = \"{}\"\n\n[[set]]\nname = \"web\"\n\
         path = \"{web}\"\nlocal = [\"own-*\"]\n",
        state.display(),
        manager.home.join("admin.sock").display(),
    );
    fs::write(manager.config(), keys).expect("agent.toml");
    manager.init_with(&[]).success();
    manager.command(&["group", "show"]).success().says(&["local own-*"]);
}

#[test]
fn a_line_in_the_middle_of_a_large_file_costs_kilobytes() {
    let mut random = crate::farm::random::Random::seeded();
    // The text must not compress to nothing, or the test would prove nothing.
    let text: String = (0..500_000).map(|_| format!("{:016x} deny;\n", random.number())).collect();
    let farm = Farm::plan().members(1).start_with(|manager| manager.write("blocked.conf", &text));
    farm.wait_equal();
    let history = |server: &Server| total_bytes(&server.state().join("history"));
    let (at_manager, at_member) = (history(farm.manager()), history(farm.member(1)));

    let (first, second) = text.split_at(text.len() / 2);
    farm.manager().write("blocked.conf", format!("{first}\n# a line\n{second}"));
    farm.wait_equal();
    farm.assert_equal();
    for (server, before) in [(farm.manager(), at_manager), (farm.member(1), at_member)] {
        let grown = history(server) - before;
        assert!(grown < 700_000, "{} grew by {grown} bytes of {}", server.name, text.len());
    }
}
