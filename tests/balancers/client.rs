//! Clients of a site. They request one page again and again, half of them over connections that stay open and half over a new
//! one each time, and count the servers' answers and the failures.

use bellwether_store::mutex::locked;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::PAGE;
use crate::farm::{DEADLINE, wait_for};

/// Threads, each with one connection.
const CONNECTIONS: usize = 4;
/// The pause between two requests of a client, since the machine has other work, too.
const PAUSE: Duration = Duration::from_millis(3);

/// The counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// All requests that were answered or have failed.
    pub(crate) requests: u64,
    /// The failures: anything but a whole 200.
    pub(crate) failures: Vec<String>,
    /// The number of answers of each server.
    pub(crate) by_server: BTreeMap<String, u64>,
}

impl Answers {
    /// The number of answers of that server.
    pub(crate) fn of(&self, server: &str) -> u64 {
        self.by_server.get(server).copied().unwrap_or_default()
    }

    /// Asserts that there were requests, and that all got good answers.
    #[track_caller]
    pub(crate) fn flawless(&self) -> &Self {
        assert!(self.requests > 0, "nothing was asked");
        let first = &self.failures[..self.failures.len().min(5)];
        assert!(first.is_empty(), "{} of {} requests failed: {first:?}", self.failures.len(), self.requests);
        self
    }
}

/// The counts, and the beginning of the request whose answer each connection waits for.
#[derive(Debug, Default)]
struct Counted {
    answers: Answers,
    begun: [Option<Instant>; CONNECTIONS],
}

