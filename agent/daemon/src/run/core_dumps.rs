//! Turns core dumps off: the private key is in this process's memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns core dumps off for this process and its children by the limit, which a pipe in `core_pattern` ignores, and by
/// making the process not dumpable, which also stops other processes of its user from reading its memory.
///
/// # Errors
/// The system refuses.
pub fn off() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
