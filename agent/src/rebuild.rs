//! `group rebuild` (W13, W14): what is known of the group before it is rebuilt, and forming it; by the agent, or by the
//! command itself where the agent does not run.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bellwether_manager::{
    group::By,
    lost,
    rebuild::{self, Kept, Rebuild, RebuildError, Rebuilt},
};
use bellwether_proto::{
    advice::{Advice, Advise},
    key::KeyPair,
    name::{ServerName, SetName},
    record::Server,
    revision::{Epoch, Number, RevisionId, SignedHeader},
    v1,
};
use tokio::task::JoinSet;

use crate::{clock::now_ms, error::chain, group::GroupRecord, layout::Layout, peers::Peers};

/// What a group is rebuilt with.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) layout: Layout,
    pub(crate) key: Arc<KeyPair>,
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) sets: Vec<(SetName, PathBuf)>,
    pub(crate) incarnation: u64,
}

/// Why the group is not rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("this server is not the manager")]
    NotManager { manager: ServerName, address: String },
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    #[error("the agent is stopping")]
    Stopping(#[from] tokio::task::JoinError),
}

impl Advise for Refused {
    fn advice(&self) -> Option<Advice> {
        match self {
            Self::NotManager { manager, address } => {
                Some(Advice::run(&format!("at {manager} ({address})"), "bellwether group rebuild"))
            }
            Self::Rebuild(_) | Self::Stopping(_) => None,
        }
    }
}

/// What was found before.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// For people, a line each.
    pub(crate) findings: Vec<String>,
    /// Revisions that others have seen and that are not in the history here, with who has.
    lost: BTreeMap<(Number, RevisionId), (SignedHeader, Vec<ServerName>)>,
    /// The highest epoch and the highest sequence that were seen anywhere.
    seen: Option<Number>,
}

impl Found {
    /// The revisions that are lost, oldest first, for people.
    pub(crate) fn lost(&self) -> Vec<String> {
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
    /// Asks all other servers for newer records and for what they have seen, and looks at the history here.
    ///
    /// # Errors
    /// This server is not the manager.
    pub(crate) async fn survey(&self) -> Result<Found, Refused> {
        let answers = self.ask().await;
        let current = self.record.current();
        let manager = current.record().manager();
        if !self.record.is_led_here() {
            return Err(Refused::NotManager { manager: manager.name.clone(), address: manager.address.clone() });
        }
        let mut found = Found::default();
        found.findings.push(format!("the group record is {}", current.record().version));
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
        kept.newest.iter().for_each(|newest| found.note(newest.number()));
        for (server, answer) in answers {
            match answer {
                Err(why) => found.findings.push(format!(
                    "{} does not answer ({why}): what it has seen is not known; where it differs, it keeps that as a \
                     recovery point",
                    server.name
                )),
                Ok(survey) => self.weigh(&mut found, &server, &survey, &kept),
            }
        }
        Ok(found)
    }

    async fn ask(&self) -> Vec<(Server, Result<v1::SurveyReply, String>)> {
        let mut asking = JoinSet::new();
        for server in self.peers.others() {
            let peers = self.peers.clone();
            asking.spawn(async move {
                let taken = peers.ask(&server).await;
                let answer = match taken {
                    Ok(()) => peers.survey(&server).await,
                    Err(why) => Err(why),
                };
                (server, answer)
            });
        }
        let mut answers = asking.join_all().await;
        answers.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        answers
    }

    /// Only what a manager signed counts.
    fn weigh(&self, found: &mut Found, server: &Server, survey: &v1::SurveyReply, kept: &Kept) {
        let headers =
            survey.seen.iter().chain(&survey.at).filter_map(|wire| SignedHeader::from_wire(wire.clone()).ok());
        let mut newest = None;
        for header in headers.filter(|header| self.record.is_managers(header)) {
            let number = header.number();
            newest = newest.max(Some(number));
            found.note(number);
            if kept.lacks(&header) {
                let (_, by) = found.lost.entry((number, header.id())).or_insert((header, Vec::new()));
                if by.last() != Some(&server.name) {
                    by.push(server.name.clone());
                }
            }
        }
        let has = newest.map_or("no revision".to_owned(), |newest| newest.to_string());
        found.findings.push(format!("{} has seen {has}", server.name));
    }

    /// Rebuilds the group. No role runs on this state meanwhile.
    ///
    /// # Errors
    /// Why not; see [`rebuild::rebuild`].
    pub(crate) async fn form(&self, found: &Found, author: String) -> Result<Rebuilt, Refused> {
        let ground = self.clone();
        let (seen, lost) = (found.seen.unwrap_or(Number { epoch: Epoch(1), sequence: 0 }), found.lost());
        let form = move || {
            let held = ground.record.current();
            let by = By::new(&author, now_ms());
            let asked = Rebuild {
                held: &held,
                key: &ground.key,
                sets: ground.sets.clone(),
                state: ground.layout.state(),
                seen,
                lost: &lost,
                incarnation: ground.incarnation,
                by,
            };
            rebuild::rebuild(asked, |record| ground.record.save(record))
        };
        Ok(tokio::task::spawn_blocking(form).await??)
    }
}

/// The answer to the command.
pub(crate) fn reply(found: &Found, rebuilt: Option<&Rebuilt>) -> v1::RebuildReply {
    let (findings, lost) = (found.findings.clone(), found.lost());
    let Some(rebuilt) = rebuilt else { return v1::RebuildReply { findings, lost, ..v1::RebuildReply::default() } };
    v1::RebuildReply {
        findings,
        lost,
        version: rebuilt.record.record().version.to_string(),
        revision: rebuilt.header.number().to_string(),
        entries: rebuilt.entries,
        kept: rebuilt.kept.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    }
}
