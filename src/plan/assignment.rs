//! The table slot -> seat: even, and with the least movement from the table before.

use std::cmp::Reverse;
use std::iter::repeat_n;

use super::{MAX_SEATS, Partition, PlanError, Seat, Slot};

/// The relative shares of the seats, one each; all the same by default.
///
/// ```
/// use ipcluster::plan::Weights;
///
/// // The second worker is to get twice as many clients as each of the others.
/// let weights = Weights::new(&[1.0, 2.0, 1.0])?;
/// assert_eq!(weights.seats(), 3);
/// # Ok::<(), ipcluster::plan::PlanError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Fixed point: the largest weight is [`Self::SCALE`], and one above zero is never less than 1.
    scaled: Vec<u64>,
}

impl Weights {
    /// So fine that rounding shifts the shares of 1,024 seats by less than a millionth of a slot,
    /// and so coarse that neither the sum of them nor a product with [`Partition::MAX_SLOTS`]
    /// leaves 64 bits.
    const SCALE: u64 = 1 << 47;

    /// Equal weights for `seats` seats.
    ///
    /// # Errors
    /// [`PlanError::WorkerCount`] unless `seats` is 1 to 1024.
    pub fn equal(seats: usize) -> Result<Self, PlanError> {
        check_seat_count(seats)?;
        Ok(Self { scaled: vec![Self::SCALE; seats] })
    }

    /// Weights by seat, each relative to the others. 0 means no slots at all.
    ///
    /// # Errors
    /// [`PlanError::WorkerCount`] unless there are 1 to 1024; [`PlanError::Weight`] for one that
    /// is negative or not finite; [`PlanError::WeightsAllZero`].
    pub fn new(weights: &[f64]) -> Result<Self, PlanError> {
        check_seat_count(weights.len())?;
        for (seat, &weight) in weights.iter().enumerate() {
            if !weight.is_finite() || weight < 0.0 {
                return Err(PlanError::Weight { seat, weight });
            }
        }
        let largest = weights.iter().copied().fold(0.0, f64::max);
        if largest == 0.0 {
            return Err(PlanError::WeightsAllZero);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "0 to SCALE, a power of two"
        )]
        let scale = |weight: f64| match weight {
            0.0 => 0,
            _ => ((weight / largest * Self::SCALE as f64).round() as u64).max(1),
        };
        Ok(Self { scaled: weights.iter().copied().map(scale).collect() })
    }

    /// The number of seats.
    pub fn seats(&self) -> usize {
        self.scaled.len()
    }

    /// These weights for another number of seats: those that stay keep theirs, each further one gets the mean of
    /// what there was.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub(crate) fn resized(&self, seats: usize) -> Result<Self, PlanError> {
        let mut shares = self.shares();
        #[expect(clippy::cast_precision_loss, reason = "1024 at most")]
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        shares.resize(seats.min(usize::from(MAX_SEATS) + 1), mean);
        Self::new(&shares)
    }

    /// The shares, by seat: [`Self::new`] makes the same weights of them.
    pub fn shares(&self) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "SCALE and less, whole numbers")]
        let share = |scaled: &u64| *scaled as f64;
        self.scaled.iter().map(share).collect()
    }
}

/// Whether a cluster can have so many seats.
pub(super) fn check_seat_count(workers: usize) -> Result<(), PlanError> {
    if (1..=usize::from(MAX_SEATS)).contains(&workers) {
        Ok(())
    } else {
        Err(PlanError::WorkerCount { workers })
    }
}

