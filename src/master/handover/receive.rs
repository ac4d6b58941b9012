//! Taking over from a master that runs: the next master's part of a handover.
//!
//! Until the running master has granted it, nothing is changed here that anybody else could see; so
//! whatever goes wrong, that one goes on. If it is the one that ends, what it has left is taken as
//! after any crash.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::observer::StepObserver;
use super::protocol::{
    DescriptorKey, DescriptorKind, HANDOVER_FORMAT, HandoverState, HandshakeStep, Offer,
};
use crate::control::{ControlDir, ControlError, connect_to_master};
use crate::master::error::MasterError;
use crate::netlink::Errno;
use crate::plan::ClusterName;
use crate::process::{
    HeldSocket, Leader, PidFd, ProcessError, ServiceManager, receive_descriptors,
};
use crate::protocol::{Request, Snapshot, Timestamp, WorkerSnapshot};

/// For how long a running master is asked again that refuses for a reason which passes within moments.
const ASK_FOR: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// For how long that is no news.
const SILENT_FOR: Duration = Duration::from_millis(500);

/// How long a running master is waited for that does not answer: it may be stopped.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long after the end of the connection the running master may take to be gone. The kernel closes
/// a process's files just before its pidfd tells the end.
const GONE_WITHIN: Duration = Duration::from_millis(500);

/// The master that runs, and what it has offered.
pub(in crate::master) struct RunningMaster {
    name: ClusterName,
    stream: UnixStream,
    pidfd: PidFd,
    state: HandoverState,
    descriptors: BTreeMap<DescriptorKey, OwnedFd>,
    observer: StepObserver,
}

/// What a running master hands over of its workers and of what it remembers; nothing, if no master runs.
#[derive(Default)]
pub(in crate::master) struct Received {
    /// The workers that still run.
    pub(in crate::master) workers: Vec<(Leader, WorkerRecord)>,
    /// The rest, without workers.
    pub(in crate::master) memory: Snapshot,
}

/// What is known of a worker of an earlier master, with copies of its descriptors.
pub(in crate::master) struct WorkerRecord {
    pub(in crate::master) snapshot: WorkerSnapshot,
    /// The file that it prints to; `None` if it is not handed over.
    pub(in crate::master) output: Option<OwnedFd>,
    /// Its listening sockets, as far as the master has them.
    pub(in crate::master) listeners: Vec<HeldSocket>,
}

/// What came of asking once.
enum Answer {
    Offered(Box<RunningMaster>),
    Refused {
        reason: String,
        is_transient: bool,
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
    pub(in crate::master) fn connect(
        directory: &ControlDir,
        name: &ClusterName,
        observer: &StepObserver,
    ) -> Result<Option<Self>, MasterError> {
        let mut waiting = Waiting::begin(name);
        loop {
            let is_last = waiting.is_over();
            match connect_to_master(directory, name)? {
                Some((stream, pid)) => match Self::ask(name, stream, pid, observer)? {
                    Answer::Offered(running) => return Ok(Some(*running)),
                    Answer::Refused { reason, is_transient } if is_last || !is_transient => {
                        return Err(MasterError::NotHandedOver { name: name.clone(), reason });
                    }
                    Answer::Refused { reason, .. } => waiting.say(&reason),
                    Answer::Gone => {}
                },
                None if !directory.is_running(name)? => return Ok(None),
                None if is_last => {
                    let error = ControlError::AlreadyRuns { name: name.clone(), pid: None };
                    return Err(error.into());
                }
                None => waiting.say("it has a lock, and no control socket yet"),
            }
            thread::sleep(ASK_AGAIN);
        }
    }

    fn ask(
        name: &ClusterName,
        mut stream: UnixStream,
        pid: u32,
        observer: &StepObserver,
    ) -> Result<Answer, MasterError> {
        observer.reach("next: connected");
        let pidfd = match PidFd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.errno() == Some(Errno::ESRCH) => return Ok(Answer::Gone),
            Err(error) => return Err(error.into()),
        };
        let state = match read_offer(&mut stream, observer) {
            Ok(Offer::Accepted(state)) => *state,
            Ok(Offer::Refused { message, is_transient }) => {
                return Ok(Answer::Refused { reason: message, is_transient });
            }
            Err(error) => return Ok(silent_or_gone(&pidfd, &error)),
        };
        // So the pidfd is of the process that has sent this: it has not ended in between.
        if state.pid != pid || state.format != HANDOVER_FORMAT {
            let reason = "it speaks another version of this protocol".to_owned();
            return Ok(Answer::Refused { reason, is_transient: false });
        }
        let descriptors = match read_descriptors(&stream, &state.descriptors) {
            Ok(descriptors) => descriptors,
            Err(error) => return Ok(silent_or_gone(&pidfd, &error)),
        };
        observer.reach("next: received");
        let (name, observer) = (name.clone(), observer.clone());
        let running = Self { name, stream, pidfd, state, descriptors, observer };
        Ok(Answer::Offered(Box::new(running)))
    }

    /// One of the descriptors that were handed over, if it was.
    pub(in crate::master) fn take(&mut self, kind: DescriptorKind) -> Option<OwnedFd> {
        self.descriptors.remove(&DescriptorKey::single(kind))
    }

