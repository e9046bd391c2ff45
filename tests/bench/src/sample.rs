//! The measurements of a piece of work.

use serde::Serialize;

use crate::{meter::Cost, plan::Cell, stats};

/// A contender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Who {
    BellwetherNone,
    BellwetherDeflate,
    Rsync,
    RsyncZ,
    Lsyncd,
    Cp,
}

impl Who {
    /// The contender's word in tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::BellwetherNone => "Bellwether, codec none",
            Self::BellwetherDeflate => "Bellwether, deflate",
            Self::Rsync => "rsync",
            Self::RsyncZ => "rsync -z",
            Self::Lsyncd => "lsyncd",
            Self::Cp => "cp -a",
        }
    }
}

/// The way in which the work was begun, if a contender has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// The contender has only one way.
    Only,
    /// From the first `join`, with the manager's history made before.
    Join,
    /// From `init`.
    Init,
    /// The file is changed in the manager's directory, and the watch notices it.
    Watch,
    /// By `bellwether put`.
    Put,
    /// By sizes and times.
    Quick,
    /// By hashing every byte.
    Full,
}

impl Way {
    /// The words after the contender's name.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Only => "",
            Self::Join => ", from join",
            Self::Init => ", from init",
            Self::Watch => ", file watch",
            Self::Put => ", put",
            Self::Quick => ", quick",
            Self::Full => ", full",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) cell: Cell,
    pub(crate) who: Who,
    pub(crate) way: Way,
    /// Entries of the tree: files, directories, links.
    pub(crate) entries: u64,
    pub(crate) cost: Cost,
    /// Seconds with a `sync` of the file system after the work.
    pub(crate) with_sync: Option<f64>,
    /// Seconds of each change, if there were many; the cost is their mean, and its seconds are their median.
    pub(crate) changes: Vec<f64>,
}

impl Sample {
    /// The contender and its way.
    pub(crate) fn label(&self) -> String {
        format!("{}{}", self.who.word(), self.way.word())
    }

    /// Seconds until half of the changes were seen; of one piece of work, its seconds.
    pub(crate) fn p50(&self) -> f64 {
        stats::percentile(&self.changes, 0.5).unwrap_or(self.cost.seconds)
    }

    /// Seconds until ninety-nine of a hundred changes were seen.
    pub(crate) fn p99(&self) -> f64 {
        stats::percentile(&self.changes, 0.99).unwrap_or(self.cost.seconds)
    }
}
