//! How etcd is reached, and as whom.

use std::fmt;
use std::path::PathBuf;

use super::Endpoint;
use crate::fleet;

/// A membership in etcd.
#[derive(Debug, Clone)]
pub(crate) struct EtcdSettings {
    /// The servers of one cluster: another one is asked when one does not answer. At least one.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The name of the fleet: its keys begin with `/ipcluster/NAME/`.
    pub(crate) fleet_name: String,
    /// `None`: etcd asks for none.
    pub(crate) user: Option<User>,
    /// For endpoints that are `https`.
    pub(crate) tls: TlsFiles,
    /// This host, and the times.
    pub(crate) membership: fleet::Settings,
}

/// A user of etcd.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The files of TLS, in PEM. They are read with each connection, so that renewed ones count.
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "nobody reads them"))]
pub(crate) struct TlsFiles {
    /// Of whoever has signed the servers' certificates. Needed.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate of this host and its key, where the servers ask for one.
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}
