//! What becomes of packets on their way through a fleet: their TTL, tags, sizes and the errors about them. Each with
//! a control that shows what would be without what it is due to.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Lab, Need, Process, Witness, wait_until};

use super::{Fleet, PUBLIC, run};

pub(super) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft).needs(Need::Python);
    vec![
        case("facts_errors_about_packets_that_are_too_large_find_their_host", too_large)
            .with_both_engines(),
        case("facts_every_passing_takes_one_from_the_ttl_and_loops_end", ttl),
        case("facts_tagged_frames_are_left_alone", tagged),
        case("facts_packets_joined_by_gro_are_passed_on_joined", joined_by_gro)
            .needs(Need::Ethtool),
        case("facts_a_smaller_mtu_is_to_be_that_of_the_member_itself", smaller_mtu)
            .needs(Need::Ethtool)
            .on_request(),
    ]
}

const PATIENCE: Duration = Duration::from_secs(20);
const SERVING: [(&str, &str); 3] = [("a", "serving"), ("b", "serving"), ("c", "serving")];

impl Fleet<'_> {
    fn inside(&self, name: &str) -> Witness<'_> {
        Witness::new(&self.hosts.iter().find(|host| host.name == name).unwrap().namespace)
    }

    /// Loads the rules of all hosts as planned, without the lines in which one of these stands.
    fn load_without(&self, left_out: &[&str]) {
        for host in &self.hosts {
            let rules = self.rules(host);
            let kept = rules.lines().filter(|line| !left_out.iter().any(|it| line.contains(it)));
            let kept: String = kept.map(|line| format!("{line}\n")).collect();
            assert_ne!(kept, rules, "{left_out:?} is left out");
            Witness::new(&host.namespace).load(&kept);
        }
    }
}

/// A counter of the kernel for a namespace, such as `Icmp:` `InDestUnreachs`.
fn counter(witness: &Witness<'_>, protocol: &str, name: &str) -> u64 {
    let text = witness.succeed("cat", &["/proc/net/snmp"], "");
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let place = names.split(' ').position(|it| it == name).unwrap();
    values.split(' ').nth(place).unwrap().parse().unwrap()
}

/// Behind the router packets are to be smaller, and its errors come to one host alone, whoever serves the client.
fn too_large(lab: &Lab) {
    let fleet = Fleet::behind_router(lab, 2);
    fleet.change(&SERVING);
    let mut of_b: Vec<Held> = fleet.hold();
    of_b.retain(|it| fleet.host_of(it.by()) == "b");
    assert!(of_b.len() >= 3);
    let route = "route replace 10.8.0.0/16 via 10.9.0.2 mtu lock 1300";
    run(&Witness::new(fleet.router), route);
    let large = "x".repeat(6000);
    // A control: the error stays where it came to, and the answer does not arrive.
    fleet.load_without(&["goto errors_ip", "goto unknown_errors"]);
    fleet.route_over(&["a"]);
    let mut waits = of_b.pop().unwrap();
    let line = large.clone();
    let waiting = lab.client().spawn("waits", move || waits.echo(&line)).unwrap();
    let [a, b] = ["a", "b"].map(|name| fleet.inside(name));
    let errors = |host: &Witness<'_>| counter(host, "Icmp:", "InDestUnreachs");
    wait_until("an error", PATIENCE, || errors(&a) > 0);
    assert!(waiting.join().unwrap().is_err());
    assert_eq!(errors(&b), 0);

    fleet.change(&SERVING);
    let before = errors(&a);
    of_b[0].echo(&large).unwrap();
    assert!(errors(&b) > 0);
    assert_eq!(errors(&a), before);
    // It is older than the last change of the members: by a second chance.
    fleet.change(&[("a", "serving"), ("b", "draining"), ("c", "serving")]);
    let before = errors(&b);
    of_b[1].echo(&large).unwrap();
    assert!(errors(&b) > before);
}

