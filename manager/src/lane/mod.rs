//! A lane: the one task that talks to one member, from dialling it to giving up and dialling again.
//!
//! It watches the head and the record, takes requests over its control channel, and sends what it sees to the
//! monitor. Nothing it does waits for another lane, and none waits for it; it is aborted at once when its server leaves
//! the group. It keeps nothing durable: a member says itself where it is, every time it is reached.
//!
//! What a lane does over one connection is the machine in `session`, without I/O; `stream` carries its bytes.

mod backoff;
mod greeting;
pub(crate) mod lanes;
mod outbox;
pub mod plan;
mod rate_limit;
pub(crate) mod reached;
mod reading;
mod session;
pub(crate) mod sessions;
pub(crate) mod stall;
mod stream;
pub(crate) mod view;

use bellwether_store::{
    quarantine,
    underway::{Dealing, Suspect},
};
use std::{
    error::Error as _,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bellwether_group::rollback_detection::Remembered;
use bellwether_proto::{
    level::{Levels, Program},
    limits,
    name::ServerName,
    protocol::{self, Side},
    record::{Role, Server, refusal},
    status::{Event, Observation},
    ticket::Ticket,
    v1,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

pub use outbox::Outgoing;
pub use session::{Ends, Facts, Input, Look, Now, Output, Session};
pub use stall::Deadlines;

use self::view::{Phase, View};
use crate::{
    lane::{backoff::Backoff, plan::Standing, sessions::Opened},
    shared::Shared,
};

/// Messages on their way to one member that its connection has not taken yet: those of a pack have 32 KiB.
const ON_THE_WAY: usize = 2;
/// Nobody dials one server more often than that because there is a new head.
const DIAL_AGAIN: Duration = Duration::from_secs(1);
/// Nor more often than that because it asks for something.
const DIAL_HEARD: Duration = Duration::from_millis(20);

/// What is asked of a lane.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// Bring it to the head whatever its state; hash every byte first.
    Sync {
        /// Hash every byte.
        full: bool,
    },
    /// It was heard of: it answers again, should it have been out of reach.
    Heard,
    /// Look at it again.
    Verify {
        /// Hash every byte.
        full: bool,
    },
    /// Whether it lives: its next keepalive is sent now.
    Probe,
}

/// What outlives a connection.
#[derive(Debug, Default)]
pub struct Memory {
    /// It has just become a member, and was not reached yet.
    anew: bool,
    /// What it takes.
    pub standing: Standing,
    /// A verification was asked for and not sent yet.
    verify: Option<bool>,
    /// The tickets that it was given.
    opened: Option<Opened>,
    /// What it has said of itself.
    pub remembered: Remembered,
    /// Its state went back, and it has not been told yet.
    fence: Option<String>,
}

impl Memory {
    /// Its state went back: it is kept out until a sync, and is told so.
    pub fn keep_out(&mut self, why: String) {
        self.standing.fail(why.clone());
        self.fence = Some(why);
        self.remembered.reported = None;
    }

    /// What is asked of the lane, for the next connection.
    pub fn note(&mut self, control: Control) {
        match control {
            Control::Sync { full } => {
                self.standing.ask();
                self.verify = if full { Some(true) } else { self.verify };
            }
            Control::Heard | Control::Probe => {}
            Control::Verify { full } => self.verify = Some(full || self.verify == Some(true)),
        }
    }
}

/// An open stream to a member that has said hello.
struct Link {
    down: mpsc::Sender<v1::Down>,
    up: Streaming<v1::Up>,
    hello: v1::UpHello,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// It was lost, or the manager stops.
    Lost(String),
    /// The member broke a rule.
    Breach(String),
}

impl From<String> for End {
    fn from(why: String) -> Self {
        Self::Lost(why)
    }
}

/// A lane's constants.
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) server: Server,
    /// It has just become a member: whatever it has of this group is brought to the head by a sync.
    pub(crate) anew: bool,
    /// Where it writes what it is at.
    pub(crate) view: View,
}

