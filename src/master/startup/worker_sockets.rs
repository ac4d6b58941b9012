//! Where workers find their master: the sockets that they are told of.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::control::{ControlDir, WorkersSocket};
use crate::master::error::MasterError;
use crate::master::handover::protocol::DescriptorKind;
use crate::master::handover::receive::RunningMaster;
use crate::process::{self, Account, NotifySocket};

/// The sockets of workers, so far that workers can be told of them: those that a running master still
/// listens on are [opened](Self::open) when it does so no more. Without a control socket there are
/// none.
#[derive(Default)]
pub(crate) struct PreparedSockets {
    /// Where workers join.
    pub(crate) socket: Option<PathBuf>,
    /// Where they say what they are doing.
    pub(crate) notify_path: Option<PathBuf>,
    workers: Option<Opening<WorkersSocket>>,
    notify: Option<Opening<NotifySocket>>,
    /// The user whose processes are workers, beside our own.
    user: Option<u32>,
    obsolete: Obsolete,
}

enum Opening<T> {
    Bound(T),
    /// A running master has handed it over.
    Handed(PathBuf, OwnedFd),
}

/// Sockets of a running master with other paths than those of this one.
#[derive(Default)]
struct Obsolete {
    workers: Option<(PathBuf, OwnedFd)>,
    notify: Option<(PathBuf, OwnedFd)>,
}

impl Obsolete {
    /// Removes the files. One that stays is in nobody's way, and no reason to end where no other
    /// master is left.
    fn remove(self) {
        if let Some((path, socket)) = self.workers
            && let Err(error) = WorkersSocket::handed_over(&path, socket, None).map(drop)
        {
            tracing::warn!(%error, "a socket of the earlier master may be left");
        }
        if let Some((path, socket)) = self.notify
            && let Err(error) = NotifySocket::handed_over(path, socket).remove()
        {
            tracing::warn!(%error, "a socket of the earlier master may be left");
        }
    }
}

/// The sockets of workers.
#[derive(Default)]
pub(crate) struct WorkerSockets {
    /// Where workers join, if that is another than the control socket.
    pub(crate) workers: Option<WorkersSocket>,
    pub(crate) notify: Option<NotifySocket>,
}

impl PreparedSockets {
    /// Workers who run as another user may not enter the directory of the control socket: theirs are in
    /// one beside it. Their group owns the files, since a group can be given without `CAP_CHOWN` (see
    /// [`process::with_group`]); of the group, the workers' user alone may join, and whoever writes to
    /// the other socket is believed if it is a process of a worker.
    pub(crate) fn prepare(
        config: &Config,
        control: &ControlDir,
        control_socket: &Path,
        account: Option<&Account>,
        running_master: Option<&mut RunningMaster>,
    ) -> Result<Self, MasterError> {
        let mut handed = running_master.map(ReceivedSockets::from_master).unwrap_or_default();
        let other = account.filter(|account| account.uid() != process::effective_uid());
        let Some(other) = other else {
            let bind = |path: &Path| Ok(WorkersSocket::bind(path, None)?);
            let workers = config.socket().map(|path| handed.workers(path, bind));
            let notify = control_socket.with_extension("note");
            let notify = handed.notify(&notify, NotifySocket::bind)?;
            return Ok(Self::of(control_socket, workers.transpose()?, notify, None, handed));
        };
        let directory = WorkersSocket::directory_beside(control.path())?;
        let default = directory.join(format!("{}.sock", config.name()));
        let path = config.socket().unwrap_or(&default);
        let prepared = process::with_group(other.gid(), || {
            let bind = |path: &Path| Ok(WorkersSocket::bind(path, Some(other.uid()))?);
            let workers = handed.workers(path, bind)?;
            let notify = default.with_extension("note");
            let notify = handed.notify(&notify, NotifySocket::bind_for_group)?;
            Ok::<_, MasterError>((workers, notify))
        })?;
        let (workers, notify) = prepared?;
        Ok(Self::of(control_socket, Some(workers), notify, Some(other.uid()), handed))
    }

    fn of(
        control_socket: &Path,
        workers: Option<Opening<WorkersSocket>>,
        notify: Opening<NotifySocket>,
        user: Option<u32>,
        unused: ReceivedSockets,
    ) -> Self {
        let socket = workers.as_ref().map_or(control_socket, |it| it.path(WorkersSocket::path));
        Self {
            socket: Some(socket.to_owned()),
            notify_path: Some(notify.path(NotifySocket::path).to_owned()),
            workers,
            notify: Some(notify),
            user,
            obsolete: Obsolete { workers: unused.workers, notify: unused.notify },
        }
    }

    /// Listens. No other master does, from here on.
    pub(crate) fn open(self) -> Result<WorkerSockets, MasterError> {
        let Self { workers, notify, user, obsolete, .. } = self;
        obsolete.remove();
        let workers = match workers {
            Some(Opening::Handed(path, socket)) => {
                Some(WorkersSocket::handed_over(&path, socket, user)?)
            }
            Some(Opening::Bound(socket)) => Some(socket),
            None => None,
        };
        let notify = notify.map(|notify| match notify {
            Opening::Handed(path, socket) => NotifySocket::handed_over(path, socket),
            Opening::Bound(socket) => socket,
        });
        Ok(WorkerSockets { workers, notify })
    }
}

impl<T> Opening<T> {
    fn path<'a>(&'a self, of: impl Fn(&'a T) -> &'a Path) -> &'a Path {
        match self {
            Self::Bound(socket) => of(socket),
            Self::Handed(path, _) => path,
        }
    }
}

/// What a running master has handed over, with the paths at which it was bound.
#[derive(Default)]
struct ReceivedSockets {
    workers: Option<(PathBuf, OwnedFd)>,
    notify: Option<(PathBuf, OwnedFd)>,
}

impl ReceivedSockets {
    fn from_master(running_master: &mut RunningMaster) -> Self {
        let mut take = |kind| {
            // The address of a Unix socket is asked for in the same way whatever its type is.
            let socket = UnixListener::from(running_master.take(kind)?);
            let path = socket.local_addr().ok()?.as_pathname()?.to_owned();
            // Nobody finds one whose file was removed: another is bound there, while this can fail.
            path.symlink_metadata().ok()?;
            Some((path, OwnedFd::from(socket)))
        };
        Self { workers: take(DescriptorKind::Workers), notify: take(DescriptorKind::Notify) }
    }

    fn workers(
        &mut self,
        path: &Path,
        bind: impl FnOnce(&Path) -> Result<WorkersSocket, MasterError>,
    ) -> Result<Opening<WorkersSocket>, MasterError> {
        match self.workers.take_if(|(bound, _)| bound == path) {
            Some((path, socket)) => Ok(Opening::Handed(path, socket)),
            None => bind(path).map(Opening::Bound),
        }
    }

    fn notify(
        &mut self,
        path: &Path,
        bind: impl FnOnce(&Path) -> Result<NotifySocket, process::ProcessError>,
    ) -> Result<Opening<NotifySocket>, MasterError> {
        match self.notify.take_if(|(bound, _)| bound == path) {
            Some((path, socket)) => Ok(Opening::Handed(path, socket)),
            None => Ok(Opening::Bound(bind(path)?)),
        }
    }
}
