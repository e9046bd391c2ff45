//! The beginning of a session on both sides: tickets and starts reveal a state that went back, or a copied machine (W14).

use bellwether_group::{
    halt::Proof,
    lost::Known,
    rollback_detection::{self, Holdings, Remembered, Said},
};
use bellwether_manager::lane::Memory;
use bellwether_member::{
    follower::Input,
    greeting::{self, Leader},
    incoming::Incoming,
};
use bellwether_proto::{
    key::PublicKey,
    limits,
    name::ServerName,
    record::{chain, refusal},
    revision::{RevisionId, SignedHeader},
    ticket::{Given, Parties, Ticket},
    v1::{self, down},
};

use super::{Purpose, Server};
use crate::{
    changes::Changes,
    disk::Disk,
    net::Number,
    packet::{Body, Refused},
    world::Notice,
};

/// The time for which a live manager's stream may be silent.
const ALIVE_MS: u64 = 300;

/// The followed stream of the manager, for the comparison with another hello of that manager.
pub(super) struct Followed {
    pub(super) number: Number,
    leader: Leader,
    pub(super) incoming: Incoming,
}

/// A hello that waits for a message of the present leader: one of the two is a copy.
pub(super) struct Waiting {
    number: Number,
    from: PublicKey,
    hello: v1::DownHello,
    until_ms: u64,
}

impl From<greeting::Refused> for Refused {
    fn from(refused: greeting::Refused) -> Self {
        let record = refusal(&refused.details).map(Box::new);
        Self { record, reason: refused.what, ..Self::default() }
    }
}

impl Server {
    fn live(&self) -> Option<&Followed> {
        self.followed.as_ref().filter(|followed| self.links.contains_key(&followed.number))
    }

    /// Makes a hello wait if its manager may be a copy of the one that leads this server.
    pub(super) fn waits(&mut self, number: Number, from: PublicKey, hello: &v1::DownHello) -> bool {
        let is_copy = self.rules.is_copy;
        let start = hello.incarnation;
        let copied = |leader: Leader| leader.is_copied_by(&from, start) && is_copy(leader.incarnation, start);
        let other = self.live().is_some_and(|live| copied(live.leader));
        if other {
            let until_ms = self.now() + ALIVE_MS;
            self.waiting = Some(Waiting { number, from, hello: hello.clone(), until_ms });
        }
        other
    }

    /// Handles a message on the stream of that number: if it leads this server, the waiting manager is a copy.
    pub(super) fn led_by(&mut self, number: Number) {
        if let Some(leader) = self.live().filter(|live| live.number == number).map(|live| live.leader)
            && let Some(waiting) = self.waiting.take()
        {
            let refused = leader.copied(waiting.hello.incarnation).into();
            self.send(waiting.number, Body::Refused(Refused { copy: true, ..refused }));
            // The manager is told, and its monitor names the server.
            self.world.borrow_mut().notice(self.machine, Notice::Copy(self.name.clone()));
        }
    }

    pub(super) async fn go_on_waiting(&mut self) {
        let (live, now) = (self.live().is_some(), self.now());
        if let Some(waiting) = self.waiting.take_if(|waiting| !live || now > waiting.until_ms) {
            let begun = self.begin_session(waiting.number, waiting.from, waiting.hello).await;
            self.done(waiting.number, &waiting.from, begun);
        }
    }

    /// Saves the ticket before the manager is answered.
    pub(super) async fn begin_session(
        &mut self,
        number: Number,
        from: PublicKey,
        hello: v1::DownHello,
    ) -> Result<(), Refused> {
        self.here(|here| greeting::check(here, &from, &hello))?;
        let shown = self.take_ticket(&hello).await?;
        // A member follows one manager at a time, on the newest connection.
        self.close_all(&Purpose::Followed);
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        link.purpose = Purpose::Followed;
        let leader = Leader { key: from, incarnation: hello.incarnation };
        self.followed = Some(Followed { number, leader, incoming: Incoming::new(from) });
        let seen = self.heard_of().iter().rev().take(limits::SEEN).rev().map(SignedHeader::to_wire).collect();
        let (incarnation, ticket) = (self.start, shown.map(|shown| shown.to_wire()));
        let (validates, ahead) = (self.world.borrow().validates(self.machine), self.ahead());
        let begun = Box::new(v1::UpHello { incarnation, ticket, seen, validates, ahead, ..Default::default() });
        self.happens(Input::Compared(self.edits())).await;
        self.happens(Input::Opened { session: number, key: from, hello: begun }).await;
        if let Some(head) = hello.head {
            self.happens(Input::Said(number, down::Message::Head(head))).await;
        }
        Ok(())
    }

