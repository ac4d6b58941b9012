use std::fmt;
use std::fs;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::error::{ProcessError, ProcessOperation, errno_from, errno_of};
use crate::netlink::Errno;
use crate::sys;

/// A set of those capabilities (capabilities(7)) that this crate has a use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(CapabilitySet);

impl Capabilities {
    /// None of them.
    pub const NONE: Self = Self(CapabilitySet::empty());
    /// `CAP_NET_ADMIN`: changes rules, reads connection tracking.
    pub const NET_ADMIN: Self = Self(CapabilitySet::NET_ADMIN);
    /// `CAP_NET_BIND_SERVICE`: listens on ports below 1,024.
    pub const NET_BIND_SERVICE: Self = Self(CapabilitySet::NET_BIND_SERVICE);
    /// `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL`: starts processes as another user, looks at them
    /// in that user's name, and signals them.
    pub const OTHER_USERS: Self =
        Self(CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::KILL));

    /// `CAP_SETGID`: makes files of another group.
    pub const OTHER_GROUPS: Self = Self(CapabilitySet::SETGID);

    const NAMES: [(CapabilitySet, &'static str); 5] = [
        (CapabilitySet::KILL, "CAP_KILL"),
        (CapabilitySet::SETGID, "CAP_SETGID"),
        (CapabilitySet::SETUID, "CAP_SETUID"),
        (CapabilitySet::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    ];

    /// The capabilities in the effective set of the calling thread.
    ///
    /// The thread has them in its user namespace: over nf_tables they hold only in network namespaces that
    /// belong to that one.
    ///
    /// # Errors
    /// [`ProcessError::Host`] if the kernel does not tell.
    pub fn effective() -> Result<Self, ProcessError> {
        Ok(Self(sets()?.effective))
    }

    /// The union of both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0.union(other.0))
    }

    /// The intersection of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.intersection(other.0))
    }

    /// Whether all of `other` are among them.
    pub const fn has(self, other: Self) -> bool {
        self.0.contains(other.0)
    }

    /// The name of the first of `needed` that is not among them.
    pub(super) fn first_missing(self, needed: Self) -> Option<&'static str> {
        let missing = needed.0.difference(self.0);
        Self::NAMES.into_iter().find(|(one, _)| missing.intersects(*one)).map(|(_, name)| name)
    }
}

/// The names, `CAP_SETUID CAP_NET_ADMIN`, in the order of their numbers.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = Self::NAMES.into_iter().filter(|(one, _)| self.0.contains(*one));
        for (index, (_, name)) in held.enumerate() {
            f.write_str(if index == 0 { "" } else { " " })?;
            f.write_str(name)?;
        }
        Ok(())
    }
}

/// Gives up all capabilities of this process but `wanted`, as far as it has those, for itself and
/// all that it starts, for ever: its bounding set is empty afterwards, user 0 means nothing to exec
/// any more (`SECBIT_NOROOT`), both as far as it has `CAP_SETPCAP`, and `no_new_privs` is set.
/// Returns which it has.
///
/// For a program, early in `main`. No part of this crate does it by itself.
///
/// # Errors
/// [`ProcessError::ManyThreads`] unless the process has a single thread, since every thread has
/// capabilities of its own; [`ProcessError::Host`].
pub fn keep_only_capabilities(wanted: Capabilities) -> Result<Capabilities, ProcessError> {
    let threads = thread_count()?;
    if threads != 1 {
        return Err(ProcessError::ManyThreads { threads });
    }
    keep_only(wanted)
}

/// Drops all capabilities of the calling thread but the wanted ones.
fn keep_only(wanted: Capabilities) -> Result<Capabilities, ProcessError> {
    let CapabilitySets { effective, permitted, .. } = sets()?;
    let kept = wanted.0 & effective & permitted;
    // First: it takes a capability that is dropped next.
    sys::close_ways_to_capabilities();
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
        .and_then(|()| rustix::thread::set_no_new_privs(true))
        .map_err(|errno| failed(ProcessOperation::DropCapabilities, errno_from(errno)))?;
    Ok(Capabilities(kept))
}

fn sets() -> Result<CapabilitySets, ProcessError> {
    capabilities(None)
        .map_err(|errno| failed(ProcessOperation::ReadCapabilities, errno_from(errno)))
}

fn thread_count() -> Result<usize, ProcessError> {
    const DIRECTORY: &str = "/proc/self/task";
    let threads = fs::read_dir(DIRECTORY)
        .map_err(|error| failed(ProcessOperation::Read(DIRECTORY), errno_of(&error)))?;
    Ok(threads.count())
}

fn failed(operation: ProcessOperation, errno: Errno) -> ProcessError {
    ProcessError::Host { operation, errno }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// For tests in threads that end soon.
    pub(in crate::process) fn keep_only_here(wanted: Capabilities) -> Capabilities {
        keep_only(wanted).unwrap()
    }

    /// A line of `/proc/thread-self/status`.
    fn status(name: &str) -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:\t")));
        line.unwrap().to_owned()
    }

    #[test]
    fn the_effective_set_is_what_proc_shows() {
        let set = u64::from_str_radix(&status("CapEff"), 16).unwrap();
        let has = |number: u32| set >> number & 1 == 1;
        let effective = Capabilities::effective().unwrap();
        assert_eq!(effective.has(Capabilities::NET_ADMIN), has(12));
        assert_eq!(effective.has(Capabilities::OTHER_USERS), has(5) && has(6) && has(7));
        assert!(effective.has(Capabilities::NONE));
    }

    #[test]
    fn what_is_not_wanted_is_gone_for_ever() {
        // In a thread of its own, since capabilities belong to threads.
        let thread = std::thread::spawn(|| {
            let had_setpcap = sets().unwrap().effective.contains(CapabilitySet::SETPCAP);
            let had = Capabilities::effective().unwrap();
            let kept = keep_only(Capabilities::NET_ADMIN).unwrap();
            assert_eq!(kept, had.and(Capabilities::NET_ADMIN));
            let expected = format!("{:016x}", kept.0.bits());
            assert_eq!(status("CapEff"), expected);
            assert_eq!(status("CapPrm"), expected);
            assert_eq!(status("CapInh"), "0".repeat(16));
            assert_eq!(status("CapAmb"), "0".repeat(16));
            assert_eq!(status("NoNewPrivs"), "1");
            if had_setpcap {
                assert_eq!(status("CapBnd"), "0".repeat(16));
            }
            assert_eq!(keep_only(Capabilities::OTHER_USERS).unwrap(), Capabilities::NONE);
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test runner is one thread, this is another.
        let error = keep_only_capabilities(Capabilities::NET_ADMIN).unwrap_err();
        assert!(matches!(error, ProcessError::ManyThreads { threads: 2.. }), "{error}");
    }

    #[test]
    fn names_are_told() {
        let all = Capabilities::NET_ADMIN.with(Capabilities::OTHER_USERS);
        assert_eq!(all.to_string(), "CAP_KILL CAP_SETGID CAP_SETUID CAP_NET_ADMIN");
        assert_eq!(Capabilities::NONE.to_string(), "");
        assert_eq!(Capabilities::NET_ADMIN.first_missing(all), Some("CAP_KILL"));
        assert_eq!(all.first_missing(Capabilities::OTHER_USERS), None);
    }
}
