//! A file on disk for what each worker prints.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};

use super::lines::Layout;
use super::origin::Origin;
use super::recent::SEAT_BYTES;
use crate::netlink::Errno;
use crate::plan::{ClusterName, Generation, Seat};
use crate::process::{
    self, FIRST_PAUSE, LONGEST_PAUSE, OutputItem, ProcessError, ProcessOperation,
};

/// So many files are open at most; it is far more than write at a time.
const MOST_OPEN: usize = 512;

/// Writes lines of workers to `NAME.seat-K.generation-G.log` in one directory. Workers that follow one
/// another in a seat and generation write on in the same file.
///
/// A file that somebody has renamed or removed, such as logrotate, is opened anew under its name before
/// the next line. As long as a file cannot be written, because the disk is full or the directory is gone,
/// that is tried again, and nothing is lost up to what waits in the memory of the worker.
#[derive(Debug)]
pub(crate) struct LogFiles {
    directory: PathBuf,
    name: ClusterName,
    /// Files of so many generations are kept; 0: of all.
    keep: u16,
    layout: Layout,
    open: BTreeMap<(Seat, Generation), OpenFile>,
    newest: Option<Generation>,
    /// It was said that they cannot be written.
    is_stuck: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: OwnedFd,
    /// Device and inode.
    id: (u64, u64),
}

impl LogFiles {
    /// In this directory.
    ///
    /// # Errors
    /// [`ProcessError::Output`]: it is not there, no directory, or closed to us. Found out now, and
    /// not with the first line.
    pub(crate) fn open(
        directory: &Path,
        name: &ClusterName,
        keep: u16,
        timestamps: bool,
    ) -> Result<Self, ProcessError> {
        Self::check(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            name: name.clone(),
            keep,
            layout: Layout { timestamps, ..Layout::default() },
            open: BTreeMap::new(),
            newest: None,
            is_stuck: false,
        })
    }

    /// Whether files can be made in this directory. Makes none.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub(crate) fn check(directory: &Path) -> Result<(), ProcessError> {
        let failed = |errno| ProcessError::Output {
            label: directory.display().to_string(),
            operation: ProcessOperation::OpenLog,
            errno,
        };
        access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(Errno::of)
            .map_err(failed)?;
        match directory.is_dir() {
            true => Ok(()),
            false => Err(failed(Errno::ENOTDIR)),
        }
    }

    /// Writes what a worker has printed. Waits while its file cannot be written.
    pub(super) fn write(&mut self, origin: Origin, at: Duration, printed: &[OutputItem]) {
        let text = self.layout.text(origin, at, printed);
        self.remove_old(origin.generation);
        let key = (origin.seat, origin.generation);
        let Some(()) = self.open_for(key) else { return };
        let Self { open, is_stuck, .. } = self;
        let Some(OpenFile { file, .. }) = open.get(&key) else { return };
        let seat = origin.seat;
        let written = process::write_all(file, text.as_bytes(), |error| {
            if !std::mem::replace(is_stuck, true) {
                tracing::error!(
                    %seat, %error,
                    "cannot write the log file of a worker: the output of workers waits in memory, 16 MiB \
                     of each, until it can be written"
                );
            }
        });
        match written {
            Ok(()) => self.is_writable(),
            Err(error) => tracing::error!(%seat, %error, "output of a worker is lost"),
        }
    }

    /// Opens the file of a worker if it is not open under its name. Waits while that fails for a reason
    /// that may go away; `None` where something else than a file stands there.
    fn open_for(&mut self, key: (Seat, Generation)) -> Option<()> {
        let path = self.file(key.0, key.1);
        let mut pause = FIRST_PAUSE;
        loop {
            let there = fs::symlink_metadata(&path).map(|found| (found.dev(), found.ino())).ok();
            if there.is_some() && self.open.get(&key).map(|open| open.id) == there {
                return Some(());
            }
            let error = match process::open_log(&path) {
                Ok(file) => {
                    let stat = rustix::fs::fstat(&file).ok()?;
                    if self.open.len() >= MOST_OPEN {
                        self.open.clear();
                    }
                    self.open.insert(key, OpenFile { file, id: (stat.st_dev, stat.st_ino) });
                    return Some(());
                }
                Err(error) => error,
            };
            let is_first = !std::mem::replace(&mut self.is_stuck, true);
            if error.errno().is_some_and(is_no_file) {
                if is_first {
                    tracing::error!(seat = %key.0, %error, "output of a worker is lost");
                }
                return None;
            }
            if is_first {
                tracing::error!(
                    seat = %key.0, %error,
                    "the output of workers waits in memory, 16 MiB of each, until it can be written"
                );
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn is_writable(&mut self) {
        if std::mem::take(&mut self.is_stuck) {
            tracing::info!("log files of workers can be written again");
        }
    }

    /// Removes the files of generations before those that are kept, when one that is new writes.
    fn remove_old(&mut self, generation: Generation) {
        if self.newest >= Some(generation) {
            return;
        }
        self.newest = Some(generation);
        let Some(oldest) = generation.0.checked_sub(self.keep.into()).filter(|_| self.keep > 0)
        else {
            return;
        };
        for (path, _, of) in files_of(&self.directory, &self.name) {
            if of.0 > oldest {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => {
                    tracing::info!("removed {} (output.keep = {})", path.display(), self.keep);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot remove {} (output.keep)", path.display());
                }
            }
        }
    }

    fn file(&self, seat: Seat, generation: Generation) -> PathBuf {
        let name = &self.name;
        self.directory.join(format!("{name}.seat-{seat}.generation-{generation}.log"))
    }
}

/// Whether something else than a file stands there, which only somebody can remove.
fn is_no_file(errno: Errno) -> bool {
    use nix::errno::Errno as Known;
    matches!(errno.known(), Known::ELOOP | Known::EINVAL | Known::EISDIR)
}

/// What the newest generation of each seat has printed last, as its files have it.
pub(crate) fn last_lines_of_files(
    directory: &Path,
    name: &ClusterName,
) -> Vec<(Seat, Generation, Vec<String>)> {
    let mut newest = BTreeMap::new();
    for (path, seat, generation) in files_of(directory, name) {
        let is_current = path.extension().is_some_and(|extension| extension == "log");
        if is_current && newest.get(&seat).is_none_or(|(_, known)| *known < generation) {
            newest.insert(seat, (path, generation));
        }
    }
    let lines = |path: PathBuf| {
        process::last_lines_of(&path, SEAT_BYTES).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the log file of a worker");
            Vec::new()
        })
    };
    newest.into_iter().map(|(seat, (path, generation))| (seat, generation, lines(path))).collect()
}

