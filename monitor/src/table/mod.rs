//! The farm's status for people: a summary line, a table, and below it the problems and the next actions.

mod rollout;

use std::fmt::Write as _;

use bellwether_proto::{
    name::ServerName,
    record::Role,
    status::{
        Batch, FarmStatus, ForgetStatus, ProcedureState, ProcedureStatus, ServerStatus, SetStatus, State, UnreadEntry,
        Writers,
    },
};
use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, Width};

pub use self::rollout::described;
use crate::text::{self, ago, colour, duration, guarded, micros, plain, shortened, wrapped};

/// The style of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// The number of columns; longer lines are broken.
    pub width: u16,
    /// Whether states are coloured: on a terminal only.
    pub colour: bool,
}

impl Look {
    /// The style for a file or a pipe: no colour, and every server on one line.
    pub const PLAIN: Self = Self { width: u16::MAX, colour: false };
}

/// The order in which states are counted in the summary.
const STATES: [State; 15] = [
    State::InSync,
    State::GroupChange,
    State::Updating,
    State::Syncing,
    State::AwaitingSync,
    State::Drifted,
    State::Waiting,
    State::Refused,
    State::Error,
    State::Conflict,
    State::Superseded,
    State::Unreachable,
    State::Unknown,
    State::Left,
    State::Disabled,
];

/// The mark before a coloured state. No name of a server holds it.
const MARK: char = '●';

/// Text for people ([`guarded`]). States may have colours, which are its only escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Painted(String);

impl Painted {
    /// Text without colours.
    pub fn plain(text: &str) -> Self {
        Self(guarded(text).into_owned())
    }

    /// Adds another line.
    #[must_use]
    pub fn and(mut self, line: &str) -> Self {
        let _ = write!(self.0, "\n{}", guarded(line));
        self
    }
}

impl std::fmt::Display for Painted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::ops::Deref for Painted {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// The whole status: summary, table, problems.
pub fn render(status: &FarmStatus, look: Look) -> Painted {
    let mut text = wrapped(&guarded(&summary(status)), look.width);
    if let Some(rollout) = status.rollout.as_ref().and_then(|rollout| rollout::line(rollout, status.time_ms)) {
        let _ = write!(text, "\n{}", wrapped(&guarded(&rollout), look.width));
    }
    text.push_str("\n\n");
    text.push_str(&table(status, look));
    text.push('\n');
    for problem in problems(status) {
        let _ = write!(text, "\n{}", wrapped(&guarded(&problem), look.width));
    }
    Painted(text.trim_end().to_owned() + "\n")
}

/// One server of the status: its row, its problems, and the output of a command that refused its newest revision.
pub fn render_server(status: &FarmStatus, server: &ServerStatus, look: Look) -> Painted {
    let name = &server.name;
    let own = FarmStatus {
        servers: vec![server.clone()],
        sets: Vec::new(),
        procedures: status.procedures.iter().filter(|procedure| procedure.servers.contains(name)).cloned().collect(),
        unpublished: status.unpublished.clone().filter(|_| status.manager == *name),
        batch: status.batch.clone().filter(|_| status.manager == *name),
        warnings: status.warnings.iter().filter(|_| status.observer == *name).cloned().collect(),
        forgets: status.forgets.iter().map(|forget| of_server(forget, name)).collect(),
        quarantined: status.quarantined.iter().filter(|_| status.observer == *name).cloned().collect(),
        ..status.clone()
    };
    let mut text = table(&own, look) + "\n";
    for problem in problems(&own) {
        let _ = write!(text, "\n{}", wrapped(&guarded(&problem), look.width));
    }
    if !server.output.is_empty() {
        text.push_str("\n\nthe end of what the command printed:");
        for line in server.output.lines() {
            let _ = write!(text, "\n  {}", guarded(line));
        }
    }
    Painted(text.trim_end().to_owned() + "\n")
}

/// One line: the number of servers in each state, the head, and the way of publishing.
pub fn summary(status: &FarmStatus) -> String {
    let count = |state: State| status.servers.iter().filter(|server| server.state == state).count();
    let states: Vec<_> = STATES
        .into_iter()
        .map(|state| (state, count(state)))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.word()))
        .collect();
    let servers = match status.servers.len() {
        0 => "no servers known yet".to_owned(),
        1 => format!("1 server: {}", states.join(", ")),
        several => format!("{several} servers: {}", states.join(", ")),
    };
    let expelled = match status.expelled {
        Some(_) => format!("{} is no server of the group any more · ", status.observer),
        None => String::new(),
    };
    let paused = if status.paused { " · paused" } else { "" };
    let servers = [vec![servers], out_of_service(status), procedures(status)].concat().join(" · ");
    format!("{expelled}{servers} · {} · {}{paused}", head(status), status.publish)
}

