//! Taking over from a master that runs: see [`Handover`] for what is said, and in which order.
//!
//! Until the running master has granted it, nothing is changed here that anybody else could see; so
//! whatever goes wrong, that one goes on. If it is the one that ends, what it has left is taken as
//! after any crash.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::observer::StepObserver;
use super::protocol::{
    DescriptorKey, DescriptorKind, HANDOVER_FORMAT, Handover, HandshakeStep, Offer,
};
use crate::control::{ControlDir, ControlError, connect_to_master};
use crate::master::error::MasterError;
use crate::plan::ClusterName;
use crate::process::{PidFd, ServiceManager, receive_descriptors};
use crate::protocol::Request;

/// How long a running master is asked again that is just doing something that takes no time.
const ASK_FOR: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// How long one is waited for that does not answer: it may be stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long after the end of the connection the running master may take to be gone. The kernel closes
/// a process's files just before its pidfd tells the end.
const GONE_WITHIN: Duration = Duration::from_millis(500);

/// The master that runs, and what it has offered.
pub(crate) struct RunningMaster {
    name: ClusterName,
    stream: UnixStream,
    pidfd: PidFd,
    pub(crate) handover: Handover,
    descriptors: BTreeMap<DescriptorKey, OwnedFd>,
    observer: StepObserver,
}

/// What came of asking once.
enum Asked {
    Offered(Box<RunningMaster>),
    Refused {
        reason: String,
        again: bool,
    },
    /// It ended meanwhile.
    Gone,
}

impl RunningMaster {
    /// Asks the master that runs for all it has; `None` if none does. Waits while one is just
    /// beginning, ending, or starting a worker.
    ///
    /// # Errors
    /// [`MasterError::NotHandedOver`]: it goes on; [`MasterError::Control`].
    pub(crate) fn connect(
        directory: &ControlDir,
        name: &ClusterName,
        observer: &StepObserver,
    ) -> Result<Option<Self>, MasterError> {
        let until = Instant::now() + ASK_FOR;
        loop {
            let is_last = Instant::now() >= until;
            match connect_to_master(directory, name)? {
                Some((stream, pid)) => match Self::ask(name, stream, pid, observer)? {
                    Asked::Offered(running_master) => return Ok(Some(*running_master)),
                    Asked::Refused { reason, again } if is_last || !again => {
                        return Err(MasterError::NotHandedOver { name: name.clone(), reason });
                    }
                    Asked::Refused { .. } | Asked::Gone => {}
                },
                None if !directory.is_running(name)? => return Ok(None),
                None if is_last => {
                    let error = ControlError::AlreadyRuns { name: name.clone(), pid: None };
                    return Err(error.into());
                }
                None => {}
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    fn ask(
        name: &ClusterName,
        mut stream: UnixStream,
        pid: u32,
        observer: &StepObserver,
    ) -> Result<Asked, MasterError> {
        observer.reach("next: connected");
        let pidfd = match PidFd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.errno() == Some(nix::errno::Errno::ESRCH) => {
                return Ok(Asked::Gone);
            }
            Err(error) => return Err(error.into()),
        };
        let said = (|| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let request = Request::Handover { format: HANDOVER_FORMAT }.emit();
            io::Write::write_all(&mut stream, format!("{request}\n").as_bytes())?;
            observer.reach("next: asked");
            Offer::read(&mut stream)
        })();
        let handover = match said {
            Ok(Offer::Handover(handover)) => *handover,
            Ok(Offer::Refused { message, again }) => {
                return Ok(Asked::Refused { reason: message, again });
            }
            Err(error) => return unless_gone(&pidfd, &error),
        };
        // So the pidfd is of the process that has said this: it has not ended in between.
        if handover.pid != pid || handover.format != HANDOVER_FORMAT {
            let reason = "it speaks another version of this protocol".to_owned();
            return Ok(Asked::Refused { reason, again: false });
        }
        let descriptors = match receive_all(&stream, &handover.descriptors) {
            Ok(descriptors) => descriptors,
            Err(error) => return unless_gone(&pidfd, &error),
        };
        observer.reach("next: received");
        let (name, observer) = (name.clone(), observer.clone());
        let running_master = Self { name, stream, pidfd, handover, descriptors, observer };
        Ok(Asked::Offered(Box::new(running_master)))
    }

    /// One of the descriptors that were handed over.
    pub(crate) fn take(&mut self, kind: DescriptorKind, key: &str) -> Option<OwnedFd> {
        self.descriptors.remove(&DescriptorKey { kind, key: key.to_owned() })
    }

    /// The same for one without which there is nothing to go on with.
    pub(crate) fn take_needed(&mut self, kind: DescriptorKind) -> Result<OwnedFd, MasterError> {
        self.take(kind, "").ok_or_else(|| MasterError::NotHandedOver {
            name: self.name.clone(),
            reason: format!("it has left out a descriptor: {kind:?}"),
        })
    }

    /// The service manager that it notifies, which the next master goes on to notify: the manager watches
    /// the service in whichever process that is.
    pub(crate) fn service_manager(&self) -> Option<ServiceManager> {
        match ServiceManager::at(self.handover.manager.as_ref()?.into()) {
            Ok(manager) => {
                Some(manager.with_watchdog(self.handover.watchdog.map(Duration::from_micros)))
            }
            Err(error) => {
                tracing::warn!(%error, "sd_notify is off: the address that was handed over is of no use");
                None
            }
        }
    }

    /// Everything is prepared: when this returns, this process is the master.
    ///
    /// # Errors
    /// [`MasterError::NotHandedOver`]: the other one goes on.
    pub(crate) fn commit(self) -> Result<(), MasterError> {
        let Self { name, mut stream, pidfd, observer, .. } = self;
        observer.reach("next: prepared");
        let granted = HandshakeStep::Prepared.send(&mut stream).and_then(|()| {
            observer.reach("next: said so");
            HandshakeStep::Granted.receive(&mut stream)
        });
        match granted {
            Ok(()) => {
                observer.reach("next: granted");
                // If it cannot be told, it has ended, or was killed: there is no other master.
                if let Err(error) = HandshakeStep::Taken.send(&mut stream) {
                    tracing::warn!(%error, "the earlier master ended before it was told to");
                }
                observer.reach("next: taken");
                Ok(())
            }
            Err(_) if is_gone(&pidfd) => {
                tracing::warn!("the earlier master ended before it had handed over");
                Ok(())
            }
            Err(error) => {
                Err(MasterError::NotHandedOver { name, reason: format!("it gave up: {error}") })
            }
        }
    }
}

fn unless_gone(pidfd: &PidFd, error: &dyn fmt::Display) -> Result<Asked, MasterError> {
    if is_gone(pidfd) {
        return Ok(Asked::Gone);
    }
    let reason = format!("it does not answer: {error}");
    Ok(Asked::Refused { reason, again: false })
}

/// Whether the process has ended, or does so within a moment.
fn is_gone(pidfd: &PidFd) -> bool {
    pidfd.exits_within(GONE_WITHIN).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot tell whether the earlier master runs");
        false
    })
}

fn receive_all(
    stream: &UnixStream,
    told: &[DescriptorKey],
) -> Result<BTreeMap<DescriptorKey, OwnedFd>, crate::process::ProcessError> {
    let mut received = Vec::new();
    while received.len() < told.len() {
        received.extend(receive_descriptors(stream, &mut [0])?.1);
    }
    Ok(told.iter().cloned().zip(received).collect())
}
