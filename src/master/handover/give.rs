//! Handing over to the next master: the running master's part.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use super::observer::StepObserver;
use super::protocol::{
    DescriptorKey, DescriptorKind, HANDOVER_FORMAT, HandoverState, HandshakeStep, Offer,
};
use crate::control::{AcceptGate, ReceivedRequest, SharedDescriptors};
use crate::master::background::BackgroundThread;
use crate::master::operators::ServiceNotifier;
use crate::master::workers::Workers;
use crate::process::{PidFd, ProcessError, peer_process, send_descriptors};
use crate::protocol::{Refusal, Request, Timestamp};
use crate::supervisor::Supervisor;

/// How long the next master may take for each thing that it has to do: meanwhile nobody steers clients
/// away from a worker that dies.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Descriptors in one message, below what the kernel takes.
const DESCRIPTORS_AT_ONCE: usize = 64;

/// Hands over to the next master.
pub(in crate::master) struct Handover {
    sockets: SharedDescriptors,
    http: Option<OwnedFd>,
    gate: AcceptGate,
    /// The handshake waits for the other process, which the loop must not. The thread is there from the
    /// start, since it may be that no thread can be made when it is needed.
    thread: BackgroundThread,
    observer: StepObserver,
}

/// The parts of a master whose state and descriptors are handed over.
pub(in crate::master) struct HandoverSource<'a> {
    pub(in crate::master) supervisor: &'a Supervisor,
    /// The netlink socket that owns the table.
    pub(in crate::master) rules: BorrowedFd<'a>,
    /// The socket that workers write to (sd_notify(3)).
    pub(in crate::master) notify: Option<BorrowedFd<'a>>,
    pub(in crate::master) workers: &'a Workers,
    pub(in crate::master) service: &'a ServiceNotifier,
}

/// What is offered, with the descriptors in the order of [`HandoverState::descriptors`].
struct OfferedState {
    state: Box<HandoverState>,
    descriptors: Vec<OwnedFd>,
}

impl Handover {
    /// `sockets` and `http` are what the control server and the HTTP server listen on; `gate`
    /// is that of the control server.
    pub(in crate::master) fn new(
        sockets: SharedDescriptors,
        http: Option<OwnedFd>,
        gate: AcceptGate,
        thread: BackgroundThread,
        observer: StepObserver,
    ) -> Self {
        Self { sockets, http, gate, thread, observer }
    }

    /// Hands over to the process that asks, if that can be now. Until this returns, the master must
    /// decide nothing and do nothing. Returns the pid of the process that is the master from now on;
    /// `None` if there is none, and all is as it was.
    pub(in crate::master) async fn give(
        &self,
        request: ReceivedRequest,
        permitted: Result<(), Refusal>,
        source: &HandoverSource<'_>,
        now: Timestamp,
    ) -> Option<u32> {
        let ReceivedRequest { request, responder, stream, .. } = request;
        let (Request::Handover { format }, Some(mut stream)) = (request, stream) else {
            responder.finish(Err(Refusal::NoHandover));
            return None;
        };
        let next = permitted
            .map_err(|refusal| refused(refusal.to_string(), false))
            .and_then(|()| peer_process(&stream).map_err(unknown_peer));
        let offered = next.and_then(|next| Ok((next, self.offered_state(format, source, now)?)));
        let (next, offered) = match offered {
            Ok(offered) => offered,
            Err(refused) => {
                // It fits into the empty send buffer of a new connection: this does not wait.
                if let Err(error) = refused.write(&mut stream) {
                    tracing::debug!(%error, "cannot send the refusal of a handover");
                }
                return None;
            }
        };
        // Peers that come now wait for the next master.
        self.gate.set_open(false);
        let (sender, outcome) = oneshot::channel();
        let observer = self.observer.clone();
        self.thread.run(move || {
            // The receiver is dropped only if the loop is.
            let _ = sender.send(offer(stream, &next, offered, &observer).map(|()| next.pid()));
        });
        match outcome.await {
            Ok(Ok(next)) => return Some(next),
            Ok(Err(error)) => {
                tracing::warn!(%error, "handover failed: this master keeps running");
            }
            Err(_) => {
                tracing::error!("handover failed: its thread panicked; this master keeps running")
            }
        }
        self.gate.set_open(true);
        None
    }

    /// Another process is the master: the control server ends, and leaves its socket alone.
    pub(in crate::master) fn close_server(&self) {
        self.gate.hand_over();
    }

    /// What can be handed over; or the refusal.
    fn offered_state(
        &self,
        format: u32,
        source: &HandoverSource<'_>,
        now: Timestamp,
    ) -> Result<OfferedState, Offer> {
        if format != HANDOVER_FORMAT {
            let message = format!("it hands over in version {HANDOVER_FORMAT}, not {format}");
            return Err(refused(message, false));
        }
        source.supervisor.may_hand_over().map_err(|refusal| {
            refused(refusal.to_string(), matches!(refusal, Refusal::Starting))
        })?;
        if source.workers.has_exited() {
            return Err(refused("processes of a worker are just ending".to_owned(), true));
        }
        self.collect(source, now)
            .map_err(|error| refused(format!("cannot copy descriptors: {error}"), false))
    }

