//! `bellwether server list`.

use bellwether_proto::record::{Record, Role, Server};
use serde_json::json;

use super::record;
use crate::{common::Common, error::CommandError, output};

/// Prints the servers of this machine's record.
pub(super) fn run(common: &Common) -> Result<(), CommandError> {
    let held = record::held(common)?;
    let record = held.current.record();
    let document = json!({
        "record": record.version.to_string(),
        "servers": record.servers,
        "removed": record.removed,
    });
    output::show(common.json, &document, |_| table(record));
    Ok(())
}

fn table(record: &Record) -> String {
    let role = |server: &Server| match server.role {
        Role::Manager => "manager",
        Role::Member => "member",
        Role::Disabled => "disabled",
    };
    let row = |server: &Server, role: &str| {
        // Old hardware whose name now belongs to other hardware is not to be brought back.
        let replaced = record.server(&server.name).is_some_and(|has| has.key != server.key);
        let role = if server.drained && !replaced { format!("{role}, drained") } else { role.to_owned() };
        let candidate = if server.candidate { "yes" } else { "no" };
        let backends = if server.backends.is_empty() { "-".to_owned() } else { server.backends.join(",") };
        let key = server.key.to_string();
        [server.name.as_str(), &role, candidate, &server.address, &backends, &key].map(str::to_owned).to_vec()
    };
    let mut rows = vec![["NAME", "ROLE", "CANDIDATE", "ADDRESS", "BACKENDS", "KEY"].map(str::to_owned).to_vec()];
    rows.extend(record.servers.iter().map(|server| row(server, role(server))));
    rows.extend(record.removed.iter().map(|server| row(server, "removed")));
    output::columns(&rows)
}
