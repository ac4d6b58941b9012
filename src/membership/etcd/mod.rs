//! A membership in etcd.
//!
//! etcd is spoken to by its HTTP/JSON gateway (`/v3/...`, etcd 3.4 and later, on by default), with the HTTP library
//! that the program has already. A client by gRPC (`etcd-client`, tonic) would need `protoc` to be built, which a
//! machine with Rust alone does not have, and would bring a second HTTP library. What the gateway lacks is not
//! needed: to ask for several things in one stream.
//!
//! | file | |
//! |---|---|
//! | `endpoint.rs` | where an etcd server listens |
//! | `connector.rs` | TCP and TLS connections to it |
//! | `client.rs` | a request and its answer; a watch, whose answer has no end |
//! | `wire.rs` | what stands in them |
//! | `lines.rs` | an answer that comes in pieces, as lines |
//! | `keys.rs` | the keys of a fleet, and what they hold |
//! | `session.rs` | what a membership asks, as requests |
//! | `run.rs` | the loop: what has happened to the pure `Membership`, what it wants to the session |

mod base64;
mod client;
mod connector;
mod endpoint;
mod error;
#[cfg(feature = "internals")]
pub(super) mod fuzzing;
mod keys;
mod lines;
mod run;
mod session;
mod settings;
mod wire;

#[cfg(feature = "internals")]
pub use base64::encode as encode_base64;
pub(crate) use endpoint::Endpoint;
use error::EtcdError;
pub(super) use run::run;
pub(crate) use settings::{EtcdSettings, TlsFiles, User};
