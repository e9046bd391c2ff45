//! A set in an overlay whose content is in a lower layer, as in a container's image: none of its directories can be moved.

use std::process::Command;

use super::{
    farm::{Farm, build},
    mounts::{assert_done, run},
};

const BEFORE: &[&str] = &[
    "a=a",
    "gone/x=x",
    "gone/deep@710",
    "gone/deep/y=y",
    "gone/deep/l->y",
    "link/z=z",
    "file/z=z",
    "moved/b=b",
    "moved/c/d=d",
    "l->a",
];
const AFTER: &[&str] = &["a=new", "link->a", "file=a file", "there/b=b", "there/c/d=d", "l/x=x"];

fn farm() -> Farm {
    let farm = Farm::new();
    build(&farm.live(), BEFORE);
    build(&farm.model(), AFTER);
    // The twin is what was there, to the second.
    let copied = Command::new("cp").arg("-aT").arg(farm.live()).arg(farm.home().join("twin")).status();
    assert!(copied.unwrap().success());
    farm
}

/// The set, or the directory that holds it, is the overlay.
const PLACES: [&str; 2] = ["etc/web", "etc"];

fn mounted(place: &str) -> String {
    format!(
        "mkdir $H/layers
        mount -t tmpfs none $H/layers
        mkdir $H/layers/lower $H/layers/upper $H/layers/work
        cp -a $H/{place}/. $H/layers/lower/
        mount -t overlay none -o redirect_dir=off,lowerdir=$H/layers/lower,upperdir=$H/layers/upper,workdir=$H/layers/work \
            $H/{place}"
    )
}

#[test]
fn directories_of_a_lower_layer_are_removed_replaced_and_made_again() {
    for place in PLACES {
        let farm = farm();
        let Some(output) = run(&farm, &mounted(place), "commit and compare") else { return };
        assert_done(&output);
    }
}

#[test]
fn what_was_removed_is_put_back() {
    for place in PLACES {
        let farm = farm();
        let script = format!("{}\nBELLWETHER_TEST_WHAT='take back' \"$@\"", mounted(place));
        let Some(output) = run(&farm, &script, "recover and compare") else { return };
        assert_done(&output);
    }
}

/// Kills `first` at each hit of `points`, in a namespace where the recovery then runs, too.
fn killed_at(points: &[&str], first: &str) {
    let mut kills = 0;
    for name in points {
        for hit in 1.. {
            let farm = farm();
            let script = format!(
                "{}\nif BELLWETHER_FAILPOINT={name}:{hit} BELLWETHER_TEST_WHAT='{first}' \"$@\" >&2; then echo ended; fi",
                mounted("etc/web")
            );
            let Some(output) = run(&farm, &script, "recover and compare") else { return };
            assert_done(&output);
            if String::from_utf8_lossy(&output.stdout).contains("ended") {
                assert!(hit > 1, "{first} never comes to {name}");
                break;
            }
            kills += 1;
        }
    }
    assert!(kills > 15, "{kills}");
}

#[test]
fn a_member_killed_while_it_takes_a_directory_apart_is_whole_again() {
    killed_at(&["apply.after-exchange", "apply.exchanged", "apply.commit"], "commit");
}

#[test]
fn a_member_killed_while_it_makes_the_directory_again_is_whole_again() {
    killed_at(&["apply.back-entry", "apply.back-synced"], "take back");
}

/// A directory that goes is taken apart; what somebody puts there meanwhile stays, as an edit.
#[test]
fn what_comes_into_a_directory_that_goes_is_an_edit() {
    let farm = farm();
    let script = format!(
        "{}
        BELLWETHER_FAILPOINT=apply.after-exchange=hold:$H/gate BELLWETHER_TEST_WHAT=commit \"$@\" >&2 &
        agent=$!
        while [ ! -e $H/gate.reached ]; do kill -0 $agent; sleep 0.05; done
        echo edited > $H/etc/web/gone/by-hand
        touch $H/gate
        wait $agent
        grep -q edited $H/etc/web/gone/by-hand
        rm -r $H/etc/web/gone",
        mounted("etc/web")
    );
    let Some(output) = run(&farm, &script, "recover and compare") else { return };
    assert_done(&output);
}
