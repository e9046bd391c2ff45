//! `bellwether leave`: forget the group on this machine (W22). The configuration stays as it is.

use std::time::Duration;

use bellwether_proto::v1::LeaveRequest;
use serde_json::json;

use crate::{
    common::Common,
    error::{CommandError, Kind},
    identity,
    layout::{ForgetError, Layout},
    lock::{Lock, LockError},
    output,
};

/// How long a running agent may take to stop, where `--timeout` does not say.
const STOPPING: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(50);

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// Runs it, under the lock of the state directory: an agent that runs is told to leave and to stop first.
///
/// # Errors
/// A switch was interrupted; the system's.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let layout = common.layout()?;
    let places: Vec<String> = layout.of_the_group().iter().map(|path| path.display().to_string()).collect();
    if places.is_empty() {
        let document = json!({ "left": false, "removed": [] });
        output::show(common.json, &document, |_| "this machine belongs to no group; nothing was changed".to_owned());
        return Ok(());
    }
    if args.dry_run {
        let document = json!({ "left": false, "would_remove": places });
        output::show(common.json, &document, |_| format!("would remove:\n  {}", places.join("\n  ")));
        return Ok(());
    }
    let standing = standing(&layout);
    output::confirm(&question(standing), common.yes)?;
    let _lock = own_lock(common, &layout).await?;
    layout.forget().map_err(forget_failed)?;
    let recovery = layout.recovery();
    let recovery = recovery.exists().then(|| recovery.display().to_string());
    let document = json!({ "left": true, "removed": places, "recovery": recovery });
    output::show(common.json, &document, |_| {
        let mut lines = vec!["this machine belongs to no group any more; its configuration is as it was".to_owned()];
        lines.extend(recovery.map(|place| format!("what was replaced in it before is kept in {place}")));
        if standing != Standing::Manager {
            lines.push("at the manager, remove it: bellwether server remove NAME".to_owned());
        }
        lines.join("\n")
    });
    Ok(())
}

/// The lock of the state directory, once the agent that may have it has stopped.
async fn own_lock(common: &Common, layout: &Layout) -> Result<Lock, CommandError> {
    let held = match Lock::take(layout, "leave") {
        Ok(lock) => return Ok(lock),
        Err(held @ LockError::Held { .. }) => held,
        Err(e) => return Err(CommandError::failed(&e)),
    };
    let mut client = common
        .connect()
        .await
        .map_err(|e| CommandError::new(e.kind, format!("{held}; and {}", e.message)).hint("end that process first"))?;
    common.in_time(client.leave(LeaveRequest {})).await?;
    let stopped = async {
        loop {
            match Lock::take(layout, "leave") {
                Err(LockError::Held { .. }) => tokio::time::sleep(POLL).await,
                taken => break taken.map_err(|e| CommandError::failed(&e)),
            }
        }
    };
    tokio::time::timeout(common.timeout.unwrap_or(STOPPING), stopped).await.unwrap_or_else(|_| {
        let text = format!("{held}: it was told to leave the group and stop, and is not done");
        Err(CommandError::new(Kind::TimedOut, text).hint("run `bellwether leave` again"))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Manager,
    Other,
}

fn standing(layout: &Layout) -> Standing {
    let key = identity::load(layout).ok().flatten().map(|key| key.public());
    match (layout.held(), key) {
        (Ok(Some(held)), Some(key)) if held.is_manager(&key) => Standing::Manager,
        _ => Standing::Other,
    }
}

fn question(standing: Standing) -> String {
    let forget = "forget the group on this machine? Its configuration stays as it is.";
    match standing {
        Standing::Manager => {
            format!("this server is the manager: nothing can be changed until another one is. {forget}")
        }
        Standing::Other => forget.to_owned(),
    }
}

fn forget_failed(error: ForgetError) -> CommandError {
    match error {
        ForgetError::Interrupted(_) => {
            CommandError::new(Kind::Refused, error.to_string()).hint("finish it first: bellwether serve --recover-only")
        }
        ForgetError::Io { .. } => CommandError::failed(&error).hint("run it again: what is removed already stays so"),
    }
}
