//! lsyncd without delay: it watches the manager's tree and starts an rsync for every member and change.

use std::{
    fmt::Write,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    crew::Crew,
    network::Side,
    peers::{START, rsync},
    problem::{Problem, Result},
    site::Site,
};

/// Starts rsync's daemon for the members and lsyncd at the manager, and waits until all members are equal.
///
/// # Errors
/// They do not start, or do not become equal.
pub(crate) fn serve(site: &Site<'_>, crew: &mut Crew<'_>) -> Result<()> {
    rsync::serve(site, crew)?;
    // This is not measured: with equal trees, lsyncd's first run has no work to do.
    rsync::push(site, crew, &[])?;
    let file = site.manager().join("lsyncd.lua");
    fs::write(&file, configuration(site)).map_err(Problem::with("write", &file))?;
    let mut command = Command::new("lsyncd");
    // Its log tells when the first run of each sync has ended.
    command.args(["-nodaemon", "-log", "Normal"]).arg(&file);
    let lsyncd = crew.start(Side::Manager, command)?;
    let began = Instant::now();
    while crew.printed(lsyncd).matches("Startup of").count() < site.cell.members {
        if began.elapsed() > START {
            return Err(Problem::new(format!("lsyncd is not ready after {START:?}:\n{}", crew.said())));
        }
        thread::sleep(Duration::from_millis(10));
    }
    crew.settle(START)
}

fn configuration(site: &Site<'_>) -> String {
    let mut text = format!("settings {{ nodaemon = true, maxProcesses = {} }}\n", site.cell.members);
    for index in site.members() {
        let _ = writeln!(
            text,
            "sync {{ default.rsync, source = \"{}\", target = \"{}\", delay = 0,\n  \
             rsync = {{ archive = true, _extra = {{ \"--sockopts=TCP_NODELAY\" }} }} }}",
            site.source().display(),
            rsync::url(index)
        );
    }
    text
}
