//! The status of a member: its own knowledge of itself, and the manager's report of the other servers, with its time.

use bellwether_proto::status::{FarmStatus, ServerStatus};

/// The manager's report.
#[derive(Debug, Clone)]
pub struct Told {
    /// The reported status.
    pub status: FarmStatus,
    /// The time of the report on this server's clock, in milliseconds since 1970.
    pub time_ms: u64,
}

impl Told {
    /// Adds the reported other servers to `own`, a member's status. Only a report of the manager in its record counts.
    pub fn added_to(&self, own: &FarmStatus) -> FarmStatus {
        let Self { status: told, time_ms } = self;
        if told.observer != own.manager || told.manager != own.manager || own.observer == own.manager {
            return own.clone();
        }
        let other = |server: &ServerStatus| {
            let told = told.servers.iter().find(|row| row.name == server.name && row.name != own.observer);
            told.map_or_else(|| server.clone(), |row| self.by_this_clock(row))
        };
        FarmStatus {
            head: own.head.or(told.head),
            head_time_ms: own.head_time_ms.or(told.head_time_ms),
            watching: told.watching.clone(),
            unpublished: told.unpublished.clone(),
            pending: told.pending,
            sets: told.sets.clone(),
            rollout: told.rollout.clone(),
            batch: told.batch.clone(),
            forgets: told.forgets.clone(),
            servers: own.servers.iter().map(other).collect(),
            told_ms: Some(*time_ms),
            ..own.clone()
        }
    }

    /// The row with its times converted to this server's clock.
    fn by_this_clock(&self, row: &ServerStatus) -> ServerStatus {
        let here = |then_ms: u64| self.time_ms.saturating_sub(self.status.time_ms.saturating_sub(then_ms));
        ServerStatus { seen_ms: row.seen_ms.map(here), ..row.clone() }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::status::State;

    use super::*;
    use crate::table::tests::{farm, server};

    fn own() -> FarmStatus {
        let servers =
            vec![server("a", State::Updating, 41), server("b", State::Unknown, 0), server("m", State::Unknown, 0)];
        FarmStatus { observer: "a".parse().unwrap(), time_ms: 500_000, ..farm(servers) }
    }

    fn told() -> Told {
        let servers =
            vec![server("a", State::InSync, 42), server("b", State::Error, 40), server("m", State::InSync, 42)];
        Told { status: FarmStatus { time_ms: 100_000, ..farm(servers) }, time_ms: 490_000 }
    }

    #[test]
    fn itself_as_it_knows_itself_the_others_as_told_with_the_age() {
        let shown = told().added_to(&own());
        let states: Vec<_> = shown.servers.iter().map(|server| server.state).collect();
        assert_eq!(states, [State::Updating, State::Error, State::InSync]);
        assert_eq!((shown.observer.as_str(), shown.told_ms), ("a", Some(490_000)));
        // By the manager's clock, the server was heard of 1 s before the report.
        assert_eq!(shown.servers[1].seen_ms, Some(489_000));
    }

    #[test]
    fn only_the_manager_in_force_is_believed() {
        let mut another = told();
        another.status.observer = "b".parse().unwrap();
        assert_eq!(another.added_to(&own()), own());
        let mut before = told();
        before.status.manager = "b".parse().unwrap();
        assert_eq!(before.added_to(&own()), own());
        let manager = FarmStatus { observer: "m".parse().unwrap(), ..own() };
        assert_eq!(told().added_to(&manager), manager);
    }
}
