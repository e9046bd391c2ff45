//! What a rollout knows of one member: the manager's lane reports it, and nothing of it is kept over a restart.

use bellwether_proto::{revision::Number, status::Observation};

use super::Standing;

/// Where a member stands with the validation of the head, which comes before any switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Staging {
    /// It has staged the head and does not refuse it, or holds it. `later`: its commands can validate only after the switch.
    Ready {
        /// See above.
        later: bool,
    },
    /// It refused the head; the reason.
    Failed(String),
    /// It stages the head. Its pack was last heard to arrive at this time.
    OnTheWay(u64),
    /// It is not waited for.
    Late,
}

/// One member, as its lane last reported it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    at: Option<Number>,
    /// The revision that is on its way to it.
    to: Option<Number>,
    /// It does not answer (any more).
    lost: bool,
    /// Its own edits keep it from updates.
    held: bool,
    /// Why one of its sets cannot be compared.
    away: bool,
    /// Its error, with the revision that it was taking or held then.
    fault: Option<(Option<Number>, String)>,
    /// Its lane has told whether it answers.
    met: bool,
    /// The revision that it has staged, and whether its commands can validate only after the switch.
    staged: Option<(Number, bool)>,
    /// The time at which its pack was last heard to arrive.
    arriving_ms: u64,
    /// The last revision that it refused; without a reason, an obstacle there may pass.
    refused: Option<(Number, Option<String>)>,
}

impl Member {
    /// Takes a report of its lane. Returns whether it counts here.
    pub fn observe(&mut self, observation: &Observation, now_ms: u64) -> bool {
        use Observation as O;
        match observation {
            O::Reached { .. } | O::Lost(_) | O::Left | O::Started { .. } | O::Done { .. } | O::Refused { .. } => {
                self.staged = None;
            }
            _ => {}
        }
        match observation {
            O::Reached { at, fault, .. } => {
                (self.at, self.to, self.lost, self.met) = (*at, None, false, true);
                self.fault = fault.as_ref().map(|why| (*at, why.clone()));
            }
            O::Lost(_) | O::Left => (self.lost, self.to, self.met) = (true, None, true),
            O::Returned(revision) => (self.at, self.fault) = (Some(*revision), None),
            O::Started { to, .. } => (self.to, self.arriving_ms) = (Some(*to), now_ms),
            O::Staged { revision, later } => (self.to, self.staged) = (None, Some((*revision, *later))),
            O::Done { revision, .. } => {
                (self.at, self.to, self.fault) = (Some(*revision), None, None);
                self.refused.take_if(|(refused, _)| *refused <= *revision);
            }
            O::Refused { revision, reason, cause, .. } => {
                self.to = None;
                self.refused = Some((*revision, cause.is_none().then(|| reason.clone())));
            }
            O::Failed(why) => self.fault = Some((self.to.take().or(self.at), why.clone())),
            O::Drift { held, .. } => self.held = *held,
            O::Away(why) => self.away = why.is_some(),
            O::Progress(progress) => {
                if progress.phase == "receiving" {
                    self.arriving_ms = now_ms;
                }
                return false;
            }
            // The machine notes it.
            O::Validates(_)
            | O::Verified(_)
            | O::Record(_)
            | O::Knocked(_)
            | O::Balancers(_)
            | O::Forgets(_)
            | O::DrainedAgain(_)
            | O::SawLost(_)
            | O::Alive => return false,
        }
        true
    }

    /// Where it stands with the validation of the revision `head`.
    pub(super) fn staging(&self, head: Number) -> Staging {
        match self.standing(head) {
            Standing::Well => Staging::Ready { later: false },
            Standing::Failed(why) => Staging::Failed(why),
            Standing::Late => Staging::Late,
            // Its first revision holds up nobody.
            Standing::OnTheWay if self.at.is_none() && self.met => Staging::Late,
            Standing::OnTheWay => match self.staged {
                Some((staged, later)) if staged == head => Staging::Ready { later },
                Some(_) | None => Staging::OnTheWay(self.arriving_ms),
            },
        }
    }

    /// Where it stands with the revision `head`.
    pub fn standing(&self, head: Number) -> Standing {
        if let Some((with, why)) = &self.fault {
            return if *with == Some(head) { Standing::Failed(why.clone()) } else { Standing::Late };
        }
        match &self.refused {
            Some((refused, Some(why))) if *refused == head => return Standing::Failed(why.clone()),
            Some((refused, None)) if self.at.is_none_or(|at| at < *refused) && *refused <= head => {
                return Standing::Late;
            }
            Some(_) | None => {}
        }
        match (self.at == Some(head), self.lost) {
            (_, true) => Standing::Late,
            (true, false) => Standing::Well,
            (false, false) if self.held || self.away => Standing::Late,
            (false, false) => Standing::OnTheWay,
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{level::Program, status::Cause};

    use super::*;

    fn number(text: &str) -> Number {
        text.parse().unwrap()
    }

    fn reached(at: &str, fault: Option<&str>) -> Observation {
        Observation::Reached { program: Program::own(), at: Some(number(at)), fault: fault.map(str::to_owned) }
    }

    fn done(revision: &str) -> Observation {
        Observation::Done { revision: number(revision), micros: 1, kept: Vec::new() }
    }

    fn refused(revision: &str, cause: Option<Cause>) -> Observation {
        let (revision, reason) = (number(revision), "check".to_owned());
        Observation::Refused { revision, reason, cause, output: String::new() }
    }

    fn started(to: &str) -> Observation {
        Observation::Started { sync: false, to: number(to) }
    }

    fn after(observations: &[Observation]) -> Standing {
        let mut member = Member::default();
        observations.iter().for_each(|observation| _ = member.observe(observation, 0));
        member.standing(number("1.5"))
    }

    #[test]
    fn the_lane_tells_where_a_member_stands() {
        let lost = || Observation::Lost("gone".into());
        let failed = || Observation::Failed("disk".into());
        let (check, disk) = (Standing::Failed("check".into()), Standing::Failed("disk".into()));
        for (observations, standing) in [
            (vec![], Standing::OnTheWay),
            (vec![lost()], Standing::Late),
            (vec![reached("1.4", None)], Standing::OnTheWay),
            (vec![reached("1.5", None)], Standing::Well),
            (vec![reached("1.4", None), started("1.5"), done("1.5")], Standing::Well),
            (vec![reached("1.5", None), lost()], Standing::Late),
            (vec![reached("1.4", None), refused("1.5", None)], check.clone()),
            (vec![reached("1.4", None), refused("1.5", None), lost()], check),
            (vec![reached("1.4", None), refused("1.4", None)], Standing::OnTheWay),
            (vec![reached("1.4", None), refused("1.5", None), done("1.5")], Standing::Well),
            (vec![reached("1.4", None), refused("1.5", Some(Cause::Space))], Standing::Late),
            (vec![reached("1.3", None), refused("1.4", Some(Cause::Space))], Standing::Late),
            (vec![reached("1.4", None), started("1.5"), failed()], disk.clone()),
            (vec![reached("1.5", None), failed()], disk.clone()),
            (vec![reached("1.5", Some("disk"))], disk),
            (vec![reached("1.4", Some("disk"))], Standing::Late),
            (vec![reached("1.4", None), failed()], Standing::Late),
            (vec![reached("1.4", None), Observation::Away(Some("no directory".into()))], Standing::Late),
        ] {
            assert_eq!(after(&observations), standing, "{observations:?}");
        }
    }
}
