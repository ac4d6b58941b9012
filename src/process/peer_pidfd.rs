use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, sockopt};

use super::error::{ProcessError, ProcessOperation};
use super::pidfd::PidFd;
use super::stat::Stat;
use crate::netlink::Errno;

/// The process at the other end of a Unix socket: the one that connected, by a descriptor that cannot
/// come to mean another.
///
/// `SO_PEERPIDFD` (since Linux 6.5, unix(7)). Before that, the number of `SO_PEERCRED` is opened: by
/// then it may belong to another process, if the first one has ended and left its socket to a third.
///
/// # Errors
/// [`ProcessError::Process`] with `ESRCH` if it has ended, and been waited for; [`ProcessError::Host`]
/// if the socket does not tell, as one that was not connected.
pub(crate) fn peer_process(socket: impl AsFd) -> Result<PidFd, ProcessError> {
    let failed = |errno| ProcessError::Host { operation: ProcessOperation::AskPeer, errno };
    let credentials =
        getsockopt(&socket, sockopt::PeerCredentials).map_err(Errno::of).map_err(failed)?;
    let pid = u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0);
    // 0: of a pid namespace that this process does not see.
    let pid = pid.ok_or_else(|| failed(Errno::ESRCH))?;
    match getsockopt(&socket, sockopt::PeerPidfd).map_err(Errno::of) {
        Ok(descriptor) => Ok(PidFd::of_peer(descriptor, pid)),
        Err(Errno::ENOPROTOOPT) => PidFd::open(pid),
        // It was waited for before; since Linux 6.16 there is a descriptor all the same.
        Err(Errno::EINVAL | Errno::ESRCH) => Err(ProcessError::Process {
            pid,
            operation: ProcessOperation::OpenPidfd,
            errno: Errno::ESRCH,
        }),
        Err(errno) => Err(failed(errno)),
    }
}

/// The session that a process is in: the pid of the process that made it, which for a process of a
/// worker is the worker's leader. `None` if it has ended.
///
/// A process cannot enter a session, only leave its own for a new one. The number of a session is not
/// used again while any process is in it.
///
/// # Errors
/// `/proc` cannot be read or not understood.
pub(crate) fn session_of(process: &PidFd) -> Result<Option<u32>, ProcessError> {
    let stat = Stat::read(process.pid())?;
    // The data read is of another process if this one ended before.
    if process.has_exited()? {
        return Ok(None);
    }
    Ok(stat.filter(|stat| !stat.ended).map(|stat| stat.session))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::process::Command;

    use super::*;

    #[test]
    fn the_peer_is_who_connected_and_in_its_session() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        let peer = peer_process(&server).unwrap();
        assert_eq!(peer.pid(), std::process::id());
        let ours = Stat::read(std::process::id()).unwrap().unwrap().session;
        assert_eq!(session_of(&peer).unwrap(), Some(ours));
    }

    #[test]
    fn a_process_that_has_ended_is_in_no_session() {
        let mut child = Command::new("true").spawn().unwrap();
        let pidfd = PidFd::open(child.id()).unwrap();
        child.wait().unwrap();
        assert_eq!(session_of(&pidfd).unwrap(), None);
    }

    #[test]
    fn a_socket_without_a_peer_is_an_error() {
        let base = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(base.path().join("s")).unwrap();
        // A listening socket has the credentials of its own process; an unconnected one has none.
        drop(listener);
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        );
        assert!(peer_process(socket.unwrap()).is_err());
    }
}
