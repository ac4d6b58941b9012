//! The pure function from a client's address to its slot.

use std::net::{IpAddr, SocketAddr};

use super::jhash::{jhash, scale};
use super::{PlanError, Slot};

/// How client addresses fall into slots.
///
/// An IPv6 client counts by its /64 in both kinds: it changes the lower half at will (privacy
/// extensions, RFC 8981).
///
/// ```
/// use std::net::Ipv4Addr;
///
/// use ipcluster::plan::{Partition, Slot};
///
/// let partition = Partition::mask(8)?;
/// assert_eq!(partition.slot_of(Ipv4Addr::new(192, 0, 2, 13).into()), Slot(5));
/// # Ok::<(), ipcluster::plan::PlanError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// The low bits of the address, `source & (slots - 1)`: exactly the slots of the older system.
    /// Needs a power of two, and one slot for each seat. Made by [`Self::mask`].
    #[non_exhaustive]
    Mask {
        /// The number of slots.
        slots: u32,
    },
    /// The kernel's jhash of the address, scaled to the number of slots. Made by [`Self::hash`]; or of
    /// address and port, made by [`Self::connection`].
    #[non_exhaustive]
    Hash {
        /// The number of slots.
        slots: u32,
        /// The seed of the hash. Fixed, so that clients keep their worker across restarts.
        seed: u32,
        /// What is hashed.
        input: HashInput,
    },
    /// A slot that the kernel draws for each connection: nobody can tell it beforehand. Made by
    /// [`Self::random`].
    #[non_exhaustive]
    Random {
        /// The number of slots.
        slots: u32,
    },
}

/// What of a connection the hash of a [`Partition`] is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HashInput {
    /// The client's address, of IPv6 its /64: all connections of a client reach one worker.
    #[default]
    Address,
    /// The client's whole address and its port: each of its connections can reach another worker.
    Connection,
}

impl Partition {
    /// The most slots. The kernel validates every jump of the map anew at each commit, so this
    /// many are slow: to replace 1,024 workers on 65,536 slots took 23 ms on Linux 6.18, 8 workers
    /// on 1,024 slots 0.1 ms.
    pub const MAX_SLOTS: u32 = 65_536;

    /// The slots of a cluster that does not say how many it wants.
    pub const DEFAULT_SLOTS: u32 = 1024;

    /// The seed of a cluster that does not choose one. Any fixed number does.
    pub const DEFAULT_SEED: u32 = 0x1bc1_5735;

    /// A partition by the low bits of the address.
    ///
    /// # Errors
    /// [`PlanError::MaskNotPowerOfTwo`] unless `slots` is 1, 2, 4 ... 1024.
    pub fn mask(slots: u32) -> Result<Self, PlanError> {
        if slots.is_power_of_two() && slots <= u32::from(super::MAX_SEATS) {
            Ok(Self::Mask { slots })
        } else {
            Err(PlanError::MaskNotPowerOfTwo { workers: slots })
        }
    }

    /// A partition by hash with the default seed.
    ///
    /// # Errors
    /// [`PlanError::SlotCount`] unless `slots` is 1 to [`Self::MAX_SLOTS`].
    pub fn hash(slots: u32) -> Result<Self, PlanError> {
        Self::hash_seeded(slots, Self::DEFAULT_SEED)
    }

    /// A partition by hash with a seed of the caller's.
    ///
    /// # Errors
    /// [`PlanError::SlotCount`] unless `slots` is 1 to [`Self::MAX_SLOTS`].
    pub fn hash_seeded(slots: u32, seed: u32) -> Result<Self, PlanError> {
        if (1..=Self::MAX_SLOTS).contains(&slots) {
            Ok(Self::Hash { slots, seed, input: HashInput::Address })
        } else {
            Err(PlanError::SlotCount { slots })
        }
    }

    /// A partition by hash of a connection, its client's address and port, with the default seed: for
    /// clients of which a proxy makes one. No client is led to the same worker twice but by chance.
    ///
    /// # Errors
    /// [`PlanError::SlotCount`] unless `slots` is 1 to [`Self::MAX_SLOTS`].
    pub fn connection(slots: u32) -> Result<Self, PlanError> {
        Ok(Self::hash(slots)?.of_input(HashInput::Connection))
    }

