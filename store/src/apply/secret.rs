//! The secret files among those that are staged.

use std::os::fd::AsFd;

use bellwether_proto::entry::Kind;

use super::{stage, work::Work};
use crate::{
    beneath::open_file,
    secret::{SecretContents, SecretPaths},
};

/// Adds the secret files that are staged.
pub(super) fn read(work: &Work, paths: &SecretPaths, contents: &mut SecretContents) {
    for operation in work.journal.operations.iter().filter(|operation| operation.act == super::journal::Act::Put) {
        let name = &work.journal.sets[operation.set].name;
        for wanted in work.journal.wanted_within(operation.set, &operation.path) {
            let is_file = wanted.entry.as_ref().is_some_and(|entry| matches!(entry.kind, Kind::File(_)));
            if !is_file || !paths.covers(name, &wanted.path) {
                continue;
            }
            let staging = work.areas[operation.set].staging.as_fd();
            let file = stage::beneath(operation, &wanted.path).and_then(|path| open_file(staging, path.as_bytes()));
            contents.incomplete |= file.and_then(|file| contents.add(file)).is_err();
        }
    }
}
