use std::collections::VecDeque;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SeekFrom};

use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use super::impersonation::with_ids_of;
use super::lines::{LineSplitter, plain};
use crate::netlink::Errno;

/// What the kernel calls our files in `/proc/PID/fd`, before the label.
pub(super) const NAME_PREFIX: &str = "ipcluster:";

/// The longest name that `memfd_create(2)` takes, in bytes.
const NAME_LEN: usize = 249;

/// The most that is left to be read; what is older is dropped without being looked at.
const BACKLOG: u64 = 16 * 1024 * 1024;

/// What is read of a backlog that is too long: its end.
const KEPT_OF_BACKLOG: u64 = 64 * 1024;

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// The unit in which the kernel knows holes; larger pages only make for more zero bytes to read.
const PAGE_LEN: usize = 4096;
const PAGE: u64 = PAGE_LEN as u64;

/// Lines kept for [`OutputReader::last_lines`], and their bytes.
const LAST_LINES: usize = 20;
pub(super) const LAST_BYTES: usize = 16 * 1024;

/// Where a worker's standard output and error go: a file in memory (`memfd_create(2)`).
///
/// Not a pipe: a pipe whose reader has ended kills its writer by `SIGPIPE`, and one that is not
/// read blocks it when 64 KiB are full; but workers go on serving while no master runs. A write to
/// this file never waits and never fails, and what was printed meanwhile is read by the next
/// master. The file is written at its end only (`O_APPEND`), so processes that share it do not
/// overwrite each other. What was read is given back to the kernel at once. While no master runs
/// the file grows with what is printed, in the memory of the worker's control group.
#[derive(Debug)]
pub(crate) struct Output {
    pub(super) file: OwnedFd,
    pub(super) label: String,
}

impl Output {
    /// Makes the file for one worker. `label` says whose it is, in error messages and in
    /// `/proc/PID/fd`.
    ///
    /// # Errors
    /// No descriptor or no memory is left.
    pub(crate) fn create(label: impl Into<String>) -> Result<Self, ProcessError> {
        let label = label.into();
        let file = create_memfd(&memfd_name(&label));
        match file {
            Ok(file) => Ok(Self { file, label }),
            Err(errno) => {
                Err(ProcessError::Output { label, operation: ProcessOperation::CreateMemfd, errno })
            }
        }
    }

    /// A descriptor for a child to write to.
    pub(crate) fn writer(&self) -> Result<OwnedFd, Errno> {
        self.file.try_clone().map_err(|error| errno_of(&error))
    }

    /// The reading end, once the worker was started. The file lives as long as anyone has it open.
    pub(crate) fn into_reader(self) -> OutputReader {
        OutputReader::new(self.file, self.label)
    }
}

/// Something that a worker printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputItem {
    /// A line without its end, at most 8 KiB of it (a longer one comes in parts), with control
    /// characters escaped but those that set colours: [`plain`](super::plain) and
    /// [`coloured`](super::coloured) make text of it that can be shown.
    Line(String),
    /// The worker printed faster than was read: so many bytes were dropped.
    Skipped {
        /// How many.
        bytes: u64,
    },
}

/// Reads what a worker prints; see [`Output`].
///
/// The file is its own bookmark: what was read is punched out of it, so that whatever bytes are
/// there were not read yet, by this or an earlier master. That also finds what was written by
/// programs that open `/dev/stderr` anew, and truncate or overwrite the file by that
/// (`echo hello > /dev/stderr`); if such a program cuts off lines in the time between two looks,
/// they are lost.
#[derive(Debug)]
pub(crate) struct OutputReader {
    file: OwnedFd,
    label: String,
    offset: u64,
    /// Whether holes can be punched. A worker can seal its file against that.
    releases: bool,
    /// The file is one on disk, and had so many bytes when it was opened: it is read for its last lines
    /// alone.
    pub(super) log_begin: Option<u64>,
    pub(super) splitter: LineSplitter,
    last: VecDeque<String>,
    last_bytes: usize,
}

