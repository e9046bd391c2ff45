//! An attribute that a file system does not hold, by name.

use std::io;

use bellwether_proto::entry::Meta;
use rustix::io::Errno;

/// An attribute that cannot be held here, and the reason, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be held there: {why}")]
pub struct Unheld {
    /// "the mode 0640", "the ACL" …
    pub what: String,
    /// The system's message, or the value that is shown instead.
    pub why: String,
}

impl Unheld {
    /// The attribute of that error, if it is about one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The error for an attribute that shows another value.
    pub(crate) fn shows(what: String, shown: &str) -> io::Error {
        io::Error::other(Self { what, why: format!("it shows {shown}") })
    }

    /// Names the attribute if the error says that it cannot be put; other errors stay as they are.
    pub(super) fn named(error: Errno, what: impl FnOnce() -> String) -> io::Error {
        match error {
            Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::NOSYS | Errno::OVERFLOW | Errno::TOOBIG => {
                io::Error::other(Self { what: what(), why: io::Error::from(error).to_string() })
            }
            other => other.into(),
        }
    }
}

/// An extended attribute's name for people.
pub fn xattr_called(name: &[u8]) -> String {
    match name {
        b"system.posix_acl_access" => "the ACL".to_owned(),
        b"system.posix_acl_default" => "the default ACL".to_owned(),
        b"security.capability" => "the file's capabilities".to_owned(),
        other => format!("the extended attribute {}", String::from_utf8_lossy(other)),
    }
}

/// An owner's name for people.
pub(super) fn owner_called(meta: &Meta) -> String {
    format!("the owner {}:{}", meta.owner.user, meta.owner.group)
}
