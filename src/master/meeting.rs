//! Where workers find their master: the sockets that they are told of.

use std::path::{Path, PathBuf};

use super::error::MasterError;
use crate::config::Config;
use crate::control::{ControlDir, WorkersSocket};
use crate::process::{self, Account, NotifySocket};

/// The sockets of workers. Without a control socket there are none.
#[derive(Default)]
pub(super) struct MeetingPoint {
    /// Where workers join.
    pub(super) socket: Option<PathBuf>,
    /// That, if it is another than the control socket.
    pub(super) workers_socket: Option<WorkersSocket>,
    /// Where they say what they are doing.
    pub(super) notify: Option<NotifySocket>,
}

impl MeetingPoint {
    /// Opens the sockets. Workers who run as another user may not enter the directory of the control
    /// socket: theirs are in one beside it. Their group owns the files, since a group can be given
    /// without `CAP_CHOWN` (see [`process::in_group`]); of the group, the workers' user alone may join,
    /// and whoever writes to the other socket is believed if it is a process of a worker.
    pub(super) fn open(
        config: &Config,
        control: &ControlDir,
        control_socket: &Path,
        account: Option<&Account>,
    ) -> Result<Self, MasterError> {
        let other = account.filter(|account| account.uid() != process::effective_uid());
        let Some(other) = other else {
            let path = config.socket.as_deref();
            let workers_socket = path.map(|path| WorkersSocket::bind(path, None)).transpose()?;
            let notify = NotifySocket::bind(&control_socket.with_extension("note"))?;
            return Ok(Self::of(control_socket, workers_socket, notify));
        };
        let directory = WorkersSocket::directory_beside(control.path())?;
        let default = directory.join(format!("{}.sock", config.name));
        let path = config.socket.as_ref().unwrap_or(&default);
        let bound = process::in_group(other.gid(), || {
            let workers_socket = WorkersSocket::bind(path, Some(other.uid()))?;
            let notify = NotifySocket::bind_for_group(&default.with_extension("note"))?;
            Ok::<_, MasterError>((workers_socket, notify))
        })?;
        let (workers_socket, notify) = bound?;
        Ok(Self::of(control_socket, Some(workers_socket), notify))
    }

    fn of(
        control_socket: &Path,
        workers_socket: Option<WorkersSocket>,
        notify: NotifySocket,
    ) -> Self {
        let socket = workers_socket.as_ref().map_or(control_socket, WorkersSocket::path);
        Self { socket: Some(socket.to_owned()), workers_socket, notify: Some(notify) }
    }
}
