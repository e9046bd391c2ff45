//! The connection of commands to the agent on the same machine, through the admin socket.

use std::{io, path::Path};

use bellwether_daemon::net::transport;
use bellwether_proto::{error::chain, limits, v1::admin_client::AdminClient};
use tokio::net::UnixStream;
use tonic::transport::Channel;

use crate::error::{CommandError, Kind};

/// Connects to the agent on this machine.
///
/// # Errors
/// The agent does not run, or this user may not use its socket.
pub(crate) async fn connect(path: &Path) -> Result<AdminClient<Channel>, CommandError> {
    Ok(AdminClient::new(channel(path).await?).max_decoding_message_size(limits::MESSAGE))
}

/// A channel to the agent.
///
/// # Errors
/// As [`connect`].
pub(crate) async fn channel(path: &Path) -> Result<Channel, CommandError> {
    let stream = UnixStream::connect(path).await.map_err(|e| no_answer(path, &e))?;
    transport::channel(stream, "the agent").await.map_err(|e| {
        let text = format!("the program at {} is not an agent: {}", path.display(), chain(&e));
        CommandError::new(Kind::Failed, text)
    })
}

/// The process id of the agent that listens at `path`; none: no agent does.
pub(crate) async fn agent(path: &Path) -> Option<i32> {
    UnixStream::connect(path).await.ok()?.peer_cred().ok()?.pid()
}

fn no_answer(path: &Path, error: &io::Error) -> CommandError {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let text = format!("no agent is running on this machine (no answer at {path})");
            CommandError::new(Kind::Failed, text).hint("start it with `bellwether serve`")
        }
        io::ErrorKind::PermissionDenied => CommandError::new(Kind::Refused, format!("this user may not use {path}"))
            .hint("run the command as root (sudo), or as the user that the agent runs as"),
        _ => CommandError::new(Kind::Failed, format!("cannot reach the agent at {path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_an_agent_it_is_said_how_to_start_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/admin.sock");
        let error = connect(&path).await.expect_err("nobody is there");
        assert!(error.message.starts_with("no agent is running on this machine (no answer at "), "{error}");
        assert_eq!(error.hint.as_deref(), Some("start it with `bellwether serve`"));
    }
}
