//! `group rebuild` (W13, W14): surveys the group and forms it anew, in the agent, or in the command if no agent runs.

mod elsewhere;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bellwether_group::{
    edits::By,
    key_refusal, lost,
    takeover::{Answer, Silence},
};
use bellwether_manager::begin::rebuild::{self, Kept, Rebuild, RebuildError, Rebuilt};
use bellwether_proto::{
    advice::{Advice, Advise, Outcome},
    clock::now_ms,
    error::chain,
    key::{KeyPair, PublicKey},
    name::{ServerName, SetName},
    record::{Confirmation, Server, SignedRecord},
    revision::{Epoch, Number, RevisionId, SignedHeader},
    v1,
};
use bellwether_store::state::{file::StateFileError, layout::Layout, record::GroupRecord};
use tonic::Code;

use crate::{net::peers::Peers, services::refusal::Refusal};

/// The parts of a server that a rebuild needs.
#[derive(Clone)]
pub struct Ground {
    /// The state directory.
    pub layout: Layout,
    /// This server's key.
    pub key: Arc<KeyPair>,
    /// The group record.
    pub record: Arc<GroupRecord>,
    /// The other servers.
    pub peers: Arc<Peers>,
    /// The paths of the sets.
    pub sets: Vec<(SetName, PathBuf)>,
    /// This server's incarnation.
    pub incarnation: u64,
}

/// The group is not rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another server is the manager.
    #[error("this server is not the manager")]
    NotManager {
        /// Its name.
        manager: ServerName,
        /// Its address.
        address: String,
    },
    /// A server that has to be asked does not answer.
    #[error("{who} does not answer ({why})")]
    Silent {
        /// Its name.
        who: String,
        /// The reason.
        why: String,
    },
    /// The token is refused.
    #[error("{0}")]
    Token(String),
    /// This server joined later.
    #[error("the group was rebuilt from a record that does not have this server, which joined later")]
    Strange(ServerName),
    /// A switch was interrupted.
    #[error("a switch was interrupted here ({0} is there)")]
    Interrupted(PathBuf),
    /// The state directory.
    #[error("cannot set {path} aside; this server follows the same manager as before")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The record cannot be saved.
    #[error("the group record could not be saved")]
    State(#[from] StateFileError),
    /// A rule refuses, or the disk fails.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping(#[from] tokio::task::JoinError),
}

impl Advise for Refused {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::NotManager { manager, address } => {
                Some(Advice::run(&format!("at {manager} ({address})"), "bellwether group rebuild"))
            }
            Self::Silent { .. } => {
                Some(Advice::say("give the command again when it runs and can be reached from here"))
            }
            Self::Token(_) => Some(Advice::run(
                "run it again where the group was rebuilt: it prints the valid token",
                "bellwether group rebuild --refuse KEY",
            )),
            Self::Strange(manager) => {
                let join = format!("then join with a token of {manager}");
                Some(Advice::run("on this machine", "bellwether leave").or(&Advice::say(join)))
            }
            Self::Interrupted(_) => {
                Some(Advice::run("first, which completes it or takes it back", "bellwether serve --recover-only"))
            }
            Self::Io { .. } | Self::State(_) => Some(Advice::say("give the command again")),
            Self::Rebuild(RebuildError::Refusal(refusal)) => refusal.advice(),
            Self::Rebuild(RebuildError::Role(role)) => role.advice(),
            Self::Rebuild(_) | Self::Stopping(_) => None,
        }
    }
}

impl Refusal for Refused {
    fn code(&self) -> Code {
        match self {
            Self::NotManager { .. } | Self::Token(_) | Self::Strange(_) | Self::Interrupted(_) => {
                Code::FailedPrecondition
            }
            Self::Rebuild(RebuildError::Refusal(_) | RebuildError::Role(_)) => Code::FailedPrecondition,
            Self::Silent { .. } => Code::Unavailable,
            Self::Rebuild(_) | Self::Io { .. } | Self::State(_) => Code::Internal,
            Self::Stopping(_) => Code::Unavailable,
        }
    }

    fn outcome(&self) -> Outcome {
        if matches!(self, Self::Silent { .. }) { Outcome::Refused } else { Outcome::of_code(self.code()) }
    }
}

impl Refused {
    /// How the request ended.
    pub fn outcome(&self) -> Outcome {
        Refusal::outcome(self)
    }
}

