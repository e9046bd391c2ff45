//! All measurements of a run, and queries for them.

use crate::{
    network::Link,
    plan::{Cell, Row},
    problem::Problem,
    sample::{Sample, Way, Who},
    stats::median,
};

/// A contender's failure in a cell, with the reason.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) cell: Cell,
    pub(crate) who: Who,
    pub(crate) problem: Problem,
}

/// The measurements in the order of the run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) samples: Vec<Sample>,
    pub(crate) failures: Vec<Failure>,
}

/// The key of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub(crate) row: Row,
    pub(crate) tree: &'static str,
    pub(crate) members: usize,
    pub(crate) link: Link,
    pub(crate) who: Who,
    pub(crate) way: Way,
}

impl Query {
    fn fits(&self, sample: &Sample) -> bool {
        let cell = &sample.cell;
        (cell.row, cell.tree.name, cell.members, cell.link) == (self.row, self.tree, self.members, self.link)
            && (sample.who, sample.way) == (self.who, self.way)
    }
}

impl Results {
    /// The median of `value` over the repetitions; none if it was not measured.
    pub(crate) fn value(&self, query: Query, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        let values: Vec<_> = self.samples.iter().filter(|sample| query.fits(sample)).map(value).collect();
        median(&values)
    }

    /// All measured cells, in order.
    pub(crate) fn cells(&self, row: Row) -> Vec<Cell> {
        let mut cells: Vec<Cell> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.cell.row == row) {
            if !cells.contains(&sample.cell) {
                cells.push(sample.cell);
            }
        }
        cells
    }

    /// One sample for each contender and way of a cell: the medians of its repetitions, with all of their changes.
    pub(crate) fn summaries(&self, cell: &Cell) -> Vec<Sample> {
        let mut groups: Vec<Vec<&Sample>> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.cell == *cell) {
            match groups.iter_mut().find(|group| (group[0].who, group[0].way) == (sample.who, sample.way)) {
                Some(group) => group.push(sample),
                None => groups.push(vec![sample]),
            }
        }
        groups.iter().map(|group| summary(group)).collect()
    }
}

fn summary(group: &[&Sample]) -> Sample {
    let middle = |value: fn(&Sample) -> f64| {
        let values: Vec<_> = group.iter().map(|sample| value(sample)).collect();
        median(&values).unwrap_or(0.0)
    };
    let mut summary = group[0].clone();
    summary.cost.seconds = middle(|s| s.cost.seconds);
    summary.cost.wire = middle(|s| s.cost.wire as f64) as u64;
    summary.cost.cpu.manager = middle(|s| s.cost.cpu.manager);
    summary.cost.cpu.members = middle(|s| s.cost.cpu.members);
    summary.cost.manager_peak = middle(|s| s.cost.manager_peak as f64) as u64;
    summary.cost.members_peak = middle(|s| s.cost.members_peak as f64) as u64;
    summary.with_sync = group[0].with_sync.map(|_| middle(|s| s.with_sync.unwrap_or(0.0)));
    summary.changes = group.iter().flat_map(|sample| sample.changes.clone()).collect();
    summary
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        meter::Cost,
        plan::{Sizes, cells},
    };

    /// A sample of that number of seconds.
    pub(crate) fn sample(cell: Cell, who: Who, way: Way, seconds: f64) -> Sample {
        let cost = Cost { seconds, wire: 1_000, ..Cost::default() };
        Sample { cell, who, way, entries: 10, cost, with_sync: Some(seconds + 1.0), changes: Vec::new() }
    }

    #[test]
    fn repetitions_give_their_median() {
        let sizes = Sizes::quick();
        let all = cells(Row::FirstSync, &sizes);
        let times = [3.0, 1.0, 2.0].map(|seconds| sample(all[0], Who::Rsync, Way::Only, seconds));
        let other = sample(all[1], Who::Rsync, Way::Only, 9.0);
        let results = Results { samples: times.into_iter().chain([other]).collect(), failures: Vec::new() };
        let query = Query {
            row: Row::FirstSync,
            tree: sizes.small.name,
            members: sizes.members[0],
            link: Link::Unlimited,
            who: Who::Rsync,
            way: Way::Only,
        };
        assert_eq!(results.value(query, |s| s.cost.seconds), Some(2.0));
        assert_eq!(results.value(Query { who: Who::Cp, ..query }, |s| s.cost.seconds), None);
        assert_eq!(results.cells(Row::FirstSync), all[..2]);
        let summaries = results.summaries(&all[0]);
        assert_eq!((summaries.len(), summaries[0].cost.seconds, summaries[0].with_sync), (1, 2.0, Some(3.0)));
    }
}
