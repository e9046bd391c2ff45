//! `bellwether debug record`: the group record in force on this server, and the records that made each manager.

use bellwether_proto::record::SignedRecord;
use serde_json::{Value, json};

use crate::{commands::record, common::Common, error::CommandError, output};

/// Prints the records; their signatures were checked when they were read.
pub(super) fn run(common: &Common) -> Result<(), CommandError> {
    let held = record::held(common)?;
    let chain: Vec<Value> = held.chain.iter().map(as_json).collect();
    output::document(&json!({ "file": common.layout()?.group(), "current": as_json(&held.current), "chain": chain }));
    Ok(())
}

fn as_json(signed: &SignedRecord) -> Value {
    json!({ "hash": signed.hash(), "signed_by": signed.signer(), "record": signed.record() })
}
