//! Follows a group that root has rebuilt at another server without a key that this server still follows. Root of this
//! machine confirms it by the token: no message from the network alone makes a server give up a seen epoch.

use std::{os::fd::AsFd, path::PathBuf, sync::Arc};

use bellwether_manager::begin::rebuild;
use bellwether_proto::{
    record::{Confirmation, SignedRecord, Version, chain},
    revision::Epoch,
    v1,
};
use bellwether_store::{beneath, durable, log, state::layout::Held};

use super::{Ground, Refused};

/// The present state of a group that was rebuilt elsewhere.
pub struct Elsewhere {
    held: Held,
    before: Arc<SignedRecord>,
    followed: bool,
}

impl Elsewhere {
    /// Whether this server follows it already.
    pub fn is_followed(&self) -> bool {
        self.followed
    }

    /// The answer to the command; `kept` is the path of the given-up state.
    pub fn reply(&self, kept: Option<PathBuf>) -> v1::RebuildReply {
        let (now, before) = (self.held.current.record(), self.before.record());
        let mut findings = vec![format!("{} has rebuilt the group: group record {}", now.manager().name, now.version)];
        findings.extend(now.refused.iter().map(|key| match before.by_key(key) {
            Some(server) => format!("it refuses {key}, which is {}", server.name),
            None => format!("it refuses {key}"),
        }));
        findings.push(format!(
            "this server follows {} by group record {}{}",
            before.manager().name,
            before.version,
            if self.followed { "" } else { ", which is given up" }
        ));
        v1::RebuildReply {
            findings,
            version: now.version.to_string(),
            manager: now.manager().name.to_string(),
            kept: kept.map(|path| path.display().to_string()).unwrap_or_default(),
            ..v1::RebuildReply::default()
        }
    }

    /// Whether this server has seen a later epoch: none of that may count as newer.
    fn goes_back(&self) -> bool {
        self.before.record().version.epoch >= self.held.current.record().version.epoch
    }
}

impl Ground {
    /// Asks the manager that `token` names for the token's record and its successors.
    ///
    /// # Errors
    /// It does not answer, does not have the record, or the record does not have this server.
    pub async fn rebuilt_elsewhere(&self, token: &Confirmation) -> Result<Elsewhere, Refused> {
        let before = self.record.current();
        let none = Version { epoch: Epoch(0), version: 0 };
        let who = format!("the manager at {}", token.address);
        let links = self.peers.records_at(&token.address, token.manager, none).await;
        let links = links.map_err(|why| Refused::Silent { who, why })?;
        let at = links.iter().position(|link| token.is_of(link));
        let at = at.ok_or_else(|| Refused::Token(format!("the manager at {} has no such record", token.address)))?;
        let rebuilt = &links[at];
        if rebuilt.record().group != before.record().group || rebuilt.record().refused.is_empty() {
            return Err(Refused::Token("it is not of this group, or refuses no key".to_owned()));
        }
        let since = chain::walk(rebuilt, &links[at + 1..]).map_err(|why| Refused::Token(why.to_string()))?;
        let current = since.last().unwrap_or(rebuilt).clone();
        current.may_be_in_force().map_err(|why| Refused::Token(why.to_string()))?;
        if current.record().by_key(&self.key.public()).is_none() {
            return Err(Refused::Strange(current.record().manager().name.clone()));
        }
        let kept = self.record.whole_chain();
        let followed = *before == current || kept.iter().chain([&*before]).any(|link| token.is_of(link));
        let chain = links.iter().filter(|link| **link != current).cloned().collect();
        Ok(Elsewhere { held: Held { current, chain }, before, followed })
    }

    /// Follows the rebuilt group. No role runs on this state meanwhile. If the epoch goes back, this server then holds
    /// no known revision, like one that has just joined: its sets are unchanged, its history becomes a kept copy, and
    /// it is synced by itself. It is safe to repeat: the record changes last.
    ///
    /// # Errors
    /// A file could not be set aside; the server follows the same manager as before.
    pub async fn follow(&self, rebuilt: &Elsewhere) -> Result<Option<PathBuf>, Refused> {
        let ground = self.clone();
        let (held, epoch) = (rebuilt.held.clone(), rebuilt.before.record().version.epoch);
        let back = rebuilt.goes_back();
        let follow = move || {
            let kept = if back { ground.set_aside(epoch)? } else { None };
            ground.record.put_by_root(held)?;
            Ok(kept)
        };
        tokio::task::spawn_blocking(follow).await?
    }

    fn set_aside(&self, epoch: Epoch) -> Result<Option<PathBuf>, Refused> {
        let layout = &self.layout;
        if !log::read(&layout.history()).is_ok_and(|records| !records.is_switching()) {
            return Err(Refused::Interrupted(log::path(&layout.history())));
        }
        self.peers.forget_seen();
        let failed = |path: PathBuf| move |source| Refused::Io { path, source };
        let state = beneath::open_root(layout.state()).map_err(failed(layout.state().to_owned()))?;
        for path in [layout.ticket(), layout.seen()] {
            let name = path.file_name().map(std::os::unix::ffi::OsStrExt::as_bytes).unwrap_or_default().to_vec();
            durable::remove_all(state.as_fd(), &name).map_err(failed(path))?;
        }
        durable::sync_directory(state.as_fd()).map_err(failed(layout.state().to_owned()))?;
        Ok(rebuild::keep_history(layout.state(), &format!("refused-epoch-{epoch}"))?)
    }
}
