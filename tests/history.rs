//! What every server keeps of the past: segments of a base and its increments, begun anew when the increments have grown.

use std::fs;

use crate::farm::{DEADLINE, Farm, Server, random::Random, wait_for};

/// The number of bases in a server's history.
fn bases(server: &Server) -> usize {
    let names =
        fs::read_dir(server.state().join("history")).expect("its history").map(|entry| entry.expect("an entry"));
    names.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "base")).count()
}

#[test]
fn a_history_whose_increments_have_grown_begins_a_new_segment_on_every_server() {
    let mut random = Random::seeded();
    let mut farm = Farm::plan().members(1).start_with(|manager| manager.write("a.conf", "small"));
    assert_eq!((bases(farm.manager()), bases(farm.member(1))), (1, 1));
    for _ in 0..4 {
        // The content does not compress: each increment has 2 MB, and together they have more than a small base and 4 MB.
        let noise = random.bytes(2 << 20);
        farm.manager().write("noise.bin", noise);
        farm.wait_equal();
    }
    for server in [farm.manager(), farm.member(1)] {
        wait_for("a second base", DEADLINE, || match bases(server) {
            0 | 1 => Err(format!("{} has one", server.name)),
            _ => Ok(()),
        });
    }
    farm.server_mut(1).kill();
    farm.server_mut(1).start();
    farm.manager().write("a.conf", "after the start");
    farm.wait_equal();
    farm.assert_equal();
}
