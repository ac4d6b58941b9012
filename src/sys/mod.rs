//! The one room in which `unsafe` stands: what runs between fork and exec, system calls and socket
//! options that neither nix, rustix nor neli has, and promises to their types.
#![allow(unsafe_code)]

#[cfg(any(feature = "master", feature = "lab"))]
mod datagram;
#[cfg(any(feature = "lab", feature = "master", feature = "worker"))]
mod inherited;
#[cfg(any(feature = "firewall", feature = "lab"))]
mod netlink;
#[cfg(any(feature = "master", feature = "lab"))]
mod pidfd;
#[cfg(any(feature = "firewall", feature = "lab"))]
mod readable;
#[cfg(any(feature = "master", feature = "lab"))]
mod spawn;

#[cfg(any(feature = "master", feature = "lab"))]
pub(crate) use datagram::{ask_for_senders, receive_datagram};
#[cfg(any(feature = "lab", feature = "master", feature = "worker"))]
pub(crate) use inherited::inherited_descriptor;
#[cfg(any(feature = "firewall", feature = "lab"))]
pub(crate) use netlink::{
    descriptor_of, netlink_socket, network_namespace_of, set_capped_acknowledgements,
};
#[cfg(any(feature = "master", feature = "lab"))]
pub(crate) use pidfd::{pidfd_exit_status, signal_group};
#[cfg(any(feature = "firewall", feature = "lab"))]
pub(crate) use readable::watch_readable;
#[cfg(any(feature = "master", feature = "lab"))]
pub(crate) use spawn::{
    ERRNO_LEN, ExecImage, Ids, Setup, Step, become_with_descriptors, close_ways_to_capabilities,
    keep_exit_statuses, prepare_child,
};
