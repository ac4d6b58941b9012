//! Whose the table is.
//!
//! A table with `NFT_TABLE_F_OWNER` (since Linux 5.12) can be changed by nobody but the netlink
//! socket that made or took it: others get `EPERM`, and `nft flush ruleset` leaves it out. With
//! `NFT_TABLE_F_PERSIST` (since 6.9) it outlives that socket, as an orphan: it works on, can be
//! changed by everybody, and `NEWTABLE` with both flags makes the sender its next owner. `PERSIST`
//! cannot be given to a table that was made without it (`EOPNOTSUPP`; `nf_tables_updtable`,
//! net/netfilter/nf_tables_api.c), and `OWNER` alone would take the table, and with it all
//! connections, away when its master ends: so a table of ours has both, or none.

use crate::nft::wire::batch::Member;
use crate::nft::wire::message::{CREATE, NEW_TABLE};
use crate::nft::wire::table;

/// How the table is protected in fact: [`Ownership`](crate::plan::Ownership) and what the kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protection {
    /// By ownership.
    Owned,
    /// Not at all; but established connections outlive `nft flush ruleset`.
    Kept,
    /// Not at all: the kernel is older than Linux 5.12.
    None,
}

/// A table with these flags, for a [dry run](crate::nft::wire::batch::Batch::dry_run). Its name is one
/// that nft cannot write, so that there is no table of that name.
pub(super) fn trial(flags: u32) -> Member {
    let mut body = vec![];
    table::put_flags(&mut body, "ipcluster:trial", flags);
    Member { message: NEW_TABLE, flags: CREATE, body }
}
