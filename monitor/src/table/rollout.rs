//! The rollout of the head in waves, in one line.

use bellwether_proto::{
    name::ServerName,
    status::{RolloutState, RolloutStatus},
};

use crate::text::{duration, plain};

/// The line above the table; none once all members have the head.
pub(super) fn line(rollout: &RolloutStatus, now_ms: u64) -> Option<String> {
    let is_over = rollout.state == RolloutState::Done
        && rollout.late.is_empty()
        && rollout.failed.is_empty()
        && rollout.confirm_until_ms.is_none();
    (!is_over).then(|| described(rollout, now_ms))
}

/// The state of a rollout, for people, at `now_ms` (milliseconds since 1970).
pub fn described(rollout: &RolloutStatus, now_ms: u64) -> String {
    let RolloutStatus { revision, state, wave, waves, members, holding, .. } = rollout;
    let reason = rollout.reason.as_deref().map(plain).unwrap_or_default();
    let next = rollout.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
    let hold = format!(
        "{holding} of {members} members hold it{}{}",
        some(&rollout.late, "late"),
        some(&rollout.failed, "failed")
    );
    let later = match rollout.later.len() {
        0 => String::new(),
        _ => {
            let names: Vec<&str> = rollout.later.iter().map(ServerName::as_str).collect();
            format!(" · first, one at a time, because they validate only after the switch: {}", names.join(", "))
        }
    };
    if let (Some(until_ms), RolloutState::Done) = (rollout.confirm_until_ms, state) {
        let left = duration(until_ms.saturating_sub(now_ms));
        return format!(
            "rollout of {revision} · {hold} · goes back by itself in {left}, unless: bellwether confirm {revision}"
        );
    }
    match state {
        RolloutState::Staging => format!(
            "rollout of {revision} · staged and validated by the members before any of them switches{}",
            rollout.late.iter().map(|name| format!(", {name} is late")).collect::<String>()
        ),
        RolloutState::Running => format!("rollout of {revision} · wave {wave} of {waves} · {hold}{later}"),
        RolloutState::Soaking => {
            let left = duration(rollout.until_ms.unwrap_or(now_ms).saturating_sub(now_ms));
            format!("rollout of {revision} · wave {wave} of {waves} · {hold} · the next wave begins in {left}")
        }
        RolloutState::Stopped if rollout.untouched => {
            format!("rollout of {revision} · stopped before any member switched · {reason}{next}")
        }
        RolloutState::Stopped => {
            format!("rollout of {revision} · stopped in wave {wave} of {waves} · {hold} · {reason}{next}")
        }
        RolloutState::Done => format!("rollout of {revision} · done · {hold}"),
        RolloutState::TakenBack => format!("rollout of {revision} · {reason} · {hold}"),
    }
}

/// Servers that are late or have failed.
fn some(servers: &[ServerName], what: &str) -> String {
    match servers.len() {
        0 => String::new(),
        count => format!(", {count} {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::rollout;

    #[test]
    fn each_state_has_its_line() {
        let shown = |state| described(&rollout(state), 100_000);
        assert_eq!(shown(RolloutState::Running), "rollout of 1.42 · wave 2 of 3 · 2 of 4 members hold it, 1 failed");
        assert!(shown(RolloutState::Staging).contains("before any of them switches"));
        let late = RolloutStatus { late: vec!["web4".parse().unwrap()], ..rollout(RolloutState::Staging) };
        assert!(described(&late, 0).ends_with(", web4 is late"));
        let later = RolloutStatus { later: vec!["web4".parse().unwrap()], ..rollout(RolloutState::Running) };
        assert!(described(&later, 0).ends_with("they validate only after the switch: web4"));
        let unconfirmed = RolloutStatus { confirm_until_ms: Some(160_000), ..rollout(RolloutState::Done) };
        assert!(
            described(&unconfirmed, 100_000)
                .ends_with("· goes back by itself in 60 s, unless: bellwether confirm 1.42")
        );
        assert!(line(&unconfirmed, 0).is_some());
        let untouched = RolloutStatus { untouched: true, ..rollout(RolloutState::Stopped) };
        assert!(described(&untouched, 0).contains("stopped before any member switched · web3 failed; next: "));
        assert!(shown(RolloutState::Soaking).ends_with("· the next wave begins in 20 s"));
        let stopped = "rollout of 1.42 · stopped in wave 2 of 3 · 2 of 4 members hold it, 1 failed · web3 failed; next: \
                       bellwether rollout continue";
        assert_eq!(shown(RolloutState::Stopped), stopped);
        assert!(shown(RolloutState::Done).starts_with("rollout of 1.42 · done"));
        assert!(shown(RolloutState::TakenBack).starts_with("rollout of 1.42 · web3 failed"));
    }

    #[test]
    fn nothing_is_said_once_all_have_it() {
        let mut done = rollout(RolloutState::Done);
        assert!(line(&done, 0).is_some(), "one failed");
        done.failed.clear();
        assert_eq!(line(&done, 0), None);
    }
}
