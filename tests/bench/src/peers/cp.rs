//! `cp -a`: the cost of the disk and the system calls, without a network.

use std::process::Command;

use crate::{crew::Crew, network::Side, peers::PATIENCE, problem::Result, site::Site};

/// Copies the manager's tree to all members at once.
///
/// # Errors
/// A copy failed.
pub(crate) fn copy(site: &Site<'_>, crew: &mut Crew<'_>) -> Result<()> {
    let copy = |target| {
        let mut command = Command::new("cp");
        command.arg("-a").arg(site.source().join(".")).arg(target);
        command
    };
    crew.run(Side::Manager, site.targets().into_iter().map(copy).collect(), PATIENCE).map(drop)
}
