//! The one room in which `unsafe` stands: what runs between fork and exec, system calls and socket
//! options that neither nix, rustix nor neli has, and promises to their types.
#![allow(unsafe_code)]

#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
mod datagram;
#[cfg(any(feature = "lab", feature = "master", feature = "worker"))]
mod inherited;
#[cfg(all(test, feature = "firewall", target_os = "linux"))]
mod loopback;
#[cfg(all(any(feature = "firewall", feature = "lab"), target_os = "linux"))]
mod netlink;
#[cfg(all(feature = "master", target_os = "linux"))]
mod peer_groups;
#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
mod pidfd;
#[cfg(all(any(feature = "firewall", feature = "lab"), target_os = "linux"))]
mod readable;
#[cfg(all(feature = "firewall", target_os = "linux"))]
mod socket_option;
#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
mod spawn;

#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
pub(crate) use datagram::{ask_for_senders, receive_datagram};
#[cfg(any(feature = "lab", feature = "master", feature = "worker"))]
pub(crate) use inherited::inherited_descriptor;
#[cfg(all(any(feature = "firewall", feature = "lab"), target_os = "linux"))]
pub(crate) use netlink::{
    descriptor_of, netlink_socket, network_namespace_of, set_capped_acknowledgements,
};
#[cfg(all(feature = "master", target_os = "linux"))]
pub(crate) use peer_groups::peer_groups;
#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
pub(crate) use pidfd::{pidfd_exit_status, signal_group, signal_group_number, signal_process};
#[cfg(all(any(feature = "firewall", feature = "lab"), target_os = "linux"))]
pub(crate) use readable::{Drained, drain, watch_readable};
#[cfg(all(feature = "firewall", target_os = "linux"))]
pub(crate) use socket_option::read_socket_option;
#[cfg(all(any(feature = "lab", feature = "master"), target_os = "linux"))]
pub(crate) use spawn::{
    ERRNO_LEN, ExecImage, Ids, LimitToSet, Setup, Step, become_with_descriptors,
    close_ways_to_capabilities, keep_exit_statuses, prepare_child,
};
