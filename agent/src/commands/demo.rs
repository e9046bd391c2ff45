//! `bellwether demo`: a farm on this machine, to try it: processes of this program, started with a person's commands.
//! The processes and their directory are removed when the demo ends.

mod arrival;
mod compare;
mod farm;
mod say;
mod story;
mod tree;

use std::cell::Cell;

use bellwether_monitor::text::duration;
use farm::{Dir, Farm, PORT_TAKEN, trouble};
use say::Say;
use story::{Measured, Story};
use tokio::signal::unix::{SignalKind, signal};

use super::monitor::{Screen, watch};
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The largest number of attempts with other ports.
const TRIES: u32 = 3;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The number of members
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub members: u16,
    /// A directory of your own; the demo works on a copy
    #[arg(long, value_name = "DIR")]
    pub config_dir: Option<std::path::PathBuf>,
    /// Ask nothing and end; the exit code says whether the demo worked
    #[arg(long)]
    pub once: bool,
}

/// The way in which the demo ended.
enum End {
    /// The demo came to its end.
    Told(Measured),
    /// A signal after all had worked, which is the normal end of the live view.
    Left,
}

/// Runs the command. Whatever happens, its processes are ended and its directory is removed.
///
/// # Errors
/// A step did not work, or a signal came before the end.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let say = Say::new(common.json);
    for attempt in 1.. {
        match in_new_directory(&args, common, say).await {
            Err(error) if error.hint.as_deref() == Some(PORT_TAKEN) && attempt < TRIES => {
                say.step(&format!("{error}: {PORT_TAKEN}; again with other ports"));
            }
            Err(error) => return Err(error),
            Ok(End::Told(measured)) if common.json => {
                output::document(&measured);
                break;
            }
            Ok(End::Told(_) | End::Left) => break,
        }
    }
    Ok(())
}

async fn in_new_directory(args: &Args, common: &Common, say: Say) -> Result<End, CommandError> {
    let dir = Dir::new()?;
    let set = if args.config_dir.is_some() { "config" } else { "nginx" };
    let mut farm = Farm::lay_out(dir.path(), args.members, set)?;
    let worked = Cell::new(false);
    let result = tokio::select! {
        result = show(args, &mut farm, say, &dir, &worked) => result,
        signal = interrupted() => match worked.get() {
            true => Ok(End::Left),
            false => Err(CommandError::new(Kind::Failed, format!("ended by {signal} before it was done"))),
        },
        () = too_late(common) => Err(CommandError::new(Kind::TimedOut, "the demo was not done; nothing of it is left")),
    };
    say.step(&format!("Ending the demo's processes and removing {}", dir.path().display()));
    let killed = farm.end().await;
    if !killed.is_empty() && result.is_ok() {
        return Err(trouble(format!("these agents did not end when asked, and were killed: {}", killed.join(", "))));
    }
    result
}

/// Runs the story, then shows the farm live unless `--once` is given. `worked` becomes true in between.
async fn show(args: &Args, farm: &mut Farm, say: Say, dir: &Dir, worked: &Cell<bool>) -> Result<End, CommandError> {
    let measured = Story::begin(farm, say, dir.path(), args.config_dir.as_deref())?.tell().await?;
    say.step(&format!(
        "All of it worked, in {}",
        duration(u64::try_from(say.elapsed().as_millis()).unwrap_or(u64::MAX))
    ));
    if args.once {
        return Ok(End::Told(measured));
    }
    worked.set(true);
    say.step("The farm is yours: edit a file below the first of these, it appears below the others");
    for server in &farm.servers {
        say.result(&format!("{}  {}", server.set().display(), server.page()));
    }
    say.result("");
    let manager = farm.manager().common();
    let mut screen = Screen::new(false);
    screen.footer = format!("edit: {} · Ctrl-C ends the demo and removes it", farm.manager().set().display());
    watch(&mut screen, &manager, None).await?;
    Ok(End::Told(measured))
}

/// The first signal that ends the program.
async fn interrupted() -> &'static str {
    let ask = |kind| signal(kind).ok();
    let (mut interrupt, mut terminate, mut hangup) =
        (ask(SignalKind::interrupt()), ask(SignalKind::terminate()), ask(SignalKind::hangup()));
    tokio::select! {
        () = received(interrupt.as_mut()) => "Ctrl-C",
        () = received(terminate.as_mut()) => "SIGTERM",
        () = received(hangup.as_mut()) => "SIGHUP",
    }
}

/// If the signal cannot be received, this never returns, and the signal ends the program.
async fn received(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn too_late(common: &Common) {
    match common.timeout {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
