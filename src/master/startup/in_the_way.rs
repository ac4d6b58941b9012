//! Refuses to start where that would open what a filter had shut, take the clients of another server, or lock
//! administrators out, unless a setting says that it is intended.

use crate::config::Config;
use crate::master::error::MasterError;
use crate::master::host::{Accepted, HostFacts, Surveyed, TakenPort, findings, survey};
use crate::nft::ForeignRules;
use crate::plan::{Listener, Plan};
use crate::protocol::FindingSeverity;
use crate::ruleset::TableName;

/// What the settings accept.
pub(in crate::master) fn accepted(config: &Config) -> Accepted {
    Accepted {
        bypassed_filters: config.accept_bypassed_filters(),
        take_over_port: config.take_over_port(),
        admin_port: config.yes_really(),
    }
}

/// Refuses what stands in the way of a listener that is not served yet. Whatever concerns one that an earlier
/// master has left in force is so already, and nothing gets better by leaving it without a master. `taken` is what is known of who has public ports.
pub(in crate::master) fn refuse_what_is_in_the_way(
    config: &Config,
    in_force: Option<&Plan>,
    taken: &[TakenPort],
) -> Result<(), MasterError> {
    let listeners = config.listeners();
    let is_served = |listener: &Listener| {
        in_force.is_some_and(|plan| plan.listeners().iter().any(|it| it == listener))
    };
    if listeners.iter().all(is_served) {
        return Ok(());
    }
    let of = Surveyed {
        listeners: listeners.clone(),
        worker_ports: config.worker_ports(),
        engine: config.engine(),
        local_clients: config.local_clients(),
        table: Some(TableName::of(config.name())),
    };
    let facts = HostFacts::read(listeners).with_owners_of(taken);
    let survey = survey(&mut ForeignRules::open()?, facts, &of)?;
    let all = findings(&survey, listeners, config.engine(), accepted(config));
    let refused = all.into_iter().find(|finding| {
        finding.severity == FindingSeverity::Error
            && !finding.listener.is_some_and(|listener| is_served(&listener))
    });
    match refused {
        Some(finding) => Err(MasterError::InTheWay { finding: Box::new(finding) }),
        None => Ok(()),
    }
}
