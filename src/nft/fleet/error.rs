use crate::netlink::{Errno, NetlinkError};

/// Why the rules of a fleet could not be read or changed. The kernel holds what it held before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetRulesError {
    /// The caller lacks `CAP_NET_ADMIN` in this network namespace.
    #[error("no permission to change nftables rules: CAP_NET_ADMIN is missing")]
    Privilege,
    /// Netlink itself failed.
    #[error("tables {table}: cannot {intent}")]
    Netlink { table: String, intent: &'static str, source: NetlinkError },
    /// The kernel refused a change.
    #[error("tables {table}: the kernel refused the change of {object}: {errno}{}", said(.text))]
    Refused { table: String, object: String, errno: Errno, text: Option<String> },
    /// A table has our name, but somebody else made it.
    #[error("table {family} {table} exists already and was not made by ipcluster: remove it")]
    ForeignTable { family: &'static str, table: String },
    /// A later version made it.
    #[error("table {family} {table} is of schema {found}, which this version does not know")]
    Schema { family: &'static str, table: String, found: u32 },
    /// Another process, that still runs, owns a table.
    #[error("table {family} {table} belongs to another process that runs: netlink port id {owner}")]
    OwnedByOther { family: &'static str, table: String, owner: u32 },
    /// There is no such device.
    #[error("there is no network device {device}")]
    NoDevice { device: String },
    /// The kernel holds something else than what was put there.
    #[error("table {family} {table} does not hold what was put into it: {object} differs")]
    Differs { family: &'static str, table: String, object: String },
    /// Other programs change rules faster than what is there can be read and acted upon.
    #[error("tables {table}: other programs changed rules during each of {attempts} attempts")]
    Overtaken { table: String, attempts: u32 },
}

fn said(text: &Option<String>) -> String {
    text.as_ref().map_or_else(String::new, |text| format!(": {text}"))
}
