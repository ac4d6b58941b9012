//! What registers hold, and what goes into them: `struct nft_data` and registers
//! (include/uapi/linux/netfilter/nf_tables.h).

use crate::netlink::Attributes;
use crate::netlink::attribute::{nest, put_in_list, put_text, put_u32};

/// `NFTA_DATA_VALUE`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE`, `NFTA_VERDICT_CHAIN`.
pub(in crate::nft) const NFTA_DATA_VALUE: u16 = 1;
pub(in crate::nft) const NFTA_DATA_VERDICT: u16 = 2;
pub(in crate::nft) const NFTA_VERDICT_CODE: u16 = 1;
pub(in crate::nft) const NFTA_VERDICT_CHAIN: u16 = 2;

/// `NFT_REG_VERDICT`.
pub(super) const VERDICT_REGISTER: u32 = 0;

/// A data register, as the number (0 to 15) of its first 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Register(pub(in crate::nft) u32);

impl Register {
    /// The number that the kernel gives it: one of the four of 128 bits where it begins there
    /// (`NFT_REG_1` is 1), else one of the sixteen of 32 bits (`NFT_REG32_00` is 8).
    pub(super) const fn number(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + self.0 / 4 } else { 8 + self.0 }
    }

    /// The register with this number of the kernel's.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        match number {
            1..=4 => Some(Self((number - 1) * 4)),
            8..=23 => Some(Self(number - 8)),
            _ => None,
        }
    }

    /// The register that an attribute of this kind names.
    pub(super) fn read(attributes: Attributes<'_>, kind: u16) -> Option<Self> {
        Self::from_number(attributes.u32(kind)?)
    }
}

/// Up to 16 bytes, as many as an address has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Data {
    bytes: [u8; Self::MAX_LEN],
    length: usize,
}

impl Data {
    pub(super) const MAX_LEN: usize = 16;

    /// These bytes; `None` for more than 16.
    pub(in crate::nft) fn new(from: &[u8]) -> Option<Self> {
        let mut bytes = [0; Self::MAX_LEN];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        Some(Self { bytes, length: from.len() })
    }

    /// The value in an attribute of this kind, if that holds a value and not a verdict.
    pub(super) fn read(attributes: Attributes<'_>, kind: u16) -> Option<Self> {
        Self::new(attributes.nested(kind)?.get(NFTA_DATA_VALUE)?)
    }

    pub(in crate::nft) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl<const LEN: usize> From<[u8; LEN]> for Data {
    fn from(bytes: [u8; LEN]) -> Self {
        const { assert!(LEN <= Self::MAX_LEN, "longer than an address") };
        Self::new(&bytes).expect("checked at compile time")
    }
}

/// Writes a value.
pub(in crate::nft) fn put_data(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_in_list(buffer, kind, NFTA_DATA_VALUE, value);
}

/// `NFT_GOTO`.
pub(in crate::nft) const GOTO: i32 = -4;

/// Writes the verdict to go to a chain.
pub(in crate::nft) fn put_goto(buffer: &mut Vec<u8>, chain: impl AsRef<[u8]>) {
    nest(buffer, NFTA_DATA_VERDICT, |buffer| {
        put_u32(buffer, NFTA_VERDICT_CODE, GOTO.cast_unsigned());
        put_text(buffer, NFTA_VERDICT_CHAIN, chain);
    });
}

/// Writes a verdict without a chain.
pub(super) fn put_verdict(buffer: &mut Vec<u8>, kind: u16, code: u32) {
    nest(buffer, kind, |buffer| {
        nest(buffer, NFTA_DATA_VERDICT, |buffer| put_u32(buffer, NFTA_VERDICT_CODE, code));
    });
}
