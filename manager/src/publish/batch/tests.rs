use bellwether_proto::{key::KeyPair, revision::Header};
use bellwether_random::headers::header;

use super::*;

fn kept() -> Kept {
    let batch = Batch {
        owner: "ann at m".into(),
        command: "true".into(),
        pid: 1,
        began_ms: 0,
        deadline_ms: 1,
        state: BatchState::Running,
    };
    Kept { batch, epoch: Epoch(1), root: Hash::of(b"before") }
}

fn head(epoch: u64, root: &[u8]) -> SignedHeader {
    let header = Header { root: Hash::of(root), ..header(epoch, 3) };
    SignedHeader::sign(header, &KeyPair::generate())
}

#[test]
fn a_batch_that_the_process_before_has_left_holds_unless_its_edits_are_in_the_head() {
    assert_eq!(kept().judge(&head(1, b"before")), Found::Holds);
    assert!(matches!(kept().judge(&head(1, b"after")), Found::Over(_)));
    assert!(matches!(kept().judge(&head(3, b"before")), Found::Over(_)));
}

#[test]
fn a_restart_ends_a_batch_without_a_result_and_keeps_holding() {
    let state = tempfile::tempdir().unwrap();
    let batches = Batches::open(state.path()).unwrap();
    assert!(!batches.holds());
    batches.keep(kept()).unwrap();
    assert!(batches.refuse_running().is_err());
    for _ in 0..2 {
        let batches = Batches::open(state.path()).unwrap();
        batches.begin(&head(1, b"before")).unwrap();
        assert_eq!(batches.now().map(|batch| batch.state), Some(BatchState::Restarted));
        assert!(batches.refuse().is_err() && batches.refuse_running().is_ok());
    }
    batches.clear().unwrap();
    assert!(!Batches::open(state.path()).unwrap().holds());
}
