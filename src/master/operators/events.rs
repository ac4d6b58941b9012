//! What subscribers of the control socket are told of what happens.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

use crate::control::{Answer, EventLine, Failure, Responder, STATS_LIMIT};
use crate::plan::{ClusterName, Generation, Seat};
use crate::supervisor::{Cause, Exit, MemoryOf, Notice, Stats, Why, WorkerId, WorkerStats};

/// How many may listen at a time: each takes one of the connections of the control socket, of which
/// some have to be left for commands.
const SUBSCRIBERS: usize = 16;

/// Those who listen on the control socket.
#[derive(Debug)]
pub(crate) struct Subscribers {
    free: Arc<Semaphore>,
}

impl Default for Subscribers {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(SUBSCRIBERS)) }
    }
}

impl Subscribers {
    /// Tells a peer of everything that goes to `notices` from now on, until the sender is dropped.
    /// Done by a task of its own, which alone waits while the peer is slow: what it has not taken
    /// when the queue of notices is full it misses, and is told how much that was.
    pub(crate) fn add(
        &self,
        name: &ClusterName,
        generation: Generation,
        notices: &Sender<Notice>,
        responder: Responder,
    ) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            let failure = Failure::new(format!("{SUBSCRIBERS} programs listen to events already"));
            return responder.finish(Err(failure.hint("end one of them")));
        };
        let first = EventLine::new("subscribed")
            .with("name", name.as_str())
            .with("pid", std::process::id())
            .with("generation", generation.0);
        let notices = notices.subscribe();
        tokio::spawn(async move {
            pass_on(first, notices, responder).await;
            drop(permit);
        });
    }
}

async fn pass_on(first: EventLine, mut notices: Receiver<Notice>, responder: Responder) {
    let mut events = vec![first];
    loop {
        for event in events {
            if !responder.event(EventLine { time: unix_time(), ..event }).await {
                return;
            }
        }
        events = match notices.recv().await {
            Ok(notice) => lines(&notice),
            Err(RecvError::Lagged(count)) => vec![EventLine::new("missed").with("count", count)],
            Err(RecvError::Closed) => return responder.finish(Ok(Answer::EventsOver)),
        };
    }
}

/// Seconds since 1970, of a clock that may jump: for display alone.
fn unix_time() -> f64 {
    // A clock that stands before 1970 shows as that.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // As far as anybody reads.
    since.as_millis() as f64 / 1e3
}

/// What is told of a notice: most make one event. The names and fields are those of the table at
/// [`EventLine`].
fn lines(notice: &Notice) -> Vec<EventLine> {
    let event = EventLine::new;
    vec![match notice {
        Notice::Ready { worker, seat, generation, took } => {
            of("ready", *worker, *seat, *generation).with("took", seconds(*took))
        }
        Notice::Unproven { worker, seat, generation } => {
            of("unproven", *worker, *seat, *generation)
        }
        Notice::Unresponsive { worker, seat, generation, cause } => {
            of("ping_timeout", *worker, *seat, *generation).with("cause", cause.to_string())
        }
        Notice::Responsive { worker, seat, generation, silent } => {
            of("responsive", *worker, *seat, *generation).with("silent", seconds(*silent))
        }
        Notice::NobodyAnswers { workers } => event("nobody_answers").with("workers", *workers),
        Notice::Stops { worker, seat, generation } => of("stops", *worker, *seat, *generation),
        Notice::Adopted { worker, seat, generation, pid, state } => {
            of("adopted", *worker, *seat, *generation)
                .with("pid", *pid)
                .with("state", state.to_string())
        }
        Notice::Orphan { pid, reason } => {
            event("orphan").with("pid", *pid).with("reason", reason.as_str())
        }
        Notice::Failed(failure) => of("failed", failure.worker, failure.seat, failure.generation)
            .with("reason", failure.cause.to_string())
            .with("last_lines", failure.last_lines.clone()),
        Notice::Died { worker, seat, generation, exit, lived, last_lines } => {
            ended(of("died", *worker, *seat, *generation), *exit)
                .with("lived", seconds(*lived))
                .with("last_lines", last_lines.clone())
        }
        Notice::GivenUp { failure, rest } => {
            of("given_up", failure.worker, failure.seat, failure.generation)
                .with("reason", failure.cause.to_string())
                .with("last_lines", failure.last_lines.clone())
                .with("rest", seconds(*rest))
        }
        Notice::Leaving { worker, seat, generation, cause } => {
            let retire = of("retire", *worker, *seat, *generation);
            let unresponsive = of("unresponsive", *worker, *seat, *generation);
            let retire = with_cause(retire, *cause);
            return match cause {
                Cause::Silent => vec![unresponsive, retire],
                _ => vec![retire],
            };
        }
        Notice::RetirementsHeldBack { workers, rate, window } => event("retirements_held_back")
            .with("workers", *workers)
            .with("rate", *rate)
            .with("window", seconds(*window)),
        Notice::LowWatermark { used, low, ending } => {
            watermark("low_watermark_breached", *used, *low, ending)
        }
        Notice::HighWatermark { used, high, ending } => {
            watermark("high_watermark_breached", *used, *high, ending)
        }
        Notice::MemoryShort { used, high } => {
            event("memory_short").with("used", *used).with("mark", *high)
        }
        Notice::MemoryRecovered { used, low } => {
            event("memory_recovered").with("used", *used).with("mark", *low)
        }
        Notice::Respawn { seat, delay } => {
            event("respawn").with("seat", seat.0).with("delay", seconds(*delay))
        }
        Notice::Retired { worker, seat, generation } => of("retired", *worker, *seat, *generation),
        Notice::Ending { worker, seat, generation, why } => {
            let ending = of("ending", *worker, *seat, *generation).with("why", why.to_string());
            let unresponsive = of("unresponsive", *worker, *seat, *generation);
            return match why {
                Why::Silent => vec![unresponsive, ending],
                _ => vec![ending],
            };
        }
        Notice::Killed { worker, seat, generation } => of("killed", *worker, *seat, *generation),
        Notice::Ended { worker, seat, generation, exit } => {
            ended(of("ended", *worker, *seat, *generation), *exit)
        }
        Notice::InForce { generation, occupied, seats, took } => {
            return in_force(*generation, *occupied, *seats, *took);
        }
        Notice::Finishing { seat, generation, connections } => event("finishing")
            .with("seat", seat.0)
            .with("generation", generation.0)
            .with("connections", *connections),
        Notice::QueueLost { seat, generation, connections } => event("queue_lost")
            .with("seat", seat.0)
            .with("generation", generation.0)
            .with("connections", *connections),
        Notice::OnTrial { generation, workers, slots, of } => event("on_trial")
            .with("generation", generation.0)
            .with("workers", *workers)
            .with("slots", *slots)
            .with("of", *of),
        Notice::Repaired { what, writer, total, held_back } => event("repaired")
            .with("what", what.as_str())
            .with("writer", writer.as_ref().map(|it| json!({ "pid": it.pid, "name": it.name })))
            .with("total", *total)
            .with("held_back", seconds(*held_back)),
        Notice::RepairFailed { reason, retry_in } => event("repair_failed")
            .with("reason", reason.as_str())
            .with("retry_in", seconds(*retry_in)),
        Notice::LeftAlone { quiet } => event("left_alone").with("quiet", seconds(*quiet)),
        Notice::ForeignNatFound { rule } => event("foreign_rule_found").with("rule", rule.as_str()),
        Notice::ForeignNatGone { rule } => event("foreign_rule_gone").with("rule", rule.as_str()),
        Notice::CommitFailed { reason, retry_in } => event("commit_failed")
            .with("reason", reason.as_str())
            .with("retry_in", seconds(*retry_in)),
        Notice::Stats(all) => return stats(all),
    }]
}

