//! The checked configuration of one cluster.

use std::path::PathBuf;

use super::keys::Values;
use super::origin::{Given, Origin};
use super::servers::ServerInForce;
use super::texts::{WorkerTexts, names};
use super::value::Raw;
use super::{ConfigBuilder, ConfigError, MemorySize, Names, ServerPreset};
use crate::plan::{Listeners, Partition, Weights};
use crate::protocol::{EndSignals, Marks, Memory, Retire};

/// The configuration of one cluster, free of contradictions. Made by [`Config::builder`] or read from
/// a file; it does not change any more.
///
/// Two are equal if all settings have the same values, wherever those come from.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub(super) values: Values,
    pub(super) listeners: Listeners,
    pub(super) partition: Partition,
    pub(super) weights: Weights,
    pub(super) texts: WorkerTexts,
    pub(super) server: Option<ServerInForce>,
}

impl Config {
    /// A builder in which no setting is given yet.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// The public addresses: those of [`ConfigBuilder::listen`].
    pub fn listeners(&self) -> &Listeners {
        &self.listeners
    }

    /// How client addresses fall into slots, by [`ConfigBuilder::partition`] and
    /// [`ConfigBuilder::slots`].
    pub fn partition(&self) -> Partition {
        self.partition
    }

    /// The shares of the workers, by [`ConfigBuilder::weights`] and [`ConfigBuilder::workers`].
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The files with variables of workers: [`ConfigBuilder::env_file`].
    pub fn env_files(&self) -> &[PathBuf] {
        &self.values.env_file.value
    }

    /// The texts in which values of each worker stand.
    pub(crate) fn worker_texts(&self) -> &WorkerTexts {
        &self.texts
    }

    /// What placeholders can stand for, also in `config_template`.
    pub(crate) fn placeholder_names(&self) -> Names<'_> {
        names(&self.values, &self.listeners)
    }

    /// What is known of the server that workers run, by [`ConfigBuilder::server`] and
    /// [`ConfigBuilder::command`].
    pub fn server(&self) -> Option<&'static ServerPreset> {
        self.server.as_ref().map(|server| server.preset)
    }

    /// The preset and what it has added and set, for the log.
    pub(crate) fn server_in_force(&self) -> Option<&ServerInForce> {
        self.server.as_ref()
    }

    /// When live workers are replaced: the table `retire`.
    pub fn retire(&self) -> Retire {
        let values = &self.values;
        Retire {
            rss: values.retire_rss.value.map(MemorySize::bytes),
            lag: values.retire_lag.value,
            max_age: values.retire_max_age.value,
            connections: Some(values.retire_connections.value.into()).filter(|limit| *limit > 0),
            jitter: values.retire_jitter.value,
            rate: values.retire_rate.value,
            window: values.retire_window.value,
            renice: values.retire_renice.value,
        }
    }

    /// How workers are told that they are retired, and to end: `stop_signal`, `retire_signal` and
    /// `kill_mode`.
    pub fn end_signals(&self) -> EndSignals {
        let values = &self.values;
        EndSignals {
            stop: values.stop_signal.value,
            retire: values.retire_signal.value,
            kill_mode: values.kill_mode.value,
        }
    }

    /// How much memory the cluster may have: the table `memory`.
    pub fn memory(&self) -> Memory {
        let values = &self.values;
        let marks = |total: MemorySize| Marks {
            low: total.part(values.memory_low.value),
            high: total.part(values.memory_high.value),
        };
        Memory { marks: values.memory_total.value.map(marks), order: values.memory_order.value }
    }

    /// The share 1, which a worker beyond those of [`Self::weights`] gets, as a multiple of the largest share.
    pub(crate) fn further_share(&self) -> f64 {
        let largest = self.values.weights.value.iter().copied().fold(0.0, f64::max);
        if largest > 0.0 { largest.recip() } else { 1.0 }
    }

    /// The same cluster with another number of workers: new ones have the share 1.
    ///
    /// # Errors
    /// A [`ConfigError`] if the number is out of range, does not fit the partition, or the worker
    /// ports do not suffice.
    ///
    /// ```
    /// # use ipcluster::config::{Config, WorkerCommand};
    /// # let config = Config::builder()
    /// #     .listen(vec!["0.0.0.0:80".parse()?])
    /// #     .command(WorkerCommand::new("server"))
    /// #     .build()?;
    /// assert_eq!(config.scaled(8)?.workers(), 8);
    /// assert!(config.scaled(0).is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn scaled(&self, workers: u16) -> Result<Self, ConfigError> {
        const ORIGIN: Origin = Origin::Command { command: "scale" };
        let mut values = self.values.clone();
        let workers_now = Given::new(values.workers.key, workers, ORIGIN);
        values.workers = workers_now.written(workers.to_string());
        let weights = &mut values.weights.value;
        if !weights.is_empty() {
            weights.resize(usize::from(workers), 1.0);
            values.weights.text = Some(Raw::Numbers(weights.clone()).toml());
            values.weights.origin = ORIGIN;
        }
        // Whatever does not fit any more, the number is at fault.
        Self::check(values, self.server.clone()).map_err(|error| error.at(&ORIGIN))
    }
}

