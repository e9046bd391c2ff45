//! The place of one measurement: new file systems, one for each server like on separate machines, with the tree on the
//! manager's one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use crate::{
    compare,
    crew::Crew,
    disk::Disk,
    network::Network,
    plan::Cell,
    problem::{Problem, Result},
    run::run,
    tree::Template,
};

/// A new place.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) cell: Cell,
    pub(crate) network: &'a Network,
    pub(crate) template: &'a Template,
    /// The manager's file system, then each member's; or one for all.
    disks: Vec<Disk>,
}

impl<'a> Site<'a> {
    /// Makes the file systems (one for all if `shared`), copies the tree to the manager's one, sets the link's rate, and waits
    /// for the disks.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(
        cell: Cell,
        work: &Path,
        shared: bool,
        network: &'a Network,
        template: &'a Template,
    ) -> Result<Self> {
        let count = if shared { 1 } else { 1 + cell.members };
        let disks = (0..count).map(|number| Disk::fresh(work, &format!("disk{number}"))).collect::<Result<_>>()?;
        let site = Self { cell, network, template, disks };
        for target in site.targets().iter().chain([&site.manager()]) {
            fs::create_dir_all(target).map_err(Problem::with("create", target))?;
        }
        run(Command::new("cp").arg("-a").arg(&template.directory).arg(site.source()))?;
        network.set(cell.link)?;
        site.sync()?;
        Ok(site)
    }

    /// The manager's directory.
    pub(crate) fn manager(&self) -> PathBuf {
        self.disks[0].path().join("manager")
    }

    /// The manager's tree.
    pub(crate) fn source(&self) -> PathBuf {
        self.manager().join("tree")
    }

    /// The directory of member `index`, counted from 1.
    pub(crate) fn member(&self, index: usize) -> PathBuf {
        self.disks.get(index).unwrap_or(&self.disks[0]).path().join(format!("member{index}"))
    }

    /// The trees of all members.
    pub(crate) fn targets(&self) -> Vec<PathBuf> {
        self.members().map(|member| self.member(member).join("tree")).collect()
    }

    /// The members' numbers.
    pub(crate) fn members(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.cell.members
    }

    /// A crew with its logs in this place.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn crew(&self) -> Result<Crew<'a>> {
        Crew::new(self.network, &self.disks[0].path().join("logs"))
    }

    /// Waits until everything is on the disks, all at once like `sync`.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sync(&self) -> Result<()> {
        thread::scope(|scope| {
            let syncs: Vec<_> = self.disks.iter().map(|disk| scope.spawn(|| disk.sync())).collect();
            syncs.into_iter().try_for_each(|sync| sync.join().expect("it does not panic"))
        })
    }

    /// Compares all members' trees with the manager's, byte for byte.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn compare(&self) -> Result<()> {
        compare::all_equal(&self.source(), &self.targets())
    }
}
