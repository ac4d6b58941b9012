//! `payload`: loads bytes of a header, or writes them.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

pub(in crate::nft) const NFTA_PAYLOAD_DREG: u16 = 1;
pub(in crate::nft) const NFTA_PAYLOAD_BASE: u16 = 2;
pub(in crate::nft) const NFTA_PAYLOAD_OFFSET: u16 = 3;
pub(in crate::nft) const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_PAYLOAD_SREG: u16 = 5;
const NFTA_PAYLOAD_CSUM_TYPE: u16 = 6;
const NFTA_PAYLOAD_CSUM_OFFSET: u16 = 7;
const NFTA_PAYLOAD_CSUM_FLAGS: u16 = 8;

const KNOWN: [u16; 8] = [
    NFTA_PAYLOAD_DREG,
    NFTA_PAYLOAD_BASE,
    NFTA_PAYLOAD_OFFSET,
    NFTA_PAYLOAD_LEN,
    NFTA_PAYLOAD_SREG,
    NFTA_PAYLOAD_CSUM_TYPE,
    NFTA_PAYLOAD_CSUM_OFFSET,
    NFTA_PAYLOAD_CSUM_FLAGS,
];

/// `NFT_PAYLOAD_CSUM_NONE`, `NFT_PAYLOAD_CSUM_INET`.
const NO_CHECKSUM: u32 = 0;
const INTERNET_CHECKSUM: u32 = 1;

/// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`.
const PSEUDO_HEADER: u32 = 1;

/// The header from whose beginning bytes are counted (enum `nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum Header {
    /// `NFT_PAYLOAD_LL_HEADER`
    Link = 0,
    /// `NFT_PAYLOAD_NETWORK_HEADER`
    Network = 1,
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`
    Transport = 2,
}

/// The checksums that count the bytes that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Checksum {
    /// Where the header has its own checksum; `None` for a header that has none.
    pub(in crate::nft) offset: Option<u32>,
    /// Whether the checksum of the transport header counts these bytes too.
    pub(in crate::nft) in_pseudo_header: bool,
}

pub(super) fn emit_load(
    buffer: &mut Vec<u8>,
    header: Header,
    offset: u32,
    length: u32,
    to: Register,
) {
    put_u32(buffer, NFTA_PAYLOAD_DREG, to.number());
    put_place(buffer, header, offset, length);
}

pub(super) fn emit_store(
    buffer: &mut Vec<u8>,
    from: Register,
    header: Header,
    offset: u32,
    length: u32,
    checksum: Checksum,
) {
    put_u32(buffer, NFTA_PAYLOAD_SREG, from.number());
    put_place(buffer, header, offset, length);
    let (kind, at) = checksum.offset.map_or((NO_CHECKSUM, 0), |at| (INTERNET_CHECKSUM, at));
    put_u32(buffer, NFTA_PAYLOAD_CSUM_TYPE, kind);
    put_u32(buffer, NFTA_PAYLOAD_CSUM_OFFSET, at);
    let flags = if checksum.in_pseudo_header { PSEUDO_HEADER } else { 0 };
    put_u32(buffer, NFTA_PAYLOAD_CSUM_FLAGS, flags);
}

fn put_place(buffer: &mut Vec<u8>, header: Header, offset: u32, length: u32) {
    put_u32(buffer, NFTA_PAYLOAD_BASE, header as u32);
    put_u32(buffer, NFTA_PAYLOAD_OFFSET, offset);
    put_u32(buffer, NFTA_PAYLOAD_LEN, length);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&KNOWN).then_some(())?;
    let header = match data.u32(NFTA_PAYLOAD_BASE)? {
        0 => Header::Link,
        1 => Header::Network,
        2 => Header::Transport,
        _ => return None,
    };
    let (offset, length) = (data.u32(NFTA_PAYLOAD_OFFSET)?, data.u32(NFTA_PAYLOAD_LEN)?);
    match (data.get(NFTA_PAYLOAD_DREG), data.get(NFTA_PAYLOAD_SREG)) {
        (Some(_), None) => {
            let to = Register::read(data, NFTA_PAYLOAD_DREG)?;
            Some(Expression::LoadPayload { header, offset, length, to })
        }
        (None, Some(_)) => {
            let from = Register::read(data, NFTA_PAYLOAD_SREG)?;
            let checksum = parse_checksum(data);
            Some(Expression::Store { from, header, offset, length, checksum })
        }
        _ => None,
    }
}

fn parse_checksum(data: Attributes<'_>) -> Checksum {
    let is_internet = data.u32(NFTA_PAYLOAD_CSUM_TYPE) == Some(INTERNET_CHECKSUM);
    let offset = data.u32(NFTA_PAYLOAD_CSUM_OFFSET).unwrap_or(0);
    Checksum {
        offset: is_internet.then_some(offset),
        in_pseudo_header: data.u32(NFTA_PAYLOAD_CSUM_FLAGS) == Some(PSEUDO_HEADER),
    }
}
