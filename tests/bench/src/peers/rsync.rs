//! rsync: a daemon with a module for each member, and a client for each at the manager, all at once.

use std::{fmt::Write, fs, process::Command};

use crate::{
    crew::Crew,
    network::{self, Side},
    peers::{PATIENCE, START},
    problem::{Problem, Result},
    site::Site,
};

const PORT: u16 = 8_730;

/// The URL of member `index`'s module.
pub(crate) fn url(index: usize) -> String {
    format!("rsync://{}:{PORT}/member{index}/", network::member(index))
}

/// Starts the members' daemon and waits until it listens.
///
/// # Errors
/// It does not start.
pub(crate) fn serve(site: &Site<'_>, crew: &mut Crew<'_>) -> Result<()> {
    let file = site.manager().join("rsyncd.conf");
    fs::write(&file, configuration(site)).map_err(Problem::with("write", &file))?;
    let mut daemon = Command::new("rsync");
    daemon.args(["--daemon", "--no-detach", "--address=0.0.0.0", &format!("--port={PORT}")]);
    daemon.arg(format!("--config={}", file.display()));
    crew.start(Side::Members, daemon)?;
    network::wait_listening(&format!("{}:{PORT}", network::member(1)), START)?;
    // The daemon's child for the test connection must not be measured.
    crew.settle(START)
}

fn configuration(site: &Site<'_>) -> String {
    let mut text =
        "use chroot = no\nuid = root\ngid = root\nread only = no\nmunge symlinks = no\nreverse lookup = no\n\
                    socket options = TCP_NODELAY\nlog file = /dev/null\n"
            .to_owned();
    for (index, target) in site.members().zip(site.targets()) {
        let _ = writeln!(text, "[member{index}]\n  path = {}", target.display());
    }
    text
}

/// Brings all members to the manager's tree, with these further options, and waits until the daemon has finished, too. Returns
/// the clients' outputs.
///
/// # Errors
/// A client failed.
pub(crate) fn push(site: &Site<'_>, crew: &mut Crew<'_>, options: &[&str]) -> Result<Vec<String>> {
    let push = |index| {
        let mut command = Command::new("rsync");
        command.args(["-a", "--delete", "--sockopts=TCP_NODELAY"]).args(options);
        command.arg(site.source().join("")).arg(url(index));
        command
    };
    crew.run(Side::Manager, site.members().map(push).collect(), PATIENCE)
}
