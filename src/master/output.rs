//! What workers print, on its way to whoever reads it.

use std::io::Write as _;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread;

use crate::plan::Seat;
use crate::process::{OutputReader, Printed, ProcessError};

/// Lines that wait for a slow reader before more are dropped.
const QUEUE: usize = 10_000;

/// How much of one worker is read at one look.
const BYTES_AT_A_LOOK: usize = 256 * 1024;

/// Prints lines on standard output from a thread of its own, so that a reader who does not read
/// holds nobody up: lines are dropped then, and counted.
#[derive(Debug)]
pub(super) struct Printer {
    lines: SyncSender<String>,
    dropped: u64,
}

impl Printer {
    pub(super) fn new() -> Result<Self, std::io::Error> {
        let (lines, inbox) = mpsc::sync_channel::<String>(QUEUE);
        thread::Builder::new().name("printer".to_owned()).spawn(move || {
            for line in inbox {
                let mut stdout = std::io::stdout().lock();
                if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
                    // Nobody reads any more. What workers print later is of no use to anybody.
                    return;
                }
            }
        })?;
        Ok(Self { lines, dropped: 0 })
    }

    fn print(&mut self, line: String) {
        match self.lines.try_send(line) {
            Ok(()) => {
                let dropped = std::mem::take(&mut self.dropped);
                if dropped > 0 {
                    tracing::warn!(dropped, "standard output was not read: lines of workers lost");
                }
            }
            Err(TrySendError::Full(_)) => self.dropped += 1,
            Err(TrySendError::Disconnected(_)) => {}
        }
    }

    /// Passes on what a worker has printed since the last look.
    pub(super) fn pass_on(&mut self, seat: Seat, reader: &mut OutputReader) {
        self.print_all(seat, reader.poll(BYTES_AT_A_LOOK));
    }

    /// Passes on the rest of what a worker that has ended printed.
    pub(super) fn pass_on_rest(&mut self, seat: Seat, reader: &mut OutputReader) {
        self.print_all(seat, reader.finish());
    }

    fn print_all(&mut self, seat: Seat, printed: Result<Vec<Printed>, ProcessError>) {
        match printed {
            Ok(all) => {
                for one in all {
                    self.print(match one {
                        Printed::Line(line) => format!("seat {seat} | {line}\n"),
                        Printed::Skipped { bytes } => {
                            format!("seat {seat} | ({bytes} bytes skipped)\n")
                        }
                    });
                }
            }
            Err(error) => tracing::warn!(%seat, %error, "cannot read what a worker printed"),
        }
    }
}
