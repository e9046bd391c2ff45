//! New file systems: ext4 in a sparse file, mounted through a loop device, and removed when dropped.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::{
    fs::{statvfs, syncfs},
    mount::{UnmountFlags, unmount},
};

use crate::{
    problem::{Problem, Result},
    run::run,
};

/// The largest image, which is more than any measurement writes.
const LARGEST: u64 = 64 << 30;

/// A new file system.
#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
    /// Open for `syncfs`.
    root: Option<File>,
}

impl Disk {
    /// Makes a file system and mounts it at `work`/`name`.
    ///
    /// # Errors
    /// The system's, or there is no space.
    pub(crate) fn fresh(work: &Path, name: &str) -> Result<Self> {
        let (path, image) = (work.join(name), work.join(format!("{name}.img")));
        let free = statvfs(work).map_err(|e| Problem::with("look at", work)(e.into()))?;
        // The image is sparse and grows with the writes. A tenth of the disk always stays free.
        let bytes = (free.f_bavail * free.f_frsize / 10 * 9).min(LARGEST);
        let file = File::create_new(&image).map_err(Problem::with("create", &image))?;
        file.set_len(bytes).map_err(Problem::with("make room for", &image))?;
        fs::create_dir(&path).map_err(Problem::with("create", &path))?;
        // Inode tables in a sparse file are zero already, so nothing has to initialise them during a measurement.
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=1"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop,noinit_itable"]).arg(&image).arg(&path))?;
        // From now on only the loop device has the image, which is removed with it.
        fs::remove_file(&image).map_err(Problem::with("unlink", &image))?;
        let root = File::open(&path).map_err(Problem::with("open", &path))?;
        Ok(Self { path, root: Some(root) })
    }

    /// The path of the mount.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until all writes to it are on the disk.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn sync(&self) -> Result<()> {
        let Some(root) = &self.root else { return Ok(()) };
        syncfs(root).map_err(|e| Problem::with("sync", &self.path)(e.into()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.root = None;
        if let Err(error) = unmount(&self.path, UnmountFlags::empty()) {
            eprintln!(
                "{} cannot be unmounted ({error}); it goes with the last process that uses it",
                self.path.display()
            );
            let _ = unmount(&self.path, UnmountFlags::DETACH);
        }
        let _ = fs::remove_dir(&self.path);
    }
}
