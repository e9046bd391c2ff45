//! One table of the servers that are connected. A lane adds its server when a connection begins, and removes it when the
//! connection ends. Each observation that the lane tells the monitor updates the entry.

use std::collections::BTreeMap;

use bellwether_proto::{
    name::ServerName,
    record::Version,
    revision::{Epoch, Number},
    status::{Cause, Observation},
};

/// The reached servers.
#[derive(Debug, Default)]
pub(crate) struct ReachedServers {
    connected: BTreeMap<ServerName, ReachedServer>,
    /// The revision that each server refused last: a new connection does not say it again.
    refused: BTreeMap<ServerName, Refused>,
}

/// A revision that a server refused.
#[derive(Debug)]
struct Refused {
    revision: Number,
    reason: String,
    /// The obstacle, which may pass.
    cause: Option<Cause>,
}

/// A server as its connection shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReachedServer {
    /// Its incarnation.
    pub(crate) incarnation: u64,
    /// The newest keepalive that it has answered.
    pub(crate) beat: u64,
    /// The record that it has taken; 0.0 if none is known.
    pub(crate) record: Version,
    /// The document of procedures that it has taken.
    pub(crate) procedures: Option<(Epoch, u64)>,
    at: Option<Number>,
    /// Something is on its way to it.
    busy: bool,
    drift: u64,
    /// The reason that one of its sets cannot be compared.
    away: Option<String>,
    fault: Option<String>,
}

impl ReachedServer {
    fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            beat: 0,
            record: Version { epoch: Epoch(0), version: 0 },
            procedures: None,
            at: None,
            busy: false,
            drift: 0,
            away: None,
            fault: None,
        }
    }

    fn observe(&mut self, observation: &Observation) {
        use Observation as O;
        match observation {
            O::Reached { at, fault, .. } => (self.at, self.fault) = (*at, fault.clone()),
            O::Started { .. } => self.busy = true,
            O::Done { revision, .. } => (self.at, self.busy, self.fault) = (Some(*revision), false, None),
            O::Returned(revision) => self.at = Some(*revision),
            O::Refused { .. } => self.busy = false,
            O::Failed(why) => (self.busy, self.fault) = (false, Some(why.clone())),
            O::Drift { entries, .. } => self.drift = *entries,
            O::Away(why) => self.away.clone_from(why),
            _ => {}
        }
    }
}

impl ReachedServers {
    /// A connection to that server begins.
    pub(crate) fn begin(&mut self, server: ServerName, incarnation: u64) {
        self.connected.insert(server, ReachedServer::new(incarnation));
    }

    /// Its connection ended.
    pub(crate) fn end(&mut self, server: &ServerName) {
        self.connected.remove(server);
    }

    pub(crate) fn get(&self, server: &ServerName) -> Option<&ReachedServer> {
        self.connected.get(server)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServerName, &ReachedServer)> {
        self.connected.iter()
    }

    /// Changes the entry of a connected server. Returns whether the entry differs from before.
    pub(crate) fn change(&mut self, server: &ServerName, change: impl FnOnce(&mut ReachedServer)) -> bool {
        let Some(reached) = self.connected.get_mut(server) else { return false };
        let before = reached.clone();
        change(reached);
        *reached != before
    }

    /// Updates the entry of a server by an observation, as [`ReachedServers::change`] does.
    pub(crate) fn observe(&mut self, server: &ServerName, observation: &Observation) -> bool {
        match observation {
            Observation::Refused { revision, reason, cause, .. } => {
                let refused = Refused { revision: *revision, reason: reason.clone(), cause: *cause };
                self.refused.insert(server.clone(), refused);
            }
            Observation::Done { .. } => drop(self.refused.remove(server)),
            _ => {}
        }
        self.change(server, |reached| reached.observe(observation))
    }

