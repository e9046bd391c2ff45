//! `bellwether group rebuild`: makes this manager's directories the truth (W13, W14), by a running agent or by itself.

use std::sync::Arc;

use bellwether_daemon::{
    config::Flags,
    net::peers::Peers,
    run::rebuild::{self, Found, Ground},
    state::{
        identity, incarnation,
        lock::{Lock, LockError},
    },
};
use bellwether_proto::{
    Malformed,
    advice::Advise,
    error::chain,
    key::PublicKey,
    record::Confirmation,
    v1::{RebuildReply, RebuildRequest},
};
use bellwether_store::state::{known_heads::KnownHeads, layout::Layout, record::GroupRecord};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

const SYNCED: &str = "its members are synced by themselves";

/// The arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// At a candidate: rebuild without this key, which is not trusted; its records and epochs do not count; may be repeated
    #[arg(long, value_name = "KEY")]
    refuse: Vec<PublicKey>,
    /// At each other server: follow the group that was rebuilt without a key; TOKEN is the token that the rebuild printed,
    /// read from standard input if it is missing
    #[arg(long, value_name = "TOKEN", num_args = 0..=1, default_missing_value = "-", conflicts_with = "refuse")]
    confirm: Option<String>,
    /// Show the findings and the possible losses, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Args {
    fn request(&self, token: Option<&Confirmation>, dry_run: bool) -> RebuildRequest {
        let refuse = self.refuse.iter().map(ToString::to_string).collect();
        let confirm = token.map(ToString::to_string).unwrap_or_default();
        RebuildRequest { author: author(), dry_run, refuse, confirm }
    }

    /// The token to confirm.
    fn token(&self) -> Result<Option<Confirmation>, CommandError> {
        let mut given = match self.confirm.as_deref() {
            None => return Ok(None),
            Some("-") => String::new(),
            Some(token) => token.to_owned(),
        };
        if given.is_empty() {
            std::io::stdin().read_line(&mut given).map_err(|e| CommandError::failed(&e))?;
        }
        given.parse().map(Some).map_err(|e: Malformed| CommandError::new(Kind::Usage, e.to_string()))
    }
}

/// Runs the command.
///
/// # Errors
/// Refused: this server is not the manager, or its sets cannot be read.
pub(super) async fn run(args: &Args, common: &Common) -> Result<(), CommandError> {
    let (layout, token) = (common.layout()?, args.token()?);
    match Lock::take(&layout, "group rebuild") {
        Ok(_lock) => match &token {
            None => alone(args, common, &layout).await,
            Some(token) => confirm_alone(args, common, &layout, token).await,
        },
        Err(LockError::Held { .. }) => by_the_agent(args, common, token.as_ref()).await,
        Err(error) => Err(CommandError::failed(&error)),
    }
}

async fn by_the_agent(args: &Args, common: &Common, token: Option<&Confirmation>) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let found = common.in_time(client.rebuild(args.request(token, true))).await?.into_inner();
    if is_done(&found) {
        said(common, &found, SYNCED);
        return Ok(());
    }
    if args.dry_run {
        return plan(common, &found);
    }
    agree(common, &found)?;
    let done = common.in_time(client.rebuild(args.request(token, false))).await?.into_inner();
    said(common, &done, SYNCED);
    Ok(())
}

/// Whether this server refuses those keys already.
fn is_done(found: &RebuildReply) -> bool {
    !found.confirm.is_empty()
}

/// The caller holds the lock of the state directory.
async fn confirm_alone(
    args: &Args,
    common: &Common,
    layout: &Layout,
    token: &Confirmation,
) -> Result<(), CommandError> {
    let ground = ground(common, layout)?;
    let rebuilt = ground.rebuilt_elsewhere(token).await.map_err(refused)?;
    let reply = rebuilt.reply(None);
    if args.dry_run || rebuilt.is_followed() {
        return plan(common, &reply);
    }
    agree(common, &reply)?;
    let kept = ground.follow(&rebuilt).await.map_err(refused)?;
    said(common, &rebuilt.reply(kept), "start the agent: bellwether serve");
    Ok(())
}

/// The caller holds the lock of the state directory.
async fn alone(args: &Args, common: &Common, layout: &Layout) -> Result<(), CommandError> {
    let ground = ground(common, layout)?;
    if let Some(done) = ground.refused_already(&args.refuse) {
        said(common, &done, SYNCED);
        return Ok(());
    }
    let found = ground.survey(&args.refuse).await.map_err(refused)?;
    let reply = rebuild::reply(&found, None, &args.refuse);
    if args.dry_run {
        return plan(common, &reply);
    }
    agree(common, &reply)?;
    let done = form(&ground, &found, &args.refuse).await?;
    said(common, &done, "start the agent: bellwether serve; then its members are synced by themselves");
    Ok(())
}

