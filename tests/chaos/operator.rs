//! The operator: looks at the status of every server, and follows its advice.

use std::{collections::BTreeSet, thread, time::Duration};

use bellwether_proto::status::{FarmStatus, ServerStatus, State};

use super::{Chaos, SERVERS};
use crate::farm::{Farm, one, summary};

/// The interval of the operator's looks, and the largest number of them.
const EVERY: Duration = Duration::from_secs(2);
const LOOKS: u32 = 45;

/// Whether that server considers itself the manager.
pub(super) fn leads(farm: &Farm, index: usize) -> bool {
    let server = farm.server(index);
    server.status().is_ok_and(|status| is_leader(&status, &server.name))
}

/// Whether the server's own status names it as the manager; a member may show the manager's report.
fn is_leader(status: &FarmStatus, name: &str) -> bool {
    status.observer.as_str() == name && status.manager.as_str() == name
}

#[derive(Default)]
pub(super) struct Operator {
    looked: u32,
    /// Servers that also did not follow at the last look.
    stubborn: BTreeSet<usize>,
}

impl Operator {
    /// Repeats its looks until every server holds the revision of one manager.
    pub(super) fn brings_together(&mut self, chaos: &mut Chaos) {
        let mut seen = String::new();
        for _ in 0..LOOKS {
            thread::sleep(EVERY);
            self.looked += 1;
            let farm: Vec<Result<FarmStatus, String>> =
                (0..SERVERS).map(|index| chaos.farm.server(index).status()).collect();
            let leader = |index: &usize| farm[*index].as_ref().is_ok_and(|s| is_leader(s, &chaos.name(*index)));
            let leaders: Vec<usize> = (0..SERVERS).filter(leader).collect();
            let shown = farm.iter().map(|status| status.as_ref().map_or_else(Clone::clone, summary));
            seen = shown.collect::<Vec<_>>().join("\n");
            chaos.tell(format!("the operator sees managers {leaders:?}\n{seen}"));
            match leaders.as_slice() {
                [manager] if is_settled(&farm, *manager) => {
                    chaos.farm.led_by(*manager);
                    return;
                }
                [manager] => self.tidy(chaos, &farm, *manager),
                [] => self.appoint(chaos, &farm),
                several => self.decide(chaos, &farm, several),
            }
        }
        panic!("the farm does not come together; last seen:\n{seen}\n{}", chaos.story());
    }

    /// Without a manager, promotes the candidate with the newest record.
    fn appoint(&mut self, chaos: &mut Chaos, farm: &[Result<FarmStatus, String>]) {
        if self.looked % 2 == 1 {
            return;
        }
        let mut all: Vec<usize> = (0..SERVERS).filter(|index| farm[*index].is_ok()).collect();
        all.sort_by_key(|index| std::cmp::Reverse(version(&farm[*index])));
        for index in all {
            if insist(chaos, index) {
                return;
            }
        }
    }

    /// With several managers, the one that most servers name stays the manager, and leads on in the next epoch. A server that
    /// is not followed after that either leaves.
    fn decide(&mut self, chaos: &mut Chaos, farm: &[Result<FarmStatus, String>], several: &[usize]) {
        let named = |index: usize| {
            let name = chaos.name(index);
            farm.iter().flatten().filter(|status| status.manager.as_str() == name).count()
        };
        let chosen = several.iter().copied().max_by_key(|index| (named(*index), version(&farm[*index])));
        let chosen = chosen.expect("there are several");
        let others: BTreeSet<usize> = several.iter().copied().filter(|index| *index != chosen).collect();
        if !others.is_disjoint(&self.stubborn) {
            for index in others.intersection(&self.stubborn) {
                leave(chaos, *index);
            }
        } else if self.looked > 2 {
            insist(chaos, chosen);
        }
        self.stubborn = others;
    }

