//! `bellwether server replace`: new hardware takes the place and the name of a server.

use std::time::Duration;

use bellwether_proto::{name::ServerName, v1::ReplaceServerRequest};
use serde_json::json;

use super::record;
use crate::{
    common::{Common, author},
    duration,
    error::CommandError,
    output,
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name that the new hardware takes
    name: ServerName,
    /// For how long the token admits it, as 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
    ttl: Duration,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Prints the token.
pub(super) async fn run(common: &Common, args: Args) -> Result<(), CommandError> {
    let Args { name, ttl, dry_run } = args;
    let mut client = common.connect().await?;
    let ttl_s = ttl.as_millis().div_ceil(1_000) as u64;
    let request = ReplaceServerRequest { server: name.to_string(), ttl_s, author: author(), dry_run };
    let reply = common.in_time(client.replace_server(request)).await?.into_inner();
    if dry_run {
        let plan =
            format!("print a token with which a new machine takes the place of {name}, whose key is refused then");
        record::show_plan(common, &plan);
        return Ok(());
    }
    output::show(common.json, &json!({ "token": reply.token, "id": reply.id }), |_| reply.token.clone());
    if !common.json {
        eprintln!(
            "admits one machine under the name {name}, for {}; on it, with the token on standard input:\n  \
             bellwether join - --name {name}\nfrom then on the key that has the name now is refused; until then nothing \
             changes",
            duration::format(ttl)
        );
    }
    Ok(())
}
