//! One history: a farm and a script of changes and faults, drawn from the seed. After them comes peace, in which an operator
//! solves the shown problems and all servers must come together.

use std::{collections::BTreeSet, fmt, time::Duration};

use bellwether_proto::{
    name::ServerName,
    record::{Batch, Level, Policy, Record, Role, RolloutPolicy, Server, SignedRecord, Version},
    revision::{Epoch, GroupId, Header, Number, SignedHeader},
};
use bellwether_random::Rng;

use crate::{
    attacker::Attacker,
    changes::Changes,
    delays::Delays,
    disk::{Disk, Held},
    faults::Faults,
    keys,
    met::Met,
    operator::Operator,
    rules::Rules,
    server,
    world::World,
};

const STEP: Duration = Duration::from_millis(20);
/// The time after the faults within which all servers must have come together.
const PEACE_MS: u64 = 20_000;
/// The earliest time after the faults at which all servers have met each other.
const MET_MS: u64 = 1_000;

/// A history that broke an invariant.
#[derive(Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// The broken rule.
    pub what: String,
    /// The story, line by line.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "history {}: {}", self.seed, self.what)?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Runs the history of that seed by those rules, and returns its events.
///
/// # Errors
/// An invariant was broken, or the farm did not come together; the error has the whole story.
pub fn run(seed: u64, rules: Rules) -> Result<Met, Box<Failure>> {
    let history = History::new(seed, rules, false);
    let world = history.world.clone();
    let Err((_, what)) = history.run() else { return Ok(world.borrow().met) };
    // This runs the history again, with the story.
    let (story, what) = match History::new(seed, rules, true).run() {
        Err((story, again)) if again == what => (story, what),
        Err((story, again)) => (story, format!("{what}; when it was run again: {again}")),
        Ok(story) => (story, format!("{what}; but not when it was run again")),
    };
    Err(Box::new(Failure { seed, what, story }))
}

/// The story of that seed, with any result.
#[must_use]
pub fn tell(seed: u64, rules: Rules) -> Vec<String> {
    History::new(seed, rules, true).run().unwrap_or_else(|(story, _)| story)
}

pub(crate) struct History {
    pub(crate) sim: turmoil::Sim<'static>,
    pub(crate) world: World,
    pub(crate) rng: Rng,
    seed: u64,
    pub(crate) servers: usize,
    /// The machine that can become a copy of another one, in some histories.
    pub(crate) spare: Option<usize>,
}

/// The host name of a machine, which is also the name of its server.
pub(crate) fn host(machine: usize) -> String {
    format!("web{machine}")
}

pub(crate) fn name(machine: usize) -> ServerName {
    host(machine).parse().expect("a name")
}

type Story = Vec<String>;

impl History {
    fn new(seed: u64, rules: Rules, tell: bool) -> Self {
        let mut rng = Rng::new(seed);
        let servers = 3 + rng.below(3);
        let mut sim = turmoil::Builder::new()
            .rng_seed(rng.number())
            .tick_duration(STEP)
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(5 + 20 * rng.below(3) as u64))
            .tcp_capacity(4_096)
            .build();
        let spare = rng.one_in(4).then_some(servers);
        let rollout = waves(&mut Rng::new(seed.rotate_left(48)));
        let validating = Rng::new(seed.rotate_left(24)).one_in(3);
        let world = farm(servers, spare, rules, tell, (rollout, validating, &mut rng));
        for machine in (0..servers).chain(spare) {
            let world = world.clone();
            sim.host(host(machine), move || server::run(world.clone(), machine));
        }
        Self { sim, world, rng, seed, servers, spare }
    }

    fn run(mut self) -> Result<Story, (Story, String)> {
        let what = self.live().err();
        let story = self.world.borrow_mut().story.take().unwrap_or_default();
        match what {
            None => Ok(story),
            Some(what) => Err((story, what)),
        }
    }

    fn live(&mut self) -> Result<(), String> {
        let mut aside = Rng::new(!self.seed);
        self.world.borrow_mut().min_serving = 1 + aside.below(self.servers - 2);
        let mut faults = Faults::new(&mut self.rng, aside);
        let mut attacker = Attacker::new(self, Rng::new(self.seed.rotate_left(32)));
        let mut delays = Delays::new(Rng::new(self.seed.rotate_left(16)));
        while faults.go_on(self) {
            if let Some(attacker) = &mut attacker {
                attacker.go_on(self);
            }
            if let Some(delays) = &mut delays {
                delays.go_on(self);
            }
            self.step()?;
        }
        Attacker::end(self);
        Delays::end(self);
        faults.end(self);
        let (mut operator, met, end) = (Operator::default(), self.now() + MET_MS, self.now() + PEACE_MS);
        loop {
            self.step()?;
            let settled = self.world.borrow().settled();
            let Err(missing) = settled else {
                if self.now() < met {
                    continue;
                }
                break;
            };
            if self.now() > end {
                return self.fails(format!("the farm does not come together: {missing}"));
            }
            operator.looks(self, &missing);
        }
        let lost = self.world.borrow().silently_lost();
        if lost.is_empty() { Ok(()) } else { self.fails(format!("4: changes {lost:?} were lost silently")) }
    }

    fn fails(&self, what: String) -> Result<(), String> {
        self.world.borrow_mut().breaks(what.clone());
        Err(what)
    }

    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.sim.elapsed().as_millis()).expect("a short history")
    }

    fn step(&mut self) -> Result<(), String> {
        self.world.borrow_mut().now_ms = self.now();
        self.sim.step().map_err(|e| format!("a server ended: {e}"))?;
        let dying = std::mem::take(&mut self.world.borrow_mut().dying);
        for machine in dying {
            self.sim.crash(host(machine));
        }
        let up: Vec<bool> =
            (0..self.servers).chain(self.spare).map(|machine| self.sim.is_host_running(host(machine))).collect();
        let mut world = self.world.borrow_mut();
        world.look(&up);
        world.running = up;
        world.broken.clone().map_or(Ok(()), Err)
    }
}

