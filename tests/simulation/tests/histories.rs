//! Seeded histories of whole farms keep invariants 1 to 4.
//!
//! `SIMULATION_HISTORIES=N` runs so many (1,000 without it), from `SIMULATION_FIRST=S` on (0 without it);
//! `SIMULATION_SEED=S` only that one, with its story.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use bellwether_simulation::{Failure, Met, Rules, run, tell};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn histories_keep_the_invariants() {
    if let Some(seed) = number("SIMULATION_SEED") {
        tell(seed, Rules::default()).iter().for_each(|line| println!("{line}"));
        run(seed, Rules::default()).unwrap_or_else(|failure| panic!("history {seed}: {}", failure.what));
        return;
    }
    let count = number("SIMULATION_HISTORIES").unwrap_or(1_000);
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    println!("{count} histories from {first} on");
    let (met, failed) = run_all(first..first + count);
    for failure in &failed {
        println!("history {}: {}", failure.seed, failure.what);
    }
    if let Some(first) = failed.first() {
        panic!("{} of {count} histories failed; the first (SIMULATION_SEED={}):\n{first}", failed.len(), first.seed);
    }
    for (what, times) in met.counts() {
        println!("{times:>8} {what}");
        assert!(times > 0 || count < 100, "no history has met: {what}");
    }
}

/// Runs them on all processors.
fn run_all(seeds: Range<u64>) -> (Met, Vec<Failure>) {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let (mut met, mut failed) = (Met::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (met, failed);
            }
            match run(seed, Rules::default()) {
                Ok(more) => met += more,
                Err(failure) => failed.push(*failure),
            }
        }
    };
    let (mut met, mut failed) = (Met::default(), Vec::new());
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (more, mut failures) = worker.join().expect("no history panics");
            met += more;
            failed.append(&mut failures);
        }
    });
    failed.sort_by_key(|failure| failure.seed);
    (met, failed)
}

#[test]
fn a_seed_is_the_same_history_again() {
    for seed in 0..5 {
        assert_eq!(tell(seed, Rules::default()), tell(seed, Rules::default()), "history {seed}");
    }
}
