//! What every worker is started with.

use std::ffi::OsString;
use std::sync::Arc;

use super::worker_sockets::PreparedSockets;
use crate::config::Config;
use crate::control::{ControlDir, WorkersSocket};
use crate::master::error::MasterError;
use crate::master::workers::{
    ConfigCopies, ConfigFingerprint, ConfigTemplate, ListenerTemplate, Template, set_end_signals,
    transports,
};
use crate::process::{Account, effective_uid};
use crate::protocol::Readiness;

/// What is the same for every worker of this configuration, but for the files that are made for them and
/// their limit of open files.
pub(in crate::master) fn worker_template(
    config: &Config,
    sockets: &PreparedSockets,
    mut environment: Vec<(OsString, OsString)>,
    account: Option<Account>,
) -> Template {
    if let Some(account) = account.as_ref().filter(|_| config.user().is_some()) {
        // The variables of this process say whom the master runs as.
        environment.retain(|(name, _)| Account::VARIABLES.iter().all(|it| name != it));
        environment.extend(account.variables());
    }
    let mut environment = config.env().resolve(environment);
    // Where the directory was removed it has no name: then it counts as the same for every master.
    let directory = std::env::current_dir().unwrap_or_default();
    let fingerprint = ConfigFingerprint::of(config, &directory, &environment);
    set_end_signals(config.end_signals(), &mut environment);
    environment.insert("IPCLUSTER_NAME".into(), config.name().as_str().into());
    if let Some(socket) = &sockets.socket {
        environment.insert("IPCLUSTER_SOCKET".into(), socket.into());
    }
    if let Some(path) = &sockets.notify_path {
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
    let texts = config.worker_texts();
    Template {
        name: config.name().clone(),
        fingerprint,
        program: texts.program.clone(),
        arguments: texts.arguments.clone(),
        environment,
        texts: texts.environment.clone(),
        config: None,
        account,
        descriptor_limit: None,
        speaks_protocol: *config.ready() == Readiness::Protocol,
        public_ports: config.listeners().public_ports().to_vec(),
        private_ports: usize::from(config.private_ports()),
        transports: transports(config.listeners()),
        logs: None,
        openings: config.socket_activation().then(|| {
            ListenerTemplate::of(config.listeners(), config.engine(), config.backlog()).into()
        }),
    }
}

/// What the configuration file of each worker is made of, if it gets one: the directory for these files is
/// made.
pub(in crate::master) fn config_template(
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
