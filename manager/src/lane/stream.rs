//! Carries the bytes of one connection for its [`Session`]: feeds in events, executes the actions, and sends.

use std::{
    convert::Infallible,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use bellwether_group::{
    procedure::SignedDocument,
    rollout::{Order, Plan},
};
use bellwether_proto::{
    clock::now_ms,
    record::{SignedRecord, Version},
    revision::{Epoch, SignedHeader},
    v1,
};
use bellwether_store::{history::History, underway::Dealing};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tonic::Streaming;
use tracing::Instrument;

use super::{
    Control, End, Lane, Link, Memory,
    outbox::Outgoing,
    reading::{Source, Supplied, blocking, supply},
    session::{Ends, Facts, Input, Now, Output, Session},
};
use crate::{failpoints, publish::head::Head, shared::Shared};

/// The time to tell a server that it is no longer a member.
const FAREWELL: Duration = Duration::from_secs(1);

fn now() -> Now {
    Now { at: Instant::now(), ms: now_ms() }
}

/// Keeps the server in the table of reached servers; an aborted lane drops it, too.
struct Reached<'a>(&'a Lane);

impl<'a> Reached<'a> {
    fn begin(lane: &'a Lane, incarnation: u64) -> Self {
        lane.shared.reached.send_modify(|reached| reached.begin(lane.server.name.clone(), incarnation));
        Self(lane)
    }

    fn answered(&self, beat: u64, record: Option<Version>, procedures: Option<(Epoch, u64)>) {
        self.0.shared.reached.send_if_modified(|reached| {
            reached.change(&self.0.server.name, |server| {
                server.beat = server.beat.max(beat);
                server.record = record.unwrap_or(server.record);
                server.procedures = procedures.or(server.procedures);
            })
        });
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.0.shared.reached.send_modify(|reached| reached.end(&self.0.server.name));
    }
}

struct News {
    head: watch::Receiver<Arc<Head>>,
    record: watch::Receiver<Arc<SignedRecord>>,
    procedures: watch::Receiver<Option<Arc<SignedDocument>>>,
    rollout: watch::Receiver<Arc<Plan>>,
}

struct Stream<'a> {
    lane: &'a Lane,
    reached: Reached<'a>,
    session: Session,
    news: News,
    /// The source of the offered pack's bytes.
    source: Option<Source>,
}

