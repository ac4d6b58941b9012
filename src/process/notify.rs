//! What workers say of themselves: the socket of `NOTIFY_SOCKET`, as sd_notify(3) writes to it.
//!
//! One datagram is a few lines `KEY=VALUE`. Nobody is believed by what is in it: the kernel tells who
//! sent it (`SCM_CREDENTIALS`, and since Linux 6.5 `SCM_PIDFD`), and what [`Sender::session`] says is
//! the session of that very process, which is that of one worker. A process that has ended is known for
//! as long as its parent has not waited for it; after that it has no session, and its message counts for
//! nobody. `systemd-notify` waits until its message was read (`BARRIER=1`).

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tokio::io::unix::AsyncFd;

use super::error::{ProcessError, errno_of};
use super::pidfd::PidFd;
use super::stat::Stat;
use crate::netlink::Errno;
use crate::sys;

/// The longest message that is read, in bytes; longer ones are dropped whole. systemd's own limit
/// (`NOTIFY_BUFFER_MAX`, src/core/manager.c) is the size of a pipe's guaranteed write, too.
const LONGEST: usize = 4096;

/// A message, with what came along.
#[derive(Debug)]
pub(crate) struct NotifyMessage {
    /// Who sent it.
    pub sender: Sender,
    /// Its lines, as they were written. Empty if it was too long.
    pub text: Vec<u8>,
    /// Descriptors that came along. They are closed with this: one who waits for that (`BARRIER=1`)
    /// then knows that all that it has said before was taken in.
    #[cfg_attr(not(test), expect(dead_code, reason = "closed when the message is dropped"))]
    descriptors: Vec<OwnedFd>,
}

impl NotifyMessage {
    /// How many descriptors came along.
    #[cfg(test)]
    fn descriptors(&self) -> usize {
        self.descriptors.len()
    }
}

/// Who sent a message, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sender {
    /// Its number, for display; 0 for a process of another pid namespace.
    pub pid: u32,
    /// Its session when the message was read: the pid of the process that made it, which for a
    /// worker is its first process. `None` if it had ended and was waited for by then.
    pub session: Option<u32>,
}

impl Sender {
    fn of(pid: u32, pidfd: Option<OwnedFd>) -> Self {
        // A process that was started under the same number since has another pidfd: if the sender has
        // its number after the session was read, that number was its own all the time.
        let stat = Stat::read(pid).ok().flatten();
        let session = stat.filter(|_| pidfd.is_none_or(has_its_number)).map(|stat| stat.session);
        Self { pid, session }
    }
}

/// Whether the process behind a pidfd lives, or is a zombie: nobody else gets its number until then.
fn has_its_number(pidfd: OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // A pidfd is readable once its process has ended.
    let mut descriptors = [PollFd::new(&pidfd, PollFlags::IN)];
    let lives = matches!(poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0));
    lives || matches!(PidFd::from_descriptor(pidfd), Ok(Some(_)))
}

/// The socket that workers write to.
///
/// It has a path, below a directory of the master's user: an abstract name could be taken by anybody
/// while no master runs. Workers outlive their master, so the path does not depend on it; the next one
/// puts a new socket in its place. What is written while none runs is refused (`ECONNREFUSED`).
#[derive(Debug)]
pub(crate) struct NotifySocket {
    path: PathBuf,
    socket: UnixDatagram,
}

/// What [`NotifySocket::receive`] finds.
#[derive(Debug)]
pub(crate) enum Received {
    /// A message.
    Message(NotifyMessage),
    /// Nothing (any more).
    Nothing,
}

impl NotifySocket {
    /// Listens at `path`, in place of a socket that an earlier master left there. Only this user can
    /// write to it.
    ///
    /// # Errors
    /// [`ProcessError::NotifySocket`]: the path is too long, taken by something that is no socket of this
    /// user, or cannot be made.
    pub(crate) fn bind(path: &Path) -> Result<Self, ProcessError> {
        Self::bind_with_mode(path, 0o600)
    }

    /// As [`Self::bind`], but writable also for the group that the socket is made with: that of a directory with
    /// the setgid bit, or else of the thread (see [`with_group`](super::with_group)).
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub(crate) fn bind_for_group(path: &Path) -> Result<Self, ProcessError> {
        Self::bind_with_mode(path, 0o660)
    }

    fn bind_with_mode(path: &Path, mode: u32) -> Result<Self, ProcessError> {
        let failed = |error: io::Error| notify_error(path, errno_of(&error));
        remove_stale(path)?;
        let socket = UnixDatagram::bind(path).map_err(failed)?;
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        sys::ask_for_senders(socket.as_fd())
            .map_err(|errno| notify_error(path, Errno::of(errno)))?;
        Ok(Self { path: path.to_owned(), socket })
    }

    /// The socket of an earlier master, with all that waits there.
    pub(crate) fn handed_over(path: PathBuf, socket: OwnedFd) -> Self {
        Self { path, socket: socket.into() }
    }

    /// Its path: what workers get as `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message that waits.
    ///
    /// # Errors
    /// [`ProcessError::NotifySocket`]. The next one can be read all the same.
    pub(crate) fn receive(&self) -> Result<Received, ProcessError> {
        let mut buffer = [0; LONGEST];
        let datagram =
            match sys::receive_datagram(self.socket.as_fd(), &mut buffer).map_err(Errno::of) {
                Ok(datagram) => datagram,
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(errno) => return Err(notify_error(&self.path, errno)),
            };
        let sender = Sender::of(datagram.pid, datagram.pidfd);
        let text = if datagram.is_cut { Vec::new() } else { buffer[..datagram.length].to_vec() };
        Ok(Received::Message(NotifyMessage { sender, text, descriptors: datagram.descriptors }))
    }

