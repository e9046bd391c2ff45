//! Decides whether this server may take over (W24), from its own state and the others' answers. The agent asks them.

use std::collections::BTreeMap;

use bellwether_proto::{
    advice::{Advice, Advise},
    key::PublicKey,
    limits,
    name::ServerName,
    record::{Record, Role, Version},
    revision::{Epoch, Number, RevisionId, SignedHeader},
};
use serde::{Deserialize, Serialize};

use crate::{lost, roles::TAKEOVER};

/// The largest lead of another server's epoch that a takeover can skip.
const AHEAD: u64 = limits::EPOCH_STEP - TAKEOVER;

/// This server's own state.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The revision that its sets hold.
    pub at: Option<SignedHeader>,
    /// Its error.
    pub fault: Option<String>,
    /// The number of entries that were edited here, and the first of them.
    pub drift: (u64, Vec<String>),
}

/// The answer of another server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The record that it holds.
    pub record: Version,
    /// The revision that its sets hold.
    pub at: Option<SignedHeader>,
    /// The newest revisions that it has heard of.
    pub seen: Vec<SignedHeader>,
    /// A manager has a session with it, and answered just now.
    pub follows: bool,
    /// It is the manager.
    pub leads: bool,
    /// It is about to become the manager by another command there.
    pub promotes: bool,
}

/// A server without an answer.
#[derive(Debug, Clone)]
pub struct Silence {
    /// The server runs all the same: it proved its key.
    pub there: bool,
    /// The reason.
    pub why: String,
}

/// The input of the judgement.
pub struct Survey<'a> {
    /// The key of the manager of an epoch, as far as it is known.
    pub led_by: &'a dyn Fn(Epoch) -> Option<PublicKey>,
    /// The record that this server holds.
    pub record: &'a Record,
    /// This server's name.
    pub own: &'a ServerName,
    /// This server's own state.
    pub account: &'a Account,
    /// The revisions that this server has heard of.
    pub seen: &'a [SignedHeader],
    /// Every other server: its answer, or the reason why there is none.
    pub others: &'a BTreeMap<ServerName, Result<Answer, Silence>>,
}

/// The options by which a person insists on a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Insists {
    /// Take over although the manager answers, or another candidate has seen more.
    pub force: bool,
    /// The edits here become the truth.
    pub accept: bool,
}

/// The findings, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// One line for each server.
    pub servers: Vec<String>,
    /// Revisions that were seen anywhere and that this server does not hold.
    pub lost: Vec<String>,
    /// The highest epoch that is known anywhere.
    pub epoch: u64,
}

/// The reason why this server does not take over. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// This server has no revision to lead with.
    #[error("this server holds no revision of the group yet")]
    Empty,
    /// This server is in error.
    #[error("this server is in error ({0}): its configuration may not be one revision")]
    Fault(String),
    /// Entries were edited on this server.
    #[error("{0} entries were edited on this server and would become part of the configuration: {1}")]
    Drift(u64, String),
    /// The manager answers.
    #[error("{0}, the manager, answers")]
    Answers(ServerName, ServerName),
    /// Another server has contact with the manager.
    #[error("{1}, the manager, answered {0} just now")]
    Heard(ServerName, ServerName),
    /// Another candidate has newer revisions.
    #[error("{0} has seen more: it holds {1}, this server {2}")]
    Behind(ServerName, Number, Number),
}

impl Advise for Refused {
    fn advice(&self) -> Option<Advice> {
        let insist = Advice::say("or insist with --force");
        Some(match self {
            Self::Empty => Advice::say("promote another candidate"),
            Self::Fault(_) => Advice::say("promote another candidate, or look at its configuration and give --accept"),
            Self::Drift(..) => Advice::say("undo the edits, or give --accept"),
            Self::Answers(_, own) => Advice::run("hand over there", format!("bellwether promote {own}")).or(&insist),
            Self::Heard(_, manager) => {
                Advice::say(format!("look at the network between {manager} and this server")).or(&insist)
            }
            Self::Behind(other, ..) => Advice::say(format!("give the command at {other}")).or(&insist),
        })
    }
}

