//! How one master hands over to the next: what they say to each other. Pure, but for the frames.
//!
//! The next master connects to the control socket like an operator and asks for it in a line
//! (`{"v":1,"command":"takeover","format":1}`). From then on the connection is theirs alone:
//!
//! ```text
//! next                                 running
//!  |  takeover, format 1                |
//!  |----------------------------------->|  stops deciding; or refuses
//!  |        offer: state, descriptors   |
//!  |<-----------------------------------|
//!  |  prepared                          |     until here the next one has changed nothing, and if it
//!  |----------------------------------->|     ends, or takes too long, the running one goes on
//!  |                             granted |
//!  |<-----------------------------------|
//!  |  taken                             |     from "granted" on the running one does nothing more,
//!  |----------------------------------->|     unless the connection ends without "taken"; and
//!  |                                    |     before "taken" the next one does nothing. One that
//!  |                                    |     stays silent then is killed: it may be stopped
//!  is the master                       ends
//! ```
//!
//! Whichever is killed at whatever point, one of them is the master, and not both: if the running one
//! ends before it has granted, the next one takes what is left as if it had crashed.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::control::Reply;
use crate::plan::{Generation, Port, Seat};

/// The version of [`Handover`]: masters of different versions do not hand over to each other.
pub(crate) const HANDOVER_FORMAT: u32 = 1;

/// What a running master answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Offer {
    /// Its state. The descriptors follow.
    Handover(Box<Handover>),
    /// Nothing: it goes on.
    Refused {
        /// Why, for display.
        message: String,
        /// Whether that is over in a moment.
        again: bool,
    },
}

/// What a master knows that neither the kernel's rules nor `/proc` say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Handover {
    /// [`HANDOVER_FORMAT`].
    pub(crate) format: u32,
    /// The process of the running master.
    pub(crate) pid: u32,
    /// The service manager that the running master tells how it gets on, as `NOTIFY_SOCKET` has it;
    /// `None` without one, or if its address is no text.
    pub(crate) manager: Option<String>,
    /// How often that one wants to hear of the master, at least, in microseconds; `None` if it does
    /// not watch it.
    pub(crate) watchdog: Option<u64>,
    /// Its workers.
    pub(crate) workers: Vec<SnapshotWorker>,
    /// Seats whose workers failed, and when each may have its next one.
    pub(crate) respawns: Vec<SnapshotRespawn>,
    /// What it remembers.
    #[serde(default)]
    pub(crate) past: SnapshotHistory,
    /// The descriptors that follow, in this order.
    pub(crate) descriptors: Vec<DescriptorKey>,
}

/// A worker that is handed over. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotWorker {
    /// What the running master calls it.
    pub(crate) worker: u64,
    /// Its seat.
    pub(crate) seat: Seat,
    /// Its generation.
    pub(crate) generation: Generation,
    /// Its worker ports, in the order of the public ports.
    pub(crate) ports: Vec<Port>,
    /// Its process.
    pub(crate) pid: u32,
    /// How long ago it was started.
    pub(crate) age: u64,
    /// Where in its life it is.
    pub(crate) stage: SnapshotStage,
    /// It is not to serve again once it is retired.
    #[serde(default)]
    pub(crate) is_past: bool,
    /// It has so long at least to get ready: it has asked for the time.
    #[serde(default)]
    pub(crate) more_time: Option<u64>,
}

/// Where in its life a worker is that is handed over. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SnapshotStage {
    /// Not in force yet.
    Starting,
    /// In force.
    Live,
    /// Finishes its connections.
    Retired {
        /// Since so long.
        since: u64,
    },
    /// Was asked to end.
    Dying {
        /// It gets SIGTERM after so long; `None`: it has.
        #[serde(default)]
        terminate_in: Option<u64>,
        /// It is killed after so long.
        kill_in: u64,
    },
}

/// The back-off of a seat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotRespawn {
    /// The seat.
    pub(crate) seat: Seat,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// No next worker before so many milliseconds.
    pub(crate) wait: u64,
    /// How long ago its last workers were lost, in milliseconds, the oldest first.
    #[serde(default)]
    pub(crate) losses: Vec<u64>,
    /// For how many more milliseconds it rests, since too many were lost; `None`: it does not.
    #[serde(default)]
    pub(crate) rest: Option<u64>,
}

/// What a master remembers that neither its workers nor the rules show. A master of an earlier release
/// tells none of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SnapshotHistory {
    /// The generation in force, and how its slots are shared out: seats beyond are a canary's.
    pub(crate) aim: Option<SnapshotGeneration>,
    /// What a rollback goes back to.
    pub(crate) before: Option<SnapshotGeneration>,
    /// The seat of each slot, as it was before some were lent to a canary.
    pub(crate) home: Option<Vec<Seat>>,
    /// How long ago workers were retired to be replaced, in milliseconds, the oldest first, as far as it
    /// counts.
    pub(crate) retirements: Vec<u64>,
    /// The highest number of a generation that was in force.
    pub(crate) last_generation: Option<u64>,
}

/// A generation, and how its slots are shared out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SnapshotGeneration {
    /// Its number.
    pub(crate) generation: Generation,
    /// The share of each seat, relative to the others.
    pub(crate) shares: Vec<f64>,
}

/// A descriptor that is handed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DescriptorKey {
    /// What it is of.
    pub(crate) kind: DescriptorKind,
    /// Which one of them: the number of a worker, or the name of a listening socket; else empty.
    pub(crate) key: String,
}

