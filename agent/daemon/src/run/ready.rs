//! Whether this server takes requests: as its sets say (W12), unless the group record has it out of service, or no
//! server has confirmed since its start that it holds the newest revision. One task joins these for `/ready`. While the
//! confirmation is missing, it also asks the candidates for one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_group::takeover::Answer;
use bellwether_proto::{
    key::PublicKey,
    ready::Ready,
    record::{Record, Role, SignedRecord},
    revision::SignedHeader,
};
use tokio::{sync::watch, time::sleep};

use crate::{net::peers::Peers, state::confirmed::Confirmed};

/// The time that the manager has to confirm first, and the interval between questions to the candidates.
const PAUSE: Duration = Duration::from_secs(2);

/// Whether it is confirmed that this server holds the newest revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The manager or a candidate has confirmed it since this start.
    Yes,
    /// It is not confirmed, and the group's limit has not passed.
    NotYet,
    /// It was not confirmed within the group's limit.
    Late,
}

/// Shows `own` under the record, until one of the two ends.
pub(crate) async fn run(
    peers: Arc<Peers>,
    confirmed: Arc<Confirmed>,
    mut record: watch::Receiver<Arc<SignedRecord>>,
    mut own: watch::Receiver<Ready>,
    shown: watch::Sender<Ready>,
) {
    let (key, began) = (peers.key(), Instant::now());
    // Polled only while the confirmation is missing; a pending question goes on then.
    let mut asking = Box::pin(asked(peers));
    loop {
        let (current, now) = (record.borrow_and_update().clone(), own.borrow_and_update().clone());
        // Once confirmed, a member that is briefly behind is being updated.
        if now.ready && !now.stale {
            confirmed.confirm();
        }
        let bound = Duration::from_secs(current.record().policy.ready_after_s);
        let left = bound.saturating_sub(began.elapsed());
        let known = match (confirmed.is(), left.is_zero()) {
            (true, _) => Known::Yes,
            (false, false) => Known::NotYet,
            (false, true) => Known::Late,
        };
        let waits = now.ready && known != Known::Yes;
        let now = under(current.record(), &key, now, known);
        shown.send_if_modified(|shown| std::mem::replace(shown, now.clone()) != now);
        tokio::select! {
            changed = record.changed() => if changed.is_err() { return },
            changed = own.changed() => if changed.is_err() { return },
            () = &mut asking, if waits => confirmed.confirm(),
            () = sleep(left), if waits && known == Known::NotYet => {}
        }
    }
}

/// Ends when a candidate has confirmed what this server holds.
async fn asked(peers: Arc<Peers>) {
    loop {
        sleep(PAUSE).await;
        let answers = peers.survey_candidates().await;
        if peers.at().is_some_and(|at| confirms(&at, &answers)) {
            return;
        }
    }
}

/// Whether one of the answering servers holds the revision `at`, and none has heard of a newer one.
fn confirms(at: &SignedHeader, answers: &[Answer]) -> bool {
    let newer = answers.iter().flat_map(|one| one.seen.iter().chain(&one.at)).any(|other| other.number() > at.number());
    !newer && answers.iter().any(|one| one.at.as_ref().is_some_and(|other| other.id() == at.id()))
}

/// Adjusts `own` by the record and the confirmation: a balancer that only asks `/ready` sends nothing to a server in
/// maintenance, nor to one that was off and may serve old content.
fn under(record: &Record, key: &PublicKey, own: Ready, known: Known) -> Ready {
    match (record.by_key(key), known) {
        (None, _) => Ready::no("removed from the group"),
        (Some(server), _) if server.role == Role::Disabled => {
            Ready::no(format!("disabled in the group; at the manager: bellwether maintenance finish {}", server.name))
        }
        (Some(server), _) if server.drained => {
            Ready::no(format!("drained; at the manager: bellwether maintenance finish {}", server.name))
        }
        (Some(_), Known::Yes) => Ready { stale: false, ..own },
        (Some(_), _) if !own.ready => own,
        (Some(_), Known::NotYet) => Ready::no(format!(
            "{}; neither the manager nor a candidate has confirmed since this start that it is the newest; ready without \
             that {} s after the start",
            own.reason, record.policy.ready_after_s
        )),
        (Some(_), Known::Late) => Ready {
            stale: true,
            reason: format!(
                "{}, stale: neither the manager nor a candidate has confirmed it since this start",
                own.reason
            ),
            ..own
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bellwether_proto::{
        hash::Hash,
        key::KeyPair,
        record::Version,
        revision::{Epoch, GroupId, Header, Number},
    };

    use super::*;

    fn header(key: &KeyPair, sequence: u64) -> SignedHeader {
        let number = Number { epoch: Epoch(1), sequence };
        let header = Header {
            group: GroupId::from([1; 16]),
            number,
            parent: None,
            manager: "web1".parse().expect("a name"),
            incarnation: 1,
            time_ms: 0,
            author: String::new(),
            message: String::new(),
            labels: BTreeMap::new(),
            root: Hash::of(&sequence.to_be_bytes()),
        };
        SignedHeader::sign(header, key)
    }

    fn answer(at: Option<SignedHeader>, seen: Vec<SignedHeader>) -> Answer {
        let record = Version { epoch: Epoch(1), version: 1 };
        Answer { record, at, seen, follows: true, leads: false, promotes: false }
    }

    #[test]
    fn w12_a_candidate_confirms_what_it_holds_where_nobody_has_heard_of_more() {
        let key = KeyPair::generate();
        let (old, new) = (header(&key, 4), header(&key, 5));
        assert!(!confirms(&new, &[]), "nobody answers");
        assert!(confirms(&new, &[answer(Some(new.clone()), Vec::new()), answer(Some(old.clone()), Vec::new())]));
        assert!(!confirms(&old, &[answer(Some(old.clone()), vec![new.clone()])]), "a newer one was heard of");
        assert!(!confirms(&old, &[answer(Some(old.clone()), Vec::new()), answer(Some(new.clone()), Vec::new())]));
        assert!(!confirms(&new, &[answer(Some(old.clone()), Vec::new()), answer(None, Vec::new())]), "it is behind");
        let other = SignedHeader::sign(Header { message: "another".to_owned(), ..new.header().clone() }, &key);
        assert!(!confirms(&new, &[answer(Some(other), Vec::new())]), "another revision of that number");
    }
}
