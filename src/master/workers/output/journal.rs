//! The journal of systemd, by its native protocol: one datagram an entry, of fields
//! (systemd.io/JOURNAL_NATIVE_PROTOCOL; sd_journal_send(3)).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::origin::Origin;

/// Where systemd-journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// What an entry without a prefix counts as: `LOG_INFO` (syslog(3)).
const INFO: u8 = 6;

/// The pauses between tries to reach a journal that is not there: it may be starting anew.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Writes lines of workers to the journal.
#[derive(Debug)]
pub(crate) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// What is the same for all workers: the identifier, and the cluster.
    common: Vec<u8>,
    /// It was said that it cannot be reached.
    is_away: bool,
}

impl Journal {
    /// That of the host. `identifier` is what `journalctl -t` and the lines of it show; `cluster`
    /// is the name of the cluster.
    ///
    /// # Errors
    /// No descriptor is left. Whether the journal is there is seen later: it may be started anew,
    /// too.
    pub(crate) fn open(identifier: &str, cluster: &str) -> io::Result<Self> {
        Self::at(SOCKET.into(), identifier, cluster)
    }

    fn at(path: PathBuf, identifier: &str, cluster: &str) -> io::Result<Self> {
        let mut common = Vec::new();
        field(&mut common, "SYSLOG_IDENTIFIER", identifier);
        field(&mut common, "IPCLUSTER_NAME", cluster);
        Ok(Self { socket: UnixDatagram::unbound()?, path, common, is_away: false })
    }

    /// Writes one line. Waits while the journal is busy, or away: the lines after it wait too, in
    /// the memory of the worker, of which they keep the last 16 MiB.
    pub(crate) fn write(&mut self, origin: &Origin, line: &str) {
        let entry = self.entry(origin, line);
        let mut pause = FIRST_PAUSE;
        loop {
            // By its path each time: a journal that was started anew has another socket.
            match self.socket.send_to(&entry, &self.path) {
                Ok(_) => {
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!("the journal is reachable again");
                    }
                    return;
                }
                Err(error) if is_passing(&error) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        let path = self.path.display();
                        tracing::warn!(%path, %error, "cannot reach the journal: the output of workers waits in its pipes");
                    }
                    thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(%error, seat = %origin.seat, "the journal rejected a line of a worker");
                    return;
                }
            }
        }
    }

    fn entry(&self, origin: &Origin, line: &str) -> Vec<u8> {
        let (priority, message) = prefixed(line);
        let mut entry = self.common.clone();
        field(&mut entry, "PRIORITY", &priority.to_string());
        field(&mut entry, "SYSLOG_PID", &origin.pid.to_string());
        field(&mut entry, "IPCLUSTER_SEAT", &origin.seat.to_string());
        field(&mut entry, "IPCLUSTER_GENERATION", &origin.generation.to_string());
        field(&mut entry, "MESSAGE", message);
        entry
    }
}

/// Adds a field. A value with an end of line in it cannot stand in a line: its length, 64 bits with
/// the lowest byte first, comes before it.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// A line may begin with its priority, as `<3>`: sd-daemon(3).
fn prefixed(line: &str) -> (u8, &str) {
    match line.as_bytes() {
        [b'<', priority @ b'0'..=b'7', b'>', ..] => (priority - b'0', &line[3..]),
        _ => (INFO, line),
    }
}

/// Whether the journal may take the same entry later.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::OutOfMemory
    ) || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::plan::{Generation, Seat};

    const ORIGIN: Origin = Origin { seat: Seat(3), generation: Generation(2), pid: 4242 };

    fn receive(socket: &UnixDatagram) -> BTreeMap<String, String> {
        let mut buffer = [0; 65_536];
        let length = socket.recv(&mut buffer).unwrap();
        fields(&buffer[..length])
    }

    /// Reads an entry as the journal does.
    fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut fields = BTreeMap::new();
        while let Some(at) = entry.iter().position(|byte| matches!(byte, b'=' | b'\n')) {
            let (name, rest) = (&entry[..at], &entry[at + 1..]);
            let (value, rest) = if entry[at] == b'=' {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
                (&rest[..end], &rest[end..])
            } else {
                let (length, rest) = rest.split_first_chunk::<8>().unwrap();
                rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap())
            };
            fields.insert(text(name), text(value));
            entry = rest.strip_prefix(b"\n").unwrap();
        }
        assert!(entry.is_empty());
        fields
    }

    #[test]
    fn a_line_is_an_entry_with_its_fields() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::at(path, "server.js", "web").unwrap();
        journal.write(&ORIGIN, "<3>out of = memory");
        let expected = [
            ("IPCLUSTER_GENERATION", "2"),
            ("IPCLUSTER_NAME", "web"),
            ("IPCLUSTER_SEAT", "3"),
            ("MESSAGE", "out of = memory"),
            ("PRIORITY", "3"),
            ("SYSLOG_IDENTIFIER", "server.js"),
            ("SYSLOG_PID", "4242"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(receive(&socket), expected.into());
        let longest = "x".repeat(64 * 1024 - 200);
        journal.write(&ORIGIN, &longest);
        assert_eq!(receive(&socket)["MESSAGE"].len(), longest.len());
    }

    #[test]
    fn what_holds_an_end_of_line_comes_with_its_length() {
        let mut entry = Vec::new();
        field(&mut entry, "MESSAGE", "a\nb");
        assert_eq!(entry, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\n");
        let journal = Journal::at("/nonexistent".into(), "a\nb", "web").unwrap();
        let fields = fields(&journal.entry(&ORIGIN, "one\nPRIORITY=0"));
        assert_eq!(fields["SYSLOG_IDENTIFIER"], "a\nb");
        assert_eq!((&*fields["PRIORITY"], &*fields["MESSAGE"]), ("6", "one\nPRIORITY=0"));
    }

    #[test]
    fn priorities_are_taken_from_a_prefix_alone() {
        for (line, expected) in [
            ("<0>panic", (0, "panic")),
            ("<7>", (7, "")),
            ("<8>x", (6, "<8>x")),
            ("<3x", (6, "<3x")),
            (" <3>x", (6, " <3>x")),
            ("", (6, "")),
            ("<é>", (6, "<é>")),
        ] {
            assert_eq!(prefixed(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_journal_that_is_started_anew_misses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        for line in ["while it is not there", "after its restart"] {
            let mut journal = Journal::at(path.clone(), "server.js", "web").unwrap();
            let (written, done) = std::sync::mpsc::channel();
            thread::spawn(move || {
                journal.write(&ORIGIN, line);
                written.send(()).unwrap();
            });
            assert!(done.recv_timeout(Duration::from_millis(100)).is_err(), "nobody listens");
            if path.exists() {
                // What the one before has left refuses connections.
                std::fs::remove_file(&path).unwrap();
            }
            let socket = UnixDatagram::bind(&path).unwrap();
            assert_eq!(receive(&socket)["MESSAGE"], line);
            done.recv_timeout(Duration::from_secs(10)).unwrap();
        }
    }
}
