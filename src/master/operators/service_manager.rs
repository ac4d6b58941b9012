//! What the service manager that started the master is told (sd_notify(3)).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

use crate::master::clock::Clock;
use crate::master::log_limit::LogLimiter;
use crate::process::ServiceManager;
use crate::supervisor::{RequestId, Supervisor};

/// How often a manager without a watchdog is offered again what it did not take.
const RETRY: Duration = Duration::from_secs(1);

/// The master as a service. Without a manager it does nothing.
#[derive(Debug, Default)]
pub(crate) struct ServiceNotifier {
    manager: Option<ServiceManager>,
    told: Reported,
    log_limiter: LogLimiter,
}

impl ServiceNotifier {
    pub(crate) fn new(manager: Option<ServiceManager>) -> Self {
        Self { manager, ..Self::default() }
    }

    /// Whether there is anybody to tell.
    pub(crate) fn has_manager(&self) -> bool {
        self.manager.is_some()
    }

    /// Whether [`Self::tick`] has anything to do: the manager waits for a sign of life, or has not taken what it
    /// was told.
    pub(crate) fn needs_tick(&self) -> bool {
        let needs = |it: &ServiceManager| it.watchdog().is_some() || it.has_unsent();
        self.manager.as_ref().is_some_and(needs)
    }

    /// How often [`Self::tick`] is to be called: the manager's limit is twice as long, as
    /// sd_watchdog_enabled(3) has it.
    pub(crate) fn interval(&self) -> Duration {
        let watchdog = self.manager.as_ref().and_then(ServiceManager::watchdog);
        watchdog.map_or(RETRY, |limit| (limit / 2).max(Duration::from_millis(1)))
    }

    /// Says that the loop runs.
    pub(crate) fn tick(&mut self) {
        let is_watched = self.manager.as_ref().is_some_and(|it| it.watchdog().is_some());
        match is_watched {
            true => self.send("WATCHDOG=1".to_owned()),
            false => self.send_rest(),
        }
    }

    /// Tells how the cluster is, as far as that is news.
    pub(crate) fn observe(&mut self, supervisor: &Supervisor) {
        if !self.has_manager() {
            return;
        }
        let plan = supervisor.plan();
        let view = View {
            serving: plan.survivors().count(),
            seats: plan.seats().count(),
            generation: plan.generation().0,
            is_stopping: supervisor.is_stopping(),
        };
        if let Some(message) = self.told.observe(view) {
            self.send(message);
        }
    }

    /// A reload was asked for, by whomever.
    pub(crate) fn reload_began(&mut self, request: RequestId) {
        if let Some(message) = self.told.reload_began(request, monotonic_usec()) {
            self.send(message);
        }
    }

    /// A request is answered; `failure` says why it failed, if it did. What comes of it is told by
    /// the next [`Self::observe`].
    pub(crate) fn answered(&mut self, request: RequestId, failure: Option<&str>) {
        self.told.answered(request, failure);
    }

    /// The process with this pid is the master from now on; this one says no more. The manager
    /// believes it of the main process of the service (`NotifyAccess=main`), so the old master has to
    /// say it, before it ends; and of a process outside of the service's control group only if this
    /// one is root's (`service_notify_message`, src/core/service.c, systemd 252).
    pub(crate) fn hand_over(&mut self, pid: u32) {
        let message = self.told.handed_over(pid);
        self.send(message);
    }

    /// Where the manager is, as in `NOTIFY_SOCKET`: a master that somebody else has started, to take
    /// over, finds it with [`ServiceManager::at`].
    pub(crate) fn address(&self) -> Option<&OsStr> {
        self.manager.as_ref().map(ServiceManager::name)
    }

    /// How long the manager waits for `WATCHDOG=1`, if it does.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.manager.as_ref().and_then(ServiceManager::watchdog)
    }

    /// The master leaves, and the workers stay.
    pub(crate) fn leaving(&mut self) {
        if let Some(message) = self.told.stopping() {
            self.send(message);
        }
    }

    fn send(&mut self, message: String) {
        let Some(manager) = &mut self.manager else { return };
        let sent = manager.send(message);
        self.note(sent);
    }

    fn send_rest(&mut self) {
        let Some(manager) = &mut self.manager else { return };
        let sent = manager.flush();
        self.note(sent);
    }

    fn note(&mut self, sent: Result<(), crate::process::ProcessError>) {
        if let Err(error) = sent
            && let Some(suppressed) = self.log_limiter.allow(Instant::now())
        {
            tracing::warn!(%error, suppressed, "sd_notify failed: retrying");
        }
    }
}

/// The cluster as the manager is to see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    /// Seats with a worker, in the plan in force.
    serving: usize,
    seats: usize,
    generation: u64,
    is_stopping: bool,
}

/// What the service manager was told already, to tell it of changes alone. Pure.
#[derive(Debug, Default)]
struct Reported {
    is_ready: bool,
    is_stopping: bool,
    /// Reloads under way.
    reloads: BTreeSet<RequestId>,
    /// The last of them has ended, and that was not told yet; with why it failed, if it did.
    reloaded: Option<Result<(), String>>,
    view: Option<View>,
}

