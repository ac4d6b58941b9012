use std::fmt;
use std::fs;
use std::str::FromStr;

use nix::errno::Errno;

use super::error::{ProcessError, ProcessOperation, errno_of};
use super::stat::Stat;

/// A process, told apart from every other one that this host has run, also after a restart of the
/// master or of the host: pids are used again, a pid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The number, as seen in the pid namespace of this process.
    pub pid: u32,
    /// Clock ticks (`sysconf(_SC_CLK_TCK)`, 100 a second) from boot to the start of the process.
    pub start_ticks: u64,
    /// The boot in which it runs.
    pub boot: BootId,
}

impl ProcessId {
    /// The identity of the process that has this pid now; `None` if none has, or it has ended.
    ///
    /// Nothing keeps the pid from going to another process right after. Open a
    /// [`PidFd`](super::PidFd) first, then read the identity, then see that the pidfd has not
    /// ended: then both are of the same process.
    ///
    /// # Errors
    /// `/proc` cannot be read or not understood.
    pub fn read(pid: u32) -> Result<Option<Self>, ProcessError> {
        let Some(stat) = Stat::read(pid)?.filter(|stat| !stat.ended) else { return Ok(None) };
        Ok(Some(Self { pid, start_ticks: stat.start_ticks, boot: BootId::read()? }))
    }
}

/// The random identifier of one boot of the host (`/proc/sys/kernel/random/boot_id`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(u128);

impl BootId {
    /// The present boot.
    ///
    /// # Errors
    /// `/proc` cannot be read or not understood.
    pub fn read() -> Result<Self, ProcessError> {
        const FILE: &str = "/proc/sys/kernel/random/boot_id";
        let failed = |errno| ProcessError::Host { operation: ProcessOperation::Read(FILE), errno };
        let text = fs::read_to_string(FILE).map_err(|error| failed(errno_of(&error)))?;
        text.trim_end().parse().map_err(|InvalidBootId| failed(Errno::EBADMSG))
    }
}

/// Text that is no boot id: anything but 32 hexadecimal digits in groups of 8, 4, 4, 4, 12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a boot id: expected the form of a UUID")]
pub struct InvalidBootId;

impl FromStr for BootId {
    type Err = InvalidBootId;

    fn from_str(text: &str) -> Result<Self, InvalidBootId> {
        let well_formed = text.len() == 36
            && text.bytes().enumerate().all(|(index, byte)| match index {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        if !well_formed {
            return Err(InvalidBootId);
        }
        let digits = text.replace('-', "");
        u128::from_str_radix(&digits, 16).map(Self).map_err(|_| InvalidBootId)
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (groups, last) = digits.split_at(20);
        let (first, middle) = groups.split_at(8);
        write!(f, "{first}-{}-{}-{}-{last}", &middle[..4], &middle[4..8], &middle[8..])
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_of_a_process_does_not_change_while_it_lives() {
        let pid = std::process::id();
        let first = ProcessId::read(pid).unwrap().unwrap();
        assert_eq!(ProcessId::read(pid).unwrap(), Some(first));
        assert_eq!(first.pid, pid);
    }

    #[test]
    fn a_boot_id_is_printed_as_the_kernel_does() {
        let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        assert_eq!(text.parse::<BootId>().unwrap().to_string(), text);
        let live = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(BootId::read().unwrap().to_string(), live.trim_end());
    }

    #[test]
    fn other_text_is_no_boot_id() {
        for text in [
            "",
            "0f1e2d3c",
            "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0 ",
            "+f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
            "0f1e2d3c4-b5a-6978-8796-a5b4c3d2e1f0",
        ] {
            assert_eq!(text.parse::<BootId>(), Err(InvalidBootId), "{text:?}");
        }
    }
}
