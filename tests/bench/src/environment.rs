//! The machine and the programs of the measurements.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

use crate::{args::Args, run::run};

/// The machine and the programs.
#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    processor: String,
    cores: usize,
    memory: String,
    kernel: String,
    bellwether: String,
    rsync: String,
    lsyncd: String,
    seed: u64,
    repetitions: u16,
    /// Whether all servers share one file system, instead of one for each.
    shared_disk: bool,
    /// The codec that is called deflate.
    codec: String,
    /// The load average of one minute before the first measurement, which is other programs'.
    load_before: f64,
    /// Seconds of the whole run.
    pub(crate) took: f64,
}

impl Environment {
    /// Collects the data.
    pub(crate) fn look(bellwether: &Path, args: &Args) -> Self {
        Self {
            processor: line_of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory: line_of("/proc/meminfo", "MemTotal"),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            bellwether: first_line(Command::new(bellwether).arg("--version")),
            rsync: first_line(Command::new("rsync").arg("--version")),
            lsyncd: first_line(Command::new("lsyncd").arg("--version")),
            seed: args.seed,
            repetitions: args.repeat,
            shared_disk: args.shared_disk,
            codec: args.codec.clone(),
            load_before: load(),
            took: 0.0,
        }
    }

    /// Whether other programs are at work on this machine, in words.
    pub(crate) fn warning(&self) -> Option<String> {
        let busy = self.load_before >= 1.0;
        busy.then(|| {
            format!("others are at work on this machine (load {:.1}): figures will not mean much", self.load_before)
        })
    }

    /// For people.
    pub(crate) fn markdown(&self) -> String {
        format!(
            "{} cores of {}, {}, Linux {}. {}; {}; {}. {}; deflate is {}. Seed {}, {} repetition(s), {:.0} s in \
             all; load before: {:.2}.\n",
            self.cores,
            self.processor,
            self.memory,
            self.kernel,
            self.bellwether,
            self.rsync,
            self.lsyncd,
            if self.shared_disk { "One file system for all servers" } else { "A file system for each server" },
            self.codec,
            self.seed,
            self.repetitions,
            self.took,
            self.load_before
        )
    }
}

/// The load average of the last minute.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

fn line_of(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key)).and_then(|line| line.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn first_line(command: &mut Command) -> String {
    let said = run(command).unwrap_or_default();
    said.lines().next().unwrap_or("unknown").split_whitespace().collect::<Vec<_>>().join(" ")
}
