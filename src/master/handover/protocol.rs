//! What two masters say to each other in a handover: the messages, and their form on the connection. Pure.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::control::Reply;
use crate::protocol::{Millis, Snapshot, WorkerId};

/// The version of [`Offer`]: masters of different versions do not hand over to each other.
pub(in crate::master) const HANDOVER_FORMAT: u32 = 1;

/// What a running master answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::master) enum Offer {
    /// All that it has. The descriptors follow.
    #[serde(rename = "handover")]
    Accepted(Box<HandoverState>),
    /// It goes on.
    Refused {
        /// Why, for display.
        message: String,
        /// Whether the reason passes within moments, so that it is worth asking again.
        #[serde(rename = "again")]
        is_transient: bool,
    },
}

/// The state of a running master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::master) struct HandoverState {
    /// [`HANDOVER_FORMAT`].
    pub(super) format: u32,
    /// The id of its process.
    pub(super) pid: u32,
    /// The address of the service manager that it notifies, as in `NOTIFY_SOCKET`; `None` without a
    /// service manager, or if its address is no text.
    pub(super) manager: Option<String>,
    /// The watchdog limit of that service manager, in microseconds; `None` without a watchdog.
    pub(super) watchdog: Option<u64>,
    /// What it knows of its workers and of the past.
    #[serde(flatten)]
    pub(super) snapshot: Snapshot<Millis>,
    /// What each of the descriptors is that follow, in their order.
    pub(super) descriptors: Vec<DescriptorKey>,
}

/// Says which descriptor it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::master) struct DescriptorKey {
    /// What kind it is of.
    kind: DescriptorKind,
    /// Which one of this kind, where there can be several: the number of a worker, for a listening
    /// socket followed by a slash and the place of the socket; else empty.
    key: String,
}

impl DescriptorKey {
    /// The only one of its kind.
    pub(super) fn single(kind: DescriptorKind) -> Self {
        Self { kind, key: String::new() }
    }

    /// The one of a worker.
    pub(super) fn of_worker(kind: DescriptorKind, worker: WorkerId) -> Self {
        Self { kind, key: worker.to_string() }
    }

    /// The listening socket of a worker in this place.
    pub(super) fn listener(worker: WorkerId, place: usize) -> Self {
        Self { kind: DescriptorKind::Listen, key: format!("{worker}/{place}") }
    }
}

/// What a descriptor stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::master) enum DescriptorKind {
    /// The netlink socket that owns the table.
    Rules,
    /// The lock file.
    Lock,
    /// The control socket, which listens.
    Control,
    /// The socket of workers, which listens, where that is another one than the control socket.
    Workers,
    /// The listening socket of the HTTP server.
    Http,
    /// The process of a worker, as a pidfd.
    Process,
    /// The file that a worker prints to.
    Output,
    /// The socket that workers write to (sd_notify(3)).
    Notify,
    /// A listening socket that a worker was started with (socket activation).
    Listen,
}

/// One of the three steps of the handshake that follows an offer, a byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandshakeStep {
    /// The next master has all that it needs, and has changed nothing.
    Prepared,
    /// The running master does nothing any more.
    Granted,
    /// The next master is the master.
    Taken,
}

impl HandshakeStep {
    const fn byte(self) -> u8 {
        match self {
            Self::Prepared => b'P',
            Self::Granted => b'G',
            Self::Taken => b'T',
        }
    }

    /// Sends it.
    ///
    /// # Errors
    /// Those of the stream: the peer is gone, or reads nothing.
    pub(super) fn send(self, stream: &mut impl Write) -> io::Result<()> {
        stream.write_all(&[self.byte()])
    }

    /// Waits for it.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer is gone; `InvalidData` for anything else than this step; those of
    /// the stream.
    pub(super) fn receive(self, stream: &mut impl Read) -> io::Result<()> {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        if byte[0] == self.byte() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("expected the step {self:?}")))
    }
}

/// The first byte of an offer: no line of the control socket's protocol begins with it.
const FRAME: u8 = 1;

