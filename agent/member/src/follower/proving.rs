//! A revision and the commands of the sets: those that validate before the switch, those that show afterwards whether the services
//! work with it, and the way back.

use bellwether_proto::{
    revision::SignedHeader,
    status::{self, Cause, Observation},
    v1::{self, Outcome, up},
};

use super::{
    Activity, Back, Complaint, Facts, Follower, Offered, Output, Owed, Purpose, Returned, Trouble, Validated,
    Validation, is_of,
};

/// A revision in the sets whose commands have not ended.
#[derive(Debug)]
pub(super) struct Proving {
    header: SignedHeader,
    way: Way,
}

#[derive(Debug)]
pub(super) enum Way {
    /// The same one, of which edits were put back.
    Stay,
    /// To the new revision; this is reported when they end well.
    Forward(v1::Report),
    /// Back from that one.
    Back(SignedHeader, Complaint),
}

impl Follower {
    pub(super) fn staged(&mut self, facts: &Facts<'_>, staged: Result<Validation, Trouble>) {
        let Activity::Staging(offered) = self.end() else { return };
        match staged {
            Err(trouble) => self.refused(facts, &offered.header, trouble),
            Ok(Validation::Before) => {
                tracing::debug!("staged: the commands that validate are begun");
                self.work = Activity::Validating(offered);
                self.outputs.push(Output::Validate);
                self.working("validating");
            }
            Ok(validation) => self.go_on(offered, validation),
        }
    }

    /// No command here refuses what is staged: it is switched to, or waits for the manager.
    fn go_on(&mut self, Offered { header, purpose, .. }: Offered, validation: Validation) {
        if purpose != Purpose::Stage {
            return self.switch(header, validation);
        }
        let (number, later) = (header.number(), validation == Validation::After);
        let staged = v1::Staged { revision: header.id().0.into(), later, ..v1::Staged::default() };
        self.work = Activity::Staged(header, validation);
        self.see(Observation::Staged { revision: number, later });
        self.send(up::Message::Staged(staged));
    }

    pub(super) fn validated(&mut self, facts: &Facts<'_>, validated: Validated) {
        let Activity::Validating(offered) = self.end() else { return };
        match validated {
            Validated::Good => self.go_on(offered, Validation::Before),
            Validated::Unable => self.go_on(offered, Validation::After),
            Validated::Bad(complaint) => {
                self.outputs.extend([Output::Shelve, Output::Drop]);
                self.complained(facts, &offered.header, complaint);
            }
        }
    }

    /// Commands run: the manager and the monitor are told so.
    pub(super) fn working(&mut self, phase: &'static str) {
        if let Activity::Validating(_) | Activity::Proving(_) = self.work {
            let progress = v1::Progress { phase: phase.into(), ..v1::Progress::default() };
            self.send(up::Message::Progress(progress));
            self.see(Observation::Progress(status::Progress::phase(phase)));
        }
    }

    /// The commands of what the sets hold now are begun.
    pub(super) fn prove(&mut self, header: SignedHeader, way: Way) {
        self.work = Activity::Proving(Box::new(Proving { header, way }));
        self.outputs.push(Output::Prove);
        self.working("reloading");
    }

    pub(super) fn proved(&mut self, proved: Result<(), Complaint>) {
        let Activity::Proving(proving) = self.end() else { return };
        let Proving { header, way } = *proving;
        match (way, proved) {
            (Way::Stay, Ok(())) => self.outputs.push(Output::Proved),
            (Way::Stay, Err(complaint)) => {
                self.failed(Some(&header), format!("after edits were put back: {}", complaint.reason));
                self.outputs.push(Output::Proved);
            }
            (Way::Forward(report), Ok(())) => {
                self.outputs.extend([Output::Proved, Output::Show]);
                self.done(header, report);
            }
            (Way::Forward(_), Err(complaint)) => {
                tracing::warn!(complaint.reason, "the sets go back to the revision before");
                self.work = Activity::Returning(header, complaint.clone());
                self.outputs.push(Output::Return(complaint));
            }
            (Way::Back(from, complaint), Ok(())) => {
                self.outputs.push(Output::Proved);
                self.went_back(&header, &from, complaint);
                self.outputs.push(Output::Tidy(header));
            }
            (Way::Back(from, before), Err(complaint)) => {
                let (was, held) = (from.number(), header.number());
                let (before, now) = (before.reason, complaint.reason);
                let reason = format!("{was} was taken back ({before}), and with {held} its service fails, too: {now}");
                // The error is noted before it is noted that nothing is owed.
                self.failed(Some(&from), reason);
                self.outputs.push(Output::Proved);
            }
        }
        self.after_proof();
    }

