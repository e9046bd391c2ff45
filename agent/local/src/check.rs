//! Whether a service works: a command, a request over HTTP, a connection, or the workers of its master process.

use std::{io, path::PathBuf, time::Duration};

use http_body_util::Empty;
use hyper::{Request, Uri, body::Bytes};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    master::{self, Worker},
    set::Command,
};

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A command, for a shell: it is to end with status 0.
    Command(Command),
    /// A GET of `http://HOST[:PORT]/PATH`: its status is to be below 400.
    Http(String),
    /// A connection to `HOST:PORT`.
    Tcp(String),
    /// The master process that this pid file names is to have new workers since the reload, and none of the old ones that
    /// takes new connections.
    Workers(PathBuf),
}

/// A probe, and how often it may fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is tried.
    pub probe: Probe,
    /// How long one try may take.
    pub timeout: Duration,
    /// How often it is tried again.
    pub retries: u32,
    /// The time between two tries.
    pub interval: Duration,
}

/// A check that cannot be written so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WrongProbe {
    /// TLS needs settings of its own.
    #[error("a check over https is a command, as in: curl -fsS {0}")]
    Https(String),
    /// Not a URL with a host.
    #[error("'{0}' is not a URL, as in http://127.0.0.1:8080/health")]
    Url(String),
    /// Not `HOST:PORT`.
    #[error("'{0}' is not a host and a port, as in tcp://127.0.0.1:443")]
    Address(String),
    /// Not an absolute path.
    #[error("'{0}' is not the absolute path of a pid file, as in workers:/run/nginx.pid")]
    PidFile(String),
}

impl Probe {
    /// Reads a check as it is written: `http://…`, `tcp://HOST:PORT`, `workers:PIDFILE`, or else a command.
    ///
    /// # Errors
    /// What is allowed instead.
    pub fn parse(text: &str) -> Result<Self, WrongProbe> {
        if text.starts_with("https://") {
            return Err(WrongProbe::Https(text.to_owned()));
        }
        if text.starts_with("http://") {
            let whole = text.parse::<Uri>().is_ok_and(|url| url.host().is_some_and(|host| !host.is_empty()));
            return whole.then(|| Self::Http(text.to_owned())).ok_or_else(|| WrongProbe::Url(text.to_owned()));
        }
        if let Some(address) = text.strip_prefix("tcp://") {
            let (host, port) = address.rsplit_once(':').unwrap_or_default();
            let whole = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
            return whole.then(|| Self::Tcp(address.to_owned())).ok_or_else(|| WrongProbe::Address(text.to_owned()));
        }
        if let Some(path) = text.strip_prefix("workers:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Workers(path))
            } else {
                Err(WrongProbe::PidFile(text.to_owned()))
            };
        }
        Ok(Self::Command(Command::new(text)))
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Command(command) => f.write_str(&command.run),
            Self::Http(url) => f.write_str(url),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Workers(pid) => write!(f, "workers:{}", pid.display()),
        }
    }
}

impl Check {
    /// The check of that probe, with the usual patience: for 3 s.
    pub fn new(probe: Probe) -> Self {
        Self { probe, timeout: Duration::from_secs(5), retries: 6, interval: Duration::from_millis(500) }
    }

    /// What has to be known before the reload.
    pub fn before(&self) -> Before {
        let Probe::Workers(pid) = &self.probe else { return Before(Vec::new()) };
        Before(master::pid(pid).and_then(master::workers).unwrap_or_default())
    }

    /// Tries until it succeeds, or has failed too often.
    ///
    /// # Errors
    /// Why the last try failed, in a sentence, and the end of a command's output.
    pub async fn run(&self, before: &Before) -> Result<(), (String, String)> {
        let mut left = self.retries;
        loop {
            let tried = self.once(before).await;
            if tried.is_ok() || left == 0 {
                return tried;
            }
            left -= 1;
            sleep(self.interval).await;
        }
    }

