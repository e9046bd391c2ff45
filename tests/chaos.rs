//! Random faults on real agents: kill -9, networks that fall apart, promotions, restored states, edits. After that, in peace,
//! an operator follows the monitor's advice. All servers must come together, and every acknowledged change and edit must be in
//! force, kept, or named as lost (invariants 1 to 4). The simulation does the same to the rules alone, and far more often.
//!
//! `TEST_SEED` repeats the choices of a run; `CHAOS_STEPS` is the number of faults (12 by default).

mod operator;

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc, thread, time::Duration};

use rustix::process::Signal;

use self::operator::Operator;
use crate::{
    farm::{Farm, Network, Output, compare::find_below, random::Random},
    restoring::{back_up, restore},
};

/// The manager and its members.
const SERVERS: usize = 4;
/// The time limit of a command that other servers may not answer.
const PATIENCE: &str = "--timeout=4s";
/// The points at which an agent may die by itself.
const FAILPOINTS: [&str; 12] = [
    "apply.staged",
    "apply.cleaned",
    "publish.signed",
    "publish.written",
    "publish.committed",
    "publish.announced",
    "record.saved",
    "handover.waited",
    "handover.signed",
    "handover.saved",
    "takeover.saved",
    "procedure.acted",
];

/// A change that must not get lost.
struct Change {
    file: String,
    text: String,
}

/// A farm and its story.
struct Chaos {
    farm: Farm,
    network: Option<Arc<Network>>,
    random: Random,
    changes: Vec<Change>,
    /// The agents that hang.
    hung: BTreeSet<usize>,
    /// The states that may be restored.
    backups: Vec<(usize, PathBuf)>,
    /// The outputs of commands.
    said: Vec<String>,
}

