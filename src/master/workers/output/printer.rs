//! The thread that writes what workers print, and the share of each worker in it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::LogFiles;
use super::journal::Journal;
use super::origin::Origin;
use super::stdout::Stdout;
use crate::master::error::MasterError;
use crate::process::{OutputItem, OutputReader, ProcessError, plain};

/// How much of all workers is read at one look: splitting that into lines takes a few milliseconds.
const BYTES_AT_A_LOOK: usize = 1024 * 1024;

/// What each worker may have of it, however many they are.
const LEAST_SHARE: usize = 4 * 1024;

/// How much may be on the way of workers that have ended, whose memory is gone with them. Workers that run
/// have one part each on the way.
const REST_LIMIT: usize = 16 * 1024 * 1024;

/// Where lines of workers go.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Our standard output.
    Stdout(Stdout),
    /// The journal of systemd.
    Journal(Journal),
    /// A file for each seat and generation.
    Files(LogFiles),
}

/// How many parts of what one worker has printed are on their way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Flow(Arc<AtomicUsize>);

impl Flow {
    pub(crate) fn is_busy(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

/// What a worker has printed, on its way until this is gone.
struct Part {
    origin: Origin,
    /// When it was read, after 1970.
    at: Duration,
    printed: Vec<OutputItem>,
    flow: Flow,
    /// How much of it counts for [`REST_LIMIT`].
    rest: Option<(usize, Arc<AtomicUsize>)>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.flow.0.fetch_sub(1, Ordering::Release);
        if let Some((bytes, all)) = &self.rest {
            all.fetch_sub(*bytes, Ordering::Release);
        }
    }
}

/// Writes lines from a thread of its own, which alone waits for whoever reads them.
#[derive(Debug)]
pub(crate) struct Printer {
    parts: mpsc::Sender<Part>,
    /// Bytes on the way of workers that have ended.
    rest: Arc<AtomicUsize>,
    /// Bytes of workers that have ended which found no place on the way, and were not told of yet.
    dropped: Arc<AtomicU64>,
    /// Is disconnected when the thread has written everything.
    finished: mpsc::Receiver<()>,
}

impl Printer {
    pub(crate) fn new(mut destination: Destination) -> Result<Self, MasterError> {
        Self::with(move |part| destination.write(part))
            .map_err(|source| MasterError::Thread { source })
    }

    fn with(mut write: impl FnMut(&Part) + Send + 'static) -> Result<Self, io::Error> {
        let (parts, inbox) = mpsc::channel::<Part>();
        let (running, finished) = mpsc::channel();
        let dropped = Arc::<AtomicU64>::default();
        let untold = Arc::clone(&dropped);
        thread::Builder::new().name("printer".to_owned()).spawn(move || {
            let _running = running;
            for mut part in inbox {
                let bytes = untold.swap(0, Ordering::Relaxed);
                if bytes > 0 {
                    part.printed.insert(0, OutputItem::Skipped { bytes });
                }
                write(&part);
            }
        })?;
        Ok(Self { parts, rest: Arc::default(), dropped, finished })
    }

    /// Passes on what a worker has printed since the last time, at most so many bytes; nothing as
    /// long as that of the last time is on its way. Returns how much was read. `seen` gets what was read.
    fn pass_on(
        &mut self,
        origin: Origin,
        flow: &Flow,
        reader: &mut OutputReader,
        bytes: usize,
        seen: impl FnOnce(&[OutputItem]),
    ) -> usize {
        // Where a worker is too far ahead of its readers, its oldest output is skipped also while it waits.
        let printed = reader.poll(if flow.is_busy() { 0 } else { bytes });
        self.send(origin, flow, read(origin, printed), false, seen)
    }

    /// Passes on the rest of what a worker that has ended printed; `seen` gets it. Of workers that end one
    /// after the other while nobody reads, 16 MiB in all are kept, and it is said how much was not.
    pub(crate) fn pass_on_rest(
        &mut self,
        origin: Origin,
        flow: &Flow,
        reader: &mut OutputReader,
        seen: impl FnOnce(&[OutputItem]),
    ) {
        self.send(origin, flow, read(origin, reader.finish()), true, seen);
    }

    fn send(
        &mut self,
        origin: Origin,
        flow: &Flow,
        printed: Vec<OutputItem>,
        is_rest: bool,
        seen: impl FnOnce(&[OutputItem]),
    ) -> usize {
        if printed.is_empty() {
            return 0;
        }
        seen(&printed);
        let bytes = printed.iter().map(length).sum();
        let rest = match is_rest {
            true if self.rest.load(Ordering::Acquire).saturating_add(bytes) > REST_LIMIT => {
                self.dropped.fetch_add(bytes as u64, Ordering::Relaxed);
                return bytes;
            }
            true => {
                self.rest.fetch_add(bytes, Ordering::Relaxed);
                Some((bytes, Arc::clone(&self.rest)))
            }
            false => None,
        };
        flow.0.fetch_add(1, Ordering::Relaxed);
        // A clock that stands before 1970 shows as that.
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let part = Part { origin, at, printed, flow: flow.clone(), rest };
        // The thread ends with this alone.
        let _ = self.parts.send(part);
        bytes
    }