fn of(name: &str, worker: WorkerId, seat: Seat, generation: Generation) -> EventLine {
    let event = EventLine::new(name).with("worker", worker.0).with("seat", seat.0);
    event.with("generation", generation.0)
}

fn with_cause(event: EventLine, cause: Cause) -> EventLine {
    let name = match cause {
        Cause::Requested => "requested",
        Cause::Silent => "silent",
        Cause::Asked => "asked",
        Cause::Memory { .. } => "memory",
        Cause::Lag { .. } => "lag",
        Cause::Age => "age",
    };
    let (mut memory, mut late) = (None, None);
    match cause {
        Cause::Memory { rss } => memory = Some(rss),
        Cause::Lag { lag } => late = Some(seconds(lag)),
        _ => {}
    }
    event.with("cause", name).with("memory", memory).with("lag", late)
}

/// A mark of the memory of the whole cluster is passed: who ends for it, and what comes back of
/// that.
fn watermark(name: &str, used: u64, mark: u64, ending: &[MemoryOf]) -> EventLine {
    let freed = ending.iter().fold(0_u64, |sum, it| sum.saturating_add(it.bytes));
    let named = |it: &MemoryOf| {
        let (seat, generation) = (it.seat.0, it.generation.0);
        json!({
            "worker": it.worker.0, "seat": seat, "generation": generation, "memory": it.bytes,
        })
    };
    let workers: Vec<Value> = ending.iter().take(STATS_LIMIT).map(named).collect();
    let event = EventLine::new(name).with("used", used).with("mark", mark);
    event.with("freed", freed).with("workers", workers)
}

fn ended(event: EventLine, exit: Exit) -> EventLine {
    let (code, signal) = match exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Unknown => (None, None),
    };
    event.with("exit", code).with("signal", signal)
}

fn in_force(
    generation: Generation,
    occupied: usize,
    seats: usize,
    took: Duration,
) -> Vec<EventLine> {
    let swapped = EventLine::new("swapped")
        .with("generation", generation.0)
        .with("occupied", occupied)
        .with("seats", seats)
        .with("took", seconds(took));
    let all = EventLine::new("all_bands_ready").with("generation", generation.0);
    let all = (occupied == seats).then(|| all.with("seats", seats));
    [swapped].into_iter().chain(all).collect()
}

/// As many events as it takes for the workers of a large cluster.
fn stats(stats: &Stats) -> Vec<EventLine> {
    let parts = stats.workers.len().div_ceil(STATS_LIMIT).max(1);
    let part = |index: usize| {
        let workers = stats.workers.iter().skip(index * STATS_LIMIT).take(STATS_LIMIT);
        EventLine::new("stats")
            .with("master", stats.master)
            .with("workers", workers.map(worker_stats).collect::<Vec<_>>())
            .with("more", index + 1 < parts)
    };
    (0..parts).map(part).collect()
}

fn worker_stats(stats: &WorkerStats) -> Value {
    json!({
        "worker": stats.worker.0,
        "seat": stats.seat.0,
        "generation": stats.generation.0,
        "pid": stats.pid,
        "state": stats.state.to_string(),
        "memory": stats.memory,
    })
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

#[cfg(test)]
mod tests;
