//! Ports, protocols and numbers as text and as numbers.

use std::net::IpAddr;

use proptest::prelude::*;

use super::super::{Listener, Port, PortRange, Protocol, Slot};

proptest! {
    #[test]
    fn a_port_is_the_number_that_it_was_made_of(number: u16) {
        let port = Port::try_from(number);
        prop_assert_eq!(port.is_ok(), number != 0);
        if let Ok(port) = port {
            prop_assert_eq!(u16::from(port), number);
            prop_assert_eq!(port.to_string().parse::<Port>(), Ok(port));
        }
    }

    #[test]
    fn only_numbers_that_listeners_can_have_are_protocols(number: u8) {
        let expected = match number {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            _ => None,
        };
        prop_assert_eq!(Protocol::from_number(number), expected);
    }

    #[test]
    fn a_listener_for_datagrams_is_that_of_its_text(address: [u8; 4], number in 1..=u16::MAX) {
        let address = IpAddr::from(address);
        let listener = Listener::udp(address, Port::new(number).unwrap());
        let text = format!("{address}:{number}/udp");
        prop_assert_eq!(&listener, &text.parse::<Listener>());
    }

    #[test]
    fn a_slot_is_written_as_its_number(number: u32) {
        prop_assert_eq!(Slot(number).to_string(), number.to_string());
    }
}

#[test]
fn the_default_range_is_below_the_ports_of_outgoing_connections() {
    let port = |number| Port::new(number).unwrap();
    let range = PortRange::new(port(20_000), port(29_999)).unwrap();
    assert_eq!(PortRange::default(), range);
    // What Linux begins with: ip_local_port_range, 32768 and up.
    assert!(range.last().number() < 32_768);
}
