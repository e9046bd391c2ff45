//! The drained state in the record, which every server reads (W12): `/ready` follows it.

use bellwether_proto::{
    name::ServerName,
    record::{Record, Server, SignedRecord},
};

use super::{By, GroupRefused, add_again, next};

/// Takes servers out of service, or brings them back; removed ones, too, for later. Unknown names are ignored.
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

/// Makes a removed or disabled server a member again, out of service in the same record: its sync comes first.
///
/// # Errors
/// The server is unknown, or its name or key belongs to another by now.
pub fn bring_back(held: &SignedRecord, name: &ServerName, by: &By) -> Result<Option<Record>, GroupRefused> {
    let added = add_again(held, name, by)?;
    Ok(added.map(|mut record| {
        set(&mut record, std::slice::from_ref(name), true);
        record
    }))
}