impl Reported {
    /// Ready is a master of which a worker serves, by rules that are in force.
    fn observe(&mut self, view: View) -> Option<String> {
        if self.is_stopping {
            return None;
        }
        let is_news = self.view.replace(view) != Some(view);
        if view.is_stopping {
            return self.stopping();
        }
        if view.serving > 0 && !self.is_ready {
            self.is_ready = true;
            self.reloaded = None;
            return Some(format!("READY=1\n{}", self.status()));
        }
        match self.reloaded.take().filter(|_| self.is_ready) {
            Some(Ok(())) => return Some(format!("READY=1\n{}", self.status())),
            Some(Err(failure)) => {
                return Some(format!("READY=1\n{}; the reload failed: {failure}", self.status()));
            }
            None => {}
        }
        is_news.then(|| self.status())
    }

    /// Under `Type=notify-reload` systemd takes a reload for begun only with a time that is not
    /// before its signal.
    fn reload_began(&mut self, request: RequestId, monotonic_usec: u64) -> Option<String> {
        let is_told = self.is_ready && !self.is_stopping;
        self.reloads.insert(request);
        is_told.then(|| {
            format!("RELOADING=1\nMONOTONIC_USEC={monotonic_usec}\nSTATUS=a new generation starts")
        })
    }

    /// Reloading ends with the last reload, however that ended: what serves is in the status.
    fn answered(&mut self, request: RequestId, failure: Option<&str>) {
        if self.reloads.remove(&request) && self.reloads.is_empty() {
            // One line: a line is an assignment.
            self.reloaded = Some(failure.map_or(Ok(()), |failure| Err(one_line(failure))));
        }
    }

    fn handed_over(&mut self, pid: u32) -> String {
        self.is_stopping = true;
        format!("MAINPID={pid}")
    }

    fn stopping(&mut self) -> Option<String> {
        let is_news = !std::mem::replace(&mut self.is_stopping, true);
        is_news.then(|| "STOPPING=1\nSTATUS=ending".to_owned())
    }

    fn status(&self) -> String {
        match self.view {
            Some(View { serving, seats, generation, .. }) => {
                format!("STATUS={serving} of {seats} workers serve, generation {generation}")
            }
            None => "STATUS=starting".to_owned(),
        }
    }
}

/// The kernel's clock since boot, in microseconds: what systemd compares its own with.
fn monotonic_usec() -> u64 {
    u64::try_from(Clock.now().0.as_micros()).unwrap_or(u64::MAX)
}

/// A text without control characters, cut to what a status line can show.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(serving: usize) -> View {
        View { serving, seats: 2, generation: 7, is_stopping: false }
    }

    const FULL: &str = "STATUS=2 of 2 workers serve, generation 7";

    #[test]
    fn ready_is_said_once_when_the_first_worker_serves() {
        let mut told = Reported::default();
        let starting = "STATUS=0 of 2 workers serve, generation 7".to_owned();
        assert_eq!(told.observe(view(0)), Some(starting));
        assert_eq!(told.observe(view(0)), None);
        let ready = "READY=1\nSTATUS=1 of 2 workers serve, generation 7".to_owned();
        assert_eq!(told.observe(view(1)), Some(ready));
        assert_eq!(told.observe(view(2)), Some(FULL.to_owned()));
        assert_eq!(told.observe(view(2)), None);
        // A death is a change of status, not of readiness.
        assert!(told.observe(view(0)).unwrap().starts_with("STATUS=0"));
        assert_eq!(told.observe(view(2)), Some(FULL.to_owned()));
    }

    #[test]
    fn a_reload_ends_with_the_last_of_those_under_way() {
        let mut told = Reported::default();
        told.observe(view(2));
        let reloading = "RELOADING=1\nMONOTONIC_USEC=5\nSTATUS=a new generation starts".to_owned();
        assert_eq!(told.reload_began(RequestId(1), 5), Some(reloading));
        assert!(told.reload_began(RequestId(2), 6).is_some(), "another signal wants its own time");
        told.answered(RequestId(2), Some("one is under way"));
        assert_eq!(told.observe(view(2)), None);
        told.answered(RequestId(3), None);
        assert_eq!(told.observe(view(2)), None, "another request");
        told.answered(RequestId(1), None);
        assert_eq!(told.observe(view(2)), Some(format!("READY=1\n{FULL}")));
        told.reload_began(RequestId(4), 9);
        told.answered(RequestId(4), Some("it printed \nSTOPPING=1"));
        let failed = format!("READY=1\n{FULL}; the reload failed: it printed  STOPPING=1");
        assert_eq!(told.observe(view(2)), Some(failed));
        assert_eq!(told.observe(view(2)), None);
    }

    #[test]
    fn who_has_handed_over_says_no_more() {
        let mut told = Reported::default();
        told.observe(view(2));
        assert_eq!(told.handed_over(4711), "MAINPID=4711");
        assert_eq!(told.stopping(), None);
        assert_eq!(told.observe(view(1)), None);
    }

    #[test]
    fn nothing_is_said_after_stopping() {
        let mut told = Reported::default();
        told.observe(view(2));
        told.reload_began(RequestId(1), 5);
        let stopping = View { is_stopping: true, ..view(2) };
        assert_eq!(told.observe(stopping).unwrap(), "STOPPING=1\nSTATUS=ending");
        told.answered(RequestId(1), None);
        assert_eq!(told.observe(view(1)), None);
        assert_eq!(told.reload_began(RequestId(2), 5), None);
        assert_eq!(told.stopping(), None);
    }
}
