//! The sockets on which workers reach their master, and of which they are told when they start.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::template::SocketPaths;
use crate::config::Config;
use crate::control::{ControlDir, ControlError, WorkersSocket};
use crate::master::error::MasterError;
use crate::master::handover::protocol::DescriptorKind;
use crate::master::handover::receive::RunningMaster;
use crate::process::{self, Account, NotifySocket};

/// The sockets of workers, bound, and their paths: workers can be told of them. Sockets that a running
/// master hands over, and listens on until then, are [opened](Self::open) when it is not the master any
/// more. Without a control directory there are no sockets.
#[derive(Default)]
pub(in crate::master) struct PreparedSockets {
    paths: SocketPaths,
    workers: Option<Prepared<WorkersSocket>>,
    notify: Option<Prepared<NotifySocket>>,
    /// The user whose processes are workers, beside our own.
    user: Option<u32>,
    /// Sockets of the running master that have other paths.
    obsolete: ReceivedSockets,
}

enum Prepared<T> {
    Bound(T),
    /// A running master hands it over, which was bound to this path.
    Received(PathBuf, OwnedFd),
}

/// The sockets of workers.
#[derive(Default)]
pub(in crate::master) struct WorkerSockets {
    /// The socket on which workers join, if that is another one than the control socket.
    pub(in crate::master) workers: Option<WorkersSocket>,
    /// The socket that workers write to (sd_notify(3)).
    pub(in crate::master) notify: Option<NotifySocket>,
}

impl PreparedSockets {
    /// Binds the sockets, or takes those that a running master hands over where they have the same paths.
    ///
    /// Workers that run as another user may not enter the directory of the control socket: their sockets
    /// are in a directory beside it. Their group owns the files, since a group can be given without
    /// `CAP_CHOWN` (see [`process::with_group`]); of the group, the workers' user alone may join, and
    /// whoever writes to the other socket is believed if it is a process of a worker.
    pub(in crate::master) fn prepare(
        config: &Config,
        control: &ControlDir,
        control_socket: &Path,
        account: Option<&Account>,
        running: Option<&mut RunningMaster>,
    ) -> Result<Self, MasterError> {
        let mut received = running.map(ReceivedSockets::from_master).unwrap_or_default();
        let other = account.filter(|account| account.uid() != process::effective_uid());
        let Some(other) = other else {
            let bind = |path: &Path| WorkersSocket::bind(path, None).map_err(of_setting);
            let workers = config.socket().map(|path| received.workers(path, bind));
            let notify = control_socket.with_extension("note");
            let notify = received.notify(&notify, NotifySocket::bind)?;
            return Ok(Self::of(control_socket, workers.transpose()?, notify, None, received));
        };
        let directory = WorkersSocket::directory_beside(control.path())?;
        let default = directory.join(format!("{}.sock", config.name()));
        let path = config.socket().unwrap_or(&default);
        let prepared = process::with_group(other.gid(), || {
            let bind = |path: &Path| {
                let bound = WorkersSocket::bind(path, Some(other.uid()));
                bound.map_err(|error| match config.socket() {
                    Some(_) => of_setting(error),
                    None => error.into(),
                })
            };
            let workers = received.workers(path, bind)?;
            let notify = default.with_extension("note");
            let notify = received.notify(&notify, NotifySocket::bind_for_group)?;
            Ok::<_, MasterError>((workers, notify))
        })?;
        let (workers, notify) = prepared?;
        Ok(Self::of(control_socket, Some(workers), notify, Some(other.uid()), received))
    }

    fn of(
        control_socket: &Path,
        workers: Option<Prepared<WorkersSocket>>,
        notify: Prepared<NotifySocket>,
        user: Option<u32>,
        unused: ReceivedSockets,
    ) -> Self {
        let socket = workers.as_ref().map_or(control_socket, |it| it.path(WorkersSocket::path));
        Self {
            paths: SocketPaths {
                socket: Some(socket.to_owned()),
                notify: Some(notify.path(NotifySocket::path).to_owned()),
            },
            workers,
            notify: Some(notify),
            user,
            obsolete: unused,
        }
    }

