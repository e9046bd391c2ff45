//! The plots of a run.

use super::{
    chart::{self, Bar, COLOURS, Curve, Group},
    format,
};
use crate::{
    goals::{Goal, Verdict},
    plan::{Cell, Row},
    results::Results,
    sample::{Sample, Way, Who},
};

/// A plot.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) file: &'static str,
    pub(super) svg: String,
}

/// The plots for which there are values.
pub(super) fn all(results: &Results, goals: &[Goal]) -> Vec<Plot> {
    let seconds = |title, file, row| bars(results, title, file, row, |s| s.cost.seconds, format::seconds);
    let wire = |title, file, row| bars(results, title, file, row, |s| s.cost.wire as f64, |v| format::bytes(v as u64));
    let cpu = |s: &Sample| s.cost.cpu.manager + s.cost.cpu.members;
    let plots = [
        of_goals(goals),
        seconds("First sync: seconds", "first-sync.svg", Row::FirstSync),
        wire("First sync: bytes on the wire", "first-sync-bytes.svg", Row::FirstSync),
        bars(
            results,
            "First sync: CPU seconds, both sides",
            "first-sync-cpu.svg",
            Row::FirstSync,
            cpu,
            format::seconds,
        ),
        seconds("First sync over a link: seconds", "first-sync-links.svg", Row::FirstSyncLinks),
        curves(results),
        seconds("One file in a hundred changed: seconds", "one-percent.svg", Row::OnePercent),
        wire("One file in a hundred changed: bytes on the wire", "one-percent-bytes.svg", Row::OnePercent),
        seconds("Verify of an unchanged tree: seconds", "verify.svg", Row::Verify),
        wire("A line in the middle of a large file: bytes on the wire", "large-file-bytes.svg", Row::LargeFile),
    ];
    plots.into_iter().flatten().collect()
}

/// The longest bar of the goals' plot; worse values are cut off there.
const WORST: f64 = 3.0;

/// The measured value ÷ the allowed one.
fn of_goals(goals: &[Goal]) -> Option<Plot> {
    let mut groups: Vec<Group> = Vec::new();
    for goal in goals {
        let Some(ratio) = goal.ratio.map(|ratio| ratio / goal.limit) else { continue };
        let colour = if goal.verdict() == Verdict::Met { COLOURS[4] } else { COLOURS[2] };
        let bar = Bar { label: goal.what.clone(), value: ratio.min(WORST), text: format!("{ratio:.2}"), colour };
        match groups.iter_mut().find(|group| group.label == goal.work) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { label: goal.work.clone(), bars: vec![bar] }),
        }
    }
    let title = "Goals: what was measured ÷ what is allowed (at or left of the line: met)".to_owned();
    (!groups.is_empty()).then(|| Plot { svg: chart::bars(&title, &groups, Some(1.0)), title, file: "goals.svg" })
}

fn bars(
    results: &Results,
    title: &str,
    file: &'static str,
    row: Row,
    value: impl Fn(&Sample) -> f64,
    text: fn(f64) -> String,
) -> Option<Plot> {
    let bar = |sample: &Sample| {
        let value = value(sample);
        Bar { label: sample.label(), value, text: text(value), colour: colour(sample.who) }
    };
    let group = |cell: &Cell| {
        // A contender without a wire has no bytes on it.
        let bars = results.summaries(cell).iter().filter(|sample| value(sample) > 0.0).map(bar).collect();
        Group { label: cell.label(), bars }
    };
    let groups: Vec<_> = results.cells(row).iter().map(group).collect();
    (!groups.is_empty()).then(|| Plot {
        title: title.to_owned(),
        file,
        svg: chart::bars(&format!("{title} (each group has a scale of its own)"), &groups, None),
    })
}

/// One curve for each contender, way and number of members, of the largest tree.
fn curves(results: &Results) -> Option<Plot> {
    let cells = results.cells(Row::OneLine);
    let tree = cells.iter().map(|cell| cell.tree).max_by_key(|tree| tree.files)?;
    let mut all = Vec::new();
    for cell in cells.iter().filter(|cell| cell.tree == tree) {
        for sample in results.summaries(cell) {
            let label = format!("{}, {} members", short(&sample), cell.members);
            all.push(Curve { label, colour: COLOURS[all.len() % COLOURS.len()], seconds: sample.changes });
        }
    }
    let title = format!("One-line change in {}: share seen on all members after …", tree.label());
    Some(Plot { svg: chart::curves(&title, &all), title, file: "one-line.svg" })
}

fn short(sample: &Sample) -> &'static str {
    match (sample.who, sample.way) {
        (Who::Lsyncd, _) => "lsyncd",
        (_, Way::Put) => "Bellwether, put",
        _ => "Bellwether, watch",
    }
}

fn colour(who: Who) -> &'static str {
    match who {
        Who::BellwetherNone => COLOURS[1],
        Who::BellwetherDeflate => COLOURS[0],
        Who::Rsync => COLOURS[3],
        Who::RsyncZ => COLOURS[2],
        Who::Lsyncd => COLOURS[5],
        Who::Cp => COLOURS[6],
    }
}
