use std::io;
use std::time::Duration;

use super::Endpoint;

/// Why etcd did not do what was asked. Each names the server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EtcdError {
    /// No connection.
    #[error("{endpoint}: {source}")]
    Connect { endpoint: Endpoint, source: io::Error },
    /// A file of TLS.
    #[cfg(feature = "tls")]
    #[error("{}: {reason}", path.display())]
    TlsFile { path: std::path::PathBuf, reason: String },
    /// An endpoint with TLS, and none in this program or its settings.
    #[error("{endpoint}: {reason}")]
    Tls { endpoint: Endpoint, reason: String },
    /// The connection broke, or it is no HTTP.
    #[error("{endpoint}{path}: {reason}")]
    Http { endpoint: Endpoint, path: &'static str, reason: String },
    /// No answer.
    #[error("{endpoint}{path}: no answer within {} s", patience.as_secs_f32())]
    TimedOut { endpoint: Endpoint, path: &'static str, patience: Duration },
    /// An answer that says no.
    #[error("{endpoint}{path}: {message} (HTTP {status})")]
    Refused {
        endpoint: Endpoint,
        path: &'static str,
        status: u16,
        /// The code of gRPC, such as 5 for "not found"; 0 if there is none.
        code: u32,
        message: String,
    },
    /// An answer that is none of etcd's.
    #[error(
        "{endpoint}{path}: {reason}: is that the address of an etcd from 3.4 on, with its HTTP gateway?"
    )]
    Answer { endpoint: Endpoint, path: &'static str, reason: String },
}

impl EtcdError {
    /// The token is none any more.
    pub(super) fn is_unauthenticated(&self) -> bool {
        /// `codes.Unauthenticated` of gRPC.
        const UNAUTHENTICATED: u32 = 16;
        let is_old = |message: &str| {
            // Of etcd from 3.5 on, and of 3.4.
            ["revision of auth store is old", "revision in header is old"]
                .iter()
                .any(|words| message.contains(words))
        };
        match self {
            Self::Refused { code: UNAUTHENTICATED, .. } => true,
            // It was given out before users or roles were changed. No code says that.
            Self::Refused { message, .. } => is_old(message),
            _ => false,
        }
    }

    /// What was named is not there: a lease.
    pub(super) fn is_not_found(&self) -> bool {
        /// `codes.NotFound` of gRPC.
        const NOT_FOUND: u32 = 5;
        matches!(self, Self::Refused { code: NOT_FOUND, .. })
    }
}
