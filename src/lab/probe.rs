//! A cable from a network namespace of its own into that of the caller: what is sent over it passes all rules of
//! the caller's namespace, as what clients on other hosts send does.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::link::{Prefix, RouteSocket};
use super::{LabError, Namespace};

/// Of which addresses are taken: the networks for benchmarks (RFC 2544, RFC 5180), which nobody routes.
const V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const V4_NETWORKS: u32 = 1 << 15;
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0);
const V6_NETWORKS: u32 = 1 << 16;

/// How many networks are looked at for one without a route.
const ATTEMPTS: u32 = 64;

/// The name of both ends.
const NAME: &str = "ipcluster-try";

/// A cable. It is removed with this value, and by the kernel when the process ends in whatever way: the other
/// namespace goes with its last descriptor, and takes the cable along.
#[derive(Debug)]
pub(crate) struct ProbeCable {
    namespace: Namespace,
    link: String,
    v4: Option<Ends>,
    v6: Result<Ends, LabError>,
}

/// The addresses of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) here: IpAddr,
    pub(crate) probe: IpAddr,
}

impl ProbeCable {
    /// Lays one into the network namespace of the calling thread, with addresses of networks that it has no
    /// route to.
    ///
    /// # Errors
    /// [`LabError::Namespace`], [`LabError::Link`]: `EPERM` without `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    pub(crate) fn lay() -> Result<Self, LabError> {
        let seed = std::process::id();
        let namespace = Namespace::new()?;
        // Others may try at the same time.
        let link = format!("{NAME}{}", seed % 100);
        RouteSocket::open()?.add_veth(&link, NAME, &namespace)?;
        let v6 = Err(LabError::Namespace {
            operation: "find a network without a route",
            source: io::ErrorKind::AddrNotAvailable.into(),
        });
        let mut cable = Self { namespace, link, v4: None, v6 };
        cable.v4 = match free_network(&routes_v4(), V4.into(), seed, V4_NETWORKS, 30) {
            Some(ends) => cable.give(ends, 30).map(|()| Some(ends))?,
            None => None,
        };
        if let Some(ends) = free_network(&routes_v6(), V6.into(), seed, V6_NETWORKS, 64) {
            // A host may do without IPv6.
            cable.v6 = cable.give(ends, 64).map(|()| ends);
        }
        let (here, there) = (RouteSocket::open()?, NAME);
        here.bring_up(&cable.link)?;
        cable.namespace.run_in(|| {
            let links = RouteSocket::open()?;
            links.bring_up(there)?;
            links.wait_until_operational(there)
        })??;
        here.wait_until_operational(&cable.link)?;
        cable.lead_here()?;
        Ok(cable)
    }

    /// The name of this end, as rules see it.
    pub(crate) fn link(&self) -> &str {
        &self.link
    }

    /// The addresses of the family of this one.
    ///
    /// # Errors
    /// There are none: why.
    pub(crate) fn ends(&self, like: IpAddr) -> Result<Ends, String> {
        match like {
            IpAddr::V4(_) => self.v4.ok_or_else(|| "no network without a route was found".into()),
            IpAddr::V6(_) => self.v6.as_ref().copied().map_err(|error| match error {
                LabError::Link { operation, source } => format!("{operation}: {source}"),
                other => other.to_string(),
            }),
        }
    }

    /// Connects to these from the other end, all at once; each may take so long.
    ///
    /// # Errors
    /// [`LabError::Namespace`], [`LabError::Thread`].
    pub(crate) fn connect(
        &self,
        all: &[SocketAddr],
        limit: Duration,
    ) -> Result<Vec<io::Result<TcpStream>>, LabError> {
        self.namespace.run_in(|| {
            std::thread::scope(|scope| {
                let connect = |to: SocketAddr| move || TcpStream::connect_timeout(&to, limit);
                let started: Vec<_> = all
                    .iter()
                    .map(|to| std::thread::Builder::new().spawn_scoped(scope, connect(*to)))
                    .collect();
                let panicked = || io::Error::other("the thread has panicked");
                started
                    .into_iter()
                    .map(|thread| thread?.join().unwrap_or_else(|_| Err(panicked())))
                    .collect()
            })
        })
    }

    fn give(&self, ends: Ends, length: u8) -> Result<(), LabError> {
        RouteSocket::open()?.add_address(Prefix::new(ends.here, length), &self.link)?;
        let probe = Prefix::new(ends.probe, length);
        self.namespace.run_in(|| RouteSocket::open()?.add_address(probe, NAME))?
    }

    /// Everything goes over the cable.
    fn lead_here(&self) -> Result<(), LabError> {
        let ends: Vec<Ends> = self.v4.into_iter().chain(self.v6.as_ref().ok().copied()).collect();
        self.namespace.run_in(|| {
            let links = RouteSocket::open()?;
            ends.iter().try_for_each(|ends| {
                let any = match ends.here {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                links.add_route(Prefix::new(any, 0), ends.here)
            })
        })?
    }
}

