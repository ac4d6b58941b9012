//! A file on disk for what each worker prints.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::master::workers::fingerprint::WorkerLabel;
use crate::netlink::Errno;
use crate::plan::{ClusterName, Generation, Seat};
use crate::process::{Output, ProcessError, ProcessOperation};

/// Where the output of workers goes: `NAME.seat-K.generation-G.log` in one directory. Workers that
/// follow one another in a seat and generation write on in the same file.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    directory: PathBuf,
    name: ClusterName,
}

impl Logs {
    /// In this directory.
    ///
    /// # Errors
    /// [`ProcessError::Output`]: it is not there, no directory, or closed to us. Found out now, and
    /// not by every worker.
    pub(crate) fn open(directory: &Path, name: &ClusterName) -> Result<Self, ProcessError> {
        let failed = |errno| ProcessError::Output {
            label: directory.display().to_string(),
            operation: ProcessOperation::OpenLog,
            errno,
        };
        access(directory, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(Errno::of)
            .map_err(failed)?;
        if !directory.is_dir() {
            return Err(failed(Errno::ENOTDIR));
        }
        Ok(Self { directory: directory.to_owned(), name: name.clone() })
    }

    /// The file of a worker; or where that cannot be opened, such as when the directory is gone or its file
    /// system is full or read-only, memory: a worker is more than its log. What it prints is then lost but
    /// for its last lines; the next worker tries the file again.
    ///
    /// # Errors
    /// [`ProcessError::Output`]: there is no memory either.
    pub(crate) fn open_for(
        &self,
        seat: Seat,
        generation: Generation,
        label: &WorkerLabel,
    ) -> Result<Output, ProcessError> {
        Output::append_to(&self.file(seat, generation)).or_else(|error| {
            tracing::error!(
                %seat, %generation, %error,
                "cannot write the log of a worker: it is started without, and what it prints is lost;                  the next worker of the seat tries again"
            );
            Output::create(label.to_string())
        })
    }

    pub(crate) fn file(&self, seat: Seat, generation: Generation) -> PathBuf {
        let name = &self.name;
        self.directory.join(format!("{name}.seat-{seat}.generation-{generation}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seat_and_generation_has_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let logs = Logs::open(directory.path(), &"web".parse().unwrap()).unwrap();
        let expected = directory.path().join("web.seat-3.generation-12.log");
        assert_eq!(logs.file(Seat(3), Generation(12)), expected);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let name = "web".parse().unwrap();
        let error = Logs::open(&directory.path().join("missing"), &name).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("missing: cannot open the log: ENOENT: No such file or directory"),
            "{error}"
        );
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut executable = std::fs::metadata(&file).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut executable, 0o755);
        std::fs::set_permissions(&file, executable).unwrap();
        assert_eq!(Logs::open(&file, &name).unwrap_err().errno(), Some(Errno::ENOTDIR));
    }
}
