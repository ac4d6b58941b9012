//! Socket files, which go with the server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::control::directory::io_error;
use crate::control::{ControlError, Lock};

/// Removes the sockets of a server on drop, unless other files have taken their places or they were
/// handed over, and then releases the lock.
#[derive(Debug)]
pub(super) struct SocketCleanup {
    pub(super) files: [Option<SocketFile>; 2],
    pub(super) _lock: Lock,
}

impl SocketCleanup {
    /// Leaves the files in place: the sockets were handed over to another process.
    pub(super) fn keep_files(self) {
        self.files.into_iter().flatten().for_each(SocketFile::keep);
    }
}

/// The file of a bound socket, told apart from any that may take its place; removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file of a socket that was just bound.
    pub(super) fn of(path: &Path) -> Result<Self, ControlError> {
        let found = fs::symlink_metadata(path).map_err(io_error("examine", path))?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Leaves the file in place: the socket was handed over to another process.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}