impl OutputReader {
    /// The output of a worker that an earlier master started, by the worker's pid: `None` if its
    /// standard output and error are no file of ours.
    ///
    /// # Errors
    /// `/proc/PID/fd` cannot be read: the process has ended, or is not ours to inspect.
    pub(crate) fn reopen(pid: u32, label: impl Into<String>) -> Result<Option<Self>, ProcessError> {
        let label = label.into();
        with_ids_of(pid, || Self::reopen_as_owner(pid, label))
    }

    fn reopen_as_owner(pid: u32, label: String) -> Result<Option<Self>, ProcessError> {
        let expected = format!("/memfd:{NAME_PREFIX}");
        for number in [1, 2] {
            let path = format!("/proc/{pid}/fd/{number}");
            let failed = |errno| ProcessError::Output {
                label: label.clone(),
                operation: ProcessOperation::ReopenMemfd,
                errno,
            };
            match fs::read_link(&path) {
                Ok(target) if target.as_os_str().as_bytes().starts_with(expected.as_bytes()) => {
                    let flags = OFlags::RDWR | OFlags::CLOEXEC;
                    let file = rustix::fs::open(&path, flags, Mode::empty())
                        .map_err(|errno| failed(errno_from(errno)))?;
                    return Ok(Some(Self::new(file, label)));
                }
                Ok(_) => {}
                // This descriptor is closed; a process that is gone has no fd directory either.
                Err(error) if errno_of(&error) == Errno::ENOENT => {}
                Err(error) => return Err(failed(errno_of(&error))),
            }
        }
        Ok(None)
    }

    /// The output of a worker that another master has read, by the descriptor of the file. `label`
    /// says whose output it is. Of a file on disk, to which the workers of earlier releases write
    /// themselves, the last lines are those from now on.
    ///
    /// # Errors
    /// The file cannot be inspected.
    pub(crate) fn from_descriptor(
        file: OwnedFd,
        label: impl Into<String>,
    ) -> Result<Self, ProcessError> {
        let reader = Self::new(file, label.into());
        let failed = |errno| reader.failed(ProcessOperation::ReadMemfd, errno_from(errno));
        // A file in memory is in a file system of the kernel's own, where no file has a name. One that
        // has is read only, and never emptied.
        let stat = rustix::fs::fstat(&reader.file).map_err(failed)?;
        let log_begin = (stat.st_nlink > 0).then(|| u64::try_from(stat.st_size).unwrap_or(0));
        Ok(Self { log_begin, ..reader })
    }

    fn new(file: OwnedFd, label: String) -> Self {
        Self {
            file,
            label,
            offset: 0,
            releases: true,
            log_begin: None,
            splitter: LineSplitter::default(),
            last: VecDeque::new(),
            last_bytes: 0,
        }
    }

