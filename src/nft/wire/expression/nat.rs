//! `nat`: translates the destination to the address and the port in two registers.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
const NFTA_NAT_REG_ADDR_MAX: u16 = 4;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
const NFTA_NAT_FLAGS: u16 = 7;

/// `NFT_NAT_DNAT`.
const DESTINATION: u32 = 1;

/// `NF_NAT_RANGE_MAP_IPS`: a register holds an address; the kernel sets it by itself.
const ADDRESS_SPECIFIED: u32 = 1 << 0;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`: a register holds a port.
const PORT_SPECIFIED: u32 = 1 << 1;

pub(super) fn emit(buffer: &mut Vec<u8>, family: u8, address: Register, port: Register) {
    put_u32(buffer, NFTA_NAT_TYPE, DESTINATION);
    put_u32(buffer, NFTA_NAT_FAMILY, family.into());
    put_u32(buffer, NFTA_NAT_REG_ADDR_MIN, address.number());
    put_u32(buffer, NFTA_NAT_REG_PROTO_MIN, port.number());
    put_u32(buffer, NFTA_NAT_FLAGS, PORT_SPECIFIED);
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    let is_known = data.u32(NFTA_NAT_TYPE)? == DESTINATION
        && data.u32(NFTA_NAT_FLAGS)? & !ADDRESS_SPECIFIED == PORT_SPECIFIED;
    let family = u8::try_from(data.u32(NFTA_NAT_FAMILY)?).ok()?;
    let address = Register::read(data, NFTA_NAT_REG_ADDR_MIN)?;
    let port = Register::read(data, NFTA_NAT_REG_PROTO_MIN)?;
    // The kernel also tells the upper ends of the ranges: here the same registers.
    let last_address = Register::read(data, NFTA_NAT_REG_ADDR_MAX).unwrap_or(address);
    let last_port = Register::read(data, NFTA_NAT_REG_PROTO_MAX).unwrap_or(port);
    let is_one = (last_address, last_port) == (address, port);
    (is_known && is_one).then_some(Expression::TranslateDestination { family, address, port })
}
