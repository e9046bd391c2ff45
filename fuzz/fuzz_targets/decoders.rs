//! All decoders in one program, so that one is linked and not one for each. `DECODER` names the one that is fed.
//! `SEEDS=DIRECTORY` makes a directory there for every decoder, with what this version's own encoders write, prints the
//! decoders' names and ends; a seed that its decoder does not take is an error, for it leads the fuzzer nowhere.

#![no_main]

use std::{collections::BTreeMap, env, fs, io, path::Path, process, sync::OnceLock};

/// Whether it took these bytes.
type Decoder = fn(&[u8]) -> bool;

const DECODERS: [(&str, Decoder); 24] = [
    ("agent_check", bellwether_monitor::fuzzing::agent_check),
    ("agent_toml", bellwether_daemon::fuzzing::agent_toml),
    ("base", bellwether_store::pack::fuzzing::base),
    ("chain", bellwether_proto::fuzzing::chain),
    ("changes", bellwether_store::pack::fuzzing::changes),
    ("chunks", bellwether_store::pack::fuzzing::chunks),
    ("frames", bellwether_store::pack::fuzzing::frames),
    ("haproxy", bellwether_manager::fuzzing::haproxy),
    ("head", bellwether_store::pack::fuzzing::head),
    ("header", bellwether_proto::fuzzing::header),
    ("index", bellwether_store::index::fuzzing::index),
    ("journal", bellwether_store::apply::fuzzing::journal),
    ("log", bellwether_store::log::fuzzing::log),
    ("manager_state", bellwether_manager::fuzzing::manager_state),
    ("messages", bellwether_proto::fuzzing::messages),
    ("nginx", bellwether_manager::fuzzing::nginx),
    ("outlines", bellwether_store::pack::fuzzing::outlines),
    ("patches", bellwether_store::pack::fuzzing::patches),
    ("position", bellwether_daemon::fuzzing::position),
    ("procedures", bellwether_manager::fuzzing::procedures),
    ("record", bellwether_proto::fuzzing::record),
    ("state_file", bellwether_store::state::file::fuzzing::state_file),
    ("ticket", bellwether_proto::fuzzing::ticket),
    ("token", bellwether_proto::fuzzing::token),
];

static DECODER: OnceLock<Decoder> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: begin(), |bytes: &[u8]| {
    DECODER.get().expect("one was chosen")(bytes);
});

fn begin() {
    if let Some(corpus) = env::var_os("SEEDS") {
        end(write_seeds(Path::new(&corpus)));
    }
    let name = env::var("DECODER").unwrap_or_default();
    match DECODERS.iter().find(|(known, _)| *known == name) {
        Some((_, decoder)) => drop(DECODER.set(*decoder)),
        None => end(Err(io::Error::other(format!("DECODER names no decoder: '{name}'")))),
    }
}

fn end(result: io::Result<()>) -> ! {
    if let Err(error) = &result {
        eprintln!("decoders: {error}");
    }
    process::exit(result.is_err().into())
}

fn write_seeds(corpus: &Path) -> io::Result<()> {
    let all = [
        bellwether_store::pack::fuzzing::seeds(),
        bellwether_store::index::fuzzing::seeds(),
        bellwether_store::apply::fuzzing::seeds(),
        bellwether_store::log::fuzzing::seeds(),
        bellwether_store::state::file::fuzzing::seeds(),
        bellwether_proto::fuzzing::seeds(),
        bellwether_manager::fuzzing::seeds(),
        bellwether_monitor::fuzzing::seeds(),
        bellwether_daemon::fuzzing::seeds(),
    ];
    let seeds: BTreeMap<&str, Vec<Vec<u8>>> = all.into_iter().flatten().collect();
    for (name, decoder) in DECODERS {
        let directory = corpus.join(name);
        fs::create_dir_all(&directory)?;
        let seeds = seeds.get(name).ok_or_else(|| io::Error::other(format!("{name} has no seeds")))?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
            if !decoder(seed) {
                return Err(io::Error::other(format!("{name} does not take its seed {number}")));
            }
        }
        println!("{name}");
    }
    Ok(())
}