/// Runs the connection; returns the reason of its end.
pub(super) async fn run(lane: &Lane, link: Link, control: &mut mpsc::Receiver<Control>, memory: &mut Memory) -> End {
    let reached = Reached::begin(lane, link.hello.incarnation);
    let (shared, name) = (&lane.shared, &lane.server.name);
    let mut news = News::follow(shared);
    let facts = news.facts(lane);
    let deadlines = shared.timings.deadlines;
    let ends = Ends { server: name.clone(), manager: shared.key.public(), deadlines };
    let (session, outputs) = Session::begin(ends, facts, std::mem::take(memory), &link.hello, now());
    let mut stream = Stream { lane, reached, session, news, source: None };
    let ended = match stream.act(outputs).await {
        Ok(()) => stream.talk(link, control).await,
        Err(end) => Err(end),
    };
    *memory = stream.session.end();
    match ended {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

/// Whether procedures hold the member back.
fn is_later(lane: &Lane, procedures: Option<&SignedDocument>) -> bool {
    procedures.is_some_and(|held| held.document().holds().contains(&lane.server.name))
}

impl Stream<'_> {
    async fn talk(&mut self, link: Link, control: &mut mpsc::Receiver<Control>) -> Result<Infallible, End> {
        let Link { down, mut up, hello: _ } = link;
        let mut tick = tokio::time::interval(self.lane.shared.timings.keepalive);
        loop {
            if !self.lane.is_member() {
                return Err(self.farewell(&down, &mut up).await);
            }
            self.show();
            let pause = self.session.pause(now());
            // Every branch here may be cancelled: an unused permit is given back, and messages stay in the stream.
            tokio::select! {
                permit = down.reserve(), if self.session.has_mail() => {
                    let permit = permit.map_err(|_| "it closed the connection".to_owned())?;
                    let span = self.session.span();
                    if let Some((message, bytes)) = self.next().instrument(span).await? {
                        self.session.went(now(), bytes);
                        permit.send(v1::Down { message: Some(message) });
                    }
                }
                message = up.message(), if pause.is_none() => {
                    match message.map_err(|status| self.lane.turned_away(&status))? {
                        None => return Err(End::Lost("it closed the connection".to_owned())),
                        Some(up) => self.hear(up).await?,
                    }
                }
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
                changed = self.news.head.changed() => {
                    changed.map_err(|_| "the manager stops".to_owned())?;
                    let news = self.news.head();
                    self.put(news).await?;
                }
                changed = self.news.record.changed() => {
                    changed.map_err(|_| "the manager stops".to_owned())?;
                    let news = self.news.record();
                    self.put(news).await?;
                }
                // Never an error: `shared` holds the store of procedures.
                _ = self.news.procedures.changed() => {
                    let news = self.news.procedures(self.lane);
                    self.put(news).await?;
                }
                // Never an error, for the same reason.
                _ = self.news.rollout.changed() => {
                    let news = self.news.rollout(self.lane);
                    self.put(news).await?;
                }
                asked = control.recv() => {
                    let asked = asked.ok_or_else(|| "the manager stops".to_owned())?;
                    tracing::debug!(?asked, "asked");
                    self.put(Input::Asked(asked)).await?;
                }
                _ = tick.tick() => self.put(Input::Tick).await?,
            }
        }
    }

    /// Handles a message of the member, which is the suspect if this process ends meanwhile.
    async fn hear(&mut self, up: v1::Up) -> Result<(), End> {
        self.put_news().await?;
        let outputs = {
            let _dealing = Dealing::with(self.lane.suspect());
            failpoints::hit("lane.heard");
            self.session.handle(now(), Input::Heard(up))?
        };
        self.act(outputs).await
    }

    /// Feeds in an event, after the news for all lanes.
    async fn put(&mut self, input: Input) -> Result<(), End> {
        self.put_news().await?;
        let outputs = self.session.handle(now(), input)?;
        self.act(outputs).await
    }

    async fn put_news(&mut self) -> Result<(), End> {
        for news in self.news.unseen(self.lane) {
            let outputs = self.session.handle(now(), news)?;
            self.act(outputs).await?;
        }
        Ok(())
    }

    /// Executes the actions, and feeds in the answers.
    async fn act(&mut self, mut outputs: Vec<Output>) -> Result<(), End> {
        while !outputs.is_empty() {
            let mut answer = None;
            for output in outputs {
                match output {
                    Output::See(observation) => self.lane.see(observation),
                    Output::Answered { beat, record, procedures } => self.reached.answered(beat, record, procedures),
                    Output::WantBase => self.lane.shared.base_wanted.notify_one(),
                    Output::Open(pack) => self.source = Some(Source::open(&self.lane.shared, pack).await?),
                    Output::Plan(look) => {
                        answer = Some(Input::Planned(self.ask(move |history| look.plan(history)).await?));
                    }
                    Output::Find(revision) => {
                        let header = move |history: &History| history.get(revision).map(|found| found.header.clone());
                        answer = Some(Input::Found(self.ask(header).await?));
                    }
                }
            }
            outputs = match answer {
                Some(answer) => self.session.handle(now(), answer)?,
                None => Vec::new(),
            };
        }
        Ok(())
    }

    async fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&History) -> T + Send + 'static) -> Result<T, String> {
        let history = self.lane.shared.history.clone();
        blocking(move || Ok(ask(&history.read().unwrap_or_else(PoisonError::into_inner)))).await
    }

    /// The next message, and its bytes of packs. It must not be cancelled: its message would be lost.
    async fn next(&mut self) -> Result<Option<(v1::down::Message, u64)>, String> {
        Ok(match self.session.next_mail() {
            None => None,
            Some(Outgoing::Message(message)) => Some((message, 0)),
            Some(Outgoing::Slice { at: offset, length }) => {
                let source = self.source.as_ref().ok_or_else(|| "a pack was not opened".to_owned())?;
                let data = source.read(offset, length).await?;
                Some((v1::down::Message::Slice(v1::Slice { offset, data }), length))
            }
            Some(Outgoing::Supply { wanted, look }) => {
                let Supplied { frames, missing, rest, look } = supply(&self.lane.shared, wanted, look).await?;
                let (last, bytes) = (rest.is_empty(), frames.len() as u64);
                self.session.supplied(rest, look);
                let missing = missing.into_iter().map(Bytes::from).collect();
                Some((v1::down::Message::Supply(v1::Supply { frames, last, missing }), bytes))
            }
        })
    }

    /// Publishes the lane's state, for fault finding.
    fn show(&self) {
        let (phase, to, in_flight) = self.session.phase();
        let at = self.session.at().map(SignedHeader::number);
        self.lane.view.show(phase, at, to.map(SignedHeader::number), in_flight);
    }

    /// Sends a server that is no longer a member the record that says so, and nothing else.
    async fn farewell(&self, down: &mpsc::Sender<v1::Down>, up: &mut Streaming<v1::Up>) -> End {
        let record = self.lane.shared.record.borrow().to_wire();
        let told = async {
            if down.send(v1::Down { message: Some(v1::down::Message::Record(record)) }).await.is_ok() {
                // The server ends the stream when it has taken the record.
                while let Ok(Some(_)) = up.message().await {}
            }
        };
        // If it is late, it learns it at its next call.
        let _ = tokio::time::timeout(FAREWELL, told).await;
        End::Lost("it is no longer a member".to_owned())
    }
}

