//! Where one measurement takes place: a fresh file system with the manager's tree on it, and room for each member.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
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

/// A fresh place.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) cell: Cell,
    pub(crate) network: &'a Network,
    pub(crate) template: &'a Template,
    disk: Disk,
}

impl<'a> Site<'a> {
    /// Makes the file system, copies the tree to the manager's place, sets the link, and waits for the disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(cell: Cell, work: &Path, network: &'a Network, template: &'a Template) -> Result<Self> {
        let site = Self { cell, network, template, disk: Disk::fresh(work, "fresh")? };
        for member in 1..=cell.members {
            let tree = site.member(member).join("tree");
            fs::create_dir_all(&tree).map_err(Problem::with("create", &tree))?;
        }
        let manager = site.manager();
        fs::create_dir_all(&manager).map_err(Problem::with("create", &manager))?;
        run(Command::new("cp").arg("-a").arg(&template.directory).arg(site.source()))?;
        network.set(cell.link)?;
        site.sync()?;
        Ok(site)
    }

    /// The manager's place.
    pub(crate) fn manager(&self) -> PathBuf {
        self.disk.path().join("manager")
    }

    /// The manager's tree.
    pub(crate) fn source(&self) -> PathBuf {
        self.manager().join("tree")
    }

    /// The place of member `index`, counted from 1.
    pub(crate) fn member(&self, index: usize) -> PathBuf {
        self.disk.path().join("members").join(index.to_string())
    }

    /// The trees of all members.
    pub(crate) fn targets(&self) -> Vec<PathBuf> {
        self.members().map(|member| self.member(member).join("tree")).collect()
    }

    /// The members' numbers.
    pub(crate) fn members(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.cell.members
    }

    /// A crew whose logs are here.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn crew(&self) -> Result<Crew<'a>> {
        Crew::new(self.network, &self.disk.path().join("logs"))
    }

    /// Waits until everything is on the disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sync(&self) -> Result<()> {
        self.disk.sync()
    }

    /// Compares all members' trees with the manager's, byte for byte.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn compare(&self) -> Result<()> {
        compare::all_equal(&self.source(), &self.targets())
    }
}
