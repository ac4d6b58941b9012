//! The last lines of each seat, in memory, for `ipcluster logs`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Semaphore, watch};

use super::origin::Origin;
use crate::control::Responder;
use crate::plan::{Generation, Seat};
use crate::process::OutputItem;
use crate::protocol::{LogLine, LogsRequest, LogsShown, Outcome, Refusal, counted};

/// What is kept of each seat, in bytes; a line counts for [`LINE_COST`] more than it has.
pub(super) const SEAT_BYTES: usize = 64 * 1024;

/// What is kept of all seats together, which matters with more than 64 of them: each then has its part.
const ALL_BYTES: usize = 4 * 1024 * 1024;

/// What a line takes beside its text.
const LINE_COST: usize = 64;

/// How many may follow at a time: each takes one of the connections of the control socket, of which some
/// have to be left for commands.
const FOLLOWERS: usize = 16;

/// The last lines of each seat, also of workers that have ended.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    seats: BTreeMap<Seat, SeatLines>,
    /// How many lines there were in all.
    count: u64,
}

#[derive(Debug, Default)]
struct SeatLines {
    lines: VecDeque<Kept>,
    bytes: usize,
    /// The number of the next line of the seat.
    next: u64,
}

#[derive(Debug)]
struct Kept {
    /// Its place among the lines of all seats.
    place: u64,
    /// Its place among those of its seat.
    number: u64,
    line: LogLine,
}

/// How far somebody has read: the number of the next line, of each seat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cursor(BTreeMap<Seat, u64>);

impl Recent {
    fn push(&mut self, line: LogLine) {
        let seats = self.seats.len() + usize::from(!self.seats.contains_key(&line.seat));
        let limit = SEAT_BYTES.min(ALL_BYTES / seats);
        let place = self.count;
        self.count += 1;
        let of_seat = self.seats.entry(line.seat).or_default();
        of_seat.bytes += cost(&line);
        of_seat.lines.push_back(Kept { place, number: of_seat.next, line });
        of_seat.next += 1;
        // A seat that prints nothing any more gives back what others need the next time that one of its
        // workers prints.
        while of_seat.bytes > limit && of_seat.lines.len() > 1 {
            let Some(oldest) = of_seat.lines.pop_front() else { break };
            of_seat.bytes -= cost(&oldest.line);
        }
    }

    /// Takes in a line of a file, of which neither time nor process is known.
    pub(crate) fn push_old(&mut self, seat: Seat, generation: Generation, line: String) {
        self.push(LogLine { time: None, seat, generation, pid: None, line });
    }

    /// Takes in what a worker has printed.
    fn add(&mut self, origin: Origin, at: SystemTime, printed: &[OutputItem]) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Origin { seat, generation, pid } = origin;
        // To the millisecond.
        let time = Some(since.as_millis() as f64 / 1e3);
        for one in printed {
            let line = match one {
                OutputItem::Line(line) => line.clone(),
                OutputItem::Skipped { bytes } => format!("({bytes} bytes skipped)"),
            };
            self.push(LogLine { time, seat, generation, pid: Some(pid), line });
        }
    }

    /// The last lines of each seat, or of one, in the order in which they were printed; and where what
    /// is printed later begins.
    pub(crate) fn last(&self, seat: Option<Seat>, lines: u32) -> (Vec<LogLine>, Cursor) {
        let lines = usize::try_from(lines).unwrap_or(usize::MAX);
        let mut found = Vec::new();
        for (_, of_seat) in self.of(seat) {
            let skipped = of_seat.lines.len().saturating_sub(lines);
            found.extend(of_seat.lines.iter().skip(skipped));
        }
        let cursor = self.seats.iter().map(|(seat, of_seat)| (*seat, of_seat.next)).collect();
        (in_order(found), Cursor(cursor))
    }

    /// Whether some lines of this seat are kept.
    fn has(&self, seat: Seat) -> bool {
        self.seats.contains_key(&seat)
    }

    /// What came since then, in the order in which it was printed, and how many lines more than that, which
    /// are not kept any more.
    fn since(&self, seat: Option<Seat>, cursor: &mut Cursor) -> (Vec<LogLine>, u64) {
        let (mut found, mut missed) = (Vec::new(), 0);
        for (seat, of_seat) in self.of(seat) {
            let next = cursor.0.entry(*seat).or_default();
            let first = of_seat.lines.front().map_or(of_seat.next, |kept| kept.number);
            missed += first.saturating_sub(*next);
            found.extend(of_seat.lines.iter().filter(|kept| kept.number >= *next));
            *next = of_seat.next;
        }
        (in_order(found), missed)
    }

    fn of(&self, seat: Option<Seat>) -> impl Iterator<Item = (&Seat, &SeatLines)> {
        self.seats.iter().filter(move |(it, _)| seat.is_none_or(|seat| **it == seat))
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.seats.values().map(|of_seat| of_seat.bytes).sum()
    }
}

fn cost(line: &LogLine) -> usize {
    line.line.len() + LINE_COST
}

fn in_order(mut found: Vec<&Kept>) -> Vec<LogLine> {
    found.sort_unstable_by_key(|kept| kept.place);
    found.into_iter().map(|kept| kept.line.clone()).collect()
}