    /// Waits until everything is written, but no longer than this: whoever reads it may not.
    pub(crate) fn finish(self, patience: Duration) {
        let Self { parts, finished, .. } = self;
        drop(parts);
        if finished.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("output of workers is lost: it could not be written for {patience:?}");
        }
    }
}

fn read(origin: Origin, printed: Result<Vec<OutputItem>, ProcessError>) -> Vec<OutputItem> {
    printed.unwrap_or_else(|error| {
        tracing::warn!(seat = %origin.seat, %error, "cannot read the output of a worker");
        Vec::new()
    })
}

fn length(one: &OutputItem) -> usize {
    match one {
        OutputItem::Line(line) => line.len() + 1,
        OutputItem::Skipped { .. } => 0,
    }
}

/// Shares out what is read at one look among workers that come one after the other.
#[derive(Debug)]
pub(crate) struct ReadBudget {
    bytes: usize,
    workers: usize,
}

impl ReadBudget {
    pub(crate) fn new(workers: usize) -> Self {
        Self { bytes: BYTES_AT_A_LOOK, workers }
    }

    /// Passes on what the next of the workers has printed, if there is anybody to pass it on to; `seen` gets
    /// what was read. Returns whether it has printed a whole line.
    pub(crate) fn pass_on(
        &mut self,
        printer: Option<&mut Printer>,
        origin: Origin,
        flow: &Flow,
        reader: &mut OutputReader,
        seen: impl FnOnce(&[OutputItem]),
    ) -> bool {
        // Bytes that earlier workers did not need are for the later ones.
        let share = (self.bytes / self.workers.max(1)).max(LEAST_SHARE);
        let read = match printer {
            Some(printer) => printer.pass_on(origin, flow, reader, share, seen),
            None => {
                let printed = read(origin, reader.poll(share));
                seen(&printed);
                printed.iter().map(length).sum()
            }
        };
        self.bytes = self.bytes.saturating_sub(read);
        self.workers = self.workers.saturating_sub(1);
        read > 0
    }
}