/// How clients are spread over slots. See [`Partition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionKind {
    /// By a hash of the address: any number of workers, weights.
    #[default]
    Hash,
    /// By the low bits of the address, one slot for each worker: as the older system does.
    Mask,
    /// By a hash of the address and the port: it spreads connections, and a client is led to no worker
    /// twice but by chance. For clients of which a proxy makes one.
    Connection,
    /// The kernel draws a worker for each connection: it spreads them as [`Self::Connection`] does, and nobody
    /// can tell which worker gets one.
    Random,
}

/// What becomes of the workers when a signal (SIGTERM, SIGINT) ends the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExit {
    /// [`Self::Drain`] by Ctrl-C in the terminal that the master was started in, and where it is the first
    /// process of a container, which ends with it; [`Self::Leave`] by any other signal, as a service manager
    /// sends it.
    #[default]
    Auto,
    /// They and the rules serve on, and the next master adopts them.
    Leave,
    /// They finish their connections and end, and the rules go: as for `ipcluster stop`.
    Drain,
}

/// Up to which level the master logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogLevel {
    /// What costs clients something, or needs an operator.
    Error,
    /// Also what an operator should look at.
    Warn,
    /// Also what happens to workers and rules.
    Info,
    /// Also how that comes about.
    Debug,
    /// All.
    Trace,
}

/// How the master logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// A line with its time and level.
    Text,
    /// A JSON object a line: `time`, `level`, `message` and further fields.
    Json,
    /// A line with its priority, as `<4>` (sd-daemon(3)), and without a time.
    Journal,
}

/// What ends a master by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// Ctrl-C in its terminal.
    Keyboard,
    /// A signal to the first process of a container.
    ContainerEnd,
    /// Any other signal.
    Signal,
}

impl OnExit {
    /// Whether the workers end too.
    pub(crate) fn drains(self, by: EndedBy) -> bool {
        match self {
            Self::Auto => by != EndedBy::Signal,
            Self::Leave => false,
            Self::Drain => true,
        }
    }
}

/// Where the standard output and error of workers go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WorkerOutput {
    /// To the standard output of the master, each line with the seat before it. Until it is read
    /// there it waits in memory, which belongs to the worker; of one that is more than 16 MiB ahead
    /// the older lines are skipped, and it is said how much that was.
    #[default]
    Stdout,
    /// To the journal of systemd, each line as an entry with the fields `MESSAGE`, `PRIORITY` (6, or
    /// what a prefix such as `<3>` says: sd-daemon(3)), `SYSLOG_IDENTIFIER` (the program),
    /// `SYSLOG_PID`, `IPCLUSTER_NAME`, `IPCLUSTER_SEAT` and `IPCLUSTER_GENERATION`. It waits as for
    /// [`Self::Stdout`], also while the journal is away.
    Journal,
    /// To files in this directory, which exists: `NAME.seat-K.generation-G.log`, each written at its end,
    /// and made anew when somebody has renamed or removed it, such as logrotate. It waits as for
    /// [`Self::Stdout`], also while a file cannot be written.
    Directory(PathBuf),
}
