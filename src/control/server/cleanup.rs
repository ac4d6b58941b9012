//! Socket files, which go with the server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::control::ControlError;
use crate::control::directory::io_error;

/// The file of a bound socket, told apart from any that may take its place; removed on drop.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    device: u64,
    inode: u64,
    /// The group that it was found with.
    pub(super) group: u32,
}

impl SocketFile {
    /// The file of a socket that was just bound.
    pub(super) fn of(path: &Path) -> Result<Self, ControlError> {
        let found = fs::symlink_metadata(path).map_err(io_error("examine", path))?;
        let (path, group) = (path.to_owned(), found.gid());
        Ok(Self { path, device: found.dev(), inode: found.ino(), group })
    }

    /// Leaves the file in place: the socket was handed over to another process.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }

    /// Whether it is still what is found at its path.
    pub(super) fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket");
        }
    }
}
