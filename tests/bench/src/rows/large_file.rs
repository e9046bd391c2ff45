//! A line is inserted in the middle of a large file.

use std::fs;

use super::Work;
use crate::{
    crew::Crew,
    meter::Meter,
    peers::{PATIENCE, START, rsync},
    problem::{Problem, Result},
    sample::{Sample, Way, Who},
    tree::insert_line,
    visible::{self, Awaited},
};

/// The tree's first file is the large one.
pub(super) fn measure(work: &Work<'_, '_>, crew: &mut Crew<'_>) -> Result<Vec<Sample>> {
    work.prepare(crew)?;
    let file = &work.site.template.files[0];
    let path = work.site.source().join(file);
    let changed = insert_line(&fs::read(&path).map_err(Problem::with("read", &path))?, 1);
    let awaited =
        work.site.targets().into_iter().map(|target| vec![Awaited::new(target.join(file), &changed)]).collect();
    let meter = Meter::begin(work.site.network, crew);
    fs::write(&path, &changed).map_err(Problem::with("write", &path))?;
    let way = match work.who {
        Who::Rsync | Who::RsyncZ => {
            rsync::push(work.site, crew, work.rsync_options())?;
            Way::Only
        }
        Who::Lsyncd => Way::Only,
        Who::BellwetherNone | Who::BellwetherDeflate | Who::Cp => Way::Watch,
    };
    visible::wait(meter.began(), awaited, PATIENCE)?;
    let mut cost = meter.read(work.site.network, crew);
    let with_sync = work.synced(meter.began())?;
    crew.settle(START)?;
    let after = meter.read(work.site.network, crew);
    (cost.cpu, cost.wire) = (after.cpu, after.wire);
    work.site.compare()?;
    Ok(vec![Sample { with_sync, ..work.sample(way, cost) }])
}
