//! The file in which each worker can read whether it is retired: `IPCLUSTER_STATE_FILE`.
//!
//! It is empty while the worker serves. When the worker is told that it is retired, a line `RETIRING=1` is
//! added to it, before the retire signal is sent; if a rollback has it serve again, `RETIRING=0`. The last
//! line counts. Lines are added in place, so that `tail -f`, inotify(7), `fs.watch` of Node and a look now
//! and then all see them.
//!
//! The files are in a directory of the cluster beside its sockets, `NAME.states`, one for each worker, named
//! by `IPCLUSTER_WORKER`. A worker can read its own and not write it. A file outlives a master that is
//! killed: the next one reads in it whether the worker was told, and does not tell it twice.
//!
//! Beside them, in `configured`, a master notes the shares that it was configured with, as soon as these are in
//! force: so the next one can tell what was changed in its configuration from what an operator has changed
//! while a master ran. In `connections`, how many connections were counted for each generation, whenever
//! another one gets new connections. And `drained` is there while the host is to own no slots of its fleet.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{effective_uid, with_group};
use crate::protocol::GenerationCounts;

/// The variable with the path of the file.
pub(super) const VARIABLE: &str = "IPCLUSTER_STATE_FILE";

/// The file with the shares that a master was configured with.
const CONFIGURED: &str = "configured";

/// The file with the connections that were counted.
const CONNECTIONS: &str = "connections";

/// The file that is there while this host is to own no slots of its fleet.
const DRAINED: &str = "drained";

/// The files that are of no worker.
const NOTES: [&str; 3] = [CONFIGURED, CONNECTIONS, DRAINED];

/// The longest file that is read: 1,024 seats with all their generations take a quarter of it.
const LONGEST: u64 = 4 << 20;

const RETIRING: &str = "RETIRING=1";
const SERVING: &str = "RETIRING=0";

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) struct StateFiles {
    directory: PathBuf,
    /// The group that workers run as, if they run as another user.
    group: Option<u32>,
}

impl StateFiles {
    /// Makes the directory for the files: `directory`, in which no other cluster makes any.
    ///
    /// # Errors
    /// It cannot be made, or is something else than a directory of ours.
    pub(crate) fn prepare(directory: PathBuf, group: Option<u32>) -> io::Result<Self> {
        let create = || match DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        in_group(group, create)?;
        let found = fs::symlink_metadata(&directory)?;
        let is_fit = found.is_dir()
            && found.uid() == effective_uid()
            && group.is_none_or(|group| group == found.gid());
        if !is_fit {
            let reason = "expected a directory of this user, of the group of the workers";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        // Workers open what they know the name of.
        let mode = if group.is_some() { 0o710 } else { 0o700 };
        fs::set_permissions(&directory, Permissions::from_mode(mode))?;
        Ok(Self { directory, group })
    }

    /// The path of the file of the worker with this number.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.directory.join(number.to_string())
    }