    /// A partition in which the kernel draws a slot for each connection.
    ///
    /// For [`Engine::Redirect`](super::Engine) alone, whose rules see the first packet of a connection, and
    /// conntrack keeps what was drawn for it. With the other engine each datagram would be led anew, and so
    /// would the last packet of a handshake that the kernel has answered by SYN cookie.
    ///
    /// # Errors
    /// [`PlanError::SlotCount`] unless `slots` is 1 to [`Self::MAX_SLOTS`].
    pub fn random(slots: u32) -> Result<Self, PlanError> {
        Self::hash(slots).map(|_| Self::Random { slots })
    }

    /// The same with another input of the hash.
    pub(crate) fn of_input(self, input: HashInput) -> Self {
        match self {
            Self::Hash { slots, seed, .. } => Self::Hash { slots, seed, input },
            other @ (Self::Mask { .. } | Self::Random { .. }) => other,
        }
    }

    /// What is hashed, to find a slot or, for a mask, one of the survivors; `None` where nothing of a
    /// connection tells its slot ([`Self::Random`]).
    pub fn input(&self) -> Option<HashInput> {
        match *self {
            Self::Hash { input, .. } => Some(input),
            Self::Mask { .. } => Some(HashInput::Address),
            Self::Random { .. } => None,
        }
    }

    /// The number of slots.
    pub fn slots(&self) -> u32 {
        match *self {
            Self::Mask { slots } | Self::Hash { slots, .. } | Self::Random { slots } => slots,
        }
    }

    /// The slot of a client; with [`HashInput::Connection`] that of its connections from port 0, of which
    /// there are none: see [`Self::slot_of_connection`]. With [`Self::Random`] it is slot 0, which says
    /// nothing: see [`Self::input`].
    ///
    /// An IPv4-mapped address (`::ffff:10.8.1.7`) counts as the IPv4 address in it. Servers that
    /// listen on `::` write clients down so; no packet has such a source (`ip6_rcv_core` drops them
    /// since Linux 5.4).
    pub fn slot_of(&self, client: IpAddr) -> Slot {
        let client = client.to_canonical();
        match *self {
            Self::Mask { slots } => Slot(low_bits(client) & (slots - 1)),
            Self::Hash { slots, seed, input: HashInput::Address } => {
                Slot(hashed(client, seed, slots))
            }
            Self::Hash { slots, seed, input: HashInput::Connection } => {
                Slot(hashed_connection(SocketAddr::new(client, 0), seed, slots))
            }
            Self::Random { .. } => Slot(0),
        }
    }

    /// The slot of a connection from this address and port.
    pub fn slot_of_connection(&self, from: SocketAddr) -> Slot {
        match *self {
            Self::Hash { slots, seed, input: HashInput::Connection } => {
                Slot(hashed_connection(from, seed, slots))
            }
            _ => self.slot_of(from.ip()),
        }
    }

    /// The seed of the hash by which the clients of a vacant seat spread over the survivors. Not
    /// the partition's own: the clients of one seat are alike in that one.
    pub fn spread_seed(&self) -> u32 {
        match *self {
            Self::Mask { .. } | Self::Random { .. } => !Self::DEFAULT_SEED,
            Self::Hash { seed, .. } => !seed,
        }
    }
}

/// The jhash of a client's address (v4) or /64 (v6), scaled to `0..range`.
pub(crate) fn hashed(client: IpAddr, seed: u32, range: u32) -> u32 {
    let hash = match client.to_canonical() {
        IpAddr::V4(v4) => jhash([u32::from_le_bytes(v4.octets())], seed),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h, ..] = v6.octets();
            jhash([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])], seed)
        }
    };
    scale(hash, range)
}

/// The jhash of the address and port that a connection comes from, scaled to `0..range`. The port fills a
/// register, and so four bytes.
pub(crate) fn hashed_connection(from: SocketAddr, seed: u32, range: u32) -> u32 {
    let [high, low] = from.port().to_be_bytes();
    let port = u32::from_le_bytes([high, low, 0, 0]);
    let hash = match from.ip().to_canonical() {
        IpAddr::V4(v4) => jhash([u32::from_le_bytes(v4.octets()), port], seed),
        IpAddr::V6(v6) => {
            let words = v6.octets();
            let word = |place: usize| {
                let bytes = &words[4 * place..4 * place + 4];
                u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
            };
            jhash([word(0), word(1), word(2), word(3), port], seed)
        }
    };
    scale(hash, range)
}

/// The low 32 bits of a client's address (v4) or of its /64 (v6).
fn low_bits(client: IpAddr) -> u32 {
    match client {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => {
            let [_, _, _, _, e, f, g, h, ..] = v6.octets();
            u32::from_be_bytes([e, f, g, h])
        }
    }
}