    /// With one manager, adds each server that is not a member of its group, and syncs each that needs it.
    fn tidy(&mut self, chaos: &mut Chaos, farm: &[Result<FarmStatus, String>], manager: usize) {
        let status = farm[manager].as_ref().expect("it leads").clone();
        chaos.farm.led_by(manager);
        if own_halt(chaos, &status, manager) {
            return;
        }
        if status.unpublished.as_ref().is_some_and(|why| why.contains("promote --self --force")) {
            // Another one led in this epoch, and the manager accepts no change until a higher one.
            insist(chaos, manager);
            return;
        }
        let mut astray = BTreeSet::new();
        for index in (0..SERVERS).filter(|index| *index != manager) {
            let name = chaos.name(index);
            let follows = farm[index].as_ref().is_ok_and(|status| status.manager.as_str() == chaos.name(manager));
            let of_no_group = !chaos.farm.server(index).state().join("group.json").exists();
            match one(&status, &name) {
                None if of_no_group => enter(chaos, manager, index),
                Some(_) if of_no_group => drop(chaos.command(manager, &["server", "remove", &name, "--yes"])),
                None => drop(chaos.command(manager, &["server", "add", &name, "--yes", "--wait=none"])),
                Some(row) if row.state == State::Conflict => drop(insist(chaos, manager)),
                Some(row) => {
                    mend(chaos, manager, &name, row);
                    if !follows {
                        astray.insert(index);
                    }
                }
            }
        }
        if self.looked.is_multiple_of(4) {
            for index in astray.intersection(&self.stubborn) {
                leave(chaos, *index);
                enter(chaos, manager, *index);
            }
        }
        if self.looked.is_multiple_of(3) {
            finish(chaos, manager);
        }
        self.stubborn = astray;
    }
}

/// The manager's own state went back, so the group is rebuilt from its sets.
fn own_halt(chaos: &mut Chaos, status: &FarmStatus, manager: usize) -> bool {
    let own = one(status, status.manager.as_str());
    let reason = own.filter(|own| own.state == State::Error).and_then(|own| own.reason.clone());
    let halted = reason.is_some_and(|reason| reason.contains("group rebuild"));
    if halted {
        chaos.command(manager, &["group", "rebuild", "--yes", "--timeout=20s"]);
    }
    halted
}

/// Follows the advice in the line of that server.
fn mend(chaos: &mut Chaos, manager: usize, name: &str, row: &ServerStatus) {
    match row.state {
        State::Disabled => drop(chaos.command(manager, &["server", "enable", name, "--yes", "--wait=none"])),
        State::Superseded => drop(chaos.command(manager, &["server", "add", name, "--yes", "--wait=none"])),
        State::Left => drop(chaos.command(manager, &["server", "remove", name, "--yes"])),
        State::Error | State::Refused => drop(chaos.command(manager, &["sync", name, "--yes", "--timeout=10s"])),
        State::Drifted => drop(chaos.command(manager, &["drift", "revert", name, "--yes", "--timeout=10s"])),
        _ => {}
    }
}

/// Aborts procedures that do not end, and brings back servers that are out of service.
fn finish(chaos: &mut Chaos, manager: usize) {
    let list = chaos.farm.server(manager).command(&["procedure", "list", "--json"]).stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
    for procedure in list["procedures"].as_array().into_iter().flatten() {
        let standing = &procedure["standing"];
        if standing == "running" || standing.get("failed").is_some() {
            let id = procedure["id"].as_str().unwrap_or_default().to_owned();
            chaos.command(manager, &["procedure", "abort", &id, "--yes"]);
        }
    }
}

/// Takes over, or leads on in the next epoch, despite any losses.
fn insist(chaos: &mut Chaos, index: usize) -> bool {
    chaos.command(index, &["promote", "--self", "--force", "--accept", "--yes", "--timeout=20s"]).code == Some(0)
}

fn leave(chaos: &mut Chaos, index: usize) {
    chaos.command(index, &["leave", "--force", "--yes"]);
    chaos.farm.server_mut(index).kill();
}

/// Lets a server that belongs to no group enter.
fn enter(chaos: &mut Chaos, manager: usize, index: usize) {
    let name = chaos.name(index);
    let token = chaos.farm.server(manager).command(&["token", "create"]);
    if token.code != Some(0) {
        return;
    }
    let joined = chaos.farm.server(index).join(token.stdout.trim());
    chaos.tell(format!("{name} joins: {joined}"));
    chaos.farm.server_mut(index).kill();
    chaos.farm.server_mut(index).start();
}

/// The version of the held record.
fn version(status: &Result<FarmStatus, String>) -> Option<(u64, u64)> {
    let (epoch, version) = status.as_ref().ok()?.record.split_once('.')?;
    Some((epoch.parse().ok()?, version.parse().ok()?))
}

/// Whether all servers follow that manager and hold its head.
fn is_settled(farm: &[Result<FarmStatus, String>], manager: usize) -> bool {
    let Ok(status) = &farm[manager] else { return false };
    let follows = |other: &Result<FarmStatus, String>| other.as_ref().is_ok_and(|o| o.manager == status.manager);
    let in_sync = |row: &ServerStatus| row.state == State::InSync && row.revision == status.head;
    status.head.is_some()
        && status.unpublished.is_none()
        && status.servers.len() == SERVERS
        && status.servers.iter().all(in_sync)
        && farm.iter().all(follows)
}
