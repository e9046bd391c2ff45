//! The changes from one status to the next, one line each: the live view without a terminal.

use bellwether_proto::status::{Batch, FarmStatus, ServerStatus, State};

use crate::{
    table::summary,
    text::{duration, micros, plain},
};

/// The lines that lead a reader from `before` (none: from nothing) to `after`. Progress and ages alone are no change.
pub fn changes(before: Option<&FarmStatus>, after: &FarmStatus) -> Vec<String> {
    let Some(before) = before else {
        let mut lines = vec![summary(after)];
        lines.extend(after.servers.iter().map(server_line));
        return lines;
    };
    let mut lines = Vec::new();
    if before.head != after.head
        && let Some(head) = after.head
    {
        let message = plain(&after.head_message);
        lines.push(if message.is_empty() {
            format!("revision {head}")
        } else {
            format!("revision {head} “{message}”")
        });
    }
    if before.manager != after.manager {
        lines.push(format!("the manager is now {}, it was {}", after.manager, before.manager));
    }
    if before.paused != after.paused {
        lines.push(if after.paused { "propagation is paused" } else { "propagation goes on" }.to_owned());
    }
    if before.publish != after.publish {
        lines.push(format!("publish is now {}", after.publish));
    }
    if before.watching != after.watching {
        lines.push(format!("{} · watching: {}", after.manager, plain(&after.watching)));
    }
    if before.batch != after.batch {
        let what = after.batch.as_ref().map_or_else(|| "there is no batch any more".to_owned(), Batch::described);
        lines.push(format!("{} · {}", after.manager, plain(&what)));
    }
    if before.unpublished != after.unpublished {
        let what = after.unpublished.as_deref().map_or_else(|| "nothing any more".to_owned(), plain);
        lines.push(format!("{} · unpublished: {what}", after.manager));
    }
    lines.extend(servers(before, after));
    lines
}

fn servers(before: &FarmStatus, after: &FarmStatus) -> Vec<String> {
    let find = |status: &FarmStatus, server: &ServerStatus| {
        status.servers.iter().find(|other| other.name == server.name).cloned()
    };
    let gone = before.servers.iter().filter(|server| find(after, server).is_none());
    let mut lines: Vec<_> = gone.map(|server| format!("{}: removed from the group", server.name)).collect();
    for server in &after.servers {
        match find(before, server) {
            None => lines.push(format!("added to the group: {}", server_line(server))),
            Some(old) if told(&old) != told(server) => lines.push(server_line(server)),
            Some(_) => {}
        }
    }
    lines
}

/// The fields whose change makes a line: all but the figures that move by themselves.
fn told(server: &ServerStatus) -> impl PartialEq {
    let warning = server.warning.as_ref().map(|warning| warning.requests);
    (server.role, server.state, server.revision, server.reason.clone(), server.kept.clone(), warning)
}

fn server_line(server: &ServerStatus) -> String {
    let at = server.revision.map(|at| format!(" at {at}")).unwrap_or_default();
    let took = match (server.state, server.last_update_us) {
        (State::InSync, Some(us)) => format!(" ({} after the publish)", micros(us)),
        _ => String::new(),
    };
    let lag = match (server.state, server.lag_revisions) {
        (State::Unknown | State::Disabled, _) | (_, 0) => String::new(),
        (_, behind) => format!(", {behind} behind for {}", duration(server.lag_ms)),
    };
    let why = server.reason.as_deref().map(|why| format!(": {}", plain(why))).unwrap_or_default();
    let warning = server.warning.as_ref().map(|warning| format!("; warning: {}", plain(&warning.what)));
    format!("{}: {}{at}{took}{lag}{why}{}", server.name, server.state.word(), warning.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use bellwether_proto::status::BatchState;

    use super::*;
    use crate::table::tests::{farm, number, server};

    #[test]
    fn the_first_look_tells_everything() {
        let lines = changes(None, &farm(vec![server("a", State::InSync, 42), server("b", State::Error, 41)]));
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("2 servers:"), "{lines:?}");
        assert_eq!(lines[1], "a: in sync at 1.42 (8.3 ms after the publish)");
        assert_eq!(lines[2], "b: error at 1.41, 1 behind for 1.5 s");
    }

    #[test]
    fn time_alone_is_no_change() {
        let before = farm(vec![server("a", State::Unreachable, 41)]);
        let mut after = before.clone();
        after.time_ms += 5_000;
        after.servers[0].lag_ms += 5_000;
        assert_eq!(changes(Some(&before), &after), [""; 0]);
    }

    #[test]
    fn every_change_is_told_once() {
        let before = farm(vec![server("a", State::Updating, 41), server("b", State::InSync, 42)]);
        let mut after = farm(vec![server("a", State::InSync, 42), server("c", State::Unknown, 0)]);
        (after.head, after.paused) = (Some(number(43)), true);
        after.unpublished = Some("2 edits".into());
        after.batch = Some(Batch {
            owner: "ann at m".into(),
            command: "make".into(),
            pid: 7,
            began_ms: 0,
            deadline_ms: 1,
            state: BatchState::Late,
        });
        assert_eq!(
            changes(Some(&before), &after),
            [
                "revision 1.43 “message”",
                "propagation is paused",
                "m · the batch of ann at m (make) ended without a result; its edits are not published (its deadline passed)",
                "m · unpublished: 2 edits",
                "b: removed from the group",
                "a: in sync at 1.42 (8.3 ms after the publish)",
                "added to the group: c: unknown",
            ]
        );
    }
}
