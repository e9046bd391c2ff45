//! The membership of the group: entering, leaving, disabling, new hardware under an old name (W9, W16, W21, W25).

use bellwether_proto::{
    Malformed,
    key::PublicKey,
    limits,
    name::ServerName,
    record::{Record, Role, Server, SignedRecord},
};

use super::{By, GroupRefused, next};

fn place(servers: &mut Vec<Server>, server: Server) {
    let at = servers.partition_point(|s| s.name < server.name);
    servers.insert(at, server);
}

fn change(record: &mut Record, name: &ServerName, change: impl FnOnce(&mut Server)) {
    if let Some(server) = record.servers.iter_mut().find(|s| s.name == *name) {
        change(server);
    }
}

/// The server of that name in the group.
fn known<'a>(record: &'a Record, name: &ServerName) -> Result<&'a Server, GroupRefused> {
    match record.server(name) {
        Some(server) => Ok(server),
        None if record.removed.iter().any(|s| s.name == *name) => Err(GroupRefused::Removed(name.clone())),
        None => Err(GroupRefused::Unknown(name.clone())),
    }
}

/// As [`known`], for a server that is not the manager.
fn not_manager<'a>(record: &'a Record, name: &ServerName, what: &'static str) -> Result<&'a Server, GroupRefused> {
    let server = known(record, name)?;
    match server.role {
        Role::Manager => Err(GroupRefused::Manager { name: name.clone(), what }),
        Role::Member | Role::Disabled => Ok(server),
    }
}

/// Enters a server as a member: a new or known one (its address may have changed), or a removed one with a new token.
///
/// # Errors
/// The name or the key belongs to another server, or the server is disabled.
pub fn enter(
    held: &SignedRecord,
    name: &ServerName,
    key: &PublicKey,
    address: &str,
    by: &By,
) -> Result<Option<Record>, GroupRefused> {
    let record = held.record();
    check_place(record, name, key, address)?;
    if let Some(known) = record.by_key(key) {
        if known.role == Role::Disabled {
            return Err(GroupRefused::Disabled(name.clone()));
        }
        if known.address == address {
            return Ok(None);
        }
        return Ok(Some(next(held, by, format!("join {name} (now at {address})"), |record| {
            change(record, name, |server| server.address = address.to_owned());
        })));
    }
    if record.server(name).is_some() {
        return Err(GroupRefused::NameTaken(name.clone()));
    }
    if record.servers.len() >= limits::SERVERS {
        return Err(GroupRefused::Full);
    }
    let server = Server {
        name: name.clone(),
        key: *key,
        address: address.to_owned(),
        role: Role::Member,
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    Ok(Some(next(held, by, format!("join {name} at {address}"), |record| {
        record.removed.retain(|s| s.key != *key);
        place(&mut record.servers, server);
    })))
}

/// Checks that `key` and `address` belong to no other server.
fn check_place(record: &Record, name: &ServerName, key: &PublicKey, address: &str) -> Result<(), GroupRefused> {
    check_address(address)?;
    if record.refused.contains(key) {
        return Err(GroupRefused::RefusedKey(*key));
    }
    match record.by_key(key) {
        Some(known) if known.name != *name => {
            Err(GroupRefused::KeyKnown { known: known.name.clone(), asked: name.clone() })
        }
        Some(_) | None => check_free(record, name, address),
    }
}

fn check_free(record: &Record, name: &ServerName, address: &str) -> Result<(), GroupRefused> {
    match record.servers.iter().find(|s| s.address == address && s.name != *name) {
        Some(other) => Err(GroupRefused::AddressTaken { address: address.to_owned(), by: other.name.clone() }),
        None => Ok(()),
    }
}

fn check_address(address: &str) -> Result<(), Malformed> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, p)| p.parse::<u16>().ok());
    if port.is_some_and(|p| p != 0) && address.len() <= 300 && address.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(());
    }
    Err(Malformed::new(format!(
        "'{}' is not an address that the manager can dial: HOST:PORT (see --advertise)",
        address.escape_debug().to_string().chars().take(300).collect::<String>()
    )))
}

/// Checks whether new hardware may take the name.
///
/// # Errors
/// The name is the manager's, or unknown.
pub fn may_replace(held: &SignedRecord, name: &ServerName) -> Result<(), GroupRefused> {
    not_manager(held.record(), name, "replaced").map(drop)
}

/// Gives a name to new hardware, in one record: the key that had it is refused from then on, and remembered as removed.
/// Candidate and backends stay.
///
/// # Errors
/// The name is the manager's or unknown, or the key or the address is another's.
pub fn replace(
    held: &SignedRecord,
    name: &ServerName,
    key: &PublicKey,
    address: &str,
    by: &By,
) -> Result<Option<Record>, GroupRefused> {
    let record = held.record();
    let old = not_manager(record, name, "replaced")?;
    check_place(record, name, key, address)?;
    if old.key == *key {
        return enter(held, name, key, address, by);
    }
    let old = old.clone();
    Ok(Some(next(held, by, format!("server replace {name} (new key, at {address})"), |record| {
        record.removed.retain(|s| s.key != *key);
        change(record, name, |server| {
            (server.key, server.address, server.role) = (*key, address.to_owned(), Role::Member);
        });
        remember(record, old);
    })))
}

