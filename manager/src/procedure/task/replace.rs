use bellwether_proto::{key::PublicKey, name::ServerName};
use serde::{Deserialize, Serialize};

use super::{super::World, Check, Since, TaskKind, gone};

/// New hardware has taken the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The name.
    pub server: ServerName,
    /// The key that has it until then.
    pub old: PublicKey,
    /// For how long its token admits it, in milliseconds.
    pub ttl_ms: u64,
}

impl TaskKind for Replace {
    fn check(&self, since: &Since<'_>, world: &World) -> Check {
        let Self { server, old, ttl_ms } = self;
        let Some(seen) = world.server(server) else { return gone(server) };
        if seen.key != *old {
            return Check::So(None);
        }
        if since.now_ms.saturating_sub(since.began_ms) >= *ttl_ms {
            return Check::Stuck(format!("no new hardware has joined as {server} while its token was good"));
        }
        Check::Wait(format!(
            "new hardware to join as {server}; there, with its token: bellwether join - --name {server}"
        ))
    }

    fn lasts_ms(&self, _: u64) -> u64 {
        self.ttl_ms
    }

    fn what(&self) -> String {
        format!("wait until new hardware has joined as {}", self.server)
    }

    fn place(&self) -> String {
        "on the new machine".to_owned()
    }

    fn servers(&self) -> Vec<&ServerName> {
        vec![&self.server]
    }

    fn needs_its_servers(&self) -> bool {
        true
    }
}
