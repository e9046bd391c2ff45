//! The switch of an apply: looking once more, the journal, the operations, reading back; and the way back.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    os::fd::AsFd,
};

use bellwether_proto::{
    entry::{Entry, EntryPath, Kind},
    name::SetName,
};

use super::{
    Refused,
    journal::{Act, Operation, Phase, Wanted, Was},
    keep::{self, Leftover},
    look::{Seen, Shape, look},
    obstacle,
    place::{Area, Held},
    stage, verify,
    work::{Work, with_source},
};
use crate::{
    durable, failpoint,
    scan::{self, Depth, Keeping, Look, Scan, ScanError},
    tree::{Edit, Node, Tree},
};

impl Work {
    /// Looks at every entry once more, then makes what is staged and the journal, with the `pack` that is switched to, survive a
    /// power loss, both at once: neither needs the other, as recovery believes nothing of what is staged without having read it.
    /// Nothing live is touched; after an error there is no journal. Says where in the log the pack is.
    pub(super) fn begin(&mut self, pack: Option<&[u8]>) -> Result<Option<u64>, Refused> {
        let mut operations = std::mem::take(&mut self.journal.operations);
        let mut unmade: HashSet<(usize, EntryPath)> = HashSet::new();
        let looked = operations.iter_mut().try_for_each(|operation| {
            if matches!(operation.act, Act::Unmake { .. }) {
                unmade.insert((operation.set, operation.path.clone()));
            }
            let free = operation.act == Act::Put && unmade.contains(&(operation.set, operation.path.clone()));
            self.look_again(operation, free).map_err(|source| {
                let path = obstacle::full(&self.areas[operation.set].path, &operation.path);
                let named = format!("{}:{}: {source}", self.journal.sets[operation.set].name, operation.path);
                Refused::Io { action: "look at", path, source: io::Error::new(source.kind(), named) }
            })
        });
        self.journal.operations = operations;
        looked?;
        let alone = self.is_one_file();
        let mut written = Ok(None);
        let mut synced = Ok(());
        rayon::in_place_scope(|scope| {
            scope.spawn(|_| written = self.log.begin(pack, &self.journal));
            synced = self.staging.sync(&self.areas, alone);
        });
        let failed = |action, source| Refused::Io { action, path: self.log.path().to_owned(), source };
        let begun = synced
            .map_err(|failure| self.refused(failure))
            .and_then(|()| written.map_err(|source| failed("write", source)));
        begun.or_else(|refused| {
            let removed = self.log.end().and_then(|()| self.log.sync());
            removed.map_err(|source| failed("write", source))?;
            Err(refused)
        })
    }

    /// `free`: what is there goes before, by operations of its own.
    fn look_again(&self, operation: &mut Operation, free: bool) -> io::Result<()> {
        let area = &self.areas[operation.set];
        if operation.act == Act::Put {
            let staged = look(area.staging.as_fd(), &stage::name(operation))?;
            operation.inode = staged.ok_or(io::ErrorKind::NotFound)?.inode;
        }
        if free || !operation.act.moves() {
            return Ok(());
        }
        let held = area.hold(&operation.path)?;
        let Some(seen) = held.look()? else { return Ok(()) };
        let set = &self.journal.sets[operation.set].name;
        let live = self.live.get(set, &operation.path);
        let expected = self.expected.get(set, &operation.path);
        let entry = match (live.filter(|live| seen.is(live)), &expected) {
            (Some(known), _) => Some(known.entry()),
            (None, Some(Node::Directory(_))) | (None, None) => None,
            // Too young for its stat to be believed, or changed and changed back.
            (None, Some(expected)) => {
                let entry = expected.entry();
                verify::matches(held.at(), &entry, &area.rules, &self.accounts)?.then_some(entry)
            }
        };
        operation.keep = match (&expected, seen.shape) {
            (Some(Node::Directory(_)), Shape::Directory) => !self.as_expected(area, &operation.path)?,
            (Some(expected), _) => entry.as_ref() != Some(&expected.entry()),
            (None, _) => true,
        };
        operation.was = Some(Was {
            inode: seen.inode,
            size: seen.size,
            mtime: seen.mtime,
            directory: seen.shape == Shape::Directory,
            entry,
        });
        Ok(())
    }

