//! The last lines of output that goes to a file on disk, which a worker of an earlier release writes
//! itself; and a file on disk that is written here.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};

use super::error::{ProcessError, ProcessOperation, errno_from};
use super::lines::LineSplitter;
use super::output::{LAST_BYTES, OutputReader};
use crate::netlink::Errno;

/// Opens a file on disk at its end, or makes it (mode 0640, less what the umask takes). Its name does
/// not lead further: it is no symbolic link. It is written at its end only (`O_APPEND`), whoever else
/// writes to it or truncates it.
///
/// # Errors
/// [`ProcessError::Output`], which names the file: `ELOOP` if it is a symbolic link, `EINVAL` if it is
/// something else than a file, and those of open(2).
pub(crate) fn open_log(path: &Path) -> Result<OwnedFd, ProcessError> {
    let failed = |errno| ProcessError::Output {
        label: path.display().to_string(),
        operation: ProcessOperation::OpenLog,
        errno,
    };
    // Neither a pipe nor a terminal that somebody has put there is waited for, or becomes ours.
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NOCTTY
        | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(0o640);
    let file = rustix::fs::open(path, flags, mode).map_err(|it| match it {
        // A pipe that nobody reads.
        rustix::io::Errno::NXIO => failed(Errno::EINVAL),
        it => failed(errno_from(it)),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(|it| failed(errno_from(it)))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed(Errno::EINVAL));
    }
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).map_err(|it| failed(errno_from(it)))?;
    Ok(file)
}

/// The last lines of a file on disk, of so many bytes at most.
///
/// # Errors
/// [`ProcessError::Output`], which names the file: it cannot be opened or read, or is no file.
pub(crate) fn last_lines_of(path: &Path, bytes: usize) -> Result<Vec<String>, ProcessError> {
    let label = path.display().to_string();
    let failed = |operation| {
        let label = label.clone();
        move |errno| ProcessError::Output { label, operation, errno: errno_from(errno) }
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(failed(ProcessOperation::OpenLog))?;
    let stat = rustix::fs::fstat(&file).map_err(failed(ProcessOperation::OpenLog))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed(ProcessOperation::OpenLog)(rustix::io::Errno::INVAL));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let from = size.saturating_sub(bytes as u64);
    let mut buffer = vec![0; usize::try_from(size - from).unwrap_or(bytes)];
    let mut length = 0;
    while length < buffer.len() {
        let at = from + length as u64;
        match rustix::io::pread(&file, &mut buffer[length..], at) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(ProcessOperation::ReadLog)(errno)),
        }
    }
    let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
    if from > 0 {
        splitter.skip_to_next_line();
    }
    splitter.push(&buffer[..length], |line| lines.push(line));
    lines.extend(splitter.start_anew());
    Ok(lines)
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

    /// A file on disk, as a worker of an earlier release writes to it itself, and what reads it.
    fn written_by_worker(path: &Path) -> (fs::File, OutputReader) {
        let options = || fs::File::options().read(true).append(true).create(true).to_owned();
        let worker = options().open(path).unwrap();
        let reader = OutputReader::from_descriptor(options().open(path).unwrap().into(), "web");
        (worker, reader.unwrap())
    }

    #[test]
    fn the_last_lines_of_a_worker_that_writes_itself_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.log");
        fs::write(&path, "of an earlier worker\n").unwrap();
        let (mut worker, mut reader) = written_by_worker(&path);
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
        let (mut worker, mut reader) = written_by_worker(&directory.path().join("web.log"));
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
        let errno = |name: &str| open_log(&path(name)).unwrap_err().errno().unwrap();
        symlink(path("elsewhere"), path("link")).unwrap();
        assert_eq!(errno("link"), Errno::ELOOP);
        assert!(!path("elsewhere").exists());
        nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(errno("pipe"), Errno::EINVAL);
        assert_eq!(errno("missing/web.log"), Errno::ENOENT);
        let error = open_log(&path("missing/web.log")).unwrap_err().to_string();
        assert!(error.contains("missing/web.log: cannot open the log: ENOENT"), "{error}");
        open_log(&path("new")).unwrap();
        let mode = fs::metadata(path("new")).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "neither the group nor others write it: {mode:o}");
    }
}