/// The result of the survey.
#[derive(Debug, Default)]
pub struct Found {
    /// The findings for people, one line each.
    pub findings: Vec<String>,
    /// Revisions that others have seen and the history here lacks, with the servers that have seen them.
    lost: BTreeMap<(Number, RevisionId), (SignedHeader, Vec<ServerName>)>,
    /// The highest epoch and the highest sequence that any server has seen.
    seen: Option<Number>,
}

impl Found {
    /// The lost revisions, oldest first, for people.
    pub fn lost(&self) -> Vec<String> {
        let line = |(header, by): &(SignedHeader, Vec<ServerName>)| {
            let by: Vec<&str> = by.iter().map(ServerName::as_str).collect();
            lost::line(header, &by)
        };
        self.lost.values().map(line).collect()
    }

    fn note(&mut self, number: Number) {
        let seen = self.seen.get_or_insert(number);
        seen.epoch = seen.epoch.max(number.epoch);
        seen.sequence = seen.sequence.max(number.sequence);
    }
}

impl Ground {
    /// Asks all other servers for newer records and for the revisions that they have seen, and reads the history here.
    /// `refused`: the keys without which the group is to be rebuilt.
    ///
    /// # Errors
    /// This server is not the manager, or it may not rebuild the group without those keys.
    pub async fn survey(&self, refused: &[PublicKey]) -> Result<Found, Refused> {
        let answers = self.ask(refused).await?;
        let current = self.record.current();
        let manager = current.record().manager();
        if !self.record.is_led_here() && refused.is_empty() {
            return Err(Refused::NotManager { manager: manager.name.clone(), address: manager.address.clone() });
        }
        let mut found = Found::default();
        found.findings.push(format!("the group record is {}", current.record().version));
        if !refused.is_empty() {
            found.findings.extend(self.without(refused)?);
        }
        let state = self.layout.state().to_owned();
        let kept = match tokio::task::spawn_blocking(move || rebuild::kept(&state)).await? {
            Ok(kept) => {
                found.findings.push(match &kept.newest {
                    Some(newest) => format!("the newest revision in the history here is {}", newest.number()),
                    None => "there is no revision in the history here".to_owned(),
                });
                kept
            }
            Err(error) => {
                found.findings.push(format!("the history here cannot be read: {}", chain(&error)));
                Kept::default()
            }
        };
        let theirs = |header: &SignedHeader| refused.iter().any(|key| header.signed_by(key));
        kept.newest.iter().filter(|newest| !theirs(newest)).for_each(|newest| found.note(newest.number()));
        let held = current.record().version.epoch;
        for (server, answer) in answers {
            match answer {
                Err(Silence { why, .. }) => found.findings.push(format!(
                    "{server} does not answer ({why}): what it has seen is not known; where it differs, it keeps that as a \
                     kept copy"
                )),
                Ok(answer) => {
                    let epoch = rebuild::told(held, answer.record.epoch);
                    self.weigh(&mut found, &server, answer, &kept, theirs);
                    found.note(Number { epoch, sequence: 0 });
                }
            }
        }
        Ok(found)
    }

    /// The records that remain valid without the keys, and those that are given up.
    fn without(&self, refused: &[PublicKey]) -> Result<Vec<String>, Refused> {
        let (held, chain) = (self.record.current(), self.record.whole_chain());
        let by = By::new("", now_ms());
        // Checked before a person is asked anything.
        key_refusal::next_record(&held, &chain, refused, &self.key.public(), Epoch(0), &by)
            .map_err(RebuildError::from)?;
        let base = key_refusal::base(&held, &chain, refused).map_err(RebuildError::from)?;
        let (base, held) = (base.record(), held.record());
        let mut lines = vec![format!(
            "group record {}, in which {} leads, is the last that counts; this server leads from then on",
            base.version,
            base.manager().name
        )];
        if base.version != held.version {
            lines.push(format!(
                "group record {}, in which {} leads, and all that was changed by it is given up",
                held.version,
                held.manager().name
            ));
        }
        let gone = base.servers.iter().filter(|server| refused.contains(&server.key));
        lines.extend(gone.map(|server| format!("{} is removed; it may join again with a new key only", server.name)));
        Ok(lines)
    }