/// A program that sends one SYN as a frame from the router: of this client, with this TTL and perhaps a tag.
const SEND: &str = r#"
import socket, struct, sys
def checksum(b):
    s = sum(struct.unpack('!%dH' % (len(b) // 2), b))
    while s >> 16: s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
client, ttl, tag = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
addresses = socket.inet_aton(client) + socket.inet_aton('192.0.2.1')
ip = struct.pack('!BBHHHBBH', 0x45, 0, 40, 1, 0x4000, ttl, 6, 0) + addresses
ip = ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:]
tcp = struct.pack('!HHIIBBHHH', 1234, 80, 1, 0, 0x50, 2, 1000, 0, 0)
tcp = tcp[:16] + struct.pack('!H', checksum(addresses + struct.pack('!BBH', 0, 6, 20) + tcp)) + tcp[18:]
tagged = struct.pack('!HH', 0x8100, tag) if tag else b''
to = bytes.fromhex('020000000001') + bytes.fromhex('020000000fff')
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('fleet', 0))
s.send(to + tagged + b'\x08\x00' + ip + tcp)
"#;

fn send(fleet: &Fleet<'_>, client: IpAddr, ttl: u8, tag: u16) {
    let arguments = ["-c", SEND, &client.to_string(), &ttl.to_string(), &tag.to_string()];
    Witness::new(fleet.router).succeed("python3", &arguments, "");
}

/// A client whom this host serves.
fn client_of(fleet: &Fleet<'_>, host: &str) -> IpAddr {
    Network::clients_v4(50).find(|client| fleet.explained(*client) == host).unwrap()
}

/// What [`send`] sends. The client, which knows nothing of it, answers the host's answer by a reset.
fn to_service() -> String {
    format!("ip daddr {PUBLIC} tcp dport 80 tcp flags == syn")
}

/// Has a host count what comes to it, in a table of its own before all others: rules, each with a name.
fn count(witness: &Witness<'_>, rules: &[(&str, &str)]) {
    let counters: String =
        rules.iter().map(|(name, _)| format!("counter {name} {{ }}\n")).collect();
    let rules: String =
        rules.iter().map(|(name, rule)| format!("{rule} counter name {name}\n")).collect();
    witness.load(&format!(
        "table netdev seen {{\n{counters}chain seen {{\ntype filter hook ingress device \"eth0\" priority -10;\n\
         {rules}}}\n}}\n"
    ));
}

/// Packets that this counter has counted.
fn counted(witness: &Witness<'_>, name: &str) -> u64 {
    let text = witness.nft(&["list", "counter", "netdev", "seen", name], "");
    let words: Vec<&str> = text.split_whitespace().collect();
    words[1 + words.iter().position(|it| *it == "packets").unwrap()].parse().unwrap()
}

fn ttl(lab: &Lab) {
    let fleet = Fleet::new(lab, 2);
    fleet.change(&SERVING);
    let client = client_of(&fleet, "b");
    let to_service = to_service();
    let b = fleet.inside("b");
    let of_ttl = |ttl: u8| format!("{to_service} ip ttl {ttl}");
    count(&b, &[("service", &to_service), ("ttl_1", &of_ttl(1)), ("ttl_60", &of_ttl(60))]);
    // The one whose TTL would be 0 is dropped, and the one behind it is not.
    for ttl in [1, 2, 61] {
        send(&fleet, client, ttl, 0);
    }
    wait_until("the last one", PATIENCE, || counted(&b, "ttl_60") == 1);
    assert_eq!((counted(&b, "service"), counted(&b, "ttl_1")), (2, 1));

    // Two hosts that do not know each other, of which each takes the other one for the owner.
    let a = fleet.inside("a");
    count(&a, &[("service", &to_service)]);
    b.nft(&["delete", "table", "netdev", "seen"], "");
    count(&b, &[("service", &to_service)]);
    for (host, other) in [(&a, "10.7.0.2"), (&b, "10.7.0.1")] {
        host.load(&format!(
            "flush chain netdev ipcluster_fleet_fleet director\n\
             add rule netdev ipcluster_fleet_fleet director {to_service} fwd ip to {other} device \"eth0\"\n"
        ));
    }
    send(&fleet, client, 64, 0);
    wait_until("the end of the loop", PATIENCE, || {
        counted(&a, "service") + counted(&b, "service") >= 64
    });
    let between = || counted(&a, "service") + counted(&b, "service");
    // One more on the same way: all that is on its way has come when it has.
    send(&fleet, client, 2, 0);
    wait_until("one more", PATIENCE, || between() >= 66);
    assert_eq!(between(), 66, "64 of the first, 2 of the second");
}

fn tagged(lab: &Lab) {
    let fleet = Fleet::new(lab, 2);
    fleet.change(&SERVING);
    let client = client_of(&fleet, "b");
    let b = fleet.inside("b");
    let to_service = to_service();
    let (tagged, plain) =
        (format!("ether type 8021q {to_service}"), format!("ether type ip {to_service}"));
    count(&b, &[("tagged", &tagged), ("plain", &plain)]);
    let seen = || (counted(&b, "tagged"), counted(&b, "plain"));
    send(&fleet, client, 64, 7);
    send(&fleet, client, 64, 0);
    wait_until("the one without a tag", PATIENCE, || seen().1 == 1);
    assert_eq!(seen(), (0, 1));
    // A control: what `meta protocol` tells is what is behind the tag.
    fleet.load_without(&["ether type"]);
    send(&fleet, client, 64, 7);
    wait_until("the one with a tag", PATIENCE, || seen().0 == 1);
}

/// A server that says how much it got, and what its bytes add up to.
const RECEIVE: &str = r"
import socket, threading, zlib
def receive(c):
    n = total = 0
    while True:
        b = c.recv(1 << 20)
        if not b: break
        n, total = n + len(b), zlib.crc32(b, total)
    c.send(b'%d %d' % (n, total))
    c.close()
s = socket.socket()
s.bind(('192.0.2.1', 81))
s.listen()
while True:
    threading.Thread(target=receive, args=(s.accept()[0],), daemon=True).start()
";

/// Sends so many MiB from an address, and says whether all of it has arrived.
const SEND_MANY: &str = r"
import socket, sys, zlib
s = socket.socket()
s.bind((sys.argv[1], 0))
s.settimeout(float(sys.argv[3]))
try:
    s.connect(('192.0.2.1', 81))
    b, total = bytes(range(251)) * 4177, 0
    for _ in range(int(sys.argv[2])):
        s.sendall(b)
        total = zlib.crc32(b, total)
    s.shutdown(socket.SHUT_WR)
    print('whole' if s.recv(100) == b'%d %d' % (len(b) * int(sys.argv[2]), total) else 'damaged')
except TimeoutError:
    print('timed out')
";

/// What becomes of an upload of so many MiB by this client.
fn upload(lab: &Lab, client: IpAddr, mib: u32, seconds: u32) -> String {
    let (client, mib, seconds) = (client.to_string(), mib.to_string(), seconds.to_string());
    let arguments = ["-c", SEND_MANY, &client, &mib, &seconds];
    Witness::new(lab.client()).succeed("python3", &arguments, "").trim().to_owned()
}

/// Hosts whose service is a program on b, and a client of it whose packets come by a, as frames of the link's size.
fn service_on_b<'a>(lab: &'a Lab) -> (Fleet<'a>, IpAddr, Process) {
    let fleet = Fleet::behind_router(lab, 2);
    fleet.change(&SERVING);
    for host in &fleet.hosts {
        let rules = fleet.rules(host).replace("tcp dport 80", "tcp dport 81");
        Witness::new(&host.namespace).load(&rules);
    }
    fleet.route_over(&["a"]);
    let mut command = Command::new("python3");
    command.args(["-c", RECEIVE]);
    let b = &fleet.hosts[1];
    let receiver = Process::start(&b.namespace, command, &lab.directory().join("receiver.log"));
    wait_until("the receiver", PATIENCE, || {
        Witness::new(&b.namespace).succeed("cat", &["/proc/net/tcp"], "").contains(":0051 ")
    });
    offload(lab.client(), "client", "tso off gso off");
    offload(fleet.router, "server", "gro off");
    offload(fleet.router, "host-a", "tso off gso off");
    let client = client_of(&fleet, "b");
    (fleet, client, receiver)
}

