//! What `bellwether serve` runs.
//!
//! Tasks: one folds events into the farm's status (it alone writes the `farm` watch); one serves other servers over mutual
//! TLS; one serves commands on the Unix socket; one serves the http port; and this server's role: the manager's tasks
//! ([`bellwether_manager`]), or the member's thread with the watch that feeds it (`crate::member`). The `stop` watch
//! ends them all; each is waited for.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwether_manager::{Dial, Manager, balancer::Locals};
use bellwether_monitor::{
    farm::Farm,
    http::{self, Ready},
};
use bellwether_proto::{
    key::KeyPair,
    limits,
    name::SetName,
    record::Server,
    status::{Event, FarmStatus},
    v1::{StatusRequest, admin_server::AdminServer, group_server::GroupServer, push_server::PushServer},
};
use bellwether_store::tree::Tree;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};
use tonic::transport::Channel;

use crate::{
    clock::now_ms,
    config::Config,
    error::{CommandError, Kind, chain},
    group::GroupRecord,
    identity, incarnation,
    layout::{Held, Layout},
    lock::Lock,
    member,
    services::{Agent, Standing, admin::AdminService, door::Door, group::GroupService, link::ManagerLink},
    socket, tls,
};

/// How the daemon is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Finish what a crash interrupted, then end; ordered before the services whose configuration it is.
    pub recover_only: bool,
}

/// How long open calls may take to end when the agent stops.
const GRACE: Duration = Duration::from_secs(2);
/// Inputs that may wait for the member's thread.
const INPUTS: usize = 4;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// It cannot start, or cannot go on.
pub async fn run(config: Config, options: Options) -> Result<(), CommandError> {
    let layout = Layout::new(config.state_dir.clone());
    identity::prepare(&layout).map_err(|e| CommandError::refused(&e))?;
    let _lock = Lock::take(&layout, "serve").map_err(|e| CommandError::refused(&e))?;
    let (key, held) = group(&layout)?;
    let paths: BTreeMap<SetName, PathBuf> =
        config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect();
    if options.recover_only {
        return recover_only(&layout, &paths, &held);
    }
    let stop = stop_on_signal()?;
    let (events, seen) = mpsc::unbounded_channel();
    let (ready_to, ready) = watch::channel(Ready::no("starting"));
    let (folded, awaited) = mpsc::channel(INPUTS);
    let farm = fold(&config, seen, awaited);
    let record = Arc::new(GroupRecord::new(layout.clone(), key.public(), held, events.clone()));
    let bound = Bound::bind(&config).await?;

    let mut member_thread = None;
    let mut watching = None;
    let (standing, push) = if record.current().record().manager().key == key.public() {
        let manager = start_manager(&config, &layout, &key, &record, events, stop.subscribe()).await?;
        ready_to.send_replace(Ready::yes("the manager"));
        (Standing::Manager(manager), None)
    } else {
        let (inputs, received) = mpsc::channel(INPUTS);
        let tree = Arc::<arc_swap::ArcSwap<Tree>>::default();
        let setup = member::Setup {
            name: config.name.clone(),
            paths,
            layout: layout.clone(),
            record: record.clone(),
            events,
            ready: ready_to,
            tree: tree.clone(),
        };
        let member = tokio::task::spawn_blocking(|| member::Member::open(setup)).await;
        let member = member.map_err(|e| CommandError::failed(&e))?.map_err(|e| CommandError::failed(&e))?;
        watching = Some(tokio::spawn(member.watch(inputs.clone(), &stop.subscribe())));
        member_thread = Some(tokio::task::spawn_blocking(move || member.run(received)));
        let service = member::PushService::new(record.clone(), inputs, stop.subscribe());
        (Standing::Member(ManagerLink::new(key.clone(), record.clone(), tree)), Some(service))
    };
    let leaving = AtomicBool::new(false);
    let agent = Arc::new(Agent { record, standing, farm: farm.clone(), folded, stop: stop.clone(), leaving });

    let knocking = tokio::spawn(knock(agent.clone()));
    let served = serve(bound, &key, &agent, push, http::router(farm, ready), &stop).await;
    stop.send_replace(true);
    knocking.abort();
    if let Standing::Manager(manager) = &agent.standing {
        manager.stopped().await;
    }
    if let Some(watching) = watching {
        let _ = watching.await;
    }
    if let Some(thread) = member_thread
        && tokio::time::timeout(10 * GRACE, thread).await.is_err()
    {
        tracing::warn!("the member's thread is still busy; what it does is completed at the next start");
    }
    if agent.leaving.load(Ordering::SeqCst) {
        layout.forget().map_err(|e| CommandError::failed(&e))?;
    }
    served
}

fn group(layout: &Layout) -> Result<(Arc<KeyPair>, Held), CommandError> {
    let none = || {
        CommandError::new(Kind::Refused, "this machine belongs to no group")
            .hint("form one here with `bellwether init`, or enter one with `bellwether join TOKEN`")
    };
    let held = layout.held().map_err(|e| CommandError::failed(&e))?.ok_or_else(none)?;
    let key = identity::load(layout).map_err(|e| CommandError::refused(&e).hint(e.hint()))?.ok_or_else(none)?;
    Ok((Arc::new(key), held))
}

fn recover_only(layout: &Layout, paths: &BTreeMap<SetName, PathBuf>, held: &Held) -> Result<(), CommandError> {
    let recovered = member::recover(layout, paths, held.current.record());
    recovered.map(drop).map_err(|e| {
        CommandError::failed(&e).hint("everything was left as it is; mend what is named, then run it again")
    })
}