impl Lane {
    /// Runs until it is aborted, its server is no member any more, or the manager stops.
    pub(crate) async fn run(self, mut control: mpsc::Receiver<Control>) {
        let mut memory = Memory { anew: self.anew, ..Memory::default() };
        let mut backoff = Backoff::default();
        loop {
            let dialled = Instant::now();
            self.view.set(Phase::Dialling);
            tracing::debug!(address = self.server.address, "dialling");
            let why = match self.connect(&mut memory).await {
                Ok(link) => match stream::run(&self, link, &mut control, &mut memory).await {
                    End::Lost(why) => {
                        backoff.reset();
                        why
                    }
                    // It would do so again at once.
                    End::Breach(why) => why,
                },
                Err(why) => why,
            };
            tracing::info!(why, "lost");
            if !self.is_member() {
                return;
            }
            self.see(Observation::Lost(why));
            self.view.set(Phase::Waiting);
            let pause = backoff.failed(RandomState::new().hash_one(0));
            tracing::debug!(?pause, "dialling again after that, or earlier when there is something for it");
            let until = Instant::now() + pause;
            if !self.wait(until, dialled, &mut control, &mut memory).await {
                return;
            }
        }
    }

    /// Whether its server is still sent anything.
    fn is_member(&self) -> bool {
        let record = self.shared.record.borrow();
        record.record().by_key(&self.server.key).is_some_and(|server| server.role == Role::Member)
    }

    pub(crate) fn see(&self, observation: Observation) {
        self.shared.see(Event::Server(self.server.name.clone(), observation));
    }

    /// Waits until `until`, a request, or a new head (then not too soon after `dialled`); false: the manager stops, or its
    /// server is no member any more.
    async fn wait(
        &self,
        until: Instant,
        dialled: Instant,
        control: &mut mpsc::Receiver<Control>,
        memory: &mut Memory,
    ) -> bool {
        let (mut head, mut record) = (self.shared.head.subscribe(), self.shared.record.clone());
        let mut until = until;
        loop {
            if !self.is_member() {
                return false;
            }
            tokio::select! {
                () = sleep_until(until) => return true,
                changed = head.changed() => match changed {
                    Ok(()) => until = until.min(dialled + DIAL_AGAIN),
                    Err(_) => return false,
                },
                changed = record.changed() => if changed.is_err() { return false },
                asked = control.recv() => match asked {
                    Some(asked) => {
                        memory.note(asked);
                        let early = if matches!(asked, Control::Heard) { DIAL_HEARD } else { DIAL_AGAIN };
                        until = until.min(dialled + early);
                    }
                    None => return false,
                },
            }
        }
    }

    /// Whom an end of the manager is blamed on, while this lane deals with it.
    fn suspect(&self) -> Suspect {
        Suspect::Peer(self.server.name.to_string())
    }

    async fn connect(&self, memory: &mut Memory) -> Result<Link, String> {
        let peer = self.suspect();
        if quarantine::holds(&peer) {
            return Err(format!(
                "it is quarantined: this manager ended three times while it dealt with it; let it in: \
                 bellwether quarantine lift '{peer}'"
            ));
        }
        let patience = self.shared.timings.dial;
        timeout(patience, self.dial(memory))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", patience.as_secs())))
    }

