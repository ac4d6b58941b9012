//! Whether other code lies now where the workers of an earlier master were started from. A new master goes on
//! with workers whose command and configuration are its own; a release that was put in the place of theirs
//! is neither.
//!
//! A file counts as changed if it was written, replaced or renamed to its name after the worker was started:
//! its mtime or its ctime says so (inode(7)), where the time of the machine was not set back meanwhile. What is
//! looked at is what can be known: the directory, the program, and arguments that name files, as the script
//! of an interpreter does.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::release::{Release, RunningRelease, as_workers_or_self};
use super::template::Template;
use crate::plan::Generation;

/// How what would be started now differs from what a worker of an earlier master was started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CodeChange {
    /// Workers start in another directory, most often since a link to it was moved.
    Directory { before: PathBuf, now: PathBuf },
    /// The name of the program leads to another file.
    Program { before: PathBuf, now: PathBuf },
    /// A file was written or replaced since the worker was started.
    File { path: PathBuf },
}

impl fmt::Display for CodeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory { before, now } => {
                write!(f, "the directory is {} now, and was {}", now.display(), before.display())
            }
            Self::Program { before, now } => {
                write!(f, "the program is {} now, and was {}", now.display(), before.display())
            }
            Self::File { path } => write!(f, "{} has changed since", path.display()),
        }
    }
}

impl CodeChange {
    /// What differs for a worker that is of this release, and was started at this time; `None` if nothing
    /// does, as far as can be seen.
    pub(crate) fn since(
        template: &Template,
        generation: Generation,
        running: &RunningRelease,
        started: SystemTime,
    ) -> Option<Self> {
        // What cannot be started now is said when it is to be.
        let release = Release::find_unnoticed(template, generation).ok()?;
        if let Some((before, now)) = running.told_directory().zip(release.directory())
            && before != now
        {
            return Some(Self::Directory { before: before.to_owned(), now: now.to_owned() });
        }
        if let Some((before, now)) = running.program_target().zip(release.program_target())
            && before != now
        {
            return Some(Self::Program { before: before.to_owned(), now: now.to_owned() });
        }
        let program = release.program_target().map(Path::to_owned);
        let mut files = program.into_iter().chain(release.files_in_arguments(template));
        let was_changed = |path: &PathBuf| {
            let changed = as_workers_or_self(template.account.as_ref(), || changed_at(path));
            changed.is_ok_and(|at| at.is_some_and(|at| at > started))
        };
        files.find(was_changed).map(|path| Self::File { path })
    }
}

/// When the content of a file, or what has its name, was changed last; `None` for what is no file.
fn changed_at(path: &Path) -> std::io::Result<Option<SystemTime>> {
    let found = fs::metadata(path)?;
    let time = |seconds: i64, nanoseconds: i64| {
        let (seconds, nanoseconds) =
            (u64::try_from(seconds).ok()?, u64::try_from(nanoseconds).ok()?);
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
    };
    let modified = time(found.mtime(), found.mtime_nsec());
    let status = time(found.ctime(), found.ctime_nsec());
    Ok(modified.max(status).filter(|_| found.is_file()))
}
