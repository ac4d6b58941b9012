//! A simulated worker process.

use std::sync::Arc;

use super::policy::Burden;
use super::random::Random;
use crate::plan::{Engine, Generation, Port, Seat};
use crate::protocol::{Timestamp, WorkerId};
use crate::supervisor::Sockets;

/// Names a process; no two in a history have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pid(pub(super) u32);

/// A process, and what the world remembers of it to judge the supervisor by.
#[derive(Debug)]
pub(super) struct Process {
    /// Whom the master in office takes it for; `None`: it is one of an earlier master that this one
    /// does not manage.
    pub(super) worker: Option<WorkerId>,
    pub(super) seat: Seat,
    /// The generation that it was started for; that of the first plan for those that were there.
    pub(super) generation: Generation,
    /// When it began.
    pub(super) started: Timestamp,
    /// Empty until it is spawned.
    pub(super) ports: Arc<[Port]>,
    /// The plan cannot take its ports.
    pub(super) is_excluded: bool,
    /// Its sockets listen.
    pub(super) listens: bool,
    /// The supervisor was told that it listens.
    pub(super) ready: bool,
    /// It does not answer.
    pub(super) hangs: bool,
    /// The supervisor was told that it does not answer, and not that it does again.
    pub(super) silent: bool,
    /// When the supervisor was told that it answers again.
    pub(super) answered_at: Option<Timestamp>,
    /// It has said that it stops.
    pub(super) stops: bool,
    /// It got SIGTERM or SIGKILL.
    pub(super) signalled: bool,
    /// It was told to end.
    pub(super) told: bool,
    /// It picks its ports itself, and has not told them.
    pub(super) keeps_ports: bool,
    /// It is connected to the control socket.
    pub(super) is_open: bool,
    /// It was told that it is retired.
    pub(super) knows_retired: bool,
    /// When it got its retire signal.
    pub(super) finishes_since: Option<Timestamp>,
    /// SIGTERM does nothing to it.
    pub(super) stubborn: bool,
    /// It does not run any more; the supervisor may not know yet.
    pub(super) dead: bool,
    /// A plan that names it was in force.
    pub(super) was_named: bool,
    /// When the first plan came into force that sends no new connections to it any more.
    pub(super) left_at: Option<Timestamp>,
    /// It closes its sockets when it is retired.
    pub(super) closes: bool,
    /// The supervisor was told, after its retirement, that it listens.
    pub(super) ready_again: bool,
    /// A look whether it still listens is on the agenda.
    pub(super) looked_at: bool,
    /// A poll of its sockets is on the agenda.
    pub(super) polled: bool,
    /// Successive reports, that the supervisor got, without waiting connections.
    pub(super) quiet_reports: u32,
    /// There were two of them in a row.
    pub(super) was_quiet: bool,
    /// Its sockets were ever counted.
    pub(super) was_counted: bool,
    /// It was retired so long ago that clients of which conntrack alone knows are waited for no more.
    pub(super) is_late: bool,
    pub(super) sockets: Sockets,
    /// It is looked for how long its connections have been silent: all but those beyond two are.
    pub(super) is_looked_at_for_silence: bool,
    /// Successive reports, that the supervisor got, in which all were silent.
    pub(super) silent_reports: u32,
    /// Looks in a row in which no connection had an entry.
    stranded_looks: u32,
    pub(super) burden: Burden,
    /// A master that has adopted it takes it for one that has yet to get ready.
    pub(super) is_anew: bool,
    /// It reuses the listeners of an earlier worker.
    pub(super) reuses_listeners: bool,
    /// The master in office has not got its sockets, whatever the settings say.
    pub(super) keeps_own_sockets: bool,
    /// How many drainers in a row its sockets have had.
    pub(super) drainers: u32,
}