/// A member that has started asks its manager for something, so that it is dialled at once and not when the manager would
/// try again. When that fails, it is dialled later.
async fn knock(agent: Arc<Agent>) {
    if let Standing::Member(link) = &agent.standing {
        let _ = link.ask(|mut manager| async move { manager.status(StatusRequest {}).await }).await;
    }
}

/// Ends everything at SIGTERM or SIGINT.
fn stop_on_signal() -> Result<watch::Sender<bool>, CommandError> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = watch::Sender::new(false);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = signal(kind).map_err(|e| CommandError::failed(&e))?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signal.recv().await;
            tracing::info!("stopping");
            stop.send_replace(true);
        });
    }
    Ok(stop)
}

/// Folds events into the farm's status, and makes it anew once a second: lags grow by themselves.
fn fold(
    config: &Config,
    mut seen: mpsc::UnboundedReceiver<Event>,
    mut awaited: mpsc::Receiver<oneshot::Sender<()>>,
) -> watch::Receiver<Arc<FarmStatus>> {
    let mut farm = Farm::new(config.name.clone());
    let (to, from) = watch::channel(Arc::new(farm.status(now_ms())));
    tokio::spawn(async move {
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
                // Gone: it does not wait any more.
                let _ = waiting.send(());
            }
        }
    });
    from
}

/// Everything that this server listens on, bound before anything else begins.
struct Bound {
    servers: TcpListener,
    http: TcpListener,
    socket: socket::AdminSocket,
    commands: tokio_stream::wrappers::UnixListenerStream,
}

impl Bound {
    async fn bind(config: &Config) -> Result<Self, CommandError> {
        let (socket, commands) = socket::bind(&config.admin_socket).await.map_err(|e| CommandError::refused(&e))?;
        Ok(Self { servers: listen(config.listen).await?, http: listen(config.http).await?, socket, commands })
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, CommandError> {
    TcpListener::bind(address).await.map_err(|e| {
        CommandError::new(Kind::Failed, format!("cannot listen on {address}: {e}"))
            .hint("another program has the port, or the address is not this machine's; `bellwether doctor` says more")
    })
}

struct TlsDial(Arc<KeyPair>);

impl Dial for TlsDial {
    fn dial(&self, server: &Server) -> Pin<Box<dyn Future<Output = Result<Channel, String>> + Send>> {
        let (key, address, expected) = (self.0.clone(), server.address.clone(), server.key);
        Box::pin(async move { tls::connect(&key, &address, expected).await.map_err(|e| chain(&e)) })
    }
}

async fn start_manager(
    config: &Config,
    layout: &Layout,
    key: &Arc<KeyPair>,
    record: &Arc<GroupRecord>,
    events: mpsc::UnboundedSender<Event>,
    stop: watch::Receiver<bool>,
) -> Result<Manager, CommandError> {
    let saving = record.clone();
    let setup = bellwether_manager::Setup {
        name: config.name.clone(),
        key: key.clone(),
        sets: config.sets.iter().map(|set| (set.name.clone(), set.path.clone())).collect(),
        state: layout.state().to_owned(),
        record: record.current().as_ref().clone(),
        chain: record.chain(),
        incarnation: incarnation::next(layout).map_err(|e| CommandError::failed(&e))?,
        dial: Arc::new(TlsDial(key.clone())),
        events,
        save_record: Box::new(move |new| saving.save(new)),
        timings: bellwether_manager::Timings::default(),
        balancers: Locals::new(config.balancers.iter().cloned()),
    };
    Manager::start(setup, stop).await.map_err(|e| CommandError::failed(&e))
}

async fn serve(
    bound: Bound,
    key: &KeyPair,
    agent: &Arc<Agent>,
    push: Option<member::PushService>,
    router: axum::Router,
    stop: &watch::Sender<bool>,
) -> Result<(), CommandError> {
    let Bound { servers, http, socket, commands } = bound;
    let tls = tls::ServerTls::new(key).map_err(|e| CommandError::failed(&e))?;
    let group = GroupServer::new(GroupService(agent.clone()))
        .max_decoding_message_size(limits::MESSAGE)
        .max_encoding_message_size(limits::MESSAGE);
    let push = push.map(|push| PushServer::new(push).max_decoding_message_size(limits::MESSAGE));
    let record = agent.record.clone();
    let servers = tls::incoming(servers, tls).knowing(move |key| record.current().record().by_key(key).is_some());
    let for_servers = tls::service()
        .layer(Door::new(agent.record.clone()))
        .add_service(group)
        .add_optional_service(push)
        .serve_with_incoming_shutdown(servers, stopped(stop));
    let admin = AdminServer::new(AdminService(agent.clone()))
        .max_decoding_message_size(limits::MESSAGE)
        .max_encoding_message_size(limits::MESSAGE);
    let admin = tonic::service::interceptor::InterceptedService::new(admin, socket::only_owner);
    let for_commands =
        tonic::transport::Server::builder().add_service(admin).serve_with_incoming_shutdown(commands, stopped(stop));
    let for_browsers = http::serve(http, router, stopped(stop));
    tracing::info!(name = %agent.farm.borrow().observer, "serving");
    let straggling = async {
        stopped(stop).await;
        tokio::time::sleep(GRACE).await;
    };
    let result = tokio::select! {
        result = async { tokio::try_join!(flat(for_servers), flat(for_commands), flat(for_browsers)) } => result.map(drop),
        // Open streams (a monitor, a push) have no end of their own.
        () = straggling => Ok(()),
    };
    drop(socket);
    result
}

async fn flat<E: std::error::Error + 'static>(
    serving: impl Future<Output = Result<(), E>>,
) -> Result<(), CommandError> {
    serving.await.map_err(|e| CommandError::failed(&e))
}

fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = stop.subscribe();
    async move {
        // An error: everything that could say stop is gone.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}