/// Clients that send requests until they are stopped.
pub(crate) struct Client {
    counted: Arc<Mutex<Counted>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Client {
    /// Clients of that address.
    pub(crate) fn start(address: &str) -> Self {
        let (counted, stop) = (Arc::<Mutex<Counted>>::default(), Arc::<AtomicBool>::default());
        let thread = |index: usize| {
            let (address, counted, stop) = (address.to_owned(), counted.clone(), stop.clone());
            thread::spawn(move || ask_on(&address, index, &counted, &stop))
        };
        let threads = (0..CONNECTIONS).map(thread).collect();
        Self { counted, stop, threads }
    }

    /// The counts of all requests that have begun by now. This waits for their answers, so that none of them is taken for a
    /// later request.
    pub(crate) fn so_far(&self) -> Answers {
        let now = Instant::now();
        wait_for("the answers to what was asked by now", DEADLINE, || {
            let counted = locked(&self.counted);
            let earlier = counted.begun.iter().flatten().filter(|begun| **begun <= now).count();
            if earlier == 0 { Ok(counted.answers.clone()) } else { Err(format!("{earlier} are under way")) }
        })
    }

    fn counted(&self) -> Answers {
        locked(&self.counted).answers.clone()
    }

    /// Waits for that many more answers, and returns the counts by then.
    pub(crate) fn wait_more(&self, requests: u64) -> Answers {
        let before = self.counted().requests;
        wait_for("requests being answered", DEADLINE, || {
            let now = self.counted();
            if now.requests >= before + requests { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    /// Waits for one more answer of that server.
    pub(crate) fn wait_from(&self, server: &str) {
        let before = self.counted().of(server);
        wait_for(&format!("an answer of {server}"), DEADLINE, || {
            let now = self.counted();
            if now.of(server) > before { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }

    /// Stops, and returns all counts.
    pub(crate) fn stop(mut self) -> Answers {
        self.end();
        self.counted()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// Every second connection stays open between its requests.
fn ask_on(address: &str, index: usize, counted: &Mutex<Counted>, stop: &AtomicBool) {
    let keep_alive = index.is_multiple_of(2);
    let mut open = None;
    while !stop.load(Ordering::SeqCst) {
        locked(counted).begun[index] = Some(Instant::now());
        let answer = ask(address, &mut open);
        if !keep_alive || answer.is_err() {
            open = None;
        }
        let mut counted = locked(counted);
        counted.begun[index] = None;
        counted.answers.requests += 1;
        match answer {
            Ok(server) => *counted.answers.by_server.entry(server).or_default() += 1,
            Err(failure) => counted.answers.failures.push(failure),
        }
        drop(counted);
        thread::sleep(PAUSE);
    }
}

type Stream = BufReader<TcpStream>;

/// Requests the page, and returns the server that answered. A connection that was closed while it was idle is no failure: the
/// request is sent again over a new one, as browsers do (RFC 9112, section 9.3.1).
fn ask(address: &str, open: &mut Option<Stream>) -> Result<String, String> {
    let reused = open.as_mut().map(|stream| request(stream, &format!("/{PAGE}")).and_then(|()| head(stream)));
    let head = match reused {
        Some(Err(Trouble::Unanswered(_))) | None => {
            let stream = open.insert(connect(address)?);
            request(stream, &format!("/{PAGE}")).and_then(|()| head(stream))
        }
        Some(answered) => answered,
    };
    let head = head.map_err(|trouble| trouble.to_string())?;
    let stream = open.as_mut().ok_or("no connection")?;
    let mut body = vec![0; head.length];
    stream.read_exact(&mut body).map_err(|e| format!("the body of {}'s answer: {e}", head.server))?;
    if head.closes {
        *open = None;
    }
    if head.status != 200 {
        return Err(format!("status {} by '{}'", head.status, head.server));
    }
    Ok(head.server)
}

/// The reason that an answer has no head.
#[derive(Debug)]
enum Trouble {
    /// No byte of it came.
    Unanswered(String),
    /// The head is cut short or malformed.
    Broken(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unanswered(what) => write!(f, "no answer: {what}"),
            Self::Broken(what) => write!(f, "a broken answer: {what}"),
        }
    }
}

fn connect(address: &str) -> Result<Stream, String> {
    let stream = TcpStream::connect(address).map_err(|e| format!("connecting: {e}"))?;
    stream.set_read_timeout(Some(DEADLINE)).map_err(|e| e.to_string())?;
    Ok(BufReader::new(stream))
}

fn request(stream: &mut Stream, path: &str) -> Result<(), Trouble> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: site\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).map_err(|e| Trouble::Unanswered(format!("asking: {e}")))
}

struct Head {
    status: u16,
    server: String,
    length: usize,
    closes: bool,
}

fn head(stream: &mut Stream) -> Result<Head, Trouble> {
    let mut line = || {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) => Err("the connection ended".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(e) => Err(e.to_string()),
        }
    };
    let broken = |what: String| Trouble::Broken(what);
    let first = line().map_err(Trouble::Unanswered)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| broken(format!("'{first}'")))?;
    let mut head = Head { status, server: String::new(), length: 0, closes: false };
    loop {
        let line = line().map_err(broken)?;
        let Some((name, value)) = line.split_once(": ") else { return Ok(head) };
        match name.to_ascii_lowercase().as_str() {
            "x-server" => head.server = value.to_owned(),
            "content-length" => head.length = value.parse().map_err(|_| broken(format!("a length of '{value}'")))?,
            "connection" => head.closes = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

/// A session whose answer takes longer than any test. It ends when this is dropped.
pub(crate) struct Slow {
    /// The server of the session.
    pub(crate) server: String,
    _stream: Stream,
}

impl Slow {
    /// Opens one at that address.
    pub(crate) fn open(address: &str) -> Self {
        let mut stream = connect(address).expect("a connection to the site");
        request(&mut stream, "/slow").expect("a request");
        let head = head(&mut stream).expect("an answer's head");
        assert_eq!(head.status, 200);
        Self { server: head.server, _stream: stream }
    }
}

/// After a balancer has marked a server down, an earlier request to it may still fail.
#[test]
fn what_is_under_way_is_counted_with_what_was_asked_before() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = Client::start(&listener.local_addr().expect("an address").to_string());
    let held: Vec<TcpStream> = (0..CONNECTIONS).map(|_| listener.accept().expect("a client").0).collect();
    for mut stream in &held {
        stream.read_exact(&mut [0; 1]).expect("a request has begun");
    }
    let (told, tell) = std::sync::mpsc::channel();
    let hangs_up = thread::spawn(move || {
        tell.recv().expect("told");
        drop((held, listener));
    });
    told.send(()).expect("it waits");
    let counted = client.so_far();
    assert!(counted.failures.len() >= CONNECTIONS, "{counted:?}");
    hangs_up.join().expect("it has hung up");
}