    /// Removes it from its directory.
    ///
    /// # Errors
    /// [`ProcessError::NotifySocket`].
    pub(crate) fn remove(self) -> Result<(), ProcessError> {
        fs::remove_file(&self.path).map_err(|error| notify_error(&self.path, errno_of(&error)))
    }

    /// Has a tokio runtime wait for messages.
    ///
    /// # Errors
    /// No descriptor is left.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO.
    pub(crate) fn readable(&self) -> io::Result<AsyncFd<OwnedFd>> {
        sys::watch_readable(self.socket.as_fd().try_clone_to_owned()?)
    }
}

/// The socket, to be handed over.
impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Removes a socket of this user, and nothing else.
fn remove_stale(path: &Path) -> Result<(), ProcessError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(notify_error(path, errno_of(&error))),
    };
    let is_ours = found.uid() == rustix::process::geteuid().as_raw();
    if !found.file_type().is_socket() || !is_ours {
        return Err(notify_error(path, Errno::EEXIST));
    }
    fs::remove_file(path).map_err(|error| notify_error(path, errno_of(&error)))
}

fn notify_error(path: &Path, errno: Errno) -> ProcessError {
    ProcessError::NotifySocket { path: path.to_owned(), errno }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};

    use super::super::send_descriptors;
    use super::*;

    fn bound() -> (tempfile::TempDir, NotifySocket) {
        let directory = tempfile::tempdir().unwrap();
        let socket = NotifySocket::bind(&directory.path().join("notify")).unwrap();
        (directory, socket)
    }

    fn receive(socket: &NotifySocket) -> NotifyMessage {
        match socket.receive().unwrap() {
            Received::Message(message) => message,
            Received::Nothing => panic!("a message was sent"),
        }
    }

    fn send(socket: &NotifySocket, message: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.path()).unwrap();
        send_descriptors(&sender, message, descriptors).unwrap();
    }

    #[test]
    fn the_kernel_says_who_sent_a_message() {
        let (_directory, socket) = bound();
        assert!(matches!(socket.receive().unwrap(), Received::Nothing));
        send(&socket, b"READY=1", &[]);
        let message = receive(&socket);
        let own = Stat::read(std::process::id()).unwrap().unwrap();
        assert_eq!(message.sender, Sender { pid: own.pid, session: Some(own.session) });
        assert_eq!(message.text, b"READY=1");
        assert!(matches!(socket.receive().unwrap(), Received::Nothing));
    }

    /// A program that says that it is ready, and ends.
    fn short_lived(socket: &NotifySocket) -> std::process::Command {
        let script = "import os, socket\n\
                      s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                      s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).env("NOTIFY_SOCKET", socket.path());
        command
    }

    #[test]
    fn a_sender_that_has_ended_has_no_session() {
        let (_directory, socket) = bound();
        assert!(short_lived(&socket).status().unwrap().success());
        let message = receive(&socket);
        assert_eq!((message.sender.session, &*message.text), (None, &b"READY=1"[..]));
    }

    #[test]
    fn a_sender_that_nobody_has_waited_for_has_one() {
        let (_directory, socket) = bound();
        let mut child = short_lived(&socket).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        let ended = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), ended).unwrap();
        let message = receive(&socket);
        let own = Stat::read(std::process::id()).unwrap().unwrap();
        assert_eq!(message.sender, Sender { pid: child.id(), session: Some(own.session) });
        child.wait().unwrap();
    }

    #[test]
    fn descriptors_are_closed_with_their_message() {
        let (_directory, socket) = bound();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&socket, b"BARRIER=1", &[writer.as_fd()]);
        drop(writer);
        let message = receive(&socket);
        assert_eq!((message.descriptors(), &*message.text), (1, &b"BARRIER=1"[..]));
        drop(message);
        // Ends only if nobody has the other end.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn a_message_that_is_too_long_says_nothing_and_the_next_is_read() {
        let (_directory, socket) = bound();
        let (mut reader, writer) = io::pipe().unwrap();
        let long = [b"READY=1\nSTATUS=".as_slice(), &[b'x'; LONGEST]].concat();
        send(&socket, &long, &[writer.as_fd()]);
        drop(writer);
        send(&socket, b"STOPPING=1", &[]);
        assert_eq!(receive(&socket).text, b"");
        assert_eq!(receive(&socket).text, b"STOPPING=1");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "its descriptor is closed");
    }

    #[test]
    fn more_descriptors_than_fit_are_closed_and_the_words_count() {
        let (_directory, socket) = bound();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&socket, b"WATCHDOG=1", &vec![writer.as_fd(); 200]);
        drop(writer);
        let message = receive(&socket);
        assert_eq!(message.text, b"WATCHDOG=1");
        drop(message);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_empty_message_is_one() {
        let (_directory, socket) = bound();
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.path()).unwrap();
        rustix::net::sendmsg(
            &sender,
            &[IoSlice::new(b"")],
            &mut rustix::net::SendAncillaryBuffer::default(),
            rustix::net::SendFlags::empty(),
        )
        .unwrap();
        assert_eq!(receive(&socket).text, b"");
    }

    #[test]
    fn only_a_socket_of_an_earlier_master_is_replaced() {
        let (directory, socket) = bound();
        let path = socket.path().to_owned();
        drop(socket);
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(NotifySocket::bind(&path).unwrap().path()), 0o600);
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for taken in [&file, &link] {
            let error = NotifySocket::bind(taken).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EEXIST));
            assert!(taken.symlink_metadata().is_ok(), "untouched");
        }
    }
}
