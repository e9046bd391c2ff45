//! Sets of a server's agent.toml that differ from its group's sets.

use std::collections::BTreeSet;

use bellwether_proto::{name::SetName, record::SetRules};

/// The differences between the configured sets and those of `group`, one line each, with the next action.
pub fn differing<'a>(configured: impl IntoIterator<Item = &'a SetName>, group: &[SetRules]) -> Vec<String> {
    let configured: BTreeSet<&SetName> = configured.into_iter().collect();
    let group: BTreeSet<&SetName> = group.iter().map(|rules| &rules.name).collect();
    let unknown = configured.difference(&group).map(|set| {
        format!(
            "set {set} is in this server's agent.toml and is none of the group's: it is neither published nor synced; this \
             version adds no set to a group that is formed: take it out of agent.toml, or form the group anew with it"
        )
    });
    let without_path = group.difference(&configured).map(|set| {
        format!(
            "set {set} of the group has no path in this server's agent.toml: add it there, and start the agent again"
        )
    });
    unknown.chain(without_path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_on_one_side_only_are_named() {
        let named = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<SetName>>();
        let group: Vec<SetRules> = named(&["haproxy", "nginx"]).into_iter().map(SetRules::new).collect();
        let lines = |names: &[&str]| differing(&named(names), &group);
        assert!(lines(&["haproxy", "nginx"]).is_empty());
        let [unknown, without_path] = &lines(&["nginx", "site"])[..] else { panic!("two lines") };
        assert!(
            unknown.starts_with("set site is in this server's agent.toml") && unknown.contains("neither published")
        );
        assert!(without_path.starts_with("set haproxy of the group has no path"));
    }
}
