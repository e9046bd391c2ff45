use bellwether_proto::{
    key::KeyPair,
    record::{Level, Policy, Role, Server, Version},
};

use super::*;

const NOW: u64 = 1_000_000;

struct Case {
    tokens: Tokens,
    id: String,
    secret: String,
}

impl Case {
    fn new(uses: u32, names: &str) -> Self {
        let mut tokens = Tokens::default();
        let grant = Grant { uses, ttl_ms: 1000, names: names.into(), replaces: false };
        let (id, secret) = tokens.create(grant, NOW).unwrap();
        Self { tokens, id, secret }
    }

    fn present(&mut self, name: &str, key: &KeyPair, now: u64) -> Result<bool, TokenRefused> {
        let name = name.parse().unwrap();
        let token = Presented { id: &self.id, secret: self.secret.as_bytes(), name: &name, key: &key.public() };
        self.tokens.present(token, now)
    }
}

#[test]
fn each_use_is_bound_to_the_first_key_that_presents_it() {
    let mut case = Case::new(2, "*");
    let [a, b, c] = std::array::from_fn(|_| KeyPair::generate());
    assert_eq!(case.present("a", &a, NOW), Ok(true));
    assert_eq!(case.present("a", &a, NOW), Ok(false), "the same key may come again");
    assert_eq!(case.present("b", &b, NOW), Ok(true));
    let refused = case.present("c", &c, NOW).unwrap_err();
    assert_eq!(refused, TokenRefused::Spent { id: case.id.clone(), by: "a, b".into() });
    assert_eq!(case.present("b", &b, NOW), Ok(false));
}

#[test]
fn expiry_revocation_and_names() {
    let key = KeyPair::generate();
    let mut case = Case::new(1, "web*");
    assert!(matches!(case.present("db1", &key, NOW), Err(TokenRefused::Name { .. })));
    assert!(matches!(case.present("web1", &key, NOW + 1000), Err(TokenRefused::Expired(_))));
    assert_eq!(case.present("web1", &key, NOW + 999), Ok(true));
    let id = case.id.clone();
    assert_eq!(case.tokens.revoke(&id), Ok(true));
    assert_eq!(case.tokens.revoke(&id), Ok(false));
    assert!(matches!(case.present("web1", &key, NOW), Err(TokenRefused::Revoked(_))));
    assert_eq!(case.tokens.revoke("nothing"), Err(TokenRefused::Unknown));
}

#[test]
fn a_wrong_secret_is_an_unknown_token_and_takes_no_use() {
    let mut case = Case::new(1, "*");
    let before = case.tokens.clone();
    let right = std::mem::replace(&mut case.secret, "0".repeat(64));
    assert_eq!(case.present("a", &KeyPair::generate(), NOW), Err(TokenRefused::Unknown));
    assert_eq!(case.tokens, before);
    let kept = serde_json::to_string(&case.tokens).unwrap();
    assert!(!kept.contains(&right), "the secret is not kept");
}

#[test]
fn a_grant_of_nothing_is_refused_and_old_tokens_are_forgotten() {
    let mut case = Case::new(1, "*");
    let grant = |uses| Grant { uses, ttl_ms: 1000, names: "*".into(), replaces: false };
    assert!(case.tokens.create(grant(0), NOW).is_err());
    assert_eq!(case.tokens.list().count(), 1);
    let (id, _) = case.tokens.create(grant(1), NOW + 1000 + KEPT_MS).unwrap();
    assert_eq!(case.tokens.list().map(|(id, _)| id).collect::<Vec<_>>(), [id.as_str()]);
}

/// A record of that epoch with these servers and these removed ones, by number.
fn record(epoch: u64, keys: &[KeyPair], servers: &[usize], removed: &[usize]) -> Record {
    let server = |n: &usize| Server {
        name: format!("s{n}").parse().unwrap(),
        key: keys[*n].public(),
        address: format!("s{n}:1"),
        role: if *n == 0 { Role::Manager } else { Role::Member },
        candidate: true,
        backends: Vec::new(),
        drained: false,
    };
    Record {
        refused: Vec::new(),
        level: Level::NEWEST,
        group: [7; 16].into(),
        version: Version { epoch: Epoch(epoch), version: 1 },
        servers: servers.iter().map(server).collect(),
        removed: removed.iter().map(server).collect(),
        policy: Policy::new(Vec::new()),
        log: Vec::new(),
        previous: None,
    }
}

