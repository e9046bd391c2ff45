//! Owners by name, extended attributes and POSIX ACLs: reading them from a descriptor and putting them on one.
//!
//! POSIX ACLs travel as the kernel's own value of `system.posix_acl_access` and `_default`. Their *named* entries carry
//! numeric ids, not names: they mean the same accounts only on servers where those have the same numbers.

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
