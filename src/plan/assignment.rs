//! The table slot -> seat: even, and with the least movement from the table before.

use super::{MAX_SEATS, Partition, PlanError, Seat, Slot};

/// The relative shares of the seats, one each; all the same by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Fixed point: the largest weight is [`Self::SCALE`].
    scaled: Vec<u64>,
}

impl Weights {
    const SCALE: f64 = 1_048_576.0;

    /// The same share for each of `seats` seats.
    ///
    /// # Errors
    /// [`PlanError::WorkerCount`] unless `seats` is 1 to 1024.
    pub fn equal(seats: usize) -> Result<Self, PlanError> {
        check_count(seats)?;
        Ok(Self { scaled: vec![1; seats] })
    }

    /// One share for each seat, relative to the others. 0 means no slots at all.
    ///
    /// # Errors
    /// [`PlanError::WorkerCount`] unless there are 1 to 1024; [`PlanError::Weight`] for one that
    /// is negative or not finite; [`PlanError::WeightsAllZero`].
    pub fn new(weights: &[f64]) -> Result<Self, PlanError> {
        check_count(weights.len())?;
        for (seat, &weight) in weights.iter().enumerate() {
            if !weight.is_finite() || weight < 0.0 {
                return Err(PlanError::Weight { seat, weight });
            }
        }
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            return Err(PlanError::WeightsAllZero);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to SCALE")]
        let scale = |weight: f64| match weight {
            0.0 => 0,
            _ => ((weight / largest * Self::SCALE).round() as u64).max(1),
        };
        Ok(Self { scaled: weights.iter().copied().map(scale).collect() })
    }

    /// The number of seats.
    pub fn seats(&self) -> usize {
        self.scaled.len()
    }
}

fn check_count(workers: usize) -> Result<(), PlanError> {
    if (1..=usize::from(MAX_SEATS)).contains(&workers) {
        Ok(())
    } else {
        Err(PlanError::WorkerCount { workers })
    }
}

/// Which seat serves each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    seats: Vec<Seat>,
}

impl Assignment {
    /// Gives every slot of `partition` a seat, by the shares of `weights`, so that no seat is more
    /// than one slot away from its share. With a `previous` assignment of as many slots no slot
    /// moves that need not; one with another number of slots is of no use and is passed over.
    /// A mask gives slot `k` to seat `k`, always.
    ///
    /// # Errors
    /// [`PlanError::FewerSlotsThanWorkers`]; [`PlanError::MaskSeats`] and
    /// [`PlanError::MaskWeights`] where a mask cannot give each seat exactly one slot.
    pub fn new(
        partition: &Partition,
        weights: &Weights,
        previous: Option<&Self>,
    ) -> Result<Self, PlanError> {
        let (slots, seats) = (partition.slots() as usize, weights.seats());
        if let Partition::Mask { .. } = partition {
            return Self::identity(slots, weights);
        }
        if slots < seats {
            return Err(PlanError::FewerSlotsThanWorkers { slots, workers: seats });
        }
        let mut table = match previous {
            Some(previous) if previous.seats.len() == slots => previous.seats.clone(),
            _ => vec![NOBODY; slots],
        };
        let held = count_held(&mut table, seats);
        let quotas = quotas(slots, weights, &held);
        release_surplus(&mut table, &held, &quotas);
        fill_gaps(&mut table, &quotas);
        Ok(Self { seats: table })
    }

    /// The assignment that a table read from the kernel holds.
    pub fn from_table(seats: Vec<Seat>) -> Self {
        Self { seats }
    }

    fn identity(slots: usize, weights: &Weights) -> Result<Self, PlanError> {
        if slots != weights.seats() {
            return Err(PlanError::MaskSeats { slots, workers: weights.seats() });
        }
        if weights.scaled.iter().any(|weight| *weight != weights.scaled[0]) {
            return Err(PlanError::MaskWeights);
        }
        Ok(Self { seats: (0..MAX_SEATS).map(Seat).take(slots).collect() })
    }

