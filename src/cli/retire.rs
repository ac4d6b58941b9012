//! `ipcluster retire`

use crate::control::ControlDir;
use crate::plan::{MAX_SEATS, Seat};

use super::args::RetireArgs;
use super::{Failed, ask, output};
use crate::protocol::{Command, Outcome, RetireTarget};

pub(super) fn run(directory: &ControlDir, args: RetireArgs) -> Result<(), Failed> {
    let command = Command::Retire(args.target);
    match ask::ask(directory, args.name.as_ref(), command)? {
        Outcome::Retired(done) => {
            let pid = |pid: Option<u32>| pid.map_or("none".to_owned(), |pid| pid.to_string());
            let (seat, old, new) = (done.seat, pid(done.pid), pid(done.successor));
            output::answer(&format!("seat {seat}: pid {old} is retired, pid {new} serves\n"))
        }
        _ => Err(ask::mismatch("retire")),
    }
}

/// Reads which worker is meant. There are never more seats than [`MAX_SEATS`], and pids as small are
/// rare outside of containers.
pub(super) fn target(text: &str) -> Result<RetireTarget, String> {
    let expected = || "expected a seat, a pid, or pid:N".to_owned();
    let (number, is_pid) = match text.strip_prefix("pid:") {
        Some(number) => (number, true),
        None => (text, false),
    };
    let number: u32 = number.parse().map_err(|_| expected())?;
    match u16::try_from(number) {
        Ok(seat) if seat < MAX_SEATS && !is_pid => Ok(RetireTarget::Seat(Seat(seat))),
        Ok(0) => Err(expected()),
        _ => Ok(RetireTarget::Pid(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_number_is_a_seat_unless_it_is_said_to_be_a_pid() {
        for (text, expected) in [
            ("0", RetireTarget::Seat(Seat(0))),
            ("1023", RetireTarget::Seat(Seat(1023))),
            ("1024", RetireTarget::Pid(1024)),
            ("70000", RetireTarget::Pid(70_000)),
            ("pid:7", RetireTarget::Pid(7)),
        ] {
            assert_eq!(target(text), Ok(expected));
        }
        for text in ["", "x", "-1", "pid:", "pid:0", "pid:-1", "4294967296", "1.0"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
