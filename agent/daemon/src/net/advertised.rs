//! Keeps agent.toml in step with the group record: `server set NAME --address` changes the address that other servers
//! dial, and this task writes it to the file of that server, at its start and at every change.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use bellwether_proto::{key::PublicKey, record::SignedRecord};
use bellwether_store::{
    beneath,
    durable::{self, Name},
};
use tokio::sync::watch;

/// Updates the file at `file` from the record, until the record's sender is gone.
pub(crate) async fn run(key: PublicKey, file: PathBuf, mut record: watch::Receiver<Arc<SignedRecord>>) {
    let mut told = None;
    loop {
        let address = record.borrow_and_update().record().by_key(&key).map(|own| own.address.clone());
        if let Some(address) = address.filter(|address| told.as_ref() != Some(address)) {
            let (path, wanted) = (file.clone(), address.clone());
            match tokio::task::spawn_blocking(move || follow(&path, &wanted)).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    tracing::info!(%address, file = %file.display(), "agent.toml advertises the record's address now")
                }
                Ok(Err(error)) => tracing::warn!(
                    %address, file = %file.display(), %error,
                    "other servers dial the record's address, and the file still names another one"
                ),
                Err(error) => tracing::warn!(%error, "agent.toml was not checked"),
            }
            told = Some(address);
        }
        if record.changed().await.is_err() {
            return;
        }
    }
}

/// Replaces the address that the file advertises with `address`; the rest of the file is unchanged. Returns false if
/// there is no file, if it advertises no address, or if it advertises this one.
///
/// # Errors
/// The file cannot be read or written; it is unchanged.
fn follow(file: &Path, address: &str) -> io::Result<bool> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        text => text?,
    };
    let Some(new) = changed(&text, address).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))? else {
        return Ok(false);
    };
    // A symbolic link to the file remains.
    replace(&std::fs::canonicalize(file)?, new.as_bytes())?;
    Ok(true)
}

/// Replaces a file; mode and owner are preserved.
fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (file.parent(), file.file_name().map(OsStr::as_bytes)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let was = std::fs::metadata(file)?;
    let directory = beneath::open_root(parent)?;
    let directory = directory.as_fd();
    let temporary = [b".", name, b".new"].concat();
    let new = durable::write_new(directory, &temporary, text)?;
    let of_the_old = || {
        durable::put_numbers(
            new.as_fd(),
            (was.mode() & 0o7777) as u16,
            (was.uid(), was.gid()),
            (was.mtime(), was.mtime_nsec() as u32),
        )
    };
    let put = of_the_old().and_then(|()| durable::sync_file(new.as_fd())).and_then(|()| {
        durable::rename(Name { directory, name: &temporary }, Name { directory, name })?;
        durable::sync_directory(directory)
    });
    if put.is_err() {
        // The temporary file was never visible as `name`.
        let _ = durable::remove(directory, &temporary);
    }
    put
}

/// `text` with `address` as the advertised one; none if it advertises that already, or no address.
fn changed(text: &str, address: &str) -> Result<Option<String>, String> {
    let table = |text: &str| text.parse::<toml::Table>().map_err(|e| e.to_string());
    let mut wanted = table(text)?;
    match wanted.get_mut("advertise") {
        Some(toml::Value::String(now)) if now != address => address.clone_into(now),
        Some(_) | None => return Ok(None),
    }
    let mut above = true;
    let line = |line: &str| {
        above &= !line.trim_start().starts_with('[');
        let here =
            above && line.split('=').next().is_some_and(|key| key.trim().trim_matches(['"', '\'']) == "advertise");
        if !here {
            return line.to_owned();
        }
        let end = if line.ends_with('\n') { "\n" } else { "" };
        format!("advertise = {}{end}", toml::Value::String(address.to_owned()))
    };
    let new: String = text.split_inclusive('\n').map(line).collect();
    if table(&new)? != wanted {
        return Err("the line with advertise cannot be changed alone".to_owned());
    }
    Ok(Some(new))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_address_changes() {
        let text =
            "# ours\nname = \"web1\"\nadvertise = \"web1:7440\"\n\n[[set]]\nname = \"advertise = x\"\npath = \"/a\"\n";
        let new = changed(text, "10.0.0.1:7440").expect("right").expect("another address");
        assert_eq!(new, text.replace("web1:7440", "10.0.0.1:7440"));
        assert_eq!(changed(&new, "10.0.0.1:7440"), Ok(None));
        assert_eq!(changed("name = \"web1\"\n", "10.0.0.1:7440"), Ok(None), "it advertises nothing");
        assert!(changed("name = ", "10.0.0.1:7440").is_err());
        assert!(changed("advertise = \"\"\"\nweb1:7440\"\"\"\n", "10.0.0.1:7440").is_err(), "over two lines");
    }

    #[test]
    fn the_file_keeps_its_mode_and_its_link() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("real.toml"), directory.path().join("agent.toml"));
        std::fs::write(&file, "advertise = \"web1:7440\"\n").expect("written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("its mode");
        std::os::unix::fs::symlink("real.toml", &link).expect("a link");
        assert!(follow(&link, "10.0.0.1:7440").expect("followed"));
        assert!(!follow(&link, "10.0.0.1:7440").expect("nothing to do"));
        assert_eq!(std::fs::read_to_string(&file).expect("read"), "advertise = \"10.0.0.1:7440\"\n");
        assert_eq!(file.metadata().expect("there").mode() & 0o7777, 0o640);
        assert!(link.symlink_metadata().expect("there").is_symlink());
        assert!(!follow(&directory.path().join("none.toml"), "10.0.0.1:7440").expect("no file"));
    }
}
