//! Who is admitted to the control socket, and when.

use std::io;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::limits::{ConnectionLimits, Full};
use super::operator::OperatorConnection;
use super::worker_link::WorkerEvent;
use super::{ControlLimits, ReceivedRequest};
use crate::control::Reply;
use crate::protocol::ErrorReply;
use crate::sys::peer_groups;

/// Whether a server accepts peers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AcceptGate {
    state: watch::Sender<GateState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateState {
    Open,
    Closed,
    HandedOver,
}

impl AcceptGate {
    pub(super) fn open() -> Self {
        Self { state: watch::channel(GateState::Open).0 }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<GateState> {
        self.state.subscribe()
    }

    /// Accepts peers, or lets those that come from now on wait in the kernel.
    pub(crate) fn set_open(&self, open: bool) {
        self.state.send_replace(if open { GateState::Open } else { GateState::Closed });
    }

    /// Ends the server. The socket and its path stay for the process that they were handed over to.
    pub(crate) fn hand_over(&self) {
        self.state.send_replace(GateState::HandedOver);
    }
}

/// The next connection, and whether it came by the control socket.
pub(super) async fn accept(
    control: &UnixListener,
    workers: Option<&UnixListener>,
) -> (io::Result<UnixStream>, bool) {
    let by_workers = async {
        match workers {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    };
    let (accepted, is_control) = tokio::select! {
        accepted = control.accept() => (accepted, true),
        accepted = by_workers => (accepted, false),
    };
    (accepted.map(|(stream, _)| stream), is_control)
}

/// Decides by the peer's credentials (`SO_PEERCRED`, `SO_PEERGROUPS`) who is admitted, and what for.
pub(super) struct Acceptor {
    pub(super) limits: ControlLimits,
    pub(super) connections: ConnectionLimits,
    pub(super) worker_user: Option<u32>,
    /// Whose members may command as well.
    pub(super) group: Option<u32>,
    pub(super) requests: mpsc::Sender<ReceivedRequest>,
    pub(super) events: Option<mpsc::Sender<WorkerEvent>>,
}

impl Acceptor {
    /// A future that serves the connection until it ends or is dropped; `None` if it is rejected.
    pub(super) fn admit(
        &self,
        stream: UnixStream,
        is_control: bool,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let peer = match stream.peer_cred() {
            Ok(peer) => peer,
            Err(error) => {
                tracing::warn!(%error, "control connection refused: unknown user");
                return None;
            }
        };
        let is_ours = may_command(peer.uid(), nix::unistd::geteuid().as_raw())
            || is_control && self.is_member(&stream, peer.gid());
        if !is_ours && self.worker_user != Some(peer.uid()) {
            tracing::warn!(uid = peer.uid(), "control connection refused: another user");
            return None;
        }
        let pid = peer.pid().unwrap_or(0);
        let ControlLimits { connections, connections_of_process, waiting, .. } = self.limits;
        let admission =
            self.connections.admit(peer.uid(), pid, connections, connections_of_process, waiting);
        let admission = match admission {
            Ok(admission) => admission,
            Err(Full::User(most) | Full::Process(most) | Full::Queue(most)) => {
                reject(&stream, most);
                return None;
            }
        };
        let pid = u32::try_from(pid).unwrap_or(0);
        let (limits, requests, events) = (self.limits, self.requests.clone(), self.events.clone());
        Some(async move {
            let permit = tokio::select! {
                () = requests.closed() => return,
                permit = admission.granted() => permit,
            };
            // The time for its first line begins when it has a place.
            let connection = OperatorConnection::new(stream, limits, is_ours && is_control, pid);
            connection.serve(requests, events, permit).await;
        })
    }
}

impl Acceptor {
    /// Whether the peer was a member of the group when it connected.
    fn is_member(&self, stream: &UnixStream, first: u32) -> bool {
        let Some(group) = self.group else { return false };
        first == group || peer_groups(stream).is_ok_and(|groups| groups.contains(&group))
    }
}

pub(super) fn may_command(peer: u32, ours: u32) -> bool {
    peer == 0 || peer == ours
}

/// Answers a peer beyond the limit. An error reply fits into the empty send buffer of a new
/// connection, so that this does not wait.
fn reject(stream: &UnixStream, most: usize) {
    let failure = ErrorReply::new(format!("{most} control connections already"))
        .hint("try again when one of them has its answer");
    for line in Reply::Failed(failure).emit() {
        if let Err(error) = stream.try_write(format!("{line}\n").as_bytes()) {
            tracing::debug!(%error, "cannot send the refusal of a control connection beyond the limit");
        }
    }
}
