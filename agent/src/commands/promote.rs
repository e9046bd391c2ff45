//! `bellwether promote`: makes another member the manager (W18); `--self`: this one, when the manager is lost (W24).

use bellwether_proto::{
    name::ServerName,
    v1::{PromoteReply, PromoteRequest},
};
use serde_json::json;

use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The new manager, a member that is a candidate; not needed with --self
    #[arg(required_unless_present = "take_over")]
    pub name: Option<ServerName>,
    /// Make this server the manager, because the manager is lost
    #[arg(long = "self")]
    pub take_over: bool,
    /// With --self: take over although the manager answers (two managers are possible then), or although another candidate
    /// has newer changes (they are lost)
    #[arg(long, requires = "take_over")]
    pub force: bool,
    /// With --self: publish the edits that were made on this server, for all servers
    #[arg(long, requires = "take_over")]
    pub accept: bool,
    /// Disable the old manager: it gets no changes until `server enable`
    #[arg(long, conflicts_with_all = ["remove_old", "take_over"])]
    pub disable_old: bool,
    /// Remove the old manager from the group
    #[arg(long)]
    pub remove_old: bool,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// Refused; or partly: the record is durable, and the new manager does not lead yet.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    let request = request(&args);
    if args.dry_run || args.take_over {
        let plan =
            common.in_time(client.promote(PromoteRequest { dry_run: true, ..request.clone() })).await?.into_inner();
        if plan.leads && plan.next.is_empty() {
            output::show(common.json, &document(&plan, "next"), |_| done(&plan));
            return Ok(());
        }
        if args.dry_run {
            output::show(common.json, &document(&plan, "plan"), |_| told(&plan, "would"));
            return Ok(());
        }
        if !common.json {
            output::note(&told(&plan, "will"));
        }
        output::confirm("take over as the manager?", common.yes)?;
    }
    let reply = common.in_time(client.promote(request)).await?.into_inner();
    output::show(common.json, &document(&reply, "next"), |_| done(&reply));
    if reply.leads { Ok(()) } else { Err(CommandError::told(Kind::Partly)) }
}

fn request(args: &Args) -> PromoteRequest {
    let leave = match (args.disable_old, args.remove_old) {
        (true, _) => "disabled",
        (_, true) => "removed",
        (false, false) => "",
    };
    PromoteRequest {
        server: args.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        author: author(),
        dry_run: false,
        take_over: args.take_over,
        force: args.force,
        accept: args.accept,
        leave: leave.into(),
    }
}

fn document(reply: &PromoteReply, steps: &str) -> serde_json::Value {
    json!({
        "manager": reply.manager,
        "record": reply.version,
        "changed": reply.changed,
        "leads": reply.leads,
        "findings": reply.findings,
        "lost": reply.lost,
        "instead": (!reply.instead.is_empty()).then_some(&reply.instead),
        steps: reply.next,
    })
}

/// The findings, the possible losses, and the steps.
fn told(reply: &PromoteReply, word: &str) -> String {
    let mut lines = reply.findings.clone();
    if !reply.lost.is_empty() {
        lines.push("revisions that others have seen and this server lacks, and possible losses:".to_owned());
        lines.extend(reply.lost.iter().map(|lost| format!("  {lost}")));
    }
    lines.push(format!("promote {word}:"));
    lines.extend(reply.next.iter().map(|step| format!("  {step}")));
    lines.join("\n")
}

fn done(reply: &PromoteReply) -> String {
    if !reply.instead.is_empty() {
        return reply.instead.clone();
    }
    let mut lines = vec![match (reply.changed, reply.leads) {
        (false, _) => format!("{} is the manager already (group record {})", reply.manager, reply.version),
        (true, true) => format!("{} is the manager (group record {})", reply.manager, reply.version),
        (true, false) => format!("{} is to be the manager (group record {})", reply.manager, reply.version),
    }];
    lines.extend(reply.next.iter().cloned());
    lines.join("\n")
}
