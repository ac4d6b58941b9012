//! The receiving side of socket activation: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, as
//! sd_listen_fds_with_names(3) reads them.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

use crate::sys;

/// The number of the first descriptor that is passed on (`SD_LISTEN_FDS_START`, sd_listen_fds(3)).
pub(crate) const FIRST_PASSED: u16 = 3;

/// Why the descriptors that this process was started with cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenFdsError {
    /// The variable makes no sense.
    #[error("LISTEN_FDS is {value:?}: expected how many sockets were passed")]
    Count {
        /// Its value.
        value: String,
    },
    /// A descriptor that is announced cannot be copied.
    #[error("descriptor {number} of LISTEN_FDS: {source}")]
    Descriptor {
        /// Its number.
        number: u16,
        /// `EBADF` if it is not open.
        source: io::Error,
    },
}

/// The descriptors that this process was started with, each with its name, in the order of their
/// numbers. None if they were meant for another process, or there are none. Each call gives copies,
/// which are closed on exec, and so are the originals from now on.
pub(crate) fn passed_descriptors() -> Result<Vec<(String, OwnedFd)>, ListenFdsError> {
    let Some((count, names)) = announced(variable, std::process::id())? else { return Ok(vec![]) };
    let numbers = FIRST_PASSED..FIRST_PASSED.saturating_add(count);
    let copy = |(number, name)| {
        let descriptor = sys::inherited_descriptor(i32::from(number));
        Ok((name, descriptor.map_err(|source| ListenFdsError::Descriptor { number, source })?))
    };
    numbers.zip(names).map(copy).collect()
}

/// The process that the descriptors are for, where that is another one than this: a shell that
/// started this program without `exec`, for example.
#[cfg(feature = "worker")]
pub(crate) fn meant_for_another() -> Option<String> {
    let pid = variable("LISTEN_PID").filter(|_| variable("LISTEN_FDS").is_some())?;
    let pid = pid.to_string_lossy().into_owned();
    (pid != std::process::id().to_string()).then_some(pid)
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// How many descriptors the variables announce to this process, and their names.
fn announced(
    variable: impl Fn(&str) -> Option<OsString>,
    pid: u32,
) -> Result<Option<(u16, Vec<String>)>, ListenFdsError> {
    let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
    let is_ours = text("LISTEN_PID").is_some_and(|value| value == pid.to_string());
    let Some(value) = text("LISTEN_FDS").filter(|_| is_ours) else { return Ok(None) };
    // No process has more descriptors than that (`sysctl fs.nr_open` aside), and no worker of ours
    // more ports.
    let count = value.parse::<u16>().ok().filter(|count| *count <= u16::MAX - FIRST_PASSED);
    let count = count.ok_or(ListenFdsError::Count { value })?;
    let names = text("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    if names.len() == usize::from(count) {
        return Ok(Some((count, names)));
    }
    // As sd_listen_fds_with_names(3) does.
    Ok(Some((count, vec!["unknown".to_owned(); usize::from(count)])))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_announced_to_another_process_or_to_none_is_not_ours() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: BTreeMap<String, OsString> =
                pairs.iter().map(|(k, v)| ((*k).to_owned(), v.into())).collect();
            announced(|name| pairs.get(name).cloned(), 7)
        };
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("LISTEN_FDS", "2")]).unwrap(), None);
        assert_eq!(of(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "8")]).unwrap(), None);
        let two = of(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "80/tcp:x")]);
        assert_eq!(two.unwrap(), Some((2, names(&["80/tcp", "x"]))));
        let unnamed = of(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "7"), ("LISTEN_FDNAMES", "x")]);
        assert_eq!(unnamed.unwrap(), Some((2, names(&["unknown", "unknown"]))));
        for value in ["", "-1", "65535", "2x"] {
            let error = of(&[("LISTEN_FDS", value), ("LISTEN_PID", "7")]).unwrap_err();
            assert!(error.to_string().contains(&format!("LISTEN_FDS is {value:?}")), "{error}");
        }
    }
}
