//! Where the list of a fleet's members comes from: a file, or etcd.
//!
//! A [`MembershipThread`] has a thread of its own, since a list of many members and slots takes longer to read
//! than the loop of the master may wait. The master waits for [`MembershipThread::changed`] and says with
//! [`MembershipThread::tell`] what its own cluster does; neither blocks.
//!
//! | source | the list is | this host |
//! |---|---|---|
//! | [`Source::File`] | what somebody else writes there, as `ipcluster fleet plan` prints it | is in it or not; what it says with `tell` changes nothing there |
//! | `Source::Etcd` | what the members publish there, each under a lease | publishes itself, as `tell` says, and takes part in writing the next fleet |

mod clock;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
#[cfg(feature = "etcd")]
mod member;
mod thread;

pub(crate) use error::MembershipError;
#[cfg(feature = "etcd")]
pub(crate) use etcd::{Endpoint, EtcdSettings, TlsFiles, User};
#[cfg(all(feature = "etcd", feature = "internals"))]
pub use etcd::{encode_base64, fuzzing::read_store};
#[cfg(feature = "etcd")]
pub use member::{EtcdAccess, EtcdMember};
pub(crate) use thread::{MembershipThread, Source, Update};
