//! What every worker is started with.

use std::ffi::OsString;

use super::worker_sockets::PreparedSockets;
use crate::config::Config;
use crate::master::workers::{ConfigFingerprint, ListenerTemplate, Template, transports};
use crate::process::Account;
use crate::protocol::Readiness;

/// What is the same for every worker of this configuration, but for the files that workers print to and
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
    Template {
        name: config.name().clone(),
        fingerprint,
        program: config.command().program().into(),
        arguments: config.command().arguments().iter().map(OsString::from).collect(),
        environment,
        account,
        descriptor_limit: None,
        speaks_protocol: *config.ready() == Readiness::Protocol,
        public_ports: config.listeners().public_ports().to_vec(),
        transports: transports(config.listeners()),
        logs: None,
        openings: config.socket_activation().then(|| {
            ListenerTemplate::of(config.listeners(), config.engine(), config.backlog()).into()
        }),
    }
}
