//! What fuzzing feeds to what is said to balancers (`fuzz/`).

/// A reason of a server that is not ready: whatever it says, a balancer is told one short line.
/// None is refused.
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

/// What its fuzzing begins with.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![("agent_check", vec![b"in a sync\nto #7 \x1b[31m".to_vec()])]
}
