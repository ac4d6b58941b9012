//! Whether the sockets and the lock of a server are still where peers look for them, and how they come back:
//! a runtime directory can be removed or renamed beneath a master that runs (by systemd when another unit
//! that shares it ends, by a cleaner of temporary files, by hand). Peers would not reach the master any more,
//! and a second master of the same cluster could start beside it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UnixListener;

use super::cleanup::SocketFile;
use super::workers_socket::WorkersSocket;
use crate::control::directory::io_error;
use crate::control::{ControlDir, ControlError, Lock, StartNote};
use crate::process::with_group;

/// What a server is found by, removed when this is dropped: the sockets before the lock is released.
#[derive(Debug)]
pub(super) struct ServedFiles {
    control: SocketFile,
    workers: Option<SocketFile>,
    lock: Lock,
    /// Whose members may command as well.
    group: Option<u32>,
    /// The user whose processes are workers, beside our own.
    worker_user: Option<u32>,
    shared: SharedDescriptors,
    /// Something was made anew, and others do not know all of it yet.
    is_behind: bool,
    /// Why they cannot be made anew, as it was said last.
    said: Option<String>,
}

impl ServedFiles {
    pub(super) fn new(
        lock: Lock,
        control: SocketFile,
        workers: Option<SocketFile>,
        worker_user: Option<u32>,
        group: Option<u32>,
        shared: SharedDescriptors,
    ) -> Self {
        let (is_behind, said) = (false, None);
        Self { control, workers, lock, group, worker_user, shared, is_behind, said }
    }

    /// Leaves the files in place: the sockets were handed over to another process.
    pub(super) fn keep(self) {
        let Self { control, workers, .. } = self;
        [Some(control), workers].into_iter().flatten().for_each(SocketFile::keep);
    }

    /// Makes anew what is gone, and says so; what cannot be made is tried again at the next look.
    pub(super) fn look(&mut self, control: &mut UnixListener, workers: &mut Option<UnixListener>) {
        let path = self.lock.socket().display().to_string();
        match self.restore(control, workers) {
            Ok(false) => {}
            Ok(true) => {
                self.said = None;
                tracing::warn!(
                    %path,
                    "control socket, socket of workers or lock file was removed: made anew. Who removes them \
                     cuts operators and workers off"
                );
            }
            Err(error) => {
                let error = error.to_string();
                if self.said.as_ref() != Some(&error) {
                    tracing::error!(
                        %path, %error,
                        "control socket, socket of workers or lock file was removed, and cannot be made anew: \
                         commands and workers do not reach this master, and another one can start beside it"
                    );
                }
                self.said = Some(error);
            }
        }
    }

    /// Makes anew what is gone; returns whether anything was, in this look or in one that failed. Where all is in
    /// place this reads the attributes of three files.
    ///
    /// # Errors
    /// [`ControlError::AlreadyRuns`]: another process has become the master of this cluster meanwhile;
    /// [`ControlError::NotOurs`]; [`ControlError::Io`].
    fn restore(
        &mut self,
        control: &mut UnixListener,
        workers: &mut Option<UnixListener>,
    ) -> Result<bool, ControlError> {
        if !self.lock.is_in_place() {
            let name = self.lock.name().clone();
            // The lock of before is released with it: of a file that nobody finds any more.
            self.lock = self.lock.directory().lock(&name)?;
            self.is_behind = true;
        }
        if !self.control.is_in_place() {
            *control = registered(self.lock.bind()?, self.lock.socket())?;
            self.control = SocketFile::of(self.lock.socket())?;
            self.is_behind = true;
        }
        let of_workers = self.restore_workers(workers);
        if self.is_behind {
            // Whatever else fails: the next master is to get what this one has.
            self.share_descriptors(control.as_fd(), workers.as_ref().map(AsFd::as_fd))?;
            let share = || self.lock.share(self.group);
            self.group.map_or_else(share, |group| in_group(group, share))?;
            let left = StartNote::of_this_process().leave(&self.lock.directory(), self.lock.name());
            left.map_err(io_error("write the note of the start beside", self.lock.socket()))?;
        }
        of_workers?;
        Ok(std::mem::take(&mut self.is_behind))
    }

    fn restore_workers(&mut self, workers: &mut Option<UnixListener>) -> Result<(), ControlError> {
        if let Some(file) = self.workers.as_mut().filter(|file| !file.is_in_place()) {
            let socket = bind_again(file, self.worker_user, &self.lock.directory())?;
            *workers = Some(registered(socket.listener, &file.path)?);
            *file = socket.file;
            self.is_behind = true;
        }
        Ok(())
    }

    fn share_descriptors(
        &self,
        control: BorrowedFd<'_>,
        workers: Option<BorrowedFd<'_>>,
    ) -> Result<(), ControlError> {
        if self.shared.current().is_some() {
            self.shared.set(ControlDescriptors::copied(&self.lock, control, workers)?);
        }
        Ok(())
    }
}

/// The descriptors of a control server.
#[derive(Debug)]
pub(crate) struct ControlDescriptors {
    /// The lock file.
    pub(crate) lock: OwnedFd,
    /// The control socket.
    pub(crate) control: OwnedFd,
    /// The socket of workers, if they have one of their own.
    pub(crate) workers: Option<OwnedFd>,
}

impl ControlDescriptors {
    /// Copies of the descriptors of a lock and of sockets.
    ///
    /// # Errors
    /// [`ControlError::Io`]: no descriptor is left.
    pub(super) fn copied(
        lock: &Lock,
        control: BorrowedFd<'_>,
        workers: Option<BorrowedFd<'_>>,
    ) -> Result<Self, ControlError> {
        let copy =
            |descriptor: BorrowedFd<'_>| -> io::Result<_> { descriptor.try_clone_to_owned() };
        let failed = || io_error("copy the descriptor of", lock.socket());
        Ok(Self {
            lock: lock.descriptor()?,
            control: copy(control).map_err(failed())?,
            workers: workers.map(copy).transpose().map_err(failed())?,
        })
    }
}

/// The descriptors of a server while it serves: others, after it had to make its files anew. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct SharedDescriptors(Arc<Mutex<Option<Arc<ControlDescriptors>>>>);

impl SharedDescriptors {
    /// What the server has now; `None` before it was asked for them.
    pub(crate) fn current(&self) -> Option<Arc<ControlDescriptors>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, descriptors: ControlDescriptors) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(descriptors));
    }
}

fn registered(
    listener: std::os::unix::net::UnixListener,
    path: &Path,
) -> Result<UnixListener, ControlError> {
    UnixListener::from_std(listener).map_err(io_error("listen on", path))
}

/// Listens for workers where `file` was, for the same group.
fn bind_again(
    file: &SocketFile,
    user: Option<u32>,
    control: &ControlDir,
) -> Result<WorkersSocket, ControlError> {
    let path = &file.path;
    if path.parent() == Some(&WorkersSocket::path_beside(control.path())) {
        WorkersSocket::directory_beside(control.path())?;
    }
    match user {
        Some(_) => in_group(file.group, || WorkersSocket::bind(path, user)),
        None => WorkersSocket::bind(path, user),
    }
}

/// Does what takes a group: with that as the group of this thread, or, without the right to that, as one that
/// this process is a member of.
fn in_group<T>(group: u32, work: impl Fn() -> Result<T, ControlError>) -> Result<T, ControlError> {
    with_group(group, &work).unwrap_or_else(|_| work())
}
