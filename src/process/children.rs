//! Whether a process has children, and whether children of it have ended.

use std::fs;
use std::io;

use super::error::{ProcessError, ProcessOperation, errno_of};
use super::pidfd::failed;
use super::stat::Stat;
use crate::netlink::Errno;

/// What the kernel shows of the children of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Children {
    /// It has children: processes that run, or that have ended and were not waited for yet. `false` also
    /// where the kernel does not list them (`CONFIG_PROC_CHILDREN`).
    pub has_some: bool,
    /// Grows with each child that it waits for; 0 if it has waited for none. A process that ignores
    /// SIGCHLD waits for none.
    pub ended: u64,
}

impl Children {
    /// Those of the process with this pid, which must not have been waited for; `None` if it has ended.
    /// About 20 us, and 10 for each thread.
    ///
    /// # Errors
    /// [`ProcessError::Process`]: `/proc` does not let them be read. [`ProcessError::Malformed`].
    pub(crate) fn read(pid: u32) -> Result<Option<Self>, ProcessError> {
        let Some(stat) = Stat::read(pid)?.filter(|stat| !stat.ended) else { return Ok(None) };
        match has_some(pid) {
            Ok(has_some) => Ok(Some(Self { has_some, ended: stat.child_faults })),
            Err(error) => match errno_of(&error) {
                Errno::ENOENT | Errno::ESRCH => Ok(None),
                errno => Err(failed(pid, ProcessOperation::ListProcesses, errno)),
            },
        }
    }

    /// Whether it has, or has had, any.
    pub(crate) fn were_any(self) -> bool {
        self.has_some || self.ended > 0
    }
}

/// The children of a process, also those that have ended and were not waited for. None where the kernel
/// does not list them (`CONFIG_PROC_CHILDREN`).
///
/// # Errors
/// `/proc` does not let them be read; the process has ended.
pub(super) fn children_of(pid: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(list) => children.extend(list.split_ascii_whitespace().flat_map(str::parse::<u32>)),
            // The thread has ended, or the kernel lists none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// The kernel lists the children of each thread (proc_pid_children(5), since Linux 3.5).
fn has_some(pid: u32) -> io::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read(thread?.path().join("children")) {
            Ok(children) if !children.is_empty() => return Ok(true),
            Ok(_) => {}
            // The thread has ended, or the kernel lists none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn children_are_seen_while_they_run_and_when_they_were_waited_for() {
        let script = "read go; (exec sleep 100) & read go; kill $!; wait $!; read go";
        let mut shell = Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = shell.id();
        let read = || Children::read(pid).unwrap().unwrap_or_default();
        let until = |is: &dyn Fn(Children) -> bool| {
            let began = std::time::Instant::now();
            while !is(read()) {
                assert!(began.elapsed().as_secs() < 10, "{:?}", read());
                std::thread::yield_now();
            }
        };
        let go = |shell: &mut std::process::Child| {
            io::Write::write_all(shell.stdin.as_mut().unwrap(), b"\n").unwrap();
        };
        assert!(!read().were_any(), "{:?}", read());
        go(&mut shell);
        until(&|children| children.has_some && children.ended == 0);
        go(&mut shell);
        until(&|children| !children.has_some && children.ended > 0);
        go(&mut shell);
        shell.wait().unwrap();
        assert_eq!(Children::read(pid).unwrap(), None);
    }
}
