//! Problems in words: the benchmark reports a problem, and goes on with the next cell or ends.

use std::{fmt, io, path::Path};

/// The reason that something could not be measured.
#[derive(Debug, Clone)]
pub(crate) struct Problem(String);

impl Problem {
    /// A problem in these words.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// The failed operation on a file, with the reason.
    pub(crate) fn with(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("cannot {what} {}: {error}", path.display()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kinds of problems.
pub(crate) type Result<T> = std::result::Result<T, Problem>;
