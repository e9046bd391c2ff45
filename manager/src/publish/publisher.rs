//! The publisher: the one task that scans, publishes and writes into the sets.
//!
//! It waits for [`PendingChanges`] (filled by the watches), for commands over its channel, for changes of the record,
//! and for its own times: a slow rescan, young files, a full hash. Disk work runs on blocking threads, one at a time,
//! and is always awaited: a started publish ends before the task does. The new head goes to the lanes and to the
//! monitor over the `head` watch and the event channel.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use bellwether_proto::{
    advice::Advise,
    clock::now_ms,
    entry::EntryPath,
    error::chain,
    name::SetName,
    record::{Policy, Publish, SetRules},
    revision::{HOLD, RevisionName},
    status::{Event, SetStatus, Writers},
};
use bellwether_store::{
    history::REVISIONS,
    index,
    scan::{Depth, HardLink, Look, Means, Notice, ScanError, scan},
    tree::{Change, SetTree, Tree},
    watch::{
        Modes, Rescans,
        debounce::Burst,
        pending::{Limits, PendingChanges},
    },
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    failpoints,
    forget::{self, Forget, ForgetError, ForgetPlan, Holds, Searched},
    publish::{
        adopt::{self, Adopt, AdoptError, Adopted, Made},
        batch::{BatchError, BeginBatch, Begun, Running},
        discard::{self, Discard, DiscardError, Discarded},
        head::Head,
        links,
        live::{self, LiveLook},
        own_sets,
        proving::Proving,
        put::{self, Asked, Changed},
        rejection::{self, Rejection},
        rollback::{self, Rollback, RollbackError, RolledBack},
        round::{self, Cause, Changes, Findings, Outcome, Prepared, PublishError, Request, RoundResult},
        waiting::Waiting,
    },
    shared::Shared,
    tasks::stopped,
};

/// The pause before a failed publish is tried again: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The pause before a failed base is tried again.
const BASE_RETRY: Duration = Duration::from_secs(30);
/// The longest pause between two bases that members want. It is otherwise [`BASE_SHARE`] times as long as the last one took to
/// make: a lane waits for it, and a member that refuses every revision costs no more than that share.
const BASE_EVERY: Duration = Duration::from_secs(30);
/// See [`BASE_EVERY`].
const BASE_SHARE: u32 = 20;
/// The pause between a publish and a due base of it.
const QUIET_FOR_BASE: Duration = Duration::from_secs(2);
/// The time for which edits have gone on before the status says so.
const PENDING: Duration = Duration::from_secs(1);
/// The most notices of one set in the status.
const NOTICES: usize = 20;

/// A request to the publisher.
pub(crate) enum Command {
    Publish(Request, oneshot::Sender<Result<Published, PublishError>>),
    Change(Box<Asked>, oneshot::Sender<Result<Changed, put::ChangeError>>),
    /// Reports the unpublished edits, then holds the publisher: until its end if `over` is sent, or until it is
    /// dropped.
    Hold {
        answer: oneshot::Sender<Result<Published, PublishError>>,
        over: oneshot::Receiver<()>,
    },
    Adopt(Box<Adopt>, oneshot::Sender<Result<Adopted, AdoptError>>),
    Rollback(Box<Rollback>, oneshot::Sender<Result<RolledBack, RollbackError>>),
    Discard(Discard, oneshot::Sender<Result<Discarded, DiscardError>>),
    /// Begins a batch; its session ends it.
    Batch(Box<BeginBatch>, oneshot::Sender<Result<Begun, BatchError>>),
    /// Runs this server's own commands again; the answer comes when the monitor shows that.
    Prove(oneshot::Sender<()>),
    /// What a `forget` would erase.
    PlanForget(Forget, oneshot::Sender<Result<ForgetPlan, ForgetError>>),
    /// Erases what the record's notes say; the state of each.
    Erase(oneshot::Sender<Holds>),
    /// The sets as they are now; nothing is published.
    Look(oneshot::Sender<Result<Tree, PublishError>>),
}

/// The result of a publish.
#[derive(Debug, Clone)]
pub struct Published {
    /// The new head; none if nothing was to be published, or with `dry_run`.
    pub revision: Option<bellwether_proto::revision::SignedHeader>,
    /// The differences from the head before.
    pub changes: Changes,
    /// Entries that cannot be published now and stay as in the last revision, as "SET:PATH: why".
    pub unread: Vec<String>,
}

