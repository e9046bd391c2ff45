//! Recovery at the start, before anything else and before the services that the sets configure; and with a sync, of a
//! switch that could not be taken back.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use bellwether_local::prove::Commands;
use bellwether_proto::{
    key::PublicKey,
    name::SetName,
    record::{Record, SetRules},
};
use bellwether_store::{
    apply::{self, Recovered, Site},
    history::History,
    root::Roots,
    scan::Source,
    state::layout::Layout,
};

use super::{
    OpenError,
    position::{Owed, Position},
    sets::sources,
};

/// Completes or takes back what a crash interrupted, and notes the outcome. `serve --recover-only` does this and no more.
/// `edited`: the directories in which this server edits sets while it is the manager, where a switch may have been interrupted, too.
///
/// # Errors
/// A state file or the history cannot be read, or the switch can be neither completed nor taken back: everything is left
/// as it is.
pub fn recover(
    layout: &Layout,
    (paths, edited): (&BTreeMap<SetName, PathBuf>, &BTreeMap<SetName, PathBuf>),
    commands: &Commands,
    record: &Record,
    key: &PublicKey,
) -> Result<(Position, History), OpenError> {
    let history = History::open(&layout.history())?;
    let mut position: Position = history.log().position()?.unwrap_or_default();
    if position.leads {
        position.at = history.head().map(|stored| stored.header.clone());
    }
    let mut site = site(layout, paths, record, key, &history)?;
    let other = |rules: &SetRules| Some(Source::new(Arc::new(rules.clone()), edited.get(&rules.name)?.clone()));
    site.sources.extend(record.policy.sets.iter().filter_map(other));
    finish(&site, commands, &history, &mut position)?;
    Ok((position, history))
}

/// Where the sets of the record are on this server.
///
/// # Errors
/// One has no path.
pub(super) fn site(
    layout: &Layout,
    paths: &BTreeMap<SetName, PathBuf>,
    record: &Record,
    key: &PublicKey,
    history: &History,
) -> Result<Site, OpenError> {
    let rules: Vec<_> = record.policy.sets.iter().map(|rules| Arc::new(rules.clone())).collect();
    let roots = Roots::open(layout.state(), paths.keys().cloned())?;
    let sources = roots.guard(sources(paths, &rules).map_err(OpenError::NoPath)?);
    Ok(Site {
        sources,
        state: layout.state().to_owned(),
        log: history.log().clone(),
        idle: Arc::default(),
        server: *key,
    })
}

/// Completes or takes back an interrupted switch, where there is one, and notes the outcome.
///
/// # Errors
/// As [`recover`].
pub(super) fn finish(
    site: &Site,
    commands: &Commands,
    history: &History,
    position: &mut Position,
) -> Result<(), OpenError> {
    let known = |revision| history.get(revision).is_some();
    match apply::recover_known(site, position.at.as_ref().map(|at| at.id()), &known)? {
        Recovered::Clean => {}
        Recovered::Back => tracing::warn!("an interrupted switch was taken back"),
        Recovered::Forward(revision) => {
            let before = position.at.take();
            position.at = history.get(revision).map(|stored| stored.header.clone());
            // On the way back the position says so already.
            if !commands.is_empty() && position.owed.as_ref().is_none_or(|owed| owed.refused.is_none()) {
                let sets = commands.keys().cloned().collect();
                position.owed = Some(Owed { sets, validate: true, before, refused: None });
            }
            history.log().note(position)?;
            apply::forget(site)?;
            let number = position.at.as_ref().map(|at| at.number().to_string());
            let span = tracing::error_span!("apply", revision = number.as_deref().unwrap_or("unknown"));
            span.in_scope(|| tracing::warn!("an interrupted switch was completed"));
        }
    }
    Ok(())
}
