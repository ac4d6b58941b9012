//! What each phase has shown, in words, and what of it is wrong. Pure.

use std::time::Duration;

use crate::plan::Seat;

/// Failed connections that nothing excuses.
#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    pub(super) count: u64,
    /// The first of them.
    pub(super) first: Option<String>,
}

/// The worker's share of the connections may differ by this part from what is fair.
const UNEVEN: f64 = 0.15;

/// By when the clients of a dead worker must be steered away. It takes a millisecond or so; a
/// master that looks for the dead now and then would need longer than this, and so does not pass.
const STEERED_WITHIN: Duration = Duration::from_millis(1000);

/// Moves more slots than it must by so many of them, in a hundred.
const EXCESS_PERCENT: u32 = 5;

#[derive(Debug, Clone)]
pub(super) struct Steady {
    pub(super) clients: usize,
    pub(super) silent: usize,
    pub(super) changed_worker: usize,
    pub(super) mispredicted: usize,
    pub(super) least_share: f64,
    pub(super) most_share: f64,
    pub(super) fair_share: f64,
    pub(super) losses: Losses,
}

impl Steady {
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { clients, .. } = self;
        vec![
            format!(
                "{} of {clients} clients stayed with one worker; {} of {clients} at the one that \
                 `ipcluster explain` names",
                clients - self.changed_worker.min(*clients),
                clients - self.mispredicted.min(*clients),
            ),
            format!(
                "each worker answered {:.1} % to {:.1} % of the connections (fair: {:.1} %)",
                self.least_share * 100.0,
                self.most_share * 100.0,
                self.fair_share * 100.0,
            ),
        ]
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = common("steady state", &self.losses, self.silent);
        fault(&mut faults, self.changed_worker, "clients changed worker with nothing happening");
        fault(&mut faults, self.mispredicted, "clients were answered by a worker not predicted");
        for share in [self.least_share, self.most_share] {
            // Not a number is not even.
            let is_even = (share / self.fair_share - 1.0).abs() <= UNEVEN;
            if !is_even {
                faults.push(format!(
                    "a worker has {:.1} % of the connections, where {:.1} % are fair",
                    share * 100.0,
                    self.fair_share * 100.0
                ));
            }
        }
        faults
    }
}

#[derive(Debug, Clone)]
pub(super) struct Reloads {
    pub(super) wanted: usize,
    pub(super) swaps: Vec<Duration>,
    pub(super) silent: usize,
    pub(super) changed_seat: usize,
    pub(super) stale: usize,
    pub(super) idle_generations: usize,
    pub(super) losses: Losses,
}

impl Reloads {
    pub(super) fn lines(&self) -> Vec<String> {
        let swaps: Vec<String> = self.swaps.iter().map(|swap| millis(*swap)).collect();
        vec![
            "each one transaction that moved all new connections to new workers; in ms:".to_owned(),
            format!("  {}", swaps.join("  ")),
            format!(
                "connections that reached an old worker after a swap: {}; clients that changed \
                 seat: {}",
                self.stale, self.changed_seat
            ),
        ]
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = common("reloads", &self.losses, self.silent);
        if self.swaps.len() != self.wanted {
            faults.push(format!("{} reloads of {}", self.swaps.len(), self.wanted));
        }
        fault(&mut faults, self.changed_seat, "clients changed seat by a reload");
        fault(&mut faults, self.stale, "connections reached an old worker after a swap");
        fault(&mut faults, self.idle_generations, "generations answered nobody");
        faults
    }
}

#[derive(Debug, Clone)]
pub(super) struct Killed {
    pub(super) seat: Seat,
    pub(super) clients_of_seat: usize,
    pub(super) silent: usize,
    /// From the kill to the first connection of its clients that another worker answered.
    pub(super) first_steered_after: Option<Duration>,
    /// From the kill until the master had read the new rules back.
    pub(super) steered_after: Duration,
    pub(super) replaced_after: Duration,
    /// Connections in flight on the worker, or on their way to it until the rules had changed.
    pub(super) exposed: usize,
    /// How many of the exposed connections failed.
    pub(super) lost: usize,
    pub(super) losses: Losses,
    /// Connections of its clients that others answered, and how many others.
    pub(super) served_by_others: (usize, usize),
    pub(super) bystanders_changed: usize,
    pub(super) not_back: usize,
}

