//! Which worker ports other hosts cannot reach.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Listeners, Plan, PlanError, Port, PortRange, Seat};

/// The guard of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guard {
    /// Where worker ports lie.
    pub(super) range: PortRange,
    pub(super) scope: GuardScope,
}

/// What a guard closes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GuardScope {
    /// The ports of the workers in seats, and these: of workers that have no seat. None of them is a port
    /// of a worker in a seat.
    Held(Arc<BTreeSet<Port>>),
    /// All ports of the range, whoever has them, and every packet to them: as earlier versions had it. Such
    /// a plan is only read from the kernel.
    Range,
}

impl Guard {
    fn held(range: PortRange) -> Self {
        Self { range, scope: GuardScope::Held(Arc::default()) }
    }
}

impl Plan {
    /// Guards worker ports, which lie in this range: connections that other hosts begin to them are
    /// dropped, so that workers are reached through listeners alone. Only ports that workers hold are
    /// closed, for tcp, and for udp where a listener is udp. With `None` any host can reach any worker by its own
    /// port.
    ///
    /// # Errors
    /// [`PlanError::PublicPortGuarded`] if a listener's port is in the range.
    pub fn set_guard(&mut self, range: Option<PortRange>) -> Result<(), PlanError> {
        check_guard(range, &self.listeners)?;
        self.guard = range.map(Guard::held);
        Ok(())
    }

    /// Has the guard as earlier versions had it, of all ports of the range.
    ///
    /// # Errors
    /// The errors of [`Self::set_guard`].
    pub(crate) fn set_guard_of_range(&mut self, range: PortRange) -> Result<(), PlanError> {
        check_guard(Some(range), &self.listeners)?;
        self.guard = Some(Guard { range, scope: GuardScope::Range });
        Ok(())
    }

    /// Where the worker ports lie that other hosts cannot reach.
    pub fn guard(&self) -> Option<PortRange> {
        self.guard.as_ref().map(|guard| guard.range)
    }

    /// Whether all ports of the range are closed, whoever has them.
    pub(crate) fn guards_range(&self) -> bool {
        matches!(self.guard, Some(Guard { scope: GuardScope::Range, .. }))
    }

    /// Has the guard close these ports too, of workers without a seat: those that start, and those that
    /// finish their connections. What was closed for other workers without a seat is open again. Nothing
    /// changes without a guard.
    pub(crate) fn guard_unseated(&mut self, ports: impl IntoIterator<Item = Port>) {
        if !matches!(self.guard, Some(Guard { scope: GuardScope::Held(_), .. })) {
            return;
        }
        let mut unseated: BTreeSet<Port> = ports.into_iter().collect();
        for (_, occupant) in self.occupants() {
            for port in occupant.ports.iter() {
                unseated.remove(port);
            }
        }
        if let Some(Guard { scope: GuardScope::Held(held), .. }) = &mut self.guard
            && **held != unseated
        {
            *held = Arc::new(unseated);
        }
    }

    /// Closes what another plan of these listeners closes for workers without a seat.
    pub(crate) fn guard_unseated_of(&mut self, other: &Self) {
        if let Some(Guard { scope: GuardScope::Held(unseated), .. }) = &other.guard {
            self.guard_unseated(unseated.iter().copied());
        }
    }

    /// The ports that the guard closes, in order; none if it closes a whole range.
    pub(crate) fn guarded_ports(&self) -> Vec<Port> {
        self.guarded_of(self.survivors()).into_iter().collect()
    }

    /// The ports that the guard closes in this plan and not in `target`, and those that it closes in
    /// `target` and not in this plan, in order; `changed` are the seats of `target` that have another worker
    /// than in this plan, or are new.
    pub(crate) fn guard_difference(
        &self,
        target: &Self,
        changed: &[Seat],
    ) -> (Vec<Port>, Vec<Port>) {
        let gone = (target.seats.len()..self.seats.len())
            .filter_map(|seat| Some(Seat(u16::try_from(seat).ok()?)));
        let before = self.guarded_of(changed.iter().copied().chain(gone));
        let after = target.guarded_of(changed.iter().copied());
        let only = |one: &BTreeSet<Port>, other| one.difference(other).copied().collect();
        (only(&before, &after), only(&after, &before))
    }

    /// The ports of workers in these seats, and of those without one.
    fn guarded_of(&self, seats: impl Iterator<Item = Seat>) -> BTreeSet<Port> {
        let Some(Guard { scope: GuardScope::Held(unseated), .. }) = &self.guard else {
            return BTreeSet::new();
        };
        let of_seats = seats.filter_map(|seat| self.occupant(seat)).flat_map(|it| it.ports.iter());
        of_seats.chain(unseated.iter()).copied().collect()
    }

    /// Whether this plan and another differ, and in nothing but what the guard closes.
    pub(crate) fn differs_in_guard_alone(&self, other: &Self) -> bool {
        self.guard != other.guard && *self == Self { guard: self.guard.clone(), ..other.clone() }
    }

    /// Has no port of a worker in a seat stand among those without one.
    pub(super) fn take_seated_from_guard(&mut self) {
        if let Some(Guard { scope: GuardScope::Held(unseated), .. }) = &self.guard
            && !unseated.is_empty()
        {
            let unseated = Arc::clone(unseated);
            self.guard_unseated(unseated.iter().copied());
        }
    }
}

pub(super) fn check_guard(
    guard: Option<PortRange>,
    listeners: &Listeners,
) -> Result<(), PlanError> {
    let Some(range) = guard else { return Ok(()) };
    match listeners.public_ports().iter().find(|port| range.contains(**port)) {
        Some(port) => Err(PlanError::PublicPortGuarded { port: *port, range }),
        None => Ok(()),
    }
}
