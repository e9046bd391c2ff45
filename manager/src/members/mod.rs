//! Who belongs to the group, at the manager: servers that enter, leave, are set, and take the role. The rules are in
//! `bellwether_group`; what must be durable before an answer is made so here.

mod dial_back;
pub(crate) mod entering;
pub(crate) mod hand_over;
mod membership;

use bellwether_group::edits::By;
use bellwether_proto::clock::now_ms;

fn by(author: &str) -> By {
    By::new(author, now_ms())
}
