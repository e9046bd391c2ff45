//! A change of one line in one file, again and again in another file, until it is seen on all members.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use bellwether_random::Rng;

use super::Work;
use crate::{
    crew::{Cpu, Crew},
    meter::{Cost, Meter},
    network::Side,
    peers::START,
    problem::{Problem, Result},
    sample::{Sample, Way, Who},
    tree::change_line,
    visible::{self, Awaited},
};

/// A change that is not seen within this time is lost.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two changes, with as much again at most, so that no contender can be in step with it.
const PAUSE: Duration = Duration::from_millis(150);

/// lsyncd has one way; Bellwether is measured by file watch and after that by `put`.
pub(super) fn measure(work: &Work<'_, '_>, crew: &mut Crew<'_>) -> Result<Vec<Sample>> {
    work.prepare(crew)?;
    let mut changes = Changes::new(work);
    let ways: &[Way] = if work.who == Who::Lsyncd { &[Way::Only] } else { &[Way::Watch, Way::Put] };
    let samples = ways.iter().map(|&way| one_way(work, crew, &mut changes, way)).collect();
    work.site.compare()?;
    samples
}

fn one_way(work: &Work<'_, '_>, crew: &mut Crew<'_>, changes: &mut Changes<'_, '_>, way: Way) -> Result<Sample> {
    let sizes = work.bench.sizes;
    for _ in 0..sizes.warm_up {
        changes.make(crew, way)?;
    }
    let meter = Meter::begin(work.site.network, crew);
    let seen: Result<Vec<f64>> = (0..sizes.changes).map(|_| changes.make(crew, way)).collect();
    let cost = meter.read(work.site.network, crew);
    let mut sample = work.sample(way, mean(cost, sizes.changes));
    sample.changes = seen?;
    sample.cost.seconds = sample.p50();
    Ok(sample)
}

/// The cost of one of so many changes.
fn mean(cost: Cost, changes: usize) -> Cost {
    let share = |seconds: f64| seconds / changes as f64;
    let cpu = Cpu { manager: share(cost.cpu.manager), members: share(cost.cpu.members) };
    Cost { wire: cost.wire / changes as u64, cpu, ..cost }
}

/// The order in which files are changed; no file comes twice before all have come.
struct Changes<'w, 'a> {
    work: &'w Work<'w, 'a>,
    files: Vec<PathBuf>,
    made: usize,
    rng: Rng,
}

impl<'w, 'a> Changes<'w, 'a> {
    fn new(work: &'w Work<'w, 'a>) -> Self {
        let mut rng = Rng::new(work.bench.seed);
        let mut files = work.site.template.files.clone();
        rng.shuffle(&mut files);
        Self { work, files, made: 0, rng }
    }

    /// Makes one change, and returns the seconds until the last member had it.
    fn make(&mut self, crew: &mut Crew<'_>, way: Way) -> Result<f64> {
        thread::sleep(PAUSE + Duration::from_micros(self.rng.below(PAUSE.as_micros() as u64)));
        let site = self.work.site;
        let file = &self.files[self.made % self.files.len()];
        self.made += 1;
        let path = site.source().join(file);
        let content = fs::read(&path).map_err(Problem::with("read", &path))?;
        let changed = change_line(&content, self.made);
        let awaited =
            site.targets().into_iter().map(|target| vec![Awaited::new(target.join(file), &changed)]).collect();
        let (began, seen);
        if way == Way::Put {
            let local = site.manager().join("put");
            fs::write(&local, &changed).map_err(Problem::with("write", &local))?;
            began = Instant::now();
            let put = crew.start(Side::Manager, self.work.farm().put(file, &local))?;
            seen = visible::wait(began, awaited, PATIENCE)?;
            crew.finish(put, PATIENCE)?;
        } else {
            began = Instant::now();
            // The file is written in place, like by `>` in a shell, which suits lsyncd best, since it takes each event by itself.
            fs::write(&path, &changed).map_err(Problem::with("write", &path))?;
            seen = visible::wait(began, awaited, PATIENCE)?;
        }
        // lsyncd's and rsync's processes of this change end before the next one.
        crew.settle(START)?;
        Ok(seen)
    }
}
