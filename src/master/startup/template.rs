//! What every worker is started with.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ipv6_listeners::warn_of_ipv6_only;
use crate::config::{Config, FileModeMask};
use crate::control::{ControlDir, WorkersSocket};
use crate::master::error::MasterError;
use crate::master::workers::{
    ConfigCopies, ConfigFingerprint, ConfigTemplate, HookTemplates, ListenerTemplate, ProcessNotes,
    StartDirectory, StateFiles, Template, logical_directory, set_end_signals, transports,
};
use crate::process::{Account, LimitedResource, ResourceLimit, effective_uid};
use crate::protocol::Readiness;

/// The paths of the sockets that workers are told of.
#[derive(Debug, Clone, Default)]
pub(in crate::master) struct SocketPaths {
    /// The socket on which workers join (`IPCLUSTER_SOCKET`).
    pub(in crate::master) socket: Option<PathBuf>,
    /// The socket that workers write to (`NOTIFY_SOCKET`).
    pub(in crate::master) notify: Option<PathBuf>,
}

/// What templates are made of beside a configuration.
#[derive(Debug)]
pub(in crate::master) struct TemplateSource {
    pub(in crate::master) control: Option<ControlDir>,
    pub(in crate::master) environment: Vec<(OsString, OsString)>,
    pub(in crate::master) paths: SocketPaths,
    /// The soft limit of open files of workers.
    pub(in crate::master) descriptor_limit: Option<u64>,
}

impl TemplateSource {
    /// What workers of this configuration are started with: opens the files that they print to, and makes
    /// the directories of the files that are made for them.
    pub(in crate::master) fn make(
        &self,
        config: &Config,
        account: Option<Account>,
    ) -> Result<Template, MasterError> {
        let control = self.control.as_ref();
        let made_configs = config_template(config, control, account.as_ref())?;
        let states = state_files(config, control, account.as_ref());
        let notes = control.map(|control| ProcessNotes::of(control, config.name()));
        let template = worker_template(config, &self.paths, self.environment.clone(), account);
        let descriptor_limit = self.descriptor_limit;
        let template =
            Template { descriptor_limit, config: made_configs, states, notes, ..template };
        if let Some(listeners) = &template.openings {
            listeners.check_backlog()?;
        }
        warn_of_ipv6_only(config.listeners());
        Ok(template)
    }
}

/// What is the same for every worker of this configuration, but for the files that are made for them and
/// their limit of open files.
pub(super) fn worker_template(
    config: &Config,
    sockets: &SocketPaths,
    mut environment: Vec<(OsString, OsString)>,
    account: Option<Account>,
) -> Template {
    let texts = config.worker_texts();
    if let Some(account) = account.as_ref().filter(|_| config.user().is_some()) {
        // The variables of this process say whom the master runs as.
        environment.retain(|(name, _)| Account::VARIABLES.iter().all(|it| name != it));
        environment.extend(account.variables());
    }
    say_what_is_not_passed(config, &environment);
    let mut environment = config.env().resolve(environment);
    let directory = match &texts.directory {
        Some(text) => {
            let (common, rest) = text.split_path();
            StartDirectory::Configured { common, rest }
        }
        None => StartDirectory::OfMaster(logical_directory(std::env::var_os("PWD"))),
    };
    // Where the directory was removed it has no name: then it counts as the same for every master.
    let named = match &directory {
        StartDirectory::Configured { .. } => config.directory(),
        StartDirectory::OfMaster(directory) => directory.as_deref(),
    };
    let fingerprint = ConfigFingerprint::of(config, named.unwrap_or(Path::new("")), &environment);
    set_end_signals(config.end_signals(), &mut environment);
    environment.insert("IPCLUSTER_NAME".into(), config.name().as_str().into());
    if let Some(socket) = &sockets.socket {
        environment.insert("IPCLUSTER_SOCKET".into(), socket.into());
    }
    if let Some(path) = &sockets.notify {
        // sd_notify(3) takes absolute paths alone.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        environment.insert("NOTIFY_SOCKET".into(), path.into());
        // Without WATCHDOG_PID the watchdog is for whichever process of the worker asks
        // (sd_watchdog_enabled(3)).
        if let Some(watchdog) = config.watchdog_timeout() {
            let microseconds = watchdog.as_micros().to_string();
            environment.insert("WATCHDOG_USEC".into(), microseconds.into());
        }
    }
    Template {
        name: config.name().clone(),
        fingerprint,
        program: texts.program.clone(),
        arguments: texts.arguments.clone(),
        environment,
        texts: texts.environment.clone(),
        config: None,
        directory,
        env_files: config.env_files().to_vec(),
        account,
        descriptor_limit: None,
        limits: limits(config),
        umask: config.umask().map(FileModeMask::bits),
        nice: config.nice(),
        hooks: HookTemplates {
            before_reload: texts.before_reload.clone(),
            after_reload: texts.after_reload.clone(),
            limit: config.hook_timeout(),
            die: config.die_timeout(),
        },
        speaks_protocol: *config.ready() == Readiness::Protocol,
        listeners: Arc::new(config.listeners().clone()),
        private_ports: usize::from(config.private_ports()),
        transports: transports(config.listeners()),
        states: None,
        notes: None,
        openings: config.socket_activation().then(|| {
            ListenerTemplate::of(config.listeners(), config.engine(), config.backlog()).into()
        }),
    }
}