    /// One of the descriptors without which there is nothing to go on with.
    ///
    /// # Errors
    /// [`MasterError::NotHandedOver`]: the running master has left it out.
    pub(in crate::master) fn take_needed(
        &mut self,
        kind: DescriptorKind,
    ) -> Result<OwnedFd, MasterError> {
        self.take(kind).ok_or_else(|| MasterError::NotHandedOver {
            name: self.name.clone(),
            reason: format!("it has left out a descriptor: {kind:?}"),
        })
    }

    /// What it hands over of its workers and of what it remembers, as of `now`. A worker that has ended
    /// meanwhile is as good as one that has ended before; a worker without its process is found like those of
    /// a master that has crashed.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(in crate::master) fn take_state(
        &mut self,
        now: Timestamp,
    ) -> Result<Received, ProcessError> {
        let mut memory = std::mem::take(&mut self.state.snapshot).at(now);
        let mut workers = Vec::new();
        for snapshot in memory.workers.drain(..) {
            workers.extend(self.take_worker(snapshot)?);
        }
        Ok(Received { workers, memory })
    }

    fn take_worker(
        &mut self,
        snapshot: WorkerSnapshot,
    ) -> Result<Option<(Leader, WorkerRecord)>, ProcessError> {
        let worker = snapshot.worker;
        let mut take = |key| self.descriptors.remove(&key);
        let process = take(DescriptorKey::of_worker(DescriptorKind::Process, worker));
        let output = take(DescriptorKey::of_worker(DescriptorKind::Output, worker));
        let listener = |place| take(DescriptorKey::listener(worker, place));
        let listeners: Vec<OwnedFd> = (0..).map_while(listener).collect();
        let Some(pidfd) = process.map(PidFd::from_descriptor).transpose()?.flatten() else {
            return Ok(None);
        };
        let Some(process) = Leader::of(pidfd)? else { return Ok(None) };
        let adopt = |socket| {
            let adopted = HeldSocket::adopt(socket);
            adopted
                .inspect_err(|error| {
                    tracing::warn!(%error, "a descriptor handed over as a listening socket is not one");
                })
                .ok()
        };
        let listeners = listeners.into_iter().filter_map(adopt).collect();
        Ok(Some((process, WorkerRecord { snapshot, output, listeners })))
    }

    /// The service manager that it notifies, which the next master goes on to notify: the manager watches
    /// the service in whichever process that is.
    pub(in crate::master) fn service_manager(&self) -> Option<ServiceManager> {
        match ServiceManager::at(self.state.manager.as_ref()?.into()) {
            Ok(manager) => {
                Some(manager.with_watchdog(self.state.watchdog.map(Duration::from_micros)))
            }
            Err(error) => {
                tracing::warn!(%error, "sd_notify is off: the NOTIFY_SOCKET that was handed over is invalid");
                None
            }
        }
    }

    /// Everything is prepared: when this returns, this process is the master.
    ///
    /// # Errors
    /// [`MasterError::NotHandedOver`]: the other one goes on.
    pub(in crate::master) fn commit(self) -> Result<(), MasterError> {
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
                    tracing::warn!(%error, "the earlier master exited before the handover was acknowledged");
                }
                observer.reach("next: taken");
                Ok(())
            }
            Err(_) if is_gone(&pidfd) => {
                tracing::warn!("the earlier master exited before the handover was complete");
                Ok(())
            }
            Err(error) => Err(MasterError::NotHandedOver {
                name,
                reason: format!("the handover failed: {error}"),
            }),
        }
    }
}

/// A running master that is waited for, since it cannot hand over just now.
struct Waiting<'a> {
    name: &'a ClusterName,
    began: Instant,
    /// Why it could not, as was said last.
    said: Option<String>,
}

impl<'a> Waiting<'a> {
    fn begin(name: &'a ClusterName) -> Self {
        Self { name, began: Instant::now(), said: None }
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= ASK_FOR
    }

    /// Says what is waited for, if that takes longer than a moment: each reason once.
    fn say(&mut self, reason: &str) {
        if self.began.elapsed() < SILENT_FOR || self.said.as_deref() == Some(reason) {
            return;
        }
        let name = self.name;
        tracing::info!(
            "waiting until the master of cluster {name} can hand over, {ASK_FOR:?} at most: {reason}"
        );
        self.said = Some(reason.to_owned());
    }
}

fn read_offer(stream: &mut UnixStream, observer: &StepObserver) -> io::Result<Offer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = Request::Handover { format: HANDOVER_FORMAT }.emit();
    stream.write_all(format!("{request}\n").as_bytes())?;
    observer.reach("next: asked");
    Offer::read(stream)
}

fn read_descriptors(
    stream: &UnixStream,
    keys: &[DescriptorKey],
) -> Result<BTreeMap<DescriptorKey, OwnedFd>, ProcessError> {
    let mut received = Vec::new();
    while received.len() < keys.len() {
        received.extend(receive_descriptors(stream, &mut [0])?.1);
    }
    Ok(keys.iter().cloned().zip(received).collect())
}

/// What an error of the connection means.
fn silent_or_gone(pidfd: &PidFd, error: &dyn fmt::Display) -> Answer {
    match is_gone(pidfd) {
        true => Answer::Gone,
        false => {
            let reason = format!("it does not answer: {error}");
            Answer::Refused { reason, is_transient: false }
        }
    }
}

/// Whether the process has ended, or does so within a moment.
fn is_gone(pidfd: &PidFd) -> bool {
    pidfd.exits_within(GONE_WITHIN).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot check whether the earlier master is running");
        false
    })
}
