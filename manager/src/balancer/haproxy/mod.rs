//! HAProxy's runtime API (management guide, chapter 9.3), one connection per command. Every change is read back.

mod parse;

use std::io;

use bellwether_proto::balancer::{Haproxy, Runtime};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{Instant, sleep, timeout},
};

use super::{
    Patience,
    fault::Fault,
    rules::{Line, Standing, Who},
};

/// The most bytes of one answer: 4,096 servers in several backends need less.
pub(super) const ANSWER: usize = 8 << 20;

/// One HAProxy.
#[derive(Debug, Clone)]
pub(super) struct Api {
    haproxy: Haproxy,
    patience: Patience,
}

impl Api {
    pub(super) fn new(haproxy: Haproxy, patience: Patience) -> Self {
        Self { haproxy, patience }
    }

    /// All servers of its backends, at this moment.
    pub(super) async fn lines(&self) -> Result<Vec<Line>, Fault> {
        const STATE: &str = "show servers state";
        // Servers (4) of all proxies.
        const STAT: &str = "show stat -1 4 -1";
        let rubbish = |command: &str| {
            let command = command.to_owned();
            move |what| Fault::Rubbish { command, what }
        };
        let states = parse::states(&self.ask(STATE).await?).map_err(rubbish(STATE))?;
        let stats = parse::stats(&self.ask(STAT).await?).map_err(rubbish(STAT))?;
        let mut lines = parse::lines(states, stats).map_err(rubbish(STAT))?;
        let backends = &self.haproxy.backends;
        let is_there = |name| lines.iter().any(|line: &Line| line.place.backend() == name);
        if let Some(missing) = backends.iter().find(|name| !is_there(*name)) {
            return Err(Fault::NoBackend(missing.clone()));
        }
        lines.retain(|line| backends.is_empty() || backends.contains(line.place.backend()));
        Ok(lines)
    }

    /// Checks that this socket allows draining.
    pub(super) async fn probe(&self) -> Result<(), Fault> {
        const LEVEL: &str = "show cli level";
        match self.ask(LEVEL).await?.trim() {
            "admin" => self.lines().await.map(drop),
            "user" | "operator" => Err(Fault::Level("set server".to_owned())),
            other => Err(Fault::Rubbish { command: LEVEL.to_owned(), what: format!("'{}'", parse::shown(other)) }),
        }
    }

    /// Stops new traffic to the server. One in maintenance gets none, and stays so.
    pub(super) async fn drain(&self, who: &Who) -> Result<Vec<Line>, Fault> {
        for line in self.of(who).await? {
            if matches!(line.standing, Standing::Serving | Standing::Down) {
                self.tell(&format!("set server {} state drain", line.place)).await?;
            }
        }
        let lines = self.of(who).await?;
        let drained = |line: &&Line| matches!(line.standing, Standing::Drained | Standing::Maintenance);
        match lines.iter().find(|line| !drained(line)) {
            Some(line) => Err(ignored(line, "drained")),
            None => Ok(lines),
        }
    }

    /// Lets the server have traffic again, and waits until it gets it.
    pub(super) async fn ready(&self, who: &Who) -> Result<Vec<Line>, Fault> {
        let before = self.of(who).await?;
        if let Some(line) = before.iter().find(|line| line.standing == Standing::Maintenance) {
            return Err(Fault::Maintenance(line.place.to_string()));
        }
        for line in before.iter().filter(|line| line.standing == Standing::Drained) {
            self.tell(&format!("set server {} state ready", line.place)).await?;
        }
        let began = Instant::now();
        loop {
            let lines = self.of(who).await?;
            let not_yet = lines.iter().find(|line| line.standing != Standing::Serving);
            match not_yet {
                None => return Ok(lines),
                // Its check has to succeed first.
                Some(Line { standing: Standing::Down, .. }) if began.elapsed() < self.patience.up => {}
                Some(Line { standing: Standing::Down, place, note, .. }) => {
                    let (place, note) = (place.to_string(), note.clone());
                    return Err(Fault::StillDown { place, note, waited: self.patience.up });
                }
                Some(line) => return Err(ignored(line, "ready")),
            }
            sleep(self.patience.poll).await;
        }
    }

    async fn of(&self, who: &Who) -> Result<Vec<Line>, Fault> {
        let mut lines = self.lines().await?;
        lines.retain(|line| who.is_at(&line.place));
        Ok(lines)
    }

    /// A command whose success is an empty answer.
    async fn tell(&self, command: &str) -> Result<(), Fault> {
        match self.ask(command).await?.trim() {
            "" => Ok(()),
            answer => Err(Fault::Refused { command: command.to_owned(), answer: parse::shown(answer) }),
        }
    }

    /// Sends one command and returns the whole answer.
    async fn ask(&self, command: &str) -> Result<String, Fault> {
        let answer = match &self.haproxy.address {
            Runtime::Unix(path) => self.exchange(UnixStream::connect(path), command).await?,
            Runtime::Tcp(address) => self.exchange(TcpStream::connect(address), command).await?,
        };
        match answer.trim() {
            "Permission denied" => Err(Fault::Level(command.to_owned())),
            _ => Ok(answer),
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        connecting: impl Future<Output = io::Result<S>>,
        command: &str,
    ) -> Result<String, Fault> {
        let patience = self.patience.exchange;
        let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {patience:?}")));
        let unreachable = |source| Fault::Unreachable { address: self.haproxy.address.to_string(), source };
        let stream = timeout(patience, connecting).await.unwrap_or_else(late).map_err(unreachable)?;
        let silent = |_| Err(Fault::Silent { command: command.to_owned(), patience });
        timeout(patience, converse(stream, command)).await.unwrap_or_else(silent)
    }
}

fn ignored(line: &Line, wanted: &'static str) -> Fault {
    let found = format!("{} ({})", line.standing.word(), line.note);
    Fault::Ignored { place: line.place.to_string(), wanted, found }
}

/// Exchanges one command. An answer ends with an empty line; one without was cut short.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, command: &str) -> Result<String, Fault> {
    let cut = |_: io::Error| Fault::Cut(command.to_owned());
    stream.write_all(format!("{command}\n").as_bytes()).await.map_err(cut)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(ANSWER).unwrap_or(u64::MAX) + 1;
    stream.take(limit).read_to_end(&mut bytes).await.map_err(cut)?;
    if bytes.len() > ANSWER {
        return Err(Fault::TooLong { command: command.to_owned() });
    }
    if bytes != b"\n" && !bytes.ends_with(b"\n\n") {
        return Err(Fault::Cut(command.to_owned()));
    }
    String::from_utf8(bytes)
        .map_err(|_| Fault::Rubbish { command: command.to_owned(), what: "it is not UTF-8".to_owned() })
}

/// Feeds fuzzed answers to the readers: `show servers state`, and after `===` `show stat`; returns whether both pass.
#[cfg(fuzzing)]
pub(super) fn fuzz(text: &str) -> bool {
    let (states, stats) = text.split_once("===\n").unwrap_or((text, text));
    let (Ok(states), Ok(stats)) = (parse::states(states), parse::stats(stats)) else { return false };
    let places: Vec<_> = states.iter().map(|state| state.place.clone()).collect();
    let Ok(lines) = parse::lines(states, stats) else { return false };
    assert!(lines.into_iter().map(|line| line.place).eq(places));
    true
}

#[cfg(test)]
mod tests;
