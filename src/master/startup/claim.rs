//! What a master claims before it begins anything: the lock of the cluster, and the rules that are
//! there. So a start that fails has changed nothing that it would have to undo.

#[cfg(feature = "http")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use super::overlap::refuse_overlap;
use crate::config::Config;
use crate::control::{ControlDir, Lock};
use crate::master::error::MasterError;
use crate::master::handover::protocol::DescriptorKind;
use crate::master::handover::receive::RunningMaster;
use crate::master::rules::CommitWatch;
use crate::nft::{Firewall, NftError, Protection};
use crate::plan::{Listeners, Ownership, Plan};

/// How long the owner of the rules is waited for: of a master that was killed, the kernel closes the
/// lock before the netlink socket. A second master is to give up within a second.
const OWNER_LEAVES: Duration = Duration::from_millis(500);

/// How often the table is claimed meanwhile. The kernel tells nobody that it has no owner any more.
const CLAIM_INTERVAL: Duration = Duration::from_millis(1);

/// What makes this process the one master of a cluster.
pub(in crate::master) struct Claim {
    /// Without a control directory there is none.
    pub(in crate::master) lock: Option<Lock>,
    /// The control socket of the running master, if that hands over.
    pub(in crate::master) control_socket: Option<OwnedFd>,
    #[cfg(feature = "http")]
    pub(in crate::master) http: Option<crate::http::HttpServer>,
    /// A copy of the socket of the HTTP server, to be handed over.
    pub(in crate::master) http_copy: Option<OwnedFd>,
    pub(in crate::master) firewall: Firewall,
    pub(in crate::master) commits: CommitWatch,
    /// The plan that an earlier master left in the kernel.
    pub(in crate::master) in_force: Option<Plan>,
}

impl Claim {
    /// Claims the cluster: with the descriptors of the running master if there is one, whose rules are
    /// claimed only by [`Self::confirm`].
    ///
    /// # Errors
    /// Another master runs, another cluster has listeners for the same connections, or this process may
    /// not do what a master does.
    pub(in crate::master) fn acquire(
        config: &Config,
        directory: Option<&ControlDir>,
        mut running: Option<&mut RunningMaster>,
    ) -> Result<Self, MasterError> {
        let (lock, control_socket) = lock(config, directory, running.as_deref_mut())?;
        #[cfg(feature = "http")]
        let http = listen_http(config, running.as_deref_mut())?;
        #[cfg(feature = "http")]
        let http_copy = copy_of(http.as_ref())?;
        #[cfg(not(feature = "http"))]
        let http_copy = None;
        let rules = running.as_mut().map(|it| it.take_needed(DescriptorKind::Rules)).transpose()?;
        let mut firewall = open_firewall(config, rules)?;
        // Before anything is read: what others change from then on is noticed.
        let commits = CommitWatch::open()?;
        refuse_overlap(config)?;
        let in_force = read_in_force(&mut firewall, config.listeners())?;
        if running.is_none() {
            adopt_table(&mut firewall)?;
        }
        Ok(Self {
            lock,
            control_socket,
            #[cfg(feature = "http")]
            http,
            http_copy,
            firewall,
            commits,
            in_force,
        })
    }

    /// Everything is prepared: when this returns, this process is the master.
    ///
    /// # Errors
    /// [`MasterError::NotHandedOver`]: the other one goes on.
    pub(in crate::master) fn confirm(
        &mut self,
        running: Option<RunningMaster>,
    ) -> Result<(), MasterError> {
        if let Some(running) = running {
            running.commit()?;
            adopt_table(&mut self.firewall)?;
        }
        Ok(())
    }
}

/// Takes the lock; or the lock and the control socket of the running master.
fn lock(
    config: &Config,
    directory: Option<&ControlDir>,
    running: Option<&mut RunningMaster>,
) -> Result<(Option<Lock>, Option<OwnedFd>), MasterError> {
    let Some(directory) = directory else { return Ok((None, None)) };
    let Some(running) = running else {
        return Ok((Some(directory.lock(config.name())?), None));
    };
    let lock = running.take_needed(DescriptorKind::Lock)?;
    let lock = Lock::handed_over(directory, config.name(), lock)?;
    Ok((Some(lock), Some(running.take_needed(DescriptorKind::Control)?)))
}

#[cfg(feature = "http")]
fn listen_http(
    config: &Config,
    running: Option<&mut RunningMaster>,
) -> Result<Option<crate::http::HttpServer>, MasterError> {
    use crate::http::{HttpLimits, HttpServer};
    let Some(address) = config.http_listen() else { return Ok(None) };
    let handed_over = running.and_then(|it| it.take(DescriptorKind::Http));
    let handed_over =
        handed_over.map(|socket| HttpServer::handed_over(socket, address, HttpLimits::default()));
    Ok(Some(match handed_over.transpose()?.flatten() {
        Some(server) => server,
        None => HttpServer::bind(address, HttpLimits::default())?,
    }))
}

#[cfg(feature = "http")]
fn copy_of(http: Option<&crate::http::HttpServer>) -> Result<Option<OwnedFd>, MasterError> {
    let copy = http.map(|http| http.as_fd().try_clone_to_owned()).transpose();
    copy.map_err(|source| MasterError::Descriptor { source })
}

/// Opens the rules of the cluster, by the socket that a running master hands over if there is one, and
/// says how they will be protected. Changes nothing.
fn open_firewall(config: &Config, handed_over: Option<OwnedFd>) -> Result<Firewall, NftError> {
    let firewall = match handed_over {
        Some(socket) => Firewall::from_descriptor(config.name(), socket)?,
        None => Firewall::open(config.name())?,
    };
    let mut firewall = firewall.with_ownership(config.ownership());
    firewall.probe()?;
    log_protection(firewall.protection()?, config.ownership());
    Ok(firewall)
}

fn log_protection(protection: Protection, wanted: Ownership) {
    match (protection, wanted) {
        (Protection::Owned, _) => {
            tracing::debug!("the nftables table is owned: other programs cannot change the rules")
        }
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

/// Reads the plan that an earlier master left. Rules of an older version of ipcluster cannot be read: they
/// stay as they are until the first workers are ready, and are then replaced in one transaction.
fn read_in_force(firewall: &mut Firewall, listeners: &Listeners) -> Result<Option<Plan>, NftError> {
    match firewall.read_in_order_of(listeners) {
        Err(error @ NftError::Schema { .. }) if error.can_be_replaced() => {
            tracing::warn!("{error}: it serves until new workers are ready, and is then replaced");
            Ok(None)
        }
        read => read,
    }
}

/// Makes the table that an earlier master left ours, and changes nothing about it.
fn adopt_table(firewall: &mut Firewall) -> Result<(), NftError> {
    let began = Instant::now();
    loop {
        match firewall.adopt() {
            Err(NftError::OwnedByOther { .. }) if began.elapsed() < OWNER_LEAVES => {
                thread::sleep(CLAIM_INTERVAL);
            }
            adopted => return adopted.map(drop),
        }
    }
}
