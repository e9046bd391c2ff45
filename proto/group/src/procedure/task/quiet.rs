use super::*;

/// The time for balancers that only poll `/ready` to see its 503, if no sessions are known, in milliseconds.
const CHECKS_MS: u64 = 10_000;

/// Waits for the last sessions of servers.
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

    /// The check ends the step, with the group's time for sessions.
    fn about(&self) -> About<'_> {
        let what = format!("wait until the sessions of {} end", list(&self.0));
        About { lasts_as_sessions: true, ..About::new(what, BALANCERS, &self.0, NEVER) }
    }
}

fn sessions(count: u64) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms.div_ceil(1000))
}
