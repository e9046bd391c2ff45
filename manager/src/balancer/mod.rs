//! Load balancers: servers are taken out of rotation and put back (W12, W18–W27).
//!
//! [`Balancers`] joins the record's list with this machine's agent.toml: a snapshot, made anew for every use. Each call
//! starts one task per balancer and waits for all; a dropped call aborts them. The rules are in [`rules`], without I/O.

mod command;
mod fault;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod haproxy;
mod local;
mod nginx;
pub mod rules;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bellwether_proto::{
    balancer::{self, Traffic},
    name::{BalancerName, ServerName},
    record::{Record, Server},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use self::{
    command::Hook,
    local::Kept,
    rules::{At, Entry, Line, Report, Who},
};
pub use self::{
    fault::{Action, BalancerError, Fault, chain},
    local::{Local, LocalCommand, LocalKind, LocalNginx, Locals},
};

/// The time limits for a balancer.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a connection, and then for an answer.
    pub exchange: Duration,
    /// Between two polls.
    pub poll: Duration,
    /// For a server that was made ready to get traffic: its checks have to succeed first.
    pub up: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { exchange: Duration::from_secs(5), poll: Duration::from_millis(250), up: Duration::from_secs(60) }
    }
}

#[derive(Debug)]
struct One {
    name: BalancerName,
    speaks: Speaks,
    patience: Patience,
}

#[derive(Debug)]
enum Speaks {
    Haproxy(haproxy::Api),
    /// Defined here, as nginx or as a command.
    Here(Arc<Kept>),
    /// In the record only.
    Nowhere(&'static str),
}

/// The group's balancers.
#[derive(Debug, Clone)]
pub struct Balancers {
    all: Vec<Arc<One>>,
    patience: Patience,
}

impl Balancers {
    /// The record's balancers, as this machine reaches them.
    pub fn new(record: &Record, locals: &Locals) -> Self {
        Self::patient(&record.policy.balancers, locals, Patience::default())
    }

    /// As [`Balancers::new`], with other limits.
    pub fn patient(balancers: &[balancer::Balancer], locals: &Locals, patience: Patience) -> Self {
        let one = |balancer: &balancer::Balancer| {
            let here = || locals.get(&balancer.name);
            let speaks = match &balancer.kind {
                balancer::Kind::Haproxy(haproxy) => Speaks::Haproxy(haproxy::Api::new(haproxy.clone(), patience)),
                balancer::Kind::Nginx => match here() {
                    Some(kept) if matches!(kept.kind, LocalKind::Nginx(_)) => Speaks::Here(kept),
                    _ => Speaks::Nowhere("nginx"),
                },
                balancer::Kind::Command => match here() {
                    Some(kept) if matches!(kept.kind, LocalKind::Command(_)) => Speaks::Here(kept),
                    _ => Speaks::Nowhere("command"),
                },
            };
            Arc::new(One { name: balancer.name.clone(), speaks, patience })
        };
        Self { all: balancers.iter().map(one).collect(), patience }
    }

    /// Whether the group has none: then nothing is drained, and nothing has to be.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// That server's standing at every balancer.
    ///
    /// # Errors
    /// The balancers that could not be asked, and why.
    pub async fn state(&self, server: &Server) -> Result<Report, BalancerError> {
        let who = who(server);
        let look = |one: Arc<One>, whos: Arc<[Who]>| async move { one.look(&whos).await.map(|all| all.concat()) };
        let states = self.each(vec![who.clone()], look).await;
        report(Action::Look, &who, states)
    }

    /// Open sessions on that server, over all balancers.
    ///
    /// # Errors
    /// As [`Balancers::state`].
    pub async fn sessions(&self, server: &Server) -> Result<u64, BalancerError> {
        self.state(server).await.map(|report| report.sessions())
    }

    /// Drains that server: when this returns, no balancer sends it new traffic; open sessions go on. Safe to repeat.
    ///
    /// # Errors
    /// The balancers that failed, and why; the others drained it. If no balancer has the server, nothing was changed.
    pub async fn drain(&self, server: &Server) -> Result<Report, BalancerError> {
        let who = who(server);
        let drained = self.each(vec![who.clone()], |one, whos| async move { one.drain(&whos[0]).await }).await;
        let report = report(Action::Drain, &who, drained)?;
        self.check_there(&who, &report).map(|()| report)
    }

