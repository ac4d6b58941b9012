//! Doing something in the name of another user or group: looking at a worker's process, and making
//! files that a worker may use.
//!
//! The kernel shows the descriptors and the memory maps of a process to the user whom it runs as, if
//! the caller has every capability that it has; to others only with `CAP_SYS_PTRACE`
//! (`ptrace_may_access` with `PTRACE_MODE_READ_FSCREDS`, kernel/ptrace.c), and the directory
//! `/proc/PID/fd` itself, mode 0500, only with `CAP_DAC_READ_SEARCH` (`proc_fd_permission`,
//! fs/proc/fd.c). These two are all but root. A process that starts others as another user has
//! `CAP_SETUID` and `CAP_SETGID` anyway, so one of its threads can be that user for a moment; and
//! since workers have no capability, that is enough.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::process::{Gid, Uid, getegid, geteuid};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use super::error::{ProcessError, ProcessOperation, errno_from};

/// Runs `work` with the effective user and group of the process with this pid, on this thread: no
/// other thread sees anything of it. `work` must not wait, and can do nothing that needs a
/// capability.
///
/// If the process has our own user and group, is gone, or is root's, or if this thread may not
/// change to its user, `work` runs as it is, and says itself what it lacks.
pub(crate) fn with_ids_of<T>(pid: u32, work: impl FnOnce() -> T) -> T {
    let _impersonation = Impersonation::of_process(pid);
    work()
}

/// Runs `work` with this effective user and group, on this thread: files that it makes are that user's, which
/// takes no `CAP_CHOWN`. As for [`with_ids_of`], `work` must not wait.
///
/// # Errors
/// [`ProcessError::Host`], `EPERM` without `CAP_SETUID` and `CAP_SETGID`: nothing was done.
pub(crate) fn with_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T, ProcessError> {
    let failed = |errno| ProcessError::Host { operation: ProcessOperation::SetUser, errno };
    if uid == u32::MAX || gid == u32::MAX {
        return Err(failed(crate::netlink::Errno::EINVAL));
    }
    let _impersonation = Impersonation::of(Uid::from_raw(uid), Gid::from_raw(gid))
        .map_err(|errno| failed(errno_from(errno)))?;
    Ok(work())
}

/// Runs `work` with this effective group, on this thread: files that it makes are that group's. So a
/// socket for workers who run as an [`Account`](super::Account) needs no `CAP_CHOWN`: made in this way
/// with mode 0660, below directories that they may enter, it is for them and us alone.
///
/// # Errors
/// [`ProcessError::Host`], `EPERM` without `CAP_SETGID`: nothing was done.
pub(crate) fn with_group<T>(gid: u32, work: impl FnOnce() -> T) -> Result<T, ProcessError> {
    let failed = |errno| ProcessError::Host { operation: ProcessOperation::SetGroups, errno };
    if gid == u32::MAX {
        return Err(failed(crate::netlink::Errno::EINVAL));
    }
    let before = getegid();
    set_thread_res_gid(None, Some(Gid::from_raw(gid)), Some(before))
        .map_err(|errno| failed(errno_from(errno)))?;
    let _in_group = GroupGuard { before };
    Ok(work())
}

/// Goes back to the group that the thread had when it is dropped.
struct GroupGuard {
    before: Gid,
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        restore_group(self.before);
    }
}

fn restore_group(gid: Gid) {
    // Going on as somebody else would be worse than to end.
    set_thread_res_gid(None, Some(gid), None).expect("a thread may go back to its saved group");
}

/// Goes back to what the thread was when it is dropped.
struct Impersonation {
    uid: Uid,
    gid: Gid,
}

impl Impersonation {
    fn of_process(pid: u32) -> Option<Self> {
        // The directory itself, mode 0555, always has the effective user and group of the process
        // (`task_dump_owner`, fs/proc/base.c).
        let found = fs::metadata(format!("/proc/{pid}")).ok()?;
        let is_same = (found.uid(), found.gid()) == (geteuid().as_raw(), getegid().as_raw());
        let is_number = found.uid() != u32::MAX && found.gid() != u32::MAX;
        if is_same || !is_number || (found.uid() == 0 && !geteuid().is_root()) {
            return None;
        }
        Self::of(Uid::from_raw(found.uid()), Gid::from_raw(found.gid())).ok()
    }

    fn of(uid: Uid, gid: Gid) -> Result<Self, rustix::io::Errno> {
        let (own_uid, own_gid) = (geteuid(), getegid());
        // The saved ids are those to go back to. The group first, and last on the way back: it
        // takes the capability that goes with user 0.
        set_thread_res_gid(None, Some(gid), Some(own_gid))?;
        match set_thread_res_uid(None, Some(uid), Some(own_uid)) {
            Ok(()) => Ok(Self { uid: own_uid, gid: own_gid }),
            Err(errno) => {
                restore_group(own_gid);
                Err(errno)
            }
        }
    }
}

impl Drop for Impersonation {
    fn drop(&mut self) {
        // Going on as somebody else would be worse than to end.
        set_thread_res_uid(None, Some(self.uid), None)
            .expect("a thread may go back to its saved user");
        restore_group(self.gid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (u32, u32) {
        (geteuid().as_raw(), getegid().as_raw())
    }

    #[test]
    fn files_made_in_a_group_are_of_that_group() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let before = ids();
        match with_group(54_322, || fs::write(&file, "")) {
            Ok(written) => {
                written.unwrap();
                let found = fs::metadata(&file).unwrap();
                assert_eq!((found.uid(), found.gid()), (before.0, 54_322));
            }
            // Not with the privilege for it: then it was not begun.
            Err(_) => assert!(!file.exists()),
        }
        assert_eq!(ids(), before);
        assert!(with_group(u32::MAX, || panic!("nothing is done")).is_err());
    }

    #[test]
    fn files_made_in_the_name_of_a_user_are_that_users() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let before = ids();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(directory.path(), open).unwrap();
        match with_ids(54_321, 54_322, || fs::write(&file, "")) {
            Ok(written) => {
                written.unwrap();
                let found = fs::metadata(&file).unwrap();
                assert_eq!((found.uid(), found.gid()), (54_321, 54_322));
            }
            Err(_) => assert!(!file.exists()),
        }
        assert_eq!(ids(), before);
        assert!(with_ids(u32::MAX, 1, || panic!("nothing is done")).is_err());
    }

    #[test]
    fn a_process_of_our_own_is_looked_at_as_ourselves() {
        let before = ids();
        assert_eq!(with_ids_of(std::process::id(), ids), before);
        assert_eq!(with_ids_of(u32::MAX, ids), before);
        // Process 1 is root's: nobody else acts as root.
        if !geteuid().is_root() {
            assert_eq!(with_ids_of(1, ids), before);
        }
    }
}
