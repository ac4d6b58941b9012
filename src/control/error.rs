use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::line_protocol::MessageError;
use crate::plan::ClusterName;
use crate::protocol::ErrorReply;

/// Why a control socket cannot be served or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No place for the socket.
    #[error("no runtime directory: neither IPCLUSTER_RUNTIME_DIR nor XDG_RUNTIME_DIR is set")]
    NoRuntimeDir,
    /// A runtime directory, lock or socket that is not what it has to be. It was left as it is.
    #[error("{}: {reason}", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// What is wrong with it, and what is expected.
        reason: &'static str,
    },
    /// A path that does not fit into the address of a Unix socket.
    #[error(
        "socket path {} has {} bytes: at most {} fit into the address of a Unix socket",
        path.display(),
        path.as_os_str().len(),
        Self::MAX_SOCKET_PATH
    )]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
    },
    /// The lock is held by another process.
    #[error("a master of cluster {name} runs already{}", in_parentheses(*pid))]
    AlreadyRuns {
        /// The cluster.
        name: ClusterName,
        /// The process id that it left in the lock file.
        pid: Option<u32>,
    },
    /// No master holds the lock of the cluster asked for.
    #[error("no master of cluster {name} runs (looked in {})", directory.display())]
    NoMaster {
        /// The cluster.
        name: ClusterName,
        /// The runtime directory.
        directory: PathBuf,
    },
    /// No cluster was named, and none runs.
    #[error("no master runs (looked in {})", directory.display())]
    NoneRuns {
        /// The runtime directory.
        directory: PathBuf,
    },
    /// No cluster was named, and several run.
    #[error("several clusters run: {}", list(names))]
    SeveralRun {
        /// Their names, in order.
        names: Vec<ClusterName>,
    },
    /// The socket, or the directory that it is in, is closed to this user.
    #[error("{}: you may not use this control socket", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to a process of another user.
    #[error("{}: served by user {uid}, who is neither you nor root", path.display())]
    ForeignMaster {
        /// The socket.
        path: PathBuf,
        /// Who the kernel says serves it.
        uid: u32,
    },
    /// The master closed the connection before its answer.
    #[error("the master of cluster {name} ended before it answered")]
    Disconnected {
        /// The cluster.
        name: ClusterName,
    },
    /// The master did not answer a command that needs no time.
    #[error("the master of cluster {name} did not answer within {} s", waited.as_secs())]
    NoAnswer {
        /// The cluster.
        name: ClusterName,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The peer sent something that is no message.
    #[error("the master of cluster {name} sent a {source}")]
    Message {
        /// The cluster.
        name: ClusterName,
        /// What is wrong with it.
        source: MessageError,
    },
    /// The master answered with an error.
    #[error("{}", .0.message)]
    Failed(ErrorReply),
    /// A system call failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ControlError {
    /// The longest path of a Unix socket, in bytes: `sun_path` has 108 (unix(7)), one of them for
    /// the NUL at the end.
    pub const MAX_SOCKET_PATH: usize = 107;

    /// What to do about it, in one line; `None` where the message says it all.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoRuntimeDir => Some(
                "set XDG_RUNTIME_DIR (a login session has it) or IPCLUSTER_RUNTIME_DIR, or run as root"
                    .to_owned(),
            ),
            Self::NotOurs { .. } => {
                Some("remove it if nobody needs it, or choose another runtime directory (IPCLUSTER_RUNTIME_DIR)".to_owned())
            }
            Self::SocketPathTooLong { .. } => {
                Some("choose a runtime directory with a shorter path (IPCLUSTER_RUNTIME_DIR)".to_owned())
            }
            Self::AlreadyRuns { name, .. } => Some(format!(
                "`ipcluster run --replace` takes over from it; `ipcluster reload {name}` puts a new generation into force; `ipcluster stop {name}` ends it"
            )),
            Self::NoMaster { name, .. } => Some(format!(
                "`ipcluster run --name {name} ...` starts one"
            )),
            Self::NoneRuns { .. } => Some(
                "start one with `ipcluster run`".to_owned(),
            ),
            Self::SeveralRun { names } => {
                Some(format!("name one, such as {}", names.first().map_or("web", |n| n.as_str())))
            }
            Self::Disconnected { name } => Some(format!(
                "workers and rules serve on: `ipcluster run --name {name} ...` takes them over"
            )),
            Self::NotAllowed { .. } => Some(
                "become its user or root (sudo), or a member of the group that the master's control_group \
                 (--control-group of `run`) names"
                    .to_owned(),
            ),
            Self::NoAnswer { .. } => Some("see whether it is stopped, or what it logs".to_owned()),
            Self::Message { .. } => {
                Some("the master may be of another release than this program".to_owned())
            }
            Self::Failed(failure) => failure.hint.clone(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
                | io::ErrorKind::NotFound => {
                    Some("choose a runtime directory that you may use (IPCLUSTER_RUNTIME_DIR)".to_owned())
                }
                _ => None,
            },
            Self::ForeignMaster { .. } => None,
        }
    }
}

fn in_parentheses(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn list(names: &[ClusterName]) -> String {
    names.iter().map(ClusterName::as_str).collect::<Vec<_>>().join(", ")
}
