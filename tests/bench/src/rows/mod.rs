//! The rows: the work and the measurements in a cell, for each contender.

mod first_sync;
mod large_file;
mod one_line;
mod one_percent;
mod verify;

use std::{
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use crate::{
    crew::Crew,
    meter::Cost,
    network::{Link, Network},
    peers::{
        START,
        bellwether::{Farm, Program},
        lsyncd, rsync,
    },
    plan::{Cell, Row, Sizes},
    problem::{Problem, Result},
    sample::{Sample, Way, Who},
    site::Site,
    tree::Template,
};

/// The input of every measurement.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) bellwether: &'a Path,
    /// The codec that is called deflate.
    pub(crate) codec: &'a str,
    pub(crate) network: &'a Network,
    pub(crate) work: PathBuf,
    /// Whether all servers share one file system, instead of one for each.
    pub(crate) shared_disk: bool,
    pub(crate) sizes: &'a Sizes,
    pub(crate) seed: u64,
}

/// Measures one contender in one cell, on a new file system.
///
/// # Errors
/// The problem; the cell has no measurement of this contender then.
pub(crate) fn measure(bench: &Bench<'_>, cell: Cell, template: &Template, who: Who) -> Result<Vec<Sample>> {
    let site = Site::new(cell, &bench.work, bench.shared_disk, bench.network, template)?;
    let mut crew = site.crew()?;
    let work = Work { bench, site: &site, who };
    let result = match cell.row {
        Row::FirstSync | Row::FirstSyncLinks => first_sync::measure(&work, &mut crew),
        Row::OneLine => one_line::measure(&work, &mut crew),
        Row::OnePercent => one_percent::measure(&work, &mut crew),
        Row::Verify => verify::measure(&work, &mut crew),
        Row::LargeFile => large_file::measure(&work, &mut crew),
    };
    result.map_err(|problem| Problem::new(format!("{problem}\n{}", crew.said())))
}

/// One contender at work on one site.
struct Work<'w, 'a> {
    bench: &'w Bench<'w>,
    site: &'w Site<'a>,
    who: Who,
}

impl<'w, 'a> Work<'w, 'a> {
    fn farm(&self) -> Farm<'w, 'a> {
        let codec = if self.who == Who::BellwetherNone { "none" } else { self.bench.codec };
        Farm::new(self.site, Program { path: self.bench.bellwether, codec })
    }

    /// Sets the contender up, with all members equal, and lets it come to rest. After that the link is limited.
    fn prepare(&self, crew: &mut Crew<'_>) -> Result<()> {
        self.site.network.set(Link::Unlimited)?;
        match self.who {
            Who::BellwetherNone | Who::BellwetherDeflate => self.farm().start(crew)?,
            Who::Rsync | Who::RsyncZ => {
                rsync::serve(self.site, crew)?;
                rsync::push(self.site, crew, &[])?;
            }
            Who::Lsyncd => lsyncd::serve(self.site, crew)?,
            Who::Cp => {}
        }
        self.site.compare()?;
        self.site.sync()?;
        thread::sleep(self.bench.sizes.rest);
        crew.settle(START)?;
        self.site.network.set(self.site.cell.link)
    }

    /// The options that make rsync this contender.
    fn rsync_options(&self) -> &'static [&'static str] {
        if self.who == Who::RsyncZ { &["-z"] } else { &[] }
    }

    fn sample(&self, way: Way, cost: Cost) -> Sample {
        let (cell, entries) = (self.site.cell, self.site.template.entries);
        Sample { cell, who: self.who, way, entries, cost, with_sync: None, changes: Vec::new() }
    }

    /// Syncs the file system, and returns the time since `began`.
    fn synced(&self, began: Instant) -> Result<Option<f64>> {
        self.site.sync()?;
        Ok(Some(began.elapsed().as_secs_f64()))
    }
}
