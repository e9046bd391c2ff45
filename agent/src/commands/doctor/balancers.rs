//! The group's balancers, as far as this server can try them.

use bellwether_daemon::config::Config;
use bellwether_manager::balancer::{Balancers, Locals, chain};
use bellwether_proto::{
    balancer::Traffic,
    key::PublicKey,
    record::{Record, Role},
};

use super::Check;

/// Checks every balancer if this server is the manager or a candidate, and every server's places at the balancers.
pub(super) async fn balancers(config: &Config, own: &PublicKey, record: &Record) -> Vec<Check> {
    let drives = record.by_key(own).is_some_and(|own| own.role == Role::Manager || own.candidate);
    if !drives || record.policy.balancers.is_empty() {
        return Vec::new();
    }
    let balancers = Balancers::new(record, &Locals::new(config.balancers.iter().cloned()));
    let mut checks = Vec::new();
    for (balancer, result) in balancers.probe().await {
        let name = format!("balancer {balancer}");
        checks.push(match result {
            Ok(()) => Check::ok(name, "this server can drain servers at the balancer"),
            Err(fault) => {
                let todo = "until then this server cannot drain servers at it; see docs/balancers.md";
                Check::fail(name, chain(&fault), todo)
            }
        });
    }
    if checks.iter().all(|check| check.level == super::Level::Ok) {
        checks.extend(places(&balancers, record).await);
    }
    checks
}

/// Finds servers that no balancer knows: such a server cannot be drained.
async fn places(balancers: &Balancers, record: &Record) -> Vec<Check> {
    let mut checks = Vec::new();
    for server in record.servers.iter().filter(|server| server.role != Role::Disabled) {
        let name = format!("traffic of {}", server.name);
        checks.push(match (balancers.state(server).await, server.traffic()) {
            (_, Ok(Traffic::None)) => Check::ok(name, "the server takes none"),
            (Ok(report), _) if report.is_absent() => Check::warn(
                name,
                match server.backends.as_slice() {
                    [] => "no balancer has a server of this name".to_owned(),
                    places => format!("no balancer has it at {}, where the group record has it", places.join(", ")),
                },
                format!(
                    "if it has another one there: bellwether server set {0} --backend BACKEND/SERVER; if it takes no \
                     traffic: bellwether server set {0} --backend none",
                    server.name
                ),
            ),
            (Ok(report), _) => Check::ok(name, report.to_string()),
            (Err(error), _) => Check::warn(name, error.to_string(), "look at the balancer"),
        });
    }
    checks
}