    /// Makes the file of a worker that is to be started.
    pub(super) fn create(&self, number: u64) -> io::Result<PathBuf> {
        let path = self.path(number);
        self.remove(number);
        let mode = if self.group.is_some() { 0o640 } else { 0o600 };
        let create = || {
            let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
            // Whatever the file mode mask is.
            file.set_permissions(Permissions::from_mode(mode))
        };
        match in_group(self.group, create) {
            // Somebody has removed the directory beneath this master.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::prepare(self.directory.clone(), self.group)?;
                in_group(self.group, create)?;
            }
            result => result?,
        }
        Ok(path)
    }

    /// Adds that the worker with this number is retired, or serves again. A worker that an earlier release
    /// has started has no file.
    pub(super) fn add(&self, number: u64, is_retired: bool) -> io::Result<()> {
        let path = self.path(number);
        let line = if is_retired { RETIRING } else { SERVING };
        match OpenOptions::new().append(true).open(&path) {
            Ok(mut file) => file.write_all(format!("{line}\n").as_bytes()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How long ago the worker with this number was told that it is retired; `None` if it was not.
    pub(crate) fn told(&self, number: u64) -> Option<Duration> {
        let path = self.path(number);
        let text = fs::read_to_string(&path).ok()?;
        let modified = fs::metadata(&path).ok()?.modified().ok()?;
        let age = modified.elapsed().unwrap_or_default();
        (text.lines().last() == Some(RETIRING)).then_some(age)
    }

    /// The digest of the shares that were configured when a master last put its configuration in force;
    /// `None`: none of this release has.
    pub(crate) fn configured(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(CONFIGURED)).ok()?;
        u64::from_str_radix(text.trim(), 16).ok()
    }

    /// Notes the digest of the shares that are configured: they are in force.
    pub(super) fn note_configured(&self, shares: u64) {
        if self.configured() == Some(shares) {
            return;
        }
        if let Err(error) = self.replace(CONFIGURED, &format!("{shares:016x}\n")) {
            let path = self.directory.join(CONFIGURED);
            let path = path.display();
            tracing::warn!(%path, %error, "cannot note the configured number of workers");
        }
    }

    /// The connections that an earlier master has counted for each generation; `None`: it has noted none.
    pub(crate) fn connections(&self) -> Option<GenerationCounts> {
        let path = self.directory.join(CONNECTIONS);
        let read = || {
            let mut text = String::new();
            File::open(&path)?.take(LONGEST).read_to_string(&mut text)?;
            Ok(serde_json::from_str(&text)?)
        };
        let error: io::Error = match read() {
            Ok(counts) => return Some(counts),
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::NotFound {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot read the counts of connections of earlier generations");
        }
        None
    }

    /// Notes the connections that were counted for each generation.
    pub(super) fn note_connections(&self, counts: &GenerationCounts) {
        let text = serde_json::to_string(counts).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| self.replace(CONNECTIONS, &format!("{text}\n"))) {
            let path = self.directory.join(CONNECTIONS);
            let path = path.display();
            tracing::warn!(%path, %error, "cannot note the counts of connections");
        }
    }

    /// Whether an operator wants this host to own no slots of its fleet, and has told an earlier master or this one.
    pub(crate) fn is_drained(&self) -> bool {
        self.directory.join(DRAINED).exists()
    }

    /// Notes it, so that the next master does not take the slots back; or that it is so no more.
    pub(crate) fn note_drained(&self, is_drained: bool) -> io::Result<()> {
        let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let path = self.directory.join(DRAINED);
        match (is_drained, self.directory.exists()) {
            (true, true) => self.replace(DRAINED, ""),
            // Somebody has removed the directory beneath this master.
            (true, false) => {
                Self::prepare(self.directory.clone(), self.group)?.replace(DRAINED, "")
            }
            (false, _) => match fs::remove_file(path) {
                Err(error) if !is_missing(&error) => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Writes a file in one step: a reader finds the old text or the new one.
    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let (path, new) = (self.directory.join(name), self.directory.join(format!("{name}.new")));
        in_group(self.group, || {
            fs::write(&new, text)?;
            fs::rename(&new, &path)
        })
    }

    /// Removes the file of the worker with this number, if there is one.
    pub(super) fn remove(&self, number: u64) {
        remove(&self.path(number));
    }

    /// Removes the files of all workers but those with these numbers.
    pub(super) fn retain(&self, numbers: &BTreeSet<u64>) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let is_note = NOTES.iter().any(|note| entry.file_name() == *note);
            if !is_note && number.is_none_or(|number| !numbers.contains(&number)) {
                remove(&entry.path());
            }
        }
    }

    /// Removes all of it, when no worker is left.
    pub(super) fn remove_all(&self) {
        self.retain(&BTreeSet::new());
        NOTES.iter().for_each(|note| remove(&self.directory.join(note)));
        if let Err(error) = fs::remove_dir(&self.directory) {
            let path = self.directory.display();
            tracing::debug!(%path, %error, "cannot remove the directory of state files");
        }
    }
}

fn in_group<T>(group: Option<u32>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match group {
        Some(group) => with_group(group, work).map_err(io::Error::other)?,
        None => work(),
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot remove the state file of a worker");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(base: &Path) -> StateFiles {
        StateFiles::prepare(base.join("web.states"), None).unwrap()
    }

    #[test]
    fn the_last_line_says_whether_a_worker_is_retired() {
        let base = tempfile::tempdir().unwrap();
        let files = files(base.path());
        let path = files.create(7).unwrap();
        let text = || fs::read_to_string(&path).unwrap();
        assert_eq!((text().as_str(), files.told(7)), ("", None));
        files.add(7, true).unwrap();
        assert_eq!(text(), "RETIRING=1\n");
        assert!(files.told(7).is_some_and(|ago| ago < Duration::from_secs(60)));
        // A master that begins anew finds what the one before has written.
        let next = StateFiles::prepare(base.path().join("web.states"), None).unwrap();
        assert!(next.told(7).is_some());
        files.add(7, false).unwrap();
        assert_eq!((text().as_str(), files.told(7)), ("RETIRING=1\nRETIRING=0\n", None));
        assert_eq!(files.create(7).unwrap(), path);
        assert_eq!(text(), "", "of the next worker with that number");
    }

    #[test]
    fn a_worker_without_a_file_is_told_all_the_same() {
        let base = tempfile::tempdir().unwrap();
        let files = files(base.path());
        files.add(1, true).unwrap();
        assert_eq!(files.told(1), None);
    }

    #[test]
    fn files_of_workers_that_are_gone_go() {
        let base = tempfile::tempdir().unwrap();
        let files = files(base.path());
        let paths = [1, 2, 3].map(|number| files.create(number).unwrap());
        fs::write(files.directory.join("else"), "").unwrap();
        files.retain(&[2].into());
        assert_eq!(paths.each_ref().map(|path| path.exists()), [false, true, false]);
        files.remove_all();
        assert!(!files.directory.exists());
    }

    #[test]
    fn what_was_configured_stays_until_the_end() {
        let base = tempfile::tempdir().unwrap();
        let files = files(base.path());
        assert_eq!(files.configured(), None);
        files.note_configured(7);
        files.note_configured(u64::MAX);
        files.retain(&BTreeSet::new());
        assert_eq!(files.configured(), Some(u64::MAX));
        fs::write(files.directory.join(CONFIGURED), "half a numb").unwrap();
        assert_eq!(files.configured(), None);
        files.remove_all();
        assert!(!files.directory.exists());
    }

    #[test]
    fn counts_stay_until_the_end_and_what_is_none_is_passed_over() {
        let base = tempfile::tempdir().unwrap();
        let files = files(base.path());
        assert_eq!(files.connections(), None);
        let counts = GenerationCounts::resume(None, None, &[].into());
        files.note_connections(&counts);
        files.retain(&BTreeSet::new());
        assert_eq!(files.connections(), Some(counts));
        let path = files.directory.join(CONNECTIONS);
        for text in ["", "{", "[]", "{\"seats\":{\"70000\":{}}}", "\u{0}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(files.connections(), None, "{text}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(files.connections(), None);
        files.remove_all();
        assert!(!files.directory.exists());
    }

    #[test]
    fn that_a_host_is_drained_is_noted_again_where_the_directory_was_removed() {
        let base = tempfile::tempdir().unwrap();
        let files = files(base.path());
        assert!(!files.is_drained());
        files.note_drained(false).unwrap();
        files.note_drained(true).unwrap();
        fs::remove_dir_all(&files.directory).unwrap();
        assert!(!files.is_drained());
        files.note_drained(true).unwrap();
        files.retain(&BTreeSet::new());
        assert!(files.is_drained());
        files.note_drained(false).unwrap();
        assert!(!files.is_drained());
    }

    #[test]
    fn what_is_no_directory_of_ours_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("web.states");
        fs::write(&path, "").unwrap();
        assert!(StateFiles::prepare(path.clone(), None).is_err());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(base.path(), &path).unwrap();
        assert!(StateFiles::prepare(path, None).is_err());
    }
}
