//! Why a master could not start, or could not go on.

use std::error::Error;

use crate::control::ControlError;
use crate::nft::NftError;
use crate::plan::{ClusterName, Listener, PlanError, Port, PortRange};
use crate::process::ProcessError;

/// Why a master could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterError {
    /// The rules.
    #[error(transparent)]
    Rules(#[from] NftError),
    /// The control socket or the lock: most often another master of that name.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The HTTP server.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// Processes and their sockets.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The configuration makes up no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Another cluster on this host has a listener for the same connections.
    #[error("listener {ours} overlaps {theirs} of cluster {cluster}")]
    Overlap {
        /// The listener of this cluster.
        ours: Listener,
        /// The other cluster.
        cluster: ClusterName,
        /// Its listener.
        theirs: Listener,
    },
    /// A public port among the worker ports of another cluster, whose guard drops what comes for it.
    #[error(
        "public port {port} of cluster {public_of} is among the worker ports {range} of cluster {guarded_by}, which other hosts cannot reach"
    )]
    Guarded {
        /// The port.
        port: Port,
        /// The cluster with a listener on it.
        public_of: ClusterName,
        /// The worker ports.
        range: PortRange,
        /// The cluster that they belong to.
        guarded_by: ClusterName,
    },
    /// The master that runs goes on: it did not hand over.
    #[error("the master of cluster {name} does not hand over: {reason}")]
    NotHandedOver {
        /// The cluster.
        name: ClusterName,
        /// Why, for display.
        reason: String,
    },
    /// The runtime cannot wait for changes of rules.
    #[error("cannot wait for changes of rules: {source}")]
    Watch {
        /// Why.
        source: std::io::Error,
    },
    /// There is no socket to write to the journal with.
    #[error("cannot write to the journal: {source}")]
    Journal {
        /// Why.
        source: std::io::Error,
    },
    /// The runtime cannot wait for what workers say.
    #[error("cannot wait for what workers say: {source}")]
    Notify {
        /// Why.
        source: std::io::Error,
    },
    /// Workers are to say that they are ready, and have no socket to say it on.
    #[error("`ready`: notify needs a control directory, in which the socket for it is made")]
    NoNotifySocket,
    /// No descriptor is left.
    #[error("cannot copy a descriptor: {source}")]
    Descriptor {
        /// Why.
        source: std::io::Error,
    },
    /// The thread that starts workers could not be made.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// The signals of the process cannot be taken.
    #[error("cannot listen for signals")]
    Signals {
        /// Why.
        source: std::io::Error,
    },
    /// A runtime for the master cannot be made.
    #[error("cannot wait for IO")]
    Runtime {
        /// Why.
        source: std::io::Error,
    },
}

impl MasterError {
    /// What to do about it, in one line.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Rules(NftError::Privilege) => Some(
                "run it as root, or give the program the capability: setcap cap_net_admin+ep PROGRAM"
                    .to_owned(),
            ),
            Self::Rules(NftError::ForeignTable { .. }) => {
                Some("choose another --name, or remove that table".to_owned())
            }
            Self::Rules(NftError::OwnedByOther { .. }) => Some(
                "another master of this cluster runs, perhaps in another runtime directory, or a \
                 program still holds its netlink socket: end it; `nft list ruleset` names it, \
                 `ss --family=netlink --processes` gives its pid"
                    .to_owned(),
            ),
            Self::Rules(NftError::Schema { .. }) => Some(
                "use that version of ipcluster, also to stop the cluster or to flush its rules"
                    .to_owned(),
            ),
            Self::Rules(NftError::NoOwnership { .. }) => {
                Some("use --ownership auto or shared".to_owned())
            }
            Self::Rules(NftError::NotUnderstood { .. }) => Some(
                "it was made by another version, or changed by hand; `ipcluster flush NAME` removes it"
                    .to_owned(),
            ),
            Self::Rules(NftError::Netlink { .. }) => {
                Some("`ipcluster check` says what this machine lacks".to_owned())
            }
            Self::Overlap { cluster, .. } => Some(format!(
                "choose another address or port, or end that cluster: `ipcluster stop {cluster}`; \
                 `ipcluster flush {cluster}` if its master is gone"
            )),
            Self::Guarded { .. } => Some(
                "give this cluster other --worker-ports, or another --listen port".to_owned(),
            ),
            Self::NotHandedOver { name, .. } => Some(format!(
                "it serves on: `ipcluster status {name}`; end it by SIGTERM or SIGKILL, and `ipcluster run` takes over what it leaves"
            )),
            Self::Control(error) => error.hint(),
            #[cfg(feature = "http")]
            Self::Http(error) => Some(error.hint()),
            _ => None,
        }
    }
}

/// An error with what it came of, in one line.
pub(super) fn causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
