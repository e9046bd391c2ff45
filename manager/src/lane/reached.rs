//! One table of the servers that are connected. A lane adds its server when a connection begins, and removes it when the
//! connection ends. Each observation that the lane tells the monitor updates the entry.

use std::collections::BTreeMap;

use bellwether_proto::{
    name::ServerName,
    record::Version,
    revision::{Epoch, Number},
    status::Observation,
};

/// The reached servers.
#[derive(Debug, Default)]
pub(crate) struct ReachedServers(BTreeMap<ServerName, ReachedServer>);

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
        self.0.insert(server, ReachedServer::new(incarnation));
    }

    /// Its connection ended.
    pub(crate) fn end(&mut self, server: &ServerName) {
        self.0.remove(server);
    }

    pub(crate) fn get(&self, server: &ServerName) -> Option<&ReachedServer> {
        self.0.get(server)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServerName, &ReachedServer)> {
        self.0.iter()
    }

    /// Changes the entry of a connected server. Returns whether the entry differs from before.
    pub(crate) fn change(&mut self, server: &ServerName, change: impl FnOnce(&mut ReachedServer)) -> bool {
        let Some(reached) = self.0.get_mut(server) else { return false };
        let before = reached.clone();
        change(reached);
        *reached != before
    }

    /// Updates the entry of a server by an observation, as [`ReachedServers::change`] does.
    pub(crate) fn observe(&mut self, server: &ServerName, observation: &Observation) -> bool {
        self.change(server, |reached| reached.observe(observation))
    }

    /// Checks that that server holds exactly `head`.
    ///
    /// # Errors
    /// The missing part. [`Missing::Never`]: waiting alone does not help.
    pub(crate) fn holds(&self, server: &ServerName, head: Number) -> Result<(), Missing> {
        let Some(reached) = self.0.get(server) else { return Err(Missing::Yet("it does not answer".to_owned())) };
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
        match reached.at {
            Some(at) if at == head => Ok(()),
            Some(at) if reached.busy => Err(Missing::Yet(format!("it is at {at} and being brought to {head}"))),
            Some(at) => Err(Missing::Yet(format!("it is at {at}, the head is {head}"))),
            None => Err(Missing::Yet("it holds no revision yet".to_owned())),
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