#[test]
fn w16_a_removal_ends_what_a_key_had_and_a_later_token_is_a_new_decision() {
    let mut case = Case::new(3, "*");
    let [gone, stays] = std::array::from_fn(|_| KeyPair::generate());
    case.present("gone", &gone, NOW).unwrap();
    case.present("stays", &stays, NOW).unwrap();
    case.tokens.remove(&"gone".parse().unwrap(), &gone.public());
    // Another name does not help, though a use is left.
    for name in ["gone", "other"] {
        let refused = case.present(name, &gone, NOW).unwrap_err();
        assert_eq!(refused, TokenRefused::Removed { id: case.id.clone(), name: name.parse().unwrap() });
        let advice = refused.advice().expect("what to do");
        assert_eq!(advice.next.as_deref(), Some("bellwether token create"));
        assert!(advice.hint.contains(&format!("bellwether server add {name}")), "{advice:?}");
    }
    assert_eq!(case.present("stays", &stays, NOW), Ok(false));
    assert_eq!(case.tokens.left_open_by(&gone.public(), NOW), [case.id.clone()]);
    assert!(case.tokens.left_open_by(&gone.public(), NOW + 1000).is_empty(), "expired");

    let grant = || Grant { uses: 1, ttl_ms: 1000, names: "*".into(), replaces: false };
    let before = case.tokens.clone();
    let (id, secret) = case.tokens.create(grant(), NOW).unwrap();
    let name = "gone".parse().unwrap();
    let shown = Presented { id: &id, secret: secret.as_bytes(), name: &name, key: &gone.public() };
    assert_eq!(case.tokens.present(shown, NOW), Ok(true), "made after the removal");
    case.tokens.remove(&name, &gone.public());
    assert!(matches!(case.tokens.present(shown, NOW), Err(TokenRefused::Removed { .. })), "and removed again");
    assert_ne!(before, case.tokens);
}

#[test]
fn w16_a_token_that_nobody_has_used_does_not_admit_whoever_was_removed_after_it_was_made() {
    let mut case = Case::new(1, "web*");
    let gone = KeyPair::generate();
    case.tokens.remove(&"web2".parse().unwrap(), &gone.public());
    assert!(matches!(case.present("web2", &gone, NOW), Err(TokenRefused::Removed { .. })));
    let kept = case.tokens.list().next().unwrap().1;
    assert_eq!((kept.opens(NOW).uses, kept.used_by.len()), (1, 0), "it took no use");
    assert_eq!(case.present("web3", &KeyPair::generate(), NOW), Ok(true));
}

#[test]
fn w16_a_removal_ends_the_tokens_for_new_hardware_of_its_name() {
    let mut tokens = Tokens::default();
    let mut replacing = |name: &str| {
        let grant = Grant { uses: 1, ttl_ms: 1000, names: name.into(), replaces: true };
        tokens.create(grant, NOW).unwrap()
    };
    let [(web2, secret), (web3, _)] = ["web2", "web3"].map(&mut replacing);
    let name = "web2".parse().unwrap();
    tokens.remove(&name, &KeyPair::generate().public());
    let shown = Presented { id: &web2, secret: secret.as_bytes(), name: &name, key: &KeyPair::generate().public() };
    assert_eq!(tokens.present(shown, NOW), Err(TokenRefused::Revoked(web2)));
    assert!(tokens.list().any(|(id, kept)| id == web3 && !kept.revoked), "another server's");
}

#[test]
fn what_a_token_opens_is_its_uses_and_those_that_may_show_it_again() {
    let mut case = Case::new(3, "*");
    let [gone, stays] = std::array::from_fn(|_| KeyPair::generate());
    case.present("gone", &gone, NOW).unwrap();
    case.present("stays", &stays, NOW).unwrap();
    case.tokens.bar(&gone.public());
    case.tokens.bar(&gone.public());
    let opens = |tokens: &Tokens, now| {
        let kept = tokens.list().next().unwrap().1;
        let opens = kept.opens(now);
        (opens.uses, opens.returns.iter().map(|used| used.name.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(opens(&case.tokens, NOW), (1, vec!["stays".to_owned()]));
    assert_eq!(opens(&case.tokens, NOW + 1000), (0, vec![]), "expired");
    case.tokens.revoke(&case.id).unwrap();
    assert_eq!(opens(&case.tokens, NOW), (0, vec![]), "revoked");
}

#[test]
fn w16_what_another_manager_removed_is_barred_when_this_one_leads_again() {
    let keys: Vec<KeyPair> = (0..4).map(|_| KeyPair::generate()).collect();
    let mut case = Case::new(4, "*");
    assert!(case.tokens.settle(&record(1, &keys, &[0], &[])));
    for (n, key) in keys.iter().enumerate().skip(1) {
        case.present(&format!("s{n}"), key, NOW).unwrap();
    }
    // In its own epoch, a crash between the token's use and the record bars no key.
    assert!(!case.tokens.settle(&record(1, &keys, &[0, 1], &[])));
    assert_eq!(case.present("s2", &keys[2], NOW), Ok(false));
    // Another manager led meanwhile: it removed s1, and s2 so long ago that no record names it.
    assert!(case.tokens.settle(&record(3, &keys, &[0, 3], &[1])));
    for (n, comes) in [(1, false), (2, false), (3, true)] {
        assert_eq!(case.present(&format!("s{n}"), &keys[n], NOW).is_ok(), comes, "s{n}");
    }
    let unused = KeyPair::generate();
    assert_eq!(case.present("new", &unused, NOW), Ok(true), "a use that nobody has is open still");
    let kept = serde_json::to_string(&case.tokens).unwrap();
    assert_eq!(serde_json::from_str::<Tokens>(&kept).unwrap(), case.tokens);
}
