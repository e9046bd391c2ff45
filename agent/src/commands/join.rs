//! `bellwether join`: enter a group with a token. Files that differ from the group's are shown; the first sync saves
//! them as a kept copy (W3, invariant 4).

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use bellwether_daemon::{
    config::{Config, Flags},
    net::tls,
    state::{identity, lock::Lock},
};
use bellwether_proto::{
    error::chain,
    key::{KeyPair, PublicKey},
    level::Program,
    limits,
    record::SignedRecord,
    token::Token,
    v1::{EnterReply, EnterRequest, group_client::GroupClient},
};
use bellwether_store::{
    scan::Source,
    secret::SecretPaths,
    state::layout::{Held, Layout},
};
use serde_json::json;
use tonic::transport::Channel;

use super::starter;
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output, private,
    progress::Progress,
};

mod dialled_back;
mod differences;
mod preview;

use dialled_back::dialled_back;
use differences::Differences;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The token of `bellwether token create`, a file that holds it, or - for standard input
    #[arg(value_name = "TOKEN|FILE|-", default_value = "-")]
    pub token: String,
    /// The keys of agent.toml.
    #[command(flatten)]
    pub flags: Flags,
    /// Show the differences and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command. Its order makes it safe to repeat after a crash: key, manager's record, own copy, agent.toml.
///
/// # Errors
/// Refused by the manager or by the person; nothing was changed then.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let token = token(&args.token)?;
    let config = starter::with_sets(common.config_towards(&args.flags, &token.address)?)?;
    let layout = Layout::new(config.state_dir.clone());
    identity::prepare(&layout).map_err(|e| CommandError::failed(&e).hint(e.hint()))?;
    let _lock = Lock::take(&layout, "join").map_err(|e| CommandError::refused(&e).hint("end that process first"))?;
    let key = identity::load_or_create(&layout).map_err(|e| CommandError::failed(&e).hint(e.hint()))?;
    if let Some(held) = layout.held().map_err(|e| CommandError::failed(&e))? {
        return already(common, &held, &token, &config, &key.public());
    }
    let mut manager = common.in_time(dial(&key, &token)).await?;
    let request = enter_request(&config, &token);
    dialled_back(common, &mut manager, &request, &config, &key).await?;
    let (differences, private) = common.in_time(compare(&mut manager, &request, &config)).await?;
    if !common.json {
        private.iter().for_each(|line| output::note(line));
    }
    if args.dry_run {
        output::show(common.json, &differences, Differences::to_string);
        return Ok(());
    }
    ask(common, &config, &differences)?;
    let reply = common.in_time(manager.enter(request)).await?.into_inner();
    let held = accept(reply, &token, &config, &key.public())?;
    layout
        .hold(&held)
        .map_err(|e| CommandError::failed(&e).hint("run it again: the manager knows this server's key"))?;
    starter::write_file(&config)?;
    done(common, &held, &config, &differences);
    Ok(())
}

/// The token itself, or the content of the named file or of standard input.
fn token(argument: &str) -> Result<Token, CommandError> {
    let usage = |what: String| CommandError::new(Kind::Usage, what);
    let text = match argument {
        "-" => read(io::stdin().lock()).map_err(|e| usage(format!("cannot read a token from standard input: {e}")))?,
        token if token.starts_with("bellwether-") && !Path::new(token).exists() => token.to_owned(),
        file => {
            fs::File::open(file).and_then(read).map_err(|e| usage(format!("cannot read a token from {file}: {e}")))?
        }
    };
    text.parse().map_err(|e| usage(format!("{e}")))
}

fn read(from: impl Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(64 << 10).read_to_string(&mut text).map(|_| text)
}

/// The result on a machine that belongs to a group: success if it is this group, under this name and address.
fn already(common: &Common, held: &Held, token: &Token, config: &Config, key: &PublicKey) -> Result<(), CommandError> {
    let record = held.current.record();
    let leave = "to enter anew, first: bellwether leave";
    let refused = |text: String| Err(CommandError::new(Kind::Refused, text).hint(leave));
    let led = |link: &SignedRecord| link.record().manager().key == token.manager;
    if !led(&held.current) && !held.chain.iter().any(led) {
        let (group, manager) = (record.group, &record.manager().name);
        return refused(format!(
            "this machine belongs to group {group}, whose manager is {manager}; the token is of another manager"
        ));
    }
    match record.by_key(key) {
        Some(own) if own.name == config.name && own.address == config.advertise => {
            starter::write_file(config)?;
            let document = json!({ "joined": false, "group": record.group.to_string(), "server": own.name });
            output::show(common.json, &document, |_| {
                format!(
                    "{} is in group {} already, by the record {} that this machine holds\n(should the manager have \
                     removed it since: bellwether leave, then join with a token made after that)",
                    own.name, record.group, record.version
                )
            });
            Ok(())
        }
        Some(own) => refused(format!(
            "this machine is in the group as {} at {}, and cannot enter it as {} at {}",
            own.name, own.address, config.name, config.advertise
        )),
        None => refused(format!("this machine holds a record of group {}, which does not name it", record.group)),
    }
}

