//! Measures Bellwether beside its peers: rsync, lsyncd and cp, with the same trees on the same machine in one run.
//! README.md, in this directory, describes the measurements.

mod args;
mod compare;
mod crew;
mod disk;
mod environment;
mod goals;
mod inside;
mod meter;
mod network;
mod peers;
mod plan;
mod problem;
mod proc;
mod program;
mod report;
mod results;
mod rows;
mod run;
mod sample;
mod site;
mod stats;
mod tree;
mod visible;

use std::{collections::BTreeMap, path::Path, process::ExitCode, time::Instant};

use clap::Parser;

use crate::{
    args::Args,
    disk::Disk,
    environment::Environment,
    goals::judge,
    network::Network,
    plan::{Cell, Row, Sizes, cells},
    problem::{Problem, Result},
    report::Report,
    results::{Failure, Results},
    rows::Bench,
    tree::{Spec, Template, generate},
};

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match &args.inside {
        Some(work) => measure(&args, work),
        None => enter(&args),
    };
    ended.unwrap_or_else(|problem| {
        eprintln!("bellwether-bench: {problem}");
        ExitCode::FAILURE
    })
}

/// Runs this program in its own namespaces.
fn enter(args: &Args) -> Result<ExitCode> {
    inside::check()?;
    let bellwether = program::find(args.bellwether.as_deref())?;
    inside::enter(&bellwether, &args.work)
}

fn measure(args: &Args, work: &Path) -> Result<ExitCode> {
    let began = Instant::now();
    inside::prepare()?;
    let bellwether = args.bellwether.as_deref().ok_or_else(|| Problem::new("--inside is for the program itself"))?;
    let (sizes, rows) = (sizes(args), rows(args));
    let mut environment = Environment::look(bellwether, args);
    if let Some(warning) = environment.warning() {
        eprintln!("{warning}");
    }
    let network = Network::new(sizes.members[2])?;
    let bench = Bench {
        bellwether,
        codec: &args.codec,
        network: &network,
        work: work.to_owned(),
        shared_disk: args.shared_disk,
        sizes: &sizes,
        seed: args.seed,
    };
    let asked = |cell: &Cell| args.trees.is_empty() || args.trees.iter().any(|tree| tree == cell.tree.name);
    let cells: Vec<_> = rows.iter().flat_map(|&row| cells(row, &sizes)).filter(asked).collect();
    let results = all_cells(&bench, &cells, usize::from(args.repeat))?;
    environment.took = began.elapsed().as_secs_f64();
    let goals = judge(&results, &sizes, &rows);
    let report = Report { environment: &environment, sizes: &sizes, results: &results, goals: &goals };
    report::print(&report);
    report::write(&report, &args.out)?;
    println!("\nwritten to {} after {:.0} s", args.out.display(), environment.took);
    match results.failures.len() {
        0 => Ok(ExitCode::SUCCESS),
        failed => Err(Problem::new(format!("{failed} measurements failed; see above"))),
    }
}

fn sizes(args: &Args) -> Sizes {
    let sizes = if args.quick { Sizes::quick() } else { Sizes::full() };
    Sizes { changes: args.changes.map_or(sizes.changes, usize::from), ..sizes }
}

fn rows(args: &Args) -> Vec<Row> {
    let asked = |row: &Row| args.rows.is_empty() || args.rows.contains(row);
    Row::ALL.into_iter().filter(asked).collect()
}

/// Measures every cell. The contenders of a cell follow each other, and each repetition goes over all of them, so that other
/// changes on the machine affect all of them.
fn all_cells(bench: &Bench<'_>, cells: &[Cell], repetitions: usize) -> Result<Results> {
    let disk = Disk::fresh(&bench.work, "templates")?;
    let mut templates: BTreeMap<&str, Template> = BTreeMap::new();
    let mut results = Results::default();
    for &cell in cells {
        if !templates.contains_key(cell.tree.name) {
            templates.insert(cell.tree.name, template(cell.tree, bench.seed, disk.path())?);
        }
        let template = &templates[cell.tree.name];
        eprintln!("{}: {} (load {:.1})", cell.row.title(), cell.label(), environment::load());
        for _ in 0..repetitions {
            for &who in cell.contenders() {
                match rows::measure(bench, cell, template, who) {
                    Ok(samples) => {
                        for sample in &samples {
                            eprintln!("  {}: {}", sample.label(), report::format::seconds(sample.cost.seconds));
                        }
                        results.samples.extend(samples);
                    }
                    Err(problem) => {
                        eprintln!("  {}: {problem}", who.word());
                        results.failures.push(Failure { cell, who, problem });
                    }
                }
            }
        }
    }
    Ok(results)
}

fn template(spec: Spec, seed: u64, directory: &Path) -> Result<Template> {
    eprintln!("generating {} (seed {seed})", spec.label());
    let path = directory.join(spec.name);
    generate(spec, seed, &path).map_err(Problem::with("generate", &path))
}
