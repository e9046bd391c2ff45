//! `bellwether group rebuild`: what this manager's directories hold becomes the truth (W13, W14); by the agent where it runs,
//! otherwise by this command itself.

use std::sync::Arc;

use bellwether_proto::v1::{RebuildReply, RebuildRequest};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    common::{Common, author},
    config::Flags,
    error::{CommandError, Kind},
    group::GroupRecord,
    identity, incarnation,
    layout::Layout,
    lock::{Lock, LockError},
    output,
    peers::Peers,
    rebuild::{self, Found, Ground},
    seen::Seen,
};

/// Its arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show what was found and what would be lost
    #[arg(long)]
    dry_run: bool,
}

/// Runs it.
///
/// # Errors
/// Refused: this server is not the manager, or its sets cannot be read.
pub(super) async fn run(args: &Args, common: &Common) -> Result<(), CommandError> {
    let layout = common.layout()?;
    match Lock::take(&layout, "group rebuild") {
        Ok(_lock) => alone(args, common, &layout).await,
        Err(LockError::Held { .. }) => by_the_agent(args, common).await,
        Err(error) => Err(CommandError::failed(&error)),
    }
}

async fn by_the_agent(args: &Args, common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let ask = |dry_run| RebuildRequest { author: author(), dry_run };
    let found = common.in_time(client.rebuild(ask(true))).await?.into_inner();
    if args.dry_run {
        return plan(common, &found);
    }
    agree(common, &found)?;
    let done = common.in_time(client.rebuild(ask(false))).await?.into_inner();
    said(common, &done, "its members are synced by themselves");
    Ok(())
}

/// The caller holds the lock of the state directory.
async fn alone(args: &Args, common: &Common, layout: &Layout) -> Result<(), CommandError> {
    let ground = ground(common, layout)?;
    let found = ground.survey().await.map_err(refused)?;
    let reply = rebuild::reply(&found, None);
    if args.dry_run {
        return plan(common, &reply);
    }
    agree(common, &reply)?;
    let done = form(&ground, &found).await?;
    said(common, &done, "start the agent: bellwether serve; then its members are synced by themselves");
    Ok(())
}

async fn form(ground: &Ground, found: &Found) -> Result<RebuildReply, CommandError> {
    let formed = ground.form(found, author()).await.map_err(|e| CommandError::failed(&e))?;
    Ok(rebuild::reply(found, Some(&formed)))
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
    let peers = Arc::new(Peers::new(key.clone(), record.clone(), Arc::new(Seen::default()), incarnation));
    let sets = config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect();
    Ok(Ground { layout: layout.clone(), key, record, peers, sets, incarnation })
}

fn refused(error: rebuild::Refused) -> CommandError {
    match error {
        rebuild::Refused::NotManager { .. } => CommandError::refused(&error),
        rebuild::Refused::Rebuild(_) | rebuild::Refused::Stopping(_) => CommandError::failed(&error),
    }
}

fn findings(found: &RebuildReply) -> String {
    let mut lines = found.findings.clone();
    if found.lost.is_empty() {
        lines.push("no revision is known that the history here lacks".to_owned());
    } else {
        lines.push(
            "these revisions are lost; what of them differs is kept on each server as a recovery point:".to_owned(),
        );
        lines.extend(found.lost.iter().map(|lost| format!("  {lost}")));
    }
    lines.push(
        "what this server's directories hold becomes the truth; servers and keys stay; the history here is kept as a \
         recovery point"
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
    })
}

fn plan(common: &Common, found: &RebuildReply) -> Result<(), CommandError> {
    output::show(common.json, &document(found), |_| format!("{}\n(nothing was changed)", findings(found)));
    Ok(())
}

fn agree(common: &Common, found: &RebuildReply) -> Result<(), CommandError> {
    if !common.json {
        eprintln!("{}", findings(found));
    }
    output::confirm("rebuild the group?", common.yes)
}

fn said(common: &Common, done: &RebuildReply, next: &str) {
    output::show(common.json, &document(done), |_| {
        let mut lines = vec![format!(
            "the group is rebuilt: revision {}, {} entries (group record {})",
            done.revision, done.entries, done.version
        )];
        if !done.kept.is_empty() {
            lines.push(format!("the history before is kept in {}", done.kept));
        }
        lines.push(next.to_owned());
        lines.join("\n")
    });
}
