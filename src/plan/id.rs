//! The small types that identify things: ports, seats, slots, generations, names.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use super::PlanError;

/// A TCP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Port(NonZeroU16);

impl Port {
    /// The port with this number; `None` for 0, which no one can listen on.
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The lowest port.
    pub(super) const MIN: Self = Self(NonZeroU16::MIN);

    /// The highest port.
    pub(super) const MAX: Self = Self(NonZeroU16::MAX);

    /// The number, 1 to 65535.
    pub const fn number(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u16> for Port {
    type Error = InvalidPort;

    fn try_from(number: u16) -> Result<Self, InvalidPort> {
        Self::new(number).ok_or(InvalidPort)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> Self {
        port.number()
    }
}

/// Decimal digits alone, without a sign.
impl FromStr for Port {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_plain.then(|| text.parse().ok()).flatten();
        number.and_then(Self::new).ok_or(InvalidPort)
    }
}

/// A number or text that is no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a port, 1 to 65535")]
pub struct InvalidPort;

/// One cell of the partition of all client addresses, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A numbered place, 0 to N-1, that one live worker holds at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Seat(pub u16);

impl Seat {
    /// The seat as an index into tables that have one entry a seat.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a plan that has been (or is being) put into force; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of a cluster that was never reloaded.
    pub const FIRST: Self = Self(1);

    /// The generation that a reload of this one makes.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a cluster: 1 to 64 of `a-z A-Z 0-9 _ -`, beginning with a letter or a digit.
///
/// The kernel takes names of up to 255 bytes (`NFT_NAME_MAXLEN`), but the name is also part of the
/// path of a Unix socket, which holds 107 bytes in all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        if is_plain_name(text, Self::MAX_LEN) {
            Ok(Self(text.into()))
        } else {
            Err(PlanError::Name { name: text.chars().take(Self::MAX_LEN).collect() })
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether this is a name: letters, digits, `_` and `-` of ASCII, the first one a letter or a digit.
pub(super) fn is_plain_name(text: &str, longest: usize) -> bool {
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let only_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    begins_well && only_plain && text.len() <= longest
}
