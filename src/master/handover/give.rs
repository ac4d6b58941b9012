//! Handing over to the next master: the running master's part of a
//! [`Handover`](crate::control::Handover).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::control::{
    Command, DescriptorKey, DescriptorKind, Failure, HANDOVER_FORMAT, Handover, HandshakeStep,
    Offer, Request, ServerDescriptors, SnapshotGeneration, SnapshotHistory, SnapshotRespawn,
    SnapshotStage, SnapshotWorker,
};
use crate::master::handover::receive::Steps;
use crate::master::run::Master;
use crate::plan::{Generation, Weights};
use crate::process::{PidFd, peer_process, send_descriptors};
use crate::supervisor::{Adopted, Bequest, Moment, Part, Past, Refusal, Respawn, WorkerId};

/// How long the next master may take for each thing it has to do: meanwhile nobody steers clients
/// away from a worker that dies.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Descriptors in one message, below what the kernel takes.
const AT_ONCE: usize = 64;

/// What a master has for the next one, but for what its loop works with.
pub(crate) struct HandoverDescriptors {
    pub(crate) sockets: ServerDescriptors,
    pub(crate) http: Option<OwnedFd>,
    pub(crate) steps: Steps,
}

/// What is offered, and the descriptors in the same order.
struct OfferedState {
    handover: Handover,
    descriptors: Vec<OwnedFd>,
}

impl Master {
    /// Hands over to whoever asks, if that can be now. Meanwhile nothing is decided and nothing done.
    /// Returns whether the other one is the master now; if not, all is as it was.
    pub(crate) async fn hand_over(&mut self, request: Request) -> bool {
        let Request { command, responder, stream } = request;
        let (Command::Takeover { format }, Some(mut stream)) = (command, stream) else {
            responder.finish(Err(Failure::new("not a request over the control socket")));
            return false;
        };
        let next = peer_process(&stream);
        let pid = next.as_ref().ok().map(PidFd::pid);
        let offered = next
            .map_err(|error| Offer::Refused {
                message: format!("it cannot tell who asks: {error}"),
                again: false,
            })
            .and_then(|next| Ok((next, self.offered_state(format)?)));
        let steps =
            self.handover_descriptors.as_ref().map(|it| it.steps.clone()).unwrap_or_default();
        if let Some(gate) = &self.gate {
            // Peers that come now wait for the next master.
            gate.set_open(false);
        }
        let done = tokio::task::spawn_blocking(move || {
            prepare(&stream)?;
            match offered {
                Ok((next, offered_state)) => {
                    give(&mut stream, &next, &offered_state, &steps).map(|()| true)
                }
                Err(refused) => refused.write(&mut stream).map(|()| false),
            }
        });
        match done.await {
            Ok(Ok(true)) => {
                if let Some(pid) = pid {
                    self.world.service.hand_over(pid);
                }
                return true;
            }
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "another master asked to take over, and did not: this one goes on");
            }
            Err(error) => tracing::error!(%error, "a handover failed: this master goes on"),
        }
        if let Some(gate) = &self.gate {
            gate.set_open(true);
        }
        false
    }

    /// What there is to be handed over; or why it is not.
    fn offered_state(&mut self, format: u32) -> Result<OfferedState, Offer> {
        let refused = |message: String, again| Offer::Refused { message, again };
        if format != HANDOVER_FORMAT {
            let message = format!("it hands over in version {HANDOVER_FORMAT}, not {format}");
            return Err(refused(message, false));
        }
        self.supervisor.may_hand_over().map_err(|refusal| {
            refused(refusal.to_string(), matches!(refusal, Refusal::Starting))
        })?;
        if self.world.processes.has_exited() {
            return Err(refused("processes of a worker are just ending".to_owned(), true));
        }
        let offered_state = self.collect();
        offered_state.map_err(|error| refused(format!("cannot copy descriptors: {error}"), false))
    }

    fn collect(&self) -> io::Result<OfferedState> {
        let now = self.world.now();
        let Bequest { workers, respawns, past } = self.supervisor.bequeath();
        let mut told = Vec::new();
        let mut descriptors = Vec::new();
        let mut add = |kind, key: String, descriptor: BorrowedFd<'_>| {
            told.push(DescriptorKey { kind, key });
            descriptor.try_clone_to_owned().map(|copy| descriptors.push(copy))
        };
        add(DescriptorKind::Rules, String::new(), self.world.firewall.as_fd())?;
        if let Some(handover_descriptors) = &self.handover_descriptors {
            let ServerDescriptors { lock, control, workers } = &handover_descriptors.sockets;
            add(DescriptorKind::Lock, String::new(), lock.as_fd())?;
            add(DescriptorKind::Control, String::new(), control.as_fd())?;
            if let Some(workers) = workers {
                add(DescriptorKind::Workers, String::new(), workers.as_fd())?;
            }
            if let Some(http) = &handover_descriptors.http {
                add(DescriptorKind::Http, String::new(), http.as_fd())?;
            }
        }
        if let Some(socket) = self.health.socket() {
            add(DescriptorKind::Notify, String::new(), socket)?;
        }
        for worker in &workers {
            let Some((process, output)) = self.world.processes.descriptors(worker.worker) else {
                continue;
            };
            add(DescriptorKind::Process, worker.worker.to_string(), process)?;
            add(DescriptorKind::Output, worker.worker.to_string(), output)?;
            if let Some(sockets) = self.world.held.of(worker.worker) {
                for (index, socket) in sockets.descriptors().enumerate() {
                    add(DescriptorKind::Listen, listen_key(worker.worker, index), socket)?;
                }
            }
        }
        let handover = Handover {
            format: HANDOVER_FORMAT,
            pid: std::process::id(),
            watchdog: self.world.service.watchdog().map(micros),
            manager: self.world.service.address().and_then(OsStr::to_str).map(str::to_owned),
            workers: workers.into_iter().map(|worker| handed(worker, now)).collect(),
            respawns: respawns.into_iter().map(|respawn| handed_respawn(respawn, now)).collect(),
            past: handed_past(past, now),
            descriptors: told,
        };
        Ok(OfferedState { handover, descriptors })
    }
}

