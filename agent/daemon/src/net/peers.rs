//! The exchange of group records between servers. A server that was away, or whose manager is silent, asks others for
//! newer records. The server that signed a handover sends it to the new manager until that has it.
//!
//! A record counts by its signatures, so any server of the group may bring it. There are two tasks:
//! `Peers::catch_up`, woken by hints (a member refused this manager, or a hello cannot be followed) and by the
//! manager's silence, and `Peers::tell`, which waits for a record that this server signed for another manager.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwether_group::{
    halt::Halt,
    rollback_detection,
    takeover::{Answer, Silence},
};
use bellwether_proto::{
    Malformed,
    error::chain,
    key::{KeyPair, PublicKey},
    limits,
    name::ServerName,
    record::{Record, Role, Server, SignedRecord, Version},
    revision::{Epoch, SignedHeader},
    v1::{self, group_client::GroupClient},
};
use bellwether_store::state::{known_heads::KnownHeads, record::GroupRecord};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tonic::{Request, Streaming, transport::Channel};
use tracing::Instrument;

use crate::{net::tls, services::link::StartHeader};

/// The time that one server has to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The time that one server has for the connection, its answer, and its newer records.
const EACH: Duration = PATIENCE.saturating_mul(4);
/// The time that a starting manager waits for all others before it leads.
const BEFORE_LEADING: Duration = Duration::from_secs(1);
/// The time that the manager has to prove that it is alive.
const PROBE: Duration = Duration::from_secs(2);
/// The most servers that are asked at once.
const AT_ONCE: usize = 64;
/// The number of servers that are asked when no hint names one.
const SOME: usize = 3;
/// The silence after which others are asked: the first and the longest interval.
const SILENCE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// The shortest interval between two rounds of questions.
const AGAIN: Duration = Duration::from_secs(1);
/// The time that the new manager has to begin to lead.
const TAKE_UP: Duration = Duration::from_secs(15);
/// The interval between attempts to tell the new manager: the first and the longest.
const TELL_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A server to ask for newer records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// This server said that it has newer ones.
    Server(ServerName),
    /// Any server may have some.
    Anyone,
}

/// The other servers of the group.
pub struct Peers {
    key: Arc<KeyPair>,
    record: Arc<GroupRecord>,
    seen: Arc<KnownHeads>,
    start_header: StartHeader,
    halts: watch::Sender<Option<Halt>>,
    told: watch::Sender<Option<Told>>,
    /// Limits how many servers are asked at once.
    turns: Arc<Semaphore>,
    promoting: AtomicBool,
}

/// While this exists, this server answers that it is about to make itself the manager.
pub(crate) struct Promoting(Arc<Peers>);

impl Drop for Promoting {
    fn drop(&mut self) {
        self.0.promoting.store(false, Ordering::SeqCst);
    }
}

/// A manager has a record that this server signed for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// The version that it holds.
    pub(crate) version: Version,
    /// Whether it leads by that record.
    pub(crate) leads: bool,
}

impl Peers {
    /// The other servers are told that this is incarnation number `incarnation`.
    pub fn new(key: Arc<KeyPair>, record: Arc<GroupRecord>, seen: Arc<KnownHeads>, incarnation: u64) -> Self {
        let (told, halts) = (watch::Sender::default(), watch::Sender::default());
        let (start_header, turns) = (StartHeader::new(incarnation), Arc::new(Semaphore::new(AT_ONCE)));
        Self { key, record, seen, start_header, halts, told, turns, promoting: AtomicBool::new(false) }
    }

    /// The result of the last handover that this server sent.
    pub(crate) fn told(&self) -> watch::Receiver<Option<Told>> {
        self.told.subscribe()
    }

    /// All other servers of the record.
    pub(crate) fn others(&self) -> Vec<Server> {
        let current = self.record.current();
        let own = self.record.own_key();
        current.record().servers.iter().filter(|server| server.key != own).cloned().collect()
    }

    /// Announces from now on that this server is about to make itself the manager; none if it does so already.
    pub(crate) fn promote(self: &Arc<Self>) -> Option<Promoting> {
        (!self.promoting.swap(true, Ordering::SeqCst)).then(|| Promoting(self.clone()))
    }

    /// Whether this server is about to make itself the manager.
    pub(crate) fn promotes(&self) -> bool {
        self.promoting.load(Ordering::SeqCst)
    }

    /// Opens a connection to that server's services.
    ///
    /// # Errors
    /// The reason that it is out of reach, for people.
    pub(crate) async fn dial(&self, server: &Server) -> Result<GroupClient<Channel>, String> {
        self.dial_at(&server.address, server.key).await
    }

