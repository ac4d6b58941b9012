//! The loopback interface of the namespace that the tests are started in.

use std::os::fd::AsRawFd;

use nix::libc;
use rustix::net::{AddressFamily, SocketType, socket};

/// `unshare -rn cargo test` runs the tests in a namespace that was just made, in which `lo` is down: nothing
/// could be bound to 127.0.0.1 there. Where it is up, nothing changes; and who may not bring it up is told so
/// by each test that wants it.
#[ctor::ctor(unsafe)]
fn bring_up() {
    let Ok(socket) = socket(AddressFamily::INET, SocketType::DGRAM, None) else { return };
    // SAFETY: all of it are numbers and an array of them, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both read one ifreq (netdevice(7)), and the first writes the flags of it, the part of the union
    // that is read here.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) == 0 {
            request.ifr_ifru.ifru_flags |=
                libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
            libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request);
        }
    }
}