/// The longest offer, in bytes: 1,024 workers and as many retired ones take a third of it.
const OFFER_LIMIT: u32 = 4 << 20;

impl Offer {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the stream.
    pub(super) fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut frame = vec![FRAME];
        frame.extend(length.to_be_bytes());
        frame.extend(text);
        stream.write_all(&frame)
    }

    /// Reads one. The answer of a master that knows no handover is an offer, too: a refusal.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer is gone; `InvalidData` for what is no offer; those of the stream.
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut first = [0];
        stream.read_exact(&mut first)?;
        if first[0] != FRAME {
            return Ok(Self::Refused { message: refusal(first[0], stream)?, is_transient: false });
        }
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > OFFER_LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the offer is too long"));
        }
        let mut text = Vec::new();
        let read = stream.take(length.into()).read_to_end(&mut text)?;
        if u32::try_from(read) != Ok(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&text)?)
    }
}

/// The message of the line that begins with the byte `first`.
fn refusal(first: u8, stream: &mut impl Read) -> io::Result<String> {
    let mut line = vec![first];
    let mut byte = [0];
    // Byte by byte: the line is the last thing that comes, and short.
    while line.len() < 4096 && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    Ok(match Reply::parse(&text) {
        Ok(Reply::Failed(failure)) => failure.message,
        _ => "it answered something else".to_owned(),
    })
}

