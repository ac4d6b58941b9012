use std::fmt;

use crate::netlink::{Errno, NetlinkError};
use crate::plan::PlanError;
use crate::ruleset::{Operation, RaiseError, TableName};

/// Why the rules could not be read or changed. Unless it says otherwise, the kernel holds what it
/// held before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// The caller lacks `CAP_NET_ADMIN` in this network namespace.
    #[error("no permission to change nftables rules: CAP_NET_ADMIN is missing")]
    Privilege,
    /// Netlink itself failed.
    #[error("table inet {table}: cannot {intent}")]
    Netlink {
        /// The table.
        table: TableName,
        /// What was being done.
        intent: &'static str,
        /// What failed.
        source: NetlinkError,
    },
    /// The kernel refused a transaction. Nothing of it is in force.
    #[error("table inet {table}: the kernel refused the change: {}", Faults(.faults))]
    Refused {
        /// The table.
        table: TableName,
        /// Every fault that it found, in the order of the operations.
        faults: Vec<Fault>,
    },
    /// The table has our name, but somebody else made it. It was left alone.
    #[error("table inet {table} exists already and was not made by ipcluster")]
    ForeignTable {
        /// The table.
        table: TableName,
    },
    /// The table is ours, but another version of ipcluster made it, whose layout this one does not
    /// know. It was left alone. Tables of older schemas that this version
    /// [migrates](Self::can_be_replaced) are refused by reading alone.
    #[error("table inet {table} is of schema {found}; this version of ipcluster has schema {ours}")]
    Schema {
        /// The table.
        table: TableName,
        /// Its schema.
        found: u32,
        /// That of this version, `TableName::SCHEMA`.
        ours: u32,
    },
    /// The table belongs to another netlink socket, which is still open somewhere
    /// (`NFT_TABLE_F_OWNER`): that of a master that runs, or of a process that has inherited it.
    #[error(
        "table inet {table} belongs to another process that runs: netlink port id {owner}, {}",
        PortId(*.owner)
    )]
    OwnedByOther {
        /// The table.
        table: TableName,
        /// The netlink port id of its owner's socket (`NFTA_TABLE_OWNER`): the pid of the process
        /// that opened it, if that was its first socket for netfilter; else a number above 2^31.
        owner: u32,
    },
    /// The kernel has no tables that belong to somebody and outlive him: they came with Linux 6.9.
    #[error("the kernel cannot protect tables: {errno} (NFT_TABLE_F_PERSIST needs Linux 6.9)")]
    NoOwnership {
        /// What it said to the flags.
        errno: Errno,
    },
    /// The table is ours, but this version does not understand it, or somebody has changed it.
    #[error("table inet {table} is not understood: {reason}")]
    NotUnderstood {
        /// The table.
        table: TableName,
        /// What is wrong with it.
        reason: NotUnderstood,
    },
    /// After a change the kernel holds something other than the plan.
    #[error("table inet {table} does not hold what was put into it: {object} differs")]
    Differs {
        /// The table.
        table: TableName,
        /// The first object that differs.
        object: String,
    },
    /// Other programs change rules faster than what is there can be read and acted upon.
    #[error("table inet {table}: other programs changed rules during each of {attempts} attempts")]
    Overtaken {
        /// The table.
        table: TableName,
        /// How often it was tried.
        attempts: u32,
    },
    /// The plan is of another cluster.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl NftError {
    /// What to do about it, in one line; `None` where the message says it all.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Privilege => {
                "run it as root, or give the program the capability: setcap cap_net_admin+ep PROGRAM"
            }
            Self::ForeignTable { .. } => {
                "choose another name for the cluster (`name`), or remove that table"
            }
            Self::OwnedByOther { .. } => {
                "another master of this cluster runs, perhaps in another runtime directory, or a \
                 program still holds its netlink socket: end it; `nft list ruleset` names it, \
                 `ss --family=netlink --processes` gives its pid"
            }
            Self::Schema { .. } => {
                "use that version of ipcluster, also to stop the cluster or to flush its rules"
            }
            Self::NoOwnership { .. } => "use `ownership` auto or shared",
            Self::NotUnderstood { .. } => {
                "it was made by another version, or changed by hand, and serves as it is: start the version that \
                 made it, also to `stop` the cluster; `ipcluster flush NAME` removes it and cuts its connections"
            }
            Self::Netlink { .. } => "`ipcluster check` says what this machine lacks",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether the table is one of ours, whose contents this version cannot read, and that
    /// [`Firewall::restore`](super::Firewall::restore) replaces whole all the same: of an older
    /// schema, or changed by somebody.
    pub fn can_be_replaced(&self) -> bool {
        match self {
            Self::Schema { found, .. } => is_older_schema(*found),
            Self::NotUnderstood { .. } => true,
            _ => false,
        }
    }
}

