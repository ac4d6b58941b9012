//! Receive packet steering: which cores work on the packets that come to the server.
//!
//! The receiving side of a veth device runs on the core that sends, if nobody says otherwise, so the
//! clients' core does the server's work on packets, rules included. With a mask of cores in
//! `rps_cpus` each flow has its core among them, as it has behind a network card with several queues.

use std::fmt::Write as _;
use std::fs;
use std::io;

use ipcluster::lab::Namespace;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::busy;

const MASK: &str = "/sys/class/net/server/queues/rx-0/rps_cpus";

/// Has all cores, or none in particular, work on what comes to the server.
///
/// # Errors
/// `EPERM` without root of the host (`store_rps_map`, net/core/net-sysfs.c), or where sysfs may not
/// be mounted.
pub(crate) fn steer(server: &Namespace, is_on: bool) -> io::Result<()> {
    let mask = if is_on { mask_of(&busy::cores()) } else { "0".to_owned() };
    let set = || {
        // sysfs shows the devices of the network namespace in which it was mounted. It goes with
        // this thread.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
        fs::write(MASK, &mask)
    };
    server.run_in(set).map_err(io::Error::other)?
}

/// As the kernel reads masks: in hexadecimal, 32 cores at a time, the highest ones first.
fn mask_of(cores: &[usize]) -> String {
    let words = cores.iter().max().map_or(1, |core| core / 32 + 1);
    let mut mask = String::new();
    for word in (0..words).rev() {
        let bits = cores.iter().filter(|core| *core / 32 == word);
        let bits = bits.fold(0u32, |bits, core| bits | 1 << (core % 32));
        let comma = if mask.is_empty() { "" } else { "," };
        write!(mask, "{comma}{bits:08x}").expect("writing to a string");
    }
    mask
}
