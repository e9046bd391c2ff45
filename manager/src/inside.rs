//! The state of a running manager, for fault finding. It is read without waiting for any task.

use bellwether_proto::{record::Version, revision::Number};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::{Manager, lane::view::LaneView};

/// A bounded channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: &'static str,
    /// The number of messages in it and of reserved slots.
    pub length: usize,
    /// The number of messages that it can hold.
    pub capacity: usize,
}

impl Queue {
    /// The channel of `sender`.
    pub fn of<T>(name: &'static str, sender: &mpsc::Sender<T>) -> Self {
        let capacity = sender.max_capacity();
        Self { name, length: capacity - sender.capacity(), capacity }
    }
}

/// A manager at one moment.
#[derive(Debug, Serialize)]
pub struct Inside {
    /// The head revision.
    pub head: Number,
    /// The group record in force.
    pub record: Version,
    /// Its channels.
    pub queues: Vec<Queue>,
    /// Its lanes.
    pub lanes: Vec<LaneView>,
}

impl Manager {
    /// The manager's state now.
    pub fn inside(&self) -> Inside {
        let shared = &self.inner.shared;
        Inside {
            head: shared.head.borrow().stored.header.number(),
            record: shared.record.borrow().record().version,
            queues: vec![Queue::of("publisher", &self.inner.commands), Queue::of("lanes", &self.inner.lanes)],
            lanes: shared.lanes.all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_tells_what_waits_in_it() {
        let (to, _from) = mpsc::channel(4);
        to.try_send(()).unwrap();
        assert_eq!(Queue::of("inputs", &to), Queue { name: "inputs", length: 1, capacity: 4 });
    }
}
