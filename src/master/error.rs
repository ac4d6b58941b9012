//! Why a master could not start, or could not go on.

use std::error::Error;

use crate::config::ConfigError;
use crate::control::ControlError;
use crate::nft::NftError;
use crate::plan::{ClusterName, Listener, PlanError, Port, PortRange};
use crate::process::ProcessError;
use crate::protocol::{Finding, Refusal, WorkerFailure};

/// Why a master could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterError {
    /// The rules in the kernel cannot be read or changed.
    #[error(transparent)]
    Rules(#[from] NftError),
    /// The control socket or the lock: most often another master of that name.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The HTTP server cannot listen.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    /// A system call about processes, or about sockets of theirs, has failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// What is there of a cluster without a master makes up no configuration.
    #[error(
        "cluster {name}: what is in the kernel cannot be taken over without its configuration: {source}"
    )]
    Unmanaged {
        /// The cluster.
        name: ClusterName,
        /// What does not fit.
        source: ConfigError,
    },
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
    /// Something on the host stands in the way, and no setting says that it may.
    #[error("{}", finding.what)]
    InTheWay {
        /// What.
        finding: Box<Finding>,
    },
    /// The first worker of a new cluster cannot be run: its program does not exist, or may not be run.
    #[error("{}", failure.cause.spawn_error().unwrap_or("it could not be started"))]
    FirstWorker {
        /// Which worker, and why.
        failure: WorkerFailure,
    },
    /// The reload failed that the master was started with, and none has succeeded since: the workers of
    /// the earlier master serve.
    #[error("the reload that it was started with has failed: {refusal}")]
    NotReloaded {
        /// Why.
        refusal: Refusal,
    },
    /// The master that runs goes on: it did not hand over.
    #[error("the master of cluster {name} does not hand over: {reason}")]
    NotHandedOver {
        /// The cluster.
        name: ClusterName,
        /// Why, for display.
        reason: String,
    },
    /// The host cannot be a member of its fleet.
    #[error("fleet: {reason}")]
    Fleet {
        /// Why, for display.
        reason: String,
    },
    /// The runtime cannot wait for changes of rules.
    #[error("cannot receive nftables notifications: {source}")]
    Watch {
        /// Why.
        source: std::io::Error,
    },
    /// The directory for the files that workers print to is not there, or closed to this process.
    #[error("`output.to`: {source}")]
    Output {
        /// Why.
        source: ProcessError,
    },
    /// There is no place for the socket on which workers join.
    #[error("`socket`: {source}")]
    WorkersSocket {
        /// Why.
        source: ControlError,
    },
    /// There is no socket to write to the journal with.
    #[error("cannot write to the journal: {source}")]
    Journal {
        /// Why.
        source: std::io::Error,
    },
    /// The runtime cannot wait for what workers say.
    #[error("cannot poll NOTIFY_SOCKET: {source}")]
    Notify {
        /// Why.
        source: std::io::Error,
    },
    /// Workers are to say that they are ready, and have no socket to say it on.
    #[error("`ready`: notify needs a control directory, in which the socket for it is made")]
    NoNotifySocket,
    /// Workers are to have configuration files, and there is no directory for them.
    #[error("`config_template` needs a control directory, beside which the files are made")]
    NoConfigDirectory,
    /// Workers are to have a lower nice value than this process may give.
    #[error("`nice`: {nice}: this process may not lower nice values so far")]
    Nice {
        /// What is to be added.
        nice: i32,
    },
    /// Workers are to have a higher limit than this process may give.
    #[error("`{resource}` is above the hard limit of this process, {hard}, which it may not raise")]
    Limit {
        /// The setting.
        resource: &'static str,
        /// The limit that there is.
        hard: u64,
    },
    /// No configuration files can be made for workers.
    #[error("{reason}")]
    ConfigTemplate {
        /// Why, for display.
        reason: String,
    },
    /// A descriptor cannot be duplicated (dup(2)): most likely the limit of open files is reached.
    #[error("cannot copy a descriptor: {source}")]
    Descriptor {
        /// Why.
        source: std::io::Error,
    },
    /// A thread of the master could not be made.
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
    /// What to do about it, in one line; `None` where the message says it all.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Rules(error) => error.hint(),
            Self::Overlap { cluster, .. } => Some(format!(
                "choose another address or port, or end that cluster: `ipcluster stop {cluster}`; \
                 `ipcluster flush {cluster}` if its master is gone"
            )),
            Self::Nice { .. } => Some(
                "it takes CAP_SYS_NICE, or a higher limit: LimitNICE in the unit, `ulimit -e`"
                    .to_owned(),
            ),
            Self::Limit { .. } => Some(
                "raise it where the master is started (LimitNOFILE, LimitCORE, LimitMEMLOCK in the unit; \
                 `ulimit -H`), or set a lower one"
                    .to_owned(),
            ),
            Self::Guarded { .. } => Some(
                "give this cluster other worker ports (`worker_ports`), or another public port \
                 (`listen`)"
                    .to_owned(),
            ),
            Self::NotHandedOver { name, .. } => Some(format!(
                "it keeps running: `ipcluster status {name}`; end it by SIGTERM or SIGKILL, and `ipcluster run` takes over what it leaves"
            )),
            Self::NotReloaded { .. } => Some(
                "the workers of the master before this one serve on; the next `ipcluster run` takes them over"
                    .to_owned(),
            ),
            Self::InTheWay { finding } => Some(finding.cure.clone()),
            Self::FirstWorker { .. } => Some(
                "what `command`, `directory`, `env_file` and `config_template` name is to be there for the user that \
                 workers run as; `command` begins with the path of a program, or a name in the PATH that workers \
                 get, and has each argument as a word of its own"
                    .to_owned(),
            ),
            Self::Unmanaged { name, .. } => Some(format!(
                "`ipcluster run --name {name} ...`, as it was started before, takes it over; `ipcluster flush \
                 {name}` removes its rules"
            )),
            Self::Output { .. } => Some(
                "make the directory, and let the user that the master runs as write there; or set another one"
                    .to_owned(),
            ),
            Self::WorkersSocket { .. } => Some(
                "it takes a directory in which the master, and no other user but root, may put the socket; or set \
                 another path"
                    .to_owned(),
            ),
            Self::Control(error) => error.hint(),
            #[cfg(feature = "http")]
            Self::Http(error) => error.hint(),
            _ => None,
        }
    }
}

/// An error with what it came of, in one line. A cause that the error itself names already is not named
/// again.
pub(crate) fn causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Sample {
        #[error("cannot go on: {source}")]
        Names { source: std::io::Error },
        #[error("cannot go on")]
        NamesNot { source: std::io::Error },
        #[error(transparent)]
        Passes(#[from] Box<Sample>),
    }

    #[test]
    fn each_cause_is_named_once() {
        let source = || std::io::Error::from_raw_os_error(2);
        let expected = "cannot go on: No such file or directory (os error 2)";
        assert_eq!(causes(&Sample::Names { source: source() }), expected);
        assert_eq!(causes(&Sample::NamesNot { source: source() }), expected);
        assert_eq!(causes(&Sample::Passes(Sample::Names { source: source() }.into())), expected);
    }
}