impl Destination {
    fn write(&mut self, part: &Part) {
        let Part { origin, at, printed, .. } = part;
        match self {
            Self::Stdout(stdout) => stdout.write(*origin, *at, printed),
            Self::Files(files) => files.write(*origin, *at, printed),
            Self::Journal(journal) => {
                for one in printed {
                    match one {
                        OutputItem::Line(line) => journal.write(origin, &plain(line)),
                        OutputItem::Skipped { bytes } => {
                            journal.write(origin, &format!("<4>({bytes} bytes skipped)"));
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;
    use std::time::Instant;

    use super::super::lines::Layout;
    use super::*;
    use crate::plan::{Generation, Seat};
    use crate::process::Output;

    fn origin(seat: u16) -> Origin {
        Origin { seat: Seat(seat), generation: Generation(1), pid: 1 }
    }

    fn prefixed(part: &Part) -> String {
        let layout = Layout { prefix: true, ..Layout::default() };
        layout.text(part.origin, part.at, &part.printed)
    }

    /// A worker: what it prints, and what reads that.
    struct Worker {
        seat: u16,
        prints: std::fs::File,
        reader: OutputReader,
        flow: Flow,
    }

    impl Worker {
        fn new(seat: u16) -> Self {
            let output = Output::create("test").unwrap();
            let prints = output.writer().unwrap().into();
            Self { seat, prints, reader: output.into_reader(), flow: Flow::default() }
        }

        fn look(&mut self, look: &mut ReadBudget, printer: &mut Printer) {
            look.pass_on(Some(printer), origin(self.seat), &self.flow, &mut self.reader, |_| {});
        }
    }

    fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !happened() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_worker_that_floods_delays_neither_the_loop_nor_the_lines_of_another() {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let flood_bytes = Arc::new(AtomicUsize::new(0));
        let (seen, counted) = (Arc::clone(&lines), Arc::clone(&flood_bytes));
        // A reader of 20 MB/s at most: far less than the flood.
        let mut printer = Printer::with(move |part| {
            if part.origin.seat == Seat(1) {
                seen.lock().unwrap().extend(part.printed.iter().filter_map(|one| match one {
                    OutputItem::Line(line) => Some(line.clone()),
                    OutputItem::Skipped { .. } => None,
                }));
                return;
            }
            let bytes = prefixed(part).len();
            counted.fetch_add(bytes, Ordering::Relaxed);
            thread::sleep(Duration::from_secs_f64(bytes as f64 / 20e6));
        })
        .unwrap();
        let (mut flood, mut quiet) = (Worker::new(0), Worker::new(1));
        let block = b"0123456789012345678901234567890123456789012345678901234567890123456789\n";
        let block = block.repeat(40_000);
        for number in 0..20 {
            flood.prints.write_all(&block).unwrap();
            writeln!(quiet.prints, "{number}").unwrap();
            let mut look = ReadBudget::new(2);
            flood.look(&mut look, &mut printer);
            quiet.look(&mut look, &mut printer);
            // It waits for the one part of the flood that may be on the way, and no more.
            wait_for("the line of the quiet one", || lines.lock().unwrap().len() == number + 1);
            let read = flood_bytes.load(Ordering::Relaxed);
            assert!(read <= (number + 1) * 2 * BYTES_AT_A_LOOK, "{read} bytes of the flood");
        }
        let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        assert_eq!(*lines.lock().unwrap(), expected);
    }

    #[test]
    fn who_does_not_read_loses_the_oldest_lines_alone_and_is_told_how_many() {
        let (go, wait) = mpsc::channel::<()>();
        let text: Arc<Mutex<String>> = Arc::default();
        let seen = Arc::clone(&text);
        let mut printer = Printer::with(move |part| {
            let _ = wait.recv();
            seen.lock().unwrap().push_str(&prefixed(part));
        })
        .unwrap();
        let mut worker = Worker::new(0);
        writeln!(worker.prints, "first").unwrap();
        worker.look(&mut ReadBudget::new(1), &mut printer);
        let line = [b'x'; 1023];
        for _ in 0..20 * 1024 {
            worker.prints.write_all(&line).unwrap();
            worker.prints.write_all(b"\n").unwrap();
        }
        writeln!(worker.prints, "last").unwrap();
        for _ in 0..10 {
            worker.look(&mut ReadBudget::new(1), &mut printer);
        }
        drop(go);
        wait_for("the way to be free", || !worker.flow.is_busy());
        wait_for("the last line", || {
            worker.look(&mut ReadBudget::new(1), &mut printer);
            text.lock().unwrap().ends_with("seat 0 | last\n")
        });
        let text = text.lock().unwrap();
        let shown: String = text.lines().filter(|line| !line.contains("xxx")).collect();
        assert!(shown.starts_with("seat 0 | firstseat 0 | ("), "{shown}");
        assert!(shown.ends_with(" bytes skipped)seat 0 | last"), "{shown}");
    }

    #[test]
    fn nobody_is_left_out_of_a_look() {
        let mut printer = Printer::with(|_| {}).unwrap();
        let mut look = ReadBudget::new(3);
        let mut workers: Vec<Worker> = (0..3).map(Worker::new).collect();
        workers[0].prints.write_all(&b"0123456\n".repeat(1024 * 1024)).unwrap();
        workers[0].look(&mut look, &mut printer);
        assert!(look.bytes >= BYTES_AT_A_LOOK / 2, "{} bytes are left", look.bytes);
        let mut exhausted = ReadBudget { bytes: 0, workers: 100 };
        writeln!(workers[2].prints, "a line").unwrap();
        workers[2].look(&mut exhausted, &mut printer);
        assert!(workers[2].reader.last_lines().eq(["a line"]));
    }

    #[test]
    fn the_end_waits_for_what_is_on_its_way_but_not_for_ever() {
        let (sent, arrived) = mpsc::channel();
        let mut printer = Printer::with(move |part| {
            sent.send(prefixed(part)).unwrap();
        })
        .unwrap();
        let mut worker = Worker::new(0);
        write!(worker.prints, "no end of line").unwrap();
        printer.pass_on_rest(origin(0), &worker.flow, &mut worker.reader, |_| {});
        printer.finish(Duration::from_secs(20));
        assert_eq!(arrived.try_recv().unwrap(), "seat 0 | no end of line\n");

        let (_go, wait) = mpsc::channel::<()>();
        let mut stuck = Printer::with(move |_| {
            let _ = wait.recv();
        })
        .unwrap();
        writeln!(worker.prints, "a line").unwrap();
        worker.look(&mut ReadBudget::new(1), &mut stuck);
        let begin = Instant::now();
        stuck.finish(Duration::from_millis(50));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn workers_that_end_while_nobody_reads_take_no_more_memory_than_the_limit() {
        let (go, wait) = mpsc::channel::<()>();
        let text: Arc<Mutex<String>> = Arc::default();
        let seen = Arc::clone(&text);
        let mut printer = Printer::with(move |part| {
            let _ = wait.recv();
            seen.lock().unwrap().push_str(&prefixed(part));
        })
        .unwrap();
        let line = "x".repeat(1023);
        for _ in 0..6 {
            let mut worker = Worker::new(0);
            worker.prints.write_all(format!("{line}\n").repeat(4 * 1024).as_bytes()).unwrap();
            printer.pass_on_rest(origin(0), &worker.flow, &mut worker.reader, |_| {});
            assert!(printer.rest.load(Ordering::Acquire) <= REST_LIMIT);
        }
        assert_eq!(printer.dropped.load(Ordering::Relaxed), 2 * 4 * 1024 * 1024);
        drop(go);
        wait_for("the way to be free", || printer.rest.load(Ordering::Acquire) == 0);
        let mut worker = Worker::new(1);
        writeln!(worker.prints, "last").unwrap();
        printer.pass_on_rest(origin(1), &worker.flow, &mut worker.reader, |_| {});
        printer.finish(Duration::from_secs(20));
        let text = text.lock().unwrap();
        assert!(text.contains("(8388608 bytes skipped)\n"), "it is said how much that was");
        assert!(text.ends_with("seat 1 | last\n"));
    }
}
