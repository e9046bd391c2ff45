//! The HTTP client of the tests: one request for each connection.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The time limit for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) code: u16,
    /// Head and body.
    pub(crate) whole: String,
}

impl Answer {
    /// The answer without its head.
    pub(crate) fn body(&self) -> &str {
        self.whole.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// The body if the code is 200; otherwise the whole answer as an error.
    pub(crate) fn ok(self) -> Result<String, String> {
        if self.code == 200 { Ok(self.body().to_owned()) } else { Err(self.whole) }
    }
}

/// Asks for `path` at `address`.
pub(crate) fn get(address: &str, path: &str) -> Result<Answer, String> {
    get_as(address, path, address)
}

/// Asks under the name `host`.
pub(crate) fn get_as(address: &str, path: &str, host: &str) -> Result<Answer, String> {
    let ask = || -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let whole = ask().map_err(|e| format!("{path}: {e}"))?;
    let code = whole.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok(Answer { code: code.ok_or_else(|| format!("{path}: {whole:?}"))?, whole })
}