    /// Checks that that server holds exactly `head`.
    ///
    /// # Errors
    /// The missing part. [`Missing::Never`]: waiting alone does not help.
    pub(crate) fn holds(&self, server: &ServerName, head: Number) -> Result<(), Missing> {
        let Some(reached) = self.connected.get(server) else {
            return Err(Missing::Yet("it does not answer".to_owned()));
        };
        if let Some(fault) = &reached.fault {
            return Err(Missing::Never(format!("it is in error ({fault}); first: bellwether sync {server}")));
        }
        if reached.drift > 0 {
            let drift = reached.drift;
            return Err(Missing::Never(format!("{drift} entries were edited there; first: bellwether sync {server}")));
        }
        if let Some(away) = &reached.away {
            return Err(Missing::Never(away.clone()));
        }
        let refused = self.refused.get(server).filter(|refused| refused.revision == head && !reached.busy);
        match (reached.at, refused) {
            (Some(at), _) if at == head => Ok(()),
            (_, Some(Refused { reason, cause: Some(_), .. })) => {
                Err(Missing::Yet(format!("it waits to take the head, {head} ({reason})")))
            }
            (_, Some(Refused { reason, cause: None, .. })) => {
                let next = format!("first publish a content that it takes, or: bellwether sync {server}");
                Err(Missing::Never(format!("it refused the head, {head} ({reason}); {next}")))
            }

            (Some(at), None) if reached.busy => Err(Missing::Yet(format!("it is at {at} and being brought to {head}"))),
            (Some(at), None) => Err(Missing::Yet(format!("it is at {at}, the head is {head}"))),
            (None, None) => Err(Missing::Yet("it holds no revision yet".to_owned())),
        }
    }
}

/// The obstacle to a server's taking over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It may pass by itself.
    Yet(String),
    /// It does not pass.
    Never(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(sequence: u64) -> Number {
        Number { epoch: Epoch(1), sequence }
    }

    fn reached(at: u64) -> Observation {
        Observation::Reached { program: bellwether_proto::level::Program::own(), at: Some(number(at)), fault: None }
    }

    #[test]
    fn only_who_holds_exactly_the_head_may_take_over() {
        let server: ServerName = "web1".parse().unwrap();
        let mut servers = ReachedServers::default();
        let missing = |reached: &ReachedServers| reached.holds(&server, number(3));
        assert!(matches!(missing(&servers), Err(Missing::Yet(_))), "never seen");
        servers.begin(server.clone(), 1);
        servers.observe(&server, &reached(2));
        assert!(matches!(missing(&servers), Err(Missing::Yet(_))), "behind");
        let (micros, kept) = (1, Vec::new());
        servers.observe(&server, &Observation::Done { revision: number(3), micros, kept });
        assert_eq!(missing(&servers), Ok(()));
        servers.observe(&server, &Observation::Drift { entries: 1, paths: Vec::new(), held: false, kept: Vec::new() });
        assert!(matches!(missing(&servers), Err(Missing::Never(_))), "edited");
        servers.observe(&server, &Observation::Drift { entries: 0, paths: Vec::new(), held: false, kept: Vec::new() });
        servers.observe(&server, &Observation::Failed("disk".into()));
        assert!(matches!(missing(&servers), Err(Missing::Never(_))), "in error");
        let refused =
            |cause| Observation::Refused { revision: number(3), reason: "no".into(), cause, output: String::new() };
        servers.observe(&server, &reached(2));
        servers.observe(&server, &refused(None));
        assert!(matches!(missing(&servers), Err(Missing::Never(why)) if why.contains("refused the head, 1.3 (no)")));
        servers.end(&server);
        servers.begin(server.clone(), 2);
        servers.observe(&server, &reached(2));
        assert!(matches!(missing(&servers), Err(Missing::Never(_))), "over a new connection, too");
        servers.observe(&server, &refused(Some(Cause::Space)));
        assert!(matches!(missing(&servers), Err(Missing::Yet(why)) if why.contains("(no)")), "it is tried again");
        servers.observe(&server, &Observation::Started { sync: true, to: number(3) });
        assert!(matches!(missing(&servers), Err(Missing::Yet(why)) if why.contains("being brought")), "by a person");
        servers.observe(&server, &reached(4));
        assert!(matches!(missing(&servers), Err(Missing::Yet(_))), "ahead");
        servers.end(&server);
        assert!(
            !servers
                .observe(&server, &Observation::Drift { entries: 0, paths: Vec::new(), held: false, kept: Vec::new() }),
            "a straggler"
        );
        assert!(matches!(missing(&servers), Err(Missing::Yet(_))), "gone");
    }
}