    async fn take_ticket(&mut self, hello: &v1::DownHello) -> Result<Option<Ticket>, Refused> {
        let offered = hello.ticket.as_ref().and_then(|offered| Ticket::from_wire(offered).ok());
        let offered = offered.expect("managers of this simulation offer one");
        let held = self.drive.read(|disk| disk.ticket.clone());
        if let Some(newer) = self.here(|here| greeting::ticket(here, held.as_ref(), offered))? {
            let what = format!("ticket {}.{}", newer.epoch(), newer.count());
            self.drive.save(&what, |disk| disk.ticket = Some(newer)).await;
        }
        Ok(held)
    }

    fn parties(&self, server: &PublicKey, manager: &PublicKey) -> Parties {
        let group = self.record().expect("of a group").record().group;
        Parties { group, server: *server, manager: *manager }
    }

    /// The ticket for the next session with that member; it is durable here before the member sees it.
    pub(super) async fn ticket_for(&mut self, name: &ServerName) -> Option<Ticket> {
        let record = self.record()?;
        let server = record.record().server(name)?.key;
        let (parties, epoch) = (self.parties(&server, &self.key.public()), record.record().version.epoch);
        let kept = self.drive.read(|disk| disk.sessions.get(&server).cloned());
        let kept = kept.filter(|given| given.continues(&parties, epoch));
        if kept.as_ref().is_none_or(|given| given.held.is_none() || given.anew)
            && let Some(lane) = self.lanes.get_mut(name)
        {
            lane.memory_mut().remembered = Remembered::default();
        }
        if let Some(given) = kept {
            return Some(given.next);
        }
        let given = Given::first(&parties, epoch, &self.key);
        let next = given.next.clone();
        self.drive.save(&format!("the first ticket of {name}"), |disk| _ = disk.sessions.insert(server, given)).await;
        Some(next)
    }

    /// Lets that server enter with a token, perhaps again and without a state.
    pub(super) async fn entered(&mut self, name: &ServerName) {
        let Some(record) = self.record().filter(|_| self.leads()) else { return };
        let index: usize = name.as_str().trim_start_matches("web").parse().expect("a server of this simulation");
        let server = crate::keys::public(index);
        let (parties, epoch) = (self.parties(&server, &self.key.public()), record.record().version.epoch);
        let kept = self.drive.read(|disk| disk.sessions.get(&server).cloned());
        let Some(given) = kept.filter(|given| given.continues(&parties, epoch)) else { return };
        let entered = (self.rules.entered)(given);
        let save = |disk: &mut Disk| match entered {
            Some(given) => _ = disk.sessions.insert(server, given),
            None => _ = disk.sessions.remove(&server),
        };
        self.drive.save(&format!("that {name} has entered"), save).await;
    }

    /// Judges a member's hello; false if this manager stands still.
    pub(super) async fn recognised(&mut self, name: &ServerName, hello: &v1::UpHello) -> bool {
        let Some(record) = self.record() else { return false };
        let Some(server) = record.record().server(name).map(|server| server.key) else { return false };
        let parties = self.parties(&server, &self.key.public());
        let given = self.drive.read(|disk| disk.sessions.get(&server).cloned());
        let Some(mut memory) = self.lanes.get_mut(name).map(|lane| std::mem::take(lane.memory_mut())) else {
            return false;
        };
        let (judge_hello, record) = (self.rules.judge_hello, record.record());
        let tickets = given.as_ref().map(|given| (given, &parties));
        let greeted = self.with_holdings(|holdings| {
            let judge =
                |memory: &Memory, said: &Said<'_>| judge_hello(record, holdings, tickets, &memory.remembered, said);
            memory.greeted(name, hello, judge)
        });
        *self.lanes.get_mut(name).expect("it was just there").memory_mut() = memory;
        match greeted {
            Ok(seen) => self.name_lost(&seen),
            Err(proof) => {
                self.halt(&server, proof).await;
                return false;
            }
        }
        if let Some(given) = given {
            let begun = given.begun(&parties, &self.key);
            let what = format!("that session {} with {name} has begun", given.next.count());
            self.drive.save(&what, |disk| _ = disk.sessions.insert(server, begun)).await;
        }
        true
    }