/// Reads any bytes as the answer of a running master, for the fuzzer.
///
/// # Panics
/// If what was read is another when it is written and read again.
#[cfg(feature = "internals")]
pub fn read_offer(bytes: &[u8]) {
    let Ok(offer) = Offer::read(&mut &*bytes) else { return };
    let mut written = Vec::new();
    offer.write(&mut written).expect("a vector takes all");
    let again = Offer::read(&mut &*written).expect("what a master writes is read by the next");
    assert_eq!(again, offer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{StageSnapshot, Timestamp};

    /// What release 0.1.0 sends, with a clock of its own: two workers, of which the first is retired, and a
    /// seat whose worker was killed.
    const CAPTURED: &str = concat!(
        r#"{"handover":{"format":1,"pid":7336,"manager":null,"watchdog":null,"workers":["#,
        r#"{"worker":2,"seat":1,"generation":1,"ports":[20001],"pid":7393,"age":4494,"#,
        r#""stage":{"retired":{"since":3197}},"is_past":false,"more_time":null},"#,
        r#"{"worker":4,"seat":1,"generation":2,"ports":[20003],"pid":7530,"age":3284,"#,
        r#""stage":"live","is_past":false,"more_time":null}],"#,
        r#""respawns":[{"seat":0,"failures":1,"wait":17903,"losses":[2096],"rest":null}],"#,
        r#""past":{"aim":{"generation":2,"shares":[140737488355328.0,140737488355328.0]},"#,
        r#""before":{"generation":1,"shares":[140737488355328.0,140737488355328.0]},"#,
        r#""home":null,"retirements":[],"last_generation":2},"descriptors":["#,
        r#"{"kind":"rules","key":""},{"kind":"lock","key":""},{"kind":"control","key":""},"#,
        r#"{"kind":"notify","key":""},{"kind":"process","key":"2"},{"kind":"output","key":"2"},"#,
        r#"{"kind":"process","key":"4"},{"kind":"output","key":"4"}]}}"#,
    );

    fn accepted(text: &str) -> HandoverState {
        match serde_json::from_str(text).unwrap() {
            Offer::Accepted(state) => *state,
            refused @ Offer::Refused { .. } => panic!("{refused:?}"),
        }
    }

    #[test]
    fn an_offer_of_an_earlier_release_is_understood_and_written_alike() {
        let state = accepted(CAPTURED);
        let written = serde_json::to_string(&Offer::Accepted(Box::new(state.clone()))).unwrap();
        assert_eq!(written, CAPTURED);
        let now = Timestamp(std::time::Duration::from_secs(100));
        let snapshot = state.snapshot.at(now);
        let millis = |at: Timestamp| at.0.as_millis();
        let StageSnapshot::Retired { since } = snapshot.workers[0].stage else {
            panic!("{snapshot:?}")
        };
        assert_eq!(millis(since), 100_000 - 3197);
        assert_eq!(snapshot.workers[1].stage, StageSnapshot::Live);
        assert_eq!(millis(snapshot.workers[1].started), 100_000 - 3284);
        assert_eq!(millis(snapshot.backoffs[0].not_before), 100_000 + 17_903);
        assert_eq!(millis(snapshot.backoffs[0].losses[0]), 100_000 - 2096);
        let last = DescriptorKey::of_worker(DescriptorKind::Output, WorkerId(4));
        assert_eq!(state.descriptors.last(), Some(&last));
    }

    #[test]
    fn an_offer_is_read_as_it_was_written_and_every_part_of_it_is_an_error() {
        let accepted = Offer::Accepted(Box::new(HandoverState {
            manager: Some("@manager".to_owned()),
            watchdog: Some(30_000_000),
            ..accepted(CAPTURED)
        }));
        let refused = Offer::Refused { message: "busy".to_owned(), is_transient: true };
        for offer in [accepted, refused] {
            let mut bytes = vec![];
            offer.write(&mut bytes).unwrap();
            assert_eq!(Offer::read(&mut bytes.as_slice()).unwrap(), offer);
            for end in 0..bytes.len() {
                assert!(Offer::read(&mut &bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn what_a_master_of_an_earlier_release_does_not_tell_is_not_known() {
        let text = r#"{"handover":{"format":1,"pid":9,"manager":null,"watchdog":null,"workers":[
            {"worker":3,"seat":0,"generation":1,"ports":[20000],"pid":10,"age":5,
             "stage":{"dying":{"kill_in":20}}}],
            "respawns":[{"seat":1,"failures":2,"wait":1500}],"descriptors":[]}}"#;
        let snapshot = accepted(text).snapshot;
        assert_eq!(snapshot.history, crate::protocol::History::default());
        let dying = StageSnapshot::Dying { terminate_at: None, kill_at: Millis(20) };
        assert_eq!((snapshot.workers[0].stage, snapshot.workers[0].is_superseded), (dying, false));
        assert!(snapshot.backoffs[0].losses.is_empty());
    }

    #[test]
    fn a_refusal_is_read_as_earlier_releases_write_it() {
        let text = r#"{"refused":{"message":"busy","again":true}}"#;
        let refused = Offer::Refused { message: "busy".to_owned(), is_transient: true };
        assert_eq!(serde_json::from_str::<Offer>(text).unwrap(), refused);
        assert_eq!(serde_json::to_string(&refused).unwrap(), text);
    }

    #[test]
    fn an_offer_without_end_is_refused() {
        let mut bytes = vec![FRAME];
        bytes.extend(u32::MAX.to_be_bytes());
        let error = Offer::read(&mut bytes.chain(io::repeat(b'x'))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_answer_of_a_master_that_knows_no_takeover_is_a_refusal() {
        let line = b"{\"error\":{\"message\":\"unknown command\",\"hint\":null}}\n";
        let expected =
            Offer::Refused { message: "unknown command".to_owned(), is_transient: false };
        assert_eq!(Offer::read(&mut line.as_slice()).unwrap(), expected);
        assert!(matches!(Offer::read(&mut &b"garbage"[..]), Ok(Offer::Refused { .. })));
    }

    #[test]
    fn a_step_is_received_as_it_was_sent_and_no_other() {
        let mut bytes = vec![];
        HandshakeStep::Prepared.send(&mut bytes).unwrap();
        assert_eq!(bytes, b"P");
        HandshakeStep::Prepared.receive(&mut bytes.as_slice()).unwrap();
        let error = HandshakeStep::Granted.receive(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = HandshakeStep::Taken.receive(&mut &b""[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
