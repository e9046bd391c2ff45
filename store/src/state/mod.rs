//! What a server keeps in its state directory: where it is, how a file of it is written and read, the group record in force,
//! and the newest revisions that it has heard of.

pub mod file;
pub mod known_heads;
pub mod layout;
pub mod record;