async fn dial(key: &KeyPair, token: &Token) -> Result<GroupClient<Channel>, CommandError> {
    let channel = tls::connect(key, &token.address, token.manager).await.map_err(|e| {
        let error = CommandError::new(if e.is_wrong_key() { Kind::Refused } else { Kind::Failed }, chain(&e));
        error.hint(if e.is_wrong_key() {
            "the token names the manager's key: get a new token, or see who answers at that address".to_owned()
        } else {
            format!("is the agent on the manager running, and is {} open from here?", token.address)
        })
    })?;
    Ok(GroupClient::new(channel).max_decoding_message_size(limits::MESSAGE))
}

fn enter_request(config: &Config, token: &Token) -> EnterRequest {
    let Program { version, levels } = Program::own();
    EnterRequest {
        token_id: token.id.clone(),
        secret: token.secret.clone().into(),
        server: config.name.to_string(),
        address: config.advertise.clone(),
        sets: config.sets.iter().map(|set| set.name.to_string()).collect(),
        version,
        level_oldest: levels.oldest.0,
        level_newest: levels.newest.0,
    }
}

/// Compares this server's directories with the group's, and finds private files in them, a line for each set.
async fn compare(
    manager: &mut GroupClient<Channel>,
    request: &EnterRequest,
    config: &Config,
) -> Result<(Differences, Vec<String>), CommandError> {
    let progress = Progress::begin("asking the manager for its tree");
    let group = preview::fetch(manager, request).await?;
    let sources = preview::sources(&group, config)?;
    progress.now("reading this server's directories".to_owned());
    let compared = tokio::task::spawn_blocking(move || {
        let line = |source: &Source| {
            let line = private::look(&source.path, &source.rules, &SecretPaths::default()).line()?;
            Some(format!("warning: set {} of this server {line}; it is replaced or removed here", source.rules.name))
        };
        Ok::<_, CommandError>((preview::compare(&sources, &group)?, sources.iter().filter_map(line).collect()))
    });
    let compared = compared.await.map_err(|e| CommandError::failed(&e))??;
    progress.done("compared this server with the manager");
    Ok(compared)
}

fn ask(common: &Common, config: &Config, differences: &Differences) -> Result<(), CommandError> {
    if !common.json {
        let layout = Layout::new(config.state_dir.clone());
        output::note(&differences.to_string());
        if differences.replaces() {
            let kept = layout.recovery();
            output::note(&format!("replaced and removed files are saved as a kept copy in {}", kept.display()));
        }
    }
    output::confirm(&format!("enter the group as {} at {}?", config.name, config.advertise), common.yes)
}

/// Checks that the record is the one that the token promised, and that this server is in it.
fn accept(reply: EnterReply, token: &Token, config: &Config, key: &PublicKey) -> Result<Held, CommandError> {
    let wrong = |what: String| CommandError::new(Kind::Failed, format!("{} answered {what}", token.address));
    let malformed = |e: bellwether_proto::Malformed| wrong(format!("with a malformed group record: {e}"));
    let wire = reply.record.ok_or_else(|| wrong("without a group record".to_owned()))?;
    let current = SignedRecord::from_wire(&wire).map_err(malformed)?;
    let chain = reply.chain.iter().map(SignedRecord::from_wire).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    current.may_be_in_force().map_err(|e| wrong(format!("with a group record that this server does not take: {e}")))?;
    let record = current.record();
    // The connection proved the manager's key. After a handover, the former manager signed the record.
    if record.manager().key != token.manager {
        return Err(wrong("with the record of another group or manager".to_owned()));
    }
    if record.by_key(key).is_none_or(|own| own.name != config.name) {
        return Err(wrong(format!("with a record that does not have {}", config.name)));
    }
    Ok(Held { current, chain })
}

fn done(common: &Common, held: &Held, config: &Config, differences: &Differences) {
    let record = held.current.record();
    let document = json!({
        "joined": true,
        "group": record.group.to_string(),
        "server": config.name,
        "manager": record.manager().name,
        "record": record.version.to_string(),
        "differences": differences,
    });
    output::show(common.json, &document, |_| {
        let written =
            if config.file_exists { String::new() } else { format!("\nits settings are in {}", config.file.display()) };
        format!(
            "{} is in the group of {}{written}\nstart the agent: bellwether serve",
            config.name,
            record.manager().name
        )
    });
}

#[cfg(test)]
mod tests;
