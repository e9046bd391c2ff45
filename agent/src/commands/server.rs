//! `bellwether server list | add | remove`: who belongs to the group (W9, W16).

use bellwether_proto::{
    name::ServerName,
    record::{Record, Role, Server},
    v1::{AddServerRequest, RemoveServerRequest},
};
use clap::Subcommand;
use serde_json::json;

use super::record;
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The servers of the group, as this machine's copy of the record has them
    List,
    /// Take back a server that was removed: its key and address are known
    Add {
        /// Its name
        name: ServerName,
        /// Show what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Send a server nothing more, and refuse it from its next call on
    Remove {
        /// Its name
        name: ServerName,
        /// Show what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs it.
///
/// # Errors
/// Refused: this server is not the manager, or there is no such server.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        What::List => list(common),
        What::Add { name, dry_run } => add(common, &name, dry_run).await,
        What::Remove { name, dry_run } => remove(common, &name, dry_run).await,
    }
}

fn list(common: &Common) -> Result<(), CommandError> {
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
        let candidate = if server.candidate { "yes" } else { "no" };
        [server.name.as_str(), role, candidate, &server.address, &server.key.to_string()].map(str::to_owned).to_vec()
    };
    let mut rows = vec![["NAME", "ROLE", "CANDIDATE", "ADDRESS", "KEY"].map(str::to_owned).to_vec()];
    rows.extend(record.servers.iter().map(|server| row(server, role(server))));
    rows.extend(record.removed.iter().map(|server| row(server, "removed")));
    output::columns(&rows)
}

async fn add(common: &Common, name: &ServerName, dry_run: bool) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = AddServerRequest { server: name.to_string(), author: author(), dry_run };
    let reply = common.in_time(client.add_server(request)).await?.into_inner();
    if dry_run {
        record::show_plan(common, &format!("take {name} back as a member and sync it"));
    } else {
        record::show(common, &format!("{name} is a member again; it is synced when it is reached"), &reply);
    }
    Ok(())
}

async fn remove(common: &Common, name: &ServerName, dry_run: bool) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = RemoveServerRequest { server: name.to_string(), author: author(), dry_run };
    if dry_run {
        common.in_time(client.remove_server(request)).await?;
        record::show_plan(common, &format!("remove {name}: it gets nothing more and is refused at its next call"));
        return Ok(());
    }
    output::confirm(&format!("remove {name} from the group? Its configuration stays as it is."), common.yes)?;
    let reply = common.in_time(client.remove_server(request)).await?.into_inner();
    record::show(common, &format!("{name} is removed; its configuration stays as it is"), &reply);
    Ok(())
}
