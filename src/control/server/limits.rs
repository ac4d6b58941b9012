//! Limits on the connections of each user and each process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the connections that have not proven to be a worker's: those of operators and of anybody
/// else. A user that has many of them takes none away from other users, and a process none from other
/// processes.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionLimits {
    counts: Arc<Mutex<HashMap<Holder, usize>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    User(u32),
    Process(i32),
}

/// The right to one connection, given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    limits: ConnectionLimits,
    holders: [Holder; 2],
}

impl ConnectionLimits {
    /// A permit for one more connection of this process.
    ///
    /// # Errors
    /// The limit that is reached, in connections.
    pub(super) fn acquire(
        &self,
        user: u32,
        process: i32,
        user_limit: usize,
        process_limit: usize,
    ) -> Result<Permit, usize> {
        let holders = [Holder::User(user), Holder::Process(process)];
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, most) in holders.iter().zip([user_limit, process_limit]) {
            if counts.get(who).is_some_and(|count| *count >= most) || most == 0 {
                return Err(most);
            }
        }
        for who in holders {
            *counts.entry(who).or_default() += 1;
        }
        Ok(Permit { limits: self.clone(), holders })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for who in self.holders {
            if let Some(count) = counts.get_mut(&who) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&who);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_a_user_have_limits_of_their_own_and_places_come_back() {
        let limits = ConnectionLimits::default();
        let acquire = |user, process| limits.acquire(user, process, 3, 2);
        let (first, second) = (acquire(1, 10).unwrap(), acquire(1, 10).unwrap());
        assert_eq!(acquire(1, 10).unwrap_err(), 2, "two of one process");
        let third = acquire(1, 11).unwrap();
        assert_eq!(acquire(1, 12).unwrap_err(), 3, "three of one user");
        let _other = acquire(2, 20).unwrap();
        drop((first, second));
        let _again = (acquire(1, 10).unwrap(), acquire(1, 12).unwrap());
        drop((third, _again));
        assert_eq!(limits.counts.lock().unwrap().len(), 2);
    }
}
