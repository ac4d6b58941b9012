//! Which worker ports other hosts cannot reach.

use std::collections::BTreeSet;
use std::mem::discriminant;
use std::sync::Arc;

use super::{Listeners, Plan, PlanError, Port, PortRange, Protocol, Seat};

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
    /// The ports of the workers in seats, each for the protocols of the listeners that it serves, and these: of
    /// workers that have no seat, and what workers have open beside. None of them is among the former.
    Held(Arc<BTreeSet<(Protocol, Port)>>),
    /// The same ports, each for every protocol that a listener has: as earlier versions had it, which closed
    /// a port that a worker holds for tcp to answers that another program expects by udp. Such a plan is
    /// only read from the kernel.
    HeldForAll(Arc<BTreeSet<Port>>),
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
    /// closed, each for the protocols of the listeners that it serves. With `None` any host can reach any
    /// worker by its own port.
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

    /// Has the guard as earlier versions had it, which closed each port for every protocol that a listener
    /// has. Where no listener is udp that is the same.
    ///
    /// # Errors
    /// The errors of [`Self::set_guard`].
    pub(crate) fn set_guard_for_all(&mut self, range: PortRange) -> Result<(), PlanError> {
        self.set_guard(Some(range))?;
        if self.guards_protocol(Protocol::Udp) {
            self.guard = Some(Guard { range, scope: GuardScope::HeldForAll(Arc::default()) });
        }
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

    /// Whether ports are closed for this protocol: for tcp always, since the ports that no listener is for are
    /// most often tcp.
    pub(crate) fn guards_protocol(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Tcp || !self.listeners.services(protocol).is_empty()
    }

    /// Whether each port is closed for every protocol that a listener has.
    pub(crate) fn guards_for_all(&self) -> bool {
        matches!(self.guard, Some(Guard { scope: GuardScope::HeldForAll(_), .. }))
    }

    /// Has the guard close these ports too, which its listeners do not tell: of workers without a seat, those
    /// that start and those that finish their connections, and what workers have open beside. What else was
    /// closed beside the ports of workers with a seat is open again. Nothing changes without a guard.
    pub(crate) fn guard_unseated(&mut self, ports: impl IntoIterator<Item = (Protocol, Port)>) {
        if self.guard.is_none() || self.guards_range() {
            return;
        }
        let guarded = ports.into_iter().filter(|(protocol, _)| self.guards_protocol(*protocol));
        let mut unseated: BTreeSet<(Protocol, Port)> = guarded.collect();
        for protocol in Protocol::ALL {
            for port in self.seated(self.survivors(), protocol) {
                unseated.remove(&(protocol, port));
            }
        }
        match self.guard.as_mut().map(|guard| &mut guard.scope) {
            Some(GuardScope::Held(held)) if **held != unseated => *held = Arc::new(unseated),
            Some(GuardScope::HeldForAll(held)) => {
                *held = Arc::new(unseated.into_iter().map(|(_, port)| port).collect());
            }
            _ => {}
        }
    }

    /// Closes what another plan of these listeners closes, too.
    pub(crate) fn guard_unseated_of(&mut self, other: &Self) {
        let of =
            |protocol| other.guarded_ports(protocol).into_iter().map(move |port| (protocol, port));
        self.guard_unseated(Protocol::ALL.into_iter().flat_map(of));
    }

    /// The ports that the guard closes for a protocol, in order; none if it closes a whole range.
    pub(crate) fn guarded_ports(&self, protocol: Protocol) -> Vec<Port> {
        self.guarded_of(self.survivors(), protocol).into_iter().collect()
    }

    /// The ports that the guard closes for any protocol.
    pub(crate) fn all_guarded_ports(&self) -> impl Iterator<Item = Port> {
        let of = |protocol| self.guarded_of(self.survivors(), protocol);
        Protocol::ALL.into_iter().flat_map(of)
    }

    /// The ports of this protocol that the guard closes in this plan and not in `target`, and those that it
    /// closes in `target` and not in this plan, in order; `changed` are the seats of `target` that have
    /// another worker than in this plan, or are new.
    pub(crate) fn guard_difference(
        &self,
        target: &Self,
        changed: &[Seat],
        protocol: Protocol,
    ) -> (Vec<Port>, Vec<Port>) {
        let gone = (target.seats.len()..self.seats.len())
            .filter_map(|seat| Some(Seat(u16::try_from(seat).ok()?)));
        let (before, after) = match self.is_guarded_as(target) {
            true => (
                self.guarded_of(changed.iter().copied().chain(gone), protocol),
                target.guarded_of(changed.iter().copied(), protocol),
            ),
            // Of a worker that stays other ports are closed, too.
            false => (
                self.guarded_of(self.survivors(), protocol),
                target.guarded_of(target.survivors(), protocol),
            ),
        };
        let only = |one: &BTreeSet<Port>, other| one.difference(other).copied().collect();
        (only(&before, &after), only(&after, &before))
    }

    /// The ports that are closed for a protocol: of workers in these seats, and those that the listeners do not
    /// tell.
    fn guarded_of(&self, seats: impl Iterator<Item = Seat>, protocol: Protocol) -> BTreeSet<Port> {
        let mut ports = self.seated(seats, protocol);
        match self.guard.as_ref().map(|guard| &guard.scope) {
            None | Some(GuardScope::Range) => {}
            Some(GuardScope::HeldForAll(unseated)) => ports.extend(unseated.iter()),
            Some(GuardScope::Held(unseated)) => {
                let of_protocol = unseated.iter().filter(|(of, _)| *of == protocol);
                ports.extend(of_protocol.map(|(_, port)| *port));
            }
        }
        ports
    }

    /// The ports of workers in these seats that are closed for a protocol.
    fn seated(&self, seats: impl Iterator<Item = Seat>, protocol: Protocol) -> BTreeSet<Port> {
        let occupants = seats.filter_map(|seat| self.occupant(seat));
        match self.guard.as_ref().map(|guard| &guard.scope) {
            None | Some(GuardScope::Range) => BTreeSet::new(),
            Some(GuardScope::HeldForAll(_)) => {
                occupants.flat_map(|it| it.ports.iter().copied()).collect()
            }
            Some(GuardScope::Held(_)) => {
                let services = self.listeners.services(protocol);
                let of =
                    occupants.flat_map(|it| services.iter().map(|service| it.ports[service.place]));
                of.collect()
            }
        }
    }

    /// Whether this guard closes of the port of a worker what that of another plan does.
    pub(super) fn is_guarded_as(&self, other: &Self) -> bool {
        let of = |plan: &Self| plan.guard.as_ref().map(|guard| discriminant(&guard.scope));
        of(self) == of(other)
    }

    /// Whether this plan and another differ, and in nothing but what the guard closes.
    pub(crate) fn differs_in_guard_alone(&self, other: &Self) -> bool {
        self.guard != other.guard && *self == Self { guard: self.guard.clone(), ..other.clone() }
    }

    /// Has no port of a worker in a seat stand among those without one.
    pub(super) fn take_seated_from_guard(&mut self) {
        let unseated: Vec<(Protocol, Port)> = match self.guard.as_ref().map(|it| &it.scope) {
            Some(GuardScope::Held(unseated)) => unseated.iter().copied().collect(),
            Some(GuardScope::HeldForAll(unseated)) => {
                unseated.iter().map(|port| (Protocol::Tcp, *port)).collect()
            }
            None | Some(GuardScope::Range) => return,
        };
        if !unseated.is_empty() {
            self.guard_unseated(unseated);
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
