//! A range of ports.

use std::fmt;
use std::str::FromStr;

use super::Port;

/// A range of ports, both ends included, in text `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// All ports.
    pub const ALL: Self = Self { first: Port::MIN, last: Port::MAX };

    /// How many generations of workers a range of worker ports has to hold at a time: the live one, the one that a
    /// reload starts, and one that drains, or whose ports still have entries in conntrack.
    pub const GENERATIONS: usize = 3;

    /// The range from `first` to `last`; `None` if `last` is below `first`.
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> Port {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> Port {
        self.last
    }

    /// How many ports it has, 1 to 65535.
    pub fn count(self) -> usize {
        usize::from(self.last.number() - self.first.number()) + 1
    }

    /// Whether the port is in it.
    pub fn contains(self, port: Port) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Its ports, lowest first.
    pub fn ports(self) -> impl DoubleEndedIterator<Item = Port> {
        (self.first.number()..=self.last.number()).filter_map(Port::new)
    }

    /// How many ports so many workers, each with so many public ports, need.
    pub fn needed(workers: u16, public_ports: usize) -> usize {
        usize::from(workers) * public_ports * Self::GENERATIONS
    }
}

impl Default for PortRange {
    /// 20000-29999: below the ports that Linux gives to outgoing connections.
    fn default() -> Self {
        let port = |number| Port::new(number).expect("not 0");
        Self { first: port(20_000), last: port(29_999) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').ok_or(EXPECTED)?;
        let port = |text: &str| text.parse::<Port>().map_err(|_| EXPECTED);
        Self::new(port(first)?, port(last)?).ok_or("expected FIRST-LAST with FIRST up to LAST")
    }
}

const EXPECTED: &str = "expected FIRST-LAST, such as 20000-29999; ports are 1 to 65535";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_includes_both_ends() {
        let range: PortRange = "20000-20002".parse().unwrap();
        assert_eq!(range.count(), 3);
        assert_eq!(range.ports().map(Port::number).collect::<Vec<_>>(), [20000, 20001, 20002]);
        assert!(range.contains(range.last()) && range.contains(range.first()));
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65535);
        assert_eq!(range.to_string(), "20000-20002");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "-", "1", "0-1", "2-1", "1-65536", "+1-2", "1 - 2", "-1-2", "1-2-3", "a-b"]
        {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
        }
    }
}