    /// The reply if this server leads and those keys are refused already; none if they are not.
    pub fn refused_already(&self, keys: &[PublicKey]) -> Option<v1::RebuildReply> {
        let (current, chain) = (self.record.current(), self.record.whole_chain());
        let refuses = |record: &SignedRecord| keys.iter().all(|key| record.record().refused.contains(key));
        if keys.is_empty() || !self.record.is_led_here() || !refuses(&current) {
            return None;
        }
        let first = chain.iter().chain([&*current]).find(|record| refuses(record))?;
        Some(v1::RebuildReply {
            version: current.record().version.to_string(),
            manager: current.record().manager().name.to_string(),
            confirm: Confirmation::of(first).to_string(),
            ..v1::RebuildReply::default()
        })
    }

    async fn ask(&self, refused: &[PublicKey]) -> Result<BTreeMap<ServerName, Result<Answer, Silence>>, Refused> {
        let others = match refused.is_empty() {
            true => self.peers.others(),
            false => {
                let (held, chain) = (self.record.current(), self.record.whole_chain());
                let base = key_refusal::base(&held, &chain, refused).map_err(RebuildError::from)?;
                let asked = |server: &&Server| server.key != self.key.public() && !refused.contains(&server.key);
                base.record().servers.iter().filter(asked).cloned().collect()
            }
        };
        let ask = |peers: Arc<Peers>, server: Server| async move {
            // A refused key may have signed its record; its state is reported all the same.
            let taken = peers.ask(&server).await;
            let first = |silence: Silence| Silence { why: taken.err().unwrap_or(silence.why), ..silence };
            peers.answer_of(server).await.map_err(first)
        };
        Ok(self.peers.survey(others, ask).await)
    }

    /// Counts only what a manager signed.
    fn weigh(
        &self,
        found: &mut Found,
        server: &ServerName,
        answer: Answer,
        kept: &Kept,
        theirs: impl Fn(&SignedHeader) -> bool,
    ) {
        let mut newest = None;
        let headers = answer.seen.into_iter().chain(answer.at);
        for header in headers.filter(|header| self.record.is_managers(header) && !theirs(header)) {
            let number = header.number();
            newest = newest.max(Some(number));
            found.note(number);
            if kept.lacks(&header) {
                let (_, by) = found.lost.entry((number, header.id())).or_insert((header, Vec::new()));
                if by.last() != Some(server) {
                    by.push(server.clone());
                }
            }
        }
        let has = newest.map_or("no revision".to_owned(), |newest| newest.to_string());
        found.findings.push(format!("{server} has seen {has}"));
    }

    /// Rebuilds the group. No role runs on this state meanwhile.
    ///
    /// # Errors
    /// See [`rebuild::rebuild`].
    pub async fn form(&self, found: &Found, author: String, refused: &[PublicKey]) -> Result<Rebuilt, Refused> {
        let refused = refused.to_vec();
        let ground = self.clone();
        let (seen, lost) = (found.seen.unwrap_or(Number { epoch: Epoch(1), sequence: 0 }), found.lost());
        let form = move || {
            let (held, chain) = (ground.record.current(), ground.record.whole_chain());
            let by = By::new(&author, now_ms());
            let asked = Rebuild {
                held: &held,
                chain: &chain,
                refused: &refused,
                key: &ground.key,
                sets: ground.sets.clone(),
                state: ground.layout.state(),
                seen,
                lost: &lost,
                incarnation: ground.incarnation,
                by,
            };
            rebuild::rebuild(asked, |record| match refused.is_empty() {
                true => ground.record.save(record),
                // The held record is signed by a refused key, so it cannot allow the new one.
                false => Ok(ground.record.save_by_root(record)?),
            })
        };
        Ok(tokio::task::spawn_blocking(form).await??)
    }
}

/// The answer to the command.
pub fn reply(found: &Found, rebuilt: Option<&Rebuilt>, refused: &[PublicKey]) -> v1::RebuildReply {
    let (findings, lost) = (found.findings.clone(), found.lost());
    let Some(rebuilt) = rebuilt else { return v1::RebuildReply { findings, lost, ..v1::RebuildReply::default() } };
    v1::RebuildReply {
        findings,
        lost,
        version: rebuilt.record.record().version.to_string(),
        revision: rebuilt.header.number().to_string(),
        entries: rebuilt.entries,
        kept: rebuilt.kept.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        confirm: if refused.is_empty() { String::new() } else { Confirmation::of(&rebuilt.record).to_string() },
        manager: rebuilt.record.record().manager().name.to_string(),
    }
}
