//! `bellwether verify`: lets servers compare their disks with the revision, and waits for the findings.

use bellwether_proto::{
    name::ServerName,
    status::{FarmStatus, ServerStatus, State, Verified},
    v1::SyncRequest,
};
use serde_json::json;

use super::farm;
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The servers; without names, all members
    #[arg(value_name = "NAME")]
    pub servers: Vec<ServerName>,
    /// Compare only the attributes of every entry, instead of hashing every byte
    #[arg(long)]
    pub quick: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or there is no such server. Partly: some servers differ, and in which
/// entries.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let servers = args.servers.iter().map(ToString::to_string).collect();
    let request = SyncRequest { servers, full: !args.quick, verify_only: true };
    let asked = common.read(client.sync(request)).await?.into_inner();
    let done = farm::until(&mut client, common, |status| found(status, &asked.servers, asked.time_ms)).await?;
    let document: Vec<_> =
        done.iter().map(|(server, found)| json!({ "server": server.name, "verified": found })).collect();
    let silent: Vec<_> = done.iter().filter(|(_, found)| found.is_none()).map(|(server, _)| server).collect();
    let done: Vec<_> = done.iter().filter_map(|(server, found)| Some((server, found.as_ref()?))).collect();
    let differing: Vec<_> = done.iter().filter(|(_, found)| !found.equal).map(differs).collect();
    if !differing.is_empty() {
        let text = format!("not as the head revision: {}", differing.join("; "));
        return Err(CommandError::new(Kind::Partly, text).hint("`bellwether sync NAME` brings the head revision back"));
    }
    if !silent.is_empty() {
        let why = |server: &&ServerStatus| {
            let why = server.reason.as_deref().unwrap_or(server.state.word());
            format!("{}: {why}", server.name)
        };
        let text = format!("{} of {} servers did not answer", silent.len(), silent.len() + done.len());
        let why: Vec<_> = silent.iter().map(why).collect();
        return Err(CommandError::new(Kind::Partly, text).hint(why.join("\n")));
    }
    output::show(common.json, &document, |_| match done.as_slice() {
        [] => "there is no server to ask".to_owned(),
        done => done.iter().map(line).collect::<Vec<_>>().join("\n"),
    });
    Ok(())
}

/// The finding of a server; none: it does not answer.
type Found = (ServerStatus, Option<Verified>);

/// The findings of the servers that were asked at `since_ms`; the error names a server that has not answered yet.
fn found(status: &FarmStatus, asked: &[String], since_ms: u64) -> Result<Vec<Found>, String> {
    let servers = status.servers.iter().filter(|server| asked.iter().any(|name| name == server.name.as_str()));
    let one = |server: &ServerStatus| match &server.verified {
        Some(found) if found.time_ms >= since_ms => Ok((server.clone(), Some(found.clone()))),
        _ if never_answers(server.state) => Ok((server.clone(), None)),
        _ => Err(server.name.to_string()),
    };
    servers.map(one).collect()
}

/// Whether a server in that state answers no question.
fn never_answers(state: State) -> bool {
    matches!(state, State::Unreachable | State::Left | State::Disabled | State::Conflict | State::Superseded)
}

fn differs((server, found): &(&ServerStatus, &Verified)) -> String {
    if !found.unread.is_empty() {
        return format!("{} cannot read {}", server.name, found.unread);
    }
    let first = server.drift.first().map(|path| format!(", {path} first")).unwrap_or_default();
    match (server.revision, server.drift_entries) {
        (None, _) => format!("{} holds no revision", server.name),
        (Some(at), 0) => format!("{} is at {at}", server.name),
        (Some(at), count) => format!("{} differs from {at} in {count} entries{first}", server.name),
    }
}

fn line((server, found): &(&ServerStatus, &Verified)) -> String {
    let how = if found.full { "every byte hashed" } else { "every stat compared" };
    let millis = found.micros as f64 / 1_000.0;
    format!("{}: {} entries equal, {how}, {millis:.1} ms", server.name, found.entries)
}
