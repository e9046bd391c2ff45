use bellwether_proto::name::ServerName;
use serde::{Deserialize, Serialize};

use super::{
    super::{Action, Traffic, World},
    AT_THE_BALANCERS, Check, MINUTE, Since, TaskKind, list,
    several::{Lack, of_each},
};

/// They get requests again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undrain(pub Vec<ServerName>);

impl TaskKind for Undrain {
    fn check(&self, _: &Since<'_>, world: &World) -> Check {
        of_each(&self.0, world, Action::Undrain, |name, seen| match &seen.traffic {
            _ if seen.drained => Lack::Ask,
            Traffic::Unknown | Traffic::Absent(_) => Lack::Nothing,
            Traffic::Known { out: true, .. } | Traffic::Partly { .. } => Lack::Ask,
            Traffic::Known { out: false, up: true, .. } => Lack::Nothing,
            Traffic::Known { out: false, up: false, .. } => {
                Lack::Time(format!("the balancer's checks of {name} to pass"))
            }
            Traffic::Silent(why) => Lack::Time(why.clone()),
        })
    }

    fn lasts_ms(&self, _: u64) -> u64 {
        5 * MINUTE
    }

    fn what(&self) -> String {
        format!("undrain {}", list(&self.0))
    }

    fn place(&self) -> String {
        AT_THE_BALANCERS.to_owned()
    }

    fn servers(&self) -> Vec<&ServerName> {
        self.0.iter().collect()
    }

    fn needs_its_servers(&self) -> bool {
        true
    }
}
