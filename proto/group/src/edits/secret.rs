//! The edit of the patterns of secret files.

use bellwether_proto::record::SecretFiles;

use super::PolicyChange;

/// Puts the secret patterns of `change` into `list`, which stays sorted by set and has no set without patterns.
pub(super) fn put_on(list: &mut Vec<SecretFiles>, change: &PolicyChange) {
    let Some(set) = change.set.as_ref().filter(|_| !change.secret.is_nothing()) else { return };
    let at = match list.binary_search_by(|files| files.set.cmp(set)) {
        Ok(at) => at,
        Err(at) => {
            list.insert(at, SecretFiles { set: set.clone(), patterns: Vec::new() });
            at
        }
    };
    change.secret.put_on(&mut list[at].patterns);
    if list[at].patterns.is_empty() {
        list.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Patterns, *};

    fn put(list: &mut Vec<SecretFiles>, set: &str, patterns: &[&str], replace: bool) {
        let secret = Patterns { list: patterns.iter().map(|&pattern| pattern.to_owned()).collect(), replace };
        let set = Some(set.parse().unwrap());
        put_on(list, &PolicyChange { set, secret, ..PolicyChange::default() });
    }

    #[test]
    fn patterns_are_added_to_their_set_and_removed() {
        let mut list = Vec::new();
        put(&mut list, "web", &["*.key"], false);
        put(&mut list, "app", &["*.pem", "*.key"], false);
        put(&mut list, "web", &["*.key", "tokens/"], false);
        let now: Vec<_> = list.iter().map(|files| (files.set.as_str(), files.patterns.join(" "))).collect();
        assert_eq!(now, [("app", "*.pem *.key".to_owned()), ("web", "*.key tokens/".to_owned())]);
        put(&mut list, "app", &[], true);
        put(&mut list, "app", &[], false);
        assert_eq!(list.len(), 1);
        put(&mut list, "web", &["x"], true);
        assert_eq!(list[0].patterns, ["x"]);
    }
}
