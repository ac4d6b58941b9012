//! Which ports workers get, and which are left to others on the host.

use std::collections::BTreeSet;

use crate::config::Config;
use crate::plan::PortRange;
use crate::process::{PortPool, PortReservations, ProcessError};

/// The ports that workers get.
pub(in crate::master) fn port_pool(config: &Config) -> Result<PortPool, ProcessError> {
    let public = config.listeners().public_ports();
    let mut reserved: BTreeSet<u16> = public.iter().map(|port| port.number()).collect();
    let (first, last) = (config.worker_ports().first(), config.worker_ports().last());
    reserved.extend(left_to_others(config));
    let pool = PortPool::new(first.number()..=last.number(), reserved)?;
    Ok(pool.with_stride(config.engine().port_stride(config.listeners())))
}

/// The ports of the default range that are left to others. A range that somebody has chosen is theirs to
/// use whole.
fn left_to_others(config: &Config) -> BTreeSet<u16> {
    let range = config.worker_ports();
    if range != PortRange::default() {
        return BTreeSet::new();
    }
    let stride = config.engine().port_stride(config.listeners());
    let places = stride.map_or(config.listeners().public_ports().len(), usize::from);
    let needed = PortRange::needed(config.workers(), places);
    let reservations = PortReservations::read();
    let ports = range.first().number()..=range.last().number();
    let (left_out, is_apart) = reservations.of_default(ports, needed);
    if !is_apart {
        let outgoing =
            reservations.outgoing.map(|range| format!("{}-{}", range.start(), range.end()));
        tracing::warn!(
            worker_ports = %range, ip_local_port_range = outgoing.unwrap_or_default(),
            "the kernel gives worker ports to outgoing connections too: set `worker_ports` to a range \
             outside of net.ipv4.ip_local_port_range, or name it in net.ipv4.ip_local_reserved_ports"
        );
    }
    left_out
}
