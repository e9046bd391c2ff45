//! Owners by name, extended attributes and POSIX ACLs, read from and put on a descriptor.
//!
//! A POSIX ACL travels as the kernel's value of `system.posix_acl_access` and `_default`. Its *named* entries carry
//! numeric ids, not names: they mean the same accounts only on servers with the same numbers.

mod accounts;
mod put;
mod times;
mod unheld;
mod xattrs;

pub use accounts::{Accounts, MissingAccount, Names};
pub use put::{check, copy_label, put_on_directory, put_on_file, put_on_link};
pub use times::is_shown;
pub use unheld::{Unheld, xattr_called};
pub use xattrs::{Found, read};
