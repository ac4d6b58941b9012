//! The link of a fleet: its device, and the neighbours on it, over rtnetlink.
//!
//! A packet that is passed on waits while the kernel resolves the neighbour it goes to, but only three packets or so
//! long and a second or so; so neighbours are resolved beforehand, and kept. Since Linux 5.16 the kernel does that
//! by itself (`NTF_EXT_MANAGED`); else it is asked to, every few seconds (`NTF_USE`). An entry of an operator's
//! (`permanent`) is left as it is. What others remove is put back as soon as the kernel tells.
//!
//! When the MAC address of the device changes, frames of the others go to the old one until they hear of it. The
//! kernel asks for its own neighbours anew then, by which they would; but whoever has learned an address less than a
//! second ago takes no other for it (`locktime`, net/ipv4/arp.c), and goes on for as long as it believes in what it
//! has: half a minute. So they are [asked](Link::announce) again when that time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

use crate::netlink::attribute::{put, put_text};
use crate::netlink::{Attributes, Errno, Messages, NetlinkError, NlFamily, Socket};
use crate::plan::fleet::{DeviceName, MacAddress};

// `RTM_*`, `RTNLGRP_*` (include/uapi/linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;

/// `NLM_F_REPLACE`, `NLM_F_CREATE`.
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;

// `IFLA_*` (include/uapi/linux/if_link.h), `NDA_*`, `NTF_*`, `NUD_*` (include/uapi/linux/neighbour.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_FLAGS_EXT: u16 = 15;
const NTF_USE: u8 = 0x01;
const NTF_EXT_MANAGED: u32 = 0x01;
const NUD_PROBE: u16 = 0x10;
/// Incomplete, failed: an address that such an entry still has is an old one.
const UNRESOLVED: u16 = 0x01 | 0x20;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;

/// `AF_INET`, `AF_INET6`.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The lengths of `struct ifinfomsg` and `struct ndmsg`.
const LINK_HEADER: usize = 16;
const NEIGHBOUR_HEADER: usize = 12;

/// How many datagrams are read at once at most.
const DATAGRAMS: usize = 256;

/// The link of a fleet.
pub(super) struct Link {
    device: DeviceName,
    requests: Socket,
    news: Socket,
    /// What of the device is known; `None` while there is none of this name.
    found: Option<Device>,
    /// The neighbours that are to be kept, and what is known of each.
    kept: BTreeMap<IpAddr, Option<Neighbour>>,
}

/// The device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    /// Its own address; `None` on a device without, or with one that is no Ethernet address.
    pub(super) mac: Option<MacAddress>,
}

/// An entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Neighbour {
    mac: Option<MacAddress>,
    state: u16,
    is_managed: bool,
}

impl Neighbour {
    /// Whether an operator has made it, so that the kernel resolves nothing.
    fn is_static(self) -> bool {
        self.state & (NUD_PERMANENT | NUD_NOARP) != 0
    }
}

/// What of the link has changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LinkChange {
    /// The device is there, is gone, or is another.
    pub(super) device: bool,
    /// The device has another MAC address than before, which the others do not know.
    pub(super) own_address: bool,
    /// The MAC address of a neighbour is known, or another.
    pub(super) neighbours: bool,
}

impl LinkChange {
    pub(super) fn is_any(self) -> bool {
        self.device || self.neighbours
    }
}

impl Link {
    /// Opens the sockets, and looks at the device.
    pub(super) fn open(device: DeviceName) -> Result<Self, NetlinkError> {
        let groups = [RTNLGRP_LINK, RTNLGRP_NEIGH];
        let news = Socket::subscribe_to_all(NlFamily::Route, &groups)?;
        let requests = Socket::open(NlFamily::Route)?;
        let mut link = Self { device, requests, news, found: None, kept: BTreeMap::new() };
        link.found = link.look()?;
        Ok(link)
    }

    /// What of the device is known.
    pub(super) fn device(&self) -> Option<Device> {
        self.found
    }

    /// Tells when there is something to [read](Self::read).
    pub(super) fn readable(&self) -> io::Result<AsyncFd<OwnedFd>> {
        self.news.readable()
    }

    /// The MAC address of a neighbour that is kept, if it is known.
    pub(super) fn mac_of(&self, address: IpAddr) -> Option<MacAddress> {
        (*self.kept.get(&address)?)?.mac
    }

    /// Keeps these neighbours resolved from now on, and no others.
    pub(super) fn keep(&mut self, addresses: BTreeSet<IpAddr>) -> Result<(), NetlinkError> {
        let gone: Vec<IpAddr> =
            self.kept.keys().filter(|address| !addresses.contains(address)).copied().collect();
        for address in gone {
            self.release(address)?;
        }
        let is_new = |address: &IpAddr| !self.kept.contains_key(address);
        let new: Vec<IpAddr> = addresses.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        self.kept.extend(new.into_iter().map(|address| (address, None)));
        self.look_at_neighbours()?;
        self.refresh()
    }

