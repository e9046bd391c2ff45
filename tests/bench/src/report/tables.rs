//! The tables of a run.

use super::{
    Report,
    format::{bytes, seconds},
    table::Table,
};
use crate::{
    goals::Goal,
    plan::{Cell, Row},
    results::Results,
    sample::Sample,
};

/// A table for each cell, and after them the goals and the failures.
pub(super) fn all(report: &Report<'_>) -> Vec<Table> {
    let mut tables: Vec<_> = Row::ALL.iter().flat_map(|&row| of_row(report.results, row)).collect();
    tables.push(goals(report.goals, report.sizes.quick));
    tables.extend(failures(report.results));
    tables
}

/// The tables of one row.
pub(super) fn of_row(results: &Results, row: Row) -> Vec<Table> {
    results.cells(row).iter().map(|cell| table(results, cell)).collect()
}

fn table(results: &Results, cell: &Cell) -> Table {
    let title = format!("{}: {}", cell.row.title(), cell.label());
    let summaries = results.summaries(cell);
    if cell.row == Row::OneLine {
        let header = vec![
            "contender",
            "p50",
            "p99",
            "most",
            "wire",
            "CPU manager",
            "CPU members",
            "peak manager",
            "peak a member",
        ];
        return Table { title, header, rows: summaries.iter().map(change).collect(), words: 1 };
    }
    let header =
        vec!["contender", "time", "with sync", "wire", "CPU manager", "CPU members", "peak manager", "peak a member"];
    Table { title, header, rows: summaries.iter().map(once).collect(), words: 1 }
}

fn once(sample: &Sample) -> Vec<String> {
    let synced = sample.with_sync.map_or_else(|| "–".to_owned(), seconds);
    [vec![sample.label(), seconds(sample.cost.seconds), synced], costs(sample)].concat()
}

fn change(sample: &Sample) -> Vec<String> {
    let most = sample.changes.iter().copied().fold(0.0, f64::max);
    let times = [sample.p50(), sample.p99(), most].map(seconds);
    [vec![sample.label()], times.to_vec(), costs(sample)].concat()
}

fn costs(sample: &Sample) -> Vec<String> {
    let cost = &sample.cost;
    vec![
        bytes(cost.wire),
        seconds(cost.cpu.manager),
        seconds(cost.cpu.members),
        bytes(cost.manager_peak),
        // `cp` has no process on the members' side, so it has no value here.
        if cost.members_peak == 0 { "–".to_owned() } else { bytes(cost.members_peak / sample.cell.members as u64) },
    ]
}

/// Each goal with its verdict.
pub(super) fn goals(goals: &[Goal], quick: bool) -> Table {
    let row = |goal: &Goal| {
        let ratio = goal.ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        vec![goal.work.clone(), goal.what.clone(), goal.verdict().word().to_owned(), format!("≤ {}", goal.limit), ratio]
    };
    let title = if quick { "Goals (the sizes of --quick say nothing about them)" } else { "Goals" };
    let header = vec!["work", "ratio", "verdict", "goal", "measured"];
    Table { title: title.to_owned(), header, rows: goals.iter().map(row).collect(), words: 3 }
}

fn failures(results: &Results) -> Option<Table> {
    let row = |failure: &crate::results::Failure| {
        let why = failure.problem.to_string().lines().next().unwrap_or_default().to_owned();
        vec![format!("{:?}: {}", failure.cell.row, failure.cell.label()), failure.who.word().to_owned(), why]
    };
    let rows: Vec<_> = results.failures.iter().map(row).collect();
    let header = vec!["cell", "contender", "why"];
    (!rows.is_empty()).then(|| Table { title: "Not measured".to_owned(), header, rows, words: 3 })
}
