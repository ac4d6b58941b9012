//! Ports that the host keeps for something else.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;

/// Ports among the worker ports of the default range that well-known services use: of databases, brokers,
/// file systems and games.
const WELL_KNOWN: [u16; 48] = [
    20048, 20880, 21025, 21027, 22000, 22067, 22070, 22122, 22222, 23399, 24007, 24008, 24009,
    24224, 24441, 24444, 24800, 25000, 25565, 25575, 25672, 25826, 26000, 26257, 26379, 26656,
    26657, 26900, 27000, 27001, 27015, 27016, 27017, 27018, 27019, 27020, 27036, 27500, 27960,
    28015, 28017, 28910, 28960, 29015, 29092, 29418, 29900, 29999,
];

/// The ports that the host keeps for something else, of the network namespace of this thread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortReservations {
    /// What the kernel gives to outgoing connections: `net.ipv4.ip_local_port_range`.
    pub(crate) outgoing: Option<RangeInclusive<u16>>,
    /// What it is told to give to none: `net.ipv4.ip_local_reserved_ports`.
    pub(crate) reserved: BTreeSet<u16>,
}

impl PortReservations {
    /// Reads both settings. What cannot be read is not kept for anything.
    pub(crate) fn read() -> Self {
        let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let outgoing = read("ip_local_port_range").ok();
        let reserved = read("ip_local_reserved_ports").ok();
        Self {
            outgoing: outgoing.and_then(|text| parse_pair(&text)),
            reserved: reserved.map(|text| parse_list(&text)).unwrap_or_default(),
        }
    }

    /// The ports of the default range that are left to others, so long as `needed` ports remain: first
    /// those of well-known services and those that are reserved, then those that outgoing connections get.
    /// Whether the latter are left out is said, too: if not, the kernel gives ports of the range to both.
    pub(crate) fn of_default(
        &self,
        range: RangeInclusive<u16>,
        needed: usize,
    ) -> (BTreeSet<u16>, bool) {
        let in_range = |port: &u16| range.contains(port);
        let total = range.clone().count();
        let mut left_out: BTreeSet<u16> =
            WELL_KNOWN.into_iter().chain(self.reserved.iter().copied()).filter(in_range).collect();
        if total.saturating_sub(left_out.len()) < needed {
            left_out.clear();
        }
        let outgoing: BTreeSet<u16> =
            self.outgoing.iter().cloned().flatten().filter(in_range).collect();
        let all = &left_out | &outgoing;
        let is_apart = total.saturating_sub(all.len()) >= needed;
        (if is_apart { all } else { left_out }, is_apart)
    }
}

fn parse_pair(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(first), Ok(last)) => Some(first..=last),
        _ => None,
    }
}

/// `8080,9148-9200`
fn parse_list(text: &str) -> BTreeSet<u16> {
    let ranges = text.trim().split(',').filter_map(|item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(outgoing: &str, reserved: &str) -> PortReservations {
        PortReservations { outgoing: parse_pair(outgoing), reserved: parse_list(reserved) }
    }

    #[test]
    fn the_default_of_linux_is_apart() {
        let (left_out, is_apart) = with("32768\t60999\n", "\n").of_default(20_000..=29_999, 100);
        assert!(is_apart);
        assert!(left_out.contains(&27_017) && left_out.contains(&25_565), "{left_out:?}");
        assert!(!left_out.contains(&20_000));
        assert_eq!(left_out.len(), WELL_KNOWN.len());
    }

    #[test]
    fn what_is_reserved_and_what_goes_out_is_left_out() {
        let reservations = with("25000 65000", "20001,20010-20012,9");
        let (left_out, is_apart) = reservations.of_default(20_000..=29_999, 100);
        assert!(is_apart);
        for port in [20_001, 20_010, 20_012, 25_000, 29_000] {
            assert!(left_out.contains(&port), "{port}");
        }
        assert!(!left_out.contains(&20_000) && !left_out.contains(&9));
    }

    /// Every port of the range may go out: then it is shared, and said.
    #[test]
    fn a_range_that_outgoing_connections_have_whole_is_shared() {
        let (left_out, is_apart) = with("1024 65000", "").of_default(20_000..=29_999, 100);
        assert!(!is_apart);
        assert_eq!(left_out.len(), WELL_KNOWN.len());
    }

    #[test]
    fn so_many_are_left_as_are_needed() {
        let (left_out, is_apart) =
            with("32768 60999", "20000-29990").of_default(20_000..=29_999, 100);
        assert_eq!((left_out.len(), is_apart), (0, true));
    }

    #[test]
    fn what_is_not_understood_reserves_nothing() {
        assert_eq!(with("a b", "x,-,1-,70000"), PortReservations::default());
    }

    #[test]
    fn the_settings_of_this_host_can_be_read() {
        assert!(PortReservations::read().outgoing.is_some());
    }
}
