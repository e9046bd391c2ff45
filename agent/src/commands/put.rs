//! `bellwether put SET:FILE`: changes one file through any server (W5); on request, only if it has not changed.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use bellwether_proto::limits;

use super::{
    change::{self, Becomes, Expect, FileChange, Options},
    target,
};
use crate::{
    common::Common,
    error::{CommandError, Kind},
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file in the set, such as nginx:conf.d/a.conf
    #[arg(value_name = "SET:FILE")]
    pub file: OsString,
    /// The new content: a local file, or - for standard input
    #[arg(value_name = "LOCALFILE", default_value = "-")]
    pub local: PathBuf,
    /// Change the file only if it still has this BLAKE3 hash (`get --hash`), or `none` if it must not exist
    #[arg(long, value_name = "HASH")]
    pub expect: Option<Expect>,
    /// The permissions, such as 0640; without it, they stay, or are 0644 for a new file
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub mode: Option<u32>,
    /// The common arguments of a change.
    #[command(flatten)]
    pub options: Options,
}

/// Runs the command.
///
/// # Errors
/// Refused: the file is not the expected one, or no change is possible now (W8, W11).
pub async fn run(args: Args, common: &Common) -> Result<(), CommandError> {
    let target = target::file(&args.file)?;
    let becomes = Becomes::File { data: content(&args.local)?.into(), mode: args.mode };
    let Args { expect, options, .. } = args;
    change::run(common, FileChange { target: &target, expect, becomes, accept: false, options }).await
}

fn content(local: &Path) -> Result<Vec<u8>, CommandError> {
    let failed = |e: io::Error| CommandError::new(Kind::Failed, format!("cannot read {}: {e}", local.display()));
    let mut data = Vec::new();
    // One byte more than the limit shows that the file is too large.
    let limit = limits::PUT as u64 + 1;
    if local == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut data).map_err(failed)?;
    } else {
        File::open(local).and_then(|file| file.take(limit).read_to_end(&mut data)).map_err(failed)?;
    }
    if data.len() > limits::PUT {
        let text = format!("{} has more than {} bytes", local.display(), limits::PUT);
        return Err(CommandError::new(Kind::Refused, text)
            .hint("copy it into the set's directory on the manager, which publishes it"));
    }
    Ok(data)
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| mode & !0o7777 == 0)
        .ok_or_else(|| format!("'{text}' is not a mode: octal digits, as 0640"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_have_twelve_bits() {
        assert_eq!((mode("0640"), mode("4755")), (Ok(0o640), Ok(0o4755)));
        for text in ["0o640", "u=rw", "10000", "9", "-1", ""] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("large");
        std::fs::write(&path, vec![0; limits::PUT]).expect("written");
        assert_eq!(content(&path).expect("just fits").len(), limits::PUT);
        std::fs::write(&path, vec![0; limits::PUT + 1]).expect("written");
        assert_eq!(content(&path).expect_err("one too many").kind, Kind::Refused);
    }
}
