//! The new tree at the set's own path, for one process, and here for one thread.

use std::{io, process::Command};

use super::farm::{Farm, assert_same, build, revision};
use crate::{
    apply::{Job, view},
    tree::Tree,
};

const BEFORE: &[&str] = &["a=a@600", "gone=gone", "d/x=x", "d/kept=kept", "old/deep/y=y", "dir/z=z", "l->a", "p=p"];
const AFTER: &[&str] = &["a=new@640", "d/x=new", "d/kept=kept", "n/y=y@604", "dir=file", "l->d/x", "p/q=q", "d@711"];

/// What a command prints that runs in a thread which sees what is staged.
fn seen(farm: &Farm, command: &str) -> io::Result<String> {
    let (before, target) = (farm.tree(&farm.live()), farm.tree(&farm.model()));
    let changes = before.diff(&target);
    let label = "1.7".to_owned();
    let job = Job { revision: revision(), label, live: &before, expected: &before, target: &target, changes };
    let staged = farm.staged(&job).unwrap();
    let file = staged.view()?;
    let live = farm.live();
    let seen = std::thread::scope(|scope| {
        let entered = scope.spawn(move || {
            view::enter(&file)?;
            let output = Command::new("sh").args(["-ec", command]).current_dir(live).output()?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8(output.stdout).unwrap())
        });
        entered.join().unwrap()
    });
    assert_same(&farm.tree(&farm.live()), &before);
    staged.switch().unwrap().commit();
    farm.assert_is_model();
    seen
}

/// Whether a thread may have mounts of its own here; says so where not.
fn allowed(seen: io::Result<String>) -> Option<String> {
    match seen {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bellwether_skip::skip("views", "this user may make no mount namespaces");
            None
        }
        other => Some(other.unwrap()),
    }
}

#[test]
fn a_command_sees_the_new_tree_and_nobody_else_does() {
    let mut farm = Farm::new();
    farm.rules.exclude = vec!["*.local".parse().unwrap()];
    build(&farm.live(), BEFORE);
    build(&farm.live(), &["d/x.local=mine"]);
    build(&farm.model(), AFTER);
    let list = "find . ! -type d -printf '%P %m ' -exec sh -c 'cat \"$1\"; echo' sh {} ';' | sort; stat -c %a d";
    let Some(seen) = allowed(seen(&farm, list)) else { return };
    let expected = "a 640 new\nd/kept 644 kept\nd/x 644 new\nd/x.local 644 mine\ndir 644 file\nl 777 new\nn/y 604 y\np/q 644 q\n711\n";
    assert_eq!(seen, expected);
}

#[test]
fn what_a_command_writes_reaches_nobody() {
    let farm = Farm::new();
    build(&farm.live(), BEFORE);
    build(&farm.model(), AFTER);
    // `seen` compares the set with what it was before, and then with the new revision.
    allowed(seen(&farm, "echo written > a; echo more > made; rm -r d; echo more > n/y"));
}

#[test]
fn a_set_that_is_not_there_yet_has_no_view() {
    let farm = Farm::new();
    std::fs::remove_dir(farm.live()).unwrap();
    build(&farm.model(), AFTER);
    let target = farm.tree(&farm.model());
    let before = Tree::empty(target.sets().iter().map(|set| set.rules.clone()));
    let changes = before.diff(&target);
    let label = "1.7".to_owned();
    let job = Job { revision: revision(), label, live: &before, expected: &before, target: &target, changes };
    let error = farm.staged(&job).unwrap().view().unwrap_err();
    assert!(error.to_string().ends_with("is not there yet"), "{error}");
}
