//! Limits of this process, and what those that it starts have of them.

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setrlimit};

use crate::sys::LimitToSet;

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

/// A resource of which workers can have a limit of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitedResource {
    /// `RLIMIT_NOFILE`: open files.
    Descriptors,
    /// `RLIMIT_CORE`: bytes of a core file.
    Core,
    /// `RLIMIT_MEMLOCK`: bytes that are kept in memory.
    LockedMemory,
}

impl LimitedResource {
    /// The setting for it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Descriptors => "limits.nofile",
            Self::Core => "limits.core",
            Self::LockedMemory => "limits.memlock",
        }
    }

    fn resource(self) -> Resource {
        match self {
            Self::Descriptors => Resource::Nofile,
            Self::Core => Resource::Core,
            Self::LockedMemory => Resource::Memlock,
        }
    }
}

/// A limit of a process that is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResourceLimit {
    pub(crate) resource: LimitedResource,
    /// `None` for no limit.
    pub(crate) soft: Option<u64>,
    /// `None` for that of this process, `Some(None)` for no limit.
    pub(crate) hard: Option<Option<u64>>,
}

impl ResourceLimit {
    /// A soft limit of open files.
    pub(super) fn soft_descriptors(soft: u64) -> Self {
        Self { resource: LimitedResource::Descriptors, soft: Some(soft), hard: None }
    }

    pub(super) fn to_set(self) -> LimitToSet {
        let Self { resource, soft, hard } = self;
        LimitToSet { resource: resource.resource(), soft, hard }
    }

    /// Raises the hard limit of this process to this one, while it may (`CAP_SYS_RESOURCE`), so that processes
    /// that it starts can have it. Returns the hard limit that there is, if it stays lower.
    ///
    /// # Errors
    /// [`ProcessError::Host`] if the kernel refuses for another reason.
    pub(crate) fn allow(&self) -> Result<Option<u64>, ProcessError> {
        let resource = self.resource.resource();
        let Rlimit { current, maximum } = getrlimit(resource);
        let Some(wanted) = self.hard else { return Ok(None) };
        let is_enough = match (maximum, wanted) {
            (None, _) => true,
            (Some(maximum), Some(wanted)) => wanted <= maximum,
            (Some(_), None) => false,
        };
        if is_enough {
            return Ok(None);
        }
        match setrlimit(resource, Rlimit { current, maximum: wanted }) {
            Ok(()) => Ok(None),
            Err(rustix::io::Errno::PERM) => Ok(maximum),
            Err(errno) => Err(failed(errno)),
        }
    }
}

/// The nice value of this process, -20 to 19; workers are started with the same.
///
/// # Errors
/// [`ProcessError::Host`] if the kernel refuses.
pub(crate) fn own_nice() -> Result<i32, ProcessError> {
    getpriority_process(None).map_err(failed)
}

/// Lets a process that this one starts from now on have the nice value of this process back, after it was
/// given a greater one: the limit that the kernel looks at is that process's own (`RLIMIT_NICE`,
/// `is_nice_reduction`, kernel/sched/syscalls.c), which it inherits. Returns whether that is so; to raise
/// the limit takes `CAP_SYS_RESOURCE`, before capabilities are given up.
///
/// # Errors
/// [`ProcessError::Host`] if the kernel refuses for another reason.
pub fn allow_nice_back() -> Result<bool, ProcessError> {
    allow_nice(0)
}

/// As [`allow_nice_back`], for a nice value that is so much more than that of this process; less, where it is
/// negative.
///
/// # Errors
/// Those of [`allow_nice_back`].
pub(crate) fn allow_nice(more: i32) -> Result<bool, ProcessError> {
    // 1 stands for nice 19, 40 for nice -20.
    let nice = own_nice()?.saturating_add(more).clamp(-20, 19);
    let needed = u64::try_from(20 - nice).unwrap_or_default();
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
