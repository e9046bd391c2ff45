//! The whole tree to members without content.

use std::time::Instant;

use super::Work;
use crate::{
    crew::Crew,
    meter::{Cost, Meter},
    network::Side,
    peers::{START, cp, rsync},
    problem::Result,
    sample::{Sample, Way, Who},
};

/// Bellwether is measured from `init` and, in the same run, from the first `join`; the others have one beginning.
pub(super) fn measure(work: &Work<'_, '_>, crew: &mut Crew<'_>) -> Result<Vec<Sample>> {
    let samples = match work.who {
        Who::BellwetherNone | Who::BellwetherDeflate => bellwether(work, crew)?,
        Who::Rsync | Who::RsyncZ => {
            rsync::serve(work.site, crew)?;
            other(work, crew, |crew| {
                rsync::push(work.site, crew, work.rsync_options()).map(drop)?;
                crew.settle(START)
            })?
        }
        Who::Cp => other(work, crew, |crew| cp::copy(work.site, crew))?,
        Who::Lsyncd => Vec::new(),
    };
    work.site.compare()?;
    Ok(samples)
}

fn bellwether(work: &Work<'_, '_>, crew: &mut Crew<'_>) -> Result<Vec<Sample>> {
    let (network, farm) = (work.site.network, work.farm());
    let from_init = Meter::begin(network, crew);
    farm.form(crew)?;
    let token = farm.token(crew)?;
    let from_join = Meter::begin(network, crew);
    farm.join(crew, &token)?;
    let (init, join) = (from_init.read(network, crew), from_join.read(network, crew));
    let (manager_peak, members_peak) = (crew.peak(Side::Manager), crew.peak(Side::Members));
    // These are the agents' exact peaks; `init` and the other commands count only in the measurement from `init`.
    let join = Cost { manager_peak, members_peak, ..join };
    let synced = work.synced(from_init.began())?;
    let earlier = (from_join.began() - from_init.began()).as_secs_f64();
    Ok(vec![
        Sample { with_sync: synced.map(|seconds| seconds - earlier), ..work.sample(Way::Join, join) },
        Sample { with_sync: synced, ..work.sample(Way::Init, init) },
    ])
}

fn other<'c>(
    work: &Work<'_, '_>,
    crew: &mut Crew<'c>,
    action: impl FnOnce(&mut Crew<'c>) -> Result<()>,
) -> Result<Vec<Sample>> {
    let meter = Meter::begin(work.site.network, crew);
    action(crew)?;
    let cost = meter.read(work.site.network, crew);
    let began: Instant = meter.began();
    Ok(vec![Sample { with_sync: work.synced(began)?, ..work.sample(Way::Only, cost) }])
}
