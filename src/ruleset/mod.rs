//! The nftables objects that a plan lowers to, and the transactions between plans. Pure.
//!
//! [`lower`] gives the whole table of a plan; it prints in nft syntax. `Transition` gives the
//! operations that change the table of one plan into that of another, with nothing in them that
//! need not change, and what they leave: no packet may find the rules that it is on its way through
//! without the maps that these use (`Stale`).
//!
//! ```
//! use ipcluster::plan::{Generation, Listeners, Occupant, Partition, Plan, Port, Seat, Weights};
//!
//! let listeners = Listeners::new(vec!["0.0.0.0:80".parse()?])?;
//! let mut plan =
//!     Plan::new("web".parse()?, listeners, Partition::hash(64)?, &Weights::equal(1)?, None)?;
//! plan.occupy(Seat(0), Occupant::new(Generation::FIRST, [Port::new(20000).unwrap()]))?;
//! let text = ipcluster::ruleset::lower(&plan).to_string(); // what `nft -f` reads
//! assert!(text.starts_with("table inet ipcluster_web {"), "{text}");
//! # Ok::<(), ipcluster::plan::PlanError>(())
//! ```

#[cfg(any(test, feature = "internals"))]
mod fake_table;
mod fleet;
#[cfg(feature = "internals")]
pub(crate) mod fuzzing;
mod lower;
mod name;
pub(crate) mod object;
mod raise;
pub(crate) mod stale;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod transition;
mod translation;

#[cfg(any(test, feature = "internals"))]
pub(crate) use fake_table::{FakeTable, TableError};
pub(crate) use fleet::{
    ClientAddress, FleetHook, FleetMap, FleetRule, FleetSet, FleetTable, FleetTableKind,
    FleetTableName, MEMBERS, Mark, SECOND_CHANCE_PRIORITY, UNKNOWN_CHAIN, UNKNOWN_ERRORS_CHAIN,
    errors_chain, lower_known_fleet, owners_chain,
};
pub use fleet::{DeviceName, FleetHost, FleetRuleset, lower_fleet};
pub use lower::lower;
pub(crate) use name::Name;
#[cfg(any(test, feature = "internals"))]
pub(crate) use object::Digest;
pub(crate) use object::{
    BaseChain, Chain, ChainName, Comment, CounterName, Elements, Family, Hook, Rule, Scope, Set,
    SetName, TcpPorts, Translated,
};
pub use object::{CounterValue, Ruleset, TableName};
pub(crate) use object::{PRIORITY_DSTNAT, PRIORITY_MANGLE};
pub use raise::RaiseError;
pub(crate) use raise::raise;
pub(crate) use stale::Stale;
pub(crate) use text::{low_v4, low_v6};
pub(crate) use transition::{Operation, Transaction, Transition};
