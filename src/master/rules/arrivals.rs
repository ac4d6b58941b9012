//! Whether connections that the rules lead to seats arrive at workers. Whatever drops them on the way, known or
//! not, shows here: the counters of the seats grow, the kernel opens no connection for anybody, and no worker
//! has a socket.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::master::background::BackgroundThread;
use crate::master::error::MasterError;
use crate::master::host::none_arrive;
use crate::master::waiting::{QUIET_INTERVAL, next_multiple, receive};
use crate::plan::{Plan, Protocol};
use crate::process::Sockets;
use crate::protocol::{Event, Finding, Timestamp};

/// How long connections are counted before they are compared.
const WINDOW: Duration = QUIET_INTERVAL.saturating_mul(16);

/// Fewer first packets than this are no reason to look: one client that has given up sends as many.
const LEAST: u64 = 3;

/// Compares what was led to seats with what has arrived.
pub(super) struct ArrivalMonitor {
    thread: BackgroundThread,
    sender: mpsc::UnboundedSender<Arrivals>,
    finished: mpsc::UnboundedReceiver<Arrivals>,
    due: Timestamp,
    /// What was counted when the window began.
    before: Option<Counts>,
    found: Option<Finding>,
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// First packets that the rules have led to seats.
    led: u64,
    /// Connections that the kernel has opened for listening sockets of this network namespace
    /// (`TcpPassiveOpens`).
    opened: u64,
}

/// What a window has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrivals {
    led: u64,
    /// Connections of worker ports, also those under way.
    sockets: u64,
}

impl ArrivalMonitor {
    pub(super) fn new() -> Result<Self, MasterError> {
        let (sender, finished) = mpsc::unbounded_channel();
        let thread = BackgroundThread::new("arrivals")?;
        let due = Timestamp::ZERO;
        Ok(Self { thread, sender, finished, due, before: None, found: None })
    }

    /// When the window [ends](Self::end_window).
    pub(super) fn due(&self) -> Option<Timestamp> {
        Some(self.due)
    }

    /// Waits for what a look at the sockets has shown.
    pub(super) async fn finished(&mut self) -> Arrivals {
        receive(&mut self.finished).await
    }

    /// A window is over; `led` is how many first packets the rules have led to seats so far. Nothing is
    /// concluded where a listener is UDP, whose packets leave no such trace.
    pub(super) fn end_window(
        &mut self,
        led: Option<u64>,
        plan: &Plan,
        at: Timestamp,
    ) -> Option<Event> {
        self.due = next_multiple(at, WINDOW);
        let has_udp = !plan.listeners().services(Protocol::Udp).is_empty();
        let now = led.zip(passive_opens()).filter(|_| !has_udp);
        let now = now.map(|(led, opened)| Counts { led, opened });
        let (before, now) = (std::mem::replace(&mut self.before, now)?, now?);
        let led = now.led.checked_sub(before.led)?;
        let opened = now.opened.saturating_sub(before.opened);
        if led < LEAST {
            return None;
        }
        if most_were_opened(led, opened) {
            return self.found.take().map(Event::FindingGone);
        }
        let occupants = plan.seats().filter_map(|(_, occupant)| occupant);
        let ports: BTreeSet<u16> =
            occupants.flat_map(|it| it.ports.iter().map(|port| port.number())).collect();
        let sender = self.sender.clone();
        self.thread.run(move || {
            let counts = Sockets::open().and_then(|mut it| it.connection_counts(&ports));
            let of = |(_, it): (u16, crate::process::Connections)| {
                u64::from(it.established) + u64::from(it.half_open)
            };
            match counts {
                Ok(counts) => {
                    let sockets = counts.into_iter().map(of).sum();
                    // The loop has ended.
                    let _ = sender.send(Arrivals { led, sockets });
                }
                Err(error) => tracing::debug!(%error, "cannot count connections of worker ports"),
            }
        });
        None
    }

    /// Takes in what a look has shown.
    pub(super) fn take_in(&mut self, Arrivals { led, sockets }: Arrivals) -> Option<Event> {
        match (sockets, &self.found) {
            (0, None) => {
                let finding = none_arrive(led, WINDOW.as_secs());
                self.found = Some(finding.clone());
                Some(Event::FindingAppeared(finding))
            }
            (0, Some(_)) => None,
            (_, _) => self.found.take().map(Event::FindingGone),
        }
    }

    /// What was found, for a status.
    pub(super) fn finding(&self) -> Option<&Finding> {
        self.found.as_ref()
    }
}

/// Whether so many first packets may well have opened so many connections. The two are not counted at the same
/// moment, and some first packets come twice: that one is missing of a thousand says nothing, and where all
/// connections are short nobody may have a socket when the sockets are looked at.
fn most_were_opened(led: u64, opened: u64) -> bool {
    opened >= led.div_ceil(2)
}

/// The column `PassiveOpens` of the line `Tcp:`, in the network namespace of this thread.
fn passive_opens() -> Option<u64> {
    parse_passive_opens(&fs::read_to_string("/proc/thread-self/net/snmp").ok()?)
}

fn parse_passive_opens(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|name| name == "PassiveOpens")?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor() -> ArrivalMonitor {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { ArrivalMonitor::new().unwrap() })
    }

    #[test]
    fn it_is_told_once_and_once_more_when_it_is_over() {
        let mut monitor = monitor();
        let none = Arrivals { led: 9, sockets: 0 };
        assert!(matches!(monitor.take_in(none), Some(Event::FindingAppeared(_))));
        assert_eq!(monitor.take_in(none), None);
        assert!(monitor.finding().is_some());
        let some = Arrivals { led: 9, sockets: 1 };
        assert!(matches!(monitor.take_in(some), Some(Event::FindingGone(_))));
        assert_eq!(monitor.take_in(some), None);
    }

    #[test]
    fn one_that_is_counted_a_moment_later_is_no_connection_that_never_arrives() {
        for (led, opened, arrive) in
            [(1993, 1993, true), (1993, 1992, true), (16, 12, true), (9, 0, false), (9, 4, false)]
        {
            assert_eq!(most_were_opened(led, opened), arrive, "{opened} of {led}");
        }
    }

    #[test]
    fn the_column_is_found_by_its_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 5 7\n";
        assert_eq!(parse_passive_opens(text), Some(7));
        assert_eq!(parse_passive_opens("Tcp: PassiveOpens\n"), None);
        assert!(passive_opens().is_some());
    }
}
