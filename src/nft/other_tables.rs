//! The tables of everybody else: those that a ruleset can hold which is to be loaded beside ours.
//!
//! A ruleset is loaded whole or not at all, and a table that belongs to the socket of a running program
//! (`NFT_TABLE_F_OWNER`) can be changed by nobody else: one such table in a file, and nothing of the file is
//! loaded. So these are left out, and ours in any case: a master makes its rules itself.

use std::fmt;

use super::error::NftError;
use super::firewall::netlink_error;
use super::wire::dump;
use super::wire::message::{
    self, GET_TABLE, HEADER_LEN, MALFORMED, NEW_TABLE, UNSPECIFIED, header, kind,
};
use super::wire::table::{Table, TableOwner};
use crate::netlink::{NetlinkError, NlFamily, Socket};
use crate::ruleset::TableName;

const ANY_FAMILY: [u8; HEADER_LEN] = header(UNSPECIFIED, 0);

/// A table of somebody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OtherTable {
    /// Its family, by the word that nft has for it.
    pub(crate) family: &'static str,
    pub(crate) name: String,
    /// It belongs to the socket of a running program.
    pub(crate) is_owned: bool,
}

impl fmt::Display for OtherTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {} {}", self.family, self.name.escape_default())
    }
}

/// Lists the tables of everybody else.
pub(crate) struct OtherTables {
    socket: Socket,
}

impl OtherTables {
    /// Opens a netlink socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`NftError::Netlink`].
    pub(crate) fn open() -> Result<Self, NftError> {
        let socket = Socket::open(NlFamily::Netfilter).map_err(failed)?;
        Ok(Self { socket })
    }

    /// The tables that are of no cluster and no fleet, in the kernel's order.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub(crate) fn list(&mut self) -> Result<Vec<OtherTable>, NftError> {
        let tables = self.socket.dump(kind(GET_TABLE), 0, &ANY_FAMILY, |kind, body| {
            let table = Table::parse(message::open(NEW_TABLE, kind, body)?).ok_or(MALFORMED)?;
            let family = body.first().and_then(|number| family(*number)).ok_or(MALFORMED)?;
            let is_ours = table.schema.is_some() || table.is_of_fleet;
            Ok((!is_ours).then_some(OtherTable {
                family,
                name: table.name,
                is_owned: matches!(table.owner, TableOwner::Socket(_)),
            }))
        });
        tables.map_err(failed)
    }

    /// The number of the last transaction, when that is over: what was read before and after it has changed is of
    /// two rulesets.
    ///
    /// # Errors
    /// [`NftError::Privilege`], [`NftError::Netlink`].
    pub(crate) fn generation_id(&mut self) -> Result<u32, NftError> {
        dump::settled_generation_id(&mut self.socket).map_err(failed)
    }
}

/// `NFPROTO_*` (include/uapi/linux/netfilter.h).
fn family(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    })
}

fn failed(source: NetlinkError) -> NftError {
    netlink_error(&TableName::any(), "list the tables of others", source)
}
