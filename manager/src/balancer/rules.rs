//! Rules over the reports of balancers: a server's lines, its traffic, and how many servers may be drained at once.

use std::{collections::BTreeSet, fmt};

use bellwether_proto::{
    Malformed,
    balancer::{BackendServer, Traffic},
    name::{BalancerName, ServerName},
    record::Server,
};
use serde::Serialize;

/// The standing of a server at a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It gets new traffic.
    Serving,
    /// It gets none because it was drained; open sessions go on.
    Drained,
    /// It gets none because of maintenance, which Bellwether neither sets nor ends.
    Maintenance,
    /// It is enabled, but the balancer considers it down.
    Down,
}

impl Standing {
    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Drained => "drained",
            Self::Maintenance => "in maintenance",
            Self::Down => "down",
        }
    }
}

/// One line of a balancer: a server of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The place.
    pub place: BackendServer,
    /// Its standing.
    pub standing: Standing,
    /// Open sessions, including queued ones.
    pub sessions: u64,
    /// The balancer's note, for people.
    pub note: String,
}

/// A server of the group, as balancers are asked for it.
#[derive(Debug, Clone)]
pub struct Who {
    /// Its name in the group.
    pub name: ServerName,
    /// Its traffic.
    pub traffic: Traffic,
}

impl Who {
    /// That server of the record.
    ///
    /// # Errors
    /// None for a valid record.
    pub fn new(server: &Server) -> Result<Self, Malformed> {
        Ok(Self { name: server.name.clone(), traffic: server.traffic()? })
    }

    /// Whether a balancer's line at `place` belongs to this server.
    pub fn is_at(&self, place: &BackendServer) -> bool {
        match &self.traffic {
            Traffic::ByName => place.server() == self.name.as_str(),
            Traffic::At(places) => places.contains(place),
            Traffic::None => false,
        }
    }
}

/// A server at one balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// `BACKEND/SERVER`, or the server's name where the balancer has no backends.
    pub place: String,
    /// Its standing.
    pub standing: Standing,
    /// Open sessions.
    pub sessions: u64,
    /// The balancer's note, for people.
    pub note: String,
}

impl From<&Line> for Entry {
    fn from(line: &Line) -> Self {
        let Line { place, standing, sessions, note } = line;
        Self { place: place.to_string(), standing: *standing, sessions: *sessions, note: note.clone() }
    }
}

/// The lines of a balancer that belong to this server.
pub fn of(lines: &[Line], who: &Who) -> Vec<Entry> {
    lines.iter().filter(|line| who.is_at(&line.place)).map(Entry::from).collect()
}

/// The report of one balancer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct At {
    /// The balancer.
    pub balancer: BalancerName,
    /// The server's places there; none if it does not have the server.
    pub entries: Vec<Entry>,
}

/// The reports of all balancers on one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The server.
    pub server: ServerName,
    /// One report for each balancer of the group.
    pub at: Vec<At>,
}

impl Report {
    /// All its places.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.at.iter().flat_map(|at| &at.entries)
    }

    /// Open sessions on it, over all balancers.
    pub fn sessions(&self) -> u64 {
        self.entries().map(|entry| entry.sessions).fold(0, u64::saturating_add)
    }

    /// Whether no balancer has it.
    pub fn is_absent(&self) -> bool {
        self.entries().next().is_none()
    }

    /// Whether some balancer sends it new traffic.
    pub fn takes_traffic(&self) -> bool {
        self.entries().any(|entry| entry.standing == Standing::Serving)
    }

    /// Whether it counts as serving: every balancer that has it sends it traffic, in all its backends.
    pub fn serves(&self) -> bool {
        !self.is_absent() && self.entries().all(|entry| entry.standing == Standing::Serving)
    }

    /// Whether it is drained at all its places, so that nothing new comes by itself.
    pub fn is_drained(&self) -> bool {
        self.entries().all(|entry| matches!(entry.standing, Standing::Drained | Standing::Maintenance))
    }

    /// Whether it is drained at one of its places, at least.
    pub fn is_drained_somewhere(&self) -> bool {
        self.entries().any(|entry| entry.standing == Standing::Drained)
    }

    /// Servers of backends of the record that no balancer has.
    pub fn missing(&self, who: &Who) -> Vec<BackendServer> {
        match &who.traffic {
            Traffic::At(places) => {
                let found: BTreeSet<&str> = self.entries().map(|entry| entry.place.as_str()).collect();
                places.iter().filter(|place| !found.contains(place.to_string().as_str())).cloned().collect()
            }
            Traffic::ByName | Traffic::None => Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    /// `web1: app/web1 drained at lb1, 3 sessions; not at lb2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.server)?;
        if self.at.is_empty() {
            return f.write_str("the group has no balancers");
        }
        for (index, At { balancer, entries }) in self.at.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "; " })?;
            if entries.is_empty() {
                write!(f, "not at {balancer}")?;
            }
            for (index, entry) in entries.iter().enumerate() {
                f.write_str(if index == 0 { "" } else { ", " })?;
                write!(f, "{} {} at {balancer}", entry.place, entry.standing.word())?;
                match entry.sessions {
                    0 => {}
                    1 => f.write_str(", 1 session")?,
                    sessions => write!(f, ", {sessions} sessions")?,
                }
            }
        }
        Ok(())
    }
}

