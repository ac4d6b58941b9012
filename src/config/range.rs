//! Which values a setting allows, of those that its type can hold.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::text;
use super::value::{Fault, quote};
use crate::protocol::Signal;

/// The values that are allowed.
pub(super) trait Range<T> {
    /// What is allowed, as errors and pages say it; empty: all that the type can hold.
    fn expected(&self) -> String;

    /// What is wrong with a value that is not allowed.
    fn check(&self, value: &T) -> Result<(), Fault>;
}

/// All.
pub(super) struct Any;

impl<T> Range<T> for Any {
    fn expected(&self) -> String {
        String::new()
    }

    fn check(&self, _: &T) -> Result<(), Fault> {
        Ok(())
    }
}

impl<T: PartialOrd + Display> Range<T> for RangeInclusive<T> {
    fn expected(&self) -> String {
        format!("{} to {}", self.start(), self.end())
    }

    fn check(&self, value: &T) -> Result<(), Fault> {
        match self.contains(value) {
            true => Ok(()),
            false => Err(Fault::out_of_range(value.to_string())),
        }
    }
}

/// Those that this text names, and that the planner accepts, which knows more of them.
pub(super) struct PlannedAs(pub(super) &'static str);

impl<T> Range<T> for PlannedAs {
    fn expected(&self) -> String {
        self.0.to_owned()
    }

    fn check(&self, _: &T) -> Result<(), Fault> {
        Ok(())
    }
}

pub(super) struct MoreThanZero;

impl Range<Duration> for MoreThanZero {
    fn expected(&self) -> String {
        "more than 0".to_owned()
    }

    fn check(&self, value: &Duration) -> Result<(), Fault> {
        if value.is_zero() { Err(Fault::out_of_range("0")) } else { Ok(()) }
    }
}

/// The time of a lease in etcd: in whole seconds, which it counts in.
pub(super) struct LeaseTime;

impl Range<Duration> for LeaseTime {
    fn expected(&self) -> String {
        "2s to 10min, in whole seconds".to_owned()
    }

    fn check(&self, value: &Duration) -> Result<(), Fault> {
        match (2..=600).contains(&value.as_secs()) && value.subsec_nanos() == 0 {
            true => Ok(()),
            false => Err(Fault::out_of_range(text::of_duration(*value))),
        }
    }
}

/// Off, or a time from this on.
pub(super) struct ZeroOrAtLeast(pub(super) Duration);

impl Range<Option<Duration>> for ZeroOrAtLeast {
    fn expected(&self) -> String {
        format!("0 or at least {}", text::of_duration(self.0))
    }

    fn check(&self, value: &Option<Duration>) -> Result<(), Fault> {
        match value {
            Some(time) if *time < self.0 => Err(Fault::out_of_range(text::of_duration(*time))),
            _ => Ok(()),
        }
    }
}

/// A signal that can end a process: SIGSTOP only has it wait for SIGKILL.
pub(super) struct StopSignal;

impl Range<Signal> for StopSignal {
    fn expected(&self) -> String {
        "the name of a signal but STOP".to_owned()
    }

    fn check(&self, value: &Signal) -> Result<(), Fault> {
        match *value {
            Signal::STOP => Err(Fault::out_of_range(value.to_string())),
            _ => Ok(()),
        }
    }
}

/// A signal that a process can take to finish what it has.
pub(super) struct FinishingSignal;

impl Range<Option<Signal>> for FinishingSignal {
    fn expected(&self) -> String {
        "the name of a signal that programs can handle: not KILL or STOP".to_owned()
    }

    fn check(&self, value: &Option<Signal>) -> Result<(), Fault> {
        match *value {
            Some(signal @ (Signal::KILL | Signal::STOP)) => {
                Err(Fault::out_of_range(signal.to_string()))
            }
            _ => Ok(()),
        }
    }
}

/// A part of the memory that `memory.total` names.
pub(super) struct PartOfTotal;

impl Range<f64> for PartOfTotal {
    fn expected(&self) -> String {
        "a part of memory.total, above 0 and at most 1".to_owned()
    }

    fn check(&self, value: &f64) -> Result<(), Fault> {
        match *value > 0.0 && *value <= 1.0 {
            true => Ok(()),
            false => Err(Fault::out_of_range(value.to_string())),
        }
    }
}

/// The name or number of a `user` or `group`. Only the master can look it up; this is what none can
/// be.
pub(super) struct NameOfA(pub(super) &'static str);

impl Range<Option<String>> for NameOfA {
    fn expected(&self) -> String {
        format!("the name or number of a {}", self.0)
    }

    fn check(&self, value: &Option<String>) -> Result<(), Fault> {
        let is_odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/' | ',');
        match value {
            // As long as the longest that the kernel and the C library take (LOGIN_NAME_MAX).
            Some(name) if name.contains(is_odd) || name.len() > 255 => {
                Err(Fault::out_of_range(quote(name)))
            }
            _ => Ok(()),
        }
    }
}

/// The path of a directory that does not depend on where the master was started.
pub(super) struct DirectoryPath;

impl Range<Option<PathBuf>> for DirectoryPath {
    fn expected(&self) -> String {
        "an absolute path".to_owned()
    }

    fn check(&self, value: &Option<PathBuf>) -> Result<(), Fault> {
        let Some(path) = value else { return Ok(()) };
        let text = path.to_string_lossy();
        if text.contains('\0') {
            Err(Fault::new(format!("{}: no path contains a NUL", quote(&text))))
        } else if path.is_absolute() {
            Ok(())
        } else {
            Err(Fault::out_of_range(quote(&text)))
        }
    }
}

/// The path of a file.
pub(super) struct FilePath;

impl Range<Option<PathBuf>> for FilePath {
    fn expected(&self) -> String {
        String::new()
    }

    fn check(&self, value: &Option<PathBuf>) -> Result<(), Fault> {
        let Some(path) = value else { return Ok(()) };
        let text = path.to_string_lossy();
        let refused = |reason: &str| Err(Fault::new(format!("{}: {reason}", quote(&text))));
        match path.file_name() {
            _ if text.contains('\0') => refused("no path contains a NUL"),
            None => refused("expected the path of a file"),
            Some(_) => Ok(()),
        }
    }
}

/// The path of a Unix socket.
pub(super) struct SocketPath;

/// The longest one, in bytes: `sun_path` has 108 (unix(7)), one of them for the NUL.
const MAX_SOCKET_PATH: usize = 107;

impl Range<Option<PathBuf>> for SocketPath {
    fn expected(&self) -> String {
        format!("an absolute path of at most {MAX_SOCKET_PATH} bytes")
    }

    fn check(&self, value: &Option<PathBuf>) -> Result<(), Fault> {
        let Some(path) = value else { return Ok(()) };
        let text = path.to_string_lossy();
        let refused = |reason: &str| Err(Fault::new(format!("{}: {reason}", quote(&text))));
        if text.contains('\0') {
            refused("no path contains a NUL")
        } else if path.as_os_str().len() > MAX_SOCKET_PATH {
            refused("expected at most 107 bytes, which fit into the address of a Unix socket")
        } else if !path.is_absolute() {
            refused("expected an absolute path")
        } else if path.file_name().is_none() {
            refused("expected the path of a file")
        } else {
            Ok(())
        }
    }
}
