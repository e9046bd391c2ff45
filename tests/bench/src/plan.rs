//! The plan of a run: the rows, their cells, and the sizes.

use std::time::Duration;

use serde::Serialize;

use crate::{
    network::Link,
    sample::Who,
    tree::{Shape, Spec},
};

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// The whole tree to members that have nothing
    FirstSync,
    /// The same over links of 1 Gbit/s and 100 Mbit/s
    FirstSyncLinks,
    /// One line of one file changed, until it is seen on all members
    OneLine,
    /// One file in a hundred changed, also over slower links
    OnePercent,
    /// Nothing changed: are the members equal?
    Verify,
    /// One line inserted in the middle of a large file
    LargeFile,
}

impl Row {
    /// All rows, in the order of the run.
    pub(crate) const ALL: [Self; 6] =
        [Self::FirstSync, Self::FirstSyncLinks, Self::OneLine, Self::OnePercent, Self::Verify, Self::LargeFile];

    /// The heading in tables.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::FirstSync => "First sync",
            Self::FirstSyncLinks => "First sync over a link (all members together)",
            Self::OneLine => "One-line change, until it is seen on all members (costs are of one change)",
            Self::OnePercent => "One file in a hundred changed, until all are seen on all members",
            Self::Verify => "Verify of an unchanged tree",
            Self::LargeFile => "A line in the middle of a large file",
        }
    }
}

/// The sizes of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sizes {
    /// Whether these sizes are only for a try of the program.
    pub(crate) quick: bool,
    /// One, some and many members.
    pub(crate) members: [usize; 3],
    pub(crate) small: Spec,
    pub(crate) web: Spec,
    pub(crate) tiny: Spec,
    pub(crate) huge: Spec,
    pub(crate) large_file: Spec,
    /// The number of measured one-line changes, after [`Sizes::warm_up`] unmeasured ones.
    pub(crate) changes: usize,
    pub(crate) warm_up: usize,
    /// The wait for the work after a first sync (a pack of it, a last write).
    pub(crate) rest: Duration,
}

/// The names of the trees.
pub(crate) const TREES: [&str; 5] = ["small", "web", "tiny", "huge", "large-file"];

impl Sizes {
    /// The names of the trees of the goals.
    pub(crate) fn full() -> Self {
        let spec = |name, shape, files, mean| Spec { name, shape, files, mean, first: None };
        let [small, web, tiny, huge, large_file] = TREES;
        Self {
            quick: false,
            members: [1, 4, 16],
            small: spec(small, Shape::Mixed, 500, 10_000),
            web: spec(web, Shape::Mixed, 20_000, 10_000),
            tiny: spec(tiny, Shape::Tiny, 200_000, 1_024),
            huge: spec(huge, Shape::Large, 50, 20_000_000),
            large_file: Spec { first: Some(20_000_000), ..spec(large_file, Shape::Mixed, 500, 10_000) },
            changes: 50,
            warm_up: 3,
            rest: Duration::from_secs(2),
        }
    }

    /// Small sizes, to try the program.
    pub(crate) fn quick() -> Self {
        let full = Self::full();
        Self {
            quick: true,
            members: [1, 2, 4],
            small: Spec { files: 60, ..full.small },
            web: Spec { files: 600, ..full.web },
            tiny: Spec { files: 2_000, ..full.tiny },
            huge: Spec { files: 4, mean: 2_000_000, ..full.huge },
            large_file: Spec { files: 60, first: Some(2_000_000), ..full.large_file },
            changes: 8,
            warm_up: 1,
            rest: Duration::from_millis(300),
        }
    }
}

/// One cell of a table: this work on this tree, with that number of members, over this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    pub(crate) row: Row,
    pub(crate) tree: Spec,
    pub(crate) members: usize,
    pub(crate) link: Link,
}

impl Cell {
    /// The contenders of the cell.
    pub(crate) fn contenders(&self) -> &'static [Who] {
        use Who::{BellwetherDeflate, BellwetherNone, Cp, Lsyncd, Rsync, RsyncZ};
        match self.row {
            Row::FirstSync => &[BellwetherNone, BellwetherDeflate, Rsync, RsyncZ, Cp],
            Row::FirstSyncLinks => &[BellwetherNone, BellwetherDeflate, Rsync, RsyncZ],
            Row::OneLine => &[BellwetherDeflate, Lsyncd],
            Row::OnePercent | Row::LargeFile => &[BellwetherNone, BellwetherDeflate, Rsync, RsyncZ, Lsyncd],
            Row::Verify => &[BellwetherDeflate, Rsync],
        }
    }

    /// The cell in words for people.
    pub(crate) fn label(&self) -> String {
        let members = if self.members == 1 { "1 member".to_owned() } else { format!("{} members", self.members) };
        let link = if self.link == Link::Unlimited { String::new() } else { format!(", {}", self.link.word()) };
        format!("{}, {members}{link}", self.tree.label())
    }
}

/// The cells of a row.
pub(crate) fn cells(row: Row, sizes: &Sizes) -> Vec<Cell> {
    let [one, some, many] = sizes.members;
    let cell = |tree, members, link| Cell { row, tree, members, link };
    let free = |tree, members| cell(tree, members, Link::Unlimited);
    match row {
        Row::FirstSync => {
            let mut cells: Vec<_> = sizes.members.iter().map(|&members| free(sizes.small, members)).collect();
            cells.extend(sizes.members.iter().map(|&members| free(sizes.web, members)));
            cells.extend([free(sizes.tiny, one), free(sizes.huge, some)]);
            cells
        }
        Row::FirstSyncLinks => vec![cell(sizes.web, many, Link::Gigabit), cell(sizes.web, some, Link::Fast)],
        Row::OneLine => {
            [sizes.small, sizes.web].iter().flat_map(|&tree| [free(tree, some), free(tree, many)]).collect()
        }
        Row::OnePercent => {
            [Link::Unlimited, Link::Gigabit, Link::Fast].iter().map(|&link| cell(sizes.web, some, link)).collect()
        }
        Row::Verify => vec![free(sizes.web, some)],
        Row::LargeFile => vec![free(sizes.large_file, one)],
    }
}