/// The files of a cluster in a directory, also those that were rotated (`.log.1`, `.log-20261129.gz`), each
/// with its seat and generation. None where the directory cannot be read.
fn files_of(directory: &Path, name: &ClusterName) -> Vec<(PathBuf, Seat, Generation)> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let of = |path: PathBuf| {
        let (seat, generation) = parse_name(path.file_name()?.to_str()?, name)?;
        Some((path, seat, generation))
    };
    entries.filter_map(|entry| of(entry.ok()?.path())).collect()
}

fn parse_name(file: &str, name: &ClusterName) -> Option<(Seat, Generation)> {
    let rest = file.strip_prefix(name.as_str())?.strip_prefix(".seat-")?;
    let (seat, rest) = rest.split_once(".generation-")?;
    let (generation, _) = rest.split_once(".log")?;
    Some((Seat(seat.parse().ok()?), Generation(generation.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(seat: u16, generation: u64) -> Origin {
        Origin { seat: Seat(seat), generation: Generation(generation), pid: 1 }
    }

    fn files(directory: &Path, keep: u16) -> LogFiles {
        LogFiles::open(directory, &"web".parse().unwrap(), keep, false).unwrap()
    }

    fn line(text: &str) -> [OutputItem; 1] {
        [OutputItem::Line(text.to_owned())]
    }

    #[test]
    fn each_seat_and_generation_has_its_file_which_is_made_anew_when_it_is_renamed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let text = |name: &str| fs::read_to_string(path(name)).unwrap();
        let mut files = files(directory.path(), 0);
        let at = Duration::ZERO;
        files.write(origin(3, 12), at, &line("\u{1b}[31mone"));
        files.write(origin(3, 12), at, &[OutputItem::Skipped { bytes: 7 }]);
        let name = "web.seat-3.generation-12.log";
        assert_eq!(text(name), "\\u{1b}[31mone\n(7 bytes skipped)\n");
        fs::rename(path(name), path("rotated")).unwrap();
        files.write(origin(3, 12), at, &line("two"));
        assert_eq!(text(name), "two\n");
        fs::remove_file(path(name)).unwrap();
        files.write(origin(3, 12), at, &line("three"));
        assert_eq!(text(name), "three\n");
        assert!(text("rotated").ends_with("skipped)\n"));
        fs::File::options().write(true).open(path(name)).unwrap().set_len(0).unwrap();
        files.write(origin(3, 12), at, &line("four"));
        assert_eq!(text(name), "four\n", "also after copytruncate");
    }

    #[test]
    fn the_files_of_old_generations_are_removed_with_what_was_rotated_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let others = [
            "web.seat-0.generation-3.log",
            "web.seat-0.generation-1.txt",
            "web2.seat-0.generation-1.log",
            "web.seat-x.generation-1.log",
            "web.log",
        ];
        let old = [
            "web.seat-0.generation-1.log",
            "web.seat-7.generation-2.log",
            "web.seat-0.generation-2.log.1",
            "web.seat-0.generation-2.log-20261129.gz",
        ];
        for name in old.iter().chain(&others) {
            fs::write(directory.path().join(name), "").unwrap();
        }
        files(directory.path(), 2).write(origin(0, 4), Duration::ZERO, &line("new"));
        let is_there = |name: &&str| directory.path().join(name).exists();
        assert_eq!(old.iter().find(|name| is_there(name)), None);
        assert!(others.iter().all(is_there));
        let mut all = files(directory.path(), 0);
        all.write(origin(0, 9), Duration::ZERO, &line("new"));
        assert!(is_there(&"web.seat-0.generation-4.log"), "0: all are kept");
    }

    #[test]
    fn the_last_lines_are_those_of_the_newest_generation_of_each_seat() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("web.seat-0.generation-9.log", "old\n"),
            ("web.seat-0.generation-10.log", "one\ntwo"),
            ("web.seat-0.generation-11.log.1", "rotated\n"),
            ("web.seat-1.generation-9.log", &*"x\n".repeat(SEAT_BYTES)),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let found = last_lines_of_files(directory.path(), &"web".parse().unwrap());
        let lines = vec!["one".to_owned(), "two".to_owned()];
        assert_eq!(found[0], (Seat(0), Generation(10), lines));
        assert_eq!((found[1].0, found[1].2.len()), (Seat(1), SEAT_BYTES / 2 - 1));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_directory_that_goes_away_is_waited_for() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("logs");
        fs::create_dir(&directory).unwrap();
        let mut files = files(&directory, 0);
        files.write(origin(0, 1), Duration::ZERO, &line("one"));
        fs::rename(&directory, base.path().join("elsewhere")).unwrap();
        let (written, done) = std::sync::mpsc::channel();
        thread::spawn(move || {
            files.write(origin(0, 1), Duration::ZERO, &line("two"));
            written.send(()).unwrap();
        });
        assert!(done.recv_timeout(Duration::from_millis(100)).is_err(), "it is not there");
        fs::create_dir(&directory).unwrap();
        done.recv_timeout(Duration::from_secs(20)).unwrap();
        let text = fs::read_to_string(directory.join("web.seat-0.generation-1.log")).unwrap();
        assert_eq!(text, "two\n");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let open = |path: &Path| LogFiles::open(path, &"web".parse().unwrap(), 0, false);
        let error = open(&directory.path().join("missing")).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("missing: cannot open the log: ENOENT: No such file or directory"),
            "{error}"
        );
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let mut executable = fs::metadata(&file).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut executable, 0o755);
        fs::set_permissions(&file, executable).unwrap();
        assert_eq!(open(&file).unwrap_err().errno(), Some(Errno::ENOTDIR));
    }
}
