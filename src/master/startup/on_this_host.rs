//! What a configuration names and this host does not have, for `ipcluster check`: users and groups, limits, places for
//! the output and the socket of workers, the directory, files, the program and hooks. A master finds the same when it
//! starts, at the latest with its first worker, and hooks with its first reload. Nothing is made here, and nothing is
//! started.

use std::ffi::OsString;
use std::sync::Arc;

use super::dedicate::raise_limits;
use super::template::{SocketPaths, worker_template};
use super::worker_sockets::check_workers_socket;
use crate::config::{Config, WorkerOutput};
use crate::master::error::{MasterError, causes};
use crate::master::workers::{ConfigCopies, ConfigTemplate, LogFiles, Template, missing_files};
use crate::process::{Account, group_number};

/// Why `run` would fail with this configuration, here and with these variables of the environment; the key at fault is
/// named in each.
pub(crate) fn missing_on_this_host(
    config: &Config,
    environment: Vec<(OsString, OsString)>,
) -> Vec<String> {
    let mut missing = Vec::new();
    let group = config.control_group().map(|group| group_number("control_group", group));
    missing.extend(group.and_then(Result::err).map(|error| causes(&error)));
    missing.extend(raise_limits(config).err().map(|error| causes(&error)));
    missing.extend(check_workers_socket(config).err().map(|error| causes(&error)));
    missing.extend(check_output(config).err().map(|error| causes(&error)));
    match account_of_workers(config) {
        Ok(account) => {
            let template = worker_template(config, &SocketPaths::default(), environment, account);
            let made_of = config.config_template().map(|template| ConfigTemplate {
                copies: ConfigCopies::to_read(template),
                config: Arc::new(config.clone()),
            });
            missing.extend(missing_files(&Template { config: made_of, ..template }));
        }
        // What that user may read and run is not to be known.
        Err(error) => missing.push(causes(&error)),
    }
    missing
}

fn check_output(config: &Config) -> Result<(), MasterError> {
    match config.output() {
        WorkerOutput::Directory(directory) => {
            LogFiles::check(directory).map_err(|source| MasterError::Output { source })
        }
        WorkerOutput::Stdout | WorkerOutput::Journal => Ok(()),
    }
}

fn account_of_workers(config: &Config) -> Result<Option<Account>, MasterError> {
    let account = Account::look_up(config.user(), config.group())?;
    if let Some(account) = &account {
        account.check()?;
    }
    Ok(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(lines: &str) -> Vec<String> {
        let least = "listen = ['0.0.0.0:80']\ncommand = ['/proc/self/exe']";
        let config = Config::from_toml(&format!("{least}\n{lines}")).unwrap();
        missing_on_this_host(&config, Vec::new())
    }

    #[test]
    fn places_of_the_output_and_the_socket_are_looked_at_and_nothing_is_made() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name).display().to_string();
        let there = format!("output.to = 'file:{}'\nsocket = '{}'", path(""), path("web.sock"));
        assert_eq!(missing(&there), Vec::<String>::new());
        assert!(std::fs::read_dir(base.path()).unwrap().next().is_none());
        let (to, socket) = (path("logs"), path("sockets"));
        let found = missing(&format!("output.to = 'file:{to}'\nsocket = '{socket}/web.sock'"));
        assert_eq!(
            found,
            [
                format!(
                    "`socket`: cannot examine {socket}: No such file or directory (os error 2)"
                ),
                format!(
                    "`output.to`: output of {to}: cannot open the log: ENOENT: No such file or directory"
                ),
            ]
        );
    }
}
