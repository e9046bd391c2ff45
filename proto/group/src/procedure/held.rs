//! The servers that must stay drained at the balancers, even if a balancer forgets it.

use std::collections::BTreeSet;

use bellwether_proto::{name::ServerName, record::Record};

use super::{Document, Kind, Procedure, Task};

/// The servers that `me` must keep drained at every balancer: at the manager all that the record has drained, removed
/// ones included; at a candidate that takes over, those that its own recovery has drained so far.
pub fn held(record: &Record, document: &Document, me: &ServerName) -> BTreeSet<ServerName> {
    let manager = &record.manager().name;
    let mine = |procedure: &&Procedure| !procedure.is_over() && procedure.driver(manager) == me;
    let mut held: BTreeSet<ServerName> =
        document.procedures.iter().filter(mine).flat_map(|procedure| drained_by(procedure, manager)).collect();
    if manager == me {
        let gone = record.removed.iter().filter(|gone| record.server(&gone.name).is_none());
        let drained = record.servers.iter().chain(gone).filter(|server| server.drained);
        held.extend(drained.map(|server| server.name.clone()));
    }
    held
}

/// The servers that the steps before a candidate's promotion have drained: the candidate may not change the record yet.
/// If another server has taken the lost manager's place, that one keeps them drained.
fn drained_by(procedure: &Procedure, manager: &ServerName) -> Vec<ServerName> {
    let promotes = procedure.steps.iter().position(|step| matches!(step.task, Task::Promote(_)));
    let (Kind::RecoverManager { lost, .. }, Some(promotes)) = (&procedure.kind, promotes) else { return Vec::new() };
    if procedure.at > promotes || lost != manager {
        return Vec::new();
    }
    procedure.steps[..procedure.at].iter().flat_map(|step| step.task.about().drains).cloned().collect()
}

#[cfg(test)]
mod tests {
    use bellwether_proto::{
        key::KeyPair,
        record::{Level, Policy, Role, Server, Version},
        revision::{Epoch, GroupId},
    };

    use super::{
        super::{
            Id, Insists, Survey, Surveyed,
            model::{farm, names},
            plan,
        },
        *,
    };

    fn record() -> Record {
        let server = |(at, name): (usize, ServerName)| Server {
            key: KeyPair::generate().public(),
            address: format!("{name}:1"),
            role: if at == 0 { Role::Manager } else { Role::Member },
            candidate: true,
            backends: Vec::new(),
            drained: false,
            name,
        };
        Record {
            level: Level::NEWEST,
            group: GroupId::from([7; 16]),
            version: Version { epoch: Epoch(1), version: 1 },
            servers: names(&["m", "a", "b"]).into_iter().enumerate().map(server).collect(),
            removed: Vec::new(),
            refused: Vec::new(),
            policy: Policy::new(Vec::new()),
            log: Vec::new(),
            previous: None,
        }
    }

    fn at(record: &Record, document: &Document, me: &str) -> Vec<String> {
        held(record, document, &me.parse().unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_manager_keeps_out_whom_the_record_has_drained_whatever_their_role() {
        let mut record = record();
        let document = Document::empty(record.group);
        assert_eq!(at(&record, &document, "m"), [] as [&str; 0]);
        (record.servers[1].drained, record.servers[1].role) = (true, Role::Disabled);
        let gone = record.servers.remove(2);
        record.removed.push(Server { drained: true, ..gone.clone() });
        assert_eq!(at(&record, &document, "m"), ["a", "b"]);
        assert_eq!(at(&record, &document, "a"), [] as [&str; 0], "that is the manager's to do");
        // New hardware has the name now, and serves.
        record.servers.push(gone);
        assert_eq!(at(&record, &document, "m"), ["a"]);
    }

    #[test]
    fn w24_a_candidate_keeps_out_whom_it_has_drained_before_it_is_the_manager() {
        let record = record();
        let mut world = farm(&["m", "a", "b"]);
        world.me = "a".parse().unwrap();
        let (lost, new) = ("m".parse().unwrap(), "a".parse().unwrap());
        let kind = Kind::RecoverManager { lost, new, remove: false, insists: Insists::default() };
        let mut survey = Survey::default();
        survey.members.insert("b".parse().unwrap(), Surveyed::Differs("1.9".into()));
        let steps = plan(&kind, &world, &survey).unwrap();
        let promotes = steps.iter().position(|step| matches!(step.task, Task::Promote(_))).unwrap();
        let mut document = Document::empty(record.group);
        let mut with = |at_step: usize, me: &str| {
            let mut procedure = Procedure::new(Id(1), kind.clone(), steps.clone(), "root".into(), 0);
            procedure.at = at_step;
            document.put(procedure);
            at(&record, &document, me)
        };
        assert_eq!(with(1, "a"), [] as [&str; 0], "it has drained nobody yet");
        assert_eq!(with(2, "a"), ["m"]);
        assert_eq!(with(promotes, "a"), ["b", "m"]);
        assert_eq!(with(promotes, "m"), [] as [&str; 0]);
        assert_eq!(with(promotes + 1, "a"), [] as [&str; 0], "the record says it from now on");
    }
}