    fn collect(&self, source: &HandoverSource<'_>, now: Timestamp) -> io::Result<OfferedState> {
        let HandoverSource { supervisor, rules, notify, workers, service } = source;
        let snapshot = supervisor.snapshot();
        let (mut keys, mut descriptors) = (Vec::new(), Vec::new());
        let mut add = |key: DescriptorKey, descriptor: BorrowedFd<'_>| {
            keys.push(key);
            descriptor.try_clone_to_owned().map(|copy| descriptors.push(copy))
        };
        let single = DescriptorKey::single;
        add(single(DescriptorKind::Rules), *rules)?;
        let sockets = self.sockets.current().ok_or(io::ErrorKind::NotConnected)?;
        add(single(DescriptorKind::Lock), sockets.lock.as_fd())?;
        add(single(DescriptorKind::Control), sockets.control.as_fd())?;
        if let Some(socket) = &sockets.workers {
            add(single(DescriptorKind::Workers), socket.as_fd())?;
        }
        if let Some(http) = &self.http {
            add(single(DescriptorKind::Http), http.as_fd())?;
        }
        if let Some(notify) = notify {
            add(single(DescriptorKind::Notify), *notify)?;
        }
        for worker in snapshot.workers.iter().map(|it| it.worker) {
            let Some((process, output)) = workers.descriptors(worker) else { continue };
            add(DescriptorKey::of_worker(DescriptorKind::Process, worker), process)?;
            add(DescriptorKey::of_worker(DescriptorKind::Output, worker), output)?;
            for (place, socket) in workers.listener_descriptors(worker).enumerate() {
                add(DescriptorKey::listener(worker, place), socket)?;
            }
        }
        let state = HandoverState {
            format: HANDOVER_FORMAT,
            pid: std::process::id(),
            manager: service.address().and_then(OsStr::to_str).map(str::to_owned),
            watchdog: service.watchdog().map(micros),
            snapshot: snapshot.into_message(now),
            descriptors: keys,
        };
        Ok(OfferedState { state: Box::new(state), descriptors })
    }
}

fn refused(message: String, is_transient: bool) -> Offer {
    Offer::Refused { message, is_transient }
}

fn unknown_peer(error: ProcessError) -> Offer {
    refused(format!("it cannot read the credentials of the peer: {error}"), false)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Hands over to a master that asks. On error that process has not taken it, and does not any more.
fn offer(
    mut stream: UnixStream,
    next: &PidFd,
    offered: OfferedState,
    observer: &StepObserver,
) -> io::Result<()> {
    let stream = &mut stream;
    stream.set_nonblocking(false)?;
    observer.reach("running: asked");
    let OfferedState { state, descriptors } = offered;
    // In all, however little of it the peer takes at a time.
    let mut limited = LimitedStream { stream, until: Instant::now() + PATIENCE };
    Offer::Accepted(state).write(&mut limited)?;
    for some in descriptors.chunks(DESCRIPTORS_AT_ONCE) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        limited.prepare()?;
        send_descriptors(&*limited.stream, &[0], &some).map_err(io::Error::other)?;
    }
    observer.reach("running: offered");
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    HandshakeStep::Prepared.receive(stream)?;
    observer.reach("running: grants");
    HandshakeStep::Granted.send(stream)?;
    observer.reach("running: granted");
    match HandshakeStep::Taken.receive(stream) {
        Err(error) if is_timeout(&error) => Err(kill_silent(stream, next)),
        received => {
            received?;
            observer.reach("running: ends");
            Ok(())
        }
    }
}

/// A stream that is written until a certain time, however the peer reads it.
struct LimitedStream<'a> {
    stream: &'a mut UnixStream,
    until: Instant,
}

impl LimitedStream<'_> {
    /// Has the next write end in time.
    fn prepare(&self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Below a microsecond the kernel would be asked for no limit at all.
        self.stream.set_write_timeout(Some(left.max(Duration::from_micros(1))))
    }
}

impl Write for LimitedStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.prepare()?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Kills the next master, which has been granted everything and says nothing: it may be stopped, and
/// take it at any time later. So there would be two masters if this one just went on, and none as long
/// as it waited. Returns when that process is no master and never will be, or if it cannot be killed,
/// when it says what it is.
fn kill_silent(stream: &mut UnixStream, next: &PidFd) -> io::Error {
    if let Err(error) = next.signal(Signal::SIGKILL) {
        tracing::error!(%error, pid = next.pid(), "cannot kill the unresponsive next master");
    }
    // The kernel closes its end of the connection when no code of it runs any more. If it has taken over
    // just before that, it was a master that was killed, and this one goes on where that began.
    let ended = stream.set_read_timeout(None).and_then(|()| HandshakeStep::Taken.receive(stream));
    match ended {
        Ok(()) => io::Error::other("the next master took over too late, and was killed"),
        Err(_) => {
            io::Error::other("the next master did not say that it has taken over, and was killed")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_peer_that_reads_a_byte_at_a_time_does_not_prolong_an_offer() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let reader =
            std::thread::spawn(move || while theirs.read(&mut [0]).is_ok_and(|n| n > 0) {});
        let began = Instant::now();
        let until = began + Duration::from_millis(50);
        let mut limited = LimitedStream { stream: &mut ours, until };
        let error = loop {
            if let Err(error) = limited.write_all(&[0; 64 * 1024]) {
                break error;
            }
        };
        assert!(is_timeout(&error), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        drop(ours);
        reader.join().unwrap();
    }
}
