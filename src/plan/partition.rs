//! The pure function from a client's address to its slot.

use std::net::IpAddr;

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
    /// The kernel's jhash of the address, scaled to the number of slots. Made by [`Self::hash`].
    #[non_exhaustive]
    Hash {
        /// The number of slots.
        slots: u32,
        /// The seed of the hash. Fixed, so that clients keep their worker across restarts.
        seed: u32,
    },
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
            Ok(Self::Hash { slots, seed })
        } else {
            Err(PlanError::SlotCount { slots })
        }
    }

    /// The number of slots.
    pub fn slots(&self) -> u32 {
        match *self {
            Self::Mask { slots } | Self::Hash { slots, .. } => slots,
        }
    }

    /// The slot of a client.
    ///
    /// An IPv4-mapped address (`::ffff:10.8.1.7`) counts as the IPv4 address in it. Servers that
    /// listen on `::` write clients down so; no packet has such a source (`ip6_rcv_core` drops them
    /// since Linux 5.4).
    pub fn slot_of(&self, client: IpAddr) -> Slot {
        let client = client.to_canonical();
        match *self {
            Self::Mask { slots } => Slot(low_bits(client) & (slots - 1)),
            Self::Hash { slots, seed } => Slot(hashed(client, seed, slots)),
        }
    }

    /// The seed of the hash by which the clients of a vacant seat spread over the survivors. Not
    /// the partition's own: the clients of one seat are alike in that one.
    pub fn spread_seed(&self) -> u32 {
        match *self {
            Self::Mask { .. } => !Self::DEFAULT_SEED,
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
