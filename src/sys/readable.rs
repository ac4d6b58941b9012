//! Descriptors that tokio waits for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the tokio runtime of the caller wait for a descriptor to become readable, or to have an error
/// (a netlink socket that lost something, `EPOLLERR`).
pub(crate) fn watch_readable<T: SteadyFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `OwnedFd` is open until it, or the last `Arc` of it, is dropped, and always has
    // the same number. What holds it is moved into the `AsyncFd`, which drops it last and gives no
    // mutable access to it. `SteadyFd` admits nothing else.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::ERROR) }
        .map_err(Into::into)
}

/// Has `read` take what there is to read of a descriptor that the runtime said is [readable](watch_readable), until
/// it says that all of it was taken ([`Drained::All`]): the runtime then waits for the kernel again.
///
/// [`AsyncFd::try_io`] knows one kind of readiness at a time: asked for both it finds none, reads nothing and
/// clears nothing (`Interest::mask`, src/io/interest.rs, tokio 1.54), so that whoever waits for both would
/// never wait again.
pub(crate) fn drain<T: SteadyFd>(readable: &AsyncFd<T>, mut read: impl FnMut() -> Drained) {
    for kind in [Interest::READABLE, Interest::ERROR] {
        let _ = readable.try_io(kind, |_| match read() {
            Drained::Part => Ok(()),
            Drained::All => Err(io::Error::from(io::ErrorKind::WouldBlock)),
        });
    }
}

/// How much was taken of what there was to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Drained {
    /// More may be there.
    Part,
    /// The kernel said that nothing is left.
    #[default]
    All,
}

/// What stays open and keeps its number for as long as it is held.
pub(crate) trait SteadyFd: AsRawFd {}

impl SteadyFd for OwnedFd {}
impl SteadyFd for Arc<OwnedFd> {}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const BOTH: Interest = Interest::READABLE.add(Interest::ERROR);

    async fn is_ready(readable: &AsyncFd<OwnedFd>) -> bool {
        let ready = timeout(Duration::from_millis(20), readable.ready(BOTH)).await;
        ready.is_ok_and(|guard| {
            guard.unwrap().retain_ready();
            true
        })
    }

    #[tokio::test]
    async fn what_was_drained_is_waited_for_again() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let readable = watch_readable(OwnedFd::from(ours.try_clone().unwrap())).unwrap();
        assert!(!is_ready(&readable).await, "nothing is there");
        for text in ["one", "two"] {
            theirs.send(text.as_bytes()).unwrap();
        }
        assert!(is_ready(&readable).await);
        let mut heard = 0;
        drain(&readable, || {
            heard += ours.recv(&mut [0; 8]).unwrap();
            Drained::Part
        });
        assert!(is_ready(&readable).await, "the second one is there");
        drain(&readable, || {
            while let Ok(length) = ours.recv(&mut [0; 8]) {
                heard += length;
            }
            Drained::All
        });
        assert_eq!(heard, 6);
        assert!(!is_ready(&readable).await, "all was taken");
        theirs.send(b"three").unwrap();
        assert!(is_ready(&readable).await);
    }
}