    /// Makes that server ready: when this returns, every balancer that has it sends it traffic. Safe to repeat.
    ///
    /// # Errors
    /// The balancers that failed, and why: one that has it in maintenance leaves it so.
    pub async fn ready(&self, server: &Server) -> Result<Report, BalancerError> {
        let who = who(server);
        let ready = self.each(vec![who.clone()], |one, whos| async move { one.ready(&whos[0]).await }).await;
        let report = report(Action::Ready, &who, ready)?;
        self.check_there(&who, &report).map(|()| report)
    }

    /// Waits until that drained server has no session, for at most `limit`; [`Report::sessions`] is 0 or the rest.
    ///
    /// # Errors
    /// A balancer cannot be asked until the limit, or the server is not drained there (any more).
    pub async fn wait_idle(&self, server: &Server, limit: Duration) -> Result<Report, BalancerError> {
        let until = Instant::now() + limit;
        loop {
            let report = self.state(server).await;
            let over = Instant::now() >= until;
            match report {
                Ok(report) if !report.is_drained() => return Err(undrained(&report)),
                Ok(report) if report.sessions() == 0 || over => return Ok(report),
                Err(error) if over => return Err(error),
                Ok(_) | Err(_) => sleep(self.patience.poll.min(until.saturating_duration_since(Instant::now()))).await,
            }
        }
    }

    /// [`Balancers::drain`], then [`Balancers::wait_idle`].
    ///
    /// # Errors
    /// Those of either.
    pub async fn drain_and_wait(&self, server: &Server, limit: Duration) -> Result<Report, BalancerError> {
        self.drain(server).await?;
        self.wait_idle(server, limit).await
    }

    /// The standing of each of `servers` at every balancer; each balancer is asked once.
    ///
    /// # Errors
    /// The balancers that could not be asked, and why.
    pub async fn states(&self, servers: &[Server]) -> Result<Vec<Report>, BalancerError> {
        let whos: Vec<Who> = servers.iter().map(who).collect();
        let looks = self.each(whos.clone(), |one, whos| async move { one.look(&whos).await }).await;
        let (mut all, mut faults) = (Vec::new(), Vec::new());
        for (balancer, look) in looks {
            match look {
                Ok(look) => all.push((balancer, look)),
                Err(fault) => faults.push((balancer, fault)),
            }
        }
        if let Some(who) = whos.first().filter(|_| !faults.is_empty()) {
            let done = all.into_iter().map(|(balancer, _)| balancer).collect();
            return Err(BalancerError::Failed { action: Action::Look, server: who.name.clone(), faults, done });
        }
        let report = |(index, who): (usize, &Who)| {
            let at = |(balancer, look): &(BalancerName, Vec<Vec<Entry>>)| At {
                balancer: balancer.clone(),
                entries: look[index].clone(),
            };
            Report { server: who.name.clone(), at: all.iter().map(at).collect() }
        };
        Ok(whos.iter().enumerate().map(report).collect())
    }

    /// Those of `servers` that serve: every balancer that has one sends it traffic. For [`rules::batch`].
    ///
    /// # Errors
    /// The balancers that could not be asked, and why.
    pub async fn serving(&self, servers: &[Server]) -> Result<BTreeSet<ServerName>, BalancerError> {
        let reports = self.states(servers).await?;
        Ok(reports.into_iter().filter(Report::serves).map(|report| report.server).collect())
    }

    /// Checks whether this machine can drive each balancer.
    pub async fn probe(&self) -> Vec<(BalancerName, Result<(), Fault>)> {
        self.each(Vec::new(), |one, _| async move { one.probe().await }).await
    }

    /// Asks all of them at once; the answers are in the record's order.
    async fn each<T, F>(
        &self,
        whos: Vec<Who>,
        ask: impl Fn(Arc<One>, Arc<[Who]>) -> F,
    ) -> Vec<(BalancerName, Result<T, Fault>)>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let whos: Arc<[Who]> = whos.into();
        let mut tasks = JoinSet::new();
        for (index, one) in self.all.iter().enumerate() {
            let asking = ask(one.clone(), whos.clone());
            tasks.spawn(async move { (index, asking.await) });
        }
        let mut answers: Vec<_> = self.all.iter().map(|one| (one.name.clone(), Err(Fault::Stopping))).collect();
        while let Some(answer) = tasks.join_next().await {
            match answer {
                Ok((index, answer)) => answers[index].1 = answer,
                Err(error) => tracing::error!(%error, "a request to a balancer failed"),
            }
        }
        answers
    }