pub(crate) struct Publisher {
    pub(crate) shared: Arc<Shared>,
    pub(crate) dirty: Arc<PendingChanges>,
    /// The sets as last scanned.
    pub(crate) known: Tree,
    pub(crate) modes: watch::Receiver<Modes>,
    /// Receives the findings of rescans.
    pub(crate) rescans: Rescans,
    pub(crate) notices: BTreeSet<Notice>,
    /// Entries that cannot be published as they are, and those that were published while they were open.
    pub(crate) waiting: Waiting,
    /// The means by which open files were last detected in each set.
    pub(crate) means: BTreeMap<SetName, Means>,
    /// Files with more than one name.
    pub(crate) links: BTreeSet<HardLink>,
    /// The last status of the sets that the monitor was told.
    pub(crate) told: Vec<SetStatus>,
    /// The last report on unpublished edits to the monitor.
    pub(crate) unpublished: Option<String>,
    /// Whether the monitor was told that edits go on.
    pub(crate) pending: bool,
    /// Publishes that failed in a row.
    pub(crate) failures: u32,
    /// The commands that have this server's services take the head.
    pub(crate) proving: Proving,
    /// The revision of the burst so far, prepared during the wait for more edits.
    pub(crate) early: Option<(Burst, Prepared)>,
    /// The batch whose command runs.
    pub(crate) batch: Running,
    /// The next look at the live paths.
    pub(crate) live: LiveLook,
    /// What is known of forgotten contents here.
    pub(crate) searched: Searched,
    /// The times at which every entry and every byte are due to be checked.
    pub(crate) times: Times,
}

/// The times of the next due works.
pub(crate) struct Times {
    rescan: Instant,
    full: Instant,
    young: Option<(Instant, Look)>,
    base: Option<Instant>,
    /// When the last base that a member wanted is, or was, due.
    wanted: Option<Instant>,
    /// How long the last base took.
    base_took: Duration,
}

impl Times {
    /// `full_now`: the machine was started since, so stats are not trusted.
    pub(crate) fn new(now: Instant, full_now: bool, full: Duration) -> Self {
        let full = if full_now { now } else { now + full };
        Self { rescan: now + RETRY.0, full, young: None, base: None, wanted: None, base_took: Duration::ZERO }
    }

    /// Notes that a member wants a base.
    fn want_base(&mut self, now: Instant) {
        if self.wanted.zip(self.base).is_some_and(|(coming, base)| base <= coming) {
            // It is due already.
            return;
        }
        let pause = (self.base_took * BASE_SHARE).min(BASE_EVERY);
        let at = self.wanted.map_or(now, |last| now.max(last + pause));
        self.wanted = Some(at);
        self.base = Some(self.base.map_or(at, |base| base.min(at)));
    }
}

pub(super) enum PublishTask {
    /// The prepared one.
    Prepared(Box<Prepared>),
    /// The differences found there.
    Look(Look),
    /// The same, at a person's request.
    Asked(Look, Request),
    /// These edits, which a person requested and which were made in the sets: they were judged before.
    Made(Vec<Change>, Request),
}

impl PublishTask {
    fn why(&self) -> &'static str {
        match self {
            Self::Prepared(_) => "a burst is over: its prepared revision is committed",
            Self::Look(Look::Stats) => "every entry is checked",
            Self::Look(Look::Bytes) => "every byte is read",
            Self::Look(Look::At(_)) => "the changed paths are scanned",
            Self::Asked(..) => "a publish was asked for",
            Self::Made(..) => "a member's edits are published",
        }
    }

    /// Publishes. Blocks.
    fn publish(self, shared: &Arc<Shared>, known: (&Tree, &Waiting)) -> Result<RoundResult, PublishError> {
        let began = Instant::now();
        let prepared = match self {
            Self::Prepared(prepared) => *prepared,
            Self::Look(look) => round::prepare(shared, known, look, &Cause::RoundResult, began)?,
            Self::Asked(look, request) => round::prepare(shared, known, look, &Cause::Asked(request), began)?,
            Self::Made(edits, request) => {
                let look = Look::At(own_sets::places(&edits));
                let prepared = round::prepare(shared, known, look.clone(), &Cause::Judged(request), began)?;
                own_sets::check_found(&prepared, &edits)?;
                return Ok(commit_made(shared, known.0, prepared, &look));
            }
        };
        Ok(round::commit(shared, prepared))
    }
}

/// Commits a change that was made here in order to be published. One that a command refuses is taken out of the sets again.
fn commit_made(shared: &Arc<Shared>, known: &Tree, prepared: Prepared, look: &Look) -> RoundResult {
    let found = prepared.tree().clone();
    let mut done = round::commit(shared, prepared);
    if let (Err(PublishError::Rejected(rejection)), Look::At(places)) = (&mut done.outcome, look) {
        put_back(shared, (known, &found), rejection, places);
    }
    done
}

