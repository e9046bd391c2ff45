//! The state of this agent, for fault finding. It is read without waiting for any task, so the answer also comes while a task
//! hangs.

use bellwether_manager::Queue;
use bellwether_proto::{clock::now_ms, revision::SignedHeader};
use serde_json::{Value, json};

use super::Agent;
use crate::run::role::{Following, Standing};

impl Agent {
    /// Tasks, queues, lanes and states, as JSON.
    pub(super) fn inside(&self) -> Value {
        let states = self
            .farm
            .borrow()
            .servers
            .iter()
            .map(|s| json!({ "server": s.name, "state": s.state }))
            .collect::<Vec<_>>();
        let standing = self.standing();
        json!({
            "server": self.name,
            "time_ms": now_ms(),
            "standing": word(&standing),
            "record": self.record.current().record().version.to_string(),
            "at": self.seen.at().as_ref().map(SignedHeader::number),
            "tasks": self.alarm.tasks(),
            "queues": [Queue::of("status", &self.folded), Queue::of("role", &self.rebuilds)],
            "role": role(&standing),
            "states": states,
        })
    }
}

fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::Changing => "changing",
        Standing::Manager(_) => "manager",
        Standing::Member(_) => "member",
        Standing::Halted(_) => "halted",
    }
}

fn role(standing: &Standing) -> Value {
    match standing {
        Standing::Changing => Value::Null,
        Standing::Manager(manager) => json!(manager.inside()),
        Standing::Member(following) => member(following),
        Standing::Halted(why) => json!({ "why": why }),
    }
}

fn member(following: &Following) -> Value {
    json!({ "is_led": following.is_led(), "queues": [Queue::of("member", &following.inputs)] })
}
