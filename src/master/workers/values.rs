//! What a worker is told of itself: variables of its environment, and values of placeholders.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::release::{Release, RunningRelease};
use super::state_files;
use super::template::{SpawnRequest, StartDirectory, Template};
use crate::config::{Placeholder, PlaceholderText};
use crate::plan::Port;

/// The values of one worker that is to be started.
pub(super) struct WorkerValues<'a> {
    pub(super) request: &'a SpawnRequest,
    pub(super) template: &'a Template,
    /// What it is started from.
    pub(super) release: &'a Release,
    /// Its worker port for each public port.
    pub(super) ports: &'a [Port],
    pub(super) private_ports: &'a [Port],
    /// A number that no other worker has while it lives.
    pub(super) number: u64,
    /// The file in which it reads whether it is retired.
    pub(super) state: Option<PathBuf>,
    /// Its copy of `config_template`.
    pub(super) config: Option<PathBuf>,
}

impl WorkerValues<'_> {
    /// A text with these values.
    pub(super) fn expand(&self, text: &PlaceholderText) -> String {
        text.expand(|placeholder| self.value(placeholder))
    }

    fn value(&self, placeholder: Placeholder) -> String {
        let of = |ports: &[Port], place: usize| {
            ports.get(place).map_or_else(String::new, ToString::to_string)
        };
        let path = |path: Option<&Path>| {
            path.map_or_else(String::new, |path| path.to_string_lossy().into_owned())
        };
        match placeholder {
            Placeholder::Port(place) => of(self.ports, place),
            Placeholder::PrivatePort(place) => of(self.private_ports, place),
            Placeholder::Seat => self.request.seat.to_string(),
            Placeholder::Worker => self.number.to_string(),
            Placeholder::Generation => self.request.generation.to_string(),
            Placeholder::Name => self.template.name.to_string(),
            Placeholder::Directory => {
                path(Some(self.release.directory().unwrap_or(Path::new("."))))
            }
            Placeholder::Config => path(self.config.as_deref()),
        }
    }

    /// Its working directory; `None` for that of the master.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        let directory = self.release.directory()?;
        match &self.template.directory {
            StartDirectory::Configured { rest, .. } if *rest != PlaceholderText::default() => {
                Some(directory.join(self.expand(rest)))
            }
            _ => Some(directory.to_owned()),
        }
    }

    /// Its arguments.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let expanded = self.template.arguments.iter().map(|text| self.expand(text).into());
        let mut arguments: Vec<OsString> = expanded.collect();
        if self.template.speaks_protocol {
            arguments.push(format!("{}:{}", self.request.seat, self.request.workers).into());
        }
        arguments
    }

    /// All of its environment but what comes with sockets that it is started with.
    pub(super) fn environment(&self) -> BTreeMap<OsString, OsString> {
        let Self { template, release, .. } = self;
        let SpawnRequest { seat, workers, .. } = self.request;
        let mut environment = release.environment(template);
        for (name, text) in template.texts.iter().filter(|(name, _)| !release.sets(name)) {
            if text.of_workers().next().is_some() {
                environment.insert(name.into(), self.expand(text).into());
            }
        }
        for (name, value) in release.program_variables() {
            environment.insert(name.into(), value);
        }
        if let Some(directory) = self.directory()
            && environment.get(OsStr::new("PWD")).map(OsString::as_os_str)
                == release.directory().map(Path::as_os_str)
        {
            environment.insert("PWD".into(), directory.into());
        }
        let mut set = |name: String, value: String| {
            environment.insert(name.into(), value.into());
        };
        if let Some(first) = self.ports.first() {
            set("PORT".to_owned(), first.to_string());
        }
        for (public, worker) in template.listeners.public_ports().iter().zip(self.ports) {
            set(format!("IPCLUSTER_PORT_{public}"), worker.to_string());
        }
        if let Some(first) = self.private_ports.first() {
            set("IPCLUSTER_PRIVATE_PORT".to_owned(), first.to_string());
        }
        for (place, port) in (1..).zip(self.private_ports) {
            set(private_port_variable(place), port.to_string());
        }
        if let Some(config) = &self.config {
            set("IPCLUSTER_CONFIG_FILE".to_owned(), config.to_string_lossy().into_owned());
        }
        if let Some(state) = &self.state {
            set(state_files::VARIABLE.to_owned(), state.to_string_lossy().into_owned());
        }
        set("IPCLUSTER_SEAT".to_owned(), seat.to_string());
        set(WORKER_VARIABLE.to_owned(), self.number.to_string());
        set("IPCLUSTER_WORKERS".to_owned(), workers.to_string());
        set("IPCLUSTER_CONFIG".to_owned(), template.fingerprint.to_string());
        if template.speaks_protocol {
            set("__ZWORKER__".to_owned(), "TRUE".to_owned());
            set("__ZWORKER__BAND__".to_owned(), seat.to_string());
            set("__ZWORKER__NUM_WORKERS__".to_owned(), workers.to_string());
        }
        environment
    }
}

/// The variable with the number that no other worker has.
const WORKER_VARIABLE: &str = "IPCLUSTER_WORKER";

/// The variable of a private port, counted from 1.
fn private_port_variable(place: usize) -> String {
    format!("IPCLUSTER_PRIVATE_PORT_{place}")
}

/// What a worker of an earlier master was told of itself, as far as its environment shows it still.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToldValues {
    pub(crate) number: Option<u64>,
    pub(crate) private_ports: Vec<Port>,
    /// Of a worker of an earlier master alone: of which release it is.
    pub(crate) release: RunningRelease,
}

impl ToldValues {
    /// Reads the variables of a process; `working_directory` is the one that it is in.
    pub(crate) fn of<'a>(
        variable: impl Fn(&str) -> Option<&'a str>,
        working_directory: Option<PathBuf>,
    ) -> Self {
        let number = variable(WORKER_VARIABLE).and_then(|text| text.parse().ok());
        let port = |place| Port::new(variable(&private_port_variable(place))?.parse().ok()?);
        let private_ports = (1..).map_while(port).collect();
        Self { number, private_ports, release: RunningRelease::of(variable, working_directory) }
    }
}