/// Whether a table of this schema may be removed or replaced whole by this version: no table of ours
/// needs more than that to be gone.
pub(super) fn is_older_schema(found: u32) -> bool {
    (1..TableName::SCHEMA).contains(&found)
}

/// What a netlink port id says of the process that opened the socket.
struct PortId(u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i32::try_from(self.0) {
            // netlink_autobind(): the first socket of a process gets its pid, further ones numbers
            // that are negative as an i32.
            Ok(_) => f.write_str("the pid of the process that opened the socket"),
            Err(_) => f.write_str("not the first netfilter socket of its process"),
        }
    }
}

/// What about a table is not understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotUnderstood {
    /// An object that this version does not write.
    #[error("{object} is not as this version writes it")]
    Object {
        /// The object.
        object: String,
    },
    /// Objects that make up no plan.
    #[error(transparent)]
    Whole(#[from] RaiseError),
}

/// One fault that the kernel found in a transaction.
///
/// Its text names the operation at fault, and what the kernel says to it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The operation at fault; `None` if it is the transaction as a whole.
    pub(crate) operation: Option<Operation>,
    /// The errno.
    pub errno: Errno,
    /// Where in the operation's message, in bytes from its header, the kernel found it.
    pub offset: Option<u32>,
    /// The kernel's words.
    pub text: Option<String>,
}

#[cfg(any(test, feature = "internals"))]
impl Fault {
    /// The operation at fault; `None` if it is the transaction as a whole.
    pub fn operation(&self) -> Option<&Operation> {
        self.operation.as_ref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.operation {
            Some(operation) => write!(f, "{}: {}", Described(operation), self.errno.description())?,
            None => write!(f, "the transaction: {}", self.errno.description())?,
        }
        match &self.text {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

struct Faults<'a>(&'a [Fault]);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("no reason given"),
            [fault] => fault.fmt(f),
            [fault, others @ ..] => write!(f, "{fault}; and {} more", others.len()),
        }
    }
}

/// An operation as the words of a message.
struct Described<'a>(&'a Operation);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Operation::AddTable => f.write_str("add the table"),
            Operation::DeleteTable => f.write_str("delete the table"),
            Operation::AddCounter(counter, _) => write!(f, "add counter {counter}"),
            Operation::DeleteCounter(counter) => write!(f, "delete counter {counter}"),
            Operation::AddChain(chain) => write!(f, "add chain {chain}"),
            Operation::FlushChain(chain) => write!(f, "flush chain {chain}"),
            Operation::DeleteChain(chain) => write!(f, "delete chain {chain}"),
            Operation::AddSet(set) => write!(f, "add set {}", set.name),
            Operation::DeleteSet(set) => write!(f, "delete set {set}"),
            Operation::AddPorts(set, _) => write!(f, "add ports to set {set}"),
            Operation::DeletePorts(set, _) => write!(f, "delete ports from set {set}"),
            Operation::AddRule(chain, rule) => write!(f, "add to chain {chain} the rule {rule}"),
        }
    }
}
