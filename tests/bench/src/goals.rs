//! The goals: ratios to the peers in the same run.

use serde::Serialize;

use crate::{
    network::Link,
    plan::{Row, Sizes},
    results::{Query, Results},
    sample::{Sample, Way, Who},
};

/// The largest difference of p50 between a small and a large tree that counts as equal.
const NOISE: f64 = 1.2;
/// The limit of the manager's memory: a number of bytes, and a number for each entry.
const MEMORY: (f64, f64) = (20e6, 200.0);
/// Bytes on the wire of a quick verify, for each member.
const VERIFY_BYTES: f64 = 1_000.0;

/// The verdict on a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    NotMeasured,
}

impl Verdict {
    /// The verdict's word in tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A goal and its result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    /// The work.
    pub(crate) work: String,
    /// The compared values.
    pub(crate) what: String,
    /// The largest allowed ratio.
    pub(crate) limit: f64,
    /// The measured ratio.
    pub(crate) ratio: Option<f64>,
}

impl Goal {
    /// Whether the goal is met.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.ratio {
            None => Verdict::NotMeasured,
            Some(ratio) if ratio <= self.limit => Verdict::Met,
            Some(_) => Verdict::Missed,
        }
    }
}

/// The goals of these rows.
pub(crate) fn judge(results: &Results, sizes: &Sizes, rows: &[Row]) -> Vec<Goal> {
    let judge = Judge { results, sizes };
    let goals = rows.iter().flat_map(|row| match row {
        Row::FirstSync => judge.first_sync(),
        Row::FirstSyncLinks => judge.first_sync_links(),
        Row::OneLine => judge.one_line(),
        Row::OnePercent => judge.one_percent(),
        Row::Verify => judge.verify(),
        Row::LargeFile => judge.large_file(),
    });
    goals.collect()
}

type Value = fn(&Sample) -> f64;

const SECONDS: Value = |sample| sample.cost.seconds;
const WITH_SYNC: Value = |sample| sample.with_sync.unwrap_or(f64::NAN);
const WIRE: Value = |sample| sample.cost.wire as f64;
const MEMBERS_CPU: Value = |sample| sample.cost.cpu.members;
const PEAK: Value = |sample| sample.cost.manager_peak as f64;
const ALLOWED_PEAK: Value = |sample| MEMORY.0 + MEMORY.1 * sample.entries as f64;

struct Judge<'a> {
    results: &'a Results,
    sizes: &'a Sizes,
}

/// One side of a ratio.
type Side = (Who, Way, Value);

