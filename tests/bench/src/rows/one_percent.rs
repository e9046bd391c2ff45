//! A change of one line in one file of a hundred, in a burst.

use std::{fs, path::PathBuf};

use bellwether_random::Rng;

use super::Work;
use crate::{
    crew::Crew,
    meter::Meter,
    peers::{PATIENCE, START, rsync},
    problem::{Problem, Result},
    sample::{Sample, Way, Who},
    tree::change_line,
    visible::{self, Awaited},
};

/// The time begins before the first file is written. For rsync it ends with its processes, and for the others when the last
/// file is seen on the last member.
pub(super) fn measure(work: &Work<'_, '_>, crew: &mut Crew<'_>) -> Result<Vec<Sample>> {
    work.prepare(crew)?;
    let edits = edits(work)?;
    let awaited =
        work.site.targets().into_iter().map(|target| {
            edits.iter().map(|(file, content)| Awaited::new(target.join(file), content)).collect::<Vec<_>>()
        });
    let awaited: Vec<_> = awaited.collect();
    let meter = Meter::begin(work.site.network, crew);
    for (file, content) in &edits {
        let path = work.site.source().join(file);
        fs::write(&path, content).map_err(Problem::with("write", &path))?;
    }
    let way = match work.who {
        Who::Rsync | Who::RsyncZ => {
            rsync::push(work.site, crew, work.rsync_options())?;
            Way::Only
        }
        Who::Lsyncd => {
            visible::wait(meter.began(), awaited, PATIENCE)?;
            Way::Only
        }
        Who::BellwetherNone | Who::BellwetherDeflate | Who::Cp => {
            visible::wait(meter.began(), awaited, PATIENCE)?;
            Way::Watch
        }
    };
    let mut cost = meter.read(work.site.network, crew);
    let with_sync = work.synced(meter.began())?;
    // Work after the last file was seen (reports, the ends of processes) is part of the cost, but not of the time.
    crew.settle(START)?;
    let after = meter.read(work.site.network, crew);
    (cost.cpu, cost.wire) = (after.cpu, after.wire);
    work.site.compare()?;
    Ok(vec![Sample { with_sync, ..work.sample(way, cost) }])
}

/// The files and their new contents.
fn edits(work: &Work<'_, '_>) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = work.site.template.files.clone();
    Rng::new(work.bench.seed).shuffle(&mut files);
    files.truncate((files.len() / 100).max(1));
    let edit = |(number, file): (usize, PathBuf)| {
        let path = work.site.source().join(&file);
        let content = fs::read(&path).map_err(Problem::with("read", &path))?;
        Ok((file, change_line(&content, number)))
    };
    files.into_iter().enumerate().map(edit).collect()
}
