//! `bellwether server replace`: gives new hardware the place and the name of a server (W25).

use std::time::Duration;

use bellwether_daemon::config::duration;
use bellwether_group::procedure::{Procedure, Task};
use bellwether_proto::{
    name::ServerName,
    v1::{ReplaceServer, ReplaceServerRequest, start_procedure_request::Procedure as Asked},
};
use serde_json::json;

use super::{following, record};
use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name that the new hardware takes
    name: ServerName,
    /// The lifetime of the token, such as 30m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
    ttl: Duration,
    /// Show what would be done and change nothing
    #[arg(long)]
    dry_run: bool,
    /// With balancers in the group record: end with the token, or wait until the new hardware serves
    #[arg(long, default_value = "none")]
    wait: following::Wait,
}

/// Prints the token. If the group has balancers, the present owner of the name is taken out of service first.
pub(super) async fn run(common: &Common, args: Args) -> Result<(), CommandError> {
    let Args { name, ttl, dry_run, wait } = args;
    let mut client = common.connect().await?;
    let ttl_s = ttl.as_millis().div_ceil(1_000) as u64;
    let request = |dry_run| ReplaceServerRequest { server: name.to_string(), ttl_s, author: author(), dry_run };
    common.in_time(client.replace_server(request(true))).await?;
    let asked = Asked::Replace(ReplaceServer { server: name.to_string(), ttl_s });
    let planned = following::planned(common, asked.clone()).await?;
    if dry_run {
        if let Some(planned) = &planned {
            return following::show_plan(common, planned).await;
        }
        let plan =
            format!("print a token with which a new machine takes the place of {name}, whose key is refused then");
        record::show_plan(common, &plan);
        return Ok(());
    }
    let begun = match planned {
        None => None,
        Some(planned) => {
            following::confirm(common, &planned).await?;
            let begun = following::start(common, asked).await?;
            let joins = joins(&begun);
            Some(following::until(common, begun, joins).await?)
        }
    };
    let reply = common.in_time(client.replace_server(request(false))).await?.into_inner();
    let procedure = begun.as_ref().map(|begun| begun.id.to_string());
    output::show(common.json, &json!({ "token": reply.token, "id": reply.id, "procedure": procedure }), |_| {
        reply.token.clone()
    });
    if !common.json {
        output::note(&hint(&name, ttl, begun.as_ref()));
    }
    match begun {
        Some(begun) if wait == following::Wait::Done => {
            let steps = begun.steps.len();
            let ended = following::until(common, begun, steps).await?;
            if !common.json {
                output::note(&format!("{} is done; {}", ended.id, ended.kind.afterwards()));
            }
            Ok(())
        }
        Some(_) | None => Ok(()),
    }
}

/// The number of steps before the one that waits for the new hardware.
fn joins(procedure: &Procedure) -> usize {
    procedure.steps.iter().position(|step| matches!(step.task, Task::Replace(_))).unwrap_or_default()
}

fn hint(name: &ServerName, ttl: Duration, begun: Option<&Procedure>) -> String {
    let until_then = match begun {
        None => "until then nothing changes".to_owned(),
        Some(begun) => format!(
            "{name} is drained by now, and serves again when the new machine is complete: bellwether procedure show {}",
            begun.id
        ),
    };
    format!(
        "admits one machine under the name {name}, for {}; on it, with the token on standard input:\n  bellwether join - \
         --name {name}\nfrom then on the key that has the name now is refused; {until_then}",
        duration::format(ttl)
    )
}
