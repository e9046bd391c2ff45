//! The waves of a rollout: their members, in the order of names, and the rule which of them are due.

use std::{collections::BTreeMap, ops::Range};

use bellwether_proto::{name::ServerName, record::RolloutPolicy};

/// What is known of one member, with respect to one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It holds the revision and is well.
    Well,
    /// It refused the revision, or is in error with it; the reason.
    Failed(String),
    /// It may take the revision, and has not answered yet.
    OnTheWay,
    /// It is not waited for: it does not answer, or something else keeps it from revisions.
    Late,
}

/// The members of one group with their standings, sorted by name.
pub type Standings = BTreeMap<ServerName, Standing>;

/// The places of each wave in the list of `members` members.
pub fn waves(policy: &RolloutPolicy, members: usize) -> Vec<Range<usize>> {
    let (canary, batch) = ((policy.canary as usize).min(members), policy.batch.of(members));
    let first = (canary > 0).then_some(0..canary);
    let later = (canary..members).step_by(batch).map(|from| from..(from + batch).min(members));
    first.into_iter().chain(later).collect()
}

/// The members of the wave `number`, from 0, whose places these are. If none of the first wave answers, as many of the later
/// members that answer stand in for it, so that no revision goes to many members that not one has tried.
pub fn wave(standings: &Standings, number: usize, places: &Range<usize>) -> Vec<ServerName> {
    let answers = |(_, standing): &(&ServerName, &Standing)| **standing != Standing::Late;
    let own = standings.iter().skip(places.start).take(places.len());
    let missing = if number == 0 && !own.clone().any(|member| answers(&member)) { places.len() } else { 0 };
    let stand_ins = standings.iter().skip(places.end).filter(answers).take(missing);
    own.chain(stand_ins).map(|(name, _)| name.clone()).collect()
}

/// Whether the wave `number` is good: each of its members that is waited for has answered, and at least one of the first wave
/// has.
pub fn is_good(standings: &Standings, number: usize, wave: &[ServerName]) -> bool {
    let mut answered = number > 0;
    for standing in wave.iter().filter_map(|name| standings.get(name)) {
        match standing {
            Standing::Well | Standing::Failed(_) => answered = true,
            Standing::OnTheWay => return false,
            Standing::Late => {}
        }
    }
    answered
}

#[cfg(test)]
mod tests {
    use bellwether_proto::record::Batch;

    use super::*;

    fn standings(list: &[Standing]) -> Standings {
        list.iter().enumerate().map(|(at, standing)| (format!("web{at}").parse().unwrap(), standing.clone())).collect()
    }

    fn names(wave: &[ServerName]) -> Vec<&str> {
        wave.iter().map(ServerName::as_str).collect()
    }

    #[test]
    fn each_member_is_in_one_wave() {
        for canary in 0..5 {
            for batch in
                [Batch::Members(1), Batch::Members(3), Batch::Percent(1), Batch::Percent(50), Batch::Percent(100)]
            {
                for members in 0..10 {
                    let policy = RolloutPolicy { canary, batch, ..RolloutPolicy::default() };
                    let all: Vec<usize> = waves(&policy, members).into_iter().flatten().collect();
                    assert_eq!(all, (0..members).collect::<Vec<_>>(), "{policy:?}, {members} members");
                }
            }
        }
        let policy = RolloutPolicy { canary: 1, batch: Batch::Percent(50), ..RolloutPolicy::default() };
        assert_eq!(waves(&policy, 4), [0..1, 1..3, 3..4]);
    }

    #[test]
    fn a_first_wave_that_does_not_answer_has_stand_ins() {
        use Standing::{Late, OnTheWay, Well};
        let all = standings(&[Late, Late, OnTheWay, Late, Well]);
        assert_eq!(names(&wave(&all, 0, &(0..1))), ["web0", "web2"]);
        assert_eq!(names(&wave(&all, 0, &(0..2))), ["web0", "web1", "web2", "web4"]);
        assert_eq!(names(&wave(&all, 0, &(0..3))), ["web0", "web1", "web2"], "one of them answers");
        assert_eq!(names(&wave(&all, 1, &(0..2))), ["web0", "web1"], "others have tried the revision");
        assert_eq!(names(&wave(&standings(&[Late, Late]), 0, &(0..1))), ["web0"], "nobody answers");
    }

    #[test]
    fn a_wave_is_good_when_all_that_are_waited_for_have_answered() {
        use Standing::{Failed, Late, OnTheWay, Well};
        let good = |number: usize, list: &[Standing]| {
            let all = standings(list);
            let wave: Vec<_> = all.keys().cloned().collect();
            is_good(&all, number, &wave)
        };
        let failed = || Failed("no".into());
        assert!(good(0, &[Well, Late]) && good(0, &[Well, failed()]) && good(0, &[failed()]));
        assert!(!good(0, &[Well, OnTheWay]) && !good(0, &[Late]) && !good(1, &[Well, OnTheWay]));
        assert!(good(1, &[Late]), "the first wave has tried it");
    }
}
