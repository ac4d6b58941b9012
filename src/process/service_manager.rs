use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use super::error::{ProcessError, errno_of};
use crate::netlink::Errno;

/// Messages that wait for a service manager that does not read before the oldest are dropped.
const QUEUE: usize = 32;

/// The service manager (systemd, or another that speaks sd_notify(3)) that this process tells how it
/// gets on.
#[derive(Debug)]
pub struct ServiceManager {
    socket: UnixDatagram,
    address: SocketAddr,
    name: OsString,
    watchdog: Option<Duration>,
    unsent: VecDeque<String>,
}

impl ServiceManager {
    /// The one that the environment names: `NOTIFY_SOCKET`, a path or `@` and an abstract name; with
    /// `WATCHDOG_USEC` if `WATCHDOG_PID` is this process or not there. `None` without.
    ///
    /// # Errors
    /// [`ProcessError::NotifySocket`] for an address of another kind, or if there is no socket to be
    /// had.
    pub fn from_environment(
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, ProcessError> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let Some(name) = set("NOTIFY_SOCKET") else { return Ok(None) };
        let mut manager = Self::at(name)?;
        let number = |name| set(name)?.to_str()?.parse::<u64>().ok();
        let is_for_us = match set("WATCHDOG_PID") {
            Some(pid) => pid.to_str() == Some(&std::process::id().to_string()),
            None => true,
        };
        let limit = number("WATCHDOG_USEC").filter(|limit| is_for_us && *limit > 0);
        manager.watchdog = limit.map(Duration::from_micros);
        Ok(Some(manager))
    }

    /// The one at this address, as `NOTIFY_SOCKET` has it, without a watchdog.
    ///
    /// # Errors
    /// As [`Self::from_environment`].
    pub fn at(name: OsString) -> Result<Self, ProcessError> {
        let failed = |errno| ProcessError::ServiceManager { address: name.clone(), errno };
        let address = address(&name).map_err(failed)?;
        let socket = UnixDatagram::unbound().map_err(|error| failed(errno_of(&error)))?;
        socket.set_nonblocking(true).map_err(|error| failed(errno_of(&error)))?;
        Ok(Self { socket, address, name, watchdog: None, unsent: VecDeque::new() })
    }

    /// This service manager with a watchdog that expects `WATCHDOG=1` at least every `limit`: for a
    /// limit that was set for an earlier master.
    #[must_use]
    pub fn with_watchdog(self, limit: Option<Duration>) -> Self {
        Self { watchdog: limit.filter(|limit| !limit.is_zero()), ..self }
    }

    /// Its address, as `NOTIFY_SOCKET` has it.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// How long it waits for `WATCHDOG=1` before it takes this process for hanging: `WATCHDOG_USEC`.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends assignments (`READY=1`), one a line, after all that were sent before. Never waits: what
    /// the manager does not take now is kept, the last 32 messages of it, for the next call or
    /// [`Self::flush`].
    ///
    /// # Errors
    /// [`ProcessError::NotifySocket`] if it does not take it now. Nothing is lost by that.
    pub fn send(&mut self, message: String) -> Result<(), ProcessError> {
        if self.unsent.len() == QUEUE {
            self.unsent.pop_front();
        }
        self.unsent.push_back(message);
        self.flush()
    }

    /// Whether something that was sent has not been taken.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends what was kept.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn flush(&mut self) -> Result<(), ProcessError> {
        while let Some(message) = self.unsent.front() {
            match self.socket.send_to_addr(message.as_bytes(), &self.address) {
                Ok(_) => drop(self.unsent.pop_front()),
                Err(error) if errno_of(&error) == Errno::EINTR => {}
                Err(error) => {
                    let (address, errno) = (self.name.clone(), errno_of(&error));
                    return Err(ProcessError::ServiceManager { address, errno });
                }
            }
        }
        Ok(())
    }
}

/// sd_notify(3): an absolute path, or `@` in place of the zero byte of an abstract name. systemd's
/// third kind, `vsock:`, is for virtual machines.
fn address(name: &OsStr) -> Result<SocketAddr, Errno> {
    let made = match name.as_bytes() {
        [b'@', rest @ ..] if !rest.is_empty() => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    // The standard library refuses what is too long, or holds a zero byte, without an errno.
    made.map_err(|error| error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(variables: &[(&str, &str)]) -> Result<Option<ServiceManager>, ProcessError> {
        ServiceManager::from_environment(|name| {
            variables.iter().find(|(it, _)| *it == name).map(|(_, value)| value.into())
        })
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_reach_both_kinds_of_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("ipcluster-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (socket, address) in
            [(by_path, path.to_str().unwrap().to_owned()), (by_name, format!("@{name}"))]
        {
            let mut manager = manager(&[("NOTIFY_SOCKET", &address)]).unwrap().unwrap();
            assert_eq!(manager.watchdog(), None);
            assert_eq!(manager.name(), address.as_str());
            manager.send("READY=1\nSTATUS=fine".to_owned()).unwrap();
            assert_eq!(heard(&socket), "READY=1\nSTATUS=fine");
        }
    }

    #[test]
    fn what_is_not_taken_is_kept_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = path.clone().into_os_string();
        let mut manager = ServiceManager::at(name).unwrap();
        for number in 0..40 {
            let error = manager.send(format!("STATUS={number}")).unwrap_err();
            assert_eq!(error.errno(), Some(Errno::ENOENT), "{error}");
        }
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut all = Vec::new();
        // It takes no more than net.unix.max_dgram_qlen at a time.
        while manager.flush().is_err() || all.len() < QUEUE {
            while let Ok(length) = socket.recv(&mut [0; 16]) {
                assert!(length > 0);
                all.push(length);
            }
        }
        assert_eq!(all.len(), QUEUE);
        manager.send("READY=1".to_owned()).unwrap();
        assert_eq!(heard(&socket), "READY=1");
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let ours = std::process::id().to_string();
        let of = |variables: &[(&str, &str)]| {
            let socket = [("NOTIFY_SOCKET", "/run/x")];
            manager(&[&socket, variables].concat()).unwrap().unwrap().watchdog()
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(of(&[("WATCHDOG_USEC", "1000000")]), second);
        assert_eq!(of(&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", &ours)]), second);
        assert_eq!(of(&[("WATCHDOG_USEC", "1000000"), ("WATCHDOG_PID", "1")]), None);
        for malformed in ["", "0", "-1", "1s"] {
            assert_eq!(of(&[("WATCHDOG_USEC", malformed)]), None);
        }
    }

    #[test]
    fn other_addresses_are_refused() {
        assert!(manager(&[]).unwrap().is_none());
        assert!(manager(&[("NOTIFY_SOCKET", "")]).unwrap().is_none());
        for address in ["vsock:2:1", "run/notify", "@", &format!("/{}", "x".repeat(108))] {
            let error = manager(&[("NOTIFY_SOCKET", address)]).unwrap_err();
            assert!(error.to_string().contains("NOTIFY_SOCKET"), "{error}");
        }
    }
}
