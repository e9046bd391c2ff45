//! A member that wants its managers to stand still (W14). It keeps every ticket, header and record that it can get, shows them
//! in any order, and enters the group again between two sessions. Its own state and disk are correct, and only its messages
//! are false.

use bellwether_proto::{
    record::Role,
    v1::{self, down, up},
};
use bellwether_random::Rng;

use crate::{
    faults::{command, managers},
    history::{History, host, name},
    keys,
    packet::{Body, Records, Refused},
    world::{Command, State},
};

/// The number of items that are kept of each kind; the oldest stay.
const LOOT: usize = 64;
/// The number of headers and records that are shown at once.
const SHOWN: usize = 4;

/// The attacker, with the items that it can show.
pub(crate) struct Liar {
    pub(crate) machine: usize,
    rng: Rng,
    tickets: Vec<v1::Ticket>,
    headers: Vec<v1::SignedHeader>,
    records: Vec<v1::SignedRecord>,
}

/// The time of the attacker's next action.
pub(crate) struct Attacker {
    rng: Rng,
    next_ms: u64,
}

fn keep<T: PartialEq>(loot: &mut Vec<T>, new: impl IntoIterator<Item = T>) {
    for one in new {
        if loot.len() < LOOT && !loot.contains(&one) {
            loot.push(one);
        }
    }
}

impl Liar {
    fn some<T: Clone>(rng: &mut Rng, loot: &[T]) -> Vec<T> {
        if loot.is_empty() {
            return Vec::new();
        }
        (0..SHOWN).map(|_| loot[rng.below(loot.len())].clone()).collect()
    }

    /// The attacker's message instead of that one.
    fn says(&mut self, body: Body) -> Body {
        match body {
            Body::Up(v1::Up { message: Some(up::Message::Hello(hello)) }) => self.greets(hello),
            Body::Answer(_) if self.rng.one_in(2) => {
                Body::Answer(Records { records: Self::some(&mut self.rng, &self.records) })
            }
            honest => honest,
        }
    }

    fn greets(&mut self, hello: v1::UpHello) -> Body {
        let ticket = Self::some(&mut self.rng, &self.tickets).pop();
        match self.rng.below(4) {
            0 => Body::Up(v1::Up { message: Some(up::Message::Hello(hello)) }),
            1 => {
                let record = v1::RecordRefusal { conflict: true, epoch: hello.epoch, version: 1, ticket };
                Body::Refused(Refused { record: Some(Box::new(record)), ..Refused::default() })
            }
            _ => {
                let seen = Self::some(&mut self.rng, &self.headers);
                Body::Up(v1::Up { message: Some(up::Message::Hello(v1::UpHello { ticket, seen, ..hello })) })
            }
        }
    }
}

impl State {
    /// Gives the attacker all messages of the farm.
    pub(crate) fn overheard(&mut self, body: &Body) {
        let Some(Liar { tickets, headers, records, .. }) = &mut self.liar else { return };
        match body {
            Body::Down(v1::Down { message: Some(down::Message::Hello(hello)) }) => {
                keep(tickets, hello.ticket.clone());
                keep(headers, hello.head.clone());
                keep(records, hello.chain.iter().cloned().chain(hello.record.clone()));
            }
            Body::Down(v1::Down { message: Some(down::Message::Head(head)) }) => keep(headers, [head.clone()]),
            Body::Down(v1::Down { message: Some(down::Message::Record(record)) }) => keep(records, [record.clone()]),
            Body::Up(v1::Up { message: Some(up::Message::Hello(hello)) }) => keep(headers, hello.seen.iter().cloned()),
            Body::Answer(shown) | Body::Tell(shown) => keep(records, shown.records.iter().cloned()),
            Body::Down(_) | Body::Up(_) | Body::Ask(_) | Body::Refused(_) | Body::Survey(_) | Body::Seen(_) => {}
        }
    }

    /// The message that the machine sends instead of that one.
    pub(crate) fn said_by(&mut self, machine: usize, body: Body) -> Body {
        match self.liar.as_mut().filter(|liar| liar.machine == machine) {
            None => body,
            Some(liar) => {
                let said = liar.says(body.clone());
                self.met.lies += u64::from(said != body);
                said
            }
        }
    }
}

impl Attacker {
    /// One of the machines in some histories.
    pub(crate) fn new(history: &History, mut rng: Rng) -> Option<Self> {
        if !rng.one_in(3) {
            return None;
        }
        let (machine, lies) = (rng.below(history.servers), Rng::new(rng.number()));
        history.world.borrow_mut().liar =
            Some(Liar { machine, rng: lies, tickets: Vec::new(), headers: Vec::new(), records: Vec::new() });
        Some(Self { rng, next_ms: 400 })
    }

    /// Executes the due action: enters again, or ends the sessions, so that the next ones begin.
    pub(crate) fn go_on(&mut self, history: &mut History) {
        let Some(machine) = history.world.borrow().liar.as_ref().map(|liar| liar.machine) else { return };
        if history.now() < self.next_ms {
            return;
        }
        self.next_ms = history.now() + 100 + self.rng.below(400) as u64;
        if self.rng.one_in(2) {
            return enter_again(history, machine);
        }
        if history.sim.is_host_running(host(machine)) {
            history.sim.bounce(host(machine));
        }
    }

    /// Begins the peace: the attacker is a server like the others, and sends correct messages.
    pub(crate) fn end(history: &mut History) {
        let liar = history.world.borrow_mut().liar.take();
        if let Some(machine) = liar.map(|liar| liar.machine)
            && history.sim.is_host_running(host(machine))
        {
            history.sim.bounce(host(machine));
        }
    }
}

/// Shows the used token to every manager; no token admits a server that a record does not name as a member.
fn enter_again(history: &History, machine: usize) {
    for manager in managers(history) {
        let is_member = {
            let world = history.world.borrow();
            let own = keys::public(world.disks[machine].key);
            let record = world.disks[manager].record().map(bellwether_proto::record::SignedRecord::record);
            record.and_then(|record| record.by_key(&own)).is_some_and(|own| own.role == Role::Member)
        };
        if is_member {
            command(history, manager, Command::EnterAgain(name(machine)));
        }
    }
}
