//! Udp listeners on all addresses, and interfaces whose own addresses do not fit them. With `redirect` such a
//! datagram goes to an address of the interface by which it comes (see `Destination`). Pure.

use std::net::IpAddr;

use super::facts::HostFacts;
use crate::nft::Interface;
use crate::plan::{Engine, Listener, Listeners, Protocol};
use crate::protocol::{Finding, FindingKind, FindingSeverity};

/// The most interfaces that are named. Hosts of containers have hundreds.
const MOST: usize = 4;

const CURE: &str =
    "name the address in `listen` and bind the workers to it, or set engine = \"tproxy\"";

/// What of the interfaces is worth saying for these listeners.
pub(super) fn findings(facts: &HostFacts, listeners: &Listeners, engine: Engine) -> Vec<Finding> {
    if engine == Engine::Tproxy {
        return Vec::new();
    }
    let wildcard =
        |listener: &&Listener| listener.protocol() == Protocol::Udp && listener.is_wildcard();
    let of = |listener: &Listener| match listener.address() {
        IpAddr::V4(_) => without_ipv4(facts, *listener),
        IpAddr::V6(_) => with_several_ipv6(facts, *listener),
    };
    listeners.iter().filter(wildcard).filter_map(of).collect()
}

/// Where clients dial an address that `lo` alone has, they come in by an interface that need not have any.
fn without_ipv4(facts: &HostFacts, listener: Listener) -> Option<Finding> {
    let on_lo = facts.on_loopback.iter().find(|address| address.is_ipv4())?;
    let bare: Vec<String> = facts
        .interfaces
        .iter()
        .filter(|it| !it.addresses.iter().any(IpAddr::is_ipv4))
        .map(|it| it.name.clone())
        .collect();
    let names = (!bare.is_empty()).then(|| shown(&bare))?;
    let what = format!(
        "the kernel drops datagrams for {listener} that come by {names} without an IPv4 address: that is on lo \
         ({on_lo}) alone"
    );
    Some(finding(FindingSeverity::Warning, what).of(listener))
}

fn with_several_ipv6(facts: &HostFacts, listener: Listener) -> Option<Finding> {
    let has_several =
        |it: &&Interface| it.addresses.iter().filter(|address| is_global(address)).nth(1).is_some();
    let many = facts.interfaces.iter().filter(has_several).map(|it| it.name.clone());
    let many: Vec<String> = many.collect();
    let names = (!many.is_empty()).then(|| shown(&many))?;
    let what = format!(
        "datagrams for {listener} that come by {names} with several IPv6 addresses go to the one that was added \
         last, whichever the client has asked, and when that one is removed all their flows are cut"
    );
    Some(finding(FindingSeverity::Notice, what).of(listener))
}

fn finding(severity: FindingSeverity, what: String) -> Finding {
    Finding::new(severity, FindingKind::InterfaceAddresses, what, CURE)
}

fn is_global(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if !v6.is_unicast_link_local())
}

fn shown(names: &[String]) -> String {
    let interface = if names.len() == 1 { "interface" } else { "interfaces" };
    let first = names[..names.len().min(MOST)].join(", ");
    match names.len().checked_sub(MOST) {
        None | Some(0) => format!("{interface} {first}"),
        Some(more) => format!("{interface} {first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Interface { index: 2, name: name.to_owned(), addresses }
    }

    fn said(
        interfaces: Vec<Interface>,
        on_loopback: &[&str],
        listen: &[&str],
        engine: Engine,
    ) -> Vec<(FindingSeverity, String)> {
        let on_loopback = on_loopback.iter().map(|text| text.parse().unwrap()).collect();
        let facts = HostFacts { interfaces, on_loopback, ..HostFacts::default() };
        let listeners = listen.iter().map(|text| text.parse().unwrap()).collect();
        let found = findings(&facts, &Listeners::new(listeners).unwrap(), engine);
        found.into_iter().map(|it| (it.severity, it.what)).collect()
    }

    #[test]
    fn interfaces_without_the_address_that_lo_has_are_named_for_udp_on_all_addresses() {
        let bare = || vec![interface("eth0", &["10.0.0.1"]), interface("tunl0", &["fe80::1"])];
        let udp: &[&str] = &["0.0.0.0:53/udp"];
        let found = said(bare(), &["192.0.2.1"], udp, Engine::Redirect);
        let what = "the kernel drops datagrams for 0.0.0.0:53/udp that come by interface tunl0 without an IPv4 \
                    address: that is on lo (192.0.2.1) alone";
        assert_eq!(found, [(FindingSeverity::Warning, what.to_owned())]);
        for (on_lo, listen, engine) in [
            (&[][..], udp, Engine::Redirect),
            (&["2001:db8::1"][..], udp, Engine::Redirect),
            (&["192.0.2.1"][..], udp, Engine::Tproxy),
            (&["192.0.2.1"][..], &["0.0.0.0:53"][..], Engine::Redirect),
            (&["192.0.2.1"][..], &["192.0.2.1:53/udp"][..], Engine::Redirect),
        ] {
            assert_eq!(said(bare(), on_lo, listen, engine), [], "{on_lo:?} {listen:?} {engine}");
        }
        let many = (0..6).map(|it| interface(&format!("t{it}"), &[])).collect();
        let found = said(many, &["192.0.2.1"], udp, Engine::Redirect);
        assert!(found[0].1.contains("by interfaces t0, t1, t2, t3 and 2 more without"));
    }

    #[test]
    fn interfaces_with_several_ipv6_addresses_are_named_for_udp_on_all_of_them() {
        let several = || vec![interface("eth0", &["fe80::1", "2001:db8::1", "2001:db8::2"])];
        let udp: &[&str] = &["[::]:53/udp"];
        let found = said(several(), &[], udp, Engine::Redirect);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, FindingSeverity::Notice);
        assert!(found[0].1.contains("by interface eth0 with several IPv6 addresses"), "{found:?}");
        let one = vec![interface("eth0", &["fe80::1", "2001:db8::1", "10.0.0.1", "10.0.0.2"])];
        assert_eq!(said(one, &[], udp, Engine::Redirect), []);
        assert_eq!(said(several(), &[], &["0.0.0.0:53/udp", "[::]:53"], Engine::Redirect), []);
        assert_eq!(said(several(), &[], &["[2001:db8::1]:53/udp"], Engine::Redirect), []);
        assert_eq!(said(several(), &[], udp, Engine::Tproxy), []);
    }
}
