//! The time to find that nothing has changed.

use super::Work;
use crate::{
    crew::Crew,
    meter::Meter,
    network::Side,
    peers::{PATIENCE, START, rsync},
    problem::{Problem, Result},
    sample::{Sample, Way, Who},
};

/// Quick, by sizes and times (rsync), and full, by every byte (rsync -c); rsync only reports its plan.
pub(super) fn measure(work: &Work<'_, '_>, crew: &mut Crew<'_>) -> Result<Vec<Sample>> {
    work.prepare(crew)?;
    [Way::Quick, Way::Full].into_iter().map(|way| one_way(work, crew, way)).collect()
}

fn one_way(work: &Work<'_, '_>, crew: &mut Crew<'_>, way: Way) -> Result<Sample> {
    let full = way == Way::Full;
    let meter = Meter::begin(work.site.network, crew);
    if work.who == Who::Rsync {
        let options: &[&str] = if full { &["-nic"] } else { &["-ni"] };
        let differs = rsync::push(work.site, crew, options)?.concat();
        if !differs.is_empty() {
            return Err(Problem::new(format!("rsync sees differences where there are none: {differs}")));
        }
        crew.settle(START)?;
    } else {
        crew.run(Side::Manager, vec![work.farm().verify(full)], PATIENCE)?;
    }
    Ok(work.sample(way, meter.read(work.site.network, crew)))
}
