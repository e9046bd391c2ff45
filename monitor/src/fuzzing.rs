//! The fuzz target of the messages to balancers (`fuzz/`).

/// Takes the reason of a server that is not ready. A balancer gets one short line for any reason; none is refused.
pub fn agent_check(bytes: &[u8]) -> bool {
    let reason = String::from_utf8_lossy(bytes);
    let line = crate::agent_check::line(&bellwether_proto::ready::Ready::no(reason.into_owned()));
    let body = line.strip_suffix('\n').expect("it ends");
    assert!(
        body.starts_with("down #") && !body[6..].contains(['#', '\n', '\r']) && body.chars().count() < 200,
        "{line:?}"
    );
    assert!(!body.chars().any(char::is_control), "{line:?}");
    true
}

/// The seeds of the fuzzing.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![("agent_check", vec![b"in a sync\nto #7 \x1b[31m".to_vec()])]
}