/// The number of servers that the record has out of service, beside disabled ones.
fn out_of_service(status: &FarmStatus) -> Vec<String> {
    let drained = status.servers.iter().filter(|server| server.drained && server.role != Role::Disabled).count();
    if drained == 0 { Vec::new() } else { vec![format!("{drained} drained")] }
}

/// The procedures that wait.
fn procedures(status: &FarmStatus) -> Vec<String> {
    let said = |procedure: &ProcedureStatus| match procedure.state {
        ProcedureState::Running => format!("{} runs", procedure.id),
        ProcedureState::Waiting => format!("{} waits", procedure.id),
        ProcedureState::Blocked => format!("{} is blocked", procedure.id),
        ProcedureState::Asks => format!("{} asks", procedure.id),
        ProcedureState::Stopped => format!("{} has stopped", procedure.id),
    };
    status.procedures.iter().map(said).collect()
}

fn head(status: &FarmStatus) -> String {
    let Some(head) = status.head else {
        let manager_looks = status.observer == status.manager;
        return if manager_looks { "nothing published yet" } else { "the head is not known here" }.to_owned();
    };
    let message = match shortened(&plain(&status.head_message), 60) {
        message if message.is_empty() => message,
        message => format!(" “{message}”"),
    };
    let when = status.head_time_ms.map(|then_ms| format!(" {}", ago(status.time_ms, then_ms))).unwrap_or_default();
    format!("revision {head}{message}{when}")
}

fn table(status: &FarmStatus, look: Look) -> String {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(look.width.max(40))
        .set_header(["server", "role", "state", "revision", "lag", "update", "heard", "note"]);
    for server in &status.servers {
        table.add_row(row(status, server, look));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        match index {
            0 | 2 | 3 => _ = column.set_constraint(ColumnConstraint::ContentWidth),
            7 => _ = column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(12))),
            _ => {}
        }
    }
    let lines: Vec<_> = table.lines().map(|line| guarded(line.trim_end()).into_owned()).collect();
    if look.colour { lines.iter().map(|line| coloured(line)).collect::<Vec<_>>().join("\n") } else { lines.join("\n") }
}

fn row(status: &FarmStatus, server: &ServerStatus, look: Look) -> [Cell; 8] {
    let role = match server.role {
        Role::Manager => "manager",
        Role::Member => "member",
        Role::Disabled => "disabled",
    };
    let state = match look.colour {
        true => format!("{MARK}\u{a0}{}", server.state.word().replace(' ', "\u{a0}")),
        false => server.state.word().to_owned(),
    };
    let dash = || "-".to_owned();
    [
        Cell::new(&server.name),
        Cell::new(role),
        Cell::new(state),
        Cell::new(server.revision.map_or_else(dash, |revision| revision.to_string())),
        Cell::new(lag(server)),
        Cell::new(server.last_update_us.map_or_else(dash, micros)),
        Cell::new(server.seen_ms.map_or_else(|| "never".to_owned(), |seen_ms| ago(status.time_ms, seen_ms))),
        Cell::new(note(status, server)),
    ]
}

/// Lag in revisions and time (W7); `?` if it is not known.
pub(crate) fn lag(server: &ServerStatus) -> String {
    match (server.state, server.lag_revisions) {
        (State::Unknown, _) => "?".to_owned(),
        (State::Disabled, _) | (_, 0) => "-".to_owned(),
        (_, revisions) => format!("{revisions} rev, {}", duration(server.lag_ms)),
    }
}

/// The present activity, in a few words; the table is followed by whole reasons.
fn note(status: &FarmStatus, server: &ServerStatus) -> String {
    let batch = status.batch.as_ref().filter(|_| status.manager == server.name);
    let batch = batch.map_or("", |batch| if batch.is_running() { "a batch runs" } else { "a batch, see below" });
    let said = [if server.drained { "drained" } else { "" }.to_owned(), batch.to_owned(), doing(server)];
    said.into_iter().filter(|said| !said.is_empty()).collect::<Vec<_>>().join("; ")
}