impl Drop for ProbeCable {
    fn drop(&mut self) {
        // At once, and not some time after the namespace has lost its last descriptor. Whatever goes wrong here,
        // that happens too.
        let _ = RouteSocket::open().and_then(|links| links.delete_link(&self.link));
    }
}

/// A network of a block of `count`, each of this length, that no route is for.
fn free_network(
    routes: &[Prefix],
    block: IpAddr,
    seed: u32,
    count: u32,
    length: u8,
) -> Option<Ends> {
    (0..ATTEMPTS).find_map(|attempt| {
        let number = seed.wrapping_mul(0x9e37_79b1).wrapping_add(attempt) % count;
        let ends = match block {
            IpAddr::V4(block) => {
                let first = u32::from(block) + (number << (32 - u32::from(length)));
                let end = |place| IpAddr::V4(Ipv4Addr::from(first + place));
                Ends { here: end(1), probe: end(2) }
            }
            IpAddr::V6(block) => {
                let first = u128::from(block) + (u128::from(number) << (128 - u32::from(length)));
                let end = |place| IpAddr::V6(Ipv6Addr::from(first + place));
                Ends { here: end(1), probe: end(2) }
            }
        };
        let own = Prefix::new(ends.here, length);
        (!routes.iter().any(|route| overlap(*route, own))).then_some(ends)
    })
}

/// Whether an address is in both.
fn overlap(one: Prefix, other: Prefix) -> bool {
    let length = u32::from(one.length.min(other.length));
    match (one.address, other.address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u32::from(a) ^ u32::from(b)).checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (u128::from(a) ^ u128::from(b)).checked_shr(128 - length).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The routes of the main table, but default routes. What cannot be read is left out.
fn routes_v4() -> Vec<Prefix> {
    // Columns: interface, destination, gateway, flags, references, uses, metric, mask; numbers in the order of
    // bytes of this machine.
    let parse = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let destination = number(columns.next()?)?;
        let mask = number(columns.nth(5)?)?;
        let length = u8::try_from(mask.count_ones()).ok()?;
        Some(Prefix::new(Ipv4Addr::from(destination.to_ne_bytes()).into(), length))
    };
    routes("/proc/thread-self/net/route", parse)
}

fn routes_v6() -> Vec<Prefix> {
    // Columns: destination, its length, and more.
    let parse = |line: &str| {
        let mut columns = line.split_ascii_whitespace();
        let destination = u128::from_str_radix(columns.next()?, 16).ok()?;
        let length = u8::from_str_radix(columns.next()?, 16).ok()?;
        Some(Prefix::new(Ipv6Addr::from(destination).into(), length))
    };
    routes("/proc/thread-self/net/ipv6_route", parse)
}

fn routes(path: &str, parse: impl Fn(&str) -> Option<Prefix>) -> Vec<Prefix> {
    let table = fs::read_to_string(path).unwrap_or_default();
    table.lines().filter_map(parse).filter(|route| route.length > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix::new(address.parse().unwrap(), length.parse().unwrap())
    }

    #[test]
    fn a_network_without_a_route_is_taken() {
        let of = |routes: &[&str]| {
            let routes: Vec<Prefix> = routes.iter().map(|it| prefix(it)).collect();
            free_network(&routes, V4.into(), 0, V4_NETWORKS, 30).map(|ends| ends.probe.to_string())
        };
        assert_eq!(of(&[]).as_deref(), Some("198.18.0.2"));
        assert_eq!(of(&["198.18.0.0/29"]).as_deref(), Some("198.18.0.10"));
        assert_eq!(of(&["198.18.0.3/32", "10.0.0.0/8"]).as_deref(), Some("198.18.0.6"));
        assert_eq!(of(&["198.18.0.0/15"]), None);
        let v6 = free_network(&[], V6.into(), 1, V6_NETWORKS, 64).unwrap();
        assert!(v6.probe.to_string().starts_with("2001:2:0:"), "{v6:?}");
    }
}
