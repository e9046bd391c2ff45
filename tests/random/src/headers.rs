//! Headers of revisions, for the tests of rules.

use bellwether_proto::{
    hash::Hash,
    revision::{Epoch, GroupId, Header, Number},
};

/// Revision `epoch.sequence` of the manager `m`, without a parent.
pub fn header(epoch: u64, sequence: u64) -> Header {
    Header {
        group: GroupId::from([1; 16]),
        number: Number { epoch: Epoch(epoch), sequence },
        parent: None,
        manager: "m".parse().unwrap(),
        incarnation: 1,
        time_ms: 0,
        author: String::new(),
        message: String::new(),
        labels: Default::default(),
        root: Hash::of(b""),
    }
}
