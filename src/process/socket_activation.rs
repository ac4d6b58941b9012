//! Starting a program with sockets of ours (`LISTEN_FDS`).

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use rustix::fs::OFlags;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::PipeFlags;

use super::error::errno_from;
use super::spawn::Spawn;
use crate::listen_fds::FIRST_PASSED;
use crate::netlink::Errno;
use crate::sys::{self, ExecImage};

/// A descriptor that a worker begins with, and the name that tells it what it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassedSocket<'a> {
    /// What it is called in `LISTEN_FDNAMES`: ASCII without control characters and colons, at most
    /// 255 of them (sd_listen_fds_with_names(3)). What is no part of that becomes `_`.
    pub name: &'a str,
    /// The descriptor. It is made blocking, which processes that have it already share.
    pub socket: BorrowedFd<'a>,
}

/// The parent's end of a start: tells whether the child became the program.
pub(super) struct ExecReport {
    pipe: OwnedFd,
}

impl ExecReport {
    /// Waits until the child has become the program, or could not. The [`Command`] must have been
    /// dropped, which holds the other end.
    pub(super) fn wait(self) -> Result<(), Errno> {
        let mut errno = [0; sys::ERRNO_LEN];
        loop {
            match rustix::io::read(&self.pipe, &mut errno) {
                Ok(0) => return Ok(()),
                // Written by one write that is shorter than PIPE_BUF: it comes whole.
                Ok(_) => return Err(Errno::from_raw(i32::from_ne_bytes(errno))),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno_from(errno)),
            }
        }
    }
}

/// Has the child of `command` become the program of `spawn` with the sockets as its descriptors 3, 4, and so on,
/// and, if there are any, with the variables that say so. Called last: the child does not come back from it.
///
/// Whatever this process has under those numbers is closed in the child, which can be the pipe by
/// which the standard library waits for the exec; so there is another one here, and it, and copies
/// of the sockets, are given numbers above.
pub(super) fn pass(
    command: &mut Command,
    spawn: &Spawn,
    passed: &[PassedSocket<'_>],
) -> Result<ExecReport, Errno> {
    let count = u16::try_from(passed.len()).map_err(|_| Errno::E2BIG)?;
    let above = i32::from(FIRST_PASSED) + i32::from(count);
    let copy = |socket: BorrowedFd<'_>| fcntl_dupfd_cloexec(socket, above).map_err(errno_from);
    let mut descriptors = vec![];
    for PassedSocket { socket, .. } in passed {
        // The last worker may have made it nonblocking, for all who have it.
        let flags = rustix::fs::fcntl_getfl(socket).map_err(errno_from)?;
        rustix::fs::fcntl_setfl(socket, flags - OFlags::NONBLOCK).map_err(errno_from)?;
        descriptors.push(copy(*socket)?);
    }
    let (pipe, low) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(errno_from)?;
    let report = fcntl_dupfd_cloexec(&low, above).map_err(errno_from)?;
    let mut all = vec![spawn.program.clone()];
    all.extend_from_slice(&spawn.args);
    let files = spawn.candidates().into_iter().map(|file| c_string(file.into()));
    let image = ExecImage {
        files: files.collect::<Result<_, _>>()?,
        arguments: all.into_iter().map(c_string).collect::<Result<_, _>>()?,
        environment: variables(&spawn.env, passed)?,
        is_told_pid: !passed.is_empty(),
        descriptors,
    };
    sys::become_with_descriptors(command, image, report);
    Ok(ExecReport { pipe })
}

/// The environment but for `LISTEN_PID`, which nobody knows before the fork.
fn variables(
    environment: &BTreeMap<OsString, OsString>,
    passed: &[PassedSocket<'_>],
) -> Result<Vec<CString>, Errno> {
    let names: Vec<String> = passed.iter().map(|it| spelled(it.name)).collect();
    let of_ours = [("LISTEN_FDS", passed.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))];
    let of_ours = of_ours.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let of_ours = of_ours.into_iter().filter(|_| !passed.is_empty());
    let is_ours = |name: &OsString| {
        !passed.is_empty() && name.to_str().is_some_and(|name| name.starts_with("LISTEN_"))
    };
    let others = environment.iter().filter(|(name, _)| !is_ours(name));
    let others = others.map(|(name, value)| (name.clone(), value.clone()));
    let entry = |(mut name, value): (OsString, OsString)| {
        name.push("=");
        name.push(value);
        c_string(name)
    };
    others.chain(of_ours).map(entry).collect()
}

/// A name as `LISTEN_FDNAMES` allows it.
fn spelled(name: &str) -> String {
    let allowed = |c: char| if (' '..='~').contains(&c) && c != ':' { c } else { '_' };
    name.chars().take(255).map(allowed).collect()
}

fn c_string(text: OsString) -> Result<CString, Errno> {
    CString::new(text.into_vec()).map_err(|_| Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_so_that_the_list_can_be_taken_apart() {
        assert_eq!(spelled("80/tcp"), "80/tcp");
        assert_eq!(spelled("a:b\n\u{e4}"), "a_b__");
        assert_eq!(spelled(&"x".repeat(300)).len(), 255);
    }
}
