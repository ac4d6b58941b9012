//! For how long connections have been silent.

use std::collections::BTreeSet;
use std::time::Duration;

use netlink_packet_sock_diag::constants::INET_DIAG_INFO;

use super::ProcessError;
use super::sockets::Sockets;

/// For how long an answer is waited for, whatever else is set: no proxy in common use waits longer by
/// default (`proxy_read_timeout` of nginx, 60 s; the idle time-out of load balancers in clouds, 60 s).
const ANSWER: Duration = Duration::from_secs(60);

/// A connection that a process has accepted, and when something came or went on it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Its local port.
    pub(crate) port: u16,
    /// The inode of its socket, as in the `socket:[inode]` of `/proc/PID/fd`.
    pub(crate) inode: u32,
    /// How long ago the last data came.
    received: Duration,
    /// How long ago the last data was sent, for the first time or again.
    sent: Duration,
    /// More segments with data have come than were sent. It tells which word was the last where both are of
    /// one tick of the kernel's clock (4 ms at 250 Hz), as a request right behind the handshake is.
    has_more_received: bool,
    /// Data that the process has not read, or that the other side has not acknowledged.
    has_queued: bool,
}

impl Silence {
    /// Whether nothing has come or gone for so long and nobody waits for an answer. If the last word was
    /// the client's, a request may be being worked on: then an answer is waited for, for a minute at
    /// least.
    pub(crate) fn is_idle(&self, limit: Duration) -> bool {
        let is_one_tick = self.received == self.sent;
        let awaits_answer = self.received < self.sent || (is_one_tick && self.has_more_received);
        let limit = if awaits_answer { limit.max(ANSWER) } else { limit };
        !self.has_queued && self.received.min(self.sent) >= limit
    }

    /// What `struct tcp_info` says (include/uapi/linux/tcp.h): two of its numbers, in milliseconds, and where the
    /// kernel tells them (since Linux 4.6), two counts of segments.
    /// `None` if it is shorter than that, or of a socket that no process has (`inode` 0).
    fn parse(port: u16, inode: u32, has_queued: bool, info: &[u8]) -> Option<Self> {
        /// `tcpi_last_data_sent` and `tcpi_last_data_recv`, at the same place since Linux 2.6.
        const SENT: usize = 44;
        const RECEIVED: usize = 52;
        /// `tcpi_data_segs_in` and `tcpi_data_segs_out`.
        const SEGMENTS_IN: usize = 152;
        const SEGMENTS_OUT: usize = 156;
        let number = |at: usize| {
            let bytes = info.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let milliseconds = |at| number(at).map(|it| Duration::from_millis(it.into()));
        let (received, sent) = (milliseconds(RECEIVED)?, milliseconds(SENT)?);
        let segments = number(SEGMENTS_IN).zip(number(SEGMENTS_OUT));
        let has_more_received = segments.is_some_and(|(inwards, outwards)| inwards > outwards);
        let silence = Self { port, inode, received, sent, has_more_received, has_queued };
        (inode != 0).then_some(silence)
    }
}

impl Sockets {
    /// The accepted connections of these local ports that neither side has closed. Costs what
    /// [`Self::connections`] does, and some microseconds more for each.
    ///
    /// # Errors
    /// [`ProcessError::Sockets`].
    pub(crate) fn silences(&mut self, ports: &BTreeSet<u16>) -> Result<Vec<Silence>, ProcessError> {
        let (Some(first), Some(last)) = (ports.first(), ports.last()) else { return Ok(vec![]) };
        let found = self.dump_with_info(&(*first..=*last), |header, attributes| {
            let has_queued = header.recv_queue > 0 || header.send_queue > 0;
            let port = header.socket_id.source_port;
            let info = attributes.get(INET_DIAG_INFO).unwrap_or_default();
            Silence::parse(port, header.inode, has_queued, info)
        })?;
        Ok(found.into_iter().flatten().filter(|it| ports.contains(&it.port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silence(received: Duration, sent: Duration) -> Silence {
        let (has_more_received, has_queued) = (false, false);
        Silence { port: 20_000, inode: 1, received, sent, has_more_received, has_queued }
    }

    #[test]
    fn it_is_idle_after_the_limit_if_the_last_word_was_the_servers() {
        for (received, sent, is_idle) in [
            (6 * SECOND, 5 * SECOND, true),
            (6 * SECOND, 4 * SECOND, false),
            // Request and answer within a tick of the clock.
            (5 * SECOND, 5 * SECOND, true),
            // A request that is being worked on.
            (5 * SECOND, 6 * SECOND, false),
            (59 * SECOND, 100 * SECOND, false),
            (60 * SECOND, 100 * SECOND, true),
        ] {
            let found = silence(received, sent).is_idle(5 * SECOND);
            assert_eq!(found, is_idle, "received {received:?}, sent {sent:?}");
        }
        assert!(!silence(60 * SECOND, 61 * SECOND).is_idle(90 * SECOND));
        let first_request = Silence { has_more_received: true, ..silence(5 * SECOND, 5 * SECOND) };
        assert!(!first_request.is_idle(5 * SECOND), "it came in the tick of the handshake");
        let queued = Silence { has_queued: true, ..silence(100 * SECOND, 100 * SECOND) };
        assert!(!queued.is_idle(SECOND), "an answer is on its way, or a request is not read");
    }

    #[test]
    fn a_description_that_is_cut_or_of_nobodys_socket_says_nothing() {
        let info: Vec<u8> = (0..=255).collect();
        let whole = Silence::parse(1, 2, false, &info).unwrap();
        let number = |first: u8| u32::from_ne_bytes([first, first + 1, first + 2, first + 3]);
        assert_eq!(whole.sent, Duration::from_millis(number(44).into()));
        assert_eq!(whole.received, Duration::from_millis(number(52).into()));
        assert!((0..56).all(|end| Silence::parse(1, 2, false, &info[..end]).is_none()));
        assert!(Silence::parse(1, 2, false, &info[..56]).is_some());
        assert_eq!(Silence::parse(1, 0, false, &info), None);
    }

    #[test]
    fn the_kernel_tells_what_came_and_went() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let look = || {
            let found = Sockets::open().unwrap().silences(&[address.port()].into()).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            found[0]
        };
        client.write_all(b"?").unwrap();
        let mut byte = [0];
        // Not read yet, once it has arrived.
        while server.peek(&mut byte).unwrap() == 0 {}
        assert!(!look().is_idle(Duration::ZERO));
        server.read_exact(&mut byte).unwrap();
        server.write_all(b"!").unwrap();
        client.read_exact(&mut byte).unwrap();
        let deadline = std::time::Instant::now() + 10 * SECOND;
        while !look().is_idle(Duration::from_millis(20)) {
            assert!(std::time::Instant::now() < deadline, "{:?}", look());
            std::thread::yield_now();
        }
        assert!(!look().is_idle(3600 * SECOND));
    }
}
