//! No core dumps: the private key is in this process's memory.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Turns them off for this process and what it starts: by the limit, which a pipe in `core_pattern` does not heed, and by
/// its being not dumpable, which also keeps other processes of its user from looking into its memory.
///
/// # Errors
/// The system's.
pub fn off() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
