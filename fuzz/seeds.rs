//! Writes what the fuzzers begin with: `seeds DIRECTORY` makes a directory there for every decoder, with what this
//! version's own encoders write.

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let corpus = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: seeds DIRECTORY"))?;
    let all = [
        bellwether_store::pack::fuzzing::seeds(),
        bellwether_store::index::fuzzing::seeds(),
        bellwether_store::apply::fuzzing::seeds(),
        bellwether_store::state_file::fuzzing::seeds(),
        bellwether_proto::fuzzing::seeds(),
        bellwether_manager::fuzzing::seeds(),
        bellwether_monitor::fuzzing::seeds(),
        bellwether::fuzzing::seeds(),
    ];
    for (decoder, seeds) in all.into_iter().flatten() {
        let directory = Path::new(&corpus).join(decoder);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.into_iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
