//! Where the list of a fleet's members comes from: a file, or etcd.
//!
//! A [`MembershipThread`] has a thread of its own, since a list of many members and slots takes longer to read
//! than the loop of the master may wait. The master waits for [`MembershipThread::changed`] and says with
//! [`MembershipThread::tell`] what its own cluster does; neither blocks.
//!
//! | source | the list is | this host |
//! |---|---|---|
//! | [`Source::File`] | what somebody else writes there, as `ipcluster fleet plan` prints it | is in it or not; what it says with `tell` changes nothing there |

mod clock;
mod error;
mod file;
mod thread;

pub(crate) use error::MembershipError;
pub(crate) use thread::{MembershipThread, Source, Update};