/// What a descriptor is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DescriptorKind {
    /// The netlink socket that owns the table.
    Rules,
    /// The lock file.
    Lock,
    /// The control socket, which listens.
    Control,
    /// The socket of workers, which listens, where that is another.
    Workers,
    /// The listening socket of the HTTP server.
    Http,
    /// The process of a worker, as a pidfd.
    Process,
    /// The file that a worker prints to.
    Output,
    /// The socket that workers write to (sd_notify(3)).
    Notify,
    /// A listening socket that workers are given (socket activation).
    Listen,
}

/// One of the three words with which it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeStep {
    /// The next master has all that it needs, and has changed nothing.
    Prepared,
    /// The running master does nothing any more.
    Granted,
    /// The next master is the master.
    Taken,
}

impl HandshakeStep {
    const ALL: [(Self, u8); 3] =
        [(Self::Prepared, b'P'), (Self::Granted, b'G'), (Self::Taken, b'T')];

    /// Says it.
    ///
    /// # Errors
    /// Those of the stream: the peer is gone, or reads nothing.
    pub(crate) fn send(self, stream: &mut impl Write) -> io::Result<()> {
        let byte = Self::ALL.iter().find(|(word, _)| *word == self).map_or(0, |(_, byte)| *byte);
        stream.write_all(&[byte])
    }

    /// Waits for it.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer is gone; `InvalidData` for anything else than this word; those of
    /// the stream.
    pub(crate) fn receive(self, stream: &mut impl Read) -> io::Result<()> {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        match Self::ALL.iter().find(|(_, said)| *said == byte[0]) {
            Some((word, _)) if *word == self => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "another word was expected")),
        }
    }
}

/// The first byte of an offer: no line of the other protocol begins with it.
const FRAME: u8 = 1;

/// The longest offer, in bytes: 1,024 workers and as many retired ones take a third of it.
const OFFER_LIMIT: u32 = 4 << 20;

impl Offer {
    /// Writes it.
    ///
    /// # Errors
    /// Those of the stream.
    pub(crate) fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let mut frame = vec![FRAME];
        frame.extend(length.to_be_bytes());
        frame.extend(text);
        stream.write_all(&frame)
    }

    /// Reads one. What a master that knows no takeover answers is an offer, too: a refusal.
    ///
    /// # Errors
    /// `UnexpectedEof` if the peer is gone; `InvalidData` for what is no offer; those of the stream.
    pub(crate) fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut first = [0];
        stream.read_exact(&mut first)?;
        if first[0] != FRAME {
            return Ok(Self::Refused { message: refusal(first[0], stream)?, again: false });
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

/// The line of which this is the first byte, up to its end, as a message.
fn refusal(first: u8, stream: &mut impl Read) -> io::Result<String> {
    let mut line = vec![first];
    let mut byte = [0];
    // Byte by byte: it is the last thing that is said, and short.
    while line.len() < 4096 && stream.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    Ok(match Reply::parse(&text) {
        Ok(Reply::Failed(failure)) => failure.message,
        _ => "it answered something else".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover() -> Offer {
        let worker = |seat: u16, stage| SnapshotWorker {
            worker: 7 + u64::from(seat),
            seat: Seat(seat),
            generation: Generation(3),
            ports: Port::new(20_000 + seat).into_iter().collect(),
            pid: 100,
            age: 5000,
            stage,
            is_past: seat == 2,
            more_time: (seat == 1).then_some(7),
        };
        Offer::Handover(Box::new(Handover {
            format: HANDOVER_FORMAT,
            manager: Some("@manager".to_owned()),
            watchdog: Some(30_000_000),
            pid: 99,
            workers: vec![
                worker(0, SnapshotStage::Live),
                worker(1, SnapshotStage::Starting),
                worker(2, SnapshotStage::Retired { since: 10 }),
                worker(3, SnapshotStage::Dying { terminate_in: Some(10), kill_in: 20 }),
            ],
            respawns: vec![SnapshotRespawn {
                seat: Seat(1),
                failures: 2,
                wait: 1500,
                losses: vec![3000, 10],
                rest: None,
            }],
            past: SnapshotHistory {
                aim: Some(SnapshotGeneration { generation: Generation(3), shares: vec![1.0] }),
                before: Some(SnapshotGeneration {
                    generation: Generation(2),
                    shares: vec![1.0, 3.0],
                }),
                home: Some(vec![Seat(1), Seat(0)]),
                retirements: vec![60_000],
                last_generation: Some(4),
            },
            descriptors: vec![DescriptorKey { kind: DescriptorKind::Rules, key: String::new() }],
        }))
    }

    #[test]
    fn an_offer_is_read_as_it_was_written_and_every_part_of_it_is_an_error() {
        let refused = Offer::Refused { message: "busy".to_owned(), again: true };
        for offer in [handover(), refused] {
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
        let Ok(Offer::Handover(handover)) = serde_json::from_str(text) else { panic!("{text}") };
        assert_eq!(handover.past, SnapshotHistory::default());
        let dying = SnapshotStage::Dying { terminate_in: None, kill_in: 20 };
        assert_eq!((handover.workers[0].stage, handover.workers[0].is_past), (dying, false));
        assert!(handover.respawns[0].losses.is_empty());
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
        let expected = Offer::Refused { message: "unknown command".to_owned(), again: false };
        assert_eq!(Offer::read(&mut line.as_slice()).unwrap(), expected);
        assert!(matches!(Offer::read(&mut &b"garbage"[..]), Ok(Offer::Refused { .. })));
    }

    #[test]
    fn a_word_is_heard_as_it_was_said_and_no_other() {
        let mut bytes = vec![];
        HandshakeStep::Prepared.send(&mut bytes).unwrap();
        HandshakeStep::Prepared.receive(&mut bytes.as_slice()).unwrap();
        let error = HandshakeStep::Granted.receive(&mut bytes.as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = HandshakeStep::Taken.receive(&mut &b""[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
