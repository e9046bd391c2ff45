//! The tasks of `bellwether serve`.
//!
//! One task folds events into the farm's status, and is the only writer of the `farm` watch. One serves other servers over
//! mutual TLS, one serves commands on the Unix socket, one serves the http port, and one serves HAProxy's agent checks. One
//! tries the balancers (`crate::run::balancers`). One runs this server's role (`crate::run::role`). Two talk to other servers
//! about the group record (`crate::net::peers`). One drives procedures ([`bellwether_group::procedure`]). The `stop` watch
//! ends all tasks, and the agent waits for each. If a task ends earlier ([`bellwether_manager::tasks`]), the agent names it
//! and ends, to be started again. A panic on any thread does the same (`ends.rs`).

pub(crate) mod balancers;
mod commands;
pub mod core_dumps;
pub mod descriptors;
mod ended;
pub mod ends;
pub mod executor;
pub(crate) mod leadership;
pub(crate) mod ready;
pub mod rebuild;
pub mod role;

use bellwether_proto::{
    advice::Outcome,
    clock::now_ms,
    key::{KeyPair, PublicKey},
    limits,
    name::ServerName,
    ready::Ready,
    status::{Event, FarmStatus},
    v1::{
        StatusRequest, admin_server::AdminServer, batches_server::BatchesServer, edited_server::EditedServer,
        group_server::GroupServer, past_server::PastServer, push_server::PushServer,
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwether_manager::{
    balancer::Locals,
    procedures::{runner, store::ProcedureStore},
    tasks::{Alarm, Guard},
};
use bellwether_monitor::{
    agent_check,
    farm::{Farm, differing},
    http,
};
use bellwether_store::state::{
    known_heads::KnownHeads,
    layout::{Held, Layout},
    record::GroupRecord,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::{
    balancers::Probe,
    executor::AgentExecutor,
    leadership::{ByRecord, Duty, Leadership},
    role::{Parts, Roles, Standing},
};
use crate::{
    config::{self, Config},
    net::{
        advertised,
        peers::{Hint, Peers},
        push, socket, tls,
    },
    services::{
        Agent, ManagersWord,
        access::Access,
        admin::AdminService,
        batch::BatchService,
        drift::{Caller, DriftService},
        group::GroupService,
        past::PastService,
        procedures,
    },
    state::{confirmed::Confirmed, identity, incarnation, lock::Lock},
};

pub use self::ended::Ended;

/// The options of the daemon.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Completes a switch that a crash interrupted, and ends. This runs before the services whose configuration it is.
    pub recover_only: bool,
    /// Stops at the end of standard input, because the program that started the agent is gone.
    pub until_eof: bool,
}

/// The time limit for the end of open calls when the agent stops.
const GRACE: Duration = Duration::from_secs(2);
/// The time limit for the end of the other tasks after one has ended too early.
const LAST: Duration = Duration::from_secs(20);
/// The number of servers that may tell their newer records at the same time.
const TELLING: usize = 2;
/// The capacity of the channels between the agent's own tasks.
const INPUTS: usize = 4;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// The agent cannot start, or cannot go on.
pub async fn run(config: Config, options: Options) -> Result<(), Ended> {
    let descriptors = match descriptors::raise() {
        Ok(limit) => limit,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files stays as it is");
            descriptors::soft_limit()
        }
    };
    let layout = Layout::new(config.state_dir.clone());
    identity::prepare(&layout).map_err(|e| Ended::refused(&e))?;
    let _lock = Lock::take(&layout, "serve").map_err(|e| Ended::refused(&e))?;
    layout.check_levels().map_err(|e| Ended::refused(&e))?;
    ends::end_at_a_panic(layout.state().to_owned());
    let (key, held) = group(&layout)?;
    if options.recover_only {
        return recover_only(&layout, &config, &held, &key.public());
    }
    for warning in differing(config.sets.iter().map(|set| &set.name), &held.current.record().policy.sets) {
        tracing::warn!("{warning}");
    }
    let alarm = Alarm::default();
    let (stop, stopped) = watch::channel(false);
    stop_on_signal(&stop, &alarm)?;
    if options.until_eof {
        stop_at_the_end_of_input(stop.clone());
    }
    let (events, observed) = mpsc::unbounded_channel();
    let (ready_to, ready) = watch::channel(Ready::no("starting"));
    let (folded, awaited) = mpsc::channel(INPUTS);
    let mut farm = Farm::new(config.name.clone()).of_key(key.public());
    farm.configure(config.sets.iter().map(|set| set.name.clone()).collect());
    let farm = fold(farm, observed, awaited, &alarm, &stopped);
    let mut kept_out = ends::KeptOut::new(layout.state().to_owned(), events.clone());
    kept_out.look();
    let record = Arc::new(GroupRecord::new(layout.clone(), key.public(), held, events.clone()));
    let bound = Bound::bind(&config).await?;
    let names = names(&config);

    let seen = Arc::new(KnownHeads::default());
    seen.remember(&layout, |header| record.is_managers(header));
    let incarnation = incarnation::next(&layout).map_err(|e| Ended::failed(&e))?;
    let peers = Arc::new(Peers::new(key.clone(), record.clone(), seen.clone(), incarnation));
    let mut leadership = ByRecord { record: record.follow(), own: key.public() };
    let mut claims = Vec::new();
    if let Duty::Lead(_) = leadership.duty() {
        peers.ask_before_leading().await;
        claims = peers.survey_before_leading().await;
    }
    let (rebuilds_to, rebuilds) = mpsc::channel(1);
    let (standing_to, standing) = watch::channel(Standing::Changing);
    let (newer, behind) = mpsc::channel(INPUTS);
    let sessions = watch::Sender::new(0);
    let procedure_store = ProcedureStore::open(layout.procedures(), config.name.clone(), key.clone());
    let procedure_store = Arc::new(procedure_store.map_err(|e| Ended::failed(&e))?);
    let (name, file, seeing) = (config.name.clone(), config.file.clone(), events.clone());
    let (balancers, reach) = (Locals::new(config.balancers.iter().cloned()), watch::Sender::default());
    let reached = reach.subscribe();
    let (locals, telling) = (balancers.clone(), events.clone());
    let probe = Probe { name: name.clone(), record: record.clone(), locals: locals.clone(), events: telling, reach };
    let inspecting = commands::tell(config.sets.clone());
    let parts = Parts {
        config,
        layout: layout.clone(),
        key: key.clone(),
        record: record.clone(),
        events,
        ready: ready_to,
        seen: seen.clone(),
        sessions: sessions.clone(),
        newer,
        procedure_store: procedure_store.clone(),
        balancers,
        peers: peers.clone(),
        incarnation,
        claims,
        rebuilds,
        alarm: alarm.clone(),
    };
    let roles = Roles::begin(parts, leadership, standing_to).await.map_err(|e| Ended::failed(&e))?;
    let leaving = AtomicBool::new(false);
    let (stop_to, peers_to, recovery) = (stop.clone(), peers.clone(), layout.recovery());
    let agent = Arc::new(Agent {
        name,
        record,
        standing,
        peers,
        seen: seen.clone(),
        procedure_store: procedure_store.clone(),
        locals,
        events: seeing,
        farm,
        told: ManagersWord::default(),
        folded,
        telling: Semaphore::new(TELLING),
        rebuilds: rebuilds_to,
        alarm: alarm.clone(),
        stop: stop_to,
        recovery,
        leaving,
    });

    let (hints_to, hints) = mpsc::channel(INPUTS);
    let running = alarm.spawn("role", &stopped, roles.run(stopped.clone()));
    let driving = runner::run(procedure_store.clone(), Arc::new(AgentExecutor::new(agent.clone())), stopped.clone());
    let driving = alarm.spawn("procedures", &stopped, driving);
    let (shown, in_service) = watch::channel(Ready::no("starting"));
    // This is cancelled at the end, at any await, because it keeps nothing.
    let catching_up = peers_to.clone().catch_up(hints, sessions.subscribe());
    let within = Duration::from_secs(agent.record.current().record().policy.ready_after_s);
    let confirmed = Arc::new(Confirmed::open(&layout, within));
    let readiness = ready::run(peers_to.clone(), confirmed.clone(), agent.record.follow(), ready, shown);
    let advertising = advertised::run(key.public(), file, agent.record.follow());
    let talking = [
        tokio::spawn(knock(agent.clone())),
        alarm.spawn("hints", &stopped, pass_hints(behind, hints_to.clone())),
        alarm.spawn("peers", &stopped, catching_up),
        alarm.spawn("telling", &stopped, peers_to.tell()),
        alarm.spawn("readiness", &stopped, readiness),
        alarm.spawn("advertised", &stopped, advertising),
        alarm.spawn("shown procedures", &stopped, procedures::watch(agent.clone())),
        alarm.spawn("balancers", &stopped, probe.run()),
        alarm.spawn("seen", &stopped, seen.clone().keep(layout.clone())),
        alarm.spawn("quarantine", &stopped, kept_out.run()),
        // This one ends by itself.
        tokio::spawn(inspecting),
    ];
    let push = push::PushService::new(agent.record.clone(), agent.standing.clone(), hints_to, procedure_store, reached);
    let checked = in_service.clone();
    let router = http::router(names, agent.clone(), in_service);
    let serving = serve(bound, &key, &agent, push, (router, checked), descriptors, (&stop, &alarm));
    // This is cancelled only at the end of the agent; the callers ask again.
    let served = tokio::select! {
        served = serving => served,
        task = alarm.raised() => Err(missed(&layout, task)),
    };
    stop.send_replace(true);
    talking.iter().for_each(JoinHandle::abort);
    if let Err(error) = driving.await {
        tracing::error!(%error, "the task of the procedures failed");
    }
    if let Err(error) = running.await {
        tracing::error!(%error, "the task of the role failed");
    }
    seen.save(&layout);
    confirmed.keep(&layout);
    if agent.leaving.load(Ordering::SeqCst) {
        layout.forget().map_err(|e| Ended::failed(&e))?;
    }
    served
}

/// Ends the agent, which is of no use without that task. The other tasks are ended in order, but the wait is limited, because
/// they may wait for the task that has ended.
fn missed(layout: &Layout, task: &str) -> Ended {
    ends::note(layout.state(), task, "it ended unasked");
    std::thread::spawn(|| {
        std::thread::sleep(LAST);
        std::process::exit(1);
    });
    Ended::new(Outcome::Failed, format!("the task '{task}' ended unasked; the agent ends, to be started again"))
}

/// Passes on, from a manager's lanes, the servers that have seen a newer record.
async fn pass_hints(mut behind: mpsc::Receiver<ServerName>, hints: mpsc::Sender<Hint>) {
    while let Some(server) = behind.recv().await {
        if hints.send(Hint::Server(server)).await.is_err() {
            return;
        }
    }
}

fn group(layout: &Layout) -> Result<(Arc<KeyPair>, Held), Ended> {
    let none = || {
        Ended::new(Outcome::Refused, "this machine belongs to no group")
            .hint("form one here with `bellwether init`, or enter one with `bellwether join TOKEN`")
    };
    let held = layout.held().map_err(|e| Ended::failed(&e))?.ok_or_else(none)?;
    let key = identity::load(layout).map_err(|e| Ended::refused(&e).hint(e.hint()))?.ok_or_else(none)?;
    Ok((Arc::new(key), held))
}

fn recover_only(layout: &Layout, config: &Config, held: &Held, key: &PublicKey) -> Result<(), Ended> {
    let (paths, edited, commands) = (role::paths(config), role::edited(config), role::commands(config));
    let recovered = bellwether_member::recover(layout, (&paths, &edited), &commands, held.current.record(), key);
    recovered.map(drop).map_err(|e| {
        Ended::failed(&e).hint("everything was left as it is; repair the cause, and give the command again")
    })
}

/// Asks the manager for its status after a member's start, so that the manager dials this member at once. If that fails, the
/// manager dials it later.
async fn knock(agent: Arc<Agent>) {
    if let Standing::Member(following) = agent.standing() {
        let _ = following.link.ask(|mut manager| async move { manager.status(StatusRequest {}).await }).await;
    }
}

/// Stops the agent at SIGTERM or SIGINT.
fn stop_on_signal(stop: &watch::Sender<bool>, alarm: &Alarm) -> Result<(), Ended> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).map_err(|e| Ended::failed(&e))?;
        let stop = stop.clone();
        alarm.spawn("signals", &stop.subscribe(), async move {
            signal.recv().await;
            tracing::info!("stopping");
            stop.send_replace(true);
        });
    }
    Ok(())
}