impl Killed {
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { seat, clients_of_seat, exposed, lost, .. } = self;
        let (connections, others) = self.served_by_others;
        vec![
            format!(
                "SIGKILL for seat {seat}: the first of its {clients_of_seat} clients reached another \
                 worker after {} ms",
                self.first_steered_after.map_or("-".to_owned(), millis),
            ),
            format!(
                "connections to it in flight or begun until the rules were read back ({} ms): \
                 {exposed}, lost: {lost}; others lost: {}",
                millis(self.steered_after),
                self.losses.count
            ),
            format!(
                "{others} others answered {connections} of its connections, until a new worker had \
                 its seat after {:.1} s",
                self.replaced_after.as_secs_f64(),
            ),
            format!(
                "clients of other workers that changed worker: {}; its own that did not come \
                 back: {}",
                self.bystanders_changed, self.not_back
            ),
        ]
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = common("after the kill", &self.losses, self.silent);
        if self.lost > self.exposed {
            faults.push(format!("{} lost of {} in flight", self.lost, self.exposed));
        }
        if self.steered_after > STEERED_WITHIN {
            faults.push(format!(
                "the clients of the dead worker were steered away after {} ms only",
                millis(self.steered_after)
            ));
        }
        if self.served_by_others.0 == 0 {
            faults.push("nobody answered the clients of the dead worker".to_owned());
        }
        fault(&mut faults, self.bystanders_changed, "clients of other workers changed worker");
        fault(&mut faults, self.not_back, "clients did not come back to their seat");
        faults
    }
}

#[derive(Debug, Clone)]
pub(super) struct Scaled {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) wanted: u16,
    pub(super) clients: usize,
    pub(super) moved: usize,
    pub(super) moved_between_old: usize,
    pub(super) misplaced: usize,
    pub(super) moved_slots: u32,
    pub(super) slots: u32,
    pub(super) silent: usize,
    pub(super) losses: Losses,
}

impl Scaled {
    pub(super) fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "{} of clients moved: {} of {} slots; the least possible is {} (1 in {})",
                percent(self.moved as f64, self.clients as f64),
                self.moved_slots,
                self.slots,
                percent(1.0, self.to.into()),
                self.to,
            ),
            format!("clients that moved between old workers: {}", self.moved_between_old),
        ]
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = common("scaling", &self.losses, self.silent);
        if self.to != self.wanted {
            faults.push(format!("{} workers in place of {}", self.to, self.wanted));
        }
        if self.moved == 0 {
            faults.push(format!("no client moved to worker {}", self.to));
        }
        // From N to M seats, the new ones must get M - N of M parts.
        let new_seats = u32::from(self.wanted.saturating_sub(self.from));
        let least = (self.slots * new_seats).div_ceil(u32::from(self.wanted.max(1)));
        if self.moved_slots > least + least * EXCESS_PERCENT / 100 {
            faults.push(format!("{} slots moved, where {least} suffice", self.moved_slots));
        }
        fault(&mut faults, self.moved_between_old, "clients moved between old workers");
        fault(&mut faults, self.misplaced, "clients were answered by a seat not predicted");
        faults
    }
}

#[derive(Debug, Clone)]
pub(super) struct Stopped {
    pub(super) took: Duration,
    pub(super) rules_left: bool,
    pub(super) master_stopped: bool,
    pub(super) processes: usize,
    pub(super) processes_left: usize,
}

impl Stopped {
    pub(super) fn lines(&self) -> Vec<String> {
        let rules = if self.rules_left { "the rules are left" } else { "no rule" };
        let Self { processes, processes_left, took, .. } = self;
        vec![format!(
            "after {} ms: {rules}, {processes_left} of {processes} workers left",
            millis(*took)
        )]
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.rules_left {
            faults.push("rules were left in the kernel".to_owned());
        }
        if !self.master_stopped {
            faults.push("the master left without stopping the cluster".to_owned());
        }
        fault(&mut faults, self.processes_left, "workers were left running");
        faults
    }
}

pub(super) fn common(phase: &str, losses: &Losses, silent: usize) -> Vec<String> {
    let mut faults = Vec::new();
    if losses.count > 0 {
        let first = losses.first.as_deref().unwrap_or("not kept");
        faults.push(format!("{phase}: {} connections failed, the first: {first}", losses.count));
    }
    fault(&mut faults, silent, &format!("clients got no answer ({phase})"));
    faults
}

pub(super) fn fault(faults: &mut Vec<String>, count: usize, what: &str) {
    if count > 0 {
        faults.push(format!("{count} {what}"));
    }
}

fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

