//! The report of a run: tables on standard output, and in a directory a JSON file, Markdown tables and SVG plots.

mod chart;
mod document;
pub(crate) mod format;
mod plots;
mod table;
mod tables;

use std::{fs, path::Path};

use crate::{
    environment::Environment,
    goals::Goal,
    plan::Sizes,
    problem::{Problem, Result},
    results::Results,
};

/// The content of the report.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) sizes: &'a Sizes,
    pub(crate) results: &'a Results,
    pub(crate) goals: &'a [Goal],
}

/// Prints the tables.
pub(crate) fn print(report: &Report<'_>) {
    for table in tables::all(report) {
        println!("\n{}", table.text());
    }
}

/// Writes results.json, results.md and the plots.
///
/// # Errors
/// The system's.
pub(crate) fn write(report: &Report<'_>, out: &Path) -> Result<()> {
    fs::create_dir_all(out).map_err(Problem::with("create", out))?;
    let plots = plots::all(report.results, report.goals);
    let put = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).map_err(Problem::with("write", &path))
    };
    put("results.json", &document::json(report))?;
    put("results.md", &document::markdown(report, &plots))?;
    plots.iter().try_for_each(|plot| put(plot.file, &plot.svg))
}