impl News {
    fn follow(shared: &Shared) -> Self {
        Self {
            head: shared.head.subscribe(),
            record: shared.record.clone(),
            procedures: shared.procedure_store.follow(),
            rollout: shared.rollouts.follow(),
        }
    }

    fn facts(&mut self, lane: &Lane) -> Facts {
        let (head, record) = (self.head.borrow_and_update().clone(), self.record.borrow_and_update().clone());
        let procedures = self.procedures.borrow_and_update().clone();
        let release = self.rollout.borrow_and_update().release(&lane.server.name);
        let order = Order { later: is_later(lane, procedures.as_deref()), release };
        Facts { record, head: head.stored.clone(), published: head.published, procedures, order }
    }

    fn head(&mut self) -> Input {
        let head = self.head.borrow_and_update();
        Input::Head(head.stored.clone(), head.published)
    }

    fn record(&mut self) -> Input {
        Input::Record(self.record.borrow_and_update().clone())
    }

    fn procedures(&mut self, lane: &Lane) -> Input {
        let held = self.procedures.borrow_and_update().clone();
        let later = is_later(lane, held.as_deref());
        Input::Procedures(held, later)
    }

    fn rollout(&mut self, lane: &Lane) -> Input {
        Input::Released(self.rollout.borrow_and_update().release(&lane.server.name))
    }

    /// Changes that were not fed in yet.
    fn unseen(&mut self, lane: &Lane) -> Vec<Input> {
        let changed = |changed: Result<bool, _>| changed.is_ok_and(|changed| changed);
        let mut unseen = Vec::new();
        if changed(self.record.has_changed()) {
            unseen.push(self.record());
        }
        if changed(self.head.has_changed()) {
            unseen.push(self.head());
        }
        if changed(self.procedures.has_changed()) {
            unseen.push(self.procedures(lane));
        }
        if changed(self.rollout.has_changed()) {
            unseen.push(self.rollout(lane));
        }
        unseen
    }
}
