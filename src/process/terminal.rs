//! The terminal that this process was started in.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{getpgrp, tcgetpgrp};

/// The controlling terminal of this process (credentials(7)).
#[derive(Debug)]
pub(crate) struct Terminal {
    file: File,
}

impl Terminal {
    /// The terminal of this process; `None` if it has none, as a service has none.
    pub(crate) fn controlling() -> Option<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        let options = options.custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
        options.open("/dev/tty").ok().map(|file| Self { file })
    }

    /// Whether what is typed there goes to this process: Ctrl-C signals the group in the foreground.
    pub(crate) fn is_in_foreground(&self) -> bool {
        tcgetpgrp(&self.file).is_ok_and(|group| group == getpgrp())
    }

    /// Whether it was hung up: its window was closed, or the connection that it came over has ended. The
    /// kernel marks its files so before it sends SIGHUP (`__tty_hangup`, drivers/tty/tty_io.c).
    pub(crate) fn has_ended(&self) -> bool {
        let mut files = [PollFd::new(self.file.as_fd(), PollFlags::empty())];
        match poll(&mut files, PollTimeout::ZERO) {
            Ok(_) => files[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)),
            Err(_) => false,
        }
    }
}