fn doing(server: &ServerStatus) -> String {
    if let Some(progress) = &server.progress {
        return text::progress(progress);
    }
    match (server.state, server.drift_entries) {
        (State::InSync, _) if server.warning.is_some() => "warning, see below".to_owned(),
        (State::Drifted, 1) => "1 entry differs".to_owned(),
        (State::Drifted, entries) => format!("{entries} entries differ"),
        (
            State::Refused
            | State::Waiting
            | State::Error
            | State::Conflict
            | State::Superseded
            | State::Unreachable
            | State::Left,
            _,
        ) => "see below".to_owned(),
        (
            State::InSync
            | State::GroupChange
            | State::AwaitingSync
            | State::Syncing
            | State::Updating
            | State::Disabled
            | State::Unknown,
            _,
        ) => String::new(),
    }
}

/// Colours the text from the mark to the end of the state's words, which hold no plain space.
fn coloured(line: &str) -> String {
    let Some(start) = line.find(MARK) else { return line.to_owned() };
    let length = line[start..].find(' ').unwrap_or(line.len() - start);
    let (state, rest) = line[start..].split_at(length);
    let words = state.trim_start_matches([MARK, '\u{a0}']).replace('\u{a0}', " ");
    let code = STATES.into_iter().find(|state| state.word() == words).map_or(39, colour);
    format!("{}\u{1b}[{code}m{MARK} {words}\u{1b}[0m{rest}", &line[..start])
}

/// A line for every problem, with the next action.
pub fn problems(status: &FarmStatus) -> Vec<String> {
    let mut lines: Vec<String> = status.expelled.iter().map(|why| plain(why)).collect();
    for server in &status.servers {
        if let Some(reason) = &server.reason {
            lines.push(format!("{} · {}: {}", server.name, server.state.word(), plain(reason)));
        }
    }
    lines.extend(status.servers.iter().filter_map(|server| warned(status, server)));
    lines.extend(status.servers.iter().flat_map(|server| unreached(status, server)));
    for server in &status.servers {
        if let Some(newest) = server.kept.first() {
            lines.push(format!(
                "{} · edits were kept, the newest in {}: `bellwether drift show {}` names all",
                server.name,
                plain(newest),
                server.name
            ));
        }
    }
    lines.extend(status.forgets.iter().flat_map(forgets));
    lines.extend(status.procedures.iter().map(procedure));
    lines.extend(status.servers.iter().filter_map(|server| drained(status, server)));
    lines.extend(status.warnings.iter().map(|warning| format!("{} · {}", status.observer, plain(warning))));
    if status.paused {
        lines.push("propagation is paused: `bellwether resume`, or `bellwether sync` for what is there now".to_owned());
    }
    lines.extend(status.batch.iter().map(|batch| self::batch(&status.manager, batch)));
    if let Some(unpublished) = &status.unpublished {
        lines.push(format!("{} · unpublished: {}", status.manager, plain(unpublished)));
    }
    lines.extend(status.quarantined.iter().map(|line| format!("{} · quarantined: {}", status.observer, plain(line))));
    // A server that watches nothing (yet) has none of the role's tasks.
    if status.watching != "events" && (status.observer == status.manager || status.watching != "not watching") {
        lines.push(format!("{} · watching: {}", status.observer, plain(&status.watching)));
    }
    for set in &status.sets {
        lines.extend(set.notices.iter().map(|notice| format!("set {}: {}", set.name, plain(notice))));
        lines.extend(unpublished(set, status.time_ms));
    }
    if status.observer != status.manager {
        let (observer, manager) = (&status.observer, &status.manager);
        lines.push(match status.told_ms {
            Some(told_ms) => {
                let when = ago(status.time_ms, told_ms);
                format!("{observer} as it knows itself, the others as the manager, {manager}, told {when}")
            }
            None => format!("as {observer} knows it; the manager, {manager}, knows more and has not told it"),
        });
    }
    lines
}

/// The warning about requests to the server from outside the group.
fn warned(status: &FarmStatus, server: &ServerStatus) -> Option<String> {
    let warning = server.warning.as_ref()?;
    let (name, when) = (&server.name, ago(status.time_ms, warning.time_ms));
    let count = match warning.requests {
        0 | 1 => "a request came from outside the group".to_owned(),
        more => format!("{more} requests came from outside the group, the last"),
    };
    let what = plain(&warning.what);
    Some(format!(
        "{name} · warning: {count} ({when}): {what}; once it is explained: `bellwether server acknowledge {name}`"
    ))
}

