//! An nginx on this machine that balances with an upstream file. A server's lines are marked `down`, the file is
//! replaced atomically and tested, and nginx reloads it. On a failure the file is put back. A change is done when the
//! workers with the old file take no new connections; those that still have some count as the sessions.

mod upstream;

use std::{
    fs, io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use bellwether_local::{
    master::{self, Worker},
    process::Program,
};
use bellwether_proto::clock::now_ms;
use bellwether_store::durable;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use self::upstream::ServerLine;
use super::{
    Patience,
    fault::Fault,
    local::LocalNginx,
    rules::{Line, Standing, Who},
};

/// The most bytes of an upstream file.
const FILE: u64 = 1 << 20;

/// One nginx.
pub(super) struct Nginx<'a> {
    pub(super) local: &'a LocalNginx,
    /// Held while the file is changed.
    pub(super) turn: &'a Mutex<()>,
    pub(super) patience: Patience,
}

/// The upstream file as it was read.
struct Upstream {
    /// With links resolved: the file itself is replaced.
    path: PathBuf,
    text: String,
    servers: Vec<ServerLine>,
}

impl Nginx<'_> {
    /// The servers of the file. Each old worker counts for all of them, since its clients are not known.
    pub(super) async fn lines(&self) -> Result<Vec<Line>, Fault> {
        let upstream = self.read()?;
        let ending = self.workers()?.iter().filter(|worker| worker.ending == Some(true)).count();
        let line = |server: ServerLine| {
            let standing = if server.down { Standing::Drained } else { Standing::Serving };
            let sessions = if server.down { u64::try_from(ending).unwrap_or(u64::MAX) } else { 0 };
            let note = match (server.down, ending) {
                (false, _) => "not marked down".to_owned(),
                (true, 0) => "marked down".to_owned(),
                (true, ending) => format!("marked down, {ending} old workers of nginx still have connections"),
            };
            server.place.map(|place| Line { place, standing, sessions, note })
        };
        Ok(upstream.servers.into_iter().filter_map(line).collect())
    }

    /// Checks that the configuration is valid and the master runs.
    pub(super) async fn probe(&self) -> Result<(), Fault> {
        self.lines().await?;
        self.run("the test of its configuration", &self.local.test).await
    }

    /// Marks the server's lines `down`.
    pub(super) async fn drain(&self, who: &Who) -> Result<Vec<Line>, Fault> {
        self.mark(who, true).await
    }

    /// Removes the mark.
    pub(super) async fn ready(&self, who: &Who) -> Result<Vec<Line>, Fault> {
        self.mark(who, false).await
    }

    async fn mark(&self, who: &Who, down: bool) -> Result<Vec<Line>, Fault> {
        let _turn = self.turn.lock().await;
        let old = self.read()?;
        let is_who = |line: &&ServerLine| line.place.as_ref().is_some_and(|place| who.is_at(place));
        let meant: Vec<_> = old.servers.iter().filter(is_who).collect();
        if !meant.is_empty() {
            let text = upstream::marked(&old.text, &meant, down);
            // If it is marked already, nginx may not have read it: an earlier attempt may have been cut short.
            self.put(&old, &text).await?;
        }
        let wanted = if down { "drained" } else { "ready" };
        let mut lines = self.lines().await?;
        lines.retain(|line| who.is_at(&line.place));
        match lines.iter().find(|line| (line.standing == Standing::Drained) != down) {
            None => Ok(lines),
            Some(line) => {
                let (place, found) = (line.place.to_string(), line.note.clone());
                Err(Fault::Ignored { place, wanted, found })
            }
        }
    }

    /// Puts the file in force; on a failure restores the old one.
    async fn put(&self, old: &Upstream, text: &str) -> Result<(), Fault> {
        if text != old.text {
            replace(&old.path, text)?;
        }
        match self.put_in_force().await {
            Err(fault) if text != old.text => {
                replace(&old.path, &old.text)?;
                Err(Fault::PutBack { path: old.path.clone(), source: Box::new(fault) })
            }
            result => result,
        }
    }

    async fn put_in_force(&self) -> Result<(), Fault> {
        self.run("the test of its configuration", &self.local.test).await?;
        let before = self.workers()?;
        self.run("its reload", &self.local.reload).await?;
        let began = Instant::now();
        // `up` is zero where the caller checks whether a server is up, but new workers of nginx take a moment.
        let patience = self.patience.up.max(self.local.timeout);
        while !master::replaced(&before, &self.workers()?) {
            if began.elapsed() > patience {
                let what = "its workers were not replaced after the reload; see nginx's error log";
                return Err(Fault::Nginx(what.to_owned()));
            }
            sleep(self.patience.poll).await;
        }
        Ok(())
    }

    async fn run(&self, what: &'static str, command: &str) -> Result<(), Fault> {
        let start = |source| Fault::Start { command: command.to_owned(), source };
        let ended = (Program { command, environment: &[], user: None, limit: self.local.timeout })
            .run()
            .await
            .map_err(start)?;
        if ended.well {
            return Ok(());
        }
        let output = ended.output();
        Err(Fault::Command { what, command: command.to_owned(), how: ended.how, output })
    }

    fn workers(&self) -> Result<Vec<Worker>, Fault> {
        let pid_file = |source| Fault::File { action: "read", path: self.local.pid.clone(), source };
        let pid = master::pid(&self.local.pid).map_err(pid_file)?;
        let proc = |source| Fault::File { action: "read", path: PathBuf::from("/proc"), source };
        let workers = master::workers(pid).map_err(proc)?;
        if workers.is_empty() {
            let what = format!(
                "{} names process {pid}, which has no nginx workers: does nginx run, with a master process?",
                self.local.pid.display()
            );
            return Err(Fault::Nginx(what));
        }
        Ok(workers)
    }

    fn read(&self) -> Result<Upstream, Fault> {
        let file = |source| Fault::File { action: "read", path: self.local.file.clone(), source };
        let path = self.local.file.canonicalize().map_err(file)?;
        if fs::metadata(&path).map_err(file)?.len() > FILE {
            let what = format!("it is larger than {} MiB", FILE >> 20);
            return Err(Fault::Upstream { path, line: 1, what });
        }
        let text = fs::read_to_string(&path).map_err(file)?;
        let stem = self.local.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match upstream::read(&text, stem) {
            Ok(servers) => Ok(Upstream { path, text, servers }),
            Err(wrong) => Err(Fault::Upstream { path, line: wrong.line, what: wrong.what }),
        }
    }
}