/// What the listening sockets of a worker are called.
pub(crate) fn listen_key(worker: WorkerId, index: usize) -> String {
    format!("{}/{index}", worker.0)
}

pub(crate) fn handed(worker: Adopted, now: Moment) -> SnapshotWorker {
    let stage = match worker.part {
        Part::Starting => SnapshotStage::Starting,
        Part::InForce => SnapshotStage::Live,
        Part::Retired { since } => SnapshotStage::Retired { since: millis(now.since(since)) },
        Part::Dying { terminate_at, kill_at } => SnapshotStage::Dying {
            terminate_in: terminate_at.map(|at| millis(at.since(now))),
            kill_in: millis(kill_at.since(now)),
        },
    };
    SnapshotWorker {
        worker: worker.worker.0,
        seat: worker.seat,
        generation: worker.generation,
        ports: worker.ports.to_vec(),
        pid: worker.pid,
        age: millis(now.since(worker.started)),
        stage,
        is_past: worker.is_past,
        more_time: worker.extended.map(|until| millis(until.since(now))),
    }
}

pub(crate) fn handed_respawn(respawn: Respawn, now: Moment) -> SnapshotRespawn {
    let Respawn { seat, failures, not_before, losses, rests_until } = respawn;
    SnapshotRespawn {
        seat,
        failures,
        wait: millis(not_before.since(now)),
        losses: losses.into_iter().map(|at| millis(now.since(at))).collect(),
        rest: rests_until.map(|until| millis(until.since(now))),
    }
}

pub(crate) fn handed_past(past: Past, now: Moment) -> SnapshotHistory {
    let Past { aim, before, home, retirements, last_generation } = past;
    let told = |(generation, weights): (Generation, Weights)| SnapshotGeneration {
        generation,
        shares: weights.shares(),
    };
    SnapshotHistory {
        aim: aim.map(told),
        before: before.map(told),
        home: home.map(|home| home.table().to_vec()),
        retirements: retirements.into_iter().map(|at| millis(now.since(at))).collect(),
        last_generation: last_generation.map(|it| it.0),
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn prepare(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Hands over. On error the other one has not taken it, and does not any more.
fn give(
    stream: &mut UnixStream,
    next: &PidFd,
    offered_state: &OfferedState,
    steps: &Steps,
) -> io::Result<()> {
    steps.reach("running: asked");
    Offer::Handover(Box::new(offered_state.handover.clone())).write(stream)?;
    for some in offered_state.descriptors.chunks(AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        send_descriptors(&*stream, &[0], &some).map_err(io::Error::other)?;
    }
    steps.reach("running: offered");
    HandshakeStep::Prepared.receive(stream)?;
    steps.reach("running: grants");
    HandshakeStep::Granted.send(stream)?;
    steps.reach("running: granted");
    match HandshakeStep::Taken.receive(stream) {
        Err(error) if is_silence(&error) => Err(end_silent(stream, next)),
        heard => {
            heard?;
            steps.reach("running: ends");
            Ok(())
        }
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Ends the other one, which has been granted everything and says nothing: it may be stopped, and take
/// it at any time later. So there would be two masters if this one just went on, and none as long as it
/// waited. Returns when it is no master and never will be, or if it cannot be ended, when it says what
/// it is.
fn end_silent(stream: &mut UnixStream, next: &PidFd) -> io::Error {
    if let Err(error) = next.signal(Signal::SIGKILL) {
        tracing::error!(%error, pid = next.pid(), "cannot end a master that does not answer");
    }
    // The kernel closes its end when no code of it runs any more. If it has taken over just before
    // that, it was a master that was killed, and this one goes on where it began.
    let ended = stream.set_read_timeout(None).and_then(|()| HandshakeStep::Taken.receive(stream));
    match ended {
        Ok(()) => io::Error::other("it took over too late, and was ended"),
        Err(_) => io::Error::other("it did not say that it has taken over, and was ended"),
    }
}
