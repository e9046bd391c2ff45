//! `bellwether token create | list | revoke`: tokens that admit new servers.

use std::time::Duration;

use bellwether_daemon::config::duration;
use bellwether_proto::{
    clock,
    v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, TokenInfo},
};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    common::{Common, author},
    error::CommandError,
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print a new token; any machine that has it may enter the group
    Create {
        /// The number of servers that may enter with the token
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// The lifetime of the token, such as 30m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration::parse)]
        ttl: Duration,
        /// Admit only servers whose name matches, such as web*
        #[arg(long, value_name = "GLOB", default_value = "*")]
        names: String,
    },
    /// List the tokens, the servers that used them, and the servers that they still admit
    List,
    /// Revoke a token: it admits no more servers
    Revoke {
        /// The id that `token list` shows
        id: String,
    },
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or there is no such token.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    match args.what {
        Action::Create { uses, ttl, names } => create(common, uses, ttl, names).await,
        Action::List => list(common).await,
        Action::Revoke { id } => revoke(common, id).await,
    }
}

async fn create(common: &Common, uses: u32, ttl: Duration, names: String) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    // A part of a second counts as one second, so that a token for 500ms is not for no time.
    let ttl_s = ttl.as_millis().div_ceil(1_000) as u64;
    let request = CreateTokenRequest { uses, ttl_s, names: names.clone(), author: author() };
    let reply = common.in_time(client.create_token(request)).await?.into_inner();
    output::show(common.json, &json!({ "token": reply.token, "id": reply.id }), |_| reply.token.clone());
    if !common.json {
        let who = if uses == 1 { "one server".to_owned() } else { format!("{uses} servers") };
        output::note(&format!(
            "admits {who} named {names} for {}; on the new server, with the token on standard input:\n  \
             bellwether join -",
            duration::format(ttl)
        ));
    }
    Ok(())
}

async fn list(common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let tokens = common.read(client.list_tokens(ListTokensRequest {})).await?.into_inner().tokens;
    let now_ms = clock::now_ms();
    let document: Vec<_> = tokens.iter().map(|token| as_json(token, now_ms)).collect();
    output::show(common.json, &document, |_| {
        if tokens.is_empty() {
            return "there is no token; `bellwether token create` makes one".to_owned();
        }
        let titles = ["ID", "STATE", "NAMES", "USES", "EXPIRES (UTC)", "USED BY", "STILL ADMITS"];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        rows.extend(tokens.iter().map(|token| row(token, now_ms)));
        output::columns(&rows)
    });
    Ok(())
}

fn state(token: &TokenInfo, now_ms: u64) -> &'static str {
    match () {
        () if token.revoked => "revoked",
        () if token.expires_ms <= now_ms => "expired",
        () if token.used_by.len() >= token.uses as usize => "used",
        () => "open",
    }
}

fn as_json(token: &TokenInfo, now_ms: u64) -> Value {
    json!({
        "id": token.id,
        "state": state(token, now_ms),
        "names": token.names,
        "replaces": token.replaces,
        "uses": token.uses,
        "used_by": token.used_by,
        "removed": token.removed,
        "admits": token.admits,
        "returns": token.returns.iter().map(|used| json!({ "server": used.server, "key": used.key })).collect::<Vec<_>>(),
        "expires_ms": token.expires_ms,
    })
}

fn row(token: &TokenInfo, now_ms: u64) -> Vec<String> {
    vec![
        token.id.clone(),
        state(token, now_ms).to_owned(),
        if token.replaces { format!("{} (new hardware)", token.names) } else { token.names.clone() },
        format!("{}/{}", token.used_by.len(), token.uses),
        output::utc((token.expires_ms / 1_000) as i64),
        used_by(token),
        admits(token),
    ]
}

fn used_by(token: &TokenInfo) -> String {
    let removed = |name: &String| if token.removed.contains(name) { format!("{name} (removed)") } else { name.clone() };
    token.used_by.iter().map(removed).collect::<Vec<_>>().join(", ")
}

/// The servers that a token still admits, as the manager says.
fn admits(token: &TokenInfo) -> String {
    let new = match token.admits {
        0 => None,
        1 => Some("1 server".to_owned()),
        more => Some(format!("{more} servers")),
    };
    let again: Vec<&str> = token.returns.iter().map(|used| used.server.as_str()).collect();
    let again = (!again.is_empty()).then(|| format!("{} again", again.join(", ")));
    let parts: Vec<String> = new.into_iter().chain(again).collect();
    if parts.is_empty() { "nobody".to_owned() } else { parts.join("; ") }
}

async fn revoke(common: &Common, id: String) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    common.in_time(client.revoke_token(RevokeTokenRequest { id: id.clone() })).await?;
    output::show(common.json, &json!({ "revoked": id }), |_| format!("token {id} admits no more servers"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use bellwether_proto::v1::TokenUse;

    use super::*;

    #[test]
    fn a_token_is_open_until_it_is_revoked_expired_or_used() {
        let token = TokenInfo { uses: 1, expires_ms: 10, ..TokenInfo::default() };
        let used = TokenInfo { used_by: vec!["web2".into()], ..token.clone() };
        assert_eq!((state(&token, 9), state(&token, 10), state(&used, 9)), ("open", "expired", "used"));
        assert_eq!(state(&TokenInfo { revoked: true, ..used }, 99), "revoked");
    }

    #[test]
    fn what_a_token_still_admits_is_said() {
        let web2 = TokenUse { server: "web2".into(), key: "ed25519:…".into() };
        let token = TokenInfo {
            uses: 5,
            used_by: vec!["web2".into(), "web3".into()],
            removed: vec!["web3".into()],
            admits: 3,
            returns: vec![web2],
            ..TokenInfo::default()
        };
        assert_eq!((admits(&token), used_by(&token)), ("3 servers; web2 again".into(), "web2, web3 (removed)".into()));
        assert_eq!(admits(&TokenInfo { admits: 1, returns: Vec::new(), ..token.clone() }), "1 server");
        assert_eq!(admits(&TokenInfo { admits: 0, ..token.clone() }), "web2 again");
        assert_eq!(admits(&TokenInfo { admits: 0, returns: Vec::new(), ..token }), "nobody");
    }
}
