//! `fwd` (`NFTA_FWD_*`, net/netfilter/nft_fwd_netdev.c).

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_FWD_SREG_DEV: u16 = 1;
const NFTA_FWD_SREG_ADDR: u16 = 2;
const NFTA_FWD_NFPROTO: u16 = 3;

pub(super) fn emit(buffer: &mut Vec<u8>, device: Register, address: Register, family: u8) {
    put_u32(buffer, NFTA_FWD_SREG_DEV, device.number());
    put_u32(buffer, NFTA_FWD_SREG_ADDR, address.number());
    put_u32(buffer, NFTA_FWD_NFPROTO, family.into());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&[NFTA_FWD_SREG_DEV, NFTA_FWD_SREG_ADDR, NFTA_FWD_NFPROTO]).then_some(())?;
    Some(Expression::Forward {
        device: Register::read(data, NFTA_FWD_SREG_DEV)?,
        address: Register::read(data, NFTA_FWD_SREG_ADDR)?,
        family: u8::try_from(data.u32(NFTA_FWD_NFPROTO)?).ok()?,
    })
}
