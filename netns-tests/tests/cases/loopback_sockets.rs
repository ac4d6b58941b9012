//! What the kernel does with `tproxy to 127.0.0.1:PORT`: why worker sockets of that engine are not on loopback
//! addresses (docs/how-it-works.md).

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Namespace, Network};
use netns_tests::{Case, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft).needs(Need::Python);
    vec![case("transparent_sockets_on_loopback_serve_tcp_and_cannot_answer_by_udp", loopback)]
}

const RULES: &str = "\
table inet t {
    chain p {
        type filter hook prerouting priority mangle
        fib daddr type local meta nfproto ipv4 tcp dport 80 tproxy ip to 127.0.0.1:20000 accept
        fib daddr type local meta nfproto ipv6 tcp dport 80 tproxy ip6 to [::1]:20000 accept
        fib daddr type local meta nfproto ipv4 tcp dport 81 tproxy ip to 127.0.0.1:20001 accept
        fib daddr type local meta nfproto ipv4 udp dport 53 tproxy ip to 127.0.0.1:20002 accept
    }
}
";

/// On 20000 two sockets with `IP_TRANSPARENT` (19) and `IPV6_TRANSPARENT` (75), on 20001 one without. What comes
/// to 20002 is to be answered, and is not.
const SERVERS: &str = "\
import socket, threading
def serve(family, address, option):
    s = socket.socket(family)
    if option: s.setsockopt(*option, 1)
    s.bind(address); s.listen()
    def run():
        while True:
            c = s.accept()[0]
            c.sendall(('%s %s' % c.getsockname()[:2]).encode()); c.close()
    threading.Thread(target=run).start()
serve(socket.AF_INET, ('127.0.0.1', 20000), (socket.SOL_IP, 19))
serve(socket.AF_INET6, ('::1', 20000), (socket.IPPROTO_IPV6, 75))
serve(socket.AF_INET, ('127.0.0.1', 20001), None)
u = socket.socket(type=socket.SOCK_DGRAM)
u.setsockopt(socket.SOL_IP, 19, 1); u.bind(('127.0.0.1', 20002))
print('serves', flush=True)
while True:
    _, client = u.recvfrom(9)
    try: u.sendto(b'!', client); print('answered', flush=True)
    except OSError as e: print('cannot answer: %s' % e, flush=True)
";

/// What a server says to who connects.
fn told(namespace: &Namespace, to: SocketAddr) -> Result<String, ErrorKind> {
    let connect = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        Ok(text)
    };
    namespace.run_in(connect).unwrap().map_err(|error| error.kind())
}

fn loopback(lab: &Lab) {
    lab.witness().load(RULES);
    let mut command = Command::new("python3");
    command.args(["-c", SERVERS]);
    let servers = lab.start("servers", command);
    wait_until("the sockets", Duration::from_secs(20), || servers.output().contains("serves"));
    let (v4, v6) = (Network::server_v4, Network::server_v6);
    for from in [lab.client(), lab.server()] {
        assert_eq!(told(from, v4(80)).as_deref(), Ok("10.9.0.1 80"));
        assert_eq!(told(from, v6(80)).as_deref(), Ok("fd09::1 80"));
        // A socket that a program has opened itself is not transparent, and not found.
        assert_eq!(told(from, v4(81)), Err(ErrorKind::ConnectionRefused));
    }
    // No other host reaches them by their own port, without a guard.
    assert_eq!(told(lab.client(), v4(20_000)), Err(ErrorKind::ConnectionRefused));
    assert_eq!(told(lab.client(), v6(20_000)), Err(ErrorKind::ConnectionRefused));
    // An answer would have a source address that may not leave the host.
    let ask = || std::net::UdpSocket::bind("10.9.0.2:0").unwrap().send_to(b"?", "10.9.0.1:53");
    lab.client().run_in(ask).unwrap().unwrap();
    wait_until("the answer to fail", Duration::from_secs(20), || {
        servers.output().contains("cannot answer: [Errno 22]")
    });
}
