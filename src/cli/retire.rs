//! `ipcluster retire`

use ipcluster::control::{Answer, Command, ControlDir, RetireTarget};
use ipcluster::plan::{MAX_SEATS, Seat};

use super::args::RetireArgs;
use super::{Failed, ask, output};

pub(super) fn run(directory: &ControlDir, args: RetireArgs) -> Result<(), Failed> {
    let target = target(args.worker, args.pid);
    match ask::ask(directory, args.name.as_ref(), Command::Retire { target })? {
        Answer::Retired(done) => {
            let pid = |pid: Option<u32>| pid.map_or("none".to_owned(), |pid| pid.to_string());
            let (seat, old, new) = (done.seat, pid(done.pid), pid(done.successor));
            output::answer(&format!("seat {seat}: pid {old} is retired, pid {new} serves\n"))
        }
        _ => Err(ask::mismatch("retire")),
    }
}

/// What a number means. There are never more seats than [`MAX_SEATS`], and pids as small are rare
/// outside of containers.
fn target(number: u32, is_pid: bool) -> RetireTarget {
    match u16::try_from(number) {
        Ok(seat) if seat < MAX_SEATS && !is_pid => RetireTarget::Seat(Seat(seat)),
        _ => RetireTarget::Pid(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_number_is_a_seat_unless_it_is_said_to_be_a_pid() {
        for (number, is_pid, expected) in [
            (0, false, RetireTarget::Seat(Seat(0))),
            (1023, false, RetireTarget::Seat(Seat(1023))),
            (1024, false, RetireTarget::Pid(1024)),
            (70_000, false, RetireTarget::Pid(70_000)),
            (7, true, RetireTarget::Pid(7)),
        ] {
            assert_eq!(target(number, is_pid), expected);
        }
    }
}
