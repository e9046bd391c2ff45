//! The JSON file and the Markdown page.

use std::fmt::Write;

use serde_json::json;

use super::{
    Report,
    plots::Plot,
    tables::{all, goals},
};
use crate::goals::Goal;

/// All results, for programs.
pub(super) fn json(report: &Report<'_>) -> String {
    let failure = |failure: &crate::results::Failure| json!({ "cell": failure.cell, "who": failure.who, "problem": failure.problem.to_string() });
    let goal = |goal: &Goal| json!({ "work": goal.work, "what": goal.what, "limit": goal.limit, "ratio": goal.ratio, "verdict": goal.verdict() });
    let document = json!({
        "environment": report.environment,
        "sizes": report.sizes,
        "samples": report.results.samples,
        "failures": report.results.failures.iter().map(failure).collect::<Vec<_>>(),
        "goals": report.goals.iter().map(goal).collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&document).expect("figures and texts have a JSON form")
}

/// Goals, plots and tables, for people.
pub(super) fn markdown(report: &Report<'_>, plots: &[Plot]) -> String {
    let mut text = format!("# Bellwether beside its peers\n\n{}\n", report.environment.markdown());
    text.push_str(&goals(report.goals, report.sizes.quick).markdown());
    for plot in plots {
        let _ = write!(text, "\n![{}]({})\n", plot.title, plot.file);
    }
    for table in all(report).iter().filter(|table| !table.title.starts_with("Goals")) {
        let _ = write!(text, "\n{}", table.markdown());
    }
    text
}
