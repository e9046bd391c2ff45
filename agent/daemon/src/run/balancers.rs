//! A candidate proves that it can drive the group's balancers: it probes them at intervals (W18, W24).
//!
//! One task, [`Probe::run`], runs as long as the agent. Its result goes to this server's own status, and to the `reach`
//! watch, from which a member's push stream reports it to the manager.

use std::{sync::Arc, time::Duration};

use bellwether_manager::balancer::{Balancers, Fault, Locals, Patience, chain};
use bellwether_proto::{
    balancer::Balancer,
    name::{BalancerName, ServerName},
    record::{Record, Role},
    status::{Event, Observation},
    v1,
};
use bellwether_store::state::record::GroupRecord;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

/// The interval between two probes after a success, and after a failure.
const EVERY: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(5);

/// The inputs of the task.
pub(crate) struct Probe {
    pub(crate) name: ServerName,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) locals: Locals,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) reach: watch::Sender<v1::Balancers>,
}

impl Probe {
    /// Probes the balancers without end, and at once when the record names others. It may be cancelled anywhere.
    pub(crate) async fn run(self) {
        let mut record = self.record.follow();
        loop {
            let wanted = self.wanted(record.borrow_and_update().record());
            let found = Balancers::patient(&wanted, &self.locals, Patience::default()).probe().await;
            let well = found.iter().all(|(_, result)| result.is_ok());
            self.tell(found);
            let other = async {
                // An error means that the agent stops.
                while record.changed().await.is_ok() {
                    if self.wanted(record.borrow_and_update().record()) != wanted {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            };
            let _ = timeout(if well { EVERY } else { AGAIN }, other).await;
        }
    }

    /// The balancers that this server drives, or would drive as manager.
    fn wanted(&self, record: &Record) -> Vec<Balancer> {
        let own = record.by_key(&self.record.own_key());
        let drives = own.is_some_and(|own| match own.role {
            Role::Manager => true,
            Role::Member => own.candidate,
            Role::Disabled => false,
        });
        if drives { record.policy.balancers.clone() } else { Vec::new() }
    }

    fn tell(&self, found: Vec<(BalancerName, Result<(), Fault>)>) {
        let fault = |result: Result<(), Fault>| result.err().map(|fault| chain(&fault));
        let found: Vec<_> = found.into_iter().map(|(name, result)| (name, fault(result))).collect();
        let reach = |(name, fault): &(BalancerName, Option<String>)| v1::BalancerReach {
            balancer: name.to_string(),
            fault: fault.clone().unwrap_or_default(),
        };
        let reach = v1::Balancers { reach: found.iter().map(reach).collect() };
        self.reach.send_if_modified(|known| {
            let other = *known != reach;
            *known = reach;
            other
        });
        let _ = self.events.send(Event::Server(self.name.clone(), Observation::Balancers(found)));
    }
}
