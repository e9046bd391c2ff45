//! The cost of a piece of work: seconds, bytes on the wire, CPU, memory.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    crew::{Cpu, Crew},
    network::{Network, Side},
    proc,
};

/// The interval of reading the memory of all processes.
const TICK: Duration = Duration::from_millis(20);

/// The cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Bytes on the link, in both directions.
    pub(crate) wire: u64,
    pub(crate) cpu: Cpu,
    /// The largest sum of the peak sizes of the processes at one time on the manager's side.
    pub(crate) manager_peak: u64,
    /// The same sum on the members' side.
    pub(crate) members_peak: u64,
}

/// A measurement under way.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    wire: u64,
    cpu: Cpu,
    memory: Memory,
}

impl Meter {
    /// Begins; earlier costs of `crew` do not count.
    pub(crate) fn begin(network: &Network, crew: &Crew<'_>) -> Self {
        let memory = Memory::watch();
        Self { cpu: crew.cpu(), wire: network.bytes(), memory, began: Instant::now() }
    }

    /// The time of the beginning.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// The cost until now.
    pub(crate) fn read(&self, network: &Network, crew: &Crew<'_>) -> Cost {
        let seconds = self.began.elapsed().as_secs_f64();
        let (manager_peak, members_peak) = self.memory.peaks();
        Cost { seconds, wire: network.bytes() - self.wire, cpu: crew.cpu() - self.cpu, manager_peak, members_peak }
    }
}

/// A thread that reads the memory of all processes, until it is dropped. Processes that live for less than a tick may be
/// missed, and growth in the last tick is missed, too.
#[derive(Debug)]
struct Memory {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    stop: AtomicBool,
    manager: AtomicU64,
    members: AtomicU64,
}

impl Memory {
    fn watch() -> Self {
        let seen = Arc::new(Seen::default());
        let (shared, own) = (seen.clone(), std::process::id());
        let here = proc::network(own);
        let thread = thread::spawn(move || {
            let mut sides = HashMap::new();
            while !shared.stop.load(Ordering::Relaxed) {
                shared.look(own, here, &mut sides);
                thread::park_timeout(TICK);
            }
        });
        Self { seen, thread: Some(thread) }
    }

    fn peaks(&self) -> (u64, u64) {
        (self.seen.manager.load(Ordering::Relaxed), self.seen.members.load(Ordering::Relaxed))
    }
}

impl Seen {
    /// Every process except for our own belongs to the contender; its network tells the side.
    fn look(&self, own: u32, here: Option<u64>, sides: &mut HashMap<u32, Side>) {
        let (mut manager, mut members) = (0, 0);
        for pid in proc::all().into_iter().filter(|&pid| pid != own) {
            if !sides.contains_key(&pid) && proc::is_ours(pid) {
                continue;
            }
            let Some(bytes) = proc::peak_bytes(pid) else { continue };
            let look = || if proc::network(pid) == here { Side::Manager } else { Side::Members };
            match sides.entry(pid).or_insert_with(look) {
                Side::Manager => manager += bytes,
                Side::Members => members += bytes,
            }
        }
        self.manager.fetch_max(manager, Ordering::Relaxed);
        self.members.fetch_max(members, Ordering::Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
