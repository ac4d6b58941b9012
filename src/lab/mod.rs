//! A network laboratory: real connections through the real kernel, on one machine, without root.
//!
//! The demo, the tests and the benches all drive their traffic from here, and whoever embeds the
//! library may do the same.
//!
//! # How it works
//!
//! [`enter_user_namespace`] makes the calling process root of a user, network and mount namespace
//! of its own: from then on nothing that it does to the network can reach the host. A [`Network`]
//! is two more network namespaces, a server's and a client's, joined by a pair of virtual Ethernet
//! devices:
//!
//! ```text
//!   client namespace                              server namespace
//!   any of 10.8.0.0/16, fd08::/48  --- veth ---   10.9.0.1, fd09::1
//! ```
//!
//! Every address of the client's two prefixes is local to the client namespace by one route of type
//! `local` ("AnyIP"), so a [`Load`] connects from thousands of addresses without configuring one of
//! them. Each connection ends as an [`Answered`], which says *which* worker answered, or as a
//! [`Failure`]; a [`Report`] gathers them. A [`Flow`] does the same by UDP, once. The worker that says who it is stands in [`greeter`].
//!
//! ```no_run
//! use std::time::Duration;
//! use ipcluster::lab::{self, Load, Network, Pace};
//!
//! lab::enter_user_namespace()?; // first thing in main: the process must have one thread
//! let network = Network::new()?;
//! // ... start a server in `network.server()` ...
//! let report = Load::to([Network::server_v4(80), Network::server_v6(80)])
//!     .from(Network::clients_v4(1000))
//!     .from(Network::clients_v6(1000))
//!     .pace(Pace::Rate(5000.0))
//!     .for_at_most(Duration::from_secs(2))
//!     .start(network.client())?
//!     .wait();
//! assert_eq!(report.failed(), 0, "{report}");
//! assert!(report.changed_worker().is_empty());
//! # Ok::<(), ipcluster::lab::LabError>(())
//! ```

mod answer;
mod datagram;
mod engine;
mod error;
pub mod greeter;
mod held;
#[cfg(feature = "cli")]
mod hosts;
mod identity;
mod link;
mod load;
mod namespace;
mod network;
mod probe;
mod report;

pub use datagram::Flow;
pub use error::LabError;
pub use held::Held;
#[cfg(feature = "cli")]
pub(crate) use hosts::Hosts;
pub use identity::{Identity, ParseIdentityError};
pub use load::{Ask, Close, Counters, Load, Pace, RunningLoad};
pub use namespace::{Entered, Namespace, enter_user_namespace, mount_tmpfs};
pub use network::Network;
pub(crate) use probe::ProbeCable;
pub use report::{Answered, Failure, FailureKind, Report};
