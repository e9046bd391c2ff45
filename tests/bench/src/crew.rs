//! The processes of one contender, with their sides and their costs so far. All are ended when this is dropped.

use std::{
    fs::{self, File},
    ops::{Add, Sub},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::Serialize;

use crate::{
    network::{Network, Side},
    problem::{Problem, Result},
    proc,
    run::what,
};

/// The interval of checks for the end of a process.
const NAP: Duration = Duration::from_micros(500);
/// The part of a log that is shown with a problem, in bytes.
const SHOWN: usize = 1_500;

/// Seconds of CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Cpu {
    pub(crate) manager: f64,
    pub(crate) members: f64,
}

impl Cpu {
    fn on(side: Side, seconds: f64) -> Self {
        match side {
            Side::Manager => Self { manager: seconds, members: 0.0 },
            Side::Members => Self { manager: 0.0, members: seconds },
        }
    }
}

impl Add for Cpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { manager: self.manager + other.manager, members: self.members + other.members }
    }
}

impl Sub for Cpu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { manager: self.manager - other.manager, members: self.members - other.members }
    }
}

/// A process that was started, and whose end nobody has waited for.
#[derive(Debug)]
pub(crate) struct Running {
    what: String,
    side: Side,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, and the CPU that the process and its children had used, if it has ended.
    fn ended(&mut self) -> Result<Option<(ExitStatus, f64)>> {
        let failed = |what: &str| Problem::new(format!("cannot wait for {what}"));
        let pid = Pid::from_raw(self.pid().cast_signed()).ok_or_else(|| failed(&self.what))?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if waitid(WaitId::Pid(pid), look).map_err(|_| failed(&self.what))?.is_none() {
            return Ok(None);
        }
        // The kernel adds this to our own account at the wait, so many short processes lose nothing by rounding.
        let before = proc::reaped_seconds();
        let status = self.child.wait().map_err(|_| failed(&self.what))?;
        Ok(Some((status, proc::reaped_seconds() - before)))
    }

    /// The end of its output.
    fn said(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(SHOWN)..]).trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A process that has ended needs no signal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processes of one contender.
#[derive(Debug)]
pub(crate) struct Crew<'a> {
    network: &'a Network,
    logs: PathBuf,
    running: Vec<Running>,
    /// CPU of the processes that have ended.
    spent: Cpu,
    started: usize,
}

impl<'a> Crew<'a> {
    /// An empty crew, whose outputs go to files in `logs`, which is made.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(network: &'a Network, logs: &Path) -> Result<Self> {
        fs::create_dir_all(logs).map_err(Problem::with("create", logs))?;
        Ok(Self { network, logs: logs.to_owned(), running: Vec::new(), spent: Cpu::default(), started: 0 })
    }

    fn spawn(&mut self, side: Side, command: &mut Command) -> Result<Running> {
        self.started += 1;
        let log = self.logs.join(self.started.to_string());
        let file = File::create(&log).map_err(Problem::with("create", &log))?;
        let errors = file.try_clone().map_err(Problem::with("write", &log))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = self.network.spawn(side, command)?;
        Ok(Running { what: what(command), side, child, log })
    }

    /// Starts a process that runs until the crew is dropped, and returns its process id.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn start(&mut self, side: Side, mut command: Command) -> Result<u32> {
        let running = self.spawn(side, &mut command)?;
        let pid = running.pid();
        self.running.push(running);
        Ok(pid)
    }

    /// Runs all at once, each to its end, and returns their outputs.
    ///
    /// # Errors
    /// One failed, or did not end within `patience`; the error has its output. The others are ended.
    pub(crate) fn run(&mut self, side: Side, commands: Vec<Command>, patience: Duration) -> Result<Vec<String>> {
        self.run_then(side, commands, patience, |_, _, said| Ok(said))
    }

    /// As [`Crew::run`], and calls `then` with the index and the output of each that ends.
    ///
    /// # Errors
    /// As before, or those of `then`.
    pub(crate) fn run_then<T>(
        &mut self,
        side: Side,
        mut commands: Vec<Command>,
        patience: Duration,
        mut then: impl FnMut(&mut Self, usize, String) -> Result<T>,
    ) -> Result<Vec<T>> {
        let began = Instant::now();
        let started: Result<Vec<_>> = commands.iter_mut().map(|command| self.spawn(side, command)).collect();
        let mut waiting: Vec<_> = started?.into_iter().enumerate().collect();
        let mut results: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            for (index, mut process) in std::mem::take(&mut waiting) {
                match self.look_at(&mut process)? {
                    None => waiting.push((index, process)),
                    Some(said) => results[index] = Some(then(self, index, said)?),
                }
            }
            if before == waiting.len() {
                patient(&waiting[0].1, began, patience)?;
                thread::sleep(NAP);
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    fn look_at(&mut self, process: &mut Running) -> Result<Option<String>> {
        let Some((status, cpu)) = process.ended()? else { return Ok(None) };
        self.spent = self.spent + Cpu::on(process.side, cpu);
        if status.success() {
            return Ok(Some(fs::read_to_string(&process.log).unwrap_or_default()));
        }
        Err(Problem::new(format!("{}: {status}: {}", process.what, process.said())))
    }

    /// Waits for the end of a started process.
    ///
    /// # Errors
    /// It failed, or did not end within `patience`.
    pub(crate) fn finish(&mut self, pid: u32, patience: Duration) -> Result<()> {
        let began = Instant::now();
        let Some(at) = self.running.iter().position(|process| process.pid() == pid) else { return Ok(()) };
        let mut process = self.running.swap_remove(at);
        while self.look_at(&mut process)?.is_none() {
            patient(&process, began, patience)?;
            thread::sleep(NAP);
        }
        Ok(())
    }

    /// The output of a running process so far.
    pub(crate) fn printed(&self, pid: u32) -> String {
        let process = self.running.iter().find(|process| process.pid() == pid);
        process.map(|process| fs::read_to_string(&process.log).unwrap_or_default()).unwrap_or_default()
    }

    /// CPU of all so far: of running and ended processes, and of the children that they have waited for.
    pub(crate) fn cpu(&self) -> Cpu {
        let running =
            self.running.iter().map(|process| Cpu::on(process.side, proc::cpu_seconds(process.pid()).unwrap_or(0.0)));
        running.fold(self.spent, Cpu::add)
    }

    /// The sum of the peak memory of the running processes on that side.
    pub(crate) fn peak(&self, side: Side) -> u64 {
        let there = self.running.iter().filter(|process| process.side == side);
        there.filter_map(|process| proc::peak_bytes(process.pid())).sum()
    }

    /// Waits until no running process has a child at work.
    ///
    /// # Errors
    /// A process still has a child after `patience`.
    pub(crate) fn settle(&self, patience: Duration) -> Result<()> {
        let began = Instant::now();
        for process in &self.running {
            while proc::has_children(process.pid()) {
                patient(process, began, patience)?;
                thread::sleep(NAP * 4);
            }
        }
        Ok(())
    }

    /// The last output of the running processes, to explain a problem.
    pub(crate) fn said(&self) -> String {
        let each = self.running.iter().map(|process| format!("--- {}\n{}", process.what, process.said()));
        each.take(4).collect::<Vec<_>>().join("\n")
    }
}

fn patient(process: &Running, began: Instant, patience: Duration) -> Result<()> {
    if began.elapsed() < patience {
        return Ok(());
    }
    Err(Problem::new(format!("{} has not ended after {patience:?}: {}", process.what, process.said())))
}