    /// The seat of a slot.
    ///
    /// # Panics
    /// If the slot is not below [`Self::slots`]: it came from another partition.
    pub fn seat_of(&self, slot: Slot) -> Seat {
        self.seats[slot.0 as usize]
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.seats.len()
    }

    /// The seats, by slot.
    pub fn table(&self) -> &[Seat] {
        &self.seats
    }

    /// How many slots each of `seats` seats has.
    pub fn slots_by_seat(&self, seats: usize) -> Vec<u32> {
        let mut counts = vec![0; seats];
        for seat in &self.seats {
            if let Some(count) = counts.get_mut(seat.index()) {
                *count += 1;
            }
        }
        counts
    }

    /// How many slots have another seat in `other`; slots that only one of them has count.
    pub fn moved_to(&self, other: &Self) -> usize {
        let same = self.seats.iter().zip(&other.seats).filter(|(a, b)| a == b).count();
        self.seats.len().max(other.seats.len()) - same
    }
}

/// Marks a slot that has no seat yet.
const NOBODY: Seat = Seat(u16::MAX);

/// Takes the slots of seats that are gone, and counts the slots of those that stay.
fn count_held(table: &mut [Seat], seats: usize) -> Vec<usize> {
    let mut held = vec![0; seats];
    for seat in table {
        match held.get_mut(seat.index()) {
            Some(count) => *count += 1,
            None => *seat = NOBODY,
        }
    }
    held
}

/// How many slots each seat is to have: its exact share, rounded down, and one more for some. Who
/// has more than that already comes first for the one more (so that fewest slots move), then who
/// lost most to the rounding.
fn quotas(slots: usize, weights: &Weights, held: &[usize]) -> Vec<usize> {
    let total: u128 = weights.scaled.iter().map(|weight| u128::from(*weight)).sum();
    let share = |weight: &u64| {
        let exact = slots as u128 * u128::from(*weight);
        (usize::try_from(exact / total).expect("at most the number of slots"), exact % total)
    };
    let shares: Vec<(usize, u128)> = weights.scaled.iter().map(share).collect();
    let mut quotas: Vec<usize> = shares.iter().map(|(whole, _)| *whole).collect();
    let left = slots - quotas.iter().sum::<usize>();
    let mut order: Vec<usize> = (0..quotas.len()).filter(|seat| shares[*seat].1 > 0).collect();
    order.sort_by_key(|&seat| {
        let (whole, remainder) = shares[seat];
        (held[seat] <= whole, std::cmp::Reverse(remainder), seat)
    });
    for seat in order.into_iter().take(left) {
        quotas[seat] += 1;
    }
    quotas
}

/// Takes from each seat the slots above its quota.
fn release_surplus(table: &mut [Seat], held: &[usize], quotas: &[usize]) {
    let mut surplus: Vec<usize> =
        held.iter().zip(quotas).map(|(held, quota)| held.saturating_sub(*quota)).collect();
    if surplus.iter().all(|count| *count == 0) {
        return;
    }
    for seat in table.iter_mut().rev() {
        if let Some(count) = surplus.get_mut(seat.index()).filter(|count| **count > 0) {
            *count -= 1;
            *seat = NOBODY;
        }
    }
}

/// Gives the slots of nobody to the seats below their quota, in the order of the seats.
fn fill_gaps(table: &mut [Seat], quotas: &[usize]) {
    let mut missing = quotas.to_vec();
    for seat in table.iter() {
        if let Some(count) = missing.get_mut(seat.index()) {
            *count = count.saturating_sub(1);
        }
    }
    let mut takers =
        (0..MAX_SEATS).map(Seat).zip(missing).flat_map(|(s, n)| std::iter::repeat_n(s, n));
    for seat in table.iter_mut().filter(|seat| **seat == NOBODY) {
        *seat = takers.next().expect("the quotas sum up to the number of slots");
    }
}