/// The last lines of each seat, for those who ask for them.
#[derive(Debug)]
pub(crate) struct SharedRecent {
    lines: Arc<Mutex<Recent>>,
    /// Changes when lines have come; gone when the master ends.
    news: watch::Sender<()>,
    free: Arc<Semaphore>,
    /// Where older lines are found.
    older: Option<String>,
}

impl SharedRecent {
    /// Begins with what earlier masters have left.
    pub(crate) fn new(recent: Recent, older: Option<String>) -> Self {
        let (lines, free) = (Arc::new(Mutex::new(recent)), Arc::new(Semaphore::new(FOLLOWERS)));
        Self { lines, news: watch::channel(()).0, free, older }
    }

    /// Takes in what a worker has printed.
    pub(crate) fn add(&self, origin: Origin, printed: &[OutputItem]) {
        if !printed.is_empty() {
            lock(&self.lines).add(origin, SystemTime::now(), printed);
            self.news.send_replace(());
        }
    }

    /// Whether workers in this seat have printed something that is kept.
    pub(crate) fn has(&self, seat: Seat) -> bool {
        lock(&self.lines).has(seat)
    }

    /// Sends the lines that a request is for. Done by a task of its own, which alone waits while the peer
    /// is slow: what is not kept any more by then it misses, and is told how much that was.
    pub(crate) fn show(&self, request: LogsRequest, responder: Responder) {
        let LogsRequest { seat, lines, follow } = request;
        let permit = match follow {
            true => match Arc::clone(&self.free).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let refusal = Refusal::TooManySubscribers { limit: FOLLOWERS };
                    return responder.finish(Err(refusal));
                }
            },
            false => None,
        };
        let (last, mut cursor) = lock(&self.lines).last(seat, lines);
        let (all, mut news) = (Arc::clone(&self.lines), self.news.subscribe());
        let older = self.older.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if !responder.lines(last).await {
                return;
            }
            let mut is_over = !follow;
            while !is_over {
                is_over = news.changed().await.is_err();
                let (lines, missed) = lock(&all).since(seat, &mut cursor);
                if missed > 0 {
                    responder.progress(format!(
                        "({} missed: too much came at once)",
                        counted(missed, "line")
                    ));
                }
                if !responder.lines(lines).await {
                    return;
                }
            }
            responder.finish(Ok(Outcome::Logs(LogsShown { older })));
        });
    }
}

/// Whoever held it cannot have left anything half done that matters: lines are there or not.
fn lock(lines: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seat: u16, text: &str) -> LogLine {
        let (seat, generation) = (Seat(seat), Generation(1));
        LogLine { time: Some(1.5), seat, generation, pid: Some(7), line: text.to_owned() }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.line.as_str()).collect()
    }

    #[test]
    fn the_last_lines_of_each_seat_come_in_the_order_in_which_they_were_printed() {
        let mut recent = Recent::default();
        for (seat, text) in [(1, "a"), (0, "b"), (1, "c"), (1, "d"), (0, "e")] {
            recent.push(line(seat, text));
        }
        let (all, mut cursor) = recent.last(None, 2);
        assert_eq!(texts(&all), ["b", "c", "d", "e"]);
        assert_eq!(texts(&recent.last(Some(Seat(1)), 1).0), ["d"]);
        assert_eq!(texts(&recent.last(Some(Seat(7)), 1).0), [""; 0]);
        assert!(recent.has(Seat(1)) && !recent.has(Seat(7)));
        assert_eq!(texts(&recent.last(None, 0).0), [""; 0]);
        recent.push(line(2, "f"));
        recent.push(line(1, "g"));
        let (news, missed) = recent.since(None, &mut cursor);
        assert_eq!((texts(&news), missed), (vec!["f", "g"], 0));
        assert_eq!(recent.since(None, &mut cursor), (vec![], 0));
    }

    #[test]
    fn a_seat_that_floods_pushes_out_its_own_lines_alone_and_who_misses_some_is_told() {
        let mut recent = Recent::default();
        recent.push(line(0, "quiet"));
        let (_, mut cursor) = recent.last(None, 0);
        for number in 0..10_000 {
            recent.push(line(1, &format!("{number:0100}")));
        }
        assert!(recent.bytes() <= SEAT_BYTES + 100, "{}", recent.bytes());
        assert_eq!(texts(&recent.last(Some(Seat(0)), 9).0), ["quiet"]);
        let (news, missed) = recent.since(Some(Seat(1)), &mut cursor);
        assert_eq!(news.len() as u64 + missed, 10_000);
        assert_eq!(news.last(), Some(&line(1, &format!("{:0100}", 9999))));
    }

    #[test]
    fn all_seats_together_keep_to_the_limit() {
        let mut recent = Recent::default();
        for _ in 0..100 {
            for seat in 0..2048 {
                recent.push(line(seat, &"x".repeat(500)));
            }
        }
        assert!(recent.bytes() <= ALL_BYTES, "{}", recent.bytes());
        assert!(recent.seats.values().all(|of_seat| of_seat.lines.len() > 1));
        let mut recent = Recent::default();
        recent.push(line(0, &"x".repeat(2 * SEAT_BYTES)));
        assert_eq!(recent.last(None, 9).0.len(), 1, "the last one is always there");
    }
}