    /// Whether a directory holds exactly what it is expected to hold, at any depth.
    fn as_expected(&self, area: &Area, path: &EntryPath) -> io::Result<bool> {
        let mut open = vec![path.clone()];
        while let Some(path) = open.pop() {
            let directory = area.directory(&path)?;
            let expected = self.expected.get(&area.rules.name, &path);
            let names = durable::names(directory.as_fd())?;
            let Some(Node::Directory(expected)) = expected else { return Ok(false) };
            if names.len() != expected.children().len() {
                return Ok(false);
            }
            for child in expected.children() {
                let below = path.join(&child.name);
                let Some(seen) = look(directory.as_fd(), &child.name)? else { return Ok(false) };
                match (&child.node, seen.shape) {
                    (Node::Directory(_), Shape::Directory) => open.push(below),
                    (node, _) if self.unchanged(area, &below, &seen, node) => {}
                    (node, _) => {
                        let at = durable::Name { directory: directory.as_fd(), name: &child.name };
                        if !verify::matches(at, &node.entry(), &area.rules, &self.accounts)? {
                            return Ok(false);
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether the scan read this very entry, and found what is expected.
    fn unchanged(&self, area: &Area, path: &EntryPath, seen: &Seen, expected: &Node) -> bool {
        self.live.get(&area.rules.name, path).is_some_and(|live| seen.is(&live) && live.same(expected))
    }

    /// Does the operations, makes them durable and reads everything back. The error says which operation failed.
    pub(super) fn carry_out(&mut self) -> Result<(Tree, Vec<String>), String> {
        let point = |name: &str| failpoint::check(name).map_err(|error| error.to_string());
        point("apply.journal")?;
        let exchanged = self.exchange_all()?;
        point("apply.exchanged")?;
        let roots = self.journal.operations.iter().filter(|operation| operation.path.is_root());
        for area in roots.map(|operation| operation.set).collect::<BTreeSet<_>>() {
            let area = &mut self.areas[area];
            area.refresh().map_err(|error| format!("cannot open {}: {error}", area.path.display()))?;
        }
        let synced = match exchanged {
            // An exchange is whole or has not happened, and nothing that it brought to staging is needed any more.
            Some(held) if self.is_one_file() => durable::sync_directory(held.at().directory),
            Some(_) | None => self.carrier().sync(),
        };
        synced.map_err(|error| format!("cannot make the switch durable: {error}"))?;
        point("apply.synced")?;
        let live = self.read_back()?;
        let kept = keep::planned(&self.journal, &self.areas, &self.state, Leftover::Old);
        let kept = kept.map_err(|error| format!("cannot look at what was replaced: {error}"))?;
        point("apply.read-back")?;
        Ok((live, kept))
    }

    /// Whether one file is all that is put, and nothing has to be kept.
    fn is_one_file(&self) -> bool {
        let alone = matches!(&self.journal.operations[..], [Operation { act: Act::Put, keep: false, .. }]);
        alone && self.staging.is_one_file()
    }

    /// Does the operations. Gives the place of the last one, where all were exchanges.
    fn exchange_all(&self) -> Result<Option<Held>, String> {
        let mut exchanged = true;
        let carrier = self.carrier();
        let mut last: Option<(usize, EntryPath, Held)> = None;
        for operation in &self.journal.operations {
            let set = operation.set;
            let near = last.as_ref().filter(|(before, ..)| *before == set).map(|(_, path, held)| (path, held));
            let mut switch = || {
                failpoint::check("apply.before-exchange")?;
                let held = self.areas[set].hold_after(near, &operation.path)?;
                exchanged &= carrier.switch(operation, held.clone())?;
                failpoint::check("apply.after-exchange")?;
                Ok(held)
            };
            let held = switch().map_err(|error: io::Error| {
                format!("cannot switch {}:{}: {error}", self.journal.sets[set].name, operation.path)
            })?;
            last = Some((set, operation.path.clone(), held));
        }
        Ok(last.map(|(.., held)| held).filter(|_| exchanged))
    }

    /// Reads every changed entry from the disk and compares it with the revision (invariant 5). An entry that somebody has
    /// edited since the exchange is no failure: the tree holds the edit, which is reported as drift.
    fn read_back(&self) -> Result<Tree, String> {
        let before = self.forgotten();
        let keeping = Keeping { last: &before, expected: &self.target, patience: None };
        let scan = scan::scan_keeping(&self.sources, &before, &Look::At(self.changed()), keeping);
        let unreadable = |error: &ScanError| format!("cannot read back: {}", with_source(error));
        let Scan { tree, unread, .. } = scan.map_err(|error| unreadable(&error))?;
        // A file that changes during each read is being edited. The tree lacks it until the next look.
        if let Some(unread) = unread.iter().find(|unread| !matches!(unread.why, ScanError::Busy { .. })) {
            return Err(unreadable(&unread.why));
        }
        let name = |wanted: &Wanted| &self.journal.sets[wanted.set].name;
        let wrong = self.journal.wanted.iter().find_map(|wanted| {
            let now = tree.get(name(wanted), &wanted.path);
            let as_wanted = wanted.stays || now.as_ref().map(Node::entry) == wanted.entry;
            (!as_wanted && !self.is_edited(wanted, now.as_ref())).then_some((wanted, now))
        });
        match wrong {
            None => Ok(tree),
            Some((wanted, now)) => {
                let how = verify::difference(now.map(|now| now.entry()).as_ref(), wanted.entry.as_ref());
                Err(format!("{}:{} is not what was put there: {how}", name(wanted), wanted.path))
            }
        }
    }

    /// Whether somebody has edited an entry since the exchange, so that it is not as wanted. Two cases are failures and no
    /// edits: the entry is still the one from before the switch, or only a file's bytes differ. An edit also changes the file's
    /// time, size or inode.
    fn is_edited(&self, wanted: &Wanted, now: Option<&Node>) -> bool {
        let before = self.live.get(&self.journal.sets[wanted.set].name, &wanted.path);
        let refilled =
            wanted.entry.is_none() && now.and_then(Node::directory).is_some_and(|d| !d.children().is_empty());
        if before.as_ref().map(Node::entry) == now.map(Node::entry) {
            return refilled;
        }
        match (&wanted.entry, now) {
            (Some(Entry { kind: Kind::File(due), meta: due_meta }), Some(Node::File { meta, content, stat })) => {
                let put = |o: &&Operation| o.set == wanted.set && o.path == wanted.path && o.act == Act::Put;
                let same_inode = |o: &Operation| !stat.is_known() || stat.inode == o.inode;
                let same_file = self.journal.operations.iter().find(put).is_none_or(same_inode);
                content == due || !same_file || content.size() != due.size() || meta.mtime != due_meta.mtime
            }
            _ => true,
        }
    }

    /// Where to look: at what was exchanged, whole; and at every other path that the revision names, for what somebody
    /// else did there since the last scan.
    fn changed(&self) -> BTreeMap<(SetName, EntryPath), Depth> {
        let named = |set: usize, path: &EntryPath| (self.journal.sets[set].name.clone(), path.clone());
        let mut at: BTreeMap<_, _> = self
            .journal
            .operations
            .iter()
            .filter(|operation| !matches!(operation.act, Act::Meta { .. }))
            .map(|operation| (named(operation.set, &operation.path), Depth::All))
            .collect();
        let mut whole: Option<(usize, &EntryPath)> = None;
        for wanted in &self.journal.wanted {
            if whole.is_some_and(|(set, above)| set == wanted.set && wanted.path.is_within(above)) {
                continue;
            }
            let depth = *at.entry(named(wanted.set, &wanted.path)).or_insert(Depth::Entry);
            whole = (depth == Depth::All).then_some((wanted.set, &wanted.path));
        }
        at
    }

    /// The sets as they were known, without what was exchanged: that is read whatever its stat says.
    fn forgotten(&self) -> Tree {
        let exchanged = self.journal.operations.iter().filter(|o| !matches!(o.act, Act::Meta { .. }));
        let exchanged: BTreeSet<_> =
            exchanged.map(|o| (self.journal.sets[o.set].name.clone(), o.path.clone())).collect();
        let mut whole: Option<(SetName, EntryPath)> = None;
        let known = exchanged.into_iter().filter_map(|(set, path)| {
            let within = whole.as_ref().is_some_and(|(above_set, above)| *above_set == set && path.is_within(above));
            self.live.get(&set, &path).filter(|_| !within)?;
            whole = Some((set.clone(), path.clone()));
            Some((set, path, Edit::Remove))
        });
        self.live.edit(known).unwrap_or_else(|_| Tree::empty(self.sources.iter().map(|s| s.rules.clone())))
    }

    /// Notes the phase durably.
    pub(super) fn note_phase(&mut self, phase: Phase) -> io::Result<()> {
        self.journal.phase = phase;
        self.log.begin(None, &self.journal).map(drop)
    }

    /// Undoes every operation. The error names what could not be undone; then the journal stays.
    pub(super) fn take_back(&mut self) -> Result<(), String> {
        failpoint::hit("apply.back");
        if let Err(error) = self.note_phase(Phase::Back) {
            // A crash from here on would finish the switch instead: as whole as its way back.
            tracing::warn!(%error, "cannot note that the switch is taken back");
        }
        let mut failures = Vec::new();
        let carrier = self.carrier();
        for operation in self.journal.operations.iter().rev() {
            if let Err(error) = carrier.back(operation) {
                failures.push(format!("{}:{}: {error}", self.journal.sets[operation.set].name, operation.path));
            }
            failpoint::hit("apply.back-entry");
        }
        if !failures.is_empty() {
            return Err(failures.join("; "));
        }
        carrier.sync().map_err(|error| format!("cannot make the way back durable: {error}"))?;
        failpoint::hit("apply.back-synced");
        self.finish(Leftover::New).map_err(|error| format!("cannot remove what was staged: {error}"))?;
        failpoint::hit("apply.back-done");
        Ok(())
    }

    /// Keeps what has to be kept, ends the switch durably, then removes the rest of what is in staging.
    pub(super) fn finish(&mut self, leftover: Leftover) -> io::Result<()> {
        self.keep(leftover)?;
        self.log.end()?;
        self.log.sync()?;
        self.clean();
        Ok(())
    }

    fn keep(&self, leftover: Leftover) -> io::Result<()> {
        failpoint::check("apply.commit")?;
        keep::keep(&self.journal, &self.areas, &self.state, leftover)?;
        failpoint::check("apply.kept")
    }

    /// As [`Work::finish`] after the revision was noted durably. Unless it is to be so `durably`, nothing waits for the disk: a
    /// journal whose end is lost finds every entry in place, and nothing in staging.
    pub(super) fn settle(&mut self, durably: bool) -> io::Result<()> {
        self.keep(Leftover::Old)?;
        let ended = self.log.end().and_then(|()| if durably { self.log.sync() } else { Ok(()) });
        if let Err(error) = ended {
            tracing::warn!(%error, "cannot note the end of a switch; it is finished again at the next start");
            self.log.disregard_journal();
        }
        self.clean();
        Ok(())
    }

    fn clean(&mut self) {
        failpoint::hit("apply.journal-removed");
        self.leave_staging();
        failpoint::hit("apply.cleaned");
    }
}
