//! Which processes are workers of a cluster, noted where the next master finds it: `NAME.workers` beside the
//! control socket.
//!
//! A worker is known by what it was started with (`startup/find_workers.rs`). A program may overwrite that
//! (setproctitle(3)), or run another with other variables (`env -i`), and may print to files of its own: then
//! nothing about the process itself says whose it is. A line of this file does: the process by its number, its
//! start and the boot, and the [`WorkerLabel`].
//!
//! Lines are added, and those of processes that are gone are taken out now and then. A line that is one process's
//! can never be another's, so one that stays too long does no harm.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::fingerprint::WorkerLabel;
use crate::control::ControlDir;
use crate::plan::ClusterName;
use crate::process::{Leader, ProcessIdentity, effective_uid};

/// The largest file that is read: a hundred bytes for each of more workers than there can be.
const LONGEST: u64 = 4 << 20;

/// The file with the processes of a cluster's workers.
#[derive(Debug, Clone)]
pub(crate) struct ProcessNotes {
    path: PathBuf,
}

impl ProcessNotes {
    /// The file of a cluster, whether it is there or not.
    pub(crate) fn of(control: &ControlDir, name: &ClusterName) -> Self {
        Self { path: control.socket(name).with_extension("workers") }
    }

    /// Adds a worker.
    ///
    /// # Errors
    /// The file cannot be made or written to.
    pub(crate) fn add(&self, process: &ProcessIdentity, label: &WorkerLabel) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(line(process, label).as_bytes())
    }

    /// What masters have noted; nothing where that cannot be read.
    pub(crate) fn read(&self) -> NotedProcesses {
        match read(&self.path) {
            Ok(text) => NotedProcesses(text.lines().filter_map(parse).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => NotedProcesses::default(),
            Err(error) => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot read which processes are workers");
                NotedProcesses::default()
            }
        }
    }

    /// Takes the processes out that are gone.
    ///
    /// # Errors
    /// The file cannot be written anew.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        // One that cannot be looked at stays.
        let is_there = |process: &ProcessIdentity| process.exists().unwrap_or(true);
        let noted = self.read().0.into_iter().filter(|(process, _)| is_there(process));
        let text: String = noted.map(|(process, label)| line(&process, &label)).collect();
        let new = self.path.with_extension("workers.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, &self.path)
    }

    /// Removes the file: no worker is left.
    pub(crate) fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.path.display();
                tracing::warn!(%path, %error, "cannot remove the list of workers");
            }
            _ => {}
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The processes that masters have noted as workers.
#[derive(Debug, Default)]
pub(crate) struct NotedProcesses(BTreeMap<ProcessIdentity, WorkerLabel>);

impl NotedProcesses {
    /// As what a process was noted; `None` if it was not.
    pub(crate) fn label_of(&self, process: &Leader) -> Option<&WorkerLabel> {
        // Without an identity nothing is proven.
        self.0.get(&process.identity().ok()?)
    }
}

/// The text of the file, if it is one of this user's, or of root's.
fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || ![0, effective_uid()].contains(&found.uid()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is no file of this user"));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn line(process: &ProcessIdentity, label: &WorkerLabel) -> String {
    format!("{process} {label}\n")
}

/// What a line says; `None` if it is not whole.
fn parse(line: &str) -> Option<(ProcessIdentity, WorkerLabel)> {
    let (process, label) = line.rsplit_once(' ')?;
    Some((process.parse().ok()?, label.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::workers::ConfigFingerprint;
    use crate::plan::{Generation, Seat};

    fn notes(base: &Path) -> ProcessNotes {
        ProcessNotes::of(&ControlDir::new(base), &"web".parse().unwrap())
    }

    fn label(seat: u16) -> WorkerLabel {
        let name = "web".parse().unwrap();
        let fingerprint = ConfigFingerprint::UNKNOWN;
        WorkerLabel { name, generation: Generation(2), seat: Seat(seat), fingerprint }
    }

    #[test]
    fn processes_are_found_as_they_were_noted_and_those_that_are_gone_go() {
        let base = tempfile::tempdir().unwrap();
        let notes = notes(base.path());
        assert_eq!(notes.read().0, BTreeMap::new());
        let (own, pid) = (fs::read_to_string("/proc/self/stat").unwrap(), std::process::id());
        let ticks = own.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(19).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let lives: ProcessIdentity = format!("{pid} {ticks} {}", boot.trim()).parse().unwrap();
        let gone: ProcessIdentity = format!("{pid} 1 {}", boot.trim()).parse().unwrap();
        notes.add(&gone, &label(0)).unwrap();
        notes.add(&lives, &label(1)).unwrap();
        let both = [(gone, label(0)), (lives.clone(), label(1))].into();
        assert_eq!(notes.read().0, both);
        // What is not whole, or nothing of ours, is passed over.
        let mut text = fs::read_to_string(notes.path()).unwrap();
        text.push_str("\n1\nx y z web/1/1/0\n12 34 ab");
        fs::write(notes.path(), text).unwrap();
        assert_eq!(notes.read().0, both);
        notes.tidy().unwrap();
        assert_eq!(notes.read().0, [(lives, label(1))].into());
        notes.remove();
        assert!(!notes.path().exists());
    }

    #[test]
    fn what_is_no_file_says_nothing() {
        let base = tempfile::tempdir().unwrap();
        let notes = notes(base.path());
        fs::create_dir(notes.path()).unwrap();
        assert_eq!(notes.read().0, BTreeMap::new());
        fs::remove_dir(notes.path()).unwrap();
        std::os::unix::fs::symlink("/dev/zero", notes.path()).unwrap();
        assert_eq!(notes.read().0, BTreeMap::new());
    }
}
