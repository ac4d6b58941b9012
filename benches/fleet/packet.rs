//! A packet that a host passes on, and one that it forwards: through the same veth pair, back by the same device, to
//! the same neighbour, and dropped there.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use ipcluster::lab::Network;
use ipcluster::plan::Engine;
use ipcluster::plan::fleet::MemberState;
use nix::ifaddrs::getifaddrs;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, socket,
};

use super::{SERVICE, fleet, ip, load, mac, quartile, rules};

/// How long all together is measured for.
const BUDGET: Duration = Duration::from_secs(20);

/// Packets in one measurement.
const BATCH: usize = 256;

/// How often a batch is sent again because another process came in between.
const PATIENCE: usize = 8;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Dropped as soon as it comes: what the cable costs.
    Dropped,
    /// Forwarded by the routing table, without a rule.
    Forwarded,
    /// Passed on by the rules of a fleet of so many slots and members.
    Passed(u32, u8),
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Dropped => "dropped where it comes in".to_owned(),
            Self::Forwarded => "forwarded by the routing table".to_owned(),
            Self::Passed(slots, members) => format!("passed on, {slots} slots, {members} members"),
        }
    }
}

/// A host with one way, and a sender.
struct Lane {
    network: Network,
    way: Way,
    sender: OwnedFd,
    frames: Vec<Vec<u8>>,
}

/// Drops all that comes by a device, and counts it.
fn drop_all(device: &str) {
    load(&format!(
        "table netdev sink {{ chain sink {{ type filter hook ingress device \"{device}\" priority 0; \
         policy accept; counter drop; }}; }}\n"
    ));
}

impl Lane {
    fn new(way: Way, length: usize) -> Self {
        let network = Network::new().expect("a network");
        let (client, server) = (network.client(), network.server());
        let rules = match way {
            Way::Passed(slots, members) => {
                let fleet = fleet(slots, members, MemberState::Draining);
                Some(rules(&fleet, "m1", "server", Engine::Redirect))
            }
            _ => None,
        };
        let prepare = || {
            ip("address add 10.7.0.1/16 dev server");
            for nth in 2..=64 {
                let mac = mac(nth);
                ip(&format!("neigh add 10.7.0.{nth} lladdr {mac} dev server nud permanent"));
            }
            match way {
                Way::Dropped => drop_all("server"),
                Way::Forwarded => ip(&format!("route add {SERVICE}/32 via 10.7.0.2 dev server")),
                Way::Passed(..) => load(&rules.unwrap_or_default()),
            }
        };
        server.run_in(prepare).expect("the server's namespace");
        if way == Way::Forwarded {
            for (key, value) in [
                ("net.ipv4.ip_forward", "1"),
                ("net.ipv4.conf.all.send_redirects", "0"),
                ("net.ipv4.conf.server.send_redirects", "0"),
            ] {
                server.set_sysctl(key, value).expect("a setting");
            }
        }
        let own = |name: &str| {
            let mut all = getifaddrs().expect("the addresses of this namespace");
            all.find_map(|one| {
                let address = *one.address.as_ref()?.as_link_addr()?;
                (one.interface_name == name).then_some(address)
            })
            .expect("a device of the network")
        };
        let to = server.run_in(|| own("server")).expect("the server's namespace");
        let open = || {
            drop_all("client");
            let device = own("client");
            let sender = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
            let sender = sender.expect("a packet socket");
            bind(sender.as_raw_fd(), &device).expect("bound to the device");
            (sender, device)
        };
        let (sender, from) = client.run_in(open).expect("the client's namespace");
        let ethernet = ethernet(&from, &to);
        let frames = (0..16 * BATCH).map(|nth| [ethernet.clone(), packet(nth, length)].concat());
        let frames = frames.collect();
        Self { network, way, sender, frames }
    }

    /// Nanoseconds for each packet of a batch that nobody interrupted, if there is one.
    fn measure(&self, round: usize) -> f64 {
        let batches = self.frames.len() / BATCH;
        let frames = &self.frames[round % batches * BATCH..][..BATCH];
        let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let nowhere = vec![None; BATCH];
        let mut attempts = 0;
        loop {
            let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
            let before = interruptions();
            let begun = Instant::now();
            let mut sent = 0;
            while sent < BATCH {
                let (slices, nowhere) = (&slices[sent..], &nowhere[sent..]);
                let fd = self.sender.as_raw_fd();
                let some = sendmmsg(fd, &mut headers, slices, nowhere, [], MsgFlags::empty());
                sent += some.expect("packets on the cable").count();
            }
            let elapsed = begun.elapsed();
            attempts += 1;
            if before == interruptions() || attempts == PATIENCE {
                #[expect(clippy::cast_precision_loss, reason = "256")]
                return elapsed.as_secs_f64() * 1e9 / BATCH as f64;
            }
        }
    }