impl Survey<'_> {
    /// Judges, and returns the findings.
    ///
    /// # Errors
    /// The reason why this server does not take over.
    pub fn judge(&self, insists: Insists) -> Result<Findings, Refused> {
        let at = self.account.at.as_ref().ok_or(Refused::Empty)?.number();
        if let Some(fault) = self.account.fault.as_ref().filter(|_| !insists.accept) {
            return Err(Refused::Fault(fault.clone()));
        }
        let (drift, paths) = &self.account.drift;
        if *drift > 0 && !insists.accept {
            return Err(Refused::Drift(*drift, paths.join(", ")));
        }
        if !insists.force {
            self.judge_others(at)?;
        }
        Ok(self.findings(at))
    }

    fn judge_others(&self, at: Number) -> Result<(), Refused> {
        let manager = &self.record.manager().name;
        let there = |answer: &Result<Answer, Silence>| answer.as_ref().map_or_else(|silence| silence.there, |_| true);
        if self.others.get(manager).is_some_and(there) {
            return Err(Refused::Answers(manager.clone(), self.own.clone()));
        }
        for (name, answer) in self.answers() {
            if answer.follows && answer.record.epoch == self.record.version.epoch {
                return Err(Refused::Heard(name.clone(), manager.clone()));
            }
        }
        let candidate = |name: &ServerName| {
            self.record.server(name).is_some_and(|server| server.role == Role::Member && server.candidate)
        };
        let held = |answer: &Answer| answer.at.as_ref().filter(|at| self.is_managers(at)).map(SignedHeader::number);
        let most = self.answers().filter(|(name, _)| candidate(name)).filter_map(|(name, a)| Some((held(a)?, name)));
        match most.max() {
            Some((theirs, name)) if theirs > at => Err(Refused::Behind(name.clone(), theirs, at)),
            Some(_) | None => Ok(()),
        }
    }

    fn answers(&self) -> impl Iterator<Item = (&ServerName, &Answer)> {
        self.others.iter().filter_map(|(name, answer)| Some((name, answer.as_ref().ok()?)))
    }

    fn findings(&self, at: Number) -> Findings {
        let mut servers = vec![format!("{}, this server, holds {at}", self.own)];
        servers.extend(self.others.iter().map(|(name, answer)| self.line(name, answer, at)));
        let newest = self.answers().filter_map(|(_, answer)| answer.number()).max().filter(|most| *most > at);
        servers.push(match newest {
            None => format!("nobody that answers has seen more than {at}"),
            Some(most) => format!("{most} has been seen; this server takes over from {at}"),
        });
        let own = self.record.version.epoch.0;
        // An unproved epoch uses no epochs up.
        let (known, beyond): (Vec<_>, Vec<_>) =
            self.answers().partition(|(_, answer)| answer.record.epoch.0 <= own + AHEAD);
        let epoch = known.iter().map(|(_, answer)| answer.record.epoch.0).max().unwrap_or_default().max(own);
        servers.extend(beyond.iter().map(|(name, answer)| {
            format!(
                "{name} says that it follows epoch {}; from {own} one record leads to epoch {} at most, so {name} will not \
                 follow this server; if a server that cannot be trusted made that epoch, at one server: bellwether group \
                 rebuild --refuse KEY",
                answer.record.epoch,
                own + limits::EPOCH_STEP
            )
        }));
        Findings { servers, lost: self.lost(at), epoch }
    }

    fn line(&self, name: &ServerName, answer: &Result<Answer, Silence>, at: Number) -> String {
        let manager = if *name == self.record.manager().name { ", the manager," } else { "" };
        let answer = match answer {
            Err(Silence { there: false, why }) => return format!("{name}{manager} does not answer: {why}"),
            Err(Silence { there: true, why }) => return format!("{name}{manager} is there, and says: {why}"),
            Ok(answer) => answer,
        };
        let leads = if answer.leads { format!(", and leads in epoch {}", answer.record.epoch) } else { String::new() };
        match answer.number() {
            None => format!("{name}{manager} holds no revision{leads}"),
            Some(theirs) if theirs == at => format!("{name}{manager} holds {theirs}, too{leads}"),
            Some(theirs) if theirs > at => format!("{name}{manager} holds {theirs}, which is more{leads}"),
            Some(theirs) => format!("{name}{manager} holds {theirs}, which is less{leads}"),
        }
    }

    /// Revisions that were seen anywhere, that a server of the group signed, and that this server lacks; newest last.
    fn lost(&self, at: Number) -> Vec<String> {
        // Revisions that this server has only heard of are none of its own.
        let known = |id: RevisionId| self.seen.iter().any(|header| header.id() == id && header.number() <= at);
        let oldest = self.seen.iter().map(|header| header.number().sequence).min().unwrap_or_default();
        let mut found: BTreeMap<(Number, RevisionId), (&SignedHeader, Vec<&str>)> = BTreeMap::new();
        let own = (self.own, self.seen.iter().chain(&None));
        let others = self.answers().map(|(name, answer)| (name, answer.seen.iter().chain(&answer.at)));
        for (name, headers) in [own].into_iter().chain(others) {
            for header in headers {
                let number = header.number();
                if number.sequence > oldest && !known(header.id()) && self.is_signed(header) {
                    let (_, by) = found.entry((number, header.id())).or_insert((header, Vec::new()));
                    if by.last() != Some(&name.as_str()) {
                        by.push(name.as_str());
                    }
                }
            }
        }
        found.into_values().map(|(header, by)| lost::line(header, &by)).collect()
    }

    /// Whether the manager of its epoch signed it.
    fn is_managers(&self, header: &SignedHeader) -> bool {
        (self.led_by)(header.number().epoch).is_some_and(|manager| header.signed_by(&manager))
    }

    fn is_signed(&self, header: &SignedHeader) -> bool {
        let mut servers = self.record.servers.iter().chain(&self.record.removed);
        servers.any(|server| server.name == header.header().manager && header.signed_by(&server.key))
    }
}

/// The decision of a server that is about to make its promotion durable, by the others' answers at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// This server continues.
    Mine,
    /// This server waits and looks again, because that one promotes itself, too, and will give way.
    Waits(ServerName),
    /// This server gives way to that one, which promotes itself, too.
    GivesWay(ServerName),
}

impl Turn {
    /// Of several servers that promote themselves at once, the first by name continues. Each announces its promotion
    /// before it looks, so that of two that can reach each other at least one sees the other.
    pub fn of(own: &ServerName, answers: &BTreeMap<ServerName, Result<Answer, Silence>>) -> Self {
        let promotes = |answer: &Result<Answer, Silence>| answer.as_ref().is_ok_and(|answer| answer.promotes);
        match answers.iter().find(|(_, answer)| promotes(answer)) {
            None => Self::Mine,
            Some((first, _)) if first < own => Self::GivesWay(first.clone()),
            Some((first, _)) => Self::Waits(first.clone()),
        }
    }
}

impl Answer {
    fn number(&self) -> Option<Number> {
        self.at.as_ref().map(SignedHeader::number)
    }
}

#[cfg(test)]
mod tests;