/// A policy for waves, in some histories.
fn waves(rng: &mut Rng) -> Option<RolloutPolicy> {
    let batch = [Batch::Members(1), Batch::Percent(50)][rng.below(2)];
    let (canary, stop_at) = (rng.below(2) as u32, 1 + rng.below(2) as u32);
    let (soak_ms, take_back) = (100 * rng.below(3) as u64, !rng.one_in(4));
    rng.one_in(4).then_some(RolloutPolicy { canary, batch, soak_ms, stop_at, take_back })
}

/// Servers that all hold the first revision; the first of them is the manager.
fn farm(
    servers: usize,
    spare: Option<usize>,
    rules: Rules,
    tell: bool,
    (rollout, validating, rng): (Option<RolloutPolicy>, bool, &mut Rng),
) -> World {
    let group = GroupId::from([7; 16]);
    let mut candidate = |machine: usize| machine < 2 || !rng.one_in(4);
    let server = |machine: usize| Server {
        name: name(machine),
        key: keys::public(machine),
        address: format!("{}:7100", host(machine)),
        role: if machine == 0 { Role::Manager } else { Role::Member },
        candidate: candidate(machine),
        backends: Vec::new(),
        drained: false,
    };
    let record = Record {
        level: Level::NEWEST,
        group,
        version: Version { epoch: Epoch(1), version: 1 },
        servers: (0..servers).map(server).collect(),
        removed: Vec::new(),
        refused: Vec::new(),
        policy: Policy { rollout: rollout.clone(), ..Policy::new(Vec::new()) },
        log: Vec::new(),
        previous: None,
    };
    let header = Header {
        group,
        number: Number { epoch: Epoch(1), sequence: 1 },
        parent: None,
        manager: name(0),
        incarnation: 1,
        time_ms: 0,
        author: String::new(),
        message: String::new(),
        labels: Default::default(),
        root: bellwether_proto::hash::Hash::of(b"first"),
    };
    let key = keys::key(0);
    let (current, first) = (SignedRecord::sign(record, &key).expect("a good record"), SignedHeader::sign(header, &key));
    let disks = (0..servers).map(|machine| {
        let mut disk = Disk::new(name(machine), machine);
        disk.held = Some(Held { current: current.clone(), chain: vec![current.clone()] });
        disk.history = BTreeSet::from([first.id()]);
        disk.bases = BTreeSet::from([first.id()]);
        disk.sets.revision = Some(first.id());
        disk.at = Some(first.clone());
        disk
    });
    let empty = spare.map(|machine| Disk::new(name(machine), machine));
    let disks = disks.collect::<Vec<_>>().into_iter().chain(empty).collect();
    let world = World::new(disks, rules, tell, Rng::new(rng.number()));
    world.borrow_mut().retired.extend(spare);
    world.borrow_mut().validating = validating;
    world.borrow_mut().refusing = rollout.is_some() || validating;
    world.borrow_mut().learn(first, Changes::default());
    world
}