    async fn dial(&self, memory: &mut Memory) -> Result<Link, String> {
        let ticket = self.ticket(memory).await?;
        let channel = self.shared.dial.dial(&self.server).await?;
        let mut client = v1::push_client::PushClient::new(channel).max_decoding_message_size(limits::ANSWER);
        let (down, outgoing) = mpsc::channel(ON_THE_WAY);
        let hello = v1::down::Message::Hello(self.hello(&ticket));
        down.send(v1::Down { message: Some(hello) }).await.map_err(|e| e.to_string())?;
        let answer = client.follow(ReceiverStream::new(outgoing)).await.map_err(|s| self.not_greeted(memory, &s))?;
        let mut up = answer.into_inner();
        match up.message().await.map_err(|s| self.not_greeted(memory, &s))?.and_then(|up| up.message) {
            Some(v1::up::Message::Hello(hello)) => {
                let _dealing = Dealing::with(self.suspect());
                self.check(&hello)?;
                self.recognise(memory, &hello).await?;
                Ok(Link { down, up, hello })
            }
            Some(_) => Err("it did not begin with a hello".to_owned()),
            None => Err("it closed the connection".to_owned()),
        }
    }

    /// Why the member does not let this manager speak, for people. One that has seen a newer record is asked for it.
    fn turned_away(&self, status: &tonic::Status) -> String {
        match refusal(status.details()) {
            Some(v1::RecordRefusal { conflict: true, epoch, version, ticket: None }) => {
                let reason = format!(
                    "it holds group record {epoch}.{version} of another manager: two of them took over at once, and the \
                     servers of each refuse the other; decide which one leads, then there: bellwether promote --self --force"
                );
                self.shared.see(Event::Fenced { server: self.server.name.clone(), conflict: true, reason });
                // Should it be one that this manager signed itself, that is no other manager: then this one's state went back.
                self.shared.is_behind(&self.server.name);
            }
            Some(v1::RecordRefusal { conflict: false, .. }) => self.shared.is_behind(&self.server.name),
            // A ticket that does not fit: told by its own words.
            Some(_) | None => {}
        }
        refused(status)
    }

    fn hello(&self, ticket: &Ticket) -> v1::DownHello {
        let (protocol_min, protocol_max) = protocol::SPOKEN;
        v1::DownHello {
            protocol_min,
            protocol_max,
            version: Program::own().version,
            record: Some(self.shared.record.borrow().to_wire()),
            head: Some(self.shared.head.borrow().stored.header.to_wire()),
            chain: self.shared.chain.clone(),
            incarnation: self.shared.incarnation,
            ticket: Some(ticket.to_wire()),
        }
    }

    fn check(&self, hello: &v1::UpHello) -> Result<(), String> {
        let ours = &self.server.name;
        if hello.server.parse::<ServerName>().as_ref() != Ok(ours) {
            return Err(format!("a server answers there that calls itself '{}', not {ours}", cut(&hello.server, 64)));
        }
        let (own, theirs) = (Program::own(), program(hello));
        let manager = Side { server: self.shared.name.as_str(), program: &own.version, speaks: protocol::SPOKEN };
        let speaks = (hello.protocol_min, hello.protocol);
        let member = Side { server: ours.as_str(), program: &theirs.version, speaks };
        protocol::negotiate(&manager, &member).map_err(|e| e.to_string())?;
        self.shared.programs().insert(self.server.key, theirs);
        let epoch = self.shared.record.borrow().record().version.epoch.0;
        if hello.epoch > epoch {
            self.shared.is_behind(&self.server.name);
            return Err(format!(
                "it has seen epoch {}, this manager is of epoch {epoch}: another manager has taken over",
                hello.epoch
            ));
        }
        Ok(())
    }
}

/// The program of the member that says this.
fn program(hello: &v1::UpHello) -> Program {
    let levels = Levels::from_wire(hello.level_oldest, hello.level_newest);
    Program { version: cut(&hello.version, 100), levels }
}

/// A member's text, for people and for the log: printable and not endless.
fn cut(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().take(most).map(clean).collect()
}

fn refused(status: &tonic::Status) -> String {
    // Only what was made up on this side has a cause, in the words of a library.
    if status.source().is_some() {
        tracing::debug!(error = status as &dyn std::error::Error, "the connection ended");
        return "the connection ended".to_owned();
    }
    match status.message() {
        "" => status.code().description().to_owned(),
        message => cut(message, 1000),
    }
}