impl Judge<'_> {
    fn value(
        &self,
        (row, tree, members): (Row, &'static str, usize),
        link: Link,
        (who, way, value): Side,
    ) -> Option<f64> {
        self.results.value(Query { row, tree, members, link, who, way }, value)
    }

    fn goal(
        &self,
        cell: (Row, &'static str, usize),
        link: Link,
        what: &str,
        limit: f64,
        ours: Side,
        theirs: Side,
    ) -> Goal {
        let ratio =
            self.value(cell, link, ours).zip(self.value(cell, link, theirs)).map(|(ours, theirs)| ours / theirs);
        let members = if cell.2 == 1 { "1 member".to_owned() } else { format!("{} members", cell.2) };
        let over = if link == Link::Unlimited { String::new() } else { format!(", {}", link.word()) };
        Goal {
            work: format!("{}, {}, {members}{over}", short(cell.0), self.tree(cell.1)),
            what: what.to_owned(),
            limit,
            ratio,
        }
    }

    fn tree(&self, name: &str) -> String {
        let sizes = self.sizes;
        let specs = [sizes.small, sizes.web, sizes.tiny, sizes.huge, sizes.large_file];
        specs.iter().find(|spec| spec.name == name).map_or_else(String::new, |spec| spec.label())
    }

    fn first_sync(&self) -> Vec<Goal> {
        let (sizes, free) = (self.sizes, Link::Unlimited);
        let [one, some, many] = sizes.members;
        let cell = |tree: &crate::tree::Spec, members| (Row::FirstSync, tree.name, members);
        let (none, deflate) = (Who::BellwetherNone, Who::BellwetherDeflate);
        let rsync = |value| (Who::Rsync, Way::Only, value);
        let rsync_z = |value| (Who::RsyncZ, Way::Only, value);
        let mut goals = Vec::new();
        for way in [Way::Join, Way::Init] {
            let from = way.word().trim_start_matches(", ");
            let plain = |tree, members, limit| {
                let what = format!("codec none {from} ÷ (rsync + sync)");
                self.goal(cell(tree, members), free, &what, limit, (none, way, SECONDS), rsync(WITH_SYNC))
            };
            let packed = |tree, members, limit| {
                let what = format!("deflate {from} ÷ rsync -z");
                self.goal(cell(tree, members), free, &what, limit, (deflate, way, SECONDS), rsync_z(SECONDS))
            };
            goals.extend([plain(&sizes.web, many, 1.0), packed(&sizes.web, many, 0.35), plain(&sizes.web, one, 1.2)]);
            goals.extend([plain(&sizes.tiny, one, 0.9), packed(&sizes.huge, some, 0.3)]);
        }
        let join = |who, value| (who, Way::Join, value);
        let web = cell(&sizes.web, many);
        goals.push(self.goal(web, free, "bytes, deflate ÷ rsync -z", 1.0, join(deflate, WIRE), rsync_z(WIRE)));
        for cell in [cell(&sizes.tiny, one), web] {
            let what = "members' CPU, codec none ÷ rsync";
            goals.push(self.goal(cell, free, what, 0.8, join(none, MEMBERS_CPU), rsync(MEMBERS_CPU)));
        }
        for cell in [web, cell(&sizes.tiny, one), cell(&sizes.huge, some)] {
            let what = "manager's peak memory ÷ (20 MB + 200 bytes an entry)";
            goals.push(self.goal(cell, free, what, 1.0, join(deflate, PEAK), join(deflate, ALLOWED_PEAK)));
        }
        goals.push(self.memory_by_members());
        goals
    }

    /// Independence of the number of members: the same tree, with many members and with one.
    fn memory_by_members(&self) -> Goal {
        let (web, [one, _, many]) = (self.sizes.web.name, self.sizes.members);
        let peak = |members| {
            self.value((Row::FirstSync, web, members), Link::Unlimited, (Who::BellwetherDeflate, Way::Join, PEAK))
        };
        Goal {
            work: format!("First sync, {}", self.sizes.web.label()),
            what: format!("manager's peak memory, {many} members ÷ {one}"),
            limit: NOISE,
            ratio: peak(many).zip(peak(one)).map(|(many, one)| many / one),
        }
    }

    fn first_sync_links(&self) -> Vec<Goal> {
        let cell = (Row::FirstSyncLinks, self.sizes.web.name, self.sizes.members[2]);
        let goal = |way: Way| {
            let what = format!("deflate{} ÷ rsync", way.word().replace(',', ""));
            let ours = (Who::BellwetherDeflate, way, SECONDS);
            self.goal(cell, Link::Gigabit, &what, 0.4, ours, (Who::Rsync, Way::Only, SECONDS))
        };
        vec![goal(Way::Join), goal(Way::Init)]
    }

    fn one_line(&self) -> Vec<Goal> {
        let (sizes, free) = (self.sizes, Link::Unlimited);
        let mut goals = Vec::new();
        for members in &sizes.members[1..] {
            for tree in [&sizes.small, &sizes.web] {
                let goal = |what: &str, limit, way, value| {
                    let (ours, theirs) = ((Who::BellwetherDeflate, way, value), (Who::Lsyncd, Way::Only, value));
                    self.goal((Row::OneLine, tree.name, *members), free, what, limit, ours, theirs)
                };
                goals.push(goal("p50, file watch ÷ lsyncd", 0.7, Way::Watch, Sample::p50));
                goals.push(goal("p99, file watch ÷ lsyncd", 1.0, Way::Watch, Sample::p99));
                goals.push(goal("p50, put ÷ lsyncd", 0.35, Way::Put, Sample::p50));
            }
            goals.push(self.same_on_both(*members));
        }
        goals
    }

    /// A one-line change must not take longer in a larger tree.
    fn same_on_both(&self, members: usize) -> Goal {
        let side = (Who::BellwetherDeflate, Way::Watch, Sample::p50 as Value);
        let p50 = |tree| self.value((Row::OneLine, tree, members), Link::Unlimited, side);
        Goal {
            work: format!("One line, {members} members"),
            what: format!("p50, file watch, {} ÷ {}", self.sizes.web.label(), self.sizes.small.label()),
            limit: NOISE,
            ratio: p50(self.sizes.web.name).zip(p50(self.sizes.small.name)).map(|(large, small)| large / small),
        }
    }

    fn one_percent(&self) -> Vec<Goal> {
        let cell = (Row::OnePercent, self.sizes.web.name, self.sizes.members[1]);
        let goal = |what, limit, value| {
            let (ours, theirs) = ((Who::BellwetherDeflate, Way::Watch, value), (Who::Lsyncd, Way::Only, value));
            self.goal(cell, Link::Unlimited, what, limit, ours, theirs)
        };
        vec![goal("deflate ÷ lsyncd", 0.35, SECONDS), goal("bytes, deflate ÷ lsyncd", 1.0, WIRE)]
    }

    fn verify(&self) -> Vec<Goal> {
        let members = self.sizes.members[1];
        let cell = (Row::Verify, self.sizes.web.name, members);
        let (ours, rsync) = (Who::BellwetherDeflate, Who::Rsync);
        let goal = |what, limit, way| {
            self.goal(cell, Link::Unlimited, what, limit, (ours, way, SECONDS), (rsync, way, SECONDS))
        };
        let wire = self.value(cell, Link::Unlimited, (ours, Way::Quick, WIRE));
        let bytes = Goal {
            work: format!("Verify, {}, {members} members", self.sizes.web.label()),
            what: "bytes a member, quick ÷ 1 KB".to_owned(),
            limit: 1.0,
            ratio: wire.map(|wire| wire / members as f64 / VERIFY_BYTES),
        };
        vec![goal("quick ÷ rsync -n", 0.6, Way::Quick), bytes, goal("full ÷ rsync -nc", 1.0, Way::Full)]
    }

    fn large_file(&self) -> Vec<Goal> {
        let cell = (Row::LargeFile, self.sizes.large_file.name, self.sizes.members[0]);
        let (ours, theirs) = ((Who::BellwetherDeflate, Way::Watch, WIRE), (Who::RsyncZ, Way::Only, WIRE));
        vec![self.goal(cell, Link::Unlimited, "bytes, deflate ÷ rsync -z", 0.5, ours, theirs)]
    }
}

fn short(row: Row) -> &'static str {
    match row {
        Row::FirstSync | Row::FirstSyncLinks => "First sync",
        Row::OneLine => "One line",
        Row::OnePercent => "1 % changed",
        Row::Verify => "Verify",
        Row::LargeFile => "A line in a large file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::cells, results::tests::sample};

    #[test]
    fn a_goal_is_a_ratio_of_the_same_cell() {
        let sizes = Sizes::quick();
        let cell = *cells(Row::FirstSyncLinks, &sizes).iter().find(|cell| cell.link == Link::Gigabit).expect("a cell");
        let ours = sample(cell, Who::BellwetherDeflate, Way::Join, 3.0);
        let mut results = Results { samples: vec![ours], failures: Vec::new() };
        let judged = |results: &Results| {
            let goals = judge(results, &sizes, &[Row::FirstSyncLinks]);
            (goals[0].verdict(), goals[0].ratio, goals[1].verdict())
        };
        assert_eq!(judged(&results), (Verdict::NotMeasured, None, Verdict::NotMeasured));
        results.samples.push(sample(cell, Who::Rsync, Way::Only, 6.0));
        assert_eq!(judged(&results), (Verdict::Missed, Some(0.5), Verdict::NotMeasured));
        results.samples[1].cost.seconds = 30.0;
        assert_eq!(judged(&results), (Verdict::Met, Some(0.1), Verdict::NotMeasured));
    }

    #[test]
    fn every_row_has_goals() {
        let sizes = Sizes::full();
        for row in Row::ALL {
            assert!(!judge(&Results::default(), &sizes, &[row]).is_empty(), "{row:?}");
        }
    }
}