#[test]
fn invariants_1_to_4_hold_through_random_faults_of_real_agents() {
    let steps = std::env::var("CHAOS_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(12);
    let mut chaos = Chaos::begin();
    for _ in 0..steps {
        chaos.step();
    }
    chaos.end();
    let mut operator = Operator::default();
    operator.brings_together(&mut chaos);
    chaos.farm.assert_equal();
    let lost: Vec<&str> = chaos.changes.iter().filter(|change| !chaos.knows(change)).map(|c| &*c.file).collect();
    assert!(lost.is_empty(), "lost silently: {lost:?}\n{}", chaos.story());
}

impl Chaos {
    fn begin() -> Self {
        let mut random = Random::seeded();
        // Half of the farms are on networks that can fall apart, if this machine can make them.
        let network = (random.below(2) == 0).then(|| Network::new(SERVERS)).flatten().map(Arc::new);
        let plan = Farm::plan().members(SERVERS - 1);
        let plan = match &network {
            Some(network) => plan.on(network),
            None => plan,
        };
        let farm = plan.start_with(|manager| manager.write("index.html", "one"));
        Self {
            farm,
            network,
            random,
            changes: Vec::new(),
            hung: BTreeSet::new(),
            backups: Vec::new(),
            said: Vec::new(),
        }
    }

    fn tell(&mut self, line: String) {
        eprintln!("chaos: {line}");
        self.said.push(line);
    }

    /// The story so far, for a failure.
    fn story(&self) -> String {
        self.said.join("\n")
    }

    fn name(&self, index: usize) -> String {
        self.farm.server(index).name.clone()
    }

    /// Gives a command at that server, and remembers its output.
    fn command(&mut self, index: usize, arguments: &[&str]) -> Output {
        self.command_with_input(index, arguments, "")
    }

    fn command_with_input(&mut self, index: usize, arguments: &[&str], input: &str) -> Output {
        let output = self.farm.server(index).command_with_input(arguments, input);
        let said = [output.stdout.trim(), output.stderr.trim()].join(" ").replace('\n', " | ");
        self.tell(format!("{}$ {} → {:?}: {said}", self.name(index), arguments.join(" "), output.code));
        output
    }

    /// Whether the server runs and would answer if its network works.
    fn runs(&mut self, index: usize) -> bool {
        if self.hung.contains(&index) {
            return false;
        }
        let server = self.farm.server_mut(index);
        if server.ended().is_some() {
            server.kill();
        }
        server.runs()
    }

    /// A running server that leads, if there is one; otherwise any running server.
    fn manager(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..SERVERS).filter(|index| self.runs(*index)).collect();
        let leads = |index: &usize| operator::leads(&self.farm, *index);
        running.iter().copied().find(leads).or(running.first().copied())
    }

    fn step(&mut self) {
        thread::sleep(Duration::from_millis(self.random.below(250) as u64));
        let index = self.random.below(SERVERS);
        match self.random.below(29) {
            0..=6 => self.put(),
            7 | 8 => self.edit(index),
            9 | 10 => self.kill(index),
            11..=13 => self.start(index),
            14 => self.cut(index),
            15 => self.split(),
            16 | 17 => self.heal(),
            18 => self.promote(index),
            19 | 20 => self.take_over(index),
            21 => self.manage(index),
            22 => self.maintain(index),
            23 => self.back_up(index),
            24 => self.restore(),
            25 => self.hang(index),
            26 | 27 => self.go_on(),
            _ => self.put(),
        }
    }

    fn change(&mut self) -> Change {
        let number = self.said.len();
        Change { file: format!("change-{number}.conf"), text: format!("the text of change-{number}\n") }
    }

    /// A client's change; it must not get lost once it is acknowledged.
    fn put(&mut self) {
        let Some(index) = self.manager() else { return };
        let change = self.change();
        let (target, message) = (format!("web:{}", change.file), format!("message of {}", change.file));
        let put = ["put", &target, "--message", &message, "--yes", PATIENCE];
        let output = self.command_with_input(index, &put, &change.text);
        if output.code == Some(0) {
            self.changes.push(change);
        }
    }

    /// An edit by hand at any server.
    fn edit(&mut self, index: usize) {
        let change = self.change();
        self.tell(format!("{} is edited: {}", self.name(index), change.file));
        self.farm.server(index).write(&change.file, &change.text);
        self.changes.push(change);
    }

    fn kill(&mut self, index: usize) {
        if self.runs(index) {
            self.tell(format!("{} is killed", self.name(index)));
            self.farm.server_mut(index).kill();
        }
    }

    /// Makes the server hang: it runs, but does nothing.
    fn hang(&mut self, index: usize) {
        if self.runs(index) {
            self.tell(format!("{} hangs", self.name(index)));
            self.farm.server(index).signal(Signal::STOP);
            self.hung.insert(index);
        }
    }

    fn go_on(&mut self) {
        for index in std::mem::take(&mut self.hung) {
            self.tell(format!("{} goes on", self.name(index)));
            self.farm.server(index).signal(Signal::CONT);
        }
    }

    fn start(&mut self, index: usize) {
        if self.hung.contains(&index) || self.runs(index) || !self.farm.server(index).state().exists() {
            return;
        }
        let point = FAILPOINTS[self.random.below(FAILPOINTS.len())];
        let armed: &[(&str, &str)] = if self.random.below(2) == 0 { &[("BELLWETHER_FAILPOINT", point)] } else { &[] };
        self.tell(format!("{} starts, with {armed:?}", self.name(index)));
        self.farm.server_mut(index).start_with(armed);
    }

    fn cut(&mut self, index: usize) {
        if let Some(network) = self.network.clone() {
            self.tell(format!("{} is cut off", self.name(index)));
            network.split(&[&[], &[index]]);
        }
    }

    fn split(&mut self) {
        if let Some(network) = self.network.clone() {
            let part: Vec<usize> = (0..SERVERS).filter(|_| self.random.below(2) == 0).collect();
            self.tell(format!("the network is split: {part:?} and the others"));
            network.split(&[&[], &part]);
        }
    }

    fn heal(&mut self) {
        if let Some(network) = self.network.clone() {
            self.tell("the network is whole".to_owned());
            network.heal();
        }
    }

    fn promote(&mut self, index: usize) {
        let (Some(manager), name) = (self.manager(), self.name(index)) else { return };
        let leave: &[&str] = [&[][..], &["--disable-old"], &["--remove-old"]][self.random.below(3)];
        self.command(manager, &[&["promote", &name, "--yes", PATIENCE], leave].concat());
    }

    fn take_over(&mut self, index: usize) {
        if self.runs(index) {
            let insist: &[&str] = [&[][..], &["--force", "--accept"]][self.random.below(2)];
            self.command(index, &[&["promote", "--self", "--yes", "--timeout=10s"], insist].concat());
        }
    }

    fn manage(&mut self, index: usize) {
        let (Some(manager), name) = (self.manager(), self.name(index)) else { return };
        let what = ["disable", "remove", "enable", "add"][self.random.below(4)];
        self.command(manager, &["server", what, &name, "--yes", PATIENCE]);
    }

    fn maintain(&mut self, index: usize) {
        let (Some(manager), name) = (self.manager(), self.name(index)) else { return };
        let other = self.random.below(SERVERS);
        let other = self.name(other);
        let what = ["start", "finish"][self.random.below(2)];
        let promote: &[&str] = if what == "start" && index == manager { &["--promote", &other] } else { &[] };
        self.command(manager, &[&["maintenance", what, &name, "--yes", "--wait=none", PATIENCE], promote].concat());
    }

    /// Backs up a running server that is whole: a copy of a state that is being written is no backup.
    fn back_up(&mut self, index: usize) {
        if self.runs(index) && self.backups.is_empty() {
            self.tell(format!("{} is backed up", self.name(index)));
            let backup = back_up(self.farm.server_mut(index));
            self.backups.push((index, backup));
        }
    }

    /// Restores a server. Changes that only this server had are lost with its state, and no program can bring them back.
    fn restore(&mut self) {
        let Some((index, backup)) = self.backups.pop() else { return };
        if !self.runs(index) {
            return self.backups.push((index, backup));
        }
        self.tell(format!("{} comes back from its backup", self.name(index)));
        let kept: Vec<usize> = (0..self.changes.len()).filter(|at| self.is_kept(index, &self.changes[*at])).collect();
        restore(self.farm.server_mut(index), &backup);
        let gone = |chaos: &Self, at: &usize| !(0..SERVERS).any(|other| chaos.is_somewhere(other, &chaos.changes[*at]));
        let gone: Vec<usize> = kept.into_iter().filter(|at| gone(self, at)).collect();
        gone.into_iter().rev().for_each(|at| drop(self.changes.remove(at)));
    }

    /// Begins the peace: everything runs and is connected.
    fn end(&mut self) {
        self.heal();
        self.go_on();
        self.tell("peace".to_owned());
        for index in 0..SERVERS {
            // A restart without a failpoint: the old failpoints are gone.
            self.farm.server_mut(index).kill();
            self.farm.server_mut(index).start();
        }
    }

    fn is_kept(&self, index: usize, change: &Change) -> bool {
        let kept = find_below(&self.farm.server(index).state().join("recovery"), &change.file);
        kept.is_some_and(|path| fs::read_to_string(path).is_ok_and(|text| text == change.text))
    }

    fn is_somewhere(&self, index: usize, change: &Change) -> bool {
        let there = fs::read_to_string(self.farm.server(index).web(&change.file));
        there.is_ok_and(|text| text == change.text) || self.is_kept(index, change)
    }

    /// Whether that change is in force or kept at the server, or a command named it as lost.
    fn knows(&self, change: &Change) -> bool {
        let message = format!("message of {}", change.file);
        let log = || self.farm.manager().command(&["group", "show", "--log"]).stdout;
        let named = |text: &str| text.lines().any(|line| line.contains("lost") && line.contains(&message));
        (0..SERVERS).any(|index| self.is_somewhere(index, change))
            || named(&log())
            || self.said.iter().any(|s| named(s))
    }
}
