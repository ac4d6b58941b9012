//! Taking hold of the rules that are there: so that they are ours before anything is begun that would
//! have to be undone if they were somebody else's.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Config, Ownership};
use crate::control::{ControlDir, DescriptorKind, Lock};
use crate::master::error::MasterError;
use crate::master::handover::receive::RunningMaster;
use crate::nft::{self, Firewall, NftError, Protection};
use crate::plan::{Listeners, Plan};

/// How long the owner of the rules is waited for: of a master that was killed, the kernel closes the
/// lock before the netlink socket. A second master is to give up within a second.
const OWNER_LEAVES: Duration = Duration::from_millis(500);

/// How often it is looked whether he has gone.
const LOOK: Duration = Duration::from_millis(1);

/// Makes this process the one master of the cluster in this directory, with the lock and the control
/// socket of the running master if that hands them over.
pub(crate) fn lock(
    config: &Config,
    directory: Option<&ControlDir>,
    running_master: Option<&mut RunningMaster>,
) -> Result<(Option<Lock>, Option<OwnedFd>), MasterError> {
    let Some(directory) = directory else { return Ok((None, None)) };
    let Some(running_master) = running_master else {
        return Ok((Some(directory.lock(&config.name)?), None));
    };
    let lock = running_master.take_needed(DescriptorKind::Lock)?;
    let lock = Lock::handed_over(directory, &config.name, lock)?;
    Ok((Some(lock), Some(running_master.take_needed(DescriptorKind::Control)?)))
}

/// Opens the rules of a cluster, by the socket that a running master hands over if there is one, and
/// says how they will be protected. Reads and changes nothing.
pub(crate) fn open(config: &Config, handed: Option<OwnedFd>) -> Result<Firewall, NftError> {
    let ownership = match config.ownership {
        Ownership::Auto => nft::Ownership::Auto,
        Ownership::Owned => nft::Ownership::Owned,
        Ownership::Shared => nft::Ownership::Shared,
    };
    let firewall = match handed {
        Some(socket) => Firewall::from_descriptor(&config.name, socket)?,
        None => Firewall::open(&config.name)?,
    };
    let mut firewall = firewall.with_ownership(ownership);
    firewall.probe()?;
    announce(firewall.protection()?, config.ownership);
    Ok(firewall)
}

fn announce(protection: Protection, wanted: Ownership) {
    match (protection, wanted) {
        (Protection::Owned, _) => tracing::debug!("nobody else can change the rules"),
        (Protection::Kept, Ownership::Shared) => {
            tracing::info!("other programs can change the rules, as configured");
        }
        (Protection::Kept, _) => tracing::warn!(
            "this kernel cannot keep other programs from changing the rules (Linux 6.9 can): \
             `nft flush ruleset` would remove them; established connections would live on"
        ),
        (Protection::None, _) => tracing::warn!(
            "this kernel can neither keep other programs from changing the rules (Linux 6.9 can) \
             nor connections alive when they do (5.12 can): `nft flush ruleset` would reset them"
        ),
    }
}

/// The plan that an earlier master left. Rules of an older version of ipcluster cannot be read: they
/// stay as they are until the first workers are ready, and are then replaced in one transaction.
pub(crate) fn in_force(
    firewall: &mut Firewall,
    listeners: &Listeners,
) -> Result<Option<Plan>, NftError> {
    match firewall.read(Some(listeners)) {
        Err(error @ NftError::Schema { .. }) if error.can_be_replaced() => {
            tracing::warn!("{error}: it serves until new workers are ready, and is then replaced");
            Ok(None)
        }
        read => read,
    }
}

/// Makes the rules that an earlier master left ours, and changes nothing about them.
pub(crate) fn adopt(firewall: &mut Firewall) -> Result<(), NftError> {
    let began = Instant::now();
    loop {
        match firewall.adopt() {
            Err(NftError::OwnedByOther { .. }) if began.elapsed() < OWNER_LEAVES => {
                thread::sleep(LOOK);
            }
            adopted => return adopted.map(drop),
        }
    }
}
