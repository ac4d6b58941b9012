use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// What went wrong in setting up or using the laboratory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The system lets this user make no user namespace.
    #[error("cannot make a user namespace ({step}): {source}\n{advice}")]
    UserNamespaceForbidden {
        /// Which step was refused.
        step: &'static str,
        /// What whoever runs the machine can do about it: one line.
        advice: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `unshare(CLONE_NEWUSER)` is for processes of one thread.
    #[error("a process of {threads} threads cannot enter a user namespace; enter it first in main")]
    ManyThreads {
        /// How many threads the process has.
        threads: usize,
    },
    /// A namespace could not be made, opened or entered.
    #[error("cannot {operation}: {source}")]
    Namespace {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread of a namespace could not be started.
    #[error("cannot start a thread: {source}")]
    Thread {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A mount in the process's own mount namespace failed.
    #[error("cannot mount on {}: {source}", target.display())]
    Mount {
        /// Where it should have been.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A change of links, addresses or routes was refused.
    #[error("cannot {operation}: {source}")]
    Link {
        /// What was attempted, with the name of the device, address or route.
        operation: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting could not be changed.
    #[error("cannot set {key} to {value:?}: {source}")]
    Sysctl {
        /// Its dotted name, such as `net.core.somaxconn`.
        key: String,
        /// The value it should have got.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A load with nothing to do: no client address, or one without a target of its family.
    #[error("load without a target for client {client}")]
    NoTarget {
        /// The client's address.
        client: IpAddr,
    },
    /// A load without client addresses.
    #[error("load without client addresses")]
    NoClients,
    /// A load whose rate is not above 0, or whose concurrency is 0.
    #[error("load at pace {pace}: expected a finite number above 0")]
    Pace {
        /// The pace that was asked for.
        pace: f64,
    },
    /// A socket that the load generator itself needs could not be made.
    #[error("cannot {operation} for the load generator: {source}")]
    Engine {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A held connection could not be opened.
    #[error("cannot hold a connection from {from} to {to}: {source}")]
    Hold {
        /// The client's address.
        from: IpAddr,
        /// The public address.
        to: SocketAddr,
        /// The kernel's answer, or what was wrong with the worker's.
        source: io::Error,
    },
}
