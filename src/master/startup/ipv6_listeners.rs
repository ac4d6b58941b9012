//! Says what a listener on `[::]` does not do. A socket there takes IPv4 connections as well, unless it was
//! told not to; a listener of a plan is for addresses of its family alone.

use std::net::IpAddr;

use crate::plan::{Listener, Listeners};

/// Warns of listeners on `[::]` of whose port no IPv4 client is served.
pub(in crate::master) fn warn_of_ipv6_only(listeners: &Listeners) {
    for listener in ipv6_only(listeners) {
        let ipv4 = listener.to_string().replace("[::]", "0.0.0.0");
        tracing::warn!(
            "listener {listener} takes clients with IPv6 addresses alone, unlike a socket on [::]: if \
             clients with IPv4 addresses are to come too, add --listen {ipv4}"
        );
    }
}

fn ipv6_only(listeners: &Listeners) -> impl Iterator<Item = &Listener> {
    let has_ipv4 = |of: &Listener| {
        let is_same = |it: &Listener| (it.port(), it.protocol()) == (of.port(), of.protocol());
        listeners.iter().any(|it| is_same(it) && it.address().is_ipv4())
    };
    let is_any = |it: &&Listener| matches!(it.address(), IpAddr::V6(ip) if ip.is_unspecified());
    listeners.iter().filter(is_any).filter(move |it| !has_ipv4(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_ipv6_addresses_without_ipv4_on_its_port_is_found() {
        let found = |all: &[&str]| -> Vec<String> {
            let all = all.iter().map(|text| text.parse().unwrap()).collect();
            let listeners = Listeners::new(all).unwrap();
            ipv6_only(&listeners).map(Listener::to_string).collect()
        };
        assert_eq!(found(&["[::]:80"]), ["[::]:80/tcp"]);
        assert_eq!(found(&["[::]:80", "10.9.0.1:443", "[::]:443"]), ["[::]:80/tcp"]);
        assert_eq!(found(&["[::]:80", "0.0.0.0:80/udp"]), ["[::]:80/tcp"]);
        assert_eq!(found(&["[::]:80", "0.0.0.0:80", "[fd09::1]:81"]), [""; 0]);
    }
}
