use std::fmt;
use std::str::FromStr;

/// Who a worker says it is: the line `<pid> <seat> <generation>` of its answer.
///
/// Any server that answers with this line, alone or as the first line of an HTTP body, can be
/// measured by a [`Load`](super::Load); the [`greeter`](super::greeter) is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its process number, in its own pid namespace.
    pub pid: u32,
    /// Its seat, from `IPCLUSTER_SEAT`; 0 where nobody gave it one.
    pub seat: u16,
    /// Its generation, from `IPCLUSTER_GENERATION`; 0 where nobody gave it one.
    pub generation: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.pid, self.seat, self.generation)
    }
}

/// A line that is not `<pid> <seat> <generation>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a line `<pid> <seat> <generation>`")]
pub struct ParseIdentityError;

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let mut words = line.split_ascii_whitespace();
        let identity = Self {
            pid: number(words.next())?,
            seat: number(words.next())?,
            generation: number(words.next())?,
        };
        words.next().is_none().then_some(identity).ok_or(ParseIdentityError)
    }
}

fn number<T: FromStr>(word: Option<&str>) -> Result<T, ParseIdentityError> {
    word.and_then(|word| word.parse().ok()).ok_or(ParseIdentityError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        let identity = Identity { pid: 4711, seat: 3, generation: 12 };
        assert_eq!(identity.to_string().parse(), Ok(identity));
        assert_eq!("4711 3 12\n".parse(), Ok(identity));
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "1", "1 2", "1 2 3 4", "a 2 3", "-1 2 3", "1 65536 3", "<html>"] {
            assert_eq!(line.parse::<Identity>(), Err(ParseIdentityError), "{line:?}");
        }
    }
}
