//! The admin socket, over which commands talk to the agent. Only root and the agent's own user may use it.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use bellwether_monitor::listening::{Bounds, ConnectionSlots};
use bellwether_proto::advice::{self, Advice, Outcome};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tonic::{Code, Request, Status, transport::server::UdsConnectInfo};

use crate::net::placed::Placed;

/// The most connections at a time. All of them come from this machine.
pub(crate) const BOUNDS: Bounds = Bounds { all: 64, each: 64 };

/// The socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent answers at this path.
    #[error("another agent answers at {0}; nothing was changed")]
    InUse(PathBuf),
    /// The path is not a socket.
    #[error("{0} is there and is not a socket; it was left as it is")]
    NotASocket(PathBuf),
    /// The system's error.
    #[error("cannot {action} {path}")]
    Io {
        /// The action: create, replace …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// The server's side; dropping it removes the file.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // If it remains, the next agent replaces it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket at `path`, mode 0600. A missing directory is made (0755); a file that a dead agent left is
/// replaced. The caller keeps both results while it serves connections.
///
/// # Errors
/// Another agent answers at `path`, something else is there, or the system fails.
pub async fn bind(path: &Path) -> Result<(AdminSocket, UnixListenerStream), BindError> {
    let failed = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed("create the directory of"))?;
    }
    remove_stale(path).await?;
    let listener = UnixListener::bind(path).map_err(failed("offer"))?;
    let socket = AdminSocket { path: path.to_owned() };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    Ok((socket, UnixListenerStream::new(listener)))
}

async fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |action| move |source| BindError::Io { action, path: path.to_owned(), source };
    let found = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(failed("look at"))?,
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed("replace")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("connect to")(e)),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

/// The connections to serve, each with a slot.
pub fn placed(connections: UnixListenerStream) -> impl Stream<Item = io::Result<Placed<UnixStream>>> {
    let mut places = ConnectionSlots::new(BOUNDS);
    connections.map(move |stream| Ok(Placed::new(stream?, places.admit(()), None)))
}

/// An interceptor for the admin service that admits root and the agent's own user.
///
/// # Errors
/// Permission denied, for all other users.
pub fn only_owner(request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    let own = rustix::process::geteuid().as_raw();
    match peer.map(|credentials| credentials.uid()) {
        Some(uid) if may_ask(uid, own) => Ok(request),
        Some(uid) => {
            let text = format!("user {uid} may not ask this agent: only root and user {own}, which it runs as, may");
            let advice = Advice::say("run the command with sudo");
            Err(advice::status(Code::PermissionDenied, Outcome::Refused, &text, Some(&advice)))
        }
        None => Err(Status::permission_denied("the system does not say which user asks")),
    }
}

fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

#[cfg(test)]
mod tests;
