//! A change of one file by `put`, `rm` or `edit`, as a compare-and-swap.

use std::str::FromStr;

use bellwether_proto::{
    Malformed,
    hash::Hash,
    v1::{ChangeRequest, FileContent, ReadRequest, admin_client::AdminClient, change_request::Change},
};
use bytes::Bytes;
use serde_json::json;
use tonic::{Code, transport::Channel};

use super::{
    farm::{self, Wait},
    record,
    target::Target,
};
use crate::{
    common::{Common, author},
    error::{CommandError, Kind},
    output,
};

/// The caller's expectation of the present content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No file.
    Nothing,
    /// A file with this BLAKE3 hash.
    File(Hash),
}

impl Expect {
    fn hash(self) -> Option<Hash> {
        match self {
            Self::Nothing => None,
            Self::File(hash) => Some(hash),
        }
    }

    /// As [`ChangeRequest::expected`] has it.
    fn into_wire(self) -> Bytes {
        self.hash().map_or_else(Bytes::new, Bytes::from)
    }
}

impl FromStr for Expect {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text == "none" { Ok(Self::Nothing) } else { text.parse().map(Self::File) }
    }
}

/// The arguments of every command that changes a file.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The reason for the change
    #[arg(long, short, default_value = "")]
    pub message: String,
    /// Show what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The progress to wait for before the command ends
    #[arg(long, default_value = "manager")]
    pub wait: Wait,
}

/// The content after the change.
#[derive(Debug)]
pub(super) enum Becomes {
    Nothing,
    File { data: Bytes, mode: Option<u32> },
}

/// The requested change.
#[derive(Debug)]
pub(super) struct FileChange<'a> {
    pub(super) target: &'a Target,
    pub(super) expect: Option<Expect>,
    pub(super) becomes: Becomes,
    pub(super) accept: bool,
    pub(super) options: Options,
}

/// Requests the change, waits as the options say, and prints the result.
pub(super) async fn run(common: &Common, asked: FileChange<'_>) -> Result<(), CommandError> {
    let FileChange { target, expect, becomes, accept, options: Options { message, dry_run, wait } } = asked;
    let mut client = common.connect().await?;
    if dry_run {
        let now = common.within(current(&mut client, target)).await?;
        record::show_plan(common, &plan(target, now, expect, &becomes)?);
        return Ok(());
    }
    let removed = matches!(becomes, Becomes::Nothing);
    let request = ChangeRequest {
        set: target.set.to_string(),
        path: target.path.as_bytes().to_vec().into(),
        expected: expect.map(Expect::into_wire),
        change: Some(match becomes {
            Becomes::Nothing => Change::Remove(true),
            Becomes::File { data, mode } => Change::Put(FileContent { data, mode }),
        }),
        author: author(),
        message,
        accept,
    };
    let reply = common.in_time(client.change(request)).await?.into_inner();
    if wait == Wait::All && !reply.revision.is_empty() {
        farm::until_reached(&mut client, common, farm::number(&reply.revision)?, None).await?;
    }
    let document = json!({
        "target": target.to_string(),
        "revision": (!reply.revision.is_empty()).then_some(&reply.revision),
        "id": data_encoding::HEXLOWER.encode(&reply.id),
    });
    output::show(common.json, &document, |_| match (reply.revision.as_str(), wait) {
        ("", _) if removed => format!("{target} does not exist; nothing was changed"),
        ("", _) => format!("{target} already has this content; nothing was changed"),
        (revision, Wait::All) => format!("{target} changed in {revision}, and every member has it"),
        (revision, Wait::None | Wait::Manager) => format!("{target} changed in {revision}"),
    });
    Ok(())
}

/// The hash of the present file; none: there is no file.
async fn current(client: &mut AdminClient<Channel>, target: &Target) -> Result<Option<Hash>, CommandError> {
    let (set, path) = (target.set.to_string(), target.path.as_bytes().to_vec().into());
    let request = ReadRequest { set, path, hash_only: true, ..ReadRequest::default() };
    match client.read(request).await {
        Ok(reply) => Hash::try_from(reply.into_inner().hash.as_ref()).map(Some).map_err(|e| CommandError::failed(&e)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// The effect of the change if the present content is `now`.
fn plan(target: &Target, now: Option<Hash>, expect: Option<Expect>, becomes: &Becomes) -> Result<String, CommandError> {
    let named = |hash: Option<Hash>| hash.map_or_else(|| "nothing".to_owned(), |hash| hash.to_string());
    if let Some(expected) = expect.map(Expect::hash).filter(|expected| *expected != now) {
        let text = format!("{target} is {}, expected {}", named(now), named(expected));
        return Err(CommandError::new(Kind::Refused, text).hint("get it again, and put your change on top"));
    }
    Ok(match (now, becomes) {
        (None, Becomes::Nothing) => format!("do nothing: {target} is not there"),
        (Some(_), Becomes::Nothing) => format!("remove {target}"),
        (Some(now), Becomes::File { data, .. }) if now == Hash::of(data) => {
            format!("at most change the mode of {target}")
        }
        (Some(_), Becomes::File { .. }) => format!("replace {target}"),
        (None, Becomes::File { .. }) => format!("create {target}"),
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn the_plan_compares_with_what_was_expected() {
        let target = super::super::target::file(OsStr::new("nginx:a")).expect("a target");
        let (old, new) = (Hash::of(b"old"), Hash::of(b"new"));
        let file = Becomes::File { data: "new".into(), mode: None };
        let plan = |now, expect, becomes| plan(&target, now, expect, becomes).map_err(|e| e.kind);
        assert_eq!(plan(Some(old), Some(Expect::File(old)), &file), Ok("replace nginx:a".to_owned()));
        assert_eq!(plan(Some(new), None, &file), Ok("at most change the mode of nginx:a".to_owned()));
        assert_eq!(plan(None, Some(Expect::Nothing), &file), Ok("create nginx:a".to_owned()));
        assert_eq!(plan(Some(old), None, &Becomes::Nothing), Ok("remove nginx:a".to_owned()));
        assert_eq!(plan(Some(old), Some(Expect::Nothing), &file), Err(Kind::Refused));
        assert_eq!(plan(None, Some(Expect::File(old)), &Becomes::Nothing), Err(Kind::Refused));
    }

    #[test]
    fn an_expectation_is_a_hash_or_none() {
        let hash = Hash::of(b"x");
        assert_eq!("none".parse(), Ok(Expect::Nothing));
        assert_eq!(hash.to_string().parse(), Ok(Expect::File(hash)));
        assert!("abc".parse::<Expect>().is_err());
        assert_eq!(Expect::Nothing.into_wire().len(), 0);
    }
}
