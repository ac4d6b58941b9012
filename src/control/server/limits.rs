//! Limits on the connections of each user and each process.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Counts the connections that have not proven to be a worker's: those of operators and of anybody
/// else. A user that has many of them takes none away from other users, and a process none from other
/// processes.
#[derive(Debug, Clone, Default)]
pub(super) struct ConnectionLimits {
    counts: Arc<Mutex<HashMap<Holder, usize>>>,
    /// Some connection has ended.
    ended: Arc<Notify>,
    /// Some connection has begun to wait.
    begun_to_wait: Arc<Notify>,
}

/// Why there is no place for one more connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// Its user has so many: others will end, and it may wait for that.
    User(usize),
    /// Its process has so many.
    Process(usize),
    /// So many of its user wait already.
    Queue(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Holder {
    User(u32),
    Process(i32),
    /// Those of a user that wait for a place.
    Waiting(u32),
}

/// The right to one connection, given back on drop.
#[derive(Debug)]
pub(super) struct Permit {
    limits: ConnectionLimits,
    holders: Vec<Holder>,
}

/// A connection that has a place, or waits for one.
#[derive(Debug)]
pub(super) enum Admission {
    Now(Permit),
    Later(Waiting),
}

/// A connection that waits for a place.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The place among those that wait.
    place: Permit,
    user: u32,
    process: i32,
    user_limit: usize,
    process_limit: usize,
}

impl Admission {
    /// Waits for the place.
    pub(super) async fn granted(self) -> Permit {
        let Waiting { place, user, process, user_limit, process_limit } = match self {
            Self::Now(permit) => return permit,
            Self::Later(waiting) => waiting,
        };
        let limits = place.limits.clone();
        loop {
            let mut ended = pin!(limits.ended.notified());
            // What ends from here on is not missed.
            ended.as_mut().enable();
            if let Ok(permit) = limits.acquire(user, process, user_limit, process_limit) {
                return permit;
            }
            ended.await;
        }
    }
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
    ) -> Result<Permit, Full> {
        self.take([
            (Holder::Process(process), process_limit, Full::Process(process_limit)),
            (Holder::User(user), user_limit, Full::User(user_limit)),
        ])
    }

    /// A place for one more connection of this process: now, or when others of its user have ended, of whom
    /// `waiting_limit` may wait.
    ///
    /// # Errors
    /// The limit that is reached.
    pub(super) fn admit(
        &self,
        user: u32,
        process: i32,
        user_limit: usize,
        process_limit: usize,
        waiting_limit: usize,
    ) -> Result<Admission, Full> {
        match self.acquire(user, process, user_limit, process_limit) {
            Ok(permit) => Ok(Admission::Now(permit)),
            Err(Full::User(_)) if user_limit > 0 => {
                let queue = Holder::Waiting(user);
                let place = self.take([(queue, waiting_limit, Full::Queue(user_limit))])?;
                self.begun_to_wait.notify_waiters();
                let waiting = Waiting { place, user, process, user_limit, process_limit };
                Ok(Admission::Later(waiting))
            }
            Err(full) => Err(full),
        }
    }

    /// Counts one more of each, or of none.
    fn take<const N: usize>(&self, wanted: [(Holder, usize, Full); N]) -> Result<Permit, Full> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, most, full) in &wanted {
            if counts.get(who).is_some_and(|count| *count >= *most) || *most == 0 {
                return Err(*full);
            }
        }
        let holders: Vec<Holder> = wanted.iter().map(|(who, ..)| *who).collect();
        for who in &holders {
            *counts.entry(*who).or_default() += 1;
        }
        Ok(Permit { limits: self.clone(), holders })
    }
}

impl Permit {
    /// Whether others of its user wait for a place.
    pub(super) fn is_wanted(&self) -> bool {
        let counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        self.holders.iter().any(|holder| match holder {
            Holder::User(user) => counts.contains_key(&Holder::Waiting(*user)),
            Holder::Process(_) | Holder::Waiting(_) => false,
        })
    }

    /// Some connection begins to wait, after this was called.
    pub(super) fn begun_to_wait(&self) -> Notified<'_> {
        self.limits.begun_to_wait.notified()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for who in std::mem::take(&mut self.holders) {
            if let Some(count) = counts.get_mut(&who) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&who);
                }
            }
        }
        drop(counts);
        self.limits.ended.notify_waiters();
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
        assert_eq!(acquire(1, 10).unwrap_err(), Full::Process(2), "two of one process");
        let third = acquire(1, 11).unwrap();
        assert_eq!(acquire(1, 12).unwrap_err(), Full::User(3), "three of one user");
        let _other = acquire(2, 20).unwrap();
        drop((first, second));
        let _again = (acquire(1, 10).unwrap(), acquire(1, 12).unwrap());
        drop((third, _again));
        assert_eq!(limits.counts.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn who_comes_when_a_user_has_too_many_waits_until_one_has_ended() {
        let limits = ConnectionLimits::default();
        let admit = |process| limits.admit(1, process, 1, 2, 1);
        let Ok(Admission::Now(first)) = admit(10) else { panic!("a place") };
        let waiting = admit(11).unwrap();
        assert!(matches!(admit(12), Err(Full::Queue(1))), "one waits already");
        let mut granted = pin!(waiting.granted());
        let early = tokio::time::timeout(std::time::Duration::from_millis(20), granted.as_mut());
        assert!(early.await.is_err());
        drop(first);
        let second = granted.await;
        assert!(!second.is_wanted());
        let third = admit(12).unwrap();
        assert!(second.is_wanted());
        assert!(matches!(third, Admission::Later(_)), "the place of who waited is free again");
        drop((second, third));
        assert!(limits.counts.lock().unwrap().is_empty());
    }
}
