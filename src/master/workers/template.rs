//! What workers are started with.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::config_copies::ConfigCopies;
use super::fingerprint::ConfigFingerprint;
use super::listeners::{ListenerSet, ListenerTemplate};
use super::process_notes::ProcessNotes;
use super::state_files::StateFiles;
use crate::config::{Config, PlaceholderText};
use crate::plan::{ClusterName, Generation, Listeners, Seat};
use crate::process::{Account, ResourceLimit, Transport};
use crate::protocol::WorkerId;

/// What all workers are started with.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    pub(crate) name: ClusterName,
    /// The digest by which the next master compares configurations.
    pub(crate) fingerprint: ConfigFingerprint,
    pub(crate) program: PlaceholderText,
    pub(crate) arguments: Vec<PlaceholderText>,
    /// Variables that do not depend on the worker.
    pub(crate) environment: BTreeMap<OsString, OsString>,
    /// Variables of the configuration, whose values may depend on it.
    pub(crate) texts: Vec<(String, PlaceholderText)>,
    /// The configuration file that is made for it.
    pub(crate) config: Option<ConfigTemplate>,
    /// Where workers are started.
    pub(crate) directory: StartDirectory,
    /// Files with more variables.
    pub(crate) env_files: Vec<PathBuf>,
    /// The user and group that workers run as.
    pub(crate) account: Option<Account>,
    /// The soft limit of open files of workers.
    pub(crate) descriptor_limit: Option<u64>,
    /// Limits of workers, over those of the master.
    pub(crate) limits: Vec<ResourceLimit>,
    pub(crate) umask: Option<u32>,
    /// What is added to the nice value of the master.
    pub(crate) nice: i32,
    pub(crate) hooks: HookTemplates,
    /// Workers get the variables and the argument of the older system, too.
    pub(crate) speaks_protocol: bool,
    /// Each worker gets a worker port for each of their public ports.
    pub(crate) listeners: Arc<Listeners>,
    /// How many ports it gets beside those.
    pub(crate) private_ports: usize,
    /// The transports that workers listen by on their ports.
    pub(crate) transports: Vec<Transport>,
    /// The sockets that are opened for it, if it does not open its own.
    pub(crate) openings: Option<Arc<ListenerTemplate>>,
    /// The files in which workers read whether they are retired; none without a control directory.
    pub(crate) states: Option<StateFiles>,
    /// Where it is noted which processes are workers; none without a control directory.
    pub(crate) notes: Option<ProcessNotes>,
}

impl Template {
    /// Whether each worker has another program, as far as can be told before it is started.
    pub(super) fn differs_by_worker(&self) -> bool {
        let is_relative = || {
            let program = self.program.expand(|_| String::new());
            program.contains('/') && !program.starts_with('/')
        };
        let has_rest = match &self.directory {
            StartDirectory::Configured { rest, .. } => *rest != PlaceholderText::default(),
            StartDirectory::OfMaster(_) => false,
        };
        self.program.of_workers().next().is_some() || has_rest && is_relative()
    }
}

/// The directory that workers are started in, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartDirectory {
    /// `directory`: what all workers of a generation have in common, and the rest.
    Configured { common: PlaceholderText, rest: PlaceholderText },
    /// The one that the master was started in, by the name that it had then; `None` if it has none.
    OfMaster(Option<PathBuf>),
}

/// Commands that run before and after a reload.
#[derive(Debug, Clone, Default)]
pub(crate) struct HookTemplates {
    /// The program and its arguments; empty for nothing.
    pub(crate) before_reload: Vec<PlaceholderText>,
    pub(crate) after_reload: Vec<PlaceholderText>,
    /// How long each may take; `None`: as long as it takes.
    pub(crate) limit: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub(crate) die: Duration,
}

/// What configuration files of workers are made of.
#[derive(Debug, Clone)]
pub(crate) struct ConfigTemplate {
    pub(crate) copies: ConfigCopies,
    /// The settings, which say what placeholders can stand for.
    pub(crate) config: Arc<Config>,
}

/// A worker to be started.
#[derive(Debug, Clone)]
pub(crate) struct SpawnRequest {
    pub(crate) worker: WorkerId,
    pub(crate) seat: Seat,
    pub(crate) generation: Generation,
    /// `IPCLUSTER_WORKERS`: how many workers the cluster is to have.
    pub(crate) workers: usize,
    /// The sockets that an earlier worker has left for it.
    pub(crate) inherited: Option<Arc<ListenerSet>>,
}