/// Takes a change out of the sets again that a command refuses. Edits of others stay: those that the command saw, too, and those
/// that came over the change meanwhile. `known` are the sets before the change, `found` the ones with it.
fn put_back(
    shared: &Arc<Shared>,
    (known, found): (&Tree, &Tree),
    rejection: &mut Rejection,
    places: &BTreeMap<(SetName, EntryPath), Depth>,
) {
    let look = Look::At(places.clone());
    let now = scan(&shared.sources(), found, &look).map_or_else(|_| found.clone(), |scan| scan.tree);
    let is_ours = |(set, path): &(SetName, EntryPath)| match (now.get(set, path), found.get(set, path)) {
        (Some(now), Some(made)) => now.same(&made),
        (now, made) => now.is_none() && made.is_none(),
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = places.keys().cloned().partition(is_ours);
    let is_made = |change: &Change| places.keys().any(|(set, path)| *set == change.set && change.path.is_within(path));
    let mut others = shared.head.borrow().tree.diff(known);
    others.retain(|change| places.keys().any(|(set, _)| *set == change.set) && !is_made(change));
    rejection.edits = others.iter().map(rejection::name).collect();
    rejection.edits.extend(theirs.iter().map(|(set, path)| format!("{set}:{path}")));
    if ours.is_empty() {
        return;
    }
    if let Err(error) = discard::discard(shared, known, &Discard { places: ours, dry_run: false }) {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "a refused change stays in the manager's sets: bellwether discard");
    }
}

/// Makes a change and publishes it; none if it changes nothing. Blocks.
fn change(
    shared: &Arc<Shared>,
    known: (&Tree, &Waiting),
    asked: &Asked,
    request: Request,
) -> Result<Option<Result<RoundResult, PublishError>>, put::ChangeError> {
    put::judge(shared, asked)?;
    let Some(made) = put::make(shared, asked)? else { return Ok(None) };
    let prepared = round::prepare(shared, known, made.look(), &Cause::Judged(request), Instant::now());
    // After the pack is on the disk: most file systems write both at once.
    made.sync()?;
    if let Ok(prepared) = &prepared {
        // The edit of somebody else would be acknowledged as this change.
        asked.check_found(prepared)?;
    }
    Ok(Some(prepared.map(|prepared| commit_made(shared, known.0, prepared, &made.look()))))
}

