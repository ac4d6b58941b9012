//! `hash`: the kernel's Jenkins hash of a register, scaled to a modulus.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_HASH_SREG: u16 = 1;
const NFTA_HASH_DREG: u16 = 2;
const NFTA_HASH_LEN: u16 = 3;
const NFTA_HASH_MODULUS: u16 = 4;
const NFTA_HASH_SEED: u16 = 5;
const NFTA_HASH_OFFSET: u16 = 6;
const NFTA_HASH_TYPE: u16 = 7;

/// `NFT_HASH_JENKINS`.
const JENKINS: u32 = 0;

pub(super) fn emit(
    buffer: &mut Vec<u8>,
    from: Register,
    to: Register,
    length: u32,
    modulus: u32,
    seed: u32,
) {
    put_u32(buffer, NFTA_HASH_SREG, from.number());
    put_u32(buffer, NFTA_HASH_DREG, to.number());
    put_u32(buffer, NFTA_HASH_LEN, length);
    put_u32(buffer, NFTA_HASH_MODULUS, modulus);
    put_u32(buffer, NFTA_HASH_SEED, seed);
    put_u32(buffer, NFTA_HASH_OFFSET, 0);
    put_u32(buffer, NFTA_HASH_TYPE, JENKINS);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    let is_ours =
        data.u32(NFTA_HASH_OFFSET).unwrap_or(0) == 0 && data.u32(NFTA_HASH_TYPE)? == JENKINS;
    is_ours.then_some(())?;
    Some(Expression::Hash {
        from: Register::read(data, NFTA_HASH_SREG)?,
        to: Register::read(data, NFTA_HASH_DREG)?,
        length: data.u32(NFTA_HASH_LEN)?,
        modulus: data.u32(NFTA_HASH_MODULUS)?,
        // The kernel tells the seed only if it was given, and ours always are.
        seed: data.u32(NFTA_HASH_SEED)?,
    })
}