    /// The sets go back to the revision before. While another revision is on its way, that waits for the next look, and in error, for
    /// a sync.
    pub(super) fn unconfirmed(&mut self, facts: &Facts<'_>, complaint: Complaint) {
        if facts.fault.is_some() {
            return;
        }
        self.unstage(facts);
        let Some(held) = facts.at.filter(|_| self.is_idle()) else { return };
        tracing::warn!(complaint.reason, "the sets go back to the revision before");
        self.work = Activity::Returning(held.clone(), complaint.clone());
        self.outputs.push(Output::Return(complaint));
    }

    pub(super) fn returned(&mut self, facts: &Facts<'_>, returned: Result<Returned, String>) {
        let Activity::Returning(from, complaint) = self.end() else { return };
        match returned {
            Err(why) => {
                let (was, reason) = (from.number(), complaint.reason);
                self.failed(Some(&from), format!("{reason}; {was} stays in the sets: {why}"));
                self.outputs.push(Output::Proved);
                self.after_proof();
            }
            Ok(Returned { header, kept, edits }) => {
                self.observe(facts, edits);
                self.outputs.push(Output::Show);
                self.say_drift(kept);
                self.prove(header, Way::Back(from, complaint));
            }
        }
    }

    /// The sets hold the revision before, and their services work with it.
    fn went_back(&mut self, held: &SignedHeader, from: &SignedHeader, complaint: Complaint) {
        let (was, now, revision) = (from.number(), held.number(), from.id().0.into());
        let reason = format!("{}; {was} was taken back, and {now} is in force again", complaint.reason);
        tracing::warn!(reason, "refused");
        let Complaint { output, unconfirmed, .. } = complaint;
        self.refused = Some((from.id(), Complaint { reason: reason.clone(), output: output.clone(), unconfirmed }));
        self.see(Observation::Returned(now));
        self.see(Observation::Refused { revision: was, reason: reason.clone(), cause: None, output: output.clone() });
        self.outputs.push(Output::Show);
        // An offer that was put off meanwhile is still asked for.
        let (outcome, at) = (Outcome::Refused.into(), Some(held.to_wire()));
        let report = v1::Report { revision, outcome, reason, output, at, unconfirmed, ..v1::Report::default() };
        self.send(up::Message::Report(report));
    }

    /// A command refuses a revision, which is not in the sets (any more): it is not tried again by itself.
    pub(super) fn complained(&mut self, facts: &Facts<'_>, header: &SignedHeader, complaint: Complaint) {
        self.refused = Some((header.id(), complaint.clone()));
        let Complaint { reason, output, .. } = complaint;
        self.refused(facts, header, Trouble { reason, cause: None, look: None, output });
    }

    /// A sync has waited for it.
    pub(super) fn after_proof(&mut self) {
        if self.is_idle() && std::mem::take(&mut self.sync) {
            self.refused = None;
            self.work = Activity::Finishing;
            self.outputs.push(Output::Finish);
        }
    }

    /// Whether commands show at this moment whether the offered revision works.
    pub(super) fn proves(&self, offer: &v1::Offer) -> bool {
        match &self.work {
            Activity::Proving(proving) => matches!(proving.way, Way::Forward(_)) && is_of(offer, &proving.header),
            _ => false,
        }
    }

    /// While commands show whether a revision works, nothing else is taken; it is asked for afterwards.
    pub(super) fn postpone(&mut self, facts: &Facts<'_>, offer: &v1::Offer) {
        let Some(header) = offer.header.clone().and_then(|header| SignedHeader::from_wire(header).ok()) else { return };
        let reason = "the commands of the revision before are running".to_owned();
        self.refused(facts, &header, Trouble { reason, cause: Some(Cause::Busy), look: None, output: String::new() });
    }

    /// Goes on where this server was as its agent ended.
    pub(super) fn owed(&mut self, owed: Owed) {
        let Owed { held, root, back } = owed;
        match back {
            None => {
                let (revision, outcome, root) = (held.id().0.into(), Outcome::Done.into(), root.into());
                let report = v1::Report { revision, outcome, root, ..v1::Report::default() };
                self.prove(held, Way::Forward(report));
            }
            Some(Back::Goes(complaint)) => {
                self.work = Activity::Returning(held, complaint.clone());
                self.outputs.push(Output::Return(complaint));
            }
            Some(Back::Came(from, complaint)) => self.prove(held, Way::Back(*from, complaint)),
        }
    }
}