/// Names the variables of this process that workers do not get: a program that misses one may say something
/// else altogether.
fn say_what_is_not_passed(config: &Config, environment: &[(OsString, OsString)]) {
    let names = config.env().not_passed(environment.iter().map(|(name, _)| name));
    if names.is_empty() {
        return;
    }
    let names: Vec<String> = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    tracing::debug!("variables that are not passed on to workers, all: {}", names.join(", "));
    tracing::info!(
        "variables that are not passed on to workers: {} (`env` passes a NAME, PREFIX* or *)",
        short_list(names)
    );
}

/// So many names stand in the log line at most.
const NAMED: usize = 24;

/// How variables end that programs of users read: these names come first where not all are said.
const LIKELY: [&str; 12] = [
    "_ENV",
    "_URL",
    "_URI",
    "_DSN",
    "_HOST",
    "_PORT",
    "_KEY",
    "_SECRET",
    "_TOKEN",
    "_PASSWORD",
    "_CONFIG",
    "_MODULE",
];

fn short_list(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    if more > 0 {
        names.sort_by_key(|name| !LIKELY.iter().any(|end| name.ends_with(end)));
        names.truncate(NAMED);
    }
    let mut text = names.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more, which the log names at level debug"));
    }
    text
}

/// The limits that workers get of their own.
pub(in crate::master) fn limits(config: &Config) -> Vec<ResourceLimit> {
    let limits = [
        (LimitedResource::Descriptors, config.limit_nofile()),
        (LimitedResource::Core, config.limit_core()),
        (LimitedResource::LockedMemory, config.limit_memlock()),
    ];
    let limit = |(resource, limit): (_, Option<crate::config::ResourceLimit>)| {
        let crate::config::ResourceLimit { soft, hard } = limit?;
        Some(ResourceLimit { resource, soft, hard: Some(hard) })
    };
    limits.into_iter().filter_map(limit).collect()
}

/// The files in which workers read whether they are retired, if there is a control directory: the directory
/// for these files is made. Where that cannot be, workers have no such files, and are told by signals alone.
fn state_files(
    config: &Config,
    control: Option<&ControlDir>,
    account: Option<&Account>,
) -> Option<StateFiles> {
    let control = control?;
    let other = account.filter(|account| account.uid() != effective_uid());
    let prepare = || {
        let directory = match other {
            Some(_) => WorkersSocket::directory_beside(control.path()).map_err(io::Error::other)?,
            None => control.path().to_owned(),
        };
        let directory = std::path::absolute(directory.join(format!("{}.states", config.name())))?;
        StateFiles::prepare(directory, other.map(Account::gid))
    };
    let prepared = prepare().inspect_err(
        |error| tracing::warn!(%error, "workers get no IPCLUSTER_STATE_FILE: cannot make a directory"),
    );
    prepared.ok()
}

/// What the configuration file of each worker is made of, if it gets one: the directory for these files is
/// made.
fn config_template(
    config: &Config,
    control: Option<&ControlDir>,
    account: Option<&Account>,
) -> Result<Option<ConfigTemplate>, MasterError> {
    let Some(template) = config.config_template() else { return Ok(None) };
    let control = control.ok_or(MasterError::NoConfigDirectory)?;
    let other = account.filter(|account| account.uid() != effective_uid());
    let directory = match other {
        Some(_) => WorkersSocket::directory_beside(control.path())?,
        None => control.path().to_owned(),
    };
    let directory = directory.join(format!("{}.configs", config.name()));
    let owner = other.map(|account| (account.uid(), account.gid()));
    let copies = ConfigCopies::prepare(directory, template, owner)
        .map_err(|error| MasterError::ConfigTemplate { reason: error.to_string() })?;
    Ok(Some(ConfigTemplate { copies, config: Arc::new(config.clone()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_names_those_of_applications_are_said() {
        let few = vec!["A".to_owned(), "B_URL".to_owned()];
        assert_eq!(short_list(few), "A, B_URL");
        let mut many: Vec<String> = (0..30).map(|number| format!("A{number:02}")).collect();
        many.push("NODE_ENV".to_owned());
        let said = short_list(many);
        assert!(said.starts_with("NODE_ENV, A00, A01, "), "{said}");
        assert!(said.ends_with("A22 and 7 more, which the log names at level debug"), "{said}");
    }
}