    /// Refuses a name that no balancer has: it is a mistake, or the record should say that the server takes no traffic.
    fn check_there(&self, who: &Who, report: &Report) -> Result<(), BalancerError> {
        let balancers = || self.all.iter().map(|one| one.name.clone()).collect();
        let places = report.missing(who);
        if !places.is_empty() {
            return Err(BalancerError::NoPlace { server: who.name.clone(), places, balancers: balancers() });
        }
        if report.is_absent() && who.traffic != Traffic::None && !self.is_empty() {
            return Err(BalancerError::Absent { server: who.name.clone(), balancers: balancers() });
        }
        Ok(())
    }
}

fn who(server: &Server) -> Who {
    Who::new(server).expect("a server of a record that was checked")
}

fn report(
    action: Action,
    who: &Who,
    answers: Vec<(BalancerName, Result<Vec<Entry>, Fault>)>,
) -> Result<Report, BalancerError> {
    let (mut at, mut faults) = (Vec::new(), Vec::new());
    for (balancer, answer) in answers {
        match answer {
            Ok(entries) => at.push(At { balancer, entries }),
            Err(fault) => faults.push((balancer, fault)),
        }
    }
    if faults.is_empty() {
        return Ok(Report { server: who.name.clone(), at });
    }
    let done = at.into_iter().filter(|at| !at.entries.is_empty()).map(|at| at.balancer).collect();
    Err(BalancerError::Failed { action, server: who.name.clone(), faults, done })
}

fn undrained(report: &Report) -> BalancerError {
    let of = |at: &At| {
        let entry = at
            .entries
            .iter()
            .find(|entry| !matches!(entry.standing, rules::Standing::Drained | rules::Standing::Maintenance))?;
        let found = format!("{} ({})", entry.standing.word(), entry.note);
        Some((at.balancer.clone(), Fault::Ignored { place: entry.place.clone(), wanted: "drained", found }))
    };
    let faults: Vec<_> = report.at.iter().filter_map(of).collect();
    let faulty = |name: &BalancerName| faults.iter().any(|(faulty, _)| faulty == name);
    let there = report.at.iter().filter(|at| !at.entries.is_empty() && !faulty(&at.balancer));
    let done = there.map(|at| at.balancer.clone()).collect();
    BalancerError::Failed { action: Action::Drain, server: report.server.clone(), faults, done }
}

impl One {
    async fn look(&self, whos: &[Who]) -> Result<Vec<Vec<Entry>>, Fault> {
        let of_each = |lines: Vec<Line>| whos.iter().map(|who| rules::of(&lines, who)).collect();
        match self.driven()? {
            Driven::Haproxy(api) => api.lines().await.map(of_each),
            Driven::Nginx(nginx) => nginx.lines().await.map(of_each),
            Driven::Command(hook) => {
                let mut all = Vec::with_capacity(whos.len());
                for who in whos {
                    all.push(hook.status(who).await?);
                }
                Ok(all)
            }
        }
    }

    async fn drain(&self, who: &Who) -> Result<Vec<Entry>, Fault> {
        match self.driven()? {
            Driven::Haproxy(api) => api.drain(who).await.map(entries),
            Driven::Nginx(nginx) => nginx.drain(who).await.map(entries),
            Driven::Command(hook) => hook.drain(who).await,
        }
    }

    async fn ready(&self, who: &Who) -> Result<Vec<Entry>, Fault> {
        match self.driven()? {
            Driven::Haproxy(api) => api.ready(who).await.map(entries),
            Driven::Nginx(nginx) => nginx.ready(who).await.map(entries),
            Driven::Command(hook) => hook.ready(who).await,
        }
    }

    async fn probe(&self) -> Result<(), Fault> {
        match self.driven()? {
            Driven::Haproxy(api) => api.probe().await,
            Driven::Nginx(nginx) => nginx.probe().await,
            Driven::Command(hook) => hook.probe().await,
        }
    }

    fn driven(&self) -> Result<Driven<'_>, Fault> {
        match &self.speaks {
            Speaks::Haproxy(api) => Ok(Driven::Haproxy(api)),
            Speaks::Here(kept) => Ok(match &kept.kind {
                LocalKind::Nginx(local) => {
                    Driven::Nginx(nginx::Nginx { local, turn: &kept.turn, patience: self.patience })
                }
                LocalKind::Command(local) => {
                    Driven::Command(Hook { balancer: &self.name, local, patience: self.patience })
                }
            }),
            Speaks::Nowhere(kind) => Err(Fault::NotHere { name: self.name.clone(), kind }),
        }
    }
}

enum Driven<'a> {
    Haproxy(&'a haproxy::Api),
    Nginx(nginx::Nginx<'a>),
    Command(Hook<'a>),
}

fn entries(lines: Vec<Line>) -> Vec<Entry> {
    lines.iter().map(Entry::from).collect()
}
