//! A local attacker who swaps links in under the writer on the member's machine.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use bellwether_proto::v1::{self, down};

use super::{
    forge::{Forged, change, directory, file},
    manager::Manager,
    runtime, says,
    talk::Verdict,
};
use crate::farm::random::Random;

/// Swaps a directory of the set for a link to the outside, and back, as fast as possible.
struct Attacker {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Attacker {
    fn start(directory: PathBuf, target: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let aside = directory.with_file_name("aside");
            let mut random = Random::seeded();
            // The pauses vary, so that the swap comes anywhere between the writer's first and last look.
            let mut linger = |most: usize| thread::sleep(Duration::from_micros(random.below(most) as u64));
            let mut swaps = 0;
            while !stopped.load(Ordering::Relaxed) {
                linger(30_000);
                // Each call may fail if the writer is in between, and the next round tries again.
                if fs::rename(&directory, &aside).is_ok() {
                    swaps += u32::from(symlink(&target, &directory).is_ok());
                    linger(3_000);
                    let _ = fs::remove_file(&directory);
                    if fs::rename(&aside, &directory).is_err() {
                        // The writer has made the directory again.
                        let _ = fs::remove_dir_all(&aside);
                    }
                }
            }
            swaps
        });
        Self { stop, thread }
    }

    fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the attacker's thread")
    }
}

/// Repairs the set as an administrator does after the attack: the directory is a directory again.
fn mend(set: &Path) {
    let (directory, aside) = (set.join("conf.d"), set.join("aside"));
    if fs::symlink_metadata(&directory).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(&directory).expect("the link");
    }
    if !directory.exists() && fs::rename(&aside, &directory).is_err() {
        fs::create_dir(&directory).expect("the directory");
    }
    let _ = fs::remove_dir_all(&aside);
}

/// All content of the outside.
fn outside(manager: &Manager) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut open = vec![manager.member().home.join("outside"), manager.member().home.join("sets/neighbour")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
        }
        found.push((path.clone(), fs::read(&path).ok()));
    }
    found.sort();
    found
}

/// Requests a sync like `bellwether sync`.
fn asked_to_sync(manager: &Manager) -> Verdict {
    runtime().block_on(async {
        let mut talk = manager.talk().await;
        talk.send(down::Message::Sync(v1::Sync { request: 1 })).await;
        talk.verdict().await
    })
}

/// Requests a sync, which may fail under attack. It may also complete a switch that was `stuck` half done.
fn try_sync(manager: &mut Manager, stuck: &Forged) {
    match asked_to_sync(manager) {
        Verdict::Done(report) if report.revision.as_ref() == stuck.header.id().0.as_bytes() => manager.taken(stuck),
        Verdict::Done(_) | Verdict::Refused(_) | Verdict::Failed(_) => {}
        other => panic!("a sync: {other:?}"),
    }
}

/// Brings the member's sets to the held revision.
fn sync(manager: &Manager, case: &str) {
    let root = asked_to_sync(manager).taken(case).root;
    assert_eq!(root.as_ref(), manager.head.header().root.as_bytes(), "{case}");
}

#[test]
fn a_link_swapped_in_under_the_writer_is_never_followed() {
    let mut manager = Manager::play();
    let set = manager.member().web("");
    let before = outside(&manager);
    let attacker = Attacker::start(set.join("conf.d"), manager.member().home.join("outside/deep"));
    let (mut done, mut refused, mut failed) = (0, 0, 0);
    let mut stuck = manager.good();
    for round in 0..40 {
        let content = format!("round {round}").into_bytes();
        let sub = format!("conf.d/dir{round}");
        let changes = vec![
            change(&sub, directory()),
            change(format!("{sub}/file"), file(&content)),
            change("conf.d/sentinel", file(&content)),
            change("conf.d/site.conf", file(&content)),
        ];
        let forged = manager.forge(changes, vec![content]);
        let (offer, bytes) = forged.pack();
        let verdict = runtime().block_on(async {
            let mut talk = manager.talk().await;
            talk.offer(offer, &bytes).await;
            talk.verdict().await
        });
        match verdict {
            Verdict::Done(_) => {
                done += 1;
                manager.taken(&forged);
            }
            // The member is in error until a sync succeeds, which may fail under attack.
            Verdict::Refused(why) if why.starts_with("in error") => try_sync(&mut manager, &stuck),
            Verdict::Refused(_) => refused += 1,
            Verdict::Failed(_) => {
                failed += 1;
                stuck = forged;
                try_sync(&mut manager, &stuck);
            }
            other => panic!("round {round}: {other:?}"),
        }
        assert_eq!(outside(&manager), before, "round {round}: written outside the set");
    }
    let swaps = attacker.stop();
    assert!(
        swaps > 0 && done > 0 && refused + failed > 0,
        "{swaps} swaps: {done} done, {refused} refused, {failed} failed"
    );
    mend(&set);
    try_sync(&mut manager, &stuck);
    sync(&manager, "after the attack");
    assert_eq!(outside(&manager), before, "the sync wrote outside the set");
    let good = manager.good();
    manager.push(&good, "after the attack");
    eprintln!("{swaps} swaps: {done} done, {refused} refused, {failed} failed");
}

#[test]
fn a_link_in_a_directorys_place_is_held_and_named() {
    let mut manager = Manager::play();
    let set = manager.member().web("");
    let before = outside(&manager);
    fs::rename(set.join("conf.d"), manager.member().home.join("aside")).expect("moved");
    symlink("../../outside/deep", set.join("conf.d")).expect("a link");
    for (case, path) in
        [("a file there", "conf.d/sentinel"), ("a new one", "conf.d/new"), ("an old one", "conf.d/site.conf")]
    {
        let forged = manager.forge(vec![change(path, file(b"evil"))], vec![b"evil".to_vec()]);
        let (offer, bytes) = forged.pack();
        let said = runtime().block_on(async {
            let mut talk = manager.talk().await;
            talk.offer(offer, &bytes).await;
            talk.verdict().await.refusal(case)
        });
        says(case, &said, &["symbolic link", "not followed"]);
        assert_eq!(outside(&manager), before, "{case}");
    }
    // A sync removes the link and puts the directory back, and touches nothing behind the link.
    sync(&manager, "a link in a directory's place");
    assert!(fs::symlink_metadata(set.join("conf.d")).expect("there").is_dir());
    assert_eq!(outside(&manager), before);
    let good = manager.good();
    manager.push(&good, "after the sync");
}
