//! `bellwether leave`: forget the group on this machine (W22). The configuration stays as it is.

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

/// Its arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
}

/// Runs it: through the agent where one runs, which then stops; otherwise under the lock of its state.
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
    output::confirm(&question(&layout), args.yes)?;
    match Lock::take(&layout, "leave") {
        Ok(_lock) => drop(layout.forget().map_err(forget_failed)?),
        Err(held @ LockError::Held { .. }) => {
            let mut client = common.connect().await.map_err(|e| {
                CommandError::new(e.kind, format!("{held}; and {}", e.message)).hint("end that process first")
            })?;
            common.in_time(client.leave(LeaveRequest {})).await?;
        }
        Err(e) => return Err(CommandError::failed(&e)),
    }
    let recovery = layout.recovery().display().to_string();
    let document = json!({ "left": true, "removed": places, "kept": recovery });
    output::show(common.json, &document, |_| {
        format!(
            "this machine belongs to no group any more\nleft as they are: the configuration directories, its key, and \
             what is in {recovery}\nat the manager, remove it: bellwether server remove NAME"
        )
    });
    Ok(())
}

fn question(layout: &Layout) -> String {
    let forget = "forget the group on this machine? Its configuration stays as it is.";
    let key = identity::load(layout).ok().flatten().map(|key| key.public());
    match (layout.held(), key) {
        (Ok(Some(held)), Some(key)) if held.is_manager(&key) => {
            format!("this server is the manager: nothing can be changed until another one is. {forget}")
        }
        _ => forget.to_owned(),
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