impl Process {
    pub(super) fn new(worker: Option<WorkerId>, seat: Seat, random: &mut Random) -> Self {
        let burden = Burden::new(random);
        let mut few = |limit| u32::try_from(random.below(limit)).expect("small");
        Self {
            worker,
            seat,
            generation: Generation(7),
            started: Timestamp::ZERO,
            ports: Arc::new([]),
            is_excluded: false,
            listens: false,
            ready: false,
            hangs: false,
            silent: false,
            answered_at: None,
            stops: false,
            signalled: false,
            told: false,
            keeps_ports: false,
            is_open: false,
            knows_retired: false,
            finishes_since: None,
            stubborn: false,
            dead: false,
            was_named: false,
            left_at: None,
            closes: false,
            ready_again: false,
            looked_at: false,
            polled: false,
            quiet_reports: 0,
            was_quiet: false,
            was_counted: false,
            burden,
            is_looked_at_for_silence: false,
            silent_reports: 0,
            stranded_looks: 0,
            is_late: false,
            is_anew: false,
            reuses_listeners: false,
            keeps_own_sockets: false,
            drainers: 0,
            sockets: Sockets {
                queued: few(3),
                half_open: few(3),
                established: few(10),
                remembered: few(2),
                bound: few(3),
                active: None,
                stranded: None,
            },
        }
    }

    /// Whether it runs, as far as anybody can know.
    pub(super) fn is_alive(&self) -> bool {
        !self.dead
    }

    /// Whether clients that are led to its sockets are its own: those of listeners that it reuses
    /// wait until it is ready, whatever becomes of it before.
    pub(super) fn takes_clients(&self) -> bool {
        self.ready || !self.reuses_listeners
    }

    /// Time passes: the queue empties, connections end.
    pub(super) fn work(&mut self, random: &mut Random, engine: Engine) -> Sockets {
        let Sockets { queued, half_open, established, remembered, bound, active, stranded } =
            &mut self.sockets;
        if engine == Engine::Tproxy {
            // Connections belong to sockets alone.
            *remembered = 0;
        }
        if *half_open > 0 && random.percent(60) {
            *half_open -= 1;
            *queued += 1;
        }
        if *queued > 0 && random.percent(60) {
            *queued -= 1;
            *established += 1;
        }
        if *remembered > 0 && random.percent(50) {
            *remembered -= 1;
            *half_open += 1;
        }
        if *established > 0 && random.percent(50) {
            *established -= 1;
        }
        // Released by the look before; now and then one more is found.
        let is_bound = engine == Engine::Redirect && self.quiet_reports == 0;
        *bound = u32::from(is_bound && random.percent(30));
        let is_quiet = *queued == 0 && *half_open == 0 && (*bound == 0 || self.is_late);
        *active = self.is_looked_at_for_silence.then(|| established.saturating_sub(2));
        let is_silent = *active == Some(0);
        self.silent_reports = if is_silent { self.silent_reports + 1 } else { 0 };
        // Of some workers the entries of pairs of connections are gone.
        *stranded = self.is_looked_at_for_silence.then_some(*established - *established % 2);
        match (*established, *stranded) {
            (0, _) => self.stranded_looks = 0,
            (_, None) => {}
            (all, Some(of_them)) if of_them == all => self.stranded_looks += 1,
            _ => self.stranded_looks = 0,
        }
        self.quiet_reports = if is_quiet { self.quiet_reports + 1 } else { 0 };
        self.was_quiet |= self.quiet_reports >= 2;
        self.was_counted = true;
        self.sockets
    }

    /// Whether the safe order allows to ask it to end, but for limits and stops.
    pub(super) fn is_drained(&self) -> bool {
        let may_end_with_connections = self.silent_reports >= 2 || self.stranded_looks >= 2;
        if self.quiet_reports >= 2 && may_end_with_connections {
            return true;
        }
        let is_quiet = self.quiet_reports >= 2 && self.sockets.established == 0;
        is_quiet && (self.sockets.remembered == 0 || self.is_late)
    }
}
