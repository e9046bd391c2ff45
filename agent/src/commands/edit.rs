//! `bellwether edit SET:FILE`: edit one file through any server (W5), as a compare-and-swap. If the file has changed
//! meanwhile, the edited text is kept, and its path is named.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::PathBuf,
    process::Command,
};

use bellwether_daemon::drift::{SECRET, diff};
use bellwether_proto::{hash::Hash, limits, v1::ReadRequest};
use bellwether_store::secret::SecretPaths;
use serde_json::json;
use tonic::Code;

use super::{
    change::{self, Becomes, Expect, FileChange, Options},
    record,
    target::{self, Target},
};
use crate::{
    common::Common,
    error::{CommandError, Kind},
    output,
};

/// The largest number of bytes of a diff that a dry run shows.
const SHOWN: usize = 1 << 20;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file in the set, such as nginx:conf.d/a.conf
    #[arg(value_name = "SET:FILE")]
    pub file: OsString,
    /// Why, and how.
    #[command(flatten)]
    pub options: Options,
}

/// Runs the command.
///
/// # Errors
/// Refused: the file was changed meanwhile, or no change is possible now (W8, W11). The edited text is kept and named.
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let target = target::file(&args.file)?;
    let before = read(common, &target).await?;
    let copy = Copy::new(&target, before.as_deref().unwrap_or_default())?;
    let edited = copy.edit();
    let after = match edited.and_then(|()| copy.read()) {
        Ok(after) => after,
        Err(error) => return Err(copy.keep_if_changed(before.as_deref(), error)),
    };
    if before.as_deref().unwrap_or_default() == after {
        copy.remove();
        let document = json!({ "target": target.to_string(), "revision": null });
        output::show(common.json, &document, |_| format!("{target} was not edited; nothing was changed"));
        return Ok(());
    }
    if args.options.dry_run {
        show(common, &target, before.as_deref(), &after)?;
        copy.remove();
        return Ok(());
    }
    let expect = Some(before.as_deref().map_or(Expect::Nothing, |data| Expect::File(Hash::of(data))));
    let becomes = Becomes::File { data: after.into(), mode: None };
    let asked = FileChange { target: &target, expect, becomes, accept: false, options: args.options };
    match change::run(common, asked).await {
        Ok(()) => {
            copy.remove();
            Ok(())
        }
        Err(error) => Err(copy.kept(error)),
    }
}