fn offload(namespace: &ipcluster::lab::Namespace, device: &str, features: &str) {
    let arguments: Vec<&str> = ["-K", device].into_iter().chain(features.split(' ')).collect();
    Witness::new(namespace).succeed("ethtool", &arguments, "");
}

/// Frames that a device has got.
fn frames(witness: &Witness<'_>, device: &str) -> u64 {
    let text = witness.succeed("cat", &["/proc/net/dev"], "");
    let mut lines =
        text.lines().filter_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    lines.next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn joined_by_gro(lab: &Lab) {
    let (fleet, client, _receiver) = service_on_b(lab);
    let a = fleet.inside("a");
    let host = &fleet.hosts[0].namespace;
    // Before the director: what it sees.
    count(&a, &[("seen", &format!("ip daddr {PUBLIC} tcp dport 81"))]);
    let ratio = |gro: &str| {
        // What leaves is parted before the device: it is not to do it.
        offload(host, "eth0", &format!("gro {gro} tso off"));
        let before = (frames(&a, "eth0"), counted(&a, "seen"));
        assert_eq!(upload(lab, client, 16, 20), "whole");
        let (frames, packets) = (frames(&a, "eth0") - before.0, counted(&a, "seen") - before.1);
        assert!(frames > 11_000, "frames of the link's size: {frames}");
        frames / packets
    };
    assert!(ratio("on") >= 4, "frames for each packet that is passed on");
    // A control.
    assert_eq!(ratio("off"), 1);
}

/// A member whose link takes less than those of the others: what is too large on the way to it is dropped, and nobody
/// is told. Where its own device says so, it tells the clients.
fn smaller_mtu(lab: &Lab) {
    let (fleet, client, _receiver) = service_on_b(lab);
    offload(&fleet.hosts[0].namespace, "eth0", "gro off tso off gso off");
    assert_eq!(upload(lab, client, 2, 20), "whole");
    // As a switch does: the router is not told. The bridge keeps a MTU that somebody has set.
    for link in ["fleet mtu 1450", "fleet mtu 1500", "host-b mtu 1400"] {
        run(&Witness::new(fleet.router), &format!("link set {link}"));
    }
    assert_eq!(upload(lab, client, 2, 3), "timed out");
    run(&fleet.inside("b"), "link set eth0 mtu 1400");
    assert_eq!(upload(lab, client, 2, 20), "whole");
}
