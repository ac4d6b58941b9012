//! `dup` of the families `ip` and `ip6` (`NFTA_DUP_*`, net/ipv4/netfilter/nft_dup_ipv4.c).

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_DUP_SREG_ADDR: u16 = 1;
const NFTA_DUP_SREG_DEV: u16 = 2;

pub(super) fn emit(buffer: &mut Vec<u8>, address: Register, device: Register) {
    put_u32(buffer, NFTA_DUP_SREG_ADDR, address.number());
    put_u32(buffer, NFTA_DUP_SREG_DEV, device.number());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&[NFTA_DUP_SREG_ADDR, NFTA_DUP_SREG_DEV]).then_some(())?;
    Some(Expression::Duplicate {
        address: Register::read(data, NFTA_DUP_SREG_ADDR)?,
        device: Register::read(data, NFTA_DUP_SREG_DEV)?,
    })
}
