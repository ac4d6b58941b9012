//! Lines of the log on their way to stderr, whose reader may stall, go away, or run out of space.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, stderr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::process::write_all;

/// How many bytes wait at most; lines beyond that are dropped, and the next one that has a place says how
/// many these were.
const LIMIT: usize = 1024 * 1024;

/// How long the end of the program waits for whoever reads the log.
const PATIENCE: Duration = Duration::from_secs(1);

/// The queue, until the end of the program.
pub(in crate::cli) struct LogQueue {
    queue: Arc<Queue>,
    /// The thread that writes has begun.
    has_begun: Cell<bool>,
}

/// What writes to it: each line at once, and it never waits.
#[derive(Clone)]
pub(super) struct LogWriter {
    queue: Arc<Queue>,
}

struct Queue {
    state: Mutex<State>,
    /// A line has come.
    news: Condvar,
    /// All lines have been written.
    written: Condvar,
    /// The line that says that so many were dropped.
    gap: Box<dyn Fn(u64) -> String + Send + Sync>,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines for which there was no place, since the last that had one.
    dropped: u64,
    /// One is being written.
    is_writing: bool,
}

impl LogQueue {
    /// `gap` is the line for so many lines that were dropped.
    pub(super) fn new(gap: impl Fn(u64) -> String + Send + Sync + 'static) -> Self {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            news: Condvar::new(),
            written: Condvar::new(),
            gap: Box::new(gap),
        });
        Self { queue, has_begun: Cell::new(false) }
    }

    /// Starts the thread that writes to stderr: when the process has given up the capabilities that it
    /// does not need, which it can do only while it has no other thread.
    ///
    /// # Errors
    /// No thread can be made.
    pub(in crate::cli) fn begin(&self) -> Result<(), io::Error> {
        // A full disk is tried again, and nobody can be told: it is the log that does not fit on it.
        self.begin_with(|line| write_all(stderr(), line, |_| {}).is_ok())
    }

    /// `write` waits until a line is written, and tells whether it was.
    fn begin_with(
        &self,
        mut write: impl FnMut(&[u8]) -> bool + Send + 'static,
    ) -> Result<(), io::Error> {
        if self.has_begun.get() {
            return Ok(());
        }
        let written = Arc::clone(&self.queue);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                let line = written.next();
                let is_written = write(&line);
                written.done(is_written);
            }
        })?;
        self.has_begun.set(true);
        Ok(())
    }

    pub(super) fn writer(&self) -> LogWriter {
        LogWriter { queue: Arc::clone(&self.queue) }
    }

    fn finish(&self, patience: Duration) {
        let Queue { written, .. } = &*self.queue;
        let is_over = |state: &mut State| state.is_writing || !state.lines.is_empty();
        drop(written.wait_timeout_while(self.queue.lock(), patience, is_over));
    }
}

impl Drop for LogQueue {
    fn drop(&mut self) {
        // It may end before it has begun. Without a thread there is nobody to wait for.
        if self.begin().is_ok() {
            self.finish(PATIENCE);
        }
    }
}

impl Queue {
    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        let gap = if state.dropped > 0 { (self.gap)(state.dropped) } else { String::new() };
        if state.bytes + gap.len() + line.len() > LIMIT {
            state.dropped = state.dropped.saturating_add(1);
            return;
        }
        if !gap.is_empty() {
            state.dropped = 0;
            state.add(gap.into_bytes());
        }
        state.add(line.to_owned());
        self.news.notify_one();
    }

    /// Waits for the next line.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, is_written: bool) {
        let mut state = self.lock();
        state.is_writing = false;
        if !is_written {
            state.dropped = state.dropped.saturating_add(1);
        }
        if state.lines.is_empty() {
            self.written.notify_all();
        }
    }

    /// Whoever held it has left lines that are whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }
}

impl io::Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    fn gap(count: u64) -> String {
        format!("{count} dropped\n")
    }

    #[test]
    fn a_reader_that_stalls_holds_up_nobody_and_the_gap_is_marked() {
        let (go, wait) = mpsc::channel::<()>();
        let (sent, lines) = mpsc::channel::<Vec<u8>>();
        let queue = LogQueue::new(gap);
        let begun = queue.begin_with(move |line| {
            let _ = wait.recv();
            sent.send(line.to_owned()).unwrap();
            true
        });
        begun.unwrap();
        let mut writer = queue.writer();
        let line = |number: usize| format!("{number:01023}\n").into_bytes();
        // One is with the reader, and 1,024 wait.
        for number in 0..3000 {
            writer.write_all(&line(number)).unwrap();
        }
        assert!(queue.queue.lock().bytes <= LIMIT);
        let begin = Instant::now();
        queue.finish(Duration::from_millis(50));
        assert!(begin.elapsed() < Duration::from_secs(10), "the end waits a little and no longer");
        drop(go);
        queue.finish(Duration::from_secs(20));
        writer.write_all(b"after\n").unwrap();
        drop(queue);
        let lines: Vec<Vec<u8>> = lines.try_iter().collect();
        let kept = lines.len() - 2;
        assert!((1024..=1025).contains(&kept), "{kept}");
        assert_eq!(lines[kept - 1], line(kept - 1), "the first ones are kept");
        assert_eq!(lines[kept], gap(3000 - kept as u64).into_bytes());
        assert_eq!(lines[kept + 1], b"after\n");
    }

    #[test]
    fn lines_that_nobody_could_read_are_counted_as_well() {
        let (sent, lines) = mpsc::channel::<Vec<u8>>();
        let queue = LogQueue::new(gap);
        let begun = queue.begin_with(move |line| {
            sent.send(line.to_owned()).unwrap();
            !line.starts_with(b"lost")
        });
        begun.unwrap();
        let mut writer = queue.writer();
        for line in ["lost 1\n", "lost 2\n", "seen\n"] {
            writer.write_all(line.as_bytes()).unwrap();
            queue.finish(Duration::from_secs(20));
        }
        let lines: Vec<Vec<u8>> = lines.try_iter().collect();
        // The mark of the first did reach somebody.
        let expected: [&[u8]; 5] =
            [b"lost 1\n", b"1 dropped\n", b"lost 2\n", b"1 dropped\n", b"seen\n"];
        assert_eq!(lines, expected);
    }
}