    async fn dial_at(&self, address: &str, key: PublicKey) -> Result<GroupClient<Channel>, String> {
        let connect = tls::connect(&self.key, address, key);
        let channel = timeout(PATIENCE, connect).await.map_err(|_| "no answer".to_owned())?.map_err(|e| chain(&e))?;
        Ok(GroupClient::new(channel).max_decoding_message_size(limits::MESSAGE))
    }

    /// Takes the records of that server that are newer than the one held here.
    ///
    /// # Errors
    /// It does not answer, or its records are refused; for people.
    pub(crate) async fn ask(&self, server: &Server) -> Result<(), String> {
        let led = self.record.is_led_here();
        let links = self.records_at(&server.address, server.key, self.record.current().record().version).await?;
        // Read only now: that server may already have a record that this server signed meanwhile.
        let ours = self.record.current();
        let taken = self.record.take_by(&links);
        let proof = led.then(|| rollback_detection::shown(&self.record.own_key(), &ours, &links)).flatten();
        if let Some(proof) = proof.filter(|_| self.record.is_led_here()) {
            self.halt(Halt::new(server.name.clone(), proof));
        }
        taken.map_err(|e| chain(&e))
    }

    /// The records that the server of that address and key has after `from`, oldest first.
    ///
    /// # Errors
    /// It does not answer, or its answer is malformed; for people.
    pub(crate) async fn records_at(
        &self,
        address: &str,
        key: PublicKey,
        from: Version,
    ) -> Result<Vec<SignedRecord>, String> {
        let mut client = self.dial_at(address, key).await?;
        let Version { epoch: Epoch(epoch), version } = from;
        let at = self.seen.at().as_ref().map(SignedHeader::to_wire);
        let asked = async {
            let mut request = Request::new(v1::RecordsRequest { epoch, version, at });
            self.start_header.mark(&mut request);
            let records = client.records(request).await?;
            collect(records.into_inner()).await
        };
        let links = timeout(PATIENCE, asked).await.map_err(|_| "no answer".to_owned())?;
        links.map_err(|status| status.message().to_owned())
    }

    /// Reports that this manager's state went back (W14). The first proof counts.
    pub(crate) fn halt(&self, halt: Halt) {
        self.halts.send_if_modified(|halts| {
            let first = halts.is_none();
            halts.get_or_insert(halt);
            first
        });
    }

    /// The proof that this manager's state went back, if there is one.
    pub(crate) fn halts(&self) -> watch::Receiver<Option<Halt>> {
        self.halts.subscribe()
    }

    /// Clears that proof: the group was rebuilt, or another server is the manager.
    pub(crate) fn go_on(&self) {
        self.halts.send_replace(None);
    }

    /// This server's key.
    pub(crate) fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// The revision that this server's sets hold.
    pub(crate) fn at(&self) -> Option<SignedHeader> {
        self.seen.at()
    }

    /// Whether the manager proves its key now: an open stream does not show that.
    pub(crate) async fn manager_answers(&self) -> bool {
        let current = self.record.current();
        timeout(PROBE, self.dial(current.record().manager())).await.is_ok_and(|dialled| dialled.is_ok())
    }

