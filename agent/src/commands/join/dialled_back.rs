//! The manager dials this server back before it enters. The command itself answers, because the agent does not run yet.

use bellwether_daemon::{
    config::Config,
    net::tls::{self, ServerTls},
};
use bellwether_proto::{
    key::KeyPair,
    v1::{EnterRequest, group_client::GroupClient},
};
use tonic::{
    service::Routes,
    transport::{Channel, Server},
};

use crate::{
    common::Common,
    error::{CommandError, Kind},
    progress::Progress,
};

/// Waits until the manager has reached this server at the address that it advertises.
///
/// # Errors
/// The address that the manager dialled and why that failed, or that this server cannot listen; nothing was changed.
pub(super) async fn dialled_back(
    common: &Common,
    manager: &mut GroupClient<Channel>,
    request: &EnterRequest,
    config: &Config,
    key: &KeyPair,
) -> Result<(), CommandError> {
    let progress = Progress::begin(&format!("waiting for the manager to dial {}", request.address));
    let listener = bellwether_daemon::run::listen(config.listen).await?;
    let tls = ServerTls::new(key).map_err(|e| CommandError::failed(&e))?;
    // A client that proves its key over a connection has done all: there is no service to ask.
    let serving = Server::builder().add_routes(Routes::default()).serve_with_incoming(tls::incoming(listener, tls));
    tokio::select! {
        dialled = common.in_time(manager.dial_back(request.clone())) => dialled.map(drop)?,
        served = serving => {
            let why = served.map_or_else(|e| e.to_string(), |()| "it ended".to_owned());
            let text = format!("cannot answer the manager at {}: {why}", config.listen);
            return Err(CommandError::new(Kind::Failed, text));
        }
    }
    progress.done(&format!("the manager reaches this server at {}", request.address));
    Ok(())
}