    /// Gives the lines that were completed since the last look, from at most `max_bytes` of
    /// output (and 4 KiB). Never waits. More than 16 MiB behind, it skips to the last 64 KiB. Of a file
    /// on disk it gives nothing.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn poll(&mut self, max_bytes: usize) -> Result<Vec<OutputItem>, ProcessError> {
        let mut printed = Vec::new();
        if self.log_begin.is_none() {
            self.poll_into(max_bytes, &mut printed)?;
        }
        Ok(printed)
    }

    /// Gives what is left, also a last line without an end: for when the worker has ended. What
    /// others write meanwhile is not waited for.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn finish(&mut self) -> Result<Vec<OutputItem>, ProcessError> {
        let mut printed = Vec::new();
        if self.log_begin.is_some() {
            return self.read_last_lines().map(|()| printed);
        }
        // The first look may find that it has to go back, or skip; the second then gets the rest.
        for _ in 0..2 {
            let bytes = usize::try_from(BACKLOG).unwrap_or(usize::MAX);
            self.poll_into(bytes, &mut printed)?;
        }
        if let Some(line) = self.splitter.start_anew() {
            self.keep(&line);
            printed.push(OutputItem::Line(line));
        }
        Ok(printed)
    }

    /// The last lines that were read, the oldest first, without those that are empty: at most 20, of 16
    /// KiB together (but always one).
    pub(crate) fn last_lines(&self) -> impl ExactSizeIterator<Item = &str> {
        self.last.iter().map(String::as_str)
    }

    fn poll_into(
        &mut self,
        max_bytes: usize,
        printed: &mut Vec<OutputItem>,
    ) -> Result<(), ProcessError> {
        let size = self.size()?;
        self.find_unread(size, printed)?;
        self.skip_backlog(size, printed);
        let start = self.offset;
        let mut buffer = vec![0; CHUNK.min(max_bytes)];
        let mut lines = Vec::new();
        while self.offset < size {
            let wanted = max_bytes.saturating_sub(distance(start, self.offset)).min(buffer.len());
            let length = self.read_at(self.offset, &mut buffer[..wanted])?;
            if length == 0 {
                break;
            }
            self.splitter.push(&buffer[..length], |line| lines.push(line));
            self.offset += length as u64;
        }
        self.release(start, self.offset);
        for line in lines {
            self.keep(&line);
            printed.push(OutputItem::Line(line));
        }
        Ok(())
    }

    /// Sets the offset to the first byte that was not read. All bytes that were are zero now.
    fn find_unread(
        &mut self,
        size: u64,
        printed: &mut Vec<OutputItem>,
    ) -> Result<(), ProcessError> {
        let known = self.offset.min(size);
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(0)) {
            Ok(data) => data.min(size),
            Err(rustix::io::Errno::NXIO) => size,
            Err(errno) => return Err(self.failed(ProcessOperation::ReadMemfd, errno_from(errno))),
        };
        let page = known - known % PAGE;
        let unread = if !self.releases || data > known {
            if self.offset > size { 0 } else { data.max(known) }
        } else if data < page {
            data
        } else {
            let mut behind = [0; PAGE_LEN];
            let length = self.read_at(page, &mut behind[..distance(page, known)])?;
            let found = behind[..length].iter().position(|byte| *byte != 0);
            found.map_or(known, |index| page + index as u64)
        };
        if unread < self.offset {
            // Written behind what was read: what comes now does not belong to the line before.
            if let Some(line) = self.splitter.start_anew() {
                self.keep(&line);
                printed.push(OutputItem::Line(line));
            }
        }
        self.offset = unread;
        Ok(())
    }

    fn skip_backlog(&mut self, size: u64, printed: &mut Vec<OutputItem>) {
        if size - self.offset > BACKLOG {
            let start = self.offset;
            self.offset = size - KEPT_OF_BACKLOG;
            self.release(start, self.offset);
            self.splitter.skip_to_next_line();
            printed.push(OutputItem::Skipped { bytes: self.offset - start });
        }
    }

    /// Gives read bytes back to the kernel, which also marks them as read. The kernel clears a page
    /// that is released in part, and frees it only when all of it is released at once: so begin
    /// with the page in which `start` is.
    fn release(&mut self, start: u64, end: u64) {
        if self.releases && start < end {
            let page = start - start % PAGE;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Refused (EPERM) for a file that the worker has sealed. Then it is read on as is.
            self.releases = rustix::fs::fallocate(&self.file, flags, page, end - page).is_ok();
        }
    }

    pub(super) fn forget_lines(&mut self) {
        self.last.clear();
        self.last_bytes = 0;
    }

    pub(super) fn keep(&mut self, line: &str) {
        // A line that says nothing is none of those that tell why a worker has ended.
        let line = plain(line.trim_end());
        if line.trim().is_empty() {
            return;
        }
        self.last_bytes += line.len();
        self.last.push_back(line.into_owned());
        while self.last.len() > LAST_LINES || self.last_bytes > LAST_BYTES && self.last.len() > 1 {
            let dropped = self.last.pop_front().map_or(0, |line| line.len());
            self.last_bytes -= dropped;
        }
    }

    pub(super) fn size(&self) -> Result<u64, ProcessError> {
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|errno| self.failed(ProcessOperation::ReadMemfd, errno_from(errno)))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, ProcessError> {
        if buffer.is_empty() {
            return Ok(0);
        }
        rustix::io::retry_on_intr(|| rustix::io::pread(self.file.as_fd(), &mut *buffer, offset))
            .map_err(|errno| self.failed(ProcessOperation::ReadMemfd, errno_from(errno)))
    }

    fn failed(&self, operation: ProcessOperation, errno: Errno) -> ProcessError {
        ProcessError::Output { label: self.label.clone(), operation, errno }
    }
}

