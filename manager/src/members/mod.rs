//! The group's membership, at the manager: servers that enter, leave, are changed, and take the role. The rules are in
//! `bellwether_group`; this module makes their results durable before an answer.

mod dial_back;
pub(crate) mod entering;
pub(crate) mod hand_over;
mod membership;

use bellwether_group::edits::By;
use bellwether_proto::clock::now_ms;

fn by(author: &str) -> By {
    By::new(author, now_ms())
}
