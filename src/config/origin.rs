//! Values as they were given, not checked yet.

use std::fmt;
use std::sync::Arc;

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Given<T> {
    /// A value of a flag.
    pub fn by_flag(flag: &'static str, value: T) -> Self {
        Self { value, origin: Origin::Flag { flag } }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A flag of the command line.
    Flag {
        /// The flag with its dashes.
        flag: &'static str,
    },
    /// A configuration file.
    File {
        /// The path as the user gave it.
        path: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// A command on the control socket.
    Command {
        /// The command.
        command: &'static str,
    },
    /// Nobody gave it.
    Default,
}

impl Origin {
    /// The origin of the value of a key, for messages. A flag says by itself which key it is.
    pub(super) fn of(&self, key: &str) -> String {
        match self {
            Self::Flag { flag } => (*flag).to_owned(),
            Self::Default => format!("`{key}`, by default"),
            Self::File { .. } | Self::Command { .. } => format!("{self}: `{key}`"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => f.write_str(flag),
            Self::Command { command } => f.write_str(command),
            Self::File { path, line } => write!(f, "{path}, line {line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What a file or a command line says; what it does not say is none or empty. The fields are the
/// keys of [`crate::config`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the keys are documented in one table")]
pub struct Settings {
    pub name: Option<Given<String>>,
    pub listen: Option<Vec<Given<String>>>,
    pub workers: Option<Given<i64>>,
    pub command: Option<Given<Vec<String>>>,
    pub partition: Option<Given<String>>,
    pub slots: Option<Given<i64>>,
    pub weights: Option<Given<Vec<f64>>>,
    pub worker_ports: Option<Given<String>>,
    pub socket_activation: Option<Given<bool>>,
    pub backlog: Option<Given<i64>>,
    pub engine: Option<Given<String>>,
    pub local_clients: Option<Given<bool>>,
    pub ready: Option<Given<String>>,
    pub ownership: Option<Given<String>>,
    pub user: Option<Given<String>>,
    pub group: Option<Given<String>>,
    pub on_exit: Option<Given<String>>,
    pub env: Option<Vec<Given<String>>>,
    pub socket: Option<Given<String>>,
    pub ready_timeout: Option<Given<String>>,
    pub drain_timeout: Option<Given<String>>,
    pub rollback_timeout: Option<Given<String>>,
    pub die_timeout: Option<Given<String>>,
    pub ping_timeout: Option<Given<String>>,
    pub watchdog_timeout: Option<Given<String>>,
    pub spawn_stagger: Option<Given<String>>,
    pub spawn_backoff: Option<Given<String>>,
    pub spawn_give_up: Option<Given<String>>,
    pub output_to: Option<Given<String>>,
    pub http_listen: Option<Given<String>>,
    pub retire_rss: Option<Given<String>>,
    pub retire_rate: Option<Given<i64>>,
    pub retire_window: Option<Given<String>>,
    pub retire_renice: Option<Given<i64>>,
    pub retire_max_age: Option<Given<String>>,
    pub retire_lag: Option<Given<String>>,
    pub memory_total: Option<Given<String>>,
    pub memory_low: Option<Given<f64>>,
    pub memory_high: Option<Given<f64>>,
    pub memory_order: Option<Given<String>>,
    pub kill_old: Option<Given<bool>>,
}

impl Settings {
    /// These settings, and those of `under` where these say nothing.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            name: self.name.or(under.name),
            listen: self.listen.or(under.listen),
            workers: self.workers.or(under.workers),
            command: self.command.or(under.command),
            partition: self.partition.or(under.partition),
            slots: self.slots.or(under.slots),
            weights: self.weights.or(under.weights),
            worker_ports: self.worker_ports.or(under.worker_ports),
            socket_activation: self.socket_activation.or(under.socket_activation),
            backlog: self.backlog.or(under.backlog),
            engine: self.engine.or(under.engine),
            local_clients: self.local_clients.or(under.local_clients),
            ready: self.ready.or(under.ready),
            ownership: self.ownership.or(under.ownership),
            user: self.user.or(under.user),
            group: self.group.or(under.group),
            on_exit: self.on_exit.or(under.on_exit),
            env: self.env.or(under.env),
            socket: self.socket.or(under.socket),
            ready_timeout: self.ready_timeout.or(under.ready_timeout),
            drain_timeout: self.drain_timeout.or(under.drain_timeout),
            rollback_timeout: self.rollback_timeout.or(under.rollback_timeout),
            die_timeout: self.die_timeout.or(under.die_timeout),
            ping_timeout: self.ping_timeout.or(under.ping_timeout),
            watchdog_timeout: self.watchdog_timeout.or(under.watchdog_timeout),
            spawn_stagger: self.spawn_stagger.or(under.spawn_stagger),
            spawn_backoff: self.spawn_backoff.or(under.spawn_backoff),
            spawn_give_up: self.spawn_give_up.or(under.spawn_give_up),
            output_to: self.output_to.or(under.output_to),
            http_listen: self.http_listen.or(under.http_listen),
            retire_rss: self.retire_rss.or(under.retire_rss),
            retire_rate: self.retire_rate.or(under.retire_rate),
            retire_window: self.retire_window.or(under.retire_window),
            retire_renice: self.retire_renice.or(under.retire_renice),
            retire_max_age: self.retire_max_age.or(under.retire_max_age),
            retire_lag: self.retire_lag.or(under.retire_lag),
            memory_total: self.memory_total.or(under.memory_total),
            memory_low: self.memory_low.or(under.memory_low),
            memory_high: self.memory_high.or(under.memory_high),
            memory_order: self.memory_order.or(under.memory_order),
            kill_old: self.kill_old.or(under.kill_old),
        }
    }
}
