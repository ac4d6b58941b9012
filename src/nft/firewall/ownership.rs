//! Whose the table is.
//!
//! A table with `NFT_TABLE_F_OWNER` (since Linux 5.12) can be changed by nobody but the netlink
//! socket that made or took it: others get `EPERM`, and `nft flush ruleset` leaves it out. With
//! `NFT_TABLE_F_PERSIST` (since 6.9) it outlives that socket, as an orphan: it works on, can be
//! changed by everybody, and `NEWTABLE` with both flags makes the sender its next owner. `PERSIST`
//! cannot be given to a table that was made without it (`EOPNOTSUPP`; `nf_tables_updtable`,
//! net/netfilter/nf_tables_api.c), and `OWNER` alone would take the table, and with it all
//! connections, away when its master ends: so a table of ours has both, or none.

use crate::nft::wire::attribute::{put_string, put_u32};
use crate::nft::wire::batch::{CREATE, Member};
use crate::nft::wire::message::{NEW_TABLE, NFTA_TABLE_FLAGS, NFTA_TABLE_NAME};

/// Whether the table of a cluster is to belong to its master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ownership {
    /// [`Owned`](Self::Owned) if the kernel can do that, else [`Shared`](Self::Shared).
    #[default]
    Auto,
    /// Only its master can change it. Needs Linux 6.9.
    Owned,
    /// Whoever may change rules can change it. `nft flush ruleset` removes it; a small table beside
    /// it, which the flush leaves out (since Linux 5.12), then keeps established connections alive
    /// until the table is made anew.
    Shared,
}

/// How the table is protected in fact: [`Ownership`] and what the kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// By ownership.
    Owned,
    /// Not at all; but established connections outlive `nft flush ruleset`.
    Kept,
    /// Not at all: the kernel is older than Linux 5.12.
    None,
}

/// A table with these flags, for a [dry run](crate::nft::wire::batch::Batch::dry_run). No nft could write its
/// name, so that there is none that has it.
pub(super) fn trial(flags: u32) -> Member {
    let mut body = vec![];
    put_string(&mut body, NFTA_TABLE_NAME, "ipcluster:trial");
    put_u32(&mut body, NFTA_TABLE_FLAGS, flags);
    Member { message: NEW_TABLE, flags: CREATE, body }
}