    /// The paths that workers are told of.
    pub(in crate::master) fn paths(&self) -> SocketPaths {
        self.paths.clone()
    }

    /// Listens. From here on no other master does.
    pub(in crate::master) fn open(self) -> Result<WorkerSockets, MasterError> {
        let Self { workers, notify, user, obsolete, .. } = self;
        obsolete.remove();
        let workers = match workers {
            Some(Prepared::Received(path, socket)) => {
                Some(WorkersSocket::handed_over(&path, socket, user)?)
            }
            Some(Prepared::Bound(socket)) => Some(socket),
            None => None,
        };
        let notify = notify.map(|notify| match notify {
            Prepared::Received(path, socket) => NotifySocket::handed_over(path, socket),
            Prepared::Bound(socket) => socket,
        });
        Ok(WorkerSockets { workers, notify })
    }
}

impl<T> Prepared<T> {
    fn path<'a>(&'a self, of: impl Fn(&'a T) -> &'a Path) -> &'a Path {
        match self {
            Self::Bound(socket) => of(socket),
            Self::Received(path, _) => path,
        }
    }
}

/// The place of the socket is one that the setting names.
fn of_setting(source: ControlError) -> MasterError {
    MasterError::WorkersSocket { source }
}

/// Whether there is a place for the socket that the configuration names, if it names one. Nothing is made.
pub(super) fn check_workers_socket(config: &Config) -> Result<(), MasterError> {
    let checked = config.socket().map(WorkersSocket::check);
    checked.transpose().map(drop).map_err(of_setting)
}

/// The sockets of workers that a running master hands over, with the paths to which they are bound.
#[derive(Default)]
struct ReceivedSockets {
    workers: Option<(PathBuf, OwnedFd)>,
    notify: Option<(PathBuf, OwnedFd)>,
}

impl ReceivedSockets {
    fn from_master(running: &mut RunningMaster) -> Self {
        let mut take = |kind| {
            // Whatever its type is, the address of a Unix socket is asked for in the same way.
            let socket = UnixListener::from(running.take(kind)?);
            let path = socket.local_addr().ok()?.as_pathname()?.to_owned();
            // A socket whose file was removed is found by nobody. Another one is bound in its place, now,
            // while the start may still fail.
            path.symlink_metadata().ok()?;
            Some((path, OwnedFd::from(socket)))
        };
        Self { workers: take(DescriptorKind::Workers), notify: take(DescriptorKind::Notify) }
    }

    fn workers(
        &mut self,
        path: &Path,
        bind: impl FnOnce(&Path) -> Result<WorkersSocket, MasterError>,
    ) -> Result<Prepared<WorkersSocket>, MasterError> {
        match self.workers.take_if(|(bound, _)| bound == path) {
            Some((path, socket)) => Ok(Prepared::Received(path, socket)),
            None => bind(path).map(Prepared::Bound),
        }
    }

    fn notify(
        &mut self,
        path: &Path,
        bind: impl FnOnce(&Path) -> Result<NotifySocket, process::ProcessError>,
    ) -> Result<Prepared<NotifySocket>, MasterError> {
        match self.notify.take_if(|(bound, _)| bound == path) {
            Some((path, socket)) => Ok(Prepared::Received(path, socket)),
            None => Ok(Prepared::Bound(bind(path)?)),
        }
    }

    /// Removes the files. A file that stays is in nobody's way, and no reason to end where no other master
    /// is left.
    fn remove(self) {
        if let Some((path, socket)) = self.workers
            && let Err(error) = WorkersSocket::handed_over(&path, socket, None).map(drop)
        {
            tracing::warn!(%error, "cannot remove the workers' socket of the earlier master");
        }
        if let Some((path, socket)) = self.notify
            && let Err(error) = NotifySocket::handed_over(path, socket).remove()
        {
            tracing::warn!(%error, "cannot remove the NOTIFY_SOCKET of the earlier master");
        }
    }
}
