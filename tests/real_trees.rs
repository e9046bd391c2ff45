//! Trees that nobody made for a test: this machine's own /etc and /usr/share/doc, as two sets of one group.

use std::{path::Path, process::Command};

use crate::farm::{Farm, compare, run};

/// What is not carried (sockets, fifos, devices) and what this user may not read is left out of the copy.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("rsync");
    command.args(["-aAX", "--no-specials", "--no-devices"]);
    if !rustix::process::getuid().is_root() {
        command.args(["--no-owner", "--no-group"]);
    }
    let output = run(command.arg(from.join("")).arg(to.join("")));
    // 23: some files could not be read, which happens to users who are not root.
    assert!(matches!(output.code, Some(0 | 23)), "{output}");
}

#[test]
fn this_machines_etc_and_documentation_arrive_equal_as_two_sets() {
    let plan = Farm::plan().sets(&["doc", "etc"]).members(2);
    let farm = plan.start_with(|manager| {
        copy(Path::new("/etc"), manager.set("etc"));
        copy(Path::new("/usr/share/doc"), manager.set("doc"));
    });
    farm.wait_equal();
    farm.assert_equal();
    let entries: u64 = farm.status().sets.iter().map(|set| set.entries).sum();
    assert!(entries > 100, "only {entries} entries");

    // And stays so after an edit in each.
    for set in &farm.manager().sets {
        std::fs::write(set.path.join("added by the test"), &set.name).expect("written");
    }
    farm.wait_equal();
    farm.assert_equal();
}

#[test]
fn acls_attributes_owners_and_odd_names_arrive() {
    let farm = Farm::plan().members(1).start_with(|manager| {
        manager.write("acl.conf", "with an ACL");
        manager.write("attribute.conf", "with an attribute");
        manager.write("dir/inherits.conf", "below a default ACL");
        let set = |arguments: &[&str]| {
            run(Command::new(arguments[0]).args(&arguments[1..]).current_dir(manager.set("web"))).success();
        };
        set(&["setfacl", "-m", "u:1:rw,g:2:r", "acl.conf"]);
        set(&["setfacl", "-d", "-m", "u:1:rx", "dir"]);
        set(&["setfattr", "-n", "user.origin", "-v", "a test", "attribute.conf"]);
        if rustix::process::getuid().is_root() {
            set(&["chown", "www-data:daemon", "attribute.conf"]);
            set(&["chown", "-h", "daemon:www-data", "dir"]);
        }
    });
    farm.wait_equal();
    farm.assert_equal();
    let acl = run(Command::new("getfacl").arg("-n").arg(farm.member(1).web("acl.conf"))).success();
    acl.says(&["user:1:rw-", "group:2:r--"]);
    let attribute = run(Command::new("getfattr").args(["-d"]).arg(farm.member(1).web("attribute.conf"))).success();
    attribute.says(&["user.origin=\"a test\""]);

    // A change of attributes alone is a change, too.
    run(Command::new("setfacl").args(["-b", "acl.conf"]).current_dir(farm.manager().set("web"))).success();
    crate::farm::wait_for("the ACL gone", crate::farm::DEADLINE, || {
        let acl = run(Command::new("getfacl").arg("-n").arg(farm.member(1).web("acl.conf"))).success();
        if acl.stdout.contains("user:1:") { Err(acl.stdout) } else { Ok(()) }
    });
    farm.wait_equal();
    farm.assert_equal();
    compare::assert_equal_by_rsync(farm.manager().set("web"), farm.member(1).set("web"));
}
