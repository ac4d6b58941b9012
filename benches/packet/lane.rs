//! A network with one rule set in it, a sender at one end and, to look where the packets go, a
//! receiver at the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use ipcluster::lab::{Namespace, Network};
use ipcluster::plan::Plan;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType,
    SockaddrStorage, bind, recvfrom, sendmmsg, socket,
};

use super::frames::Frame;
use super::rules::{self, Rules};

/// Packets that are sent without a look at the receiver, while that one is there: they fit into its
/// buffer.
const UNSEEN: usize = 64;

/// How long a packet may take to the receiver. It mostly is there before `sendmmsg` returns.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A pair of namespaces with one rule set, that lives as long as this value.
pub(crate) struct Lane {
    network: Network,
    rules: Rules,
    plan: Plan,
    sender: OwnedFd,
    /// What stands before each packet on the cable.
    ethernet: Vec<u8>,
}

impl Lane {
    /// Makes the network, and puts the rules in force in it.
    pub(crate) fn new(rules: Rules, plan: &Plan) -> Self {
        let network = Network::new().expect("a network");
        let load = || {
            make_addresses_local();
            rules.load(plan);
            rules::add_sink();
        };
        network.server().run_in(load).expect("the server's namespace");
        let client = link_address(network.client(), "client");
        let server = link_address(network.server(), "server");
        let ethernet = ethernet_header(&client, &server, is_v6(plan));
        let sender = network.client().run_in(|| packet_socket(&client));
        let sender = sender.expect("the client's namespace");
        Self { network, rules, plan: plan.clone(), sender, ethernet }
    }

    /// Sends the packets. Returns how long that took, and whether nobody else had the processor
    /// meanwhile.
    ///
    /// A veth device hands a packet to the receiving side's soft interrupt, which runs before the
    /// call for that packet goes on: so the time is that of both sides, up to the sink.
    pub(crate) fn send(&self, frames: &[Frame]) -> (Duration, bool) {
        let slices: Vec<_> = frames
            .iter()
            .map(|frame| [IoSlice::new(&self.ethernet), IoSlice::new(&frame.bytes)])
            .collect();
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(frames.len(), None);
        let nowhere = vec![None; frames.len()];
        let interruptions = interruptions();
        let begin = Instant::now();
        let mut sent = 0;
        while sent < frames.len() {
            let (slices, nowhere) = (&slices[sent..], &nowhere[sent..]);
            let fd = self.sender.as_raw_fd();
            let some = sendmmsg(fd, &mut headers, slices, nowhere, [], MsgFlags::empty());
            sent += some.expect("packets on the cable").count();
        }
        (begin.elapsed(), interruptions == self::interruptions())
    }

    /// Takes the sink away and looks where each of the packets goes: panics unless it is where the
    /// plan says. Leaves entries in conntrack, so this comes after all measurements. Returns the
    /// number of ports that packets went to.
    pub(crate) fn verify(&self, name: &str, frames: &[Frame]) -> usize {
        let is_v6 = is_v6(&self.plan);
        let receiver = self.network.server().run_in(|| {
            rules::remove_sink();
            raw_socket(is_v6)
        });
        let receiver = receiver.expect("the server's namespace");
        let mut received = BTreeMap::new();
        for some in frames.chunks(UNSEEN) {
            self.send(some);
            let deadline = Instant::now() + ARRIVAL;
            let mut outstanding = some.len();
            while outstanding > 0 {
                assert!(Instant::now() < deadline, "{outstanding} packets never came");
                let Some((from, port)) = receive(&receiver, is_v6) else { continue };
                assert!(received.insert(from, port).is_none(), "{from} came twice");
                outstanding -= 1;
            }
        }
        for frame in frames {
            let (from, port) = (frame.from, received[&frame.from.ip()]);
            assert_eq!(port, self.port_for(frame), "{name}: the port that {from} reaches");
        }
        received.values().collect::<BTreeSet<_>>().len()
    }

    /// Which port the packet should go to.
    fn port_for(&self, frame: &Frame) -> u16 {
        if !self.rules.redirect() {
            return frame.to.port();
        }
        let public = self.plan.listeners().public_ports();
        let place = public.iter().position(|port| port.number() == frame.to.port());
        let route = self.plan.worker_for(frame.from.ip()).expect("every seat is held");
        route.occupant.ports[place.expect("a public port")].number()
    }

    /// How many ports the packets go to, if there are enough of them.
    pub(crate) fn ports(&self) -> usize {
        let public = self.plan.listeners().public_ports().len();
        if self.rules.redirect() { public * self.plan.seats().len() } else { public }
    }
}

fn is_v6(plan: &Plan) -> bool {
    plan.listeners().iter().any(|listener| listener.address().is_ipv6())
}

/// The address of a device in a namespace, with its index.
fn link_address(namespace: &Namespace, device: &str) -> LinkAddr {
    let find = || {
        let mut all = getifaddrs().expect("the addresses of this namespace");
        all.find_map(|one| {
            let address = *one.address.as_ref()?.as_link_addr()?;
            (one.interface_name == device).then_some(address)
        })
    };
    namespace.run_in(find).expect("a namespace").expect("a device of the network")
}

/// Makes the addresses of the case with many of them the server's own: our rules translate ports alone.
fn make_addresses_local() {
    let route = ["route", "add", "local", "10.9.1.0/24", "dev", "lo"];
    let status = Command::new("ip").args(route).status().expect("the program ip");
    assert!(status.success(), "ip {route:?}: {status}");
}

fn ethernet_header(from: &LinkAddr, to: &LinkAddr, is_v6: bool) -> Vec<u8> {
    let [from, to] = [from, to].map(|address| address.addr().expect("an Ethernet device"));
    let kind: [u8; 2] = if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    [&to[..], &from[..], &kind[..]].concat()
}

/// A socket that puts whole frames on a device, and takes none from it.
fn packet_socket(device: &LinkAddr) -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.expect("a packet socket");
    bind(socket.as_raw_fd(), device).expect("bound to the device");
    socket
}

/// A socket that gets every TCP segment that comes to this host, as it is behind nat.
fn raw_socket(is_v6: bool) -> OwnedFd {
    let family = if is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Raw, flags, SockProtocol::Tcp).expect("a raw socket")
}

/// The source and the destination port of the next packet; `None` while there is none.
fn receive(socket: &OwnedFd, is_v6: bool) -> Option<(IpAddr, u16)> {
    let mut packet = [0; 256];
    let (_, from) = match recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut packet) {
        Err(Errno::EAGAIN) => return None,
        result => result.expect("a packet"),
    };
    let from = from.expect("raw sockets tell the source");
    let from = match from.as_sockaddr_in() {
        Some(v4) => IpAddr::V4(v4.ip()),
        None => IpAddr::V6(from.as_sockaddr_in6().expect("an IPv6 address").ip()),
    };
    // raw(7): with its header for IPv4, without for IPv6.
    let segment = if is_v6 { &packet[..] } else { &packet[4 * usize::from(packet[0] & 0xf)..] };
    Some((from, u16::from_be_bytes([segment[2], segment[3]])))
}

/// How often this thread had to leave the processor to another one.
fn interruptions() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("one's own usage");
    usage.involuntary_context_switches()
}