async fn form(ground: &Ground, found: &Found, refuse: &[PublicKey]) -> Result<RebuildReply, CommandError> {
    let formed = ground.form(found, author(), refuse).await.map_err(refused)?;
    Ok(rebuild::reply(found, Some(&formed), refuse))
}

fn ground(common: &Common, layout: &Layout) -> Result<Ground, CommandError> {
    let config = common.config(&Flags::default())?;
    let none =
        || CommandError::new(Kind::Refused, "this machine belongs to no group").hint("form one: bellwether init");
    let held = layout.held().map_err(|e| {
        CommandError::failed(&e).hint(
            "without the group record the servers' keys are not known: put the file back from a backup, or make a member \
             the manager, there: bellwether recover manager",
        )
    })?;
    let key = identity::load(layout).map_err(|e| CommandError::refused(&e).hint(e.hint()))?.ok_or_else(none)?;
    let (key, events) = (Arc::new(key), mpsc::unbounded_channel().0);
    let record = Arc::new(GroupRecord::new(layout.clone(), key.public(), held.ok_or_else(none)?, events));
    let incarnation = incarnation::next(layout).map_err(|e| CommandError::failed(&e))?;
    let peers = Arc::new(Peers::new(key.clone(), record.clone(), Arc::new(KnownHeads::default()), incarnation));
    let sets = config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect();
    Ok(Ground { layout: layout.clone(), key, record, peers, sets, incarnation })
}

fn refused(error: rebuild::Refused) -> CommandError {
    let advice = error.advice();
    CommandError::new(error.outcome().into(), chain(&error)).advice(advice)
}

/// Whether the group was rebuilt elsewhere: nothing of it is made here.
fn is_elsewhere(found: &RebuildReply) -> bool {
    found.revision.is_empty() && !found.version.is_empty()
}

fn findings(found: &RebuildReply) -> String {
    let mut lines = found.findings.clone();
    if is_elsewhere(found) {
        lines.push(
            "the sets here stay as they are until they are synced; the replaced files are saved as a kept copy"
                .to_owned(),
        );
        return lines.join("\n");
    }
    if found.lost.is_empty() {
        lines.push("no revision is known that the history here lacks".to_owned());
    } else {
        lines.push("these revisions are lost; each server saves their differences as a kept copy:".to_owned());
        lines.extend(found.lost.iter().map(|lost| format!("  {lost}")));
    }
    lines.push(
        "this server's directories become the truth; servers and keys stay; the history here is saved as a \
         kept copy"
            .to_owned(),
    );
    lines.join("\n")
}

fn document(reply: &RebuildReply) -> Value {
    let text = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "findings": reply.findings,
        "lost": reply.lost,
        "record": text(&reply.version),
        "revision": text(&reply.revision),
        "entries": reply.entries,
        "kept": text(&reply.kept),
        "manager": text(&reply.manager),
        "confirm": text(&reply.confirm),
    })
}

fn plan(common: &Common, found: &RebuildReply) -> Result<(), CommandError> {
    output::show(common.json, &document(found), |_| format!("{}\n(nothing was changed)", findings(found)));
    Ok(())
}

fn agree(common: &Common, found: &RebuildReply) -> Result<(), CommandError> {
    if !common.json {
        output::note(&findings(found));
    }
    let question = if is_elsewhere(found) { "follow it from now on?" } else { "rebuild the group?" };
    output::confirm(question, common.yes)
}

fn said(common: &Common, done: &RebuildReply, next: &str) {
    output::show(common.json, &document(done), |_| {
        let mut lines = vec![match (is_done(done), is_elsewhere(done)) {
            (true, true) => format!("the group is rebuilt already (group record {})", done.version),
            (false, true) => format!("this server follows {} (group record {})", done.manager, done.version),
            (_, false) => format!(
                "the group is rebuilt: revision {}, {} entries (group record {})",
                done.revision, done.entries, done.version
            ),
        }];
        if !done.kept.is_empty() {
            lines.push(format!("the history before is kept in {}", done.kept));
        }
        if !done.confirm.is_empty() {
            lines.push(format!("at each other server, as root: bellwether group rebuild --confirm {}", done.confirm));
        }
        lines.push(next.to_owned());
        lines.join("\n")
    });
}
