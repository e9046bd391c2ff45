//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::plan::{Row, TREES};

/// Measures Bellwether beside rsync, lsyncd and cp, on this machine, in one run.
#[derive(Debug, Parser)]
#[command(name = "bellwether-bench", max_term_width = 100)]
pub(crate) struct Args {
    /// Small sizes, to try the program in about a minute; they say nothing about the goals
    #[arg(long)]
    pub(crate) quick: bool,
    /// Which rows, separated by commas; otherwise all
    #[arg(long, value_name = "ROW,…", value_delimiter = ',', value_enum)]
    pub(crate) rows: Vec<Row>,
    /// Only cells with these trees, separated by commas
    #[arg(long, value_name = "TREE,…", value_delimiter = ',', value_parser = TREES)]
    pub(crate) trees: Vec<String>,
    /// Where results.json, results.md and the plots are written
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub(crate) out: PathBuf,
    /// How often everything is measured; tables show the medians
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) repeat: u16,
    /// The seed of trees and edits
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// What is measured as Bellwether's deflate: deflate:1 to deflate:9
    #[arg(long, default_value = "deflate:1")]
    pub(crate) codec: String,
    /// One-line changes in each cell, instead of 50 (8 with --quick)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) changes: Option<u16>,
    /// Where the disk images are made; on a disk with 30 GB free, not in memory
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub(crate) work: PathBuf,
    /// One file system for all servers, instead of one for each
    #[arg(long)]
    pub(crate) shared_disk: bool,
    /// The program under test; otherwise it is built from this workspace, with --release
    #[arg(long, value_name = "FILE", overrides_with = "bellwether")]
    pub(crate) bellwether: Option<PathBuf>,
    /// Set by the program itself when it is in namespaces of its own: its directory for mounts.
    #[arg(long, hide = true)]
    pub(crate) inside: Option<PathBuf>,
}
