//! The limit of open file descriptors.

use bellwether_daemon::run::descriptors;

use super::Check;

/// Checks the agent with process id `agent`, or the limit of an agent that would start here, for a group of `servers`.
pub(super) fn descriptors(agent: Option<i32>, servers: usize) -> Check {
    let seen = agent.and_then(descriptors::of);
    let (limit, what) = match (seen, agent) {
        (Some((limit, open)), _) => (limit, format!("the agent may open {limit}, and has {open} open")),
        (None, Some(_)) => {
            return Check::ok("descriptors", "another user's agent: how many it may open is not shown here");
        }
        (None, None) => {
            (descriptors::here(), format!("an agent that is started here may open {}", descriptors::here()))
        }
    };
    judged(limit, what, servers)
}

fn judged(limit: u64, what: String, servers: usize) -> Check {
    let needed = descriptors::needed(servers);
    if limit >= needed {
        return Check::ok("descriptors", what);
    }
    let what = format!("{what}; {servers} servers need {needed}");
    Check::warn("descriptors", what, "raise the hard limit: LimitNOFILE= in the agent's unit, or ulimit -Hn")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Level;

    #[test]
    fn too_few_are_warned_of_and_named() {
        assert_eq!(judged(1_024, String::new(), 3).level, Level::Ok);
        let check = judged(1_024, "it may open 1024".to_owned(), 500);
        assert!(check.level == Level::Warn && check.what.contains("500 servers need"), "{check:?}");
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(descriptors(Some(own), 1).what.starts_with("the agent may open "));
        assert!(descriptors(None, 1).what.starts_with("an agent that is started here may open "));
    }
}