/// Removes a server: it is refused from its next call on, and remembered, so that it can be added again.
///
/// # Errors
/// The server is the manager, or unknown.
pub fn remove(held: &SignedRecord, name: &ServerName, by: &By) -> Result<Option<Record>, GroupRefused> {
    match not_manager(held.record(), name, "removed") {
        Ok(_) => Ok(Some(next(held, by, format!("server remove {name}"), |record| remove_from(record, name)))),
        Err(GroupRefused::Removed(_)) => Ok(None),
        Err(refused) => Err(refused),
    }
}

/// Takes a server, whatever its role, out of the record.
pub(crate) fn remove_from(record: &mut Record, name: &ServerName) {
    let gone: Vec<Server> = record.servers.extract_if(.., |s| s.name == *name).collect();
    gone.into_iter().for_each(|gone| remember(record, gone));
}

/// Adds a server to the removed ones: the newest of a name, and of a key, is kept.
fn remember(record: &mut Record, gone: Server) {
    record.removed.retain(|s| s.name != gone.name && s.key != gone.key);
    record.removed.push(gone);
    let over = record.removed.len().saturating_sub(limits::SERVERS);
    record.removed.drain(..over);
}

/// Makes a removed or disabled server a member again, with its former key and address.
///
/// # Errors
/// The server is unknown, or its name or key belongs to another by now.
pub fn add_again(held: &SignedRecord, name: &ServerName, by: &By) -> Result<Option<Record>, GroupRefused> {
    let record = held.record();
    if record.server(name).is_some() {
        return enable(held, name, by);
    }
    let server = record.removed.iter().rfind(|s| s.name == *name).ok_or(GroupRefused::Unknown(name.clone()))?;
    if let Some(other) = record.by_key(&server.key) {
        return Err(GroupRefused::Replaced { name: name.clone(), what: "key", by: other.name.clone() });
    }
    check_free(record, name, &server.address)?;
    if record.servers.len() >= limits::SERVERS {
        return Err(GroupRefused::Full);
    }
    let server = Server { role: Role::Member, ..server.clone() };
    Ok(Some(next(held, by, format!("server add {name}"), |record| {
        record.removed.retain(|s| s.name != *name);
        place(&mut record.servers, server);
    })))
}

/// Disables a member: it gets no updates, and its requests are refused; it stays in the group (W18, W21).
///
/// # Errors
/// The server is the manager, or not in the group.
pub fn disable(held: &SignedRecord, name: &ServerName, by: &By) -> Result<Option<Record>, GroupRefused> {
    let server = not_manager(held.record(), name, "disabled")?;
    Ok((server.role == Role::Member).then(|| {
        next(held, by, format!("server disable {name}"), |record| {
            change(record, name, |server| server.role = Role::Disabled);
        })
    }))
}

/// Makes a disabled server a member again.
///
/// # Errors
/// The server is not in the group.
pub fn enable(held: &SignedRecord, name: &ServerName, by: &By) -> Result<Option<Record>, GroupRefused> {
    let server = known(held.record(), name)?;
    Ok((server.role == Role::Disabled).then(|| {
        next(held, by, format!("server enable {name}"), |record| {
            change(record, name, |server| server.role = Role::Member);
        })
    }))
}

/// The fields of a server to change: only present ones change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerChange {
    /// `host:port`, the address of its agent.
    pub address: Option<String>,
    /// Whether the server may become manager.
    pub candidate: Option<bool>,
    /// All its places at balancers, as `BACKEND/SERVER`; empty: wherever a server has its name.
    pub backends: Option<Vec<String>>,
}

impl ServerChange {
    fn make(&self, server: &mut Server) {
        if let Some(address) = &self.address {
            server.address.clone_from(address);
        }
        server.candidate = self.candidate.unwrap_or(server.candidate);
        if let Some(backends) = &self.backends {
            server.backends.clone_from(backends);
        }
    }
}

/// Changes the record's fields of a server.
///
/// # Errors
/// The server is not in the group, or the address is another's or invalid.
pub fn set(
    held: &SignedRecord,
    name: &ServerName,
    asked: &ServerChange,
    by: &By,
) -> Result<Option<Record>, GroupRefused> {
    let record = held.record();
    let now = known(record, name)?;
    if let Some(address) = &asked.address {
        check_address(address)?;
        check_free(record, name, address)?;
    }
    let mut then = now.clone();
    asked.make(&mut then);
    Ok((then != *now)
        .then(|| next(held, by, said(name, asked), |record| change(record, name, |server| *server = then))))
}

/// The change as the command that requests it.
fn said(name: &ServerName, asked: &ServerChange) -> String {
    let ServerChange { address, candidate, backends } = asked;
    let address = address.iter().map(|address| format!(" --address {address}"));
    let candidate = candidate.iter().map(|yes| format!(" --candidate {}", if *yes { "yes" } else { "no" }));
    let none = backends.iter().filter(|list| list.is_empty()).map(|_| " --no-backends".to_owned());
    let backends = backends.iter().flatten().map(|place| format!(" --backend {place}"));
    let options: String = address.chain(candidate).chain(none).chain(backends).collect();
    format!("server set {name}{options}")
}

#[cfg(test)]
mod tests;
