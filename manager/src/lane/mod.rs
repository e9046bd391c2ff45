//! A lane: the task that talks to one member. It dials, and dials again after each connection.
//!
//! It watches the head and the record, takes requests over its control channel, and sends observations to the monitor.
//! No lane waits for another; a lane is aborted at once when its server leaves the group. It keeps nothing durable: a
//! member reports its state each time it is reached.
//!
//! The machine in `session` holds the rules of one connection, without I/O; `stream` carries its bytes.

mod backoff;
mod greeting;
pub mod hello;
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

use std::{
    error::Error as _,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bellwether_group::rollback_detection::Remembered;
use bellwether_proto::{
    level::{Levels, Program},
    limits, protocol,
    record::{Role, Server, refusal},
    status::{Event, Observation},
    ticket::Ticket,
    v1,
};
use bellwether_store::{
    quarantine,
    underway::{Dealing, Suspect},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

pub use hello::{NotLed, check};
pub use outbox::Outgoing;
pub use session::{Ends, Facts, Input, Look, Now, Output, Session};
pub use stall::Deadlines;

use self::view::{Phase, View};
use crate::{
    lane::{backoff::Backoff, plan::Standing, sessions::Opened},
    shared::Shared,
};

/// The most messages that one member's connection has not taken yet: those of a pack have 32 KiB.
const ON_THE_WAY: usize = 2;
/// The shortest interval between two dials because of a new head.
const DIAL_AGAIN: Duration = Duration::from_secs(1);
/// The shortest interval between two dials because the member asks for something.
const DIAL_HEARD: Duration = Duration::from_millis(20);

/// A request to a lane.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// Bring the member to the head whatever its state; hash every byte first.
    Sync {
        /// Hash every byte.
        full: bool,
    },
    /// The member called: dial it now if it was out of reach.
    Heard,
    /// Verify the member again.
    Verify {
        /// Hash every byte.
        full: bool,
    },
    /// Send the next keepalive now, to see whether it is alive.
    Probe,
}

/// State that outlives a connection.
#[derive(Debug, Default)]
pub struct Memory {
    /// The member is new, and was not reached yet.
    anew: bool,
    /// The content that it takes.
    pub standing: Standing,
    /// A requested verification that was not sent yet.
    verify: Option<bool>,
    /// The tickets that it was given.
    opened: Option<Opened>,
    /// Its last report of itself.
    pub remembered: Remembered,
    /// Its state went back, and it has not been told yet.
    fence: Option<String>,
}

impl Memory {
    /// Keeps the member out until a sync because its state went back, and notes to tell it.
    pub fn keep_out(&mut self, why: String) {
        self.standing.fail(why.clone());
        self.fence = Some(why);
        self.remembered.reported = None;
    }

    /// Notes a request for the next connection.
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

/// The end of a connection.
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
    /// Its server is a new member: a sync brings it to the head, whatever it has of this group.
    pub(crate) anew: bool,
    /// The lane writes its state here.
    pub(crate) view: View,
}

impl Lane {
    /// Runs until it is aborted, its server is no longer a member, or the manager stops.
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
                    // The member would do so again at once.
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
            tracing::debug!(?pause, "dialling again after the pause, or earlier on news");
            let until = Instant::now() + pause;
            if !self.wait(until, dialled, &mut control, &mut memory).await {
                return;
            }
        }
    }

    /// Whether the lane's server is still a member that is sent anything.
    fn is_member(&self) -> bool {
        let record = self.shared.record.borrow();
        record.record().by_key(&self.server.key).is_some_and(|server| server.role == Role::Member)
    }

    pub(crate) fn see(&self, observation: Observation) {
        self.shared.see(Event::Server(self.server.name.clone(), observation));
    }

    /// Waits until `until`, a request, or a new head (then not too soon after `dialled`). Returns false if the manager
    /// stops, or its server is no longer a member.
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

    /// The suspect if the manager ends while this lane is at work.
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
                self.judge_hello(memory, &hello).await?;
                Ok(Link { down, up, hello })
            }
            Some(_) => Err("it did not begin with a hello".to_owned()),
            None => Err("it closed the connection".to_owned()),
        }
    }

    /// The reason that the member refuses this manager, for people. A newer record that the member has seen is asked
    /// for.
    fn turned_away(&self, status: &tonic::Status) -> String {
        match refusal(status.details()) {
            Some(v1::RecordRefusal { conflict: true, epoch, version, ticket: None }) => {
                let reason = format!(
                    "it holds group record {epoch}.{version} of another manager: two of them took over at once, and the \
                     servers of each refuse the other; decide which one leads, then there: bellwether promote --self --force"
                );
                self.shared.see(Event::Fenced { server: self.server.name.clone(), conflict: true, reason });
                // If this manager itself signed that record, there is no other manager: this one's state went back.
                self.shared.is_behind(&self.server.name);
            }
            Some(v1::RecordRefusal { conflict: false, .. }) => self.shared.is_behind(&self.server.name),
            // The status itself describes a ticket that does not fit.
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
        let epoch = self.shared.record.borrow().record().version.epoch;
        let program = check(&self.shared.name, epoch, &self.server.name, hello).map_err(|not_led| {
            if matches!(not_led, NotLed::Behind { .. }) {
                self.shared.is_behind(&self.server.name);
            }
            not_led.to_string()
        })?;
        self.shared.programs().insert(self.server.key, program);
        Ok(())
    }
}

/// The program of the member, from its hello.
fn program(hello: &v1::UpHello) -> Program {
    let levels = Levels::from_wire(hello.level_oldest, hello.level_newest);
    Program { version: cut(&hello.version, 100), levels }
}

/// A member's text, for people and for the log: printable and limited.
fn cut(text: &str, most: usize) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().take(most).map(clean).collect()
}

fn refused(status: &tonic::Status) -> String {
    // Only a status that was made on this side has a source, in the words of a library.
    if status.source().is_some() {
        tracing::debug!(error = status as &dyn std::error::Error, "the connection ended");
        return "the connection ended".to_owned();
    }
    match status.message() {
        "" => status.code().description().to_owned(),
        message => cut(message, 1000),
    }
}
