//! The generation of all rules of a network namespace, which each commit makes anew (`NFTA_GEN_*`,
//! include/uapi/linux/netfilter/nf_tables.h).

use crate::netlink::Attributes;

pub(in crate::nft) const NFTA_GEN_ID: u16 = 1;
pub(in crate::nft) const NFTA_GEN_PROC_PID: u16 = 2;
pub(in crate::nft) const NFTA_GEN_PROC_NAME: u16 = 3;

/// A generation as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::nft) struct Generation<'a> {
    /// Its number, which wraps around.
    pub(in crate::nft) id: u32,
    /// The process whose commit it is, as pid in the initial pid namespace and as name; `None` where
    /// the kernel does not tell (before Linux 4.17, or in answer to a question).
    pub(in crate::nft) process: Option<(u32, &'a [u8])>,
}

impl<'a> Generation<'a> {
    /// Reads the attributes of a message; `None` if it lacks a part.
    pub(in crate::nft) fn parse(attributes: Attributes<'a>) -> Option<Self> {
        let process = attributes.u32(NFTA_GEN_PROC_PID).zip(attributes.get(NFTA_GEN_PROC_NAME));
        Some(Self { id: attributes.u32(NFTA_GEN_ID)?, process })
    }
}