/// Which seat serves each slot.
///
/// ```
/// use ipcluster::plan::{Assignment, Partition, Weights};
///
/// let partition = Partition::hash(1000)?;
/// let four = Assignment::new(&partition, &Weights::equal(4)?, None)?;
/// let five = Assignment::new(&partition, &Weights::equal(5)?, Some(&four))?;
/// let moved = four.table().iter().zip(five.table()).filter(|(old, new)| old != new);
/// assert_eq!(moved.count(), 200, "only the slots of the fifth seat move");
/// # Ok::<(), ipcluster::plan::PlanError>(())
/// ```
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
        let Some(previous) = previous.filter(|previous| previous.seats.len() == slots) else {
            let quotas = quotas(slots, weights, &vec![0; seats]);
            return Ok(Self { seats: repeated(&quotas).collect() });
        };
        let mut table = previous.seats.clone();
        let mut held = release_gone(&mut table, seats);
        let quotas = quotas(slots, weights, &held);
        release_surplus(&mut table, &mut held, &quotas);
        fill_gaps(&mut table, &held, &quotas);
        Ok(Self { seats: table })
    }

    /// This assignment with `extra` more seats than `seats`, which get `lent` slots, as many each: every
    /// other seat lends a part as large as its part of the table, its last slots. No other slot moves.
    pub(super) fn lending(&self, seats: usize, extra: usize, lent: usize) -> Self {
        let mut table = self.seats.clone();
        let mut held = release_gone(&mut table, seats);
        let by_held = Weights { scaled: held.iter().map(|slots| *slots as u64).collect() };
        let mut quotas = quotas(table.len() - lent, &by_held, &held);
        quotas.extend((0..extra).map(|nth| lent / extra + usize::from(nth < lent % extra)));
        held.resize(seats + extra, 0);
        release_surplus(&mut table, &mut held, &quotas);
        fill_gaps(&mut table, &held, &quotas);
        Self { seats: table }
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
fn release_gone(table: &mut [Seat], seats: usize) -> Vec<usize> {
    let mut held = vec![0; seats];
    for run in table.chunk_by_mut(|a, b| a == b) {
        match held.get_mut(run[0].index()) {
            Some(count) => *count += run.len(),
            None => run.fill(NOBODY),
        }
    }
    held
}

/// How many slots each seat is to have: its exact share, rounded down, and one more for some. Who
/// has more than that already comes first for the one more (so that fewest slots move), then who
/// lost most to the rounding.
fn quotas(slots: usize, weights: &Weights, held: &[usize]) -> Vec<usize> {
    let total: u64 = weights.scaled.iter().sum();
    // Weights such as 0.1 and 0.3 are not exact: a share this near to a whole number is one.
    let rounding = total >> 30;
    let share = |weight: &u64| {
        let exact = slots as u64 * weight;
        let whole = (exact + rounding) / total;
        let remainder = (exact + rounding) % total;
        let remainder = if remainder <= 2 * rounding { 0 } else { remainder };
        (usize::try_from(whole).expect("at most the number of slots"), remainder)
    };
    let shares: Vec<(usize, u64)> = weights.scaled.iter().map(share).collect();
    let mut quotas: Vec<usize> = shares.iter().map(|(whole, _)| *whole).collect();
    let left = slots - quotas.iter().sum::<usize>();
    if left == 0 {
        return quotas;
    }
    let mut order: Vec<usize> = (0..quotas.len()).filter(|seat| shares[*seat].1 > 0).collect();
    order.sort_unstable_by_key(|&seat| {
        let (whole, remainder) = shares[seat];
        (held[seat] <= whole, Reverse(remainder), seat)
    });
    for seat in order.into_iter().take(left) {
        quotas[seat] += 1;
    }
    quotas
}

/// Takes from each seat the slots above its quota, the last ones first.
fn release_surplus(table: &mut [Seat], held: &mut [usize], quotas: &[usize]) {
    let mut surplus: usize =
        held.iter().zip(quotas).map(|(held, quota)| held.saturating_sub(*quota)).sum();
    for seat in table.iter_mut().rev() {
        if surplus == 0 {
            return;
        }
        let index = seat.index();
        if *seat != NOBODY && held[index] > quotas[index] {
            held[index] -= 1;
            surplus -= 1;
            *seat = NOBODY;
        }
    }
}

/// Gives the slots of nobody to the seats below their quota, in the order of the seats.
fn fill_gaps(table: &mut [Seat], held: &[usize], quotas: &[usize]) {
    let missing: Vec<usize> = quotas.iter().zip(held).map(|(quota, held)| quota - held).collect();
    let mut takers = repeated(&missing);
    for seat in table.iter_mut().filter(|seat| **seat == NOBODY) {
        *seat = takers.next().expect("the quotas sum up to the number of slots");
    }
}

/// Each seat in order, as often as its count says.
fn repeated(counts: &[usize]) -> impl Iterator<Item = Seat> {
    (0..MAX_SEATS).map(Seat).zip(counts).flat_map(|(seat, count)| repeat_n(seat, *count))
}
