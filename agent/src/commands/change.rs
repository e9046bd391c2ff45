//! A change of one file by `put`, `rm` or `edit`, as a compare-and-swap.

use std::str::FromStr;

use bellwether_proto::{
    Malformed,
    hash::Hash,
    v1::{ChangeRequest, ReadRequest, admin_client::AdminClient},
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
    common::Common,
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
    /// The form of [`ChangeRequest::expected`].
    pub(super) fn into_wire(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::File(hash) => hash.into(),
        }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    Nothing,
    File(Hash),
}

/// Requests the change, waits as `wait` says, and prints the result.
pub(super) async fn run(
    common: &Common,
    target: &Target,
    request: ChangeRequest,
    becomes: Becomes,
    dry_run: bool,
    wait: Wait,
) -> Result<(), CommandError> {
    let mut client = common.connect().await?;
    if dry_run {
        let now = common.within(current(&mut client, target)).await?;
        let expected = request.expected.map(|bytes| Hash::try_from(bytes.as_ref()).ok());
        record::show_plan(common, &plan(target, now, expected, becomes)?);
        return Ok(());
    }
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
        ("", _) if becomes == Becomes::Nothing => format!("{target} does not exist; nothing was changed"),
        ("", _) => format!("{target} already has this content; nothing was changed"),
        (revision, Wait::All) => format!("{target} changed in {revision}, and every member has it"),
        (revision, Wait::None | Wait::Manager) => format!("{target} changed in {revision}"),
    });
    Ok(())
}

/// The hash of the present file; none: there is no file.
async fn current(client: &mut AdminClient<Channel>, target: &Target) -> Result<Option<Hash>, CommandError> {
    let request = ReadRequest { set: target.set.to_string(), path: target.path.as_bytes().to_vec().into() };
    match client.read(request).await {
        Ok(reply) => Hash::try_from(reply.into_inner().hash.as_ref()).map(Some).map_err(|e| CommandError::failed(&e)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// The effect of the change if the present content is `now`.
fn plan(
    target: &Target,
    now: Option<Hash>,
    expected: Option<Option<Hash>>,
    becomes: Becomes,
) -> Result<String, CommandError> {
    let named = |hash: Option<Hash>| hash.map_or_else(|| "nothing".to_owned(), |hash| hash.to_string());
    if let Some(expected) = expected.filter(|expected| *expected != now) {
        let text = format!("{target} is {}, expected {}", named(now), named(expected));
        return Err(CommandError::new(Kind::Refused, text).hint("get it again, and put your change on top"));
    }
    Ok(match (now, becomes) {
        (None, Becomes::Nothing) => format!("do nothing: {target} is not there"),
        (Some(_), Becomes::Nothing) => format!("remove {target}"),
        (Some(now), Becomes::File(hash)) if now == hash => format!("at most change the mode of {target}"),
        (Some(_), Becomes::File(_)) => format!("replace {target}"),
        (None, Becomes::File(_)) => format!("create {target}"),
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
        let plan = |now, expected, becomes| plan(&target, now, expected, becomes).map_err(|e| e.kind);
        assert_eq!(plan(Some(old), Some(Some(old)), Becomes::File(new)), Ok("replace nginx:a".to_owned()));
        assert_eq!(plan(None, Some(None), Becomes::File(new)), Ok("create nginx:a".to_owned()));
        assert_eq!(plan(Some(old), None, Becomes::Nothing), Ok("remove nginx:a".to_owned()));
        assert_eq!(plan(Some(old), Some(None), Becomes::File(new)), Err(Kind::Refused));
        assert_eq!(plan(None, Some(Some(old)), Becomes::Nothing), Err(Kind::Refused));
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
