//! The simulation notices broken rules: each of these breaks one, as a mistake in the program might.

use bellwether_group::{
    procedure::{Action, Holds, Next, Procedure, Task, World, next},
    rollback_detection::Verdict,
    takeover::{Findings, Insists, Refused, Survey},
};
use bellwether_proto::record::{RecordRefused, SignedRecord, chain};

use crate::{history, rules::Rules};

/// The number of histories within which a broken rule must be noticed.
const HISTORIES: u64 = 300;

/// Asserts that some history fails by these rules with these words.
fn says(what: &str, rules: Rules) {
    let failures = (0..HISTORIES).filter_map(|seed| history::run(seed, rules).err());
    let mut said = failures.map(|failure| failure.what);
    assert!(said.any(|said| said.contains(what)), "no history noticed it");
}

/// Takes the last shown record, unless it is the held one.
fn takes_anything(held: &SignedRecord, links: &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused> {
    Ok(links.last().filter(|last| *last != held).cloned().into_iter().collect())
}

#[test]
fn a_server_that_goes_back_to_a_lower_epoch() {
    says("3: ", Rules { walk: takes_anything, ..Rules::default() });
}

/// Takes the higher version, signed by any key.
fn takes_newer(held: &SignedRecord, links: &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused> {
    let newer = |link: &&SignedRecord| link.record().version > held.record().version;
    Ok(links.last().filter(newer).cloned().into_iter().collect())
}

#[test]
fn a_server_that_obeys_two_managers_in_one_epoch() {
    says("in which it obeyed another", Rules { walk: takes_newer, ..Rules::default() });
}

/// Takes any record of a candidate, even one that jumps too far.
fn takes_jumps(held: &SignedRecord, links: &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused> {
    match chain::walk(held, links) {
        Err(RecordRefused::Jump { .. }) => Ok(links.last().cloned().into_iter().collect()),
        walked => walked,
    }
}

#[test]
fn a_server_that_takes_a_record_that_uses_the_epochs_up() {
    says("nobody can lead after it", Rules { walk: takes_jumps, ..Rules::default() });
}

/// Takes records of a refused key, and of servers that still follow it.
fn takes_refused(held: &SignedRecord, links: &[SignedRecord]) -> Result<Vec<SignedRecord>, RecordRefused> {
    match chain::walk(held, links) {
        Err(RecordRefused::Refused(_)) => {
            Ok(links.last().filter(|last| last.record().version > held.record().version).cloned().into_iter().collect())
        }
        walked => walked,
    }
}

#[test]
fn a_server_that_follows_a_key_that_its_group_refuses() {
    says("forgets which keys its group refuses", Rules { walk: takes_refused, ..Rules::default() });
}

#[test]
fn a_manager_that_offers_what_is_not_durable() {
    says("which is not durable there", Rules { save_first: false, ..Rules::default() });
}

#[test]
fn a_member_that_gets_a_revision_before_its_wave() {
    says("before its wave", Rules { waves: false, ..Rules::default() });
}

#[test]
fn a_fork_that_is_replaced_and_not_kept() {
    says("4: ", Rules { keep_forked: false, ..Rules::default() });
}

#[test]
fn w14_a_manager_that_believes_whatever_its_members_hold() {
    says("W14: ", Rules { judge_hello: |_, _, _, _, _| Verdict::Known, ..Rules::default() });
}

#[test]
fn w14_a_manager_that_forgets_what_it_gave_a_server_that_enters_again() {
    says("no state went back", Rules { entered: |_| None, ..Rules::default() });
}

#[test]
fn w14_a_copy_that_nobody_tells_from_the_original() {
    says("are both", Rules { is_copy: |_, _| false, ..Rules::default() });
}

/// Takes over, even if the manager answers.
fn insists(survey: &Survey<'_>, _: Insists) -> Result<Findings, Refused> {
    survey.judge(Insists { force: true, accept: true })
}

#[test]
fn w24_a_candidate_that_takes_over_from_a_manager_that_answers() {
    says("W24: ", Rules { judge: insists, ..Rules::default() });
}

/// Drains, though too few servers would serve.
fn drains_at_once(procedure: &Procedure, world: &World, now_ms: u64) -> Next {
    match (next(procedure, world, now_ms), procedure.step().map(|step| &step.task)) {
        (Next::Wait(..), Some(Task::Drain(drain))) => Next::Do(Action::Drain(drain.0.clone())),
        (next, _) => next,
    }
}

#[test]
fn w23_a_procedure_that_drains_below_the_least_that_are_to_serve() {
    says("W23: ", Rules { next: drains_at_once, ..Rules::default() });
}

#[test]
fn w23_a_manager_that_syncs_whom_its_recovery_has_not_drained_yet() {
    says("W23: ", Rules { holds: |_| Holds::new(), ..Rules::default() });
}

/// Puts servers back into service before they are synced.
fn undrains_at_once(procedure: &Procedure, world: &World, now_ms: u64) -> Next {
    match (next(procedure, world, now_ms), procedure.step().map(|step| &step.task)) {
        (Next::Wait(..), Some(Task::Sync(sync))) => Next::Do(Action::Undrain(sync.0.clone())),
        (next, _) => next,
    }
}

#[test]
fn w12_a_procedure_that_puts_a_server_back_before_it_is_synced() {
    says("W12: ", Rules { next: undrains_at_once, ..Rules::default() });
}
