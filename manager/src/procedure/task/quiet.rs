use bellwether_proto::{name::ServerName, time::utc};
use serde::{Deserialize, Serialize};

use super::{
    super::{Traffic, World},
    AT_THE_BALANCERS, Check, Since, TaskKind, list,
};

/// How long balancers that only ask `/ready` are given to see that it answers 503, where none is known, in milliseconds.
const CHECKS_MS: u64 = 10_000;

/// Their last sessions end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet(pub Vec<ServerName>);

impl TaskKind for Quiet {
    fn check(&self, since: &Since<'_>, world: &World) -> Check {
        let waited = since.now_ms.saturating_sub(since.began_ms);
        let patience = world.drain_timeout_ms;
        let mut left = 0;
        let mut unknown = false;
        let mut silent = None;
        for traffic in self.0.iter().filter_map(|name| world.traffic(name)) {
            match traffic {
                Traffic::Known { sessions, .. } | Traffic::Partly { sessions } => left += sessions,
                Traffic::Unknown | Traffic::Absent(_) => unknown = true,
                Traffic::Silent(why) => silent = Some(why.clone()),
            }
        }
        if waited >= patience {
            return Check::So(match silent {
                Some(why) => Some(format!("{why}: not known whether sessions are left after {}", seconds(patience))),
                None => (left > 0).then(|| format!("{} left after {}", sessions(left), seconds(patience))),
            });
        }
        if let Some(why) = silent {
            return Check::Wait(why);
        }
        if left > 0 {
            let until = (since.began_ms.saturating_add(patience) / 1_000) as i64;
            return Check::Wait(format!("{} to end, until {} UTC at the latest", sessions(left), utc(until)));
        }
        if unknown && waited < CHECKS_MS {
            return Check::Wait("balancers that ask /ready are given 10 s to see its 503".to_owned());
        }
        Check::So(None)
    }

    fn lasts_ms(&self, drain_timeout_ms: u64) -> u64 {
        drain_timeout_ms
    }

    fn what(&self) -> String {
        format!("wait until the sessions of {} end", list(&self.0))
    }

    fn place(&self) -> String {
        AT_THE_BALANCERS.to_owned()
    }

    fn servers(&self) -> Vec<&ServerName> {
        self.0.iter().collect()
    }

    fn goes_on_late(&self) -> bool {
        true
    }
}

fn sessions(count: u64) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms.div_ceil(1000))
}