    /// Names the revisions of earlier managers that a member has seen and no history here has.
    fn name_lost(&self, seen: &[SignedHeader]) {
        let Some(held) = self.drive.read(|disk| disk.held.clone()) else { return };
        let (revision, edits) = self.in_sets();
        let mut world = self.world.borrow_mut();
        let disk = &world.disks[self.machine];
        let before = Known::of(disk.history.iter().chain(&disk.before).filter_map(|id| world.header(*id)));
        let led_by = |epoch| chain::manager_of(&held.chain, &held.current, epoch);
        let lost = before.lost(held.current.record(), led_by, seen);
        let listed = lost.iter().fold(Changes::default(), |sum, header| sum.and(world.content(Some(header.id()))));
        let listed = listed.without(world.content(revision).and(edits));
        if !listed.is_empty() {
            world.notice(self.machine, Notice::Lost(listed));
        }
    }

    /// Asks with the history's holdings of its epoch; only revisions older than a base were ever deleted there.
    fn with_holdings<T>(&self, ask: impl FnOnce(&Holdings<'_>) -> T) -> T {
        let head = self.head().map(|head| head.number()).expect("a manager has a head");
        let world = self.world.borrow();
        let history = &world.disks[self.machine].history;
        let numbers = history.iter().filter_map(|id| world.header(*id)).map(|header| header.number());
        let oldest = numbers.filter(|number| number.epoch == head.epoch).min().unwrap_or(head);
        let has = |id: RevisionId| history.contains(&id);
        ask(&Holdings { head, oldest, has: &has })
    }

    /// Whether others have seen revisions that this manager signed and lacks; asked before it leads.
    pub(super) async fn claims(&mut self, witness: &PublicKey, seen: &[SignedHeader]) {
        let Some(record) = self.record() else { return };
        let lost = |holdings: &Holdings<'_>| {
            seen.iter().rfind(|header| holdings.lack(record.record(), header)).map(|header| header.number())
        };
        if let Some(lost) = self.with_holdings(lost) {
            self.halt(witness, Proof::Revision(lost)).await;
            self.lacks(seen);
        }
    }

    /// Handles a member's refusal of a session, with its ticket.
    pub(super) async fn ticket_shown(&mut self, name: &ServerName, held: &v1::Ticket) {
        let Some(server) = self.record().and_then(|record| Some(record.record().server(name)?.key)) else { return };
        let parties = self.parties(&server, &self.key.public());
        let held = Ticket::from_wire(held).ok();
        let given = self.drive.read(|disk| disk.sessions.get(&server).cloned());
        let proof = given.and_then(|given| rollback_detection::refused(&given, &parties, held.as_ref()));
        if let Some(proof) = proof.filter(|_| self.leads()) {
            self.halt(&server, proof).await;
        }
    }

    /// Handles a question for records with a member's key. If another start of that member is connected, one of them is a
    /// copy, and the connected one has to show that it lives.
    pub(super) fn suspect(&mut self, from: &PublicKey, start: u64) {
        let Some(name) = self.record().and_then(|record| Some(record.record().by_key(from)?.name.clone())) else {
            return;
        };
        let is_copy = self.rules.is_copy;
        if let Some(lane) = self.lanes.get_mut(&name).filter(|lane| lane.session().is_some()) {
            lane.suspect |= is_copy(lane.memory().remembered.incarnation, start);
        }
    }
}