    /// Has the kernel resolve what it does not keep by itself.
    pub(super) fn refresh(&mut self) -> Result<(), NetlinkError> {
        let Some(device) = self.found else { return Ok(()) };
        let is_due = |known: &Option<Neighbour>| match known {
            Some(neighbour) => !neighbour.is_static() && !neighbour.is_managed,
            None => true,
        };
        let due = self.kept.iter().filter(|(_, known)| is_due(known)).map(|(address, _)| *address);
        for address in due.collect::<Vec<_>>() {
            let body = neighbour(device.index, address, (0, NTF_USE), Some(NTF_EXT_MANAGED));
            match self.requests.command(RTM_NEWNEIGH, CREATE | REPLACE, &body) {
                // A device that is down has no neighbours.
                Err(error) if is_of_a_device_that_is_down(&error) => return Ok(()),
                result => result?,
            }
        }
        Ok(())
    }

    /// Asks every neighbour that the kernel resolves whether it is there, by which it learns the address of this
    /// host. What is known of it stays in use meanwhile.
    pub(super) fn announce(&mut self) -> Result<(), NetlinkError> {
        let Some(device) = self.found else { return Ok(()) };
        let is_known = |known: &Option<Neighbour>| known.is_some_and(|it| !it.is_static());
        let known = self.kept.iter().filter(|(_, known)| is_known(known)).map(|(to, _)| *to);
        for address in known.collect::<Vec<_>>() {
            // The kernel sets no state together with the flag, which goes with the state.
            let probe = neighbour(device.index, address, (NUD_PROBE, 0), None);
            let manage = neighbour(device.index, address, (0, NTF_USE), Some(NTF_EXT_MANAGED));
            for (flags, body) in [(REPLACE, probe), (CREATE | REPLACE, manage)] {
                match self.requests.command(RTM_NEWNEIGH, flags, &body) {
                    // Not resolved now: the kernel asks for it anyway.
                    Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                    Err(error) if is_of_a_device_that_is_down(&error) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// Reads what has changed, and puts back what others have removed.
    pub(super) fn read(&mut self) -> Result<LinkChange, NetlinkError> {
        let (mut change, mut is_lost, mut is_gone) = (LinkChange::default(), false, false);
        for _ in 0..DATAGRAMS {
            let datagram = match self.news.receive() {
                Ok(Some(datagram)) => datagram,
                Ok(None) => break,
                Err(NetlinkError::RepliesLost | NetlinkError::Malformed { .. }) => {
                    is_lost = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in Messages::new(datagram) {
                let Ok(message) = message else { break };
                match message.kind {
                    RTM_NEWLINK | RTM_DELLINK => change.device = true,
                    RTM_NEWNEIGH | RTM_DELNEIGH => {
                        let Some((index, address, known)) = parse_neighbour(message.body) else {
                            continue;
                        };
                        if self.found.is_none_or(|device| device.index != index) {
                            continue;
                        }
                        let Some(kept) = self.kept.get_mut(&address) else { continue };
                        let known = (message.kind == RTM_NEWNEIGH).then_some(known);
                        is_gone |= known.is_none_or(|it| !it.is_managed && !it.is_static());
                        let mac = |it: Option<Neighbour>| it.and_then(|it| it.mac);
                        // The address of a neighbour that is just looked for again is as good as none.
                        change.neighbours |= mac(known).is_some() && mac(*kept) != mac(known);
                        let mac_before = mac(*kept);
                        *kept = known.map(|it| Neighbour { mac: it.mac.or(mac_before), ..it });
                    }
                    _ => {}
                }
            }
        }
        if change.device || is_lost {
            let before = self.found.take();
            self.found = self.look()?;
            change.device = before != self.found;
            let mac = |device: Option<Device>| device.and_then(|it| it.mac);
            change.own_address = mac(self.found).is_some() && mac(before) != mac(self.found);
            is_gone |= change.device;
        }
        if is_lost || change.device {
            change.neighbours |= self.look_at_neighbours()?;
        }
        if is_gone {
            self.refresh()?;
        }
        Ok(change)
    }

    fn look(&mut self) -> Result<Option<Device>, NetlinkError> {
        let mut body = vec![0; LINK_HEADER];
        put_text(&mut body, IFLA_IFNAME, self.device.as_str());
        let device = self.requests.ask(RTM_GETLINK, &body, |_, body| {
            parse_link(body).ok_or(NetlinkError::Malformed { what: "message of a device" })
        });
        match device {
            Ok(device) => Ok(Some(device)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads the neighbour table; returns whether a MAC address is another than before.
    fn look_at_neighbours(&mut self) -> Result<bool, NetlinkError> {
        let Some(device) = self.found else { return Ok(false) };
        let body = vec![0; NEIGHBOUR_HEADER];
        let all = self.requests.dump(RTM_GETNEIGH, 0, &body, |kind, body| {
            Ok((kind == RTM_NEWNEIGH).then(|| parse_neighbour(body)).flatten())
        })?;
        let mut changed = false;
        for (index, address, known) in all {
            if let Some(kept) = self.kept.get_mut(&address).filter(|_| index == device.index) {
                let mac = kept.and_then(|it| it.mac);
                changed |= known.mac.is_some() && known.mac != mac;
                *kept = Some(Neighbour { mac: known.mac.or(mac), ..known });
            }
        }
        Ok(changed)
    }

    /// Keeps a neighbour no longer: the kernel drops its entry unless it is used.
    fn release(&mut self, address: IpAddr) -> Result<(), NetlinkError> {
        let known = self.kept.remove(&address).flatten();
        let (Some(device), Some(known)) = (self.found, known) else { return Ok(()) };
        if !known.is_managed {
            return Ok(());
        }
        match self.requests.command(
            RTM_DELNEIGH,
            0,
            &neighbour(device.index, address, (0, 0), None),
        ) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            Err(error) if is_of_a_device_that_is_down(&error) => Ok(()),
            result => result,
        }
    }
}

fn is_of_a_device_that_is_down(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(Errno::ENETDOWN | Errno::ENODEV | Errno::EINVAL))
}

/// The body of a request about a neighbour.
fn neighbour(
    index: u32,
    address: IpAddr,
    (state, flags): (u16, u8),
    ext_flags: Option<u32>,
) -> Vec<u8> {
    let family = if address.is_ipv4() { IPV4 } else { IPV6 };
    let mut body = vec![family, 0, 0, 0];
    body.extend(index.to_ne_bytes());
    // With state 0 the kernel keeps the one that the entry has, and resolves it.
    body.extend(state.to_ne_bytes());
    body.extend([flags, 0]);
    match address {
        IpAddr::V4(v4) => put(&mut body, NDA_DST, &v4.octets()),
        IpAddr::V6(v6) => put(&mut body, NDA_DST, &v6.octets()),
    }
    if let Some(flags) = ext_flags {
        put(&mut body, NDA_FLAGS_EXT, &flags.to_ne_bytes());
    }
    body
}

fn parse_link(body: &[u8]) -> Option<Device> {
    let (header, attributes) = body.split_first_chunk::<LINK_HEADER>()?;
    let index = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let mac = Attributes::new(attributes).get(IFLA_ADDRESS).and_then(parse_mac);
    Some(Device { index, mac })
}

/// The device's index, the address and the rest of an entry.
fn parse_neighbour(body: &[u8]) -> Option<(u32, IpAddr, Neighbour)> {
    let (header, attributes) = body.split_first_chunk::<NEIGHBOUR_HEADER>()?;
    let index = u32::from_ne_bytes(header[4..8].try_into().ok()?);
    let state = u16::from_ne_bytes(header[8..10].try_into().ok()?);
    let attributes = Attributes::new(attributes);
    let address = attributes.get(NDA_DST)?;
    let address = match header[0] {
        IPV4 => Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?).into(),
        IPV6 => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
        _ => return None,
    };
    let ext_flags = attributes.get(NDA_FLAGS_EXT).and_then(|it| it.try_into().ok());
    let is_managed = ext_flags.map_or(0, u32::from_ne_bytes) & NTF_EXT_MANAGED != 0;
    let mac = attributes.get(NDA_LLADDR).and_then(parse_mac);
    let mac = mac.filter(|_| state & UNRESOLVED == 0);
    Some((index, address, Neighbour { mac, state, is_managed }))
}

fn parse_mac(bytes: &[u8]) -> Option<MacAddress> {
    MacAddress::from_octets(bytes.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_asked_of_a_neighbour_reads_back() {
        for address in ["10.0.0.1", "fd00::1"] {
            let address: IpAddr = address.parse().unwrap();
            let body = neighbour(7, address, (0, NTF_USE), Some(NTF_EXT_MANAGED));
            let (index, found, known) = parse_neighbour(&body).unwrap();
            assert_eq!((index, found), (7, address));
            assert!(known.is_managed && known.mac.is_none() && !known.is_static());
        }
    }

    #[test]
    fn the_address_of_an_entry_that_is_not_resolved_is_none() {
        let mut body = neighbour(7, "10.0.0.1".parse().unwrap(), (0, 0), None);
        put(&mut body, NDA_LLADDR, &[2, 0, 0, 0, 0, 9]);
        for (state, is_known) in [(0x02, true), (0x04, true), (0x01, false), (0x20, false)] {
            body[8..10].copy_from_slice(&u16::to_ne_bytes(state));
            let (.., known) = parse_neighbour(&body).unwrap();
            assert_eq!(known.mac.is_some(), is_known, "{state}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (parse_neighbour(&bytes), parse_link(&bytes));
        }
    }
}