impl Publisher {
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut shutdown: watch::Receiver<bool>) {
        let mut record = self.shared.record.clone();
        let mut rollout = self.shared.rollouts.follow();
        let mut policy = policy_of(&self.shared);
        // The known tree is the saved one: the first scan waits for the watches, so no edit is missed.
        let armed = async { drop(self.modes.wait_for(Modes::are_known).await) };
        tokio::select! {
            () = armed => {}
            () = stopped(&mut shutdown) => return,
        }
        self.tell_sets();
        self.tell_batch();
        self.end_hold().await;
        self.proving.begin(&self.shared);
        loop {
            self.tell_pending(Instant::now());
            let next = self.next();
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                command = commands.recv() => match command {
                    Some(command) => self.command(command, &mut shutdown).await,
                    None => break,
                },
                // Never an error: `shared` holds the rollout.
                _ = rollout.changed() => {
                    rollout.mark_unchanged();
                    let now = policy_of(&self.shared);
                    if now != policy {
                        policy = now;
                        self.round(PublishTask::Look(Look::Stats)).await;
                    }
                }
                _ = record.changed() => {
                    record.mark_unchanged();
                    let now = policy_of(&self.shared);
                    if now != policy {
                        policy = now;
                        self.round(PublishTask::Look(Look::Stats)).await;
                        self.end_hold().await;
                    }
                }
                () = self.shared.base_wanted.notified() => self.times.want_base(Instant::now()),
                ending = self.batch.ending() => self.end_batch(ending).await,
                () = self.live.due() => self.look_live().await,
                () = self.dirty.changed() => {}
                () = tokio::time::sleep_until(next.into()) => self.due().await,
            }
        }
        self.save().await;
    }

    /// Takes the mark of a hold from the head if nobody holds watching any more, and no edit has done so.
    async fn end_hold(&self) {
        let is_over = {
            let (head, record) = (self.shared.head.borrow(), self.shared.record.borrow());
            head.stored.header.header().labels.contains_key(HOLD) && !record.record().policy.paused
        };
        if !is_over || self.shared.undisputed().is_err() {
            return;
        }
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || round::end_hold(&shared)).await {
            Ok(Ok(head)) => self.announce(&Arc::new(head)),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the next pause holds watching, too, until an edit is published");
            }
            Err(_) => {}
        }
    }

    fn limits(&self) -> Limits {
        let record = self.shared.record.borrow();
        let Policy { quiet_max_ms, open_max_ms, .. } = record.record().policy;
        Limits { quiet: Duration::from_millis(quiet_max_ms), open: Duration::from_millis(open_max_ms) }
    }

    fn next(&self) -> Instant {
        let Times { rescan, full, young, base, wanted: _, base_took: _ } = &self.times;
        let dirty = self.dirty.due(self.limits());
        let young = young.as_ref().map(|(at, _)| *at);
        [self.early_at(), dirty, young, *base, self.waiting.due(), self.pending_at()]
            .into_iter()
            .flatten()
            .fold((*rescan).min(*full), Instant::min)
    }

    /// The time at which edits have gone on for long, unless the monitor was told; none: they do not become a revision by themselves.
    fn pending_at(&self) -> Option<Instant> {
        let began = self.dirty.began().filter(|_| !self.pending)?;
        self.shared.publishes_by_itself().then_some(began + PENDING)
    }

    /// Tells the monitor when edits have gone on for long, and when they have become a revision.
    fn tell_pending(&mut self, now: Instant) {
        let long = self.dirty.began().is_some_and(|began| began + PENDING <= now);
        let pending = long && self.shared.publishes_by_itself();
        if self.pending != pending {
            self.pending = pending;
            self.shared.see(Event::Pending(pending));
        }
    }

    /// The time to prepare the burst so far, unless it is prepared.
    fn early_at(&self) -> Option<Instant> {
        let (burst, at) = self.dirty.early()?;
        self.early.as_ref().is_none_or(|(of, _)| *of != burst).then_some(at)
    }

    async fn due(&mut self) {
        let now = Instant::now();
        if self.times.full <= now {
            self.times.full = now + self.shared.timings.full_hash;
            self.dirty.take();
            self.round(PublishTask::Look(Look::Bytes)).await;
            self.save().await;
        } else if self.dirty.due(self.limits()).is_some_and(|at| at <= now) {
            self.waiting.written(self.dirty.written());
            match self.early.take() {
                Some((burst, prepared))
                    if prepared.fits(&self.shared) && self.dirty.take_if(burst, self.limits(), now) =>
                {
                    self.round(PublishTask::Prepared(Box::new(prepared))).await;
                }
                Some(_) | None => {
                    if let Some(look) = self.dirty.take_due(self.limits(), now) {
                        self.round(PublishTask::Look(look)).await;
                    }
                }
            }
        } else if self.early_at().is_some_and(|at| at <= now) {
            self.prepare_early().await;
        } else if self.times.young.as_ref().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, look)) = self.times.young.take() {
                self.round(PublishTask::Look(look)).await;
            }
        } else if let Some(look) = self.waiting.look(now) {
            self.round(PublishTask::Look(look)).await;
        } else if self.times.rescan <= now {
            let (told, before) = (self.dirty.take().is_some(), self.known.clone());
            self.round(PublishTask::Look(Look::Stats)).await;
            if !told {
                self.rescans.found(&before, &self.known);
            }
            self.save().await;
        } else if self.times.base.is_some_and(|at| at <= now) {
            self.base().await;
        }
    }

    async fn command(&mut self, command: Command, shutdown: &mut watch::Receiver<bool>) {
        match command {
            Command::Publish(request, answer) => {
                let _ = answer.send(self.publish(request).await);
            }
            Command::Change(asked, answer) => {
                let _ = answer.send(self.change(asked).await);
            }
            Command::Hold { answer, over } => {
                if let Err(batch) = self.shared.batch.refuse() {
                    let _ = answer.send(Err(batch.into()));
                    return;
                }
                self.dirty.take();
                // Every difference counts, even a refused one.
                let request = Request { dry_run: true, accept: true, ..Request::default() };
                let _ = answer.send(self.asked(PublishTask::Asked(Look::Stats, request)).await);
                tokio::select! {
                    over = over => if over.is_ok() { stopped(shutdown).await },
                    () = stopped(shutdown) => {}
                }
            }
            Command::Adopt(adopt, answer) => {
                let _ = answer.send(self.adopt(*adopt).await);
            }
            Command::Rollback(rollback, answer) => {
                let _ = answer.send(self.rollback(*rollback).await);
            }
            Command::Discard(discard, answer) => {
                let _ = answer.send(self.discard(discard).await);
            }
            Command::Batch(begin, answer) => {
                let _ = answer.send(self.begin_batch(*begin).await);
            }
            Command::Prove(answer) => {
                self.proving.again(&self.shared).await;
                let _ = answer.send(());
            }
            Command::PlanForget(request, answer) => {
                let (shared, known) = (self.shared.clone(), self.known.clone());
                let plan = tokio::task::spawn_blocking(move || forget::plan(&shared, &known, &request)).await;
                let _ = answer.send(plan.unwrap_or(Err(ForgetError::Stopping)));
            }
            Command::Erase(answer) => {
                let _ = answer.send(self.erase().await);
            }
            Command::Look(answer) => {
                // Every difference counts, even a refused one.
                let cause = Cause::Asked(Request { dry_run: true, accept: true, ..Request::default() });
                let _ = answer.send(self.prepare(Look::Stats, cause).await.map(Prepared::into_tree));
            }
        }
    }

    /// Publishes at a person's request, who decides on a batch that ended without a result, too.
    async fn publish(&mut self, request: Request) -> Result<Published, PublishError> {
        let decides = !request.dry_run;
        if decides {
            self.shared.batch.refuse_running()?;
        }
        self.dirty.take();
        let published = self.asked(PublishTask::Asked(Look::Stats, request)).await;
        if decides && published.is_ok() {
            self.trust_sources().await;
            self.lift_batch("a person published its edits").await;
        }
        published
    }

    pub(super) async fn asked(&mut self, work: PublishTask) -> Result<Published, PublishError> {
        let (outcome, unread) = self.attempt(work).await?;
        Ok(match outcome {
            Outcome::Same => Published { revision: None, changes: Changes::default(), unread },
            Outcome::Held(changes) => Published { revision: None, changes, unread },
            Outcome::Published(head, changes) => {
                Published { revision: Some(head.stored.header.clone()), changes, unread }
            }
        })
    }

    async fn change(&mut self, asked: Box<Asked>) -> Result<Changed, put::ChangeError> {
        // Before the file is touched.
        self.shared.undisputed().map_err(put::ChangeError::Disputed)?;
        self.shared.batch.refuse()?;
        if let Some(hold) = self.shared.held() {
            return Err(put::ChangeError::Held(hold));
        }
        if let Some(why) = &self.unpublished {
            return Err(put::ChangeError::Unpublished(why.clone()));
        }
        let (message, author) = (asked.message.clone(), asked.author.clone());
        let request = Request { message, author, accept: asked.accept, ..Request::default() };
        self.early = None;
        let (shared, known, waiting) = (self.shared.clone(), self.known.clone(), self.waiting.clone());
        let work = move || change(&shared, (&known, &waiting), &asked, request);
        let seen = tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::Stopping)??;
        let Some(seen) = seen else { return Ok(Changed { revision: None }) };
        Ok(match self.settle_made(seen).await? {
            (Outcome::Published(head, _), _) => Changed { revision: Some(head.stored.header.clone()) },
            (_, unread) if !unread.is_empty() => return Err(PublishError::Waits(unread.join(", ")).into()),
            (Outcome::Same | Outcome::Held(_), _) => Changed { revision: None },
        })
    }

    async fn adopt(&mut self, adopt: Adopt) -> Result<Adopted, AdoptError> {
        self.shared.undisputed().map_err(AdoptError::Disputed)?;
        self.shared.batch.refuse()?;
        if let Some(hold) = self.shared.held() {
            return Err(AdoptError::Held(hold));
        }
        if let Some(why) = &self.unpublished {
            return Err(AdoptError::Unpublished(why.clone()));
        }
        let (message, author) = (adopt.message.clone(), adopt.author.clone());
        let request = Request { message, author, accept: adopt.accept, ..Request::default() };
        let (shared, known) = (self.shared.clone(), self.known.clone());
        let made = tokio::task::spawn_blocking(move || adopt::make(&shared, &known, &adopt)).await;
        let Made { edits, mut adopted } = made.map_err(|_| PublishError::Stopping)??;
        if !edits.is_empty() {
            let published = self.asked(PublishTask::Made(edits, request)).await?;
            if published.revision.is_none() && !published.unread.is_empty() {
                return Err(PublishError::Waits(published.unread.join(", ")).into());
            }
            adopted.revision = published.revision;
        }
        Ok(adopted)
    }

    async fn rollback(&mut self, rollback: Rollback) -> Result<RolledBack, RollbackError> {
        self.shared.undisputed().map_err(RollbackError::Disputed)?;
        self.shared.batch.refuse()?;
        self.early = None;
        // In place of a stopped revision, earlier content goes to all members at once, whoever asks for it.
        let replaced = self.shared.rollouts.replaceable(&self.shared.head.borrow().stored.header);
        let in_its_place = replaced.filter(|_| rollback.places.is_empty());
        // The one before it may be a refused or an unconfirmed one, too.
        let to = match (in_its_place, rollback.to) {
            (Some(_), RevisionName::Head(1)) => self.shared.rollouts.good().map_or(rollback.to, RevisionName::Number),
            (_, to) => to,
        };
        let rollback = Rollback { to, takes_back: rollback.takes_back.or(in_its_place), ..rollback };
        if !rollback.dry_run {
            // Edits elsewhere, and those that come meanwhile, are found again.
            self.times.rescan = Instant::now();
        }
        let (shared, known, waiting) = (self.shared.clone(), self.known.clone(), self.waiting.clone());
        let work = move || {
            let way = rollback::find(&shared, &rollback)?;
            if way.back.count == 0 || rollback.dry_run {
                way.check(&shared, &known)?;
                return Ok((way.back, None));
            }
            let (look, began) = (way.go(&shared, &known)?, Instant::now());
            // On top of the head: edits elsewhere that are not published are no part of this revision.
            let (head, cause) = (shared.head.borrow().clone(), Cause::Judged(rollback.request(way.back.to)));
            let prepared = round::prepare(&shared, (&head.tree, &waiting), look.clone(), &cause, began);
            if let Ok(prepared) = &prepared {
                way.check_found(prepared)?;
            }
            let done = prepared.map(|prepared| commit_made(&shared, &known, prepared, &look));
            Ok::<_, RollbackError>((way.back, Some(done)))
        };
        let (mut back, seen) = tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::Stopping)??;
        let Some(seen) = seen else { return Ok(back) };
        match self.settle_made(seen).await? {
            (Outcome::Published(head, _), _) => back.revision = Some(head.stored.header.clone()),
            (_, unread) if !unread.is_empty() => return Err(PublishError::Waits(unread.join(", ")).into()),
            (Outcome::Same | Outcome::Held(_), _) => {}
        }
        Ok(back)
    }

    async fn discard(&mut self, discard: Discard) -> Result<Discarded, DiscardError> {
        let (whole, dry_run) = (discard.places.is_empty(), discard.dry_run);
        if !dry_run {
            self.shared.batch.refuse_running()?;
        }
        self.early = None;
        let (shared, known) = (self.shared.clone(), self.known.clone());
        let work = move || {
            let done = discard::discard(&shared, &known, &discard)?;
            // The live paths hold the head, too.
            let (live, sets) = if whole { live::restore(&shared, dry_run)? } else { Default::default() };
            Ok::<_, DiscardError>((done.and(live), sets))
        };
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| DiscardError::Stopping)?;
        if whole && !dry_run && done.is_ok() {
            self.lift_batch("a person dropped its edits").await;
            self.trust_sources().await;
        }
        let done = done.map(|(done, sets)| {
            self.proving.live(&self.shared, &sets);
            done
        });
        if !dry_run {
            // The edits that are left, if any, are found again.
            self.dirty.take();
            self.round(PublishTask::Look(Look::Stats)).await;
        }
        done
    }

    async fn erase(&mut self) -> Holds {
        // A prepared pack is a file that no search finds.
        self.early = None;
        let (shared, known) = (self.shared.clone(), self.known.clone());
        let mut searched = std::mem::take(&mut self.searched);
        let erasing = move || (forget::erase(&shared, &known, &mut searched), searched);
        let (holds, searched) = tokio::task::spawn_blocking(erasing).await.unwrap_or_default();
        self.searched = searched;
        holds
    }

    /// Prepares the publish of the burst, in case no more edits follow.
    async fn prepare_early(&mut self) {
        // The older one is dropped first, to delete its file.
        self.early = None;
        let Some((burst, look)) = self.dirty.peek() else { return };
        tracing::debug!("a burst may be over: its revision is prepared");
        // An error occurs again when the burst is over, and is reported then.
        if let Ok(prepared) = self.prepare(look, Cause::RoundResult).await {
            self.early = Some((burst, prepared));
        }
    }

    pub(super) async fn prepare(&self, look: Look, cause: Cause) -> Result<Prepared, PublishError> {
        let began = Instant::now();
        let (shared, known, waiting) = (self.shared.clone(), self.known.clone(), self.waiting.clone());
        let work = move || round::prepare(&shared, (&known, &waiting), look, &cause, began);
        tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::Stopping)?
    }

    pub(super) async fn round(&mut self, work: PublishTask) {
        if matches!(work, PublishTask::Look(Look::Stats | Look::Bytes)) {
            self.times.rescan = Instant::now() + self.rescan_in();
        }
        let told = self.unpublished.clone();
        let Err(error) = self.attempt(work).await else {
            self.failures = 0;
            return;
        };
        if self.unpublished != told {
            tracing::warn!(error = &error as &dyn std::error::Error, "not published");
        }
        if !matches!(error, PublishError::Frightening(_)) {
            self.times.rescan = Instant::now() + RETRY.0.saturating_mul(1 << self.failures.min(5)).min(RETRY.1);
            self.failures += 1;
        }
    }

    fn rescan_in(&self) -> Duration {
        let timings = &self.shared.timings;
        let often = self.modes.borrow().need_rescans();
        let interval = if often { timings.rescan_unwatched } else { timings.rescan };
        // Up to a tenth later, so that machines started together do not scan together.
        interval + interval / 10 * ((RandomState::new().hash_one(0) % 100) as u32) / 100
    }

    /// One publish, with any result. It must not be cancelled: a new head would be durable but not announced.
    async fn attempt(&mut self, work: PublishTask) -> Result<(Outcome, Vec<String>), PublishError> {
        self.early = None;
        tracing::debug!("{}", work.why());
        let made = matches!(work, PublishTask::Made(..));
        let (shared, known, waiting) = (self.shared.clone(), self.known.clone(), self.waiting.clone());
        let publish = move || work.publish(&shared, (&known, &waiting));
        let seen = tokio::task::spawn_blocking(publish).await.map_err(|_| PublishError::Stopping)?;
        let is_whole = seen.as_ref().is_ok_and(|seen| matches!(seen.looked, Look::Stats | Look::Bytes));
        let settled = if made { Box::pin(self.settle_made(seen)).await } else { self.settle(seen) };
        if is_whole && matches!(settled, Ok((Outcome::Same, _))) {
            self.trust_sources().await;
        }
        settled
    }

    /// Takes the findings of a publish; returns its outcome, and the entries that could not be published, for people.
    fn settle(&mut self, seen: Result<RoundResult, PublishError>) -> Result<(Outcome, Vec<String>), PublishError> {
        let unread = seen.as_ref().map(|seen| seen.found.waits()).unwrap_or_default();
        let outcome = seen.and_then(|seen| self.take(seen));
        match &outcome {
            Ok(Outcome::Published(head, _)) => {
                let before = self.shared.head.borrow().tree.clone();
                self.announce(head);
                self.proving.head(&self.shared, head, &before);
                self.live.soon();
            }
            Ok(Outcome::Same) => tracing::debug!("nothing differs from the head"),
            Ok(Outcome::Held(changes)) => tracing::debug!(changes = changes.count, "not published without a request"),
            Err(error) => tracing::debug!(error = error as &dyn std::error::Error, "not published now"),
        }
        self.tell_unpublished(&outcome);
        outcome.map(|outcome| (outcome, unread))
    }

    /// As [`Self::settle`], for a change that was made here to be published. One that a command refuses is out of the sets again:
    /// they are looked at, so that nothing is called unpublished that is not there.
    async fn settle_made(
        &mut self,
        seen: Result<RoundResult, PublishError>,
    ) -> Result<(Outcome, Vec<String>), PublishError> {
        let settled = self.settle(seen);
        if matches!(settled, Err(PublishError::Rejected(_))) {
            self.dirty.take();
            self.round(PublishTask::Look(Look::Stats)).await;
        }
        settled
    }

    fn take(&mut self, seen: RoundResult) -> Result<Outcome, PublishError> {
        let RoundResult { looked, tree, found, outcome, base_due } = seen;
        if base_due && self.times.base.is_none() {
            // Not before the burst that made this head is over.
            self.times.base = Some(Instant::now() + QUIET_FOR_BASE);
        }
        self.known = tree;
        if !found.young.is_empty() {
            // The second scan covers the events of the entries that were just read.
            self.dirty.forget(&found.young);
            self.times.young = Some((Instant::now() + self.shared.timings.young, Look::At(found.young.clone())));
        }
        self.take_found(&looked, found);
        self.tell_sets();
        outcome
    }

    fn take_found(&mut self, looked: &Look, found: Findings) {
        let kept = |set: &SetName, path: &EntryPath| match looked {
            Look::Stats | Look::Bytes => false,
            Look::At(paths) => paths.keys().all(|(of, above)| of != set || !path.is_within(above)),
        };
        self.notices.retain(|notice| kept(&notice.set, &notice.path));
        self.notices.extend(found.notices);
        self.links.retain(|link| kept(&link.set, &link.path));
        self.links.extend(found.links);
        self.rescans.scanned(&self.known, &mut self.links);
        for set in self.known.sets().iter().map(|set| &set.rules.name) {
            let told = |note: &String| self.told.iter().any(|told| told.name == *set && told.notices.contains(note));
            if let Some(note) = links::notice(set, &self.links).filter(|note| !told(note)) {
                tracing::warn!(%set, note);
            }
        }
        self.means.extend(found.means);
        let bound = self.limits().open;
        self.waiting.take(looked, &found.unread, &found.open, bound, (Instant::now(), now_ms()));
    }

    fn announce(&self, head: &Arc<Head>) {
        let header = head.stored.header.clone();
        let _span = tracing::error_span!("publish", revision = %header.number()).entered();
        tracing::info!("published");
        // The monitor is told while the head is locked: before any lane reports this revision or any observer sees it.
        self.shared.head.send_modify(|now| {
            *now = head.clone();
            self.shared.see(Event::Head {
                number: header.number(),
                time_ms: header.header().time_ms,
                message: header.header().message.clone(),
            });
        });
        failpoints::hit("publish.announced");
    }

    fn tell_unpublished(&mut self, outcome: &Result<Outcome, PublishError>) {
        let now = match outcome {
            // Reported with its set.
            Ok(Outcome::Same | Outcome::Published(..)) | Err(PublishError::Scan(ScanError::Elsewhere { .. })) => None,
            Ok(Outcome::Held(changes)) => {
                let entries = if changes.count == 1 { "entry differs" } else { "entries differ" };
                let batch = self.shared.batch.now().map(|batch| match batch.is_running() {
                    true => format!("they are held until the end of the batch of {} ({})", batch.owner, batch.command),
                    false => "to publish them: bellwether publish; to drop them: bellwether discard".to_owned(),
                });
                let stale = || {
                    self.shared.live.holds().then(|| "the source may be older than the head; to publish it all the same: bellwether publish; to drop what differs: bellwether discard".to_owned())
                };
                let next =
                    batch.or_else(stale).unwrap_or_else(|| match (self.shared.holds_watching(), self.shared.held()) {
                        (true, _) => "watching is held until: bellwether resume".to_owned(),
                        (false, Some(hold)) => format!(
                            "{hold}; to publish them all the same: bellwether publish; to drop them: bellwether discard"
                        ),
                        (false, None) => "publish: bellwether publish".to_owned(),
                    });
                Some(format!("{} {entries} from the head; {next}", changes.count))
            }
            Err(error) => Some(match error.advice() {
                Some(advice) => format!("{}; {}", chain(error), advice.hint),
                None => chain(error),
            }),
        };
        if self.unpublished != now {
            self.unpublished = now.clone();
            self.shared.see(Event::Unpublished(now));
        }
    }

    /// Tells the monitor of the sets if they changed.
    fn tell_sets(&mut self) {
        let status: Vec<SetStatus> = self.known.sets().iter().map(|set| self.status_of(set)).collect();
        if self.told != status {
            self.told.clone_from(&status);
            self.shared.see(Event::Sets(status));
        }
    }

    fn status_of(&self, set: &SetTree) -> SetStatus {
        let name = &set.rules.name;
        let (unread_entries, unread) = self.waiting.unread(name, NOTICES);
        SetStatus {
            name: name.clone(),
            // The monitor adds it.
            watching: String::new(),
            entries: set.root.as_ref().map_or(0, |root| root.entries()),
            notices: self.notices_of(name),
            unread_entries,
            unread,
            open: self.waiting.open(name, NOTICES),
            writers: self.means.get(name).map(|means| match means {
                Means::Lease => Writers::Lease,
                Means::Descriptors => Writers::Descriptors,
                Means::None => Writers::Unknown,
            }),
        }
    }

    fn notices_of(&self, set: &SetName) -> Vec<String> {
        let ours = self.notices.iter().filter(|notice| notice.set == *set);
        let more = ours.clone().count().saturating_sub(NOTICES);
        let lines = ours.take(NOTICES).map(|notice| format!("{}:{}: {}", notice.set, notice.path, notice.what));
        lines.chain((more > 0).then(|| format!("and {more} more"))).chain(links::notice(set, &self.links)).collect()
    }

    async fn base(&mut self) {
        let shared = self.shared.clone();
        let span = tracing::error_span!("base", revision = %shared.head.borrow().stored.header.number());
        let within = span.clone();
        let build = move || {
            within.in_scope(|| {
                tracing::debug!("a base of the head is due");
                round::base(&shared, REVISIONS)
            })
        };
        let began = Instant::now();
        let built = tokio::task::spawn_blocking(build).await;
        let _span = span.entered();
        (self.times.base, self.times.base_took) = (None, began.elapsed());
        match built {
            // Lanes that wait for it plan anew.
            Ok(Ok(())) => self.shared.head.send_modify(|_| {}),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no base was built; it is tried again");
                self.times.base = Some(Instant::now() + BASE_RETRY);
            }
            Err(_) => {}
        }
    }

    /// Saves the known tree, so that the next start need not read every file again. Losing it costs only that.
    async fn save(&self) {
        let (path, known) = (self.shared.state.join("index"), self.known.clone());
        let roots = self.shared.roots.clone();
        let save = move || {
            if let Err(error) = roots.save() {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the roots of the sets were not saved");
            }
            index::save(&path, &known)
        };
        let saved = tokio::task::spawn_blocking(save).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(error = &error as &dyn std::error::Error, "the index was not saved");
        }
    }
}

/// The parts of the policy that affect a publish, and whether the rollout of the head holds it back.
fn policy_of(shared: &Shared) -> (Vec<SetRules>, Publish, bool, bool) {
    let is_held = shared.held().is_some();
    let record = shared.record.borrow();
    let policy = &record.record().policy;
    (policy.sets.clone(), policy.publish, policy.paused, is_held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_is_wanted_comes_soon_but_costs_no_more_than_its_share() {
        let start = Instant::now();
        let mut times = Times::new(start, false, Duration::from_secs(3_600));
        let mut built = |now: Instant, took: u64| {
            times.want_base(now);
            times.want_base(now);
            times.base_took = Duration::from_millis(took);
            times.base.take().map(|base| base - start)
        };
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(built(start, 5), ms(0));
        assert_eq!(built(start + Duration::from_millis(10), 5), ms(100), "one that is soon made comes soon again");
        assert_eq!(built(start + Duration::from_secs(1), 60_000), ms(1_000));
        assert_eq!(built(start + Duration::from_secs(2), 5), ms(31_000), "no pause is longer");
    }
}
