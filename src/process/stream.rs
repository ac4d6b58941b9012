//! Writing to a stream whose reader may do anything: stall, go away, run out of space.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::FileType;
use rustix::io::Errno as RawErrno;

use super::error::errno_from;
use crate::netlink::Errno;

/// The pauses between tries to write to a file that does not take anything now.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Writes all bytes, and waits for as long as that takes: for a reader that does not read, and where it
/// is a file on disk for whatever it is that keeps the file from being written, such as a full disk. Of a
/// line that was written in part the rest follows. `waits` is told each time why it waits. For a thread
/// that has nothing else to do.
///
/// # Errors
/// What no time mends: the reader of a pipe is gone (`EPIPE`), a terminal has hung up (`EIO`).
pub(crate) fn write_all(
    stream: impl AsFd,
    bytes: &[u8],
    mut waits: impl FnMut(Errno),
) -> Result<(), Errno> {
    let mut rest = bytes;
    let mut pause = FIRST_PAUSE;
    while !rest.is_empty() {
        match rustix::io::write(&stream, rest) {
            Ok(length) => {
                rest = &rest[length.min(rest.len())..];
                pause = FIRST_PAUSE;
            }
            Err(RawErrno::INTR) => {}
            // Whoever shares the open file, such as a program on the same terminal, has made it so.
            Err(RawErrno::AGAIN) => wait_until_writable(&stream),
            Err(errno) if is_on_disk(&stream) => {
                waits(errno_from(errno));
                thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(errno) => return Err(errno_from(errno)),
        }
    }
    Ok(())
}

/// Whether a stream leads to the journal: systemd says in `JOURNAL_STREAM` which one it has made for that
/// (systemd.exec(5)).
pub(crate) fn is_journal(stream: impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(stream) else { return false };
    let id = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    id == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Whether what is written to both comes to one place: a file, a pipe, a terminal.
pub(crate) fn is_same_file(one: impl AsFd, other: impl AsFd) -> bool {
    match (rustix::fs::fstat(one), rustix::fs::fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

fn wait_until_writable(stream: &impl AsFd) {
    let mut polled = [PollFd::new(stream, PollFlags::OUT)];
    // Where it cannot be waited for the next write says why; or it comes at once, and this pauses.
    if rustix::event::poll(&mut polled, None).is_err() {
        thread::sleep(FIRST_PAUSE);
    }
}

fn is_on_disk(stream: &impl AsFd) -> bool {
    let kind = rustix::fs::fstat(stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind == Ok(FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::sync::mpsc;

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_signal() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(reader);
        assert_eq!(write_all(&writer, b"line\n", |_| {}), Err(Errno::of(nix::errno::Errno::EPIPE)));
    }

    #[test]
    fn a_stalled_reader_of_a_stream_that_does_not_block_is_waited_for() {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
        let text = vec![b'x'; 300 * 1024];
        let expected = text.len();
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || done.send(write_all(&writer, &text, |_| {})));
        assert!(is_done.recv_timeout(Duration::from_millis(100)).is_err(), "nobody reads");
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::empty()).unwrap();
        let (mut read, mut reader) = (0, File::from(reader));
        let mut buffer = vec![0; 64 * 1024];
        while read < expected {
            read += reader.read(&mut buffer).unwrap();
        }
        assert_eq!(is_done.recv_timeout(Duration::from_secs(20)).unwrap(), Ok(()));
    }

    #[test]
    fn a_device_that_is_full_for_ever_is_an_error() {
        // Not on disk: nothing that anybody removes makes room.
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(&full, b"line\n", |_| {}), Err(Errno::of(nix::errno::Errno::ENOSPC)));
    }
}