/// The file at the manager; none: there is no file.
async fn read(common: &Common, target: &Target) -> Result<Option<Vec<u8>>, CommandError> {
    let mut client = common.connect().await?;
    let path = bytes::Bytes::copy_from_slice(target.path.as_bytes());
    // The editor shows the file to the person who asked for exactly this file, so a secret one is no exception.
    let request = ReadRequest { set: target.set.to_string(), path, reveal: true, hash_only: false };
    let answer = async {
        match client.read(request).await {
            Ok(reply) => Ok(Some(reply.into_inner().data.to_vec())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(CommandError::from(status)),
        }
    };
    common.within(answer).await
}

fn show(common: &Common, target: &Target, before: Option<&[u8]>, after: &[u8]) -> Result<(), CommandError> {
    let name = target.to_string();
    let held = record::held(common)?;
    if SecretPaths::new(&held.current.record().policy.secret).covers(&target.set, &target.path) {
        let (before, after) = (before.map_or(0, <[u8]>::len), after.len());
        let text = format!("{name}: {SECRET}: changed ({before} → {after} bytes)");
        output::show(common.json, &json!({ "target": name, "diff": null, "note": SECRET }), |_| {
            format!("{text}\nwould put that (nothing was changed)")
        });
        return Ok(());
    }
    let text = diff((&name, before.unwrap_or_default()), (&format!("{name} as edited"), after), SHOWN).text;
    output::show(common.json, &json!({ "target": name, "diff": text }), |_| {
        format!("{text}\nwould put that (nothing was changed)")
    });
    Ok(())
}

/// A private copy for the editor.
struct Copy {
    directory: PathBuf,
    file: PathBuf,
}

impl Copy {
    /// Makes the copy in its own directory (0700) under the file's name, by which editors tell the file's type.
    fn new(target: &Target, data: &[u8]) -> Result<Self, CommandError> {
        let name = target.path.split().map_or(&b"file"[..], |(_, name)| name);
        let directory = std::env::temp_dir().join(format!("bellwether-edit-{}", random()?));
        let failed = |e: io::Error| {
            CommandError::new(Kind::Failed, format!("cannot make a copy in {}: {e}", directory.display()))
                .hint("nothing was changed; TMPDIR names another directory for it")
        };
        DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let copy = Self { file: directory.join(OsStr::from_bytes(name)), directory: directory.clone() };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&copy.file).map_err(failed)?;
        file.write_all(data).map_err(failed)?;
        Ok(copy)
    }

    /// Runs the editor that VISUAL or EDITOR name, or vi, to its end, through a shell: the variable may hold arguments.
    fn edit(&self) -> Result<(), CommandError> {
        let named = ["VISUAL", "EDITOR"].into_iter().filter_map(std::env::var_os).find(|editor| !editor.is_empty());
        let mut script = named.unwrap_or_else(|| "vi".into());
        let editor = script.to_string_lossy().into_owned();
        script.push(" \"$@\"");
        let failed = |why: String| {
            CommandError::new(Kind::Failed, format!("the editor ({editor}) {why}; nothing was changed"))
                .hint("VISUAL or EDITOR name another one")
        };
        let status = Command::new("/bin/sh").arg("-c").arg(script).arg("edit").arg(&self.file).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(format!("ended with {status}"))),
            Err(error) => Err(failed(format!("cannot be started: {error}"))),
        }
    }

    fn read(&self) -> Result<Vec<u8>, CommandError> {
        let failed = |e: io::Error| {
            CommandError::new(Kind::Failed, format!("cannot read {}: {e}; nothing was changed", self.file.display()))
        };
        let mut data = Vec::new();
        // One byte more than the limit shows that the file is too large.
        File::open(&self.file).and_then(|f| f.take(limits::PUT as u64 + 1).read_to_end(&mut data)).map_err(failed)?;
        if data.len() > limits::PUT {
            let text = format!("the edited text has more than {} bytes; nothing was changed", limits::PUT);
            return Err(CommandError::new(Kind::Refused, text));
        }
        Ok(data)
    }

    /// Keeps the copy and adds its path to the error.
    fn kept(self, error: CommandError) -> CommandError {
        let kept = format!("the edited text is kept in {}", self.file.display());
        let hint = error.hint.as_ref().map_or_else(|| kept.clone(), |hint| format!("{hint}\n{kept}"));
        error.hint(hint)
    }

    fn keep_if_changed(self, before: Option<&[u8]>, error: CommandError) -> CommandError {
        if fs::read(&self.file).is_ok_and(|now| now == before.unwrap_or_default()) {
            self.remove();
            return error;
        }
        self.kept(error)
    }

    fn remove(self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, copy = %self.directory.display(), "the edited copy is kept");
        }
    }
}

fn random() -> Result<String, CommandError> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; 8];
    let failed = |_| CommandError::new(Kind::Failed, "the system's random source does not answer");
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, path::Path};

    use super::*;

    fn copy() -> Copy {
        let target = target::file(OsStr::new("nginx:conf.d/a.conf")).expect("a target");
        Copy::new(&target, b"before").expect("a copy")
    }

    #[test]
    fn the_copy_is_private_and_has_the_files_name() {
        let copy = copy();
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&copy.directory), mode(&copy.file)), (0o700, 0o600));
        assert!(copy.file.ends_with("a.conf"));
        assert_eq!(copy.read().expect("read"), b"before");
        let directory = copy.directory.clone();
        copy.remove();
        assert!(!directory.exists());
    }

    #[test]
    fn what_was_edited_is_kept_and_named_when_it_cannot_be_put() {
        let made = copy();
        let file = made.file.clone();
        fs::write(&file, "after").expect("written");
        let error = made.keep_if_changed(Some(b"before"), CommandError::new(Kind::Refused, "no").hint("try again"));
        let hint = error.hint.expect("a hint");
        assert!(hint.starts_with("try again\n") && hint.ends_with(&file.display().to_string()), "{hint}");
        assert_eq!(fs::read(&file).expect("kept"), b"after");
        fs::remove_dir_all(file.parent().expect("its directory")).expect("removed");

        let made = copy();
        let directory = made.directory.clone();
        let error = made.keep_if_changed(Some(b"before"), CommandError::new(Kind::Failed, "no editor"));
        assert!(error.hint.is_none() && !directory.exists(), "nothing was edited, so nothing is kept");
    }
}
