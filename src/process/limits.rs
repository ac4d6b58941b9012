use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::{Operation, ProcessError, errno_from};

/// Raises the soft limit of open files (`RLIMIT_NOFILE`) of this process to its hard one, and
/// returns what it was, to give to [`Spawn::descriptor_limit`](super::Spawn::descriptor_limit).
///
/// The usual soft limit of 1,024 is there for programs that use `select(2)`. A master has two
/// descriptors for each worker, and a few dozens of its own.
///
/// # Errors
/// [`ProcessError::Host`] if the kernel refuses, as a security module may have it do.
pub fn raise_descriptor_limit() -> Result<u64, ProcessError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).map_err(|errno| {
        ProcessError::Host { operation: Operation::SetLimits, errno: errno_from(errno) }
    })?;
    Ok(current.unwrap_or(u64::MAX))
}