/// Replaces the file atomically and durably; mode and owner are preserved.
fn replace(path: &Path, text: &str) -> Result<(), Fault> {
    let replaced = || {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name.as_bytes()),
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let old = fs::metadata(path)?;
        let directory = fs::File::open(parent)?;
        let directory = directory.as_fd();
        let new = [b".", name, b".bellwether"].concat();
        match durable::remove(directory, &new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = durable::create(directory, &new, 0o600)?;
        durable::write_at(&file, text.as_bytes(), 0)?;
        let mode = u16::try_from(old.mode() & 0o7777).unwrap_or(0o600);
        let mtime = (i64::try_from(now_ms() / 1_000).unwrap_or_default(), 0);
        durable::put_numbers(file.as_fd(), mode, (old.uid(), old.gid()), mtime)?;
        durable::sync_file(file.as_fd())?;
        durable::rename(durable::Name { directory, name: &new }, durable::Name { directory, name })?;
        durable::sync_directory(directory)
    };
    replaced().map_err(|source| Fault::File { action: "write", path: path.to_owned(), source })
}

/// Feeds a fuzzed upstream file to the reader: marking every server and unmarking it keeps all other lines and the
/// servers. Returns whether the file was accepted.
#[cfg(fuzzing)]
pub(super) fn fuzz(text: &str) -> bool {
    let Ok(servers) = upstream::read(text, "app") else { return false };
    let lines: Vec<_> = servers.iter().collect();
    let down = upstream::marked(text, &lines, true);
    let again = upstream::read(&down, "app").expect("what was written is read");
    assert!(again.iter().all(|server| server.down));
    let up = upstream::marked(&down, &again.iter().collect::<Vec<_>>(), false);
    let at_last = upstream::read(&up, "app").expect("what was written is read");
    assert!(at_last.iter().all(|server| !server.down));
    let places = |servers: &[upstream::ServerLine]| servers.iter().map(|s| s.place.clone()).collect::<Vec<_>>();
    assert!(places(&again) == places(&servers) && places(&at_last) == places(&servers));
    let other = |text: &str| -> Vec<String> {
        let is_server = |index: usize| servers.iter().any(|server| server.index == index);
        text.split_inclusive('\n')
            .enumerate()
            .filter(|(at, _)| !is_server(*at))
            .map(|(_, line)| line.to_owned())
            .collect()
    };
    assert_eq!(other(&up), other(text));
    !servers.is_empty()
}