/// Stops the agent at the end of standard input, which the system closes if the program at the other end dies.
fn stop_at_the_end_of_input(stop: watch::Sender<bool>) {
    // This is a thread and no task, because a blocked read cannot be cancelled.
    std::thread::spawn(move || {
        let ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tracing::info!(?ended, "standard input has ended: stopping");
        stop.send_replace(true);
    });
}

/// Folds events into the farm's status, and renews the status once a second, since lags grow with the time.
fn fold(
    mut farm: Farm,
    mut seen: mpsc::UnboundedReceiver<Event>,
    mut awaited: mpsc::Receiver<oneshot::Sender<()>>,
    alarm: &Alarm,
    stop: &watch::Receiver<bool>,
) -> watch::Receiver<Arc<FarmStatus>> {
    let (to, from) = watch::channel(Arc::new(farm.status(now_ms())));
    alarm.spawn("status", stop, async move {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            let mut waiting = None;
            tokio::select! {
                Some(waits) = awaited.recv() => waiting = Some(waits),
                event = seen.recv() => match event {
                    Some(event) => farm.apply(now_ms(), event),
                    None => return,
                },
                _ = second.tick() => {}
            }
            while let Ok(event) = seen.try_recv() {
                farm.apply(now_ms(), event);
            }
            to.send_replace(Arc::new(farm.status(now_ms())));
            if let Some(waiting) = waiting {
                // If this fails, the caller no longer waits.
                let _ = waiting.send(());
            }
        }
    });
    from
}

