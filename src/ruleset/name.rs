//! Names and comments as bytes, without an allocation: a transaction has several for each seat, and
//! `cargo bench --bench swap` showed most of the time of its encoding in `std::fmt` and `String`.

use std::fmt;

use super::object::{ChainName, Comment, CounterName, Digest, Family, SetName};
use crate::plan::{Protocol, Seat};

/// A short text: the name of an object of ours, or what a rule has for a comment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    bytes: [u8; Self::MAX_LEN],
    length: usize,
}

impl Name {
    /// No name of ours and no comment is longer: `generation 18446744073709551615` has 31.
    const MAX_LEN: usize = 32;

    const EMPTY: Self = Self { bytes: [0; Self::MAX_LEN], length: 0 };

    /// This text; `None` if it is longer than any of ours.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let mut name = Self::EMPTY;
        name.bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        name.length = text.len();
        Some(name)
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(self.as_bytes()).expect("put together from whole texts")
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// What is put together here is all ours, and so short enough.
    fn push(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        self.bytes[self.length..end].copy_from_slice(text);
        self.length = end;
    }

    fn push_number(&mut self, number: u64) {
        let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
        let mut rest = number;
        for place in (self.length..self.length + digits).rev() {
            self.bytes[place] = b"0123456789"[(rest % 10) as usize];
            rest /= 10;
        }
        self.length += digits;
    }

    fn push_seat(&mut self, seat: Seat) {
        self.push(b"seat_");
        self.push_number(seat.0.into());
    }

    fn push_digest(&mut self, Digest(digest): Digest) {
        for shift in (0..32).step_by(4).rev() {
            self.push(&[b"0123456789abcdef"[(digest >> shift) as usize & 15]]);
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl From<ChainName> for Name {
    fn from(chain: ChainName) -> Self {
        let mut name = Self::EMPTY;
        match chain {
            ChainName::Prerouting => name.push(b"prerouting"),
            ChainName::Output => name.push(b"output"),
            ChainName::Guard => name.push(b"guard"),
            ChainName::Closed => name.push(b"closed"),
            ChainName::Intercept => name.push(b"intercept"),
            ChainName::Replies => name.push(b"replies"),
            ChainName::Seat(seat) => name.push_seat(seat),
        }
        name
    }
}

/// As that of its chain.
impl From<CounterName> for Name {
    fn from(CounterName(seat): CounterName) -> Self {
        ChainName::Seat(seat).into()
    }
}

impl From<SetName> for Name {
    fn from(set: SetName) -> Self {
        let mut name = Self::EMPTY;
        match set {
            SetName::Listeners(Family::V4) => name.push(b"listeners4"),
            SetName::Listeners(Family::V6) => name.push(b"listeners6"),
            SetName::Wildcards(Family::V4) => name.push(b"wildcards4"),
            SetName::Wildcards(Family::V6) => name.push(b"wildcards6"),
            SetName::Established => name.push(b"established"),
            SetName::Guarded(Protocol::Tcp) => name.push(b"guarded"),
            SetName::Guarded(Protocol::Udp) => name.push(b"guarded_udp"),
            SetName::Slots(_) => name.push(b"slots"),
            SetName::MaskedSlots(Family::V4, _) => name.push(b"slots4"),
            SetName::MaskedSlots(Family::V6, _) => name.push(b"slots6"),
            SetName::Survivors(_) => name.push(b"survivors"),
            SetName::Ports(seat, protocol, _) => {
                name.push_seat(seat);
                name.push(b"_");
                name.push(protocol.as_str().as_bytes());
            }
        }
        if let Some(digest) = set.digest() {
            name.push(b"_");
            name.push_digest(digest);
        }
        name
    }
}

impl From<Digest> for Name {
    fn from(digest: Digest) -> Self {
        let mut name = Self::EMPTY;
        name.push_digest(digest);
        name
    }
}

impl From<Comment> for Name {
    fn from(comment: Comment) -> Self {
        let mut name = Self::EMPTY;
        match comment {
            Comment::Generation(generation) => {
                name.push(b"generation ");
                name.push_number(generation.0);
            }
            Comment::Seats { seats, slots } => {
                name.push_number(seats.into());
                name.push(b" seats, ");
                name.push_number(slots.into());
                name.push(b" slots");
            }
            Comment::WorkerPorts(range) => {
                name.push(b"worker ports ");
                name.push_number(range.first().number().into());
                name.push(b"-");
                name.push_number(range.last().number().into());
            }
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Generation;

    #[test]
    fn the_longest_of_each_kind_fit() {
        let seat = Seat(u16::MAX);
        let ports = SetName::Ports(seat, Protocol::Tcp, Digest(0x0123_cdef));
        assert_eq!(Name::from(ports).as_str(), "seat_65535_tcp_0123cdef");
        let survivors = SetName::Survivors(Digest(u32::MAX));
        assert_eq!(Name::from(survivors).as_str(), "survivors_ffffffff");
        let generation = Comment::Generation(Generation(u64::MAX));
        assert_eq!(Name::from(generation).as_str(), "generation 18446744073709551615");
        let seats = Comment::Seats { seats: u16::MAX, slots: u32::MAX };
        assert_eq!(Name::from(seats).as_str(), "65535 seats, 4294967295 slots");
        let ports = Comment::WorkerPorts("10000-65535".parse().unwrap());
        assert_eq!(Name::from(ports).as_str(), "worker ports 10000-65535");
    }

    #[test]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 99, 100, 1023, u16::MAX] {
            let name = Name::from(ChainName::Seat(Seat(number)));
            assert_eq!(name.as_str(), format!("seat_{number}"));
        }
    }

    #[test]
    fn a_text_longer_than_any_of_ours_is_none() {
        assert_eq!(Name::new(&"a".repeat(32)).unwrap().as_str(), "a".repeat(32));
        assert_eq!(Name::new(&"a".repeat(33)), None);
    }
}