fn percent(part: f64, whole: f64) -> String {
    format!("{:.1} %", part / whole * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady() -> Steady {
        Steady {
            clients: 8000,
            silent: 0,
            changed_worker: 0,
            mispredicted: 0,
            least_share: 0.24,
            most_share: 0.26,
            fair_share: 0.25,
            losses: Losses::default(),
        }
    }

    fn reloads() -> Reloads {
        Reloads {
            wanted: 2,
            swaps: vec![Duration::from_micros(200); 2],
            silent: 0,
            changed_seat: 0,
            stale: 0,
            idle_generations: 0,
            losses: Losses::default(),
        }
    }

    fn killed() -> Killed {
        Killed {
            seat: Seat(1),
            clients_of_seat: 2000,
            silent: 0,
            first_steered_after: Some(Duration::from_micros(900)),
            steered_after: Duration::from_millis(1),
            replaced_after: Duration::from_millis(800),
            exposed: 4,
            lost: 4,
            losses: Losses::default(),
            served_by_others: (500, 3),
            bystanders_changed: 0,
            not_back: 0,
        }
    }

    fn scaled() -> Scaled {
        Scaled {
            from: 4,
            to: 5,
            wanted: 5,
            clients: 8000,
            moved: 1600,
            moved_between_old: 0,
            misplaced: 0,
            moved_slots: 205,
            slots: 1024,
            silent: 0,
            losses: Losses::default(),
        }
    }

    fn stopped() -> Stopped {
        Stopped {
            took: Duration::from_millis(150),
            rules_left: false,
            master_stopped: true,
            processes: 5,
            processes_left: 0,
        }
    }

    fn lost() -> Losses {
        Losses { count: 1, first: Some("10.8.0.1:5 -> 10.9.0.1:80: refused".to_owned()) }
    }

    /// What is done to good figures, and what the fault that it makes says.
    type Change<T> = (fn(&mut T), &'static str);

    /// The figures without a change have no fault; each change makes exactly the fault that
    /// contains its text.
    #[track_caller]
    fn check<T>(good: fn() -> T, faults: fn(&T) -> Vec<String>, changes: &[Change<T>]) {
        assert_eq!(faults(&good()), Vec::<String>::new());
        for (change, expected) in changes {
            let mut figures = good();
            change(&mut figures);
            let found = faults(&figures);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn the_steady_state_has_no_loss_no_change_and_no_surprise() {
        check(
            steady,
            Steady::faults,
            &[
                (|it| it.losses = lost(), "1 connections failed, the first: 10.8.0.1:5"),
                (|it| it.silent = 2, "2 clients got no answer"),
                (|it| it.changed_worker = 1, "1 clients changed worker"),
                (|it| it.mispredicted = 3, "3 clients were answered by a worker not predicted"),
                (|it| it.least_share = 0.2, "a worker has 20.0 %"),
                (|it| it.most_share = 0.3, "a worker has 30.0 %"),
                (|it| it.most_share = f64::NAN, "a worker has NaN %"),
            ],
        );
    }

    #[test]
    fn reloads_lose_nothing_and_leave_nobody_behind() {
        check(
            reloads,
            Reloads::faults,
            &[
                (|it| it.losses = lost(), "1 connections failed"),
                (|it| it.silent = 1, "1 clients got no answer"),
                (|it| it.changed_seat = 1, "1 clients changed seat"),
                (|it| it.stale = 7, "7 connections reached an old worker"),
                (|it| it.idle_generations = 1, "1 generations answered nobody"),
                (|it| it.swaps.truncate(1), "1 reloads of 2"),
            ],
        );
    }

    #[test]
    fn a_kill_costs_what_was_in_flight_and_nobody_else() {
        check(
            killed,
            Killed::faults,
            &[
                (|it| it.losses = lost(), "1 connections failed"),
                (|it| it.silent = 1, "1 clients got no answer"),
                (|it| it.lost = 5, "5 lost of 4 in flight"),
                (|it| it.steered_after = Duration::from_millis(1001), "after 1001.00 ms only"),
                (|it| it.served_by_others = (0, 0), "nobody answered"),
                (|it| it.bystanders_changed = 1, "1 clients of other workers changed"),
                (|it| it.not_back = 1, "1 clients did not come back"),
            ],
        );
    }

    #[test]
    fn scaling_moves_the_least() {
        check(
            scaled,
            Scaled::faults,
            &[
                (|it| it.losses = lost(), "1 connections failed"),
                (|it| it.silent = 1, "1 clients got no answer"),
                (|it| it.to = 4, "4 workers in place of 5"),
                (|it| it.moved = 0, "no client moved"),
                (|it| it.moved_slots = 216, "216 slots moved, where 205 suffice"),
                (|it| it.moved_between_old = 1, "1 clients moved between old workers"),
                (|it| it.misplaced = 1, "1 clients were answered by a seat not predicted"),
            ],
        );
    }

    #[test]
    fn a_stop_leaves_nothing() {
        check(
            stopped,
            Stopped::faults,
            &[
                (|it| it.rules_left = true, "rules were left"),
                (|it| it.master_stopped = false, "the master left"),
                (|it| it.processes_left = 2, "2 workers were left running"),
            ],
        );
    }
}
