//! `bellwether leave`: forget the group on this machine (W22). The configuration stays as it is.

use std::time::Duration;

use bellwether_daemon::{
    net::tls,
    state::{
        identity,
        lock::{Lock, LockError},
    },
};
use bellwether_proto::{
    error::chain,
    key::KeyPair,
    record::{Record, Server},
    v1::{DepartRequest, LeaveRequest, group_client::GroupClient},
};
use bellwether_store::state::layout::{ForgetError, Held, Layout};
use serde_json::json;

use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The time in which a running agent must stop, unless `--timeout` sets another.
const STOPPING: Duration = Duration::from_secs(60);
/// The time between two looks at the lock.
const POLL: Duration = Duration::from_millis(50);
/// The time in which the manager must answer.
const TELLING: Duration = Duration::from_secs(5);

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what would be removed and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// At the manager: leave although the group has other servers. They follow nobody until one of them is promoted
    #[arg(long)]
    pub force: bool,
}

/// Runs the command under the lock of the state directory, after a running agent has left and stopped; then tells the
/// manager, if it answers.
///
/// # Errors
/// This is the manager of others, a switch was interrupted, or the system returned an error.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let layout = common.layout()?;
    let places: Vec<String> = layout.of_the_group().iter().map(|path| path.display().to_string()).collect();
    if places.is_empty() {
        let document = json!({ "left": false, "removed": [] });
        output::show(common.json, &document, |_| "this machine belongs to no group; nothing was changed".to_owned());
        return Ok(());
    }
    let member = Membership::of(&layout);
    if !args.force {
        layout.check_levels().map_err(|e| CommandError::refused(&e))?;
        member.may_leave()?;
    }
    if args.dry_run {
        let document = json!({ "left": false, "would_remove": places });
        output::show(common.json, &document, |_| format!("would remove:\n  {}", places.join("\n  ")));
        return Ok(());
    }
    output::confirm(&member.question(), common.yes)?;
    let _lock = own_lock(common, &layout).await?;
    layout.forget().map_err(forget_failed)?;
    let told = member.tell_manager().await;
    let recovery = layout.recovery();
    let recovery = recovery.exists().then(|| recovery.display().to_string());
    let document = json!({ "left": true, "removed": places, "recovery": recovery, "told": told.is_ok() });
    output::show(common.json, &document, |_| {
        let mut lines = vec!["this machine belongs to no group any more; its configuration is as it was".to_owned()];
        lines.extend(recovery.map(|place| format!("its kept copies are in {place}")));
        lines.extend(member.afterwards(&told));
        lines.join("\n")
    });
    Ok(())
}

/// Takes the lock of the state directory, after a running agent has stopped.
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

/// This machine's place in its group, as far as its state can be read. Damaged state can be left, too.
struct Membership {
    held: Option<Held>,
    key: Option<KeyPair>,
}

impl Membership {
    fn of(layout: &Layout) -> Self {
        Self { held: layout.held().ok().flatten(), key: identity::load(layout).ok().flatten() }
    }

    fn record(&self) -> Option<&Record> {
        self.held.as_ref().map(|held| held.current.record())
    }

    fn own(&self) -> Option<&Server> {
        self.record()?.by_key(&self.key.as_ref()?.public())
    }

    fn is_manager(&self) -> bool {
        matches!((&self.held, &self.key), (Some(held), Some(key)) if held.is_manager(&key.public()))
    }

    /// Refuses to leave as the manager of others, unless forced: the others obey its record.
    fn may_leave(&self) -> Result<(), CommandError> {
        let others = self.record().map_or(0, |record| record.servers.len() - 1);
        if !self.is_manager() || others == 0 {
            return Ok(());
        }
        let servers = if others == 1 { "1 other server".to_owned() } else { format!("{others} other servers") };
        Err(CommandError::new(Kind::Refused, format!("this server is the manager of {servers}")).hint(
            "give the role to another first: bellwether promote NAME; or remove the others: bellwether server remove NAME\n\
             --force leaves all the same: they serve on, and nothing can be changed until one of them takes the role, there: \
             bellwether recover manager",
        ))
    }

    fn question(&self) -> String {
        let forget = "forget the group on this machine? Its configuration stays as it is.";
        if self.is_manager() {
            return format!("this server is the manager: nothing can be changed until another one is. {forget}");
        }
        forget.to_owned()
    }

    /// Tells the manager that this server has left, so that the status shows it.
    async fn tell_manager(&self) -> Result<(), String> {
        let (Some(key), Some(record)) = (&self.key, self.record()) else {
            return Err("it is not known here".to_owned());
        };
        if self.is_manager() {
            return Ok(());
        }
        let manager = record.manager();
        let told = async {
            let channel = tls::connect(key, &manager.address, manager.key).await.map_err(|e| chain(&e))?;
            let answer = GroupClient::new(channel).depart(DepartRequest {}).await;
            answer.map(drop).map_err(|status| status.message().lines().next().unwrap_or_default().to_owned())
        };
        tokio::time::timeout(TELLING, told).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    /// The work that is left elsewhere.
    fn afterwards(&self, told: &Result<(), String>) -> Option<String> {
        if self.is_manager() {
            return None;
        }
        let manager = self.record().map(|record| record.manager());
        let manager = manager.map_or("the manager".to_owned(), |m| format!("the manager, {} ({})", m.name, m.address));
        let name = self.own().map_or("NAME", |own| own.name.as_str());
        Some(match told {
            Ok(()) => format!("{manager} knows it; remove it there: bellwether server remove {name}"),
            Err(why) => {
                format!(
                    "{manager} was not told ({why}); if {name} is in the group still, there: bellwether server remove {name}"
                )
            }
        })
    }
}

fn forget_failed(error: ForgetError) -> CommandError {
    match error {
        ForgetError::Interrupted(_) => {
            CommandError::new(Kind::Refused, error.to_string()).hint("finish it first: bellwether serve --recover-only")
        }
        ForgetError::Io { .. } => CommandError::failed(&error).hint("run it again: removed files stay removed"),
    }
}
