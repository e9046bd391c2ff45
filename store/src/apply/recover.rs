//! Finishing what a crash interrupted.

use std::io;

use bellwether_proto::{entry::EntryPath, revision::RevisionId};

use super::{
    Failed, Recovered, Refused, Site,
    journal::{Journal, Phase},
    keep::Leftover,
    place::Area,
    work::{Work, with_source},
};
use crate::{
    failpoint,
    scan::{ScanError, Source},
};

fn stuck(what: impl Into<String>, back: impl Into<String>) -> Failed {
    Failed::Stuck { what: what.into(), back: back.into() }
}

impl Work {
    /// The apply that a journal tells of, with its sets opened again.
    fn resume(site: &Site, journal: Journal) -> Result<Self, String> {
        let (mut areas, mut sources) = (Vec::new(), Vec::new());
        for set in &journal.sets {
            // A set may have two places on this server.
            let is = |source: &&Source| source.rules.name == set.name && source.path == set.path;
            let source = site.sources.iter().find(is).ok_or_else(|| {
                let path = set.path.display();
                format!("set {} was at {path} when the switch began; configure it there until it is finished", set.name)
            })?;
            let opened = Area::reopen(source, set.inside, &set.beside);
            areas.push(opened.map_err(|error| format!("cannot open set {}: {error}", set.name))?);
            sources.push(source.clone());
        }
        Ok(Self::new(&Site { sources, ..site.clone() }, journal, areas))
    }

    /// Completes every operation that can be completed; gives those that cannot, by name.
    fn complete(&mut self) -> Result<Vec<String>, String> {
        let mut impossible = Vec::new();
        let carrier = self.carrier();
        for operation in &self.journal.operations {
            let named = format!("{}:{}", self.journal.sets[operation.set].name, operation.path);
            match carrier.forward(operation) {
                Ok(true) => {}
                Ok(false) => impossible.push(named),
                Err(error) => impossible.push(format!("{named} ({error})")),
            }
            failpoint::hit("apply.recover-entry");
        }
        for area in &mut self.areas {
            area.refresh().map_err(|error| format!("cannot open {}: {error}", area.path.display()))?;
        }
        self.carrier().sync().map_err(|error| format!("cannot make the switch durable: {error}"))?;
        failpoint::hit("apply.recover-synced");
        Ok(impossible)
    }
}

/// The work of [`super::recover()`].
pub(super) fn recover(
    site: &Site,
    at: Option<RevisionId>,
    known: &dyn Fn(RevisionId) -> bool,
) -> Result<Recovered, Failed> {
    let journal = Journal::load(&site.log);
    let journal = journal.map_err(|error| stuck("the journal of a switch cannot be used", with_source(&error)))?;
    site.idle.clear();
    let Some(journal) = journal else {
        for source in &site.sources {
            if let Err(error) = Area::remove_leftovers(source, &site.server) {
                // Nobody's configuration: the next apply tries again.
                tracing::warn!(%error, set = %source.rules.name, "cannot remove what was staged");
            }
        }
        return Ok(Recovered::Clean);
    };
    let (phase, revision) = (journal.phase, RevisionId(journal.revision));
    let what = format!("the switch to revision {} was interrupted", journal.label);
    let mut work = Work::resume(site, journal).map_err(|back| stuck(what.clone(), back))?;
    match phase {
        Phase::Back => {}
        Phase::Done => return clean(work, what),
        Phase::Forward if at == Some(revision) => {
            // Noted, so whole once; or a sync to the revision that it was at, which may be half done. What neither is
            // nor can be put is an administrator's edit since.
            work.complete().map_err(|back| stuck(what.clone(), back))?;
            return clean(work, what);
        }
        Phase::Forward if !known(revision) => {
            tracing::warn!("an interrupted switch is taken back: the pack of its revision did not survive");
        }
        Phase::Forward => match completed(&mut work) {
            Ok(()) => return Ok(Recovered::Forward(revision)),
            Err(why) => tracing::warn!(why, "an interrupted switch cannot be completed and is taken back"),
        },
    }
    work.take_back().map_err(|back| stuck(what, back))?;
    Ok(Recovered::Back)
}

fn clean(mut work: Work, what: String) -> Result<Recovered, Failed> {
    work.finish(Leftover::Old).map_err(|error| stuck(what, error.to_string()))?;
    Ok(Recovered::Clean)
}

/// Completes the switch and reads everything back; the error says why that cannot be.
fn completed(work: &mut Work) -> Result<(), String> {
    let impossible = work.complete()?;
    let wrong = if impossible.is_empty() { work.carrier().differing() } else { impossible };
    if wrong.is_empty() { Ok(()) } else { Err(format!("not whole: {}", wrong.join(", "))) }
}

/// Finishes a committed switch whose leftovers could not be kept at the time.
pub(super) fn finish_done(site: &Site) -> Result<(), Refused> {
    let failed =
        |source| Refused::Io { action: "finish the switch noted in", path: site.log.path().to_owned(), source };
    match Journal::load(&site.log).map_err(|error| failed(io::Error::other(with_source(&error))))? {
        None => Ok(()),
        Some(journal) if journal.phase == Phase::Done => {
            let mut work = Work::resume(site, journal).map_err(|error| failed(io::Error::other(error)))?;
            work.finish(Leftover::Old).map_err(failed)
        }
        Some(_) => {
            Err(failed(io::Error::other("it was interrupted; a sync, or the next start of the agent, finishes it")))
        }
    }
}

/// The work of [`super::forget`].
pub(super) fn forget(site: &Site) -> Result<(), ScanError> {
    let set = site.sources.first().map(|source| source.rules.name.clone());
    let failed = |source| match &set {
        Some(set) => Err(ScanError::Io { set: set.clone(), path: EntryPath::root(), source }),
        // No set, so nothing was switched.
        None => Ok(()),
    };
    let journal = match Journal::load(&site.log) {
        Ok(None) => return Ok(()),
        Ok(Some(journal)) => journal,
        Err(error) => return failed(io::Error::other(with_source(&error))),
    };
    match Work::resume(site, journal) {
        Ok(mut work) => work.finish(Leftover::Old).or_else(failed),
        Err(error) => failed(io::Error::other(error)),
    }
}