/// The servers that still hold a forgotten content. They erase it by themselves.
fn forgets(forget: &ForgetStatus) -> impl Iterator<Item = String> + '_ {
    let place = plain(&forget.place);
    forget
        .holders
        .iter()
        .map(move |(server, why)| format!("{server} · holds the forgotten content of {place}: {}", plain(why)))
}

/// The part of that server.
fn of_server(forget: &ForgetStatus, name: &ServerName) -> ForgetStatus {
    let holders = forget.holders.iter().filter(|(holder, _)| holder == name).cloned().collect();
    ForgetStatus { holders, ..forget.clone() }
}

/// The state of a procedure, and the next action.
fn procedure(procedure: &ProcedureStatus) -> String {
    let ProcedureStatus { id, command, driver: _, state, step, steps, what, servers: _ } = procedure;
    let todo = match state {
        ProcedureState::Running => String::new(),
        ProcedureState::Waiting | ProcedureState::Blocked => {
            format!("; until when: `bellwether procedure show {id}`")
        }
        ProcedureState::Asks => {
            format!("; `bellwether procedure show {id}`, then `bellwether procedure resume {id} --attest TEXT`")
        }
        ProcedureState::Stopped => format!("; it does nothing by itself: `bellwether procedure show {id}`"),
    };
    format!("{id} · {} · {command} · step {step} of {steps}: {}{todo}", state.word(), plain(what))
}

/// The batch at the manager, and the next action.
fn batch(manager: &ServerName, batch: &Batch) -> String {
    let next = if batch.is_running() {
        "nothing else is published meanwhile"
    } else {
        "to publish them: `bellwether publish`; to drop them: `bellwether discard`"
    };
    format!("{manager} · {}; {next}", plain(&batch.described()))
}

/// The note that a server is out of service and no procedure brings it back.
fn drained(status: &FarmStatus, server: &ServerStatus) -> Option<String> {
    let out = server.drained && server.role != Role::Disabled;
    let at_work = |procedure: &ProcedureStatus| {
        procedure.state != ProcedureState::Stopped && procedure.servers.contains(&server.name)
    };
    (out && !status.procedures.iter().any(at_work)).then(|| {
        format!(
            "{} · drained: it gets no requests; into service again, at the manager: `bellwether maintenance finish {}`",
            server.name, server.name
        )
    })
}

/// The entries of a set that cannot be published, and those that were published while a program had them open.
fn unpublished(set: &SetStatus, now_ms: u64) -> Vec<String> {
    let name = &set.name;
    let unread = |entry: &UnreadEntry| {
        let (path, reason, since) = (plain(&entry.path), plain(&entry.reason), ago(now_ms, entry.since_ms));
        format!("set {name}:{path}: {reason}, since {since}; members keep what they have")
    };
    let mut lines: Vec<String> = set.unread.iter().map(unread).collect();
    let more = set.unread_entries.saturating_sub(set.unread.len() as u64);
    if more > 0 {
        lines.push(format!("set {name}: {more} more entries cannot be read"));
    }
    let open = |path: &String| format!("set {name}:{}: published while a program had it open for writing", plain(path));
    lines.extend(set.open.iter().map(open));
    if set.writers == Some(Writers::Unknown) {
        lines.push(format!("set {name}: whether a file is open for writing cannot be told on this file system"));
    }
    lines
}

/// The balancers that a server could not drive, as the manager or for the time when it becomes the manager.
fn unreached<'a>(status: &'a FarmStatus, server: &'a ServerStatus) -> impl Iterator<Item = String> + 'a {
    let consequence = match server.role {
        Role::Manager => "servers cannot be drained there",
        Role::Member | Role::Disabled => "as manager it could not drain servers there",
    };
    server.balancers.iter().filter_map(move |reach| {
        let (fault, when) = (plain(reach.fault.as_deref()?), ago(status.time_ms, reach.time_ms));
        Some(format!("{} · balancer {}: {fault} ({when}); {consequence}", server.name, reach.balancer))
    })
}

#[cfg(test)]
pub(crate) mod tests;