    async fn once(&self, before: &Before) -> Result<(), (String, String)> {
        if let Probe::Command(command) = &self.probe {
            return Command { timeout: self.timeout, ..command.clone() }.run().await;
        }
        let late = |_| Err(format!("no answer within {} s", self.timeout.as_secs_f32()));
        let tried = timeout(self.timeout, self.probe(before)).await.unwrap_or_else(late);
        tried.map_err(|why| (why, String::new()))
    }

    async fn probe(&self, Before(before): &Before) -> Result<(), String> {
        match &self.probe {
            Probe::Command(_) => Ok(()),
            Probe::Http(url) => get(url).await.map_err(|why| format!("{url}: {why}")),
            Probe::Tcp(address) => {
                TcpStream::connect(address).await.map(drop).map_err(|error| format!("{address}: {error}"))
            }
            Probe::Workers(pid) => {
                let now = master::pid(pid).and_then(master::workers);
                let now = now.map_err(|error| format!("{}: {error}", pid.display()))?;
                if master::replaced(before, &now) {
                    return Ok(());
                }
                let pid = pid.display();
                Err(format!("the service of {pid} did not start new workers after the reload; see its error log"))
            }
        }
    }
}

/// The workers of a service before its reload.
#[derive(Debug, Default)]
pub struct Before(Vec<Worker>);

async fn get(url: &str) -> Result<(), String> {
    let words = |error: &dyn std::error::Error| error.to_string();
    let uri: Uri = url.parse().map_err(|error| words(&error))?;
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await.map_err(|error: io::Error| words(&error))?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| words(&error))?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", authority).header("user-agent", "bellwether");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| words(&error))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    connection.abort();
    let status = answer.map_err(|error| words(&error))?.status();
    if status.as_u16() < 400 { Ok(()) } else { Err(format!("the answer is {status}")) }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn once(probe: Probe) -> Check {
        Check { retries: 0, ..Check::new(probe) }
    }

    #[test]
    fn a_check_is_read_by_its_beginning() {
        assert_eq!(Probe::parse("http://[::1]:8080/x?y"), Ok(Probe::Http("http://[::1]:8080/x?y".into())));
        assert_eq!(Probe::parse("tcp://[::1]:443"), Ok(Probe::Tcp("[::1]:443".into())));
        assert_eq!(Probe::parse("workers:/run/x.pid"), Ok(Probe::Workers("/run/x.pid".into())));
        assert_eq!(Probe::parse("curl x"), Ok(Probe::Command(Command::new("curl x"))));
        for wrong in ["https://web1/", "http://", "http:///x", "tcp://web1", "tcp://:80", "tcp://web1:0", "workers:x"] {
            assert!(Probe::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_request_succeeds_by_its_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let status = if text.starts_with("GET /good?x ") { "204 No Content" } else { "503 Busy" };
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).await;
            }
        });
        once(Probe::Http(format!("http://{address}/good?x"))).run(&Before::default()).await.unwrap();
        let (why, _) = once(Probe::Http(format!("http://{address}/"))).run(&Before::default()).await.unwrap_err();
        assert!(why.contains("503"), "{why}");
        once(Probe::Tcp(address.to_string())).run(&Before::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_is_closed_fails_with_its_address() {
        // A port that is bound, so that nobody else gets it, and on which nobody listens.
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = bound.local_addr().unwrap();
        for probe in [Probe::Tcp(address.to_string()), Probe::Http(format!("http://{address}/"))] {
            let (why, _) = once(probe).run(&Before::default()).await.unwrap_err();
            assert!(why.contains(&address.to_string()), "{why}");
        }
    }

    #[tokio::test]
    async fn a_check_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tries");
        let script = format!("echo x >> {0}; [ $(wc -l < {0}) -ge 3 ]", file.display());
        let check = |retries| Check {
            retries,
            interval: Duration::from_millis(1),
            ..Check::new(Probe::Command(Command::new(&script)))
        };
        let (why, _) = check(1).run(&Before::default()).await.unwrap_err();
        assert!(why.contains("ended with"), "{why}");
        check(1).run(&Before::default()).await.unwrap();
    }
}