    /// Asks these servers at once, a few at a time in a large group. Returns the answers that came before the deadline,
    /// or before `enough` was true after one of them.
    async fn ask_all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        self: &Arc<Self>,
        servers: Vec<Server>,
        deadline: Duration,
        ask: impl Fn(Arc<Self>, Server) -> F,
        enough: impl Fn() -> bool,
    ) -> BTreeMap<ServerName, T> {
        let mut asking = JoinSet::new();
        for server in servers {
            let (name, turns) = (server.name.clone(), self.turns.clone());
            let span = tracing::error_span!("peer", server = %name);
            let asked = ask(self.clone(), server);
            let in_turn = async move {
                let _turn = turns.acquire().await;
                (name, asked.await)
            };
            asking.spawn(in_turn.instrument(span));
        }
        let mut answers = BTreeMap::new();
        let all = async {
            while let Some(answer) = asking.join_next().await {
                answers.extend(answer);
                if enough() {
                    return;
                }
            }
        };
        // At a timeout the missing answers are left out.
        let _ = timeout(deadline, all).await;
        answers
    }

    /// Asks these servers for newer records, until all have answered or one has brought a newer epoch.
    async fn ask_for_records(self: &Arc<Self>, servers: Vec<Server>, deadline: Duration) {
        let before = self.record.current().record().version.epoch;
        let ask = |peers: Arc<Self>, server| async move {
            if let Err(why) = peers.ask(&server).await {
                tracing::debug!(why, "no newer record from there");
            }
        };
        let newer = || self.record.current().record().version.epoch > before;
        self.ask_all(servers, deadline, ask, newer).await;
    }

    /// Asks all others, before a starting manager leads, whether it was superseded (W26). A server that does not answer
    /// within a second learns of this manager, or refuses it, later.
    pub(crate) async fn ask_before_leading(self: &Arc<Self>) {
        // If one of the rest knows better, it refuses this manager, and is asked then.
        self.ask_for_records(self.others(), BEFORE_LEADING).await;
    }

    /// Asks all others for newer records, and waits for their answers.
    pub(crate) async fn ask_everybody(self: &Arc<Self>) {
        // The survey names slower servers.
        self.ask_for_records(self.others(), PATIENCE).await;
    }

    /// The state that each other server reports, or why it reports none.
    pub(crate) async fn survey_all(self: &Arc<Self>) -> BTreeMap<ServerName, Result<Answer, Silence>> {
        self.survey(self.others(), Self::answer_of).await
    }

    /// The states that the manager and the candidates report, as far as they answer.
    pub(crate) async fn survey_candidates(self: &Arc<Self>) -> Vec<Answer> {
        let asked = self.others().into_iter().filter(|server| server.candidate || server.role == Role::Manager);
        self.survey(asked.collect(), Self::answer_of).await.into_values().flatten().collect()
    }

    /// The states that these servers report through `ask`, or why they report none. Each has the deadline, once per
    /// turn.
    pub(crate) async fn survey<F>(
        self: &Arc<Self>,
        servers: Vec<Server>,
        ask: impl Fn(Arc<Self>, Server) -> F,
    ) -> BTreeMap<ServerName, Result<Answer, Silence>>
    where
        F: Future<Output = Result<Answer, Silence>> + Send + 'static,
    {
        let turns = 1 + servers.len() / AT_ONCE;
        let names: Vec<ServerName> = servers.iter().map(|server| server.name.clone()).collect();
        let mut answers = self.ask_all(servers, EACH * turns as u32, ask, || false).await;
        for name in names {
            answers.entry(name).or_insert_with(|| Err(Silence { there: false, why: "no answer".to_owned() }));
        }
        answers
    }

    /// Asks all other servers but `but` for their state, and takes newer records from them: the last check before this
    /// server makes itself the manager, and the first one after it.
    pub(crate) async fn look(self: &Arc<Self>, but: &ServerName) -> BTreeMap<ServerName, Result<Answer, Silence>> {
        let others = self.others().into_iter().filter(|server| server.name != *but);
        let look = |peers: Arc<Self>, server: Server| async move {
            let answer = peers.clone().answer_of(server.clone()).await;
            let held = peers.record.current().record().version;
            // A server that answers without its state is between two roles.
            let newer =
                answer.as_ref().map_or_else(|silence| silence.there, |a| a.leads || a.record.epoch > held.epoch);
            if newer && let Err(why) = peers.ask(&server).await {
                tracing::debug!(why, "its record is not taken");
            }
            answer
        };
        self.survey(others.collect(), look).await
    }

    /// The state that this server reports.
    ///
    /// # Errors
    /// The reason that it reports none.
    pub(crate) async fn answer_of(self: Arc<Self>, server: Server) -> Result<Answer, Silence> {
        // A server that proves its key is there, whatever it answers.
        let silent = |why| Silence { there: false, why };
        let strange = |why| Silence { there: true, why };
        let mut client = self.dial(&server).await.map_err(silent)?;
        let asked = timeout(PATIENCE, client.survey(v1::SurveyRequest {})).await;
        let reply = asked.map_err(|_| strange("it takes long to answer".to_owned()))?;
        let reply = reply.map_err(|status| strange(status.message().to_owned()))?;
        let v1::SurveyReply { epoch, version, at, seen, follows, leads, promotes } = reply.into_inner();
        let header = |wire| SignedHeader::from_wire(wire).map_err(|e| strange(e.to_string()));
        let record = Version { epoch: Epoch(epoch), version };
        let seen = seen.into_iter().take(limits::SEEN).map(header).collect::<Result<_, _>>()?;
        Ok(Answer { record, at: at.map(header).transpose()?, seen, follows, leads, promotes })
    }

    /// Forgets the heads that this server has heard of: it follows other managers from now on.
    pub(crate) fn forget_seen(&self) {
        self.seen.forget();
    }

    /// Signs a record that this server made.
    ///
    /// # Errors
    /// The record breaks a rule.
    pub(crate) fn sign(&self, record: Record) -> Result<SignedRecord, Malformed> {
        SignedRecord::sign(record, &self.key)
    }

    /// The heads that the other servers have seen, if they answer within a second. A manager that lacks one does not
    /// lead.
    pub(crate) async fn survey_before_leading(self: &Arc<Self>) -> Vec<(ServerName, Vec<SignedHeader>)> {
        // The rest is found when a session with them begins.
        let answers = self.ask_all(self.others(), BEFORE_LEADING, Self::answer_of, || false).await;
        let seen = |answer: Answer| answer.seen.into_iter().chain(answer.at).collect();
        answers.into_iter().filter_map(|(name, answer)| Some((name, seen(answer.ok()?)))).collect()
    }

    /// Asks the servers that hints name, and some others while `sessions` shows that no manager talks to this server.
    pub(crate) async fn catch_up(
        self: Arc<Self>,
        mut hints: mpsc::Receiver<Hint>,
        mut sessions: watch::Receiver<usize>,
    ) {
        let mut silence = SILENCE.0;
        let mut due = Instant::now() + silence;
        let mut turn = RandomState::new().hash_one(0) as usize;
        let mut record = self.record.follow();
        loop {
            // No manager talks to a manager: one that it removed or disabled may have superseded it.
            let silent = *sessions.borrow_and_update() == 0;
            tokio::select! {
                hint = hints.recv() => match hint {
                    None => return,
                    Some(Hint::Anyone) => due = due.min(Instant::now() + AGAIN),
                    Some(Hint::Server(name)) => {
                        let others = self.others();
                        let named = others.into_iter().filter(|server| server.name == name);
                        self.ask_for_records(named.collect(), EACH).await;
                        continue;
                    }
                },
                changed = sessions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    (silence, due) = (SILENCE.0, Instant::now() + SILENCE.0);
                    continue;
                }
                changed = record.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // A new manager soon hears what this server holds, if it does not dial first.
                    (silence, due) = (SILENCE.0, Instant::now() + AGAIN);
                    continue;
                }
                () = sleep_until(due), if silent => {}
            }
            sleep_until(due).await;
            self.ask_for_records(self.some(turn), EACH).await;
            turn = turn.wrapping_add(SOME);
            silence = (silence * 2).min(SILENCE.1);
            due = Instant::now() + silence;
        }
    }

    /// The manager and some others: the next ones at each turn.
    fn some(&self, turn: usize) -> Vec<Server> {
        let (managers, others): (Vec<_>, Vec<_>) = self.others().into_iter().partition(|s| s.role == Role::Manager);
        let next = (0..SOME.min(others.len())).map(|n| others[turn.wrapping_add(n) % others.len()].clone());
        managers.into_iter().chain(next).collect()
    }

    /// Sends a record that this server signed, and that names another manager, to that manager until it has it (W18).
    pub(crate) async fn tell(self: Arc<Self>) {
        let mut record = self.record.follow();
        let mut pause = TELL_AGAIN.0;
        loop {
            let current = record.borrow_and_update().clone();
            let own = self.record.own_key();
            let due = current.signer() == own && current.record().manager().key != own;
            let told = async {
                match self.tell_once(&current).await {
                    Ok(()) => std::future::pending().await,
                    Err(why) => {
                        let span = tracing::error_span!("peer", server = %current.record().manager().name);
                        span.in_scope(|| tracing::debug!(why, "it was not told yet"));
                        tokio::time::sleep(pause).await;
                    }
                }
            };
            tokio::select! {
                changed = record.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pause = TELL_AGAIN.0;
                }
                () = told, if due => pause = (pause * 2).min(TELL_AGAIN.1),
            }
        }
    }

    async fn tell_once(&self, current: &SignedRecord) -> Result<(), String> {
        let mut client = self.dial(current.record().manager()).await?;
        let none = Version { epoch: Epoch(0), version: 0 };
        let links: Vec<_> = self.record.since(none).iter().map(SignedRecord::to_wire).collect();
        let told = timeout(TAKE_UP, client.tell(tokio_stream::iter(links)));
        let reply = told.await.map_err(|_| "no answer".to_owned())?.map_err(|status| status.message().to_owned())?;
        let v1::TellReply { epoch, version, leads } = reply.into_inner();
        let version = Version { epoch: Epoch(epoch), version };
        if version < current.record().version {
            return Err(format!("it holds {version}"));
        }
        self.told.send_replace(Some(Told { version, leads }));
        Ok(())
    }
}

/// Collects the records of a stream, within the limits of number and size.
///
/// # Errors
/// The stream fails, or sends something else than records, or too much.
pub(crate) async fn collect(mut records: Streaming<v1::SignedRecord>) -> Result<Vec<SignedRecord>, tonic::Status> {
    let (mut links, mut bytes) = (Vec::new(), 0);
    while let Some(wire) = records.message().await? {
        bytes += wire.record.len();
        if links.len() > limits::CHAIN || bytes > limits::CHAIN_BYTES {
            return Err(tonic::Status::invalid_argument("more records than a chain has"));
        }
        links.push(SignedRecord::from_wire(&wire).map_err(|e| tonic::Status::invalid_argument(e.to_string()))?);
    }
    Ok(links)
}