/// The host names of this server.
fn names(config: &Config) -> http::Names {
    let host = config::hostname();
    let advertised = config.advertise.rsplit_once(':').map_or("", |(host, _)| host);
    let own = [config.name.as_str(), &host, host.split('.').next().unwrap_or_default(), advertised];
    http::Names::new(own.into_iter().chain(config.http_names.iter().map(String::as_str)))
}

/// All ports and sockets of this server, which are bound before anything else begins.
struct Bound {
    servers: TcpListener,
    http: TcpListener,
    agent_check: Option<TcpListener>,
    socket: socket::AdminSocket,
    commands: tokio_stream::wrappers::UnixListenerStream,
}

impl Bound {
    async fn bind(config: &Config) -> Result<Self, Ended> {
        let (socket, commands) = socket::bind(&config.admin_socket).await.map_err(|e| Ended::refused(&e))?;
        let agent_check = match config.agent_check {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let (servers, http) = (listen(config.listen).await?, listen(config.http).await?);
        Ok(Self { servers, http, agent_check, socket, commands })
    }
}

/// A listener at `address`.
///
/// # Errors
/// Another program has the port, or the address is not this machine's.
pub async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Ended> {
    TcpListener::bind(address).await.map_err(|e| {
        Ended::new(Outcome::Failed, format!("cannot listen on {address}: {e}"))
            .hint("another program has the port, or the address is not this machine's; `bellwether doctor` shows more")
    })
}

async fn serve(
    bound: Bound,
    key: &Arc<KeyPair>,
    agent: &Arc<Agent>,
    push: push::PushService,
    (router, ready): (axum::Router, watch::Receiver<Ready>),
    descriptors: u64,
    (stop, alarm): (&watch::Sender<bool>, &Alarm),
) -> Result<(), Ended> {
    let Bound { servers, http, agent_check, socket, commands } = bound;
    let tls = tls::ServerTls::new(key).map_err(|e| Ended::failed(&e))?;
    let group = GroupServer::new(GroupService(agent.clone()))
        .max_decoding_message_size(limits::MESSAGE)
        .max_encoding_message_size(limits::MESSAGE);
    let push = PushServer::new(push).max_decoding_message_size(limits::MESSAGE);
    let asked = DriftService::new(agent.clone(), key.clone());
    let drift = |caller| {
        EditedServer::new(asked.asked_by(caller))
            .max_decoding_message_size(limits::MESSAGE)
            .max_encoding_message_size(limits::MESSAGE)
    };
    let past = |caller| {
        PastServer::new(PastService::new(agent.clone(), caller))
            .max_decoding_message_size(limits::MESSAGE)
            .max_encoding_message_size(limits::MESSAGE)
    };
    let record = agent.record.clone();
    let known = move |key: &PublicKey| record.current().record().by_key(key).is_some();
    let servers = tls::incoming(servers, tls).knowing(descriptors::for_servers(descriptors), known);
    let for_servers = tls::service()
        .layer(Access::new(agent.record.clone()))
        .add_service(group)
        .add_service(drift(Caller::Server))
        .add_service(past(Caller::Server))
        .add_service(push)
        .serve_with_incoming_shutdown(servers, stopped(stop));
    let admin = AdminServer::new(AdminService(agent.clone()))
        .max_decoding_message_size(limits::MESSAGE)
        .max_encoding_message_size(limits::MESSAGE);
    let admin = tonic::service::interceptor::InterceptedService::new(admin, socket::only_owner);
    let drift = tonic::service::interceptor::InterceptedService::new(drift(Caller::Command), socket::only_owner);
    let past = tonic::service::interceptor::InterceptedService::new(past(Caller::Command), socket::only_owner);
    let batches = BatchesServer::with_interceptor(BatchService(agent.clone()), socket::only_owner);
    let for_commands = tonic::transport::Server::builder()
        .add_service(admin)
        .add_service(drift)
        .add_service(past)
        .add_service(batches)
        .serve_with_incoming_shutdown(socket::placed(commands), stopped(stop));
    let for_browsers = async {
        http::serve(http, router, stopped(stop)).await;
        Ok(())
    };
    let for_balancers = async {
        match agent_check {
            Some(listener) => agent_check::serve(listener, ready, stopped(stop)).await,
            None => stopped(stop).await,
        }
        Ok(())
    };
    tracing::info!(name = %agent.farm.borrow().observer, "serving");
    let straggling = async {
        stopped(stop).await;
        tokio::time::sleep(GRACE).await;
    };
    let result = tokio::select! {
        result = async {
            // If one of these ends too early, the alarm is raised, regardless of the others.
            let named = |name| alarm.guard(name, &stop.subscribe());
            let servers = until_its_end(named("servers' port"), flat(for_servers));
            let commands = until_its_end(named("admin socket"), flat(for_commands));
            let browsers = until_its_end(named("http port"), for_browsers);
            let balancers = until_its_end(named("agent checks"), for_balancers);
            tokio::try_join!(servers, commands, browsers, balancers)
        } => result.map(drop),
        // Open streams (a monitor, a push) do not end by themselves.
        () = straggling => Ok(()),
    };
    drop(socket);
    result
}

async fn until_its_end<T>(_guard: Guard, serving: impl Future<Output = T>) -> T {
    serving.await
}

async fn flat<E: std::error::Error + 'static>(serving: impl Future<Output = Result<(), E>>) -> Result<(), Ended> {
    serving.await.map_err(|e| Ended::failed(&e))
}

fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = stop.subscribe();
    async move {
        // An error means that no sender is left.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}
