//! Limits of this process, and what those that it starts have of them.

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setrlimit};

use super::error::{ProcessError, ProcessOperation, errno_from};

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) of this process to its hard one, and
/// returns what it was, to give to `Spawn::descriptor_limit`.
///
/// The usual soft limit of 1,024 is there for programs that use `select(2)`. A master has two
/// descriptors for each worker, and a few dozens of its own.
///
/// # Errors
/// [`ProcessError::Host`] if the kernel refuses, as a security module may have it do.
pub fn raise_descriptor_limit() -> Result<u64, ProcessError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(failed)?;
    Ok(current.unwrap_or(u64::MAX))
}

/// The nice value of this process, -20 to 19; workers are started with the same.
///
/// # Errors
/// [`ProcessError::Host`] if the kernel refuses.
pub(crate) fn own_nice() -> Result<i32, ProcessError> {
    getpriority_process(None).map_err(failed)
}

/// Lets a process that this one starts from now on have its nice value back, after it was given a
/// greater one: the limit that the kernel looks at is that process's own (`RLIMIT_NICE`,
/// `is_nice_reduction`, kernel/sched/syscalls.c), which it inherits. Returns whether that is so; to raise
/// the limit takes `CAP_SYS_RESOURCE`, before capabilities are given up.
///
/// # Errors
/// [`ProcessError::Host`] if the kernel refuses for another reason.
pub fn allow_nice_back() -> Result<bool, ProcessError> {
    // 1 stands for nice 19, 40 for nice -20.
    let needed = u64::try_from(20 - own_nice()?).unwrap_or_default();
    let Rlimit { current, maximum } = getrlimit(Resource::Nice);
    // `None` is no limit at all.
    if current.is_none_or(|limit| limit >= needed) {
        return Ok(true);
    }
    let maximum = maximum.map(|limit| limit.max(needed));
    match setrlimit(Resource::Nice, Rlimit { current: Some(needed), maximum }) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::PERM) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: rustix::io::Errno) -> ProcessError {
    ProcessError::Host { operation: ProcessOperation::SetLimits, errno: errno_from(errno) }
}
