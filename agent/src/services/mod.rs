//! What this server answers: to other servers ([`group`]) and to the commands on this machine ([`admin`]).

pub(crate) mod admin;
pub(crate) mod group;
pub(crate) mod link;

use std::sync::Arc;

use bellwether_manager::Manager;
use bellwether_proto::{record::Role, status::FarmStatus, v1};
use tokio::sync::watch;
use tonic::Status;

use self::link::ManagerLink;
use crate::group::GroupRecord;

/// What the services share: who this server is, what it is in its group, what is known of the farm.
pub(crate) struct Agent {
    pub(crate) record: Arc<GroupRecord>,
    pub(crate) standing: Standing,
    pub(crate) farm: watch::Receiver<Arc<FarmStatus>>,
}

/// What this server is, with what it needs for it.
pub(crate) enum Standing {
    /// It owns the configuration.
    Manager(Manager),
    /// It follows; changes asked of it go to the manager.
    Member(ManagerLink),
}

impl Agent {
    /// The manager's role, where this server has it.
    ///
    /// # Errors
    /// Refused with the manager's name and the way out (W16).
    pub(crate) fn manager(&self) -> Result<&Manager, Status> {
        match &self.standing {
            Standing::Manager(manager) => Ok(manager),
            Standing::Member(_) => {
                let current = self.record.current();
                let manager = current.record().manager();
                Err(Status::failed_precondition(format!(
                    "this server is a member; nothing was changed\nrun the command at the manager, {} ({})",
                    manager.name, manager.address
                )))
            }
        }
    }

    /// The name of the server with that key, when it may ask things of this one.
    ///
    /// # Errors
    /// Not a server of the group (any more).
    pub(crate) fn authorise(&self, peer: Option<&crate::tls::Peer>) -> Result<String, Status> {
        let key = peer.ok_or_else(|| Status::unauthenticated("the connection has no key"))?.key;
        let current = self.record.current();
        match current.record().by_key(&key) {
            Some(server) if server.role != Role::Disabled => Ok(server.name.to_string()),
            Some(server) => Err(Status::permission_denied(format!("{} is disabled in the group", server.name))),
            None => Err(Status::permission_denied(format!("{key} is not a server of this group (any more)"))),
        }
    }

    /// The farm as this server knows it, as JSON.
    pub(crate) fn status(&self) -> Result<v1::StatusReply, Status> {
        let status = self.farm.borrow().clone();
        let json = serde_json::to_vec(&*status).map_err(|e| Status::internal(e.to_string()))?;
        Ok(v1::StatusReply { json: json.into() })
    }
}
