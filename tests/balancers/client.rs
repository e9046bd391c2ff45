//! Clients of a site: they ask for one page again and again, half of them over connections that stay open and half over
//! a new one each time, and count who answered and what failed.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::PAGE;
use crate::farm::{DEADLINE, wait_for};

/// Threads, each with one connection.
const CONNECTIONS: usize = 4;
/// Between two requests of one of them: the machine has other things to do, too.
const PAUSE: Duration = Duration::from_millis(3);

/// What was counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// All requests that were answered or failed.
    pub(crate) requests: u64,
    /// What went wrong: anything but a whole 200.
    pub(crate) failures: Vec<String>,
    /// Who answered how many.
    pub(crate) by_server: BTreeMap<String, u64>,
}

impl Answers {
    /// How many that server answered.
    pub(crate) fn of(&self, server: &str) -> u64 {
        self.by_server.get(server).copied().unwrap_or_default()
    }

    /// Asserts that some requests were made, and all were answered well.
    #[track_caller]
    pub(crate) fn flawless(&self) -> &Self {
        assert!(self.requests > 0, "nothing was asked");
        let first = &self.failures[..self.failures.len().min(5)];
        assert!(first.is_empty(), "{} of {} requests failed: {first:?}", self.failures.len(), self.requests);
        self
    }
}

/// Clients that ask until they are stopped.
pub(crate) struct Client {
    counted: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Client {
    pub(super) fn start(address: &str) -> Self {
        let (counted, stop) = (Arc::<Mutex<Answers>>::default(), Arc::<AtomicBool>::default());
        let thread = |index: usize| {
            let (address, counted, stop) = (address.to_owned(), counted.clone(), stop.clone());
            thread::spawn(move || ask_on(&address, index.is_multiple_of(2), &counted, &stop))
        };
        let threads = (0..CONNECTIONS).map(thread).collect();
        Self { counted, stop, threads }
    }

    /// What was counted so far.
    pub(crate) fn so_far(&self) -> Answers {
        self.counted.lock().expect("no client panics").clone()
    }

    /// Waits for so many more answers, and returns what was counted by then.
    pub(crate) fn wait_more(&self, requests: u64) -> Answers {
        let before = self.so_far().requests;
        wait_for("requests being answered", DEADLINE, || {
            let now = self.so_far();
            if now.requests >= before + requests { Ok(now) } else { Err(format!("{now:?}")) }
        })
    }

    /// Waits until that server has answered once more.
    pub(crate) fn wait_from(&self, server: &str) {
        let before = self.so_far().of(server);
        wait_for(&format!("an answer of {server}"), DEADLINE, || {
            let now = self.so_far();
            if now.of(server) > before { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }

    /// Stops, and says what was counted in all.
    pub(crate) fn stop(mut self) -> Answers {
        self.end();
        self.so_far()
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

fn ask_on(address: &str, keep_alive: bool, counted: &Mutex<Answers>, stop: &AtomicBool) {
    let mut open = None;
    while !stop.load(Ordering::SeqCst) {
        let answer = ask(address, &mut open);
        if !keep_alive || answer.is_err() {
            open = None;
        }
        let mut counted = counted.lock().expect("no client panics");
        counted.requests += 1;
        match answer {
            Ok(server) => *counted.by_server.entry(server).or_default() += 1,
            Err(failure) => counted.failures.push(failure),
        }
        drop(counted);
        thread::sleep(PAUSE);
    }
}

type Stream = BufReader<TcpStream>;

/// Asks for the page; the server that answered.
fn ask(address: &str, open: &mut Option<Stream>) -> Result<String, String> {
    let stream = match open {
        Some(stream) => stream,
        None => open.insert(connect(address)?),
    };
    request(stream, &format!("/{PAGE}"))?;
    let head = head(stream)?;
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

fn connect(address: &str) -> Result<Stream, String> {
    let stream = TcpStream::connect(address).map_err(|e| format!("connecting: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| e.to_string())?;
    Ok(BufReader::new(stream))
}

fn request(stream: &mut Stream, path: &str) -> Result<(), String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: site\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).map_err(|e| format!("asking: {e}"))
}

struct Head {
    status: u16,
    server: String,
    length: usize,
    closes: bool,
}

fn head(stream: &mut Stream) -> Result<Head, String> {
    let mut line = || {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) => Err("the connection ended before the answer".to_owned()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(e) => Err(format!("the head of the answer: {e}")),
        }
    };
    let first = line()?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(format!("no answer: '{first}'"))?;
    let mut head = Head { status, server: String::new(), length: 0, closes: false };
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(": ") else { return Ok(head) };
        match name.to_ascii_lowercase().as_str() {
            "x-server" => head.server = value.to_owned(),
            "content-length" => head.length = value.parse().map_err(|_| format!("a length of '{value}'"))?,
            "connection" => head.closes = value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

/// A session whose answer takes longer than any test. It ends when this is dropped.
pub(crate) struct Slow {
    /// Who serves it.
    pub(crate) server: String,
    _stream: Stream,
}

impl Slow {
    pub(super) fn open(address: &str) -> Self {
        let mut stream = connect(address).expect("a connection to the site");
        request(&mut stream, "/slow").expect("a request");
        let head = head(&mut stream).expect("an answer's head");
        assert_eq!(head.status, 200);
        Self { server: head.server, _stream: stream }
    }
}
