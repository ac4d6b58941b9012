//! Files that a master which was killed has left in its runtime directories.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::directory::io_error;
use super::{ControlDir, ControlError, Lock, WorkersSocket};

/// What a cluster has beside its lock: its sockets, how it was started, which processes are its workers, and files
/// of these.
const EXTENSIONS: [&str; 6] = ["sock", "note", "start", "workers", "states", "configs"];

impl Lock {
    /// Removes what earlier masters of the cluster have left in the directory and in that of workers that run
    /// as another user. The lock file stays. Whoever holds the lock knows that nobody uses them.
    ///
    /// # Errors
    /// [`ControlError::Io`] for the first one that cannot be removed.
    pub(crate) fn remove_leftovers(&self, directory: &ControlDir) -> Result<(), ControlError> {
        let beside = WorkersSocket::path_beside(directory.path());
        for directory in [directory.path(), &beside] {
            for extension in EXTENSIONS {
                remove(&directory.join(format!("{}.{extension}", self.name())))?;
            }
        }
        Ok(())
    }
}

/// Removes a file, or a directory with all that is in it, of this user; no link is followed.
fn remove(path: &Path) -> Result<(), ControlError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("examine", path)(error)),
    };
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(io_error("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_cluster_goes_but_its_lock_and_what_is_of_others() {
        let base = tempfile::tempdir().unwrap();
        let directory = ControlDir::new(base.path().join("ipcluster"));
        let lock = directory.lock(&"web".parse().unwrap()).unwrap();
        let beside = base.path().join("ipcluster-workers");
        fs::create_dir(&beside).unwrap();
        for directory in [directory.path(), &beside] {
            for file in
                ["web.sock", "web.note", "web.start", "web.workers", "other.sock", "web2.sock"]
            {
                fs::write(directory.join(file), "").unwrap();
            }
            fs::create_dir(directory.join("web.states")).unwrap();
            fs::write(directory.join("web.states/1"), "").unwrap();
        }
        lock.remove_leftovers(&directory).unwrap();
        let names = |path: &Path| {
            let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(directory.path()), ["other.sock", "web.lock", "web2.sock"]);
        assert_eq!(names(&beside), ["other.sock", "web2.sock"]);
        lock.remove_leftovers(&directory).unwrap();
    }
}
