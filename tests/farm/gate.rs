//! Holds an agent at a named point, so that a test can act at that moment.

use std::{fs, path::PathBuf};

use super::{DEADLINE, Farm, Server, wait_for};

/// The point at which an agent is held until a file exists.
pub(crate) struct Gate(PathBuf);

impl Gate {
    /// A closed gate.
    pub(crate) fn of(server: &Server) -> Self {
        let gate = Self(server.home.join("gate"));
        for left in [&gate.0, &gate.reached()] {
            let _ = fs::remove_file(left);
        }
        gate
    }

    fn reached(&self) -> PathBuf {
        self.0.with_extension("reached")
    }

    fn failpoint(&self, point: &str) -> String {
        format!("{point}=hold:{}", self.0.display())
    }

    pub(crate) fn wait_reached(&self) {
        let reached = self.reached();
        wait_for(&format!("{}", reached.display()), DEADLINE, || {
            if reached.exists() { Ok(()) } else { Err("not yet".to_owned()) }
        });
    }

    pub(crate) fn open(&self) {
        fs::write(&self.0, "").expect("a gate");
    }
}

/// Restarts the agent, which is held at that point.
pub(crate) fn held_at(farm: &mut Farm, index: usize, point: &str) -> Gate {
    let gate = Gate::of(farm.server(index));
    farm.server_mut(index).kill();
    farm.server_mut(index).start_with(&[("BELLWETHER_FAILPOINT", &gate.failpoint(point))]);
    gate
}
