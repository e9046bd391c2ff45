use super::*;

/// Waits until new hardware has taken the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The name.
    pub server: ServerName,
    /// The key that has the name until then.
    pub old: PublicKey,
    /// The lifetime of its token, in milliseconds.
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

    /// The check ends the step, with the token's lifetime.
    fn about(&self) -> About<'_> {
        let what = format!("wait until new hardware has joined as {}", self.server);
        let about = About::new(what, "on the new machine", [&self.server], self.ttl_ms);
        About { needs_its_servers: true, ..about }
    }
}
