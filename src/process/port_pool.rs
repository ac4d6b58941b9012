use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::ProcessError;

/// The ports that workers are given, in turn: a port that was given back is used again as late as
/// possible, so that what still remembers its last worker (clients, conntrack, logs) forgets.
///
/// Pure: which ports are in use is an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortPool {
    first: u16,
    last: u16,
    reserved: BTreeSet<u16>,
    next: u16,
    stride: Option<u16>,
}

impl PortPool {
    /// A pool of the ports in `range` without those in `reserved` (the public ports).
    ///
    /// # Errors
    /// [`ProcessError::PortRange`]: the range is empty or holds 0.
    pub(crate) fn new(
        range: RangeInclusive<u16>,
        reserved: BTreeSet<u16>,
    ) -> Result<Self, ProcessError> {
        let (first, last) = range.into_inner();
        if first == 0 || first > last {
            return Err(ProcessError::PortRange { first, last });
        }
        Ok(Self { first, last, reserved, next: first, stride: None })
    }

    /// This pool with a stride: of the ports that are given together, the one in place k leaves k as
    /// remainder when divided by `stride`, a power of two that is not less than the number of places.
    /// `None`: any port is for any place.
    #[must_use]
    pub(crate) fn with_stride(mut self, stride: Option<u16>) -> Self {
        self.stride = stride;
        self
    }

    /// The range that the ports come from.
    pub(crate) fn range(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Gives `count` ports that are not in `taken`: those of workers that live or drain, those
    /// that something else listens on, and those that conntrack entries point at.
    ///
    /// # Errors
    /// [`ProcessError::PortsExhausted`]: fewer are free. None is given then.
    pub(crate) fn allocate(
        &mut self,
        count: usize,
        taken: &BTreeSet<u16>,
    ) -> Result<Vec<u16>, ProcessError> {
        self.take(count, taken, self.stride)
    }

    /// As [`Self::allocate`], whatever the stride is: these ports are for no place.
    ///
    /// # Errors
    /// The errors of [`Self::allocate`].
    pub(crate) fn allocate_any(
        &mut self,
        count: usize,
        taken: &BTreeSet<u16>,
    ) -> Result<Vec<u16>, ProcessError> {
        self.take(count, taken, None)
    }

    fn take(
        &mut self,
        count: usize,
        taken: &BTreeSet<u16>,
        stride: Option<u16>,
    ) -> Result<Vec<u16>, ProcessError> {
        let in_turn = || (self.next..=self.last).chain(self.first..self.next);
        let is_free = |port: &u16| !taken.contains(port) && !self.reserved.contains(port);
        let ports: Vec<u16> = match stride {
            None => in_turn().filter(is_free).take(count).collect(),
            Some(stride) => (0..stride)
                .take(count)
                .map_while(|place| in_turn().filter(is_free).find(|port| port % stride == place))
                .collect(),
        };
        if ports.len() < count {
            let (first, last) = (self.first, self.last);
            return Err(ProcessError::PortsExhausted {
                first,
                last,
                wanted: count,
                free: ports.len(),
            });
        }
        // The one that comes last when counting from `next` on.
        let turn = |port: &u16| (*port < self.next, *port);
        if let Some(port) = ports.iter().copied().max_by_key(turn) {
            self.next = if port == self.last { self.first } else { port + 1 };
        }
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ports_are_given_in_turn_and_reserved_ones_are_not() {
        let mut pool = PortPool::new(20000..=20003, BTreeSet::from([20001])).unwrap();
        let none = BTreeSet::new();
        assert_eq!(pool.allocate(2, &none).unwrap(), [20000, 20002]);
        assert_eq!(pool.allocate(2, &none).unwrap(), [20003, 20000]);
    }

    #[test]
    fn every_port_is_used_once_before_any_is_used_again() {
        let mut pool = PortPool::new(65_530..=65_535, BTreeSet::new()).unwrap();
        let none = BTreeSet::new();
        let round: Vec<u16> = (0..6).flat_map(|_| pool.allocate(1, &none).unwrap()).collect();
        assert_eq!(round, (65_530..=65_535).collect::<Vec<_>>());
        assert_eq!(pool.allocate(2, &none).unwrap(), [65_530, 65_531]);
    }

    #[test]
    fn a_pool_without_enough_ports_gives_none_and_says_how_many_there_are() {
        let mut pool = PortPool::new(1..=4, BTreeSet::from([2])).unwrap();
        let before = pool.clone();
        let error = pool.allocate(3, &BTreeSet::from([4])).unwrap_err();
        assert!(
            matches!(error, ProcessError::PortsExhausted { wanted: 3, free: 2, .. }),
            "{error}"
        );
        assert_eq!(pool, before);
    }

    #[test]
    fn with_a_stride_every_port_tells_its_place() {
        let mut pool = PortPool::new(10..=21, BTreeSet::new()).unwrap().with_stride(Some(4));
        let none = BTreeSet::new();
        assert_eq!(pool.allocate(3, &none).unwrap(), [12, 13, 10]);
        assert_eq!(pool.allocate(3, &BTreeSet::from([14, 17])).unwrap(), [16, 21, 18]);
        assert_eq!(pool.allocate(3, &none).unwrap(), [12, 13, 10]);
        let error = pool.allocate(3, &(0..=20).collect()).unwrap_err();
        assert!(matches!(error, ProcessError::PortsExhausted { wanted: 3, .. }), "{error}");
    }

    #[test]
    fn ranges_that_hold_no_port_are_refused() {
        #[expect(clippy::reversed_empty_ranges, reason = "the input that is refused")]
        for range in [0..=10, 20..=19, 0..=0] {
            assert!(PortPool::new(range.clone(), BTreeSet::new()).is_err(), "{range:?}");
        }
    }

    proptest! {
        #[test]
        fn ports_are_distinct_free_and_in_the_range(
            first in 1u16.., length in 0u16..50,
            taken in proptest::collection::btree_set(1u16..=80, 0..40),
            counts in proptest::collection::vec(0usize..20, 1..8),
        ) {
            let last = first.saturating_add(length);
            let taken: BTreeSet<u16> = taken.iter().map(|n| first.saturating_add(*n)).collect();
            let free = (first..=last).filter(|port| !taken.contains(port)).count();
            let mut pool = PortPool::new(first..=last, BTreeSet::new()).unwrap();
            for count in counts {
                match pool.allocate(count, &taken) {
                    Ok(ports) => {
                        let distinct: BTreeSet<u16> = ports.iter().copied().collect();
                        prop_assert_eq!(distinct.len(), count);
                        prop_assert!(distinct.is_disjoint(&taken));
                        prop_assert!(distinct.iter().all(|port| (first..=last).contains(port)));
                    }
                    Err(_) => prop_assert!(count > free),
                }
            }
        }
    }
}
