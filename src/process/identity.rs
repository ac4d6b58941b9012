//! Which process a number stands for, as one program can tell another that comes after it.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::OnceLock;

use super::child::Child;
use super::error::{ProcessError, ProcessOperation, errno_of};
use super::stat::Stat;

/// A process by its number, its start, and the boot in which that was: a number alone may be another process's by
/// now, and a start counts from the boot.
///
/// As text it is three words: the number, the clock ticks from boot to its start, and the boot id
/// (`/proc/sys/kernel/random/boot_id`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessIdentity {
    pid: u32,
    start_ticks: u64,
    boot: String,
}

impl ProcessIdentity {
    /// That of a child of this process which was not waited for; `None` if it cannot be seen.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn of(child: &Child) -> Result<Option<Self>, ProcessError> {
        let Some(stat) = Stat::read(child.pid())? else { return Ok(None) };
        Self::new(child.pid(), stat.start_ticks).map(Some)
    }

    /// That of a process which began at this tick after the boot of now.
    pub(super) fn new(pid: u32, start_ticks: u64) -> Result<Self, ProcessError> {
        Ok(Self { pid, start_ticks, boot: boot()?.to_owned() })
    }

    /// Whether there is such a process, which may have ended and not been waited for.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(crate) fn exists(&self) -> Result<bool, ProcessError> {
        let found = Stat::read(self.pid)?;
        let is_it = |stat: Stat| stat.start_ticks == self.start_ticks;
        Ok(self.boot == boot()? && found.is_some_and(is_it))
    }
}

/// The id of the boot of now, which is the same as long as the kernel runs.
fn boot() -> Result<&'static str, ProcessError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let operation = ProcessOperation::Read("sys/kernel/random/boot_id");
    let read = fs::read_to_string(PATH)
        .map_err(|error| ProcessError::Host { operation, errno: errno_of(&error) })?;
    Ok(BOOT.get_or_init(|| read.trim().to_owned()))
}

impl fmt::Display for ProcessIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.start_ticks, self.boot)
    }
}

/// A text that names no process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoProcess;

impl FromStr for ProcessIdentity {
    type Err = NoProcess;

    fn from_str(text: &str) -> Result<Self, NoProcess> {
        let words: Vec<&str> = text.split(' ').collect();
        let &[pid, start_ticks, boot] = words.as_slice() else { return Err(NoProcess) };
        let is_boot = |c: char| c.is_ascii_hexdigit() || c == '-';
        if boot.is_empty() || !boot.chars().all(is_boot) {
            return Err(NoProcess);
        }
        Ok(Self {
            pid: pid.parse().map_err(|_| NoProcess)?,
            start_ticks: start_ticks.parse().map_err(|_| NoProcess)?,
            boot: boot.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> ProcessIdentity {
        let pid = std::process::id();
        ProcessIdentity::new(pid, Stat::read(pid).unwrap().unwrap().start_ticks).unwrap()
    }

    #[test]
    fn a_process_is_the_same_by_its_number_its_start_and_the_boot() {
        let own = own();
        assert!(own.exists().unwrap());
        let later = ProcessIdentity { start_ticks: own.start_ticks + 1, ..own.clone() };
        let earlier_boot = ProcessIdentity { boot: "0-0".to_owned(), ..own.clone() };
        let nobody = ProcessIdentity { pid: u32::MAX, ..own.clone() };
        for other in [later, earlier_boot, nobody] {
            assert!(!other.exists().unwrap(), "{other}");
        }
        assert_eq!(own.to_string().parse(), Ok(own));
    }

    #[test]
    fn what_names_no_process_is_refused() {
        let own = own().to_string();
        for text in
            ["", "1", "1 2", "1 2 ", "1 2 x", "-1 2 a", "1 2 a b", &format!("{own} "), "1  a"]
        {
            assert_eq!(text.parse::<ProcessIdentity>(), Err(NoProcess), "{text:?}");
        }
    }
}
