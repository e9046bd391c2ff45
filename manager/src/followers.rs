//! How far each server that is reached has come, as a handover needs to know it. Folded from what the lanes tell the monitor.

use std::collections::BTreeMap;

use bellwether_proto::{name::ServerName, revision::Number, status::Observation};

/// The servers that are reached.
#[derive(Debug, Default)]
pub(crate) struct Followers(BTreeMap<ServerName, Follower>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Follower {
    at: Option<Number>,
    /// Something is on its way to it.
    busy: bool,
    drift: u64,
    /// Why a set of its cannot be compared.
    away: Option<String>,
    fault: Option<String>,
}

impl Followers {
    /// Takes in what was seen of a server; says whether that changed anything.
    pub(crate) fn observe(&mut self, server: &ServerName, observation: &Observation) -> bool {
        use Observation as O;
        if let O::Lost(_) = observation {
            return self.0.remove(server).is_some();
        }
        if let O::Reached { at, fault, .. } = observation {
            let follower = Follower { at: *at, fault: fault.clone(), ..Follower::default() };
            self.0.insert(server.clone(), follower);
            return true;
        }
        // A straggler of a connection that ended.
        let Some(follower) = self.0.get_mut(server) else { return false };
        let before = follower.clone();
        match observation {
            O::Started { .. } => follower.busy = true,
            O::Done { revision, .. } => (follower.at, follower.busy, follower.fault) = (Some(*revision), false, None),
            O::Refused { .. } => follower.busy = false,
            O::Failed(why) => (follower.busy, follower.fault) = (false, Some(why.clone())),
            O::Drift { entries, .. } => follower.drift = *entries,
            O::Away(why) => follower.away.clone_from(why),
            _ => {}
        }
        *follower != before
    }

    /// Whether that server holds exactly `head`; otherwise what is missing still.
    ///
    /// # Errors
    /// [`Missing::Never`]: waiting alone does not bring it there.
    pub(crate) fn holds(&self, server: &ServerName, head: Number) -> Result<(), Missing> {
        let Some(follower) = self.0.get(server) else { return Err(Missing::Yet("it does not answer".to_owned())) };
        if let Some(fault) = &follower.fault {
            return Err(Missing::Never(format!("it is in error ({fault}); first: bellwether sync {server}")));
        }
        if follower.drift > 0 {
            let drift = follower.drift;
            return Err(Missing::Never(format!("{drift} entries were edited there; first: bellwether sync {server}")));
        }
        if let Some(away) = &follower.away {
            return Err(Missing::Never(away.clone()));
        }
        match follower.at {
            Some(at) if at == head => Ok(()),
            Some(at) if follower.busy => Err(Missing::Yet(format!("it is at {at} and being brought to {head}"))),
            Some(at) => Err(Missing::Yet(format!("it is at {at}, the head is {head}"))),
            None => Err(Missing::Yet("it holds no revision yet".to_owned())),
        }
    }
}

/// What keeps a server from taking over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It may come by itself.
    Yet(String),
    /// It does not.
    Never(String),
}

#[cfg(test)]
mod tests {
    use bellwether_proto::revision::Epoch;

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
        let mut followers = Followers::default();
        let missing = |followers: &Followers| followers.holds(&server, number(3));
        assert!(matches!(missing(&followers), Err(Missing::Yet(_))), "never seen");
        followers.observe(&server, &reached(2));
        assert!(matches!(missing(&followers), Err(Missing::Yet(_))), "behind");
        let (micros, kept) = (1, Vec::new());
        followers.observe(&server, &Observation::Done { revision: number(3), micros, kept });
        assert_eq!(missing(&followers), Ok(()));
        followers
            .observe(&server, &Observation::Drift { entries: 1, paths: Vec::new(), held: false, kept: Vec::new() });
        assert!(matches!(missing(&followers), Err(Missing::Never(_))), "edited");
        followers
            .observe(&server, &Observation::Drift { entries: 0, paths: Vec::new(), held: false, kept: Vec::new() });
        followers.observe(&server, &Observation::Failed("disk".into()));
        assert!(matches!(missing(&followers), Err(Missing::Never(_))), "in error");
        followers.observe(&server, &reached(4));
        assert!(matches!(missing(&followers), Err(Missing::Yet(_))), "ahead");
        followers.observe(&server, &Observation::Lost("gone".into()));
        assert!(
            !followers
                .observe(&server, &Observation::Drift { entries: 0, paths: Vec::new(), held: false, kept: Vec::new() }),
            "a straggler"
        );
        assert!(matches!(missing(&followers), Err(Missing::Yet(_))), "gone");
    }
}
