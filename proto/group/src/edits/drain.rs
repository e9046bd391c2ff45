//! Out of service and back into it, as the record says it to every server (W12): `/ready` follows it.

use bellwether_proto::{
    name::ServerName,
    record::{Record, Server, SignedRecord},
};

use super::{By, GroupRefused, add_again, next};

/// These servers are out of service, or in it again; those that were removed, too, as they are when they are added again.
/// Names that nobody had are passed over.
pub fn set_drained(held: &SignedRecord, servers: &[ServerName], drained: bool, by: &By) -> Option<Record> {
    let record = held.record();
    let change = |server: &ServerName| record.server_or_removed(server).is_some_and(|server| server.drained != drained);
    let names: Vec<&str> = servers.iter().filter(|server| change(server)).map(ServerName::as_str).collect();
    if names.is_empty() {
        return None;
    }
    let what = format!("{} {}", if drained { "drain" } else { "undrain" }, names.join(" "));
    Some(next(held, by, what, |record| set(record, servers, drained)))
}

fn set(record: &mut Record, servers: &[ServerName], drained: bool) {
    for name in servers {
        let of_name = |s: &&mut Server| s.name == *name;
        let there = record.servers.iter_mut().find(of_name);
        if let Some(server) = there.or_else(|| record.removed.iter_mut().rfind(of_name)) {
            server.drained = drained;
        }
    }
}

/// A server that was removed or disabled is a member again, in the same record out of service: its sync comes first.
///
/// # Errors
/// Never heard of, or its name or key belongs to another by now.
pub fn bring_back(held: &SignedRecord, name: &ServerName, by: &By) -> Result<Option<Record>, GroupRefused> {
    let added = add_again(held, name, by)?;
    Ok(added.map(|mut record| {
        set(&mut record, std::slice::from_ref(name), true);
        record
    }))
}