    /// Whether what was sent has come back, or not, as it should.
    fn verify(&self) {
        let returned = || {
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
            let mut lines = text.lines();
            let line = lines.find_map(|line| line.trim().strip_prefix("client:"));
            let count = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            count.expect("the device of the client")
        };
        let look = || self.network.client().run_in(returned).expect("the client's namespace");
        let before = look();
        self.measure(0);
        let came = look() - before;
        let is_right = match self.way {
            Way::Dropped => came < BATCH as u64 / 2,
            _ => came >= BATCH as u64,
        };
        assert!(is_right, "{:?}: {came} of {BATCH} packets came back", self.way);
    }
}

/// How often this thread had to leave the processor to another one.
fn interruptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).expect("one's own usage").involuntary_context_switches()
}

fn ethernet(from: &LinkAddr, to: &LinkAddr) -> Vec<u8> {
    let [from, to] = [from, to].map(|address| address.addr().expect("an Ethernet device"));
    [&to[..], &from[..], &[0x08, 0x00]].concat()
}

/// A segment without SYN of another client each time, of so many bytes with its headers.
fn packet(nth: usize, length: usize) -> Vec<u8> {
    let number = u16::try_from(nth + 1).expect("fewer than 2^16");
    let [high, low] = number.to_be_bytes();
    let from = SocketAddrV4::new(Ipv4Addr::new(10, 8, high, low), 1024 + number % 60_000);
    let service: Ipv4Addr = SERVICE.parse().expect("an address");
    let [long, short] = u16::try_from(length).expect("a packet").to_be_bytes();
    let mut header = vec![0x45, 0, long, short, 0, 0, 0x40, 0, 64, 6, 0, 0];
    header.extend(from.ip().octets());
    header.extend(service.octets());
    let words = header.chunks_exact(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded");
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut segment = [from.port().to_be_bytes(), 80u16.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xfa, 0xf0, 0, 0, 0, 0]);
    header.extend(segment);
    header.resize(length, 0);
    header
}

/// Measures all ways in turn, and prints the table.
pub(super) fn measure(is_bench: bool, has_large: bool) {
    let mut ways = vec![Way::Dropped, Way::Forwarded, Way::Passed(1024, 3)];
    if has_large {
        ways.push(Way::Passed(65_536, 64));
    }
    println!(
        "| a packet | bytes | ns | quartiles | to forwarding | without the cable | packets/s and core |"
    );
    println!("|---|---|---|---|---|---|---|");
    for length in [64, 1460] {
        let lanes: Vec<Lane> = ways.iter().map(|way| Lane::new(*way, length)).collect();
        lanes.iter().for_each(Lane::verify);
        let mut times = vec![vec![]; lanes.len()];
        let begun = Instant::now();
        let mut round = 0;
        while round < 3 || is_bench && begun.elapsed() < BUDGET / 2 {
            for place in 0..lanes.len() {
                let place = (place + round) % lanes.len();
                times[place].push(lanes[place].measure(round));
            }
            round += 1;
        }
        let ratio = |place: usize, net: bool| {
            let base = |round: usize| if net { times[0][round] } else { 0.0 };
            let of_round =
                |round| (times[place][round] - base(round)) / (times[1][round] - base(round));
            quartile((0..round).map(of_round).collect(), 2)
        };
        for (place, lane) in lanes.iter().enumerate() {
            let [low, median, high] = [1, 2, 3].map(|it| quartile(times[place].clone(), it));
            let (whole, net) = match place {
                0 => ("-".to_owned(), "-".to_owned()),
                _ => (format!("{:.2}", ratio(place, false)), format!("{:.2}", ratio(place, true))),
            };
            println!(
                "| {} | {length} | {median:.0} | {low:.0} - {high:.0} | {whole} | {net} | {:.0} |",
                lane.way.name(),
                1e9 / median
            );
        }
    }
}
