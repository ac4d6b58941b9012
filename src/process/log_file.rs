//! Output that goes to a file on disk, which the worker itself writes.

use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::error::{ProcessError, ProcessOperation, errno_from};
use super::output::{LAST_BYTES, Output, OutputReader};
use crate::netlink::Errno;

impl Output {
    /// Opens a file on disk at its end, or makes it (mode 0640, less what the umask takes), for the
    /// worker to write to: nobody stands between the two, so nothing is lost whoever ends, and
    /// nobody is held up by what others write. Its name does not lead further: it is no symbolic
    /// link.
    ///
    /// It has to be there for as long as the worker runs. Renaming or truncating it (logrotate's
    /// `copytruncate`) is harmless: it is written at its end only (`O_APPEND`).
    ///
    /// # Errors
    /// [`ProcessError::Output`], which names the file: `ELOOP` if it is a symbolic link, `EINVAL`
    /// if it is something else than a file, and those of open(2).
    pub(crate) fn append_to(path: &Path) -> Result<Self, ProcessError> {
        let label = path.display().to_string();
        let failed = |errno| ProcessError::Output {
            label: label.clone(),
            operation: ProcessOperation::OpenLog,
            errno,
        };
        // Read for the last lines. Neither a pipe nor a terminal that somebody has put there is
        // waited for, or becomes ours.
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::NONBLOCK;
        let mode = Mode::from_raw_mode(0o640);
        let file = rustix::fs::open(path, flags, mode).map_err(|it| failed(errno_from(it)))?;
        let stat = rustix::fs::fstat(&file).map_err(|it| failed(errno_from(it)))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(failed(Errno::EINVAL));
        }
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND).map_err(|it| failed(errno_from(it)))?;
        let begin = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Self { file, label, log_begin: Some(begin) })
    }
}

impl OutputReader {
    /// Brings [`Self::last_lines`] up to date where the worker writes to a file on disk, of which
    /// nothing is read else; does nothing where it does not.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read_last_lines(&mut self) -> Result<(), ProcessError> {
        let Some(begin) = self.log_begin else { return Ok(()) };
        let size = self.size()?;
        // Somebody may have truncated it.
        let begin = if begin <= size { begin } else { 0 };
        let from = begin.max(size.saturating_sub(LAST_BYTES as u64));
        let mut buffer = vec![0; LAST_BYTES];
        let mut length = 0;
        while length < buffer.len() {
            match self.read_at(from + length as u64, &mut buffer[length..])? {
                0 => break,
                count => length += count,
            }
        }
        self.forget_lines();
        if from > begin {
            self.splitter.skip_to_next_line();
        }
        let mut lines = Vec::new();
        self.splitter.push(&buffer[..length], |line| lines.push(line));
        lines.extend(self.splitter.start_anew());
        lines.iter().for_each(|line| self.keep(line));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_worker_writes_at_the_end_of_the_file_and_its_last_lines_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.log");
        fs::write(&path, "of an earlier worker\n").unwrap();
        let output = Output::append_to(&path).unwrap();
        let mut worker = fs::File::from(output.writer().unwrap());
        let mut reader = output.into_reader();
        write!(worker, "one\ntwo\nthr").unwrap();
        assert_eq!(reader.poll(1000).unwrap(), [], "nothing is passed on");
        reader.read_last_lines().unwrap();
        assert!(reader.last_lines().eq(["one", "two", "thr"]));
        writeln!(worker, "ee").unwrap();
        assert_eq!(reader.finish().unwrap(), []);
        assert!(reader.last_lines().eq(["one", "two", "three"]));
        assert_eq!(fs::read_to_string(&path).unwrap(), "of an earlier worker\none\ntwo\nthree\n");
        // Somebody rotates it.
        fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        writeln!(worker, "after").unwrap();
        reader.read_last_lines().unwrap();
        assert!(reader.last_lines().eq(["after"]));
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn of_much_output_whole_lines_at_its_end_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::append_to(&directory.path().join("web.log")).unwrap();
        let mut worker = fs::File::from(output.writer().unwrap());
        let mut reader = output.into_reader();
        for number in 0..100 {
            writeln!(worker, "{number:01000}").unwrap();
        }
        reader.read_last_lines().unwrap();
        let numbers: Vec<u32> = reader.last_lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(numbers, (84..100).collect::<Vec<u32>>());
        assert!(reader.last_lines().all(|line| line.len() == 1000));
    }

    #[test]
    fn what_is_no_file_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let errno = |name: &str| Output::append_to(&path(name)).unwrap_err().errno().unwrap();
        symlink(path("elsewhere"), path("link")).unwrap();
        assert_eq!(errno("link"), Errno::ELOOP);
        assert!(!path("elsewhere").exists());
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(errno("pipe"), Errno::EINVAL);
        assert_eq!(errno("missing/web.log"), Errno::ENOENT);
        let error = Output::append_to(&path("missing/web.log")).unwrap_err().to_string();
        assert!(error.contains("missing/web.log: cannot open the log: ENOENT"), "{error}");
        Output::append_to(&path("new")).unwrap();
        let mode = fs::metadata(path("new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "neither the group nor others write it: {mode:o}");
    }
}
