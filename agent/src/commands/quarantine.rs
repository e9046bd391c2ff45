//! `bellwether quarantine`: input that this agent ignores, because it ended three times over it. The command uses the
//! state directory, so that it works without a running agent.

use bellwether_daemon::{config::Flags, run::ends};
use bellwether_store::quarantine::{self, Ends};
use serde_json::json;

use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The keys of agent.toml.
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Lift a quarantine: accept the input again
    Lift {
        /// The input as `bellwether quarantine` lists it: 'peer NAME', 'pack NUMBER' or 'file SET:PATH'
        what: String,
    },
}

/// Runs the command.
///
/// # Errors
/// The state directory cannot be read or written, or no quarantine has that name.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let state = common.config(&args.flags)?.state_dir;
    let mut ends = quarantine::load(&state).map_err(|e| CommandError::failed(&e))?;
    match args.action {
        None => output::show(common.json, &json!({ "quarantined": ends.held, "ends": ends.ends }), |_| text(&ends)),
        Some(Action::Lift { what }) => {
            let held = ends.held.iter().find(|held| held.suspect.to_string() == what);
            let suspect = held.map(|held| held.suspect.clone()).ok_or_else(|| {
                CommandError::new(Kind::Refused, format!("'{what}' is not quarantined here"))
                    .hint("what is: bellwether quarantine")
            })?;
            ends.lift(&suspect);
            quarantine::save(&state, &ends).map_err(|e| CommandError::failed(&e))?;
            output::show(common.json, &json!({ "lifted": suspect }), |_| format!("{suspect} is accepted again"));
        }
    }
    Ok(())
}

fn text(ends: &Ends) -> String {
    if ends.held.is_empty() {
        return format!("nothing is quarantined; {} ends that nobody asked for are noted", ends.ends.len());
    }
    ends::lines(ends).join("\n")
}