/// No server may be drained now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{serving} servers take traffic and min_serving is {min_serving}: draining one would leave too few; nothing was \
     changed; bring others back first, or allow fewer: bellwether group set --min-serving N"
)]
pub struct TooFew {
    /// The number that serves now.
    pub serving: usize,
    /// The number that must serve.
    pub min_serving: u32,
}

/// The servers of `left` that may be drained together now (W23): at least `min_serving` of those in `serving` go on
/// serving. Servers that do not serve come first, since they cost nothing.
///
/// # Errors
/// Not even one server of `left` may be drained.
pub fn batch(serving: &BTreeSet<ServerName>, left: &[ServerName], min_serving: u32) -> Result<Vec<ServerName>, TooFew> {
    let spare = serving.len().saturating_sub(usize::try_from(min_serving).unwrap_or(usize::MAX));
    let (busy, idle): (Vec<_>, Vec<_>) = left.iter().cloned().partition(|name| serving.contains(name));
    let batch: Vec<_> = idle.into_iter().chain(busy.into_iter().take(spare)).collect();
    if batch.is_empty() && !left.is_empty() {
        return Err(TooFew { serving: serving.len(), min_serving });
    }
    Ok(batch)
}

/// All batches for draining `left` if each is back before the next: for a plan. The execution asks [`batch`] each time.
///
/// # Errors
/// As [`batch`].
pub fn batches(
    serving: &BTreeSet<ServerName>,
    left: &[ServerName],
    min_serving: u32,
) -> Result<Vec<Vec<ServerName>>, TooFew> {
    let (mut serving, mut left, mut batches) = (serving.clone(), left.to_vec(), Vec::new());
    while !left.is_empty() {
        let next = batch(&serving, &left, min_serving)?;
        left.retain(|name| !next.contains(name));
        serving.extend(next.iter().cloned());
        batches.push(next);
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<ServerName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn set(all: &[&str]) -> BTreeSet<ServerName> {
        names(all).into_iter().collect()
    }

    fn line(place: &str, standing: Standing, sessions: u64) -> Line {
        Line { place: place.parse().unwrap(), standing, sessions, note: String::new() }
    }

    fn who(name: &str, backends: &[&str]) -> Who {
        let backends: Vec<_> = backends.iter().map(|text| (*text).to_owned()).collect();
        Who { name: name.parse().unwrap(), traffic: Traffic::parse(&backends).unwrap() }
    }

    fn report(who: &Who, balancers: &[(&str, &[Line])]) -> Report {
        let at = |(name, lines): &(&str, &[Line])| At { balancer: name.parse().unwrap(), entries: of(lines, who) };
        Report { server: who.name.clone(), at: balancers.iter().map(at).collect() }
    }

    #[test]
    fn a_server_is_found_by_its_name_or_by_its_places() {
        use Standing::Serving;
        let lines = [line("app/web1", Serving, 1), line("static/web1", Serving, 2), line("app/s2", Serving, 4)];
        let found = |who: &Who| of(&lines, who).into_iter().map(|entry| entry.place).collect::<Vec<_>>();
        assert_eq!(found(&who("web1", &[])), ["app/web1", "static/web1"]);
        assert_eq!(found(&who("web2", &["app/s2"])), ["app/s2"]);
        assert_eq!(found(&who("web1", &["static/web1"])), ["static/web1"]);
        assert_eq!(found(&who("web1", &["none"])), [""; 0]);
        let missing = who("web2", &["app/s2", "static/s2"]);
        assert_eq!(report(&missing, &[("lb1", &lines)]).missing(&missing), ["static/s2".parse().unwrap()]);
    }

    #[test]
    fn one_balancer_that_sends_traffic_is_traffic() {
        use Standing::{Down, Drained, Maintenance, Serving};
        let web1 = who("web1", &[]);
        let of = |first: Standing, second: Standing| {
            let lines = [line("app/web1", first, 1), line("app/web1", second, 2)];
            report(&web1, &[("lb1", &lines[..1]), ("lb2", &lines[1..])])
        };
        for (first, second, takes, serves, drained) in [
            (Serving, Serving, true, true, false),
            (Serving, Drained, true, false, false),
            (Drained, Drained, false, false, true),
            (Drained, Maintenance, false, false, true),
            (Drained, Down, false, false, false),
            (Serving, Down, true, false, false),
        ] {
            let report = of(first, second);
            assert_eq!((report.takes_traffic(), report.serves(), report.is_drained()), (takes, serves, drained));
            assert_eq!((report.sessions(), report.is_absent()), (3, false));
        }
        let nowhere = report(&web1, &[("lb1", &[])]);
        assert!(nowhere.is_absent() && !nowhere.serves() && !nowhere.takes_traffic());
    }

    #[test]
    fn a_report_is_one_line_for_people() {
        let lines = [line("app/web1", Standing::Drained, 3), line("static/web1", Standing::Serving, 0)];
        let said = report(&who("web1", &[]), &[("lb1", &lines), ("lb2", &[])]).to_string();
        assert_eq!(said, "web1: app/web1 drained at lb1, 3 sessions, static/web1 serving at lb1; not at lb2");
    }

    #[test]
    fn w23_batches_leave_enough_servers_serving() {
        let all = ["a", "b", "c", "d", "e"];
        assert_eq!(
            batches(&set(&all), &names(&all), 3).unwrap(),
            [names(&["a", "b"]), names(&["c", "d"]), names(&["e"])]
        );
        assert_eq!(batches(&set(&all), &names(&all), 0).unwrap(), [names(&all)]);
        assert_eq!(batches(&set(&all), &[], 9).unwrap(), [[]; 0]);
        assert_eq!(batch(&set(&all), &names(&["a"]), 5), Err(TooFew { serving: 5, min_serving: 5 }));
        assert_eq!(batch(&set(&all), &names(&["a"]), u32::MAX), Err(TooFew { serving: 5, min_serving: u32::MAX }));
    }

    #[test]
    fn w23_who_serves_nothing_is_drained_first_and_counts_when_it_is_back() {
        // c serves nothing, so it may go at once; once it is back, one more is spare.
        assert_eq!(
            batches(&set(&["a", "b"]), &names(&["a", "b", "c"]), 2).unwrap(),
            [names(&["c"]), names(&["a"]), names(&["b"])]
        );
    }

    proptest::proptest! {
        #[test]
        fn w23_no_batch_leaves_fewer_than_the_minimum(
            serving in proptest::collection::btree_set(0u8..12, 0..12),
            left in proptest::collection::btree_set(0u8..12, 0..12),
            min_serving in 0u32..14,
        ) {
            let name = |n: &u8| format!("w{n}").parse::<ServerName>().unwrap();
            let (serving, left): (BTreeSet<_>, Vec<_>) = (serving.iter().map(name).collect(), left.iter().map(name).collect());
            let batch = batch(&serving, &left, min_serving).unwrap_or_default();
            let busy = batch.iter().filter(|name| serving.contains(*name)).count();
            proptest::prop_assert!(busy == 0 || serving.len() - busy >= min_serving as usize);
            proptest::prop_assert!(batch.iter().all(|name| left.contains(name)));
        }
    }
}
