//! What a configuration names and this host does not have, for `ipcluster check`: users and groups, limits, the
//! directory, files, the program and hooks. A master finds the same when it starts its first worker, and hooks with its
//! first reload. Nothing is made here, and nothing is started.

use std::ffi::OsString;
use std::sync::Arc;

use super::dedicate::raise_limits;
use super::template::{SocketPaths, worker_template};
use crate::config::Config;
use crate::master::error::{MasterError, causes};
use crate::master::workers::{ConfigCopies, ConfigTemplate, Template, missing_files};
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

fn account_of_workers(config: &Config) -> Result<Option<Account>, MasterError> {
    let account = Account::look_up(config.user(), config.group())?;
    if let Some(account) = &account {
        account.check()?;
    }
    Ok(account)
}
