use std::fmt;

use nix::sys::signal::Signal;

/// A signal as this kernel knows it, 1 to 64: real-time signals too, which have no names of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SignalNumber(i32);

impl SignalNumber {
    /// The signal with a name such as `SIGQUIT`, `SIGRTMIN+3` or `SIGRTMAX-1`; `None` if this system has
    /// none. The first and the last real-time signal are those of the C library (signal(7)).
    pub(crate) fn of(name: &str) -> Option<Self> {
        let offset = |rest: &str, sign: char| match rest {
            "" => Some(0),
            rest => rest.strip_prefix(sign)?.parse::<i32>().ok().filter(|it| *it >= 0),
        };
        let number = if let Some(rest) = name.strip_prefix("SIGRTMIN") {
            libc::SIGRTMIN().checked_add(offset(rest, '+')?)?
        } else if let Some(rest) = name.strip_prefix("SIGRTMAX") {
            libc::SIGRTMAX().checked_sub(offset(rest, '-')?)?
        } else {
            return name.parse().ok().map(|signal: Signal| Self(signal as i32));
        };
        let range = libc::SIGRTMIN()..=libc::SIGRTMAX();
        range.contains(&number).then_some(Self(number))
    }

    /// Its number.
    pub(crate) fn get(self) -> i32 {
        self.0
    }
}

impl From<Signal> for SignalNumber {
    fn from(signal: Signal) -> Self {
        Self(signal as i32)
    }
}

impl fmt::Display for SignalNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Signal::try_from(self.0) {
            Ok(signal) => signal.fmt(f),
            Err(_) => match self.0 - libc::SIGRTMIN() {
                0 => f.write_str("SIGRTMIN"),
                above @ 1.. => write!(f, "SIGRTMIN+{above}"),
                // The C library keeps it to itself.
                _ => write!(f, "signal {}", self.0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_this_system() {
        for (name, number) in [
            ("SIGTERM", Some(libc::SIGTERM)),
            ("SIGWINCH", Some(libc::SIGWINCH)),
            ("SIGRTMIN", Some(libc::SIGRTMIN())),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("SIGRTMAX-1", Some(libc::SIGRTMAX() - 1)),
            ("SIGRTMIN+99", None),
            ("SIGRTMAX-99", None),
            ("SIGRTMIN+-3", None),
            ("TERM", None),
            ("", None),
        ] {
            assert_eq!(SignalNumber::of(name).map(SignalNumber::get), number, "{name}");
        }
    }

    #[test]
    fn a_number_is_told_by_the_name_that_it_has() {
        let told = |number| SignalNumber(number).to_string();
        assert_eq!(told(libc::SIGQUIT), "SIGQUIT");
        assert_eq!(told(libc::SIGRTMIN()), "SIGRTMIN");
        assert_eq!(told(libc::SIGRTMIN() + 3), "SIGRTMIN+3");
        assert_eq!(told(33), "signal 33");
    }
}
