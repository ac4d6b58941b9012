//! From typed values, a file and flags to a checked [`Config`].
//!
//! [`Config::builder`] takes typed values and checks them once, at
//! [`build`](ConfigBuilder::build); with the feature `toml` a file can be read as well
//! (`Config::from_file`), and values of a program laid over it. A configuration does not change any
//! more. A running master puts another one in force by a reload
//! ([`Builder::reload_from`](crate::master::Builder::reload_from)), as far as each setting says below; the
//! rest takes another master ([`Builder::replace`](crate::master::Builder::replace)).
//!
//! Every setting is declared once, in the table in `keys.rs`, from which everything else is made: the
//! methods of [`ConfigBuilder`] and [`Config`], the flags of `ipcluster run`, the keys of the file, the
//! checks, and the page below. Where 0 turns something off, `None` does, and `Some` of 0 as well.
//!
#![doc = include_str!("../../docs/settings.md")]

mod builder;
mod changes;
mod check;
mod command;
#[expect(clippy::module_inception, reason = "the room is named after its main type")]
mod config;
mod environment;
mod error;
#[cfg(feature = "toml")]
mod file;
mod file_mode_mask;
#[cfg(feature = "cli")]
mod flags;
mod fleet;
mod hints;
mod keys;
mod memory_size;
mod origin;
mod other_programs;
mod placeholder;
mod range;
mod read_text;
#[cfg(test)]
mod reference;
mod resource_limit;
mod servers;
mod table;
#[cfg(test)]
mod testing;
mod text;
mod texts;
mod value;

pub(crate) use changes::refusal_of;
pub use command::WorkerCommand;
pub(crate) use config::EndedBy;
pub use config::{Config, LogFormat, LogLevel, OnExit, PartitionKind, WorkerOutput};
pub(crate) use environment::is_reserved;
pub use environment::{Environment, EnvironmentError};
pub use error::ConfigError;
pub use file_mode_mask::FileModeMask;
#[cfg(feature = "cli")]
pub(crate) use flags::{Flags, keys as keys_of_the_file};
#[cfg(all(feature = "etcd", target_os = "linux"))]
pub(crate) use fleet::EtcdConfig;
pub(crate) use fleet::FleetConfig;
pub use fleet::FleetMembership;
pub use keys::ConfigBuilder;
pub use memory_size::{MemorySize, MemorySizeError};
pub use origin::Origin;
#[cfg(feature = "cli")]
pub(crate) use other_programs::setting_called;
pub(crate) use placeholder::{Names, Placeholder, PlaceholderText};
pub(crate) use read_text::read_text;
pub use resource_limit::{ResourceLimit, ResourceLimitError};
pub use servers::{Server, ServerPreset};
#[cfg(feature = "cli")]
pub(crate) use table::Setting;
#[cfg(feature = "cli")]
pub(crate) use text::duration;
pub(crate) use texts::WorkerTexts;

pub use crate::protocol::{
    Backoff, EndSignals, GiveUp, HttpProbe, HttpProbeError, HttpScheme, KillMode, KillOrder, Marks,
    MaxFailures, Memory, ProbePath, ProbePathError, Readiness, Retire, Signal, SignalError,
};
