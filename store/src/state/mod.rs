//! The state directory: its layout, the format of its files, the group record in force, and the newest known revisions.

pub mod file;
pub mod known_heads;
pub mod layout;
pub mod record;
