//! Making a process the service of which a master is the whole purpose.

use crate::config::Config;
use crate::master::error::MasterError;
use crate::master::privilege::needed_capabilities;
use crate::master::startup::template::limits;
use crate::process::{
    Restrictions, ServiceManager, adopt_orphans, allow_nice, keep_only_capabilities,
    raise_descriptor_limit,
};

/// What a process has that was dedicated to a master.
pub(in crate::master) struct Dedicated {
    /// The soft limit of open files as it was before it was raised.
    pub(in crate::master) descriptor_limit: u64,
    /// What it could not do before.
    pub(in crate::master) began: Restrictions,
    /// The service manager that the environment names.
    pub(in crate::master) service_manager: Option<ServiceManager>,
}

/// Gives up all capabilities of this process that the master does not need, raises its limits, and finds its
/// service manager.
///
/// # Errors
/// [`MasterError::Process`]: the process has more than one thread, or the kernel refuses.
pub(in crate::master) fn dedicate_process(config: &Config) -> Result<Dedicated, MasterError> {
    let began = Restrictions::own()?;
    // While the process has CAP_SYS_RESOURCE, if it ever had.
    raise_limits(config)?;
    // Daemons of workers that leave everything else that tells whose they are.
    if let Err(error) = adopt_orphans() {
        tracing::warn!(%error, "daemons that workers start may not be found");
    }
    let kept = keep_only_capabilities(needed_capabilities(config))?;
    tracing::debug!("capabilities kept: {kept}");
    let descriptor_limit = raise_descriptor_limit()?;
    let service_manager = ServiceManager::from_environment(|name| std::env::var_os(name));
    // Not fatal: the service manager itself notices that nobody notifies it.
    let service_manager = service_manager.unwrap_or_else(|error| {
        tracing::warn!(%error, "sd_notify is off");
        None
    });
    Ok(Dedicated { descriptor_limit, began, service_manager })
}

/// Raises the limits of this process as far as its workers are to have more.
///
/// # Errors
/// [`MasterError::Nice`] and [`MasterError::Limit`]: it may not.
pub(super) fn raise_limits(config: &Config) -> Result<(), MasterError> {
    let nice = config.nice();
    // A greater one than the master's needs no limit, unless it is to be had back.
    if (nice < 0 || config.retire().renice != 0) && !allow_nice(nice)? {
        if nice < 0 {
            return Err(MasterError::Nice { nice });
        }
        tracing::debug!(
            "RLIMIT_NICE cannot be raised: after a rollback, workers keep the nice value of retired ones"
        );
    }
    for limit in limits(config) {
        if let Some(hard) = limit.allow()? {
            return Err(MasterError::Limit { resource: limit.resource.key(), hard });
        }
    }
    Ok(())
}
