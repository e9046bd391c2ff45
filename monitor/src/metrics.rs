//! The farm's status in Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write as _};

use bellwether_proto::status::{Cause, FarmStatus, ProcedureState, RolloutState, ServerStatus, State};

/// Every state, with its name in the `state` label (the words of `status --json`).
const STATES: [(State, &str); 15] = [
    (State::AwaitingSync, "awaiting_sync"),
    (State::InSync, "in_sync"),
    (State::Syncing, "syncing"),
    (State::Updating, "updating"),
    (State::Disabled, "disabled"),
    (State::GroupChange, "group_change"),
    (State::Left, "left"),
    (State::Refused, "refused"),
    (State::Waiting, "waiting"),
    (State::Drifted, "drifted"),
    (State::Error, "error"),
    (State::Unreachable, "unreachable"),
    (State::Superseded, "superseded"),
    (State::Conflict, "conflict"),
    (State::Unknown, "unknown"),
];

/// The answer of `/metrics`. The manager exports all servers, and a member only itself, so that each is exported once.
pub(crate) fn render(status: &FarmStatus) -> String {
    let own = |server: &ServerStatus| status.observer == status.manager || server.name == status.observer;
    let servers: Vec<ServerStatus> = status.servers.iter().filter(|server| own(server)).cloned().collect();
    let status = &FarmStatus { servers, ..status.clone() };
    let mut page = Page::default();
    page.family("bellwether_head_sequence", "The head revision's sequence; 0 before the first.");
    page.sample("bellwether_head_sequence", &[], status.head.map_or(0, |head| head.sequence));
    page.family("bellwether_head_epoch", "The head revision's epoch; 0 before the first.");
    page.sample("bellwether_head_epoch", &[], status.head.map_or(0, |head| head.epoch.0));
    page.family("bellwether_paused", "1 while propagation is paused.");
    page.sample("bellwether_paused", &[], u8::from(status.paused));
    page.family("bellwether_server_state", "1 for the state that each server is in, 0 for the others.");
    for server in &status.servers {
        for (state, word) in STATES {
            let labels = [("server", server.name.as_str()), ("state", word)];
            page.sample("bellwether_server_state", &labels, u8::from(server.state == state));
        }
    }
    page.each(
        status,
        "bellwether_server_drained",
        "1 while the group record has the server out of service.",
        |server| Some(f64::from(u8::from(server.drained))),
    );
    page.family("bellwether_procedures", "Procedures that are not over, by their state.");
    for state in ProcedureState::ALL {
        let count = status.procedures.iter().filter(|procedure| procedure.state == state).count();
        page.sample("bellwether_procedures", &[("state", state.word())], count);
    }
    page.family("bellwether_rollout_state", "1 for the state of the head's rollout in waves, 0 for the others.");
    for state in RolloutState::ALL {
        let is = status.rollout.as_ref().is_some_and(|rollout| rollout.state == state);
        page.sample("bellwether_rollout_state", &[("state", state.word())], u8::from(is));
    }
    if let Some(rollout) = &status.rollout {
        page.family("bellwether_rollout_wave", "The present wave of the rollout, from 1.");
        page.sample("bellwether_rollout_wave", &[], rollout.wave);
        page.family("bellwether_rollout_waves", "The waves of the rollout.");
        page.sample("bellwether_rollout_waves", &[], rollout.waves);
        page.family("bellwether_rollout_members", "Members by their progress in the rollout.");
        let (holding, late, failed) = (rollout.holding, rollout.late.len(), rollout.failed.len());
        for (progress, count) in [("holding", holding), ("late", late), ("failed", failed)] {
            page.sample("bellwether_rollout_members", &[("progress", progress)], count);
        }
    }
    page.family(
        "bellwether_server_waits_for",
        "1 for the obstacle to the newest revision on the server, 0 for the others.",
    );
    for server in &status.servers {
        for (cause, word) in Cause::WORDS {
            let labels = [("server", server.name.as_str()), ("cause", word)];
            page.sample("bellwether_server_waits_for", &labels, u8::from(server.waits_for == Some(cause)));
        }
    }
    // An unknown value is absent, not zero.
    let known = |server: &ServerStatus| server.state != State::Unknown;
    page.each(status, "bellwether_lag_revisions", "Revisions that the server is behind the head.", |server| {
        known(server).then_some(server.lag_revisions as f64)
    });
    page.each(
        status,
        "bellwether_lag_seconds",
        "Seconds for which the server has been behind; 0 when it is not.",
        |server| known(server).then_some(server.lag_ms as f64 / 1e3),
    );
    page.each(status, "bellwether_drift_entries", "Entries that differ from the server's revision.", |server| {
        known(server).then_some(server.drift_entries as f64)
    });
    page.each(
        status,
        "bellwether_last_update_seconds",
        "Seconds from the publish to the server's report, of its last update.",
        |server| server.last_update_us.map(|us| us as f64 / 1e6),
    );
    page.each(
        status,
        "bellwether_seen_seconds",
        "Time of the server's last message, in seconds since 1970.",
        |server| server.seen_ms.map(|ms| ms as f64 / 1e3),
    );
    page.each(
        status,
        "bellwether_server_warning",
        "1 if a request from outside the group has not been acknowledged.",
        |server| Some(f64::from(u8::from(server.warning.is_some()))),
    );
    page.family("bellwether_set_events", "1 if events report every change in the set, 0 if it is rescanned, too.");
    for set in &status.sets {
        page.sample("bellwether_set_events", &[("set", set.name.as_str())], u8::from(set.watching == "events"));
    }
    let name = "bellwether_balancer_reachable";
    page.family(
        name,
        "1 where the server, the manager or a candidate, could drive the balancer, 0 where it could not.",
    );
    for server in &status.servers {
        for reach in &server.balancers {
            let labels = [("server", server.name.as_str()), ("balancer", reach.balancer.as_str())];
            page.sample(name, &labels, u8::from(reach.fault.is_none()));
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a gauge. Every metric here can go down.
    fn family(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.text, "{name} {value}"),
            false => writeln!(self.text, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn each(&mut self, status: &FarmStatus, name: &str, help: &str, value: impl Fn(&ServerStatus) -> Option<f64>) {
        self.family(name, help);
        for server in &status.servers {
            if let Some(value) = value(server) {
                self.sample(name, &[("server", server.name.as_str())], value);
            }
        }
    }
}

/// A label's value: backslash, quote and line feed are escaped, as the format asks.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use bellwether_proto::status::Reach;

    use super::*;
    use crate::table::tests::{farm, procedure, rollout, server};

    #[test]
    fn each_server_is_in_one_state() {
        let text = render(&farm(vec![server("a", State::InSync, 42), server("b", State::Error, 40)]));
        for line in [
            "bellwether_head_sequence 42",
            "bellwether_server_state{server=\"a\",state=\"in_sync\"} 1",
            "bellwether_server_state{server=\"b\",state=\"in_sync\"} 0",
            "bellwether_server_state{server=\"b\",state=\"error\"} 1",
            "bellwether_lag_revisions{server=\"b\"} 2",
            "bellwether_lag_seconds{server=\"b\"} 3",
            "bellwether_last_update_seconds{server=\"a\"} 0.00834",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
        let ones = text.lines().filter(|l| l.starts_with("bellwether_server_state") && l.ends_with(" 1")).count();
        assert_eq!(ones, 2);
    }

    #[test]
    fn the_labels_are_the_words_of_the_json() {
        for (state, word) in STATES {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{word}\""));
        }
    }

    #[test]
    fn what_is_unknown_is_absent() {
        let text = render(&farm(vec![server("a", State::Unknown, 0)]));
        assert!(!text.contains("bellwether_lag_revisions{"), "{text}");
    }

    #[test]
    fn a_member_exports_itself_only() {
        let mut status = farm(vec![server("a", State::InSync, 42), server("b", State::Error, 40)]);
        assert!(render(&status).contains("server=\"b\""), "the manager exports all");
        status.observer = "a".parse().unwrap();
        let text = render(&status);
        assert!(text.contains("server=\"a\"") && !text.contains("server=\"b\""), "{text}");
        assert!(text.contains("bellwether_server_warning{server=\"a\"} 0"), "{text}");
    }

    #[test]
    fn who_reaches_which_balancer() {
        let mut web2 = server("web2", State::InSync, 42);
        let reach = |balancer: &str, fault: Option<&str>| Reach {
            balancer: balancer.parse().unwrap(),
            fault: fault.map(str::to_owned),
            time_ms: 99_000,
        };
        web2.balancers = vec![reach("lb1", None), reach("lb2", Some("it cannot be reached"))];
        let text = render(&farm(vec![web2]));
        for line in [
            "bellwether_balancer_reachable{server=\"web2\",balancer=\"lb1\"} 1",
            "bellwether_balancer_reachable{server=\"web2\",balancer=\"lb2\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
    }

    #[test]
    fn who_is_drained_and_which_procedures_are_not_over() {
        let mut status = farm(vec![server("a", State::InSync, 42), server("b", State::InSync, 42)]);
        status.servers[1].drained = true;
        status.procedures = vec![procedure(ProcedureState::Stopped, "b")];
        let text = render(&status);
        for line in [
            "bellwether_server_drained{server=\"a\"} 0",
            "bellwether_server_drained{server=\"b\"} 1",
            "bellwether_procedures{state=\"stopped\"} 1",
            "bellwether_procedures{state=\"asks\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
        for state in ProcedureState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.word()));
        }
    }

    #[test]
    fn the_rollout_is_in_one_state() {
        let mut status = farm(vec![server("a", State::InSync, 42)]);
        assert!(render(&status).contains("bellwether_rollout_state{state=\"stopped\"} 0"));
        status.rollout = Some(rollout(RolloutState::Stopped));
        let text = render(&status);
        for line in [
            "bellwether_rollout_state{state=\"stopped\"} 1",
            "bellwether_rollout_state{state=\"running\"} 0",
            "bellwether_rollout_wave 2",
            "bellwether_rollout_members{progress=\"failed\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
        for state in RolloutState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.word()));
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
