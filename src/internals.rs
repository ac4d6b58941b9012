//! What the benches, the fuzz targets and the tests in namespaces need of closed rooms. No part of the
//! API: it changes without notice.

/// The control socket, and the protocol of workers that the fuzz target `peer` speaks.
#[cfg(all(feature = "master", target_os = "linux"))]
pub mod control {
    pub use crate::control::{
        FromWorker, LINE_INTERVAL, LINES_AT_ONCE, Peer, PeerAction, PeerLimits, ToWorker,
        WorkerOrder,
    };
}

/// A member of a fleet by etcd, without a master.
#[cfg(all(feature = "etcd", target_os = "linux"))]
pub mod membership {
    pub use crate::membership::{EtcdAccess, EtcdMember, encode_base64, read_store};
}

/// Netlink messages, connection tracking, rules of others, and the fake that stands in for the kernel.
#[cfg(all(feature = "firewall", target_os = "linux"))]
pub mod nft {
    pub use crate::nft::conntrack::{Conntrack, EntryCounts};
    pub use crate::nft::fake::{Disturbance, Fake, Injection};
    pub use crate::nft::foreign::{Certainty, ForeignNat, ForeignRules};
    pub use crate::nft::fuzzing::read_bytes;
    pub use crate::nft::wire::batch::Batch;
    pub use crate::nft::wire::table::TableOwner;
}

/// Sockets, descriptors and memory of processes.
#[cfg(all(feature = "master", target_os = "linux"))]
pub mod process {
    pub use crate::process::{
        Connection, ConnectionState, Connections, Endpoint, HeldSocket, MemoryWatch, Sockets,
        Transport, passed_sockets, receive_descriptors, send_descriptors,
    };
}

/// The nftables objects of a plan, and the transactions between plans.
pub mod ruleset {
    pub use crate::ruleset::fuzzing::{Edit, read_edited};
    pub use crate::ruleset::object::{
        ChainName, CounterName, CounterValue, Digest, Elements, Family, Rule, Ruleset, Scope, Set,
        SetName, TableName,
    };
    pub use crate::ruleset::stale::Stale;
    pub use crate::ruleset::transition::{Operation, Transaction, Transition};
}

/// What is read of others, over bytes that they did not write: for the fuzzer.
#[cfg(all(feature = "master", target_os = "linux"))]
pub mod texts {
    pub use crate::control::fuzzing::read_lines;
    pub use crate::master::read_offer;
    pub use crate::process::fuzzing::{read_env_file, read_output, read_proc_files};
    pub use crate::supervisor::read_notify_message;
}

/// Decisions of the process manager.
#[cfg(feature = "master")]
pub mod supervisor {
    pub use crate::protocol::{Exit, Timestamp, WorkerId};
    pub use crate::supervisor::{Action, Input, Settings, Start, Supervisor, Verification};
}