/// The file, to be handed over.
impl AsFd for OutputReader {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn create_memfd(name: &str) -> Result<OwnedFd, Errno> {
    // Since Linux 6.3, and demanded where the sysctl vm.memfd_noexec is 2: never a program.
    let file =
        match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC),
            result => result,
        }
        .map_err(errno_from)?;
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).map_err(errno_from)?;
    Ok(file)
}

fn memfd_name(label: &str) -> String {
    let label = label.chars().filter(|c| c.is_ascii_graphic());
    NAME_PREFIX.chars().chain(label).take(NAME_LEN).collect()
}

/// How far apart two offsets are that a buffer lies between.
fn distance(start: u64, end: u64) -> usize {
    usize::try_from(end - start).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    fn lines(printed: Vec<OutputItem>) -> Vec<String> {
        let line = |printed| match printed {
            OutputItem::Line(line) => line,
            OutputItem::Skipped { bytes } => format!("({bytes} skipped)"),
        };
        printed.into_iter().map(line).collect()
    }

    /// A worker's end of the file, and ours.
    fn pair() -> (fs::File, OutputReader) {
        let output = Output::create("worker 0").unwrap();
        (fs::File::from(output.writer().unwrap()), output.into_reader())
    }

    /// The same file opened anew, as a program does that opens /dev/stderr.
    fn reopened(reader: &OutputReader, options: &fs::OpenOptions) -> fs::File {
        use std::os::fd::AsRawFd;
        options.open(format!("/proc/self/fd/{}", reader.file.as_raw_fd())).unwrap()
    }

    fn pages(reader: &OutputReader) -> i64 {
        rustix::fs::fstat(&reader.file).unwrap().st_blocks / 8
    }

    #[test]
    fn lines_come_as_they_are_completed() {
        let (mut worker, mut reader) = pair();
        assert_eq!(reader.poll(1 << 20).unwrap(), []);
        worker.write_all(b"one\ntw").unwrap();
        assert_eq!(lines(reader.poll(1 << 20).unwrap()), ["one"]);
        assert_eq!(reader.poll(1 << 20).unwrap(), []);
        worker.write_all(b"o\nthree").unwrap();
        assert_eq!(lines(reader.poll(1 << 20).unwrap()), ["two"]);
        assert_eq!(lines(reader.finish().unwrap()), ["three"]);
        assert_eq!(reader.finish().unwrap(), []);
        assert_eq!(reader.last_lines().collect::<Vec<_>>(), ["one", "two", "three"]);
    }

    #[test]
    fn lines_that_say_nothing_are_none_of_the_last_lines() {
        let (mut worker, mut reader) = pair();
        worker.write_all(b"\n  \nerror: no config  \n\t\n\n").unwrap();
        assert_eq!(reader.poll(1 << 20).unwrap().len(), 5);
        assert!(reader.last_lines().eq(["error: no config"]));
    }

    #[test]
    fn pages_that_were_read_are_given_back() {
        let (mut worker, mut reader) = pair();
        for _ in 0..50 {
            worker.write_all(&[b"0123456789abcde\n".repeat(4096)].concat()).unwrap();
            assert_eq!(reader.poll(1 << 20).unwrap().len(), 4096);
        }
        assert!(pages(&reader) <= 1, "{} pages", pages(&reader));
        for _ in 0..1000 {
            worker.write_all(b"a line that is shorter than a page\n").unwrap();
            assert_eq!(reader.poll(1 << 20).unwrap().len(), 1);
        }
        assert!(pages(&reader) <= 1, "{} pages", pages(&reader));
    }

    #[test]
    fn one_look_reads_no_more_than_it_may() {
        let (mut worker, mut reader) = pair();
        worker.write_all(&b"1234567\n".repeat(1000)).unwrap();
        assert_eq!(reader.poll(800).unwrap().len(), 100);
        assert_eq!(reader.poll(804).unwrap().len(), 100);
        assert_eq!(reader.poll(1 << 20).unwrap().len(), 800);
    }

    #[test]
    fn a_flood_is_skipped_but_for_its_end() {
        let (mut worker, mut reader) = pair();
        worker.write_all(b"begun ").unwrap();
        assert_eq!(reader.poll(1 << 20).unwrap(), []);
        for _ in 0..17 {
            worker.write_all(&b"0123456\n".repeat(1 << 17)).unwrap();
        }
        worker.write_all(b"the end\n").unwrap();
        let printed = lines(reader.poll(1 << 20).unwrap());
        let skipped = 17 * (1 << 20) + 8 - KEPT_OF_BACKLOG;
        assert_eq!(printed[0], format!("({skipped} skipped)"));
        assert_eq!(printed[1..].len(), 64 * 1024 / 8 - 1);
        assert!(printed[1..printed.len() - 1].iter().all(|line| line == "0123456"));
        assert_eq!(printed.last().unwrap(), "the end");
        assert!(pages(&reader) <= 1, "{} pages", pages(&reader));
    }

    #[test]
    fn a_program_that_truncates_its_standard_error_is_read_on() {
        let (mut worker, mut reader) = pair();
        worker.write_all(b"a long line at first\n").unwrap();
        assert_eq!(reader.poll(1 << 20).unwrap().len(), 1);
        // Shorter, equal and longer than what was read; each as `echo ... > /dev/stderr` does it.
        for text in ["short\n", "short\n", "SHORT\n", "longer than before\n"] {
            let mut options = fs::OpenOptions::new();
            let mut file = reopened(&reader, options.write(true).truncate(true));
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(lines(reader.poll(1 << 20).unwrap()), [text.trim_end()]);
            assert_eq!(reader.poll(1 << 20).unwrap(), []);
        }
        worker.write_all(b"appended\n").unwrap();
        assert_eq!(lines(reader.poll(1 << 20).unwrap()), ["appended"]);
    }

    #[test]
    fn what_is_written_behind_what_was_read_is_found() {
        let (mut worker, mut reader) = pair();
        worker.write_all(&b"0123456789abcde\n".repeat(1000)).unwrap();
        assert_eq!(reader.poll(1 << 20).unwrap().len(), 1000);
        let mut file = reopened(&reader, fs::OpenOptions::new().write(true));
        for position in [0, 5000, 15_000] {
            file.seek(std::io::SeekFrom::Start(position)).unwrap();
            file.write_all(b"behind\n").unwrap();
            assert_eq!(lines(reader.poll(1 << 20).unwrap()), ["behind"], "at {position}");
            assert_eq!(reader.poll(1 << 20).unwrap(), []);
        }
    }

    #[test]
    fn a_sealed_file_is_read_without_giving_back_pages() {
        use rustix::fs::SealFlags;
        let (mut worker, mut reader) = pair();
        worker.write_all(b"one\ntwo\n").unwrap();
        rustix::fs::fcntl_add_seals(&reader.file, SealFlags::WRITE).unwrap();
        assert_eq!(lines(reader.poll(1 << 20).unwrap()), ["one", "two"]);
        assert_eq!(reader.poll(1 << 20).unwrap(), []);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let (mut worker, mut reader) = pair();
        for number in 0..100 {
            writeln!(worker, "line {number}").unwrap();
        }
        reader.poll(1 << 20).unwrap();
        let last: Vec<_> = reader.last_lines().collect();
        assert_eq!((last.len(), last[0], last[19]), (20, "line 80", "line 99"));
        worker.write_all(&[b'x'; 8000]).unwrap();
        worker.write_all(b"\n").unwrap();
        reader.poll(1 << 20).unwrap();
        worker.write_all(&[b'y'; 8150]).unwrap();
        worker.write_all(b"\n").unwrap();
        reader.poll(1 << 20).unwrap();
        assert!(reader.last_lines().map(str::len).sum::<usize>() <= LAST_BYTES);
        assert!(reader.last_lines().len() >= 2);
    }

    #[test]
    fn names_of_any_text_make_a_file() {
        for label in ["", "web seat 3\n\0", &"é".repeat(300), &"x".repeat(1000)] {
            Output::create(label).unwrap();
        }
    }
}
