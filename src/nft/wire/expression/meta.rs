//! `meta`: what the kernel knows of a packet beside its bytes.

use super::Expression;
use crate::netlink::Attributes;
use crate::netlink::attribute::put_u32;
use crate::nft::wire::data::Register;

pub(in crate::nft) const NFTA_META_DREG: u16 = 1;
pub(in crate::nft) const NFTA_META_KEY: u16 = 2;
pub(in crate::nft) const NFTA_META_SREG: u16 = 3;

/// What is loaded (enum `nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) enum MetaKey {
    /// `NFT_META_PROTOCOL`: what the link says that it carries.
    EtherType = 1,
    /// `NFT_META_IIF`: the index of the input interface.
    InputInterface = 4,
    /// `NFT_META_OIF`: the index of the output interface.
    OutputInterface = 5,
    /// `NFT_META_IIFTYPE`: the kind of the input interface (`ARPHRD_*`).
    InputKind = 8,
    /// `NFT_META_NFPROTO`: IPv4 or IPv6, as netfilter counts them.
    Family = 15,
    /// `NFT_META_L4PROTO`: the transport protocol.
    Protocol = 16,
}

impl MetaKey {
    const ALL: [Self; 6] = [
        Self::EtherType,
        Self::InputInterface,
        Self::OutputInterface,
        Self::InputKind,
        Self::Family,
        Self::Protocol,
    ];
}

pub(super) fn emit(buffer: &mut Vec<u8>, key: MetaKey, to: Register) {
    put_u32(buffer, NFTA_META_KEY, key as u32);
    put_u32(buffer, NFTA_META_DREG, to.number());
}

pub(super) fn parse(data: Attributes<'_>) -> Option<Expression> {
    data.has_only(&[NFTA_META_KEY, NFTA_META_DREG]).then_some(())?;
    let number = data.u32(NFTA_META_KEY)?;
    let key = MetaKey::ALL.into_iter().find(|key| *key as u32 == number)?;
    Some(Expression::LoadMeta { key, to: Register::read(data, NFTA_META_DREG)? })
}
