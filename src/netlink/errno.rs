use std::fmt;
use std::io;

use nix::errno::Errno as Known;

/// An error number of the kernel, `errno(3)`.
///
/// It prints as its name and what it means: `EPERM: Operation not permitted`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    pub(crate) const E2BIG: Self = Self::of(Known::E2BIG);
    pub(crate) const EACCES: Self = Self::of(Known::EACCES);
    pub(crate) const EADDRINUSE: Self = Self::of(Known::EADDRINUSE);
    pub(crate) const EAFNOSUPPORT: Self = Self::of(Known::EAFNOSUPPORT);
    pub(crate) const EAGAIN: Self = Self::of(Known::EAGAIN);
    pub(crate) const EBADF: Self = Self::of(Known::EBADF);
    pub(crate) const EBUSY: Self = Self::of(Known::EBUSY);
    pub(crate) const ECHILD: Self = Self::of(Known::ECHILD);
    pub(crate) const EEXIST: Self = Self::of(Known::EEXIST);
    pub(crate) const EFAULT: Self = Self::of(Known::EFAULT);
    pub(crate) const EINTR: Self = Self::of(Known::EINTR);
    pub(crate) const EINVAL: Self = Self::of(Known::EINVAL);
    pub(crate) const EIO: Self = Self::of(Known::EIO);
    pub(crate) const EMLINK: Self = Self::of(Known::EMLINK);
    pub(crate) const EMSGSIZE: Self = Self::of(Known::EMSGSIZE);
    pub(crate) const ENETDOWN: Self = Self::of(Known::ENETDOWN);
    pub(crate) const ENODEV: Self = Self::of(Known::ENODEV);
    pub(crate) const ENOENT: Self = Self::of(Known::ENOENT);
    pub(crate) const ENOPROTOOPT: Self = Self::of(Known::ENOPROTOOPT);
    pub(crate) const ENOTDIR: Self = Self::of(Known::ENOTDIR);
    pub(crate) const EOPNOTSUPP: Self = Self::of(Known::EOPNOTSUPP);
    pub(crate) const EPERM: Self = Self::of(Known::EPERM);
    pub(crate) const EPIPE: Self = Self::of(Known::EPIPE);
    pub(crate) const EPROTONOSUPPORT: Self = Self::of(Known::EPROTONOSUPPORT);
    pub(crate) const ESRCH: Self = Self::of(Known::ESRCH);
    pub(crate) const ETIME: Self = Self::of(Known::ETIME);
    /// What nf_tables answers when the rules have changed since a batch was made for them. It is an
    /// error number of the kernel alone, and has no place in `errno.h` of most C libraries.
    pub(crate) const ERESTART: Self = Self::of(Known::ERESTART);

    #[cfg(test)]
    pub(crate) const ELOOP: Self = Self::of(Known::ELOOP);
    #[cfg(test)]
    pub(crate) const ENOMEM: Self = Self::of(Known::ENOMEM);
    #[cfg(test)]
    pub(crate) const ENOTSOCK: Self = Self::of(Known::ENOTSOCK);

    /// The error of this number.
    pub(crate) const fn from_raw(number: i32) -> Self {
        Self(number)
    }

    /// The error that nix knows by this name.
    pub(crate) const fn of(errno: Known) -> Self {
        Self(errno as i32)
    }

    /// The number, positive, as in `errno.h`.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// What it means, in the words of `strerror(3)`.
    pub(crate) fn description(self) -> &'static str {
        self.known().desc()
    }

    /// What nix calls it.
    pub(crate) fn known(self) -> Known {
        Known::from_raw(self.0)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Known::UnknownErrno => write!(f, "errno {}", self.0),
            known => fmt::Debug::fmt(&known, f),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.description())
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_prints_its_name_and_its_meaning() {
        assert_eq!(format!("{:?}", Errno::EPERM), "EPERM");
        assert_eq!(Errno::EPERM.to_string(), "EPERM: Operation not permitted");
        assert_eq!(Errno::EPERM.to_string(), Known::EPERM.to_string());
    }

    #[test]
    fn a_number_without_a_name_is_kept() {
        let errno = Errno::from_raw(524);
        assert_eq!(errno.raw(), 524);
        assert!(errno.to_string().starts_with("errno 524: "), "{errno}");
        assert_eq!(io::Error::from(errno).raw_os_error(), Some(524));
    }
}
