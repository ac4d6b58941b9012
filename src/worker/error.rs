use std::io;

use crate::plan::{Port, Protocol};

/// Why this process cannot be a worker, or cannot have what a worker has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// No variable of ipcluster is set: something else has started this process, or it runs on
    /// another system than Linux.
    #[error("IPCLUSTER_NAME is not set: this process was not started by ipcluster")]
    NotUnderIpcluster,
    /// A variable that is not set, although others of ipcluster are.
    #[error("{variable} is not set: this process was not started by ipcluster")]
    Missing {
        /// The variable.
        variable: &'static str,
    },
    /// A variable with a value that no master sets.
    #[error("{variable} is {value:?}: expected {expected}")]
    Invalid {
        /// The variable.
        variable: String,
        /// Its value, cut to 80 characters.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A port that no listener of the cluster has.
    #[error("{public} is no public port of this cluster")]
    NotPublic {
        /// The port that was asked for.
        public: u16,
    },
    /// The master has opened the sockets of this worker, and none for this listener.
    #[error("the master has passed no socket for {public}/{protocol} (LISTEN_FDNAMES)")]
    NotPassed {
        /// The public port.
        public: Port,
        /// The protocol.
        protocol: Protocol,
    },
    /// The master has passed the sockets to another process.
    #[error(
        "LISTEN_PID is {pid}, and this is process {}: a shell or a script that starts the worker has \
         to do so with `exec`",
        std::process::id()
    )]
    PassedToAnother {
        /// The process that the master has started.
        pid: String,
    },
    /// The sockets that the master has opened cannot be taken.
    #[error("cannot take the sockets of LISTEN_FDS: {source}")]
    Sockets {
        /// `EBADF`, `ENOTSOCK`, or `InvalidData` for a socket of another kind than announced.
        source: io::Error,
    },
    /// The worker port cannot be listened on.
    #[error("cannot listen on worker port {port}/{protocol}: {source}")]
    Listen {
        /// The worker port.
        port: Port,
        /// The protocol.
        protocol: Protocol,
        /// `AddrInUse` if somebody else has it.
        source: io::Error,
    },
}
