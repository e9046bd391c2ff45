//! Real mounts, in a mount namespace of a child process. Where the machine does not allow one, these say so and pass.

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Output},
};

use super::{
    child::command,
    farm::{Farm, build},
};

const BEFORE: &[&str] = &["a=a", "gone/x=x", "m/x=x"];

/// Runs `what` after `script` (in which `$H` is the farm), in a mount namespace; none where that is not allowed.
pub(super) fn run(farm: &Farm, script: &str, what: &str) -> Option<Output> {
    let allowed = Command::new("unshare").args(["-m", "true"]).output().is_ok_and(|output| output.status.success());
    if !allowed {
        bellwether_skip::skip("real mounts", "this user may make no mount namespaces");
        return None;
    }
    let script = format!("set -e\nH='{}'\n{script}\nexec \"$@\"", farm.home().display());
    Some(command(&["unshare", "-m", "sh", "-c", &script, "sh"], farm, what).output().unwrap())
}

pub(super) fn assert_done(output: &Output) {
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}

fn farm(model: &[&str]) -> Farm {
    let farm = Farm::new();
    build(&farm.live(), BEFORE);
    build(&farm.home().join("twin"), BEFORE);
    build(&farm.model(), model);
    farm
}

const ITSELF: &str = "mount --bind $H/etc/web $H/etc/web";

#[test]
fn a_set_that_is_a_mount_point_is_staged_inside() {
    let farm = farm(&["a=new", "n/x=x"]);
    let Some(output) = run(&farm, ITSELF, "commit inside") else { return };
    assert_done(&output);
    farm.assert_is_model();
}

#[test]
fn a_set_that_is_a_mount_point_is_recovered() {
    let farm = farm(&["a=new", "n/x=x"]);
    let killed = format!("{ITSELF}\nexport BELLWETHER_FAILPOINT=apply.after-exchange:2");
    let Some(output) = run(&farm, &killed, "commit inside") else { return };
    assert_eq!(output.status.signal(), Some(9));
    assert_done(&run(&farm, ITSELF, "recover").unwrap());
    farm.assert_is_model();
}

#[test]
fn a_set_whose_parent_cannot_be_written_is_staged_inside() {
    let farm = farm(&["a=new", "n/x=x"]);
    let mount = "mkdir $H/keep
        mount --bind $H/etc/web $H/keep
        mount --bind $H/etc $H/etc
        mount -o remount,bind,ro $H/etc
        mount --bind $H/keep $H/etc/web";
    let Some(output) = run(&farm, mount, "commit inside") else { return };
    assert_done(&output);
    farm.assert_is_model();
}

#[test]
fn a_mount_inside_the_set_is_held() {
    for (model, held) in [
        (&["a=a", "gone/x=x", "m/x=new"][..], "m"),
        (&["a=a", "gone/x=x", "m=a file"][..], "m"),
        (&["a=a", "gone/x=x"][..], "m"),
    ] {
        let farm = farm(model);
        let Some(output) = run(&farm, "mount -t tmpfs none $H/etc/web/m", "held") else { return };
        assert_done(&output);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&format!("held: web:{held}")) && said.contains("a mount point"), "{said}");
        farm.assert_clean();
    }
}

#[test]
fn a_mount_deep_in_a_directory_that_goes_is_held() {
    let farm = farm(&["a=a", "m/x=x"]);
    build(&farm.live(), &["gone/deep/"]);
    build(&farm.home().join("twin"), &["gone/deep/"]);
    let Some(output) = run(&farm, "mount -t tmpfs none $H/etc/web/gone/deep", "held") else { return };
    assert_done(&output);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("held: web:gone/deep is a mount point"), "{said}");
}

#[test]
fn a_full_disk_is_refused_with_the_figures() {
    let farm = farm(&["a=a"]);
    let mount = "mount -t tmpfs -o size=1m none $H/etc
        mkdir $H/etc/web
        echo a > $H/etc/web/a
        dd if=/dev/zero of=$H/etc/ballast bs=1k count=900 2>/dev/null";
    build(&farm.model(), &[format!("large={}", "x".repeat(600_000))]);
    let Some(output) = run(&farm, mount, "full") else { return };
    assert_done(&output);
}
