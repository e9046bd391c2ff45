//! `bellwether monitor`: shows the farm live (W15), as a table on a terminal, otherwise with one line for every change.

use std::{
    io::{IsTerminal, stdout},
    time::Duration,
};

use bellwether_monitor::{
    changes::changes,
    table::{Look, Painted, render},
};
use bellwether_proto::status::FarmStatus;
use tokio::time::{Instant, sleep, sleep_until};

use super::status::{Feed, look, once};
use crate::{common::Common, error::CommandError, output};

/// The time between two attempts to reach an agent that has gone away.
const AGAIN: Duration = Duration::from_secs(1);

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds between two updates of the display, 1 to 9999; without it, at every change
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=9999))]
    pub interval: Option<u16>,
}

/// Runs the command until Ctrl-C or for `--timeout`; both are its normal end.
///
/// # Errors
/// The agent on this machine does not run. If it goes away later, the command waits for it.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let mut screen = Screen::new(common.json);
    let ended = async {
        match common.timeout {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = watch(&mut screen, common, args.interval.map(|seconds| Duration::from_secs(seconds.into()))) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
        () = ended => Ok(()),
    }
}

/// Shows the farm on `screen` as long as somebody can see it.
pub(super) async fn watch(
    screen: &mut Screen,
    common: &Common,
    interval: Option<Duration>,
) -> Result<(), CommandError> {
    // `--timeout` limits the watching, not one answer.
    let common = &Common { timeout: None, ..common.clone() };
    // The first answer tells whether the agent runs.
    screen.show(&once(common).await?);
    let watching = async {
        loop {
            let result = match interval {
                Some(interval) => look_every(screen, common, interval).await,
                None => follow(screen, common).await,
            };
            let why = result.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string());
            screen.lost(&why);
            sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = unread() => {}
    }
    Ok(())
}

/// Returns when standard output has no reader any more (`| head`).
async fn unread() {
    while output::is_read() {
        sleep(AGAIN).await;
    }
}

async fn look_every(screen: &mut Screen, common: &Common, interval: Duration) -> Result<(), CommandError> {
    let mut next = Instant::now() + interval;
    loop {
        sleep_until(next).await;
        next += interval;
        screen.show(&once(common).await?);
    }
}

async fn follow(screen: &mut Screen, common: &Common) -> Result<(), CommandError> {
    let mut feed = Feed::live(common).await?;
    while let Some(status) = feed.next(common).await? {
        screen.show(&status);
    }
    Ok(())
}

enum Form {
    /// One JSON document per line.
    Json,
    /// One line for each change.
    Lines,
    /// A table that stays in place.
    Table,
}

/// The output of the monitor.
pub(super) struct Screen {
    form: Form,
    last: Option<FarmStatus>,
    /// The line below the table.
    pub(super) footer: String,
    /// The number of lines of the present table.
    drawn: u16,
    lost: bool,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let form = match (json, stdout().is_terminal()) {
            (true, _) => Form::Json,
            (false, true) => Form::Table,
            (false, false) => Form::Lines,
        };
        Self { form, last: None, footer: "Ctrl-C ends this view".to_owned(), drawn: 0, lost: false }
    }

    fn show(&mut self, status: &FarmStatus) {
        self.lost = false;
        match self.form {
            Form::Json if self.last.as_ref() != Some(status) => {
                output::json(&serde_json::to_string(status).expect("a status has a JSON form"));
            }
            Form::Json => {}
            Form::Lines => {
                for line in changes(self.last.as_ref(), status) {
                    output::line(&format!("{} {line}", clock(status.time_ms)));
                }
            }
            Form::Table => self.draw(&render(status, look()).and(&self.footer)),
        }
        self.last = Some(status.clone());
    }

    fn lost(&mut self, why: &str) {
        let text = format!("the agent on this machine does not answer, trying again: {why}");
        match self.form {
            // A reader of JSON lines sees that time_ms stands still; standard error tells the reason.
            Form::Json | Form::Lines if !self.lost => output::note(&format!("bellwether: {text}")),
            Form::Json | Form::Lines => {}
            Form::Table => self.draw(&Painted::plain(&text)),
        }
        self.lost = true;
    }

    /// Draws `text` over the previous text.
    fn draw(&mut self, text: &Painted) {
        let (columns, rows) = size();
        let lines = fitted(text, columns, rows);
        let up = if self.drawn > 1 { format!("\x1b[{}A", self.drawn - 1) } else { String::new() };
        output::drawing(&format!("\r{up}\x1b[J{}", lines.join("\n")));
        self.drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.drawn > 0 {
            output::line("");
        }
    }
}

fn size() -> (u16, u16) {
    let Look { width, .. } = look();
    let rows = rustix::termios::tcgetwinsize(stdout()).map_or(24, |size| size.ws_row);
    (width, if rows == 0 { 24 } else { rows })
}

/// The lines that fit the terminal, with a count of the rest: a screen that scrolls cannot be drawn over.
fn fitted(text: &str, columns: u16, rows: u16) -> Vec<String> {
    let rows = usize::from(rows.max(2));
    let mut lines: Vec<String> =
        text.lines().flat_map(|line| fold(line, columns).split('\n').map(str::to_owned).collect::<Vec<_>>()).collect();
    if lines.len() > rows {
        let left_out = lines.len() - (rows - 1);
        lines.truncate(rows - 1);
        lines.push(format!("… {left_out} more lines: `bellwether status`"));
    }
    lines
}

/// Folds a line. A line with colours was made for this width already.
fn fold(line: &str, columns: u16) -> String {
    if line.contains('\x1b') { line.to_owned() } else { bellwether_monitor::text::wrapped(line, columns) }
}

/// The time of day in UTC.
fn clock(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    let day_and_time = output::utc(seconds);
    format!("{}.{:03}", day_and_time.split(' ').next_back().unwrap_or_default(), ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let text = "a\nb\nc\nd\ne";
        assert_eq!(fitted(text, 80, 5), ["a", "b", "c", "d", "e"]);
        assert_eq!(fitted(text, 80, 4), ["a", "b", "c", "… 2 more lines: `bellwether status`"]);
        assert_eq!(fitted(&"long ".repeat(8), 20, 24).len(), 3);
    }

    #[test]
    fn the_time_of_day_has_milliseconds() {
        assert_eq!(clock(1_795_296_572_042), "21:29:32.042");
    }
}
