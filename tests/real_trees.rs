//! Real trees: this machine's own /etc and /usr/share/doc, as two sets of one group.

use std::{path::Path, process::Command};

use crate::farm::{Farm, run};

/// Copies the tree without entries that are not carried (sockets, fifos, devices) or that this user may not read.
fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("rsync");
    command.args(["-aAX", "--no-specials", "--no-devices"]);
    if !rustix::process::getuid().is_root() {
        command.args(["--no-owner", "--no-group"]);
    }
    let output = run(command.arg(from.join("")).arg(to.join("")));
    // Exit code 23 means that some files could not be read, as happens to users who are not root.
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

    // All servers are still equal after an edit in each set.
    for set in &farm.manager().sets {
        std::fs::write(set.path.join("added by the test"), &set.name).expect("written");
    }
    farm.wait_equal();
    farm.assert_equal();
}
