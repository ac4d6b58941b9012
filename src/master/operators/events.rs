//! What subscribers of the control socket are told of what happens.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{Receiver, Sender};

use crate::control::Responder;
use crate::plan::{ClusterName, Generation, Seat};
use crate::protocol::{
    EndReason, Event, EventRecord, Exit, MemoryOf, Outcome, Refusal, ReplaceReason, STATS_LIMIT,
    Stats, WorkerId, WorkerStats,
};

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
    /// Tells a peer of everything that goes to `events` from now on, until the sender is dropped.
    /// Done by a task of its own, which alone waits while the peer is slow: what it has not taken
    /// when the queue of events is full it misses, and is told how much that was.
    pub(crate) fn add(
        &self,
        name: &ClusterName,
        generation: Generation,
        events: &Sender<Event>,
        responder: Responder,
    ) {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            return responder.finish(Err(Refusal::TooManySubscribers { limit: SUBSCRIBERS }));
        };
        let first = EventRecord::new("subscribed")
            .with("name", name.as_str())
            .with("pid", std::process::id())
            .with("generation", generation.0);
        let events = events.subscribe();
        tokio::spawn(async move {
            pass_on(first, events, responder).await;
            drop(permit);
        });
    }
}

async fn pass_on(first: EventRecord, mut events: Receiver<Event>, responder: Responder) {
    let mut pending = vec![first];
    loop {
        for event in pending {
            if !responder.event(EventRecord { time: unix_time(), ..event }).await {
                return;
            }
        }
        pending = match events.recv().await {
            Ok(event) => lines(&event),
            Err(RecvError::Lagged(count)) => vec![EventRecord::new("missed").with("count", count)],
            Err(RecvError::Closed) => return responder.finish(Ok(Outcome::EventsOver)),
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

/// The lines of an event: most make one. The names and fields are those of the table at
/// [`EventRecord`].
fn lines(event: &Event) -> Vec<EventRecord> {
    let line = EventRecord::new;
    vec![match event {
        Event::Ready { worker, seat, generation, took } => {
            of("ready", *worker, *seat, *generation).with("took", seconds(*took))
        }
        Event::Unproven { worker, seat, generation } => of("unproven", *worker, *seat, *generation),
        Event::Unhealthy { worker, seat, generation, cause } => {
            of("ping_timeout", *worker, *seat, *generation).with("cause", cause.to_string())
        }
        Event::Healthy { worker, seat, generation, silent } => {
            of("responsive", *worker, *seat, *generation).with("silent", seconds(*silent))
        }
        Event::NoneHealthy { workers } => line("nobody_answers").with("workers", *workers),
        Event::Stopping { worker, seat, generation } => of("stops", *worker, *seat, *generation),
        Event::Adopted { worker, seat, generation, pid, state } => {
            of("adopted", *worker, *seat, *generation)
                .with("pid", *pid)
                .with("state", state.to_string())
        }
        Event::Orphan { pid, reason } => {
            line("orphan").with("pid", *pid).with("reason", reason.as_str())
        }
        Event::Failed(failure) => of("failed", failure.worker, failure.seat, failure.generation)
            .with("reason", failure.cause.to_string())
            .with("last_lines", failure.last_lines.clone()),
        Event::Died { worker, seat, generation, exit, lived, last_lines } => {
            ended(of("died", *worker, *seat, *generation), *exit)
                .with("lived", seconds(*lived))
                .with("last_lines", last_lines.clone())
        }
        Event::GivenUp { failure, rest } => {
            of("given_up", failure.worker, failure.seat, failure.generation)
                .with("reason", failure.cause.to_string())
                .with("last_lines", failure.last_lines.clone())
                .with("rest", seconds(*rest))
        }
        Event::Leaving { worker, seat, generation, cause } => {
            let retire = of("retire", *worker, *seat, *generation);
            let unresponsive = of("unresponsive", *worker, *seat, *generation);
            let retire = with_cause(retire, *cause);
            return match cause {
                ReplaceReason::Unhealthy => vec![unresponsive, retire],
                _ => vec![retire],
            };
        }
        Event::RetirementsHeldBack { workers, rate, window } => line("retirements_held_back")
            .with("workers", *workers)
            .with("rate", *rate)
            .with("window", seconds(*window)),
        Event::LowWatermark { used, low, ending } => {
            watermark("low_watermark_breached", *used, *low, ending)
        }
        Event::HighWatermark { used, high, ending } => {
            watermark("high_watermark_breached", *used, *high, ending)
        }
        Event::MemoryShort { used, high } => {
            line("memory_short").with("used", *used).with("mark", *high)
        }
        Event::MemoryRecovered { used, low } => {
            line("memory_recovered").with("used", *used).with("mark", *low)
        }
        Event::Respawn { seat, delay } => {
            line("respawn").with("seat", seat.0).with("delay", seconds(*delay))
        }
        Event::Retired { worker, seat, generation } => of("retired", *worker, *seat, *generation),
        Event::Ending { worker, seat, generation, why } => {
            let ending = of("ending", *worker, *seat, *generation).with("why", why.to_string());
            let unresponsive = of("unresponsive", *worker, *seat, *generation);
            return match why {
                EndReason::UnhealthyRetired => vec![unresponsive, ending],
                _ => vec![ending],
            };
        }
        Event::Killed { worker, seat, generation } => of("killed", *worker, *seat, *generation),
        Event::Ended { worker, seat, generation, exit } => {
            ended(of("ended", *worker, *seat, *generation), *exit)
        }
        Event::InForce { generation, occupied, seats, took } => {
            return in_force(*generation, *occupied, *seats, *took);
        }
        Event::DrainerStarted { seat, generation, connections } => line("finishing")
            .with("seat", seat.0)
            .with("generation", generation.0)
            .with("connections", *connections),
        Event::QueueLost { seat, generation, connections } => line("queue_lost")
            .with("seat", seat.0)
            .with("generation", generation.0)
            .with("connections", *connections),
        Event::CanaryInForce { generation, workers, slots, of } => line("on_trial")
            .with("generation", generation.0)
            .with("workers", *workers)
            .with("slots", *slots)
            .with("of", *of),
        Event::Repaired { what, writer, total, held_back } => line("repaired")
            .with("what", what.as_str())
            .with("writer", writer.as_ref().map(|it| json!({ "pid": it.pid, "name": it.name })))
            .with("total", *total)
            .with("held_back", seconds(*held_back)),
        Event::RepairFailed { reason, retry_in } => line("repair_failed")
            .with("reason", reason.as_str())
            .with("retry_in", seconds(*retry_in)),
        Event::InterferenceEnded { quiet } => line("left_alone").with("quiet", seconds(*quiet)),
        Event::ForeignNatFound { rule } => line("foreign_rule_found").with("rule", rule.as_str()),
        Event::ForeignNatGone { rule } => line("foreign_rule_gone").with("rule", rule.as_str()),
        Event::CommitFailed { reason, retry_in } => line("commit_failed")
            .with("reason", reason.as_str())
            .with("retry_in", seconds(*retry_in)),
        Event::Stats(all) => return stats(all),
    }]
}

fn of(name: &str, worker: WorkerId, seat: Seat, generation: Generation) -> EventRecord {
    let event = EventRecord::new(name).with("worker", worker.0).with("seat", seat.0);
    event.with("generation", generation.0)
}

fn with_cause(event: EventRecord, cause: ReplaceReason) -> EventRecord {
    let name = match cause {
        ReplaceReason::OperatorRequest => "requested",
        ReplaceReason::Unhealthy => "silent",
        ReplaceReason::WorkerRequest => "asked",
        ReplaceReason::Memory { .. } => "memory",
        ReplaceReason::Lag { .. } => "lag",
        ReplaceReason::Age => "age",
    };
    let (mut memory, mut late) = (None, None);
    match cause {
        ReplaceReason::Memory { rss } => memory = Some(rss),
        ReplaceReason::Lag { lag } => late = Some(seconds(lag)),
        _ => {}
    }
    event.with("cause", name).with("memory", memory).with("lag", late)
}

/// A mark of the memory of the whole cluster is passed: who ends for it, and what comes back of
/// that.
fn watermark(name: &str, used: u64, mark: u64, ending: &[MemoryOf]) -> EventRecord {
    let freed = ending.iter().fold(0_u64, |sum, it| sum.saturating_add(it.bytes));
    let named = |it: &MemoryOf| {
        let (seat, generation) = (it.seat.0, it.generation.0);
        json!({
            "worker": it.worker.0, "seat": seat, "generation": generation, "memory": it.bytes,
        })
    };
    let workers: Vec<Value> = ending.iter().take(STATS_LIMIT).map(named).collect();
    let event = EventRecord::new(name).with("used", used).with("mark", mark);
    event.with("freed", freed).with("workers", workers)
}

fn ended(event: EventRecord, exit: Exit) -> EventRecord {
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
) -> Vec<EventRecord> {
    let swapped = EventRecord::new("swapped")
        .with("generation", generation.0)
        .with("occupied", occupied)
        .with("seats", seats)
        .with("took", seconds(took));
    let all = EventRecord::new("all_bands_ready").with("generation", generation.0);
    let all = (occupied == seats).then(|| all.with("seats", seats));
    [swapped].into_iter().chain(all).collect()
}

/// As many events as it takes for the workers of a large cluster.
fn stats(stats: &Stats) -> Vec<EventRecord> {
    let parts = stats.workers.len().div_ceil(STATS_LIMIT).max(1);
    let part = |index: usize| {
        let workers = stats.workers.iter().skip(index * STATS_LIMIT).take(STATS_LIMIT);
        EventRecord::new("stats")
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
