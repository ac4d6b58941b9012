//! What sd_notify(3) is: a datagram to a socket.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The address in `NOTIFY_SOCKET`: a path, or with `@` before it a name in the abstract namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notifier {
    address: OsString,
}

impl Notifier {
    pub(super) fn new(address: &OsString) -> Option<Self> {
        (!address.is_empty()).then(|| Self { address: address.clone() })
    }

    /// Says something. Nobody is held up by a notification that cannot be delivered: the connection
    /// says the same.
    pub(super) fn say(&self, text: &str) {
        if let Err(error) = self.try_say(text) {
            tracing::debug!(%error, socket = ?self.address, "sd_notify failed");
        }
    }

    fn try_say(&self, text: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let address = match self.address.as_bytes().split_first() {
            Some((b'@', name)) => abstract_address(name)?,
            _ => SocketAddr::from_pathname(OsStr::new(&self.address))?,
        };
        socket.send_to_addr(text.as_bytes(), &address).map(drop)
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
}

/// Only Linux has abstract names.
#[cfg(not(target_os = "linux"))]
fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;

    use super::*;

    #[test]
    fn a_path_and_an_abstract_name_are_reached() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("notify");
        let name = format!("ipcluster-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
        ] {
            Notifier::new(&address).unwrap().say("READY=1");
            let mut text = [0; 16];
            let length = socket.recv(&mut text).unwrap();
            assert_eq!(&text[..length], b"READY=1");
        }
        assert_eq!(Notifier::new(&OsString::new()), None);
        Notifier::new(&"/nonexistent/socket".into()).unwrap().say("READY=1");
    }
}
