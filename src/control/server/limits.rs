//! How many connections each user and each process has, of those that nobody knows yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections that have not proven to be a worker's: operators', and strangers'. Who has many of
/// them takes none away from other users, and a process none from other processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd {
    counts: Arc<Mutex<HashMap<Who, usize>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    User(u32),
    Process(i32),
}

/// One of the places, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    takes: [Who; 2],
}

impl Crowd {
    /// A place for one more connection of this process, or how many connections are too many.
    pub(super) fn enter(
        &self,
        user: u32,
        process: i32,
        most_of_user: usize,
        most_of_process: usize,
    ) -> Result<Place, usize> {
        let takes = [Who::User(user), Who::Process(process)];
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (who, most) in takes.iter().zip([most_of_user, most_of_process]) {
            if counts.get(who).is_some_and(|count| *count >= most) || most == 0 {
                return Err(most);
            }
        }
        for who in takes {
            *counts.entry(who).or_default() += 1;
        }
        Ok(Place { crowd: self.clone(), takes })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for who in self.takes {
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
        let crowd = Crowd::default();
        let enter = |user, process| crowd.enter(user, process, 3, 2);
        let (first, second) = (enter(1, 10).unwrap(), enter(1, 10).unwrap());
        assert_eq!(enter(1, 10).unwrap_err(), 2, "two of one process");
        let third = enter(1, 11).unwrap();
        assert_eq!(enter(1, 12).unwrap_err(), 3, "three of one user");
        let _other = enter(2, 20).unwrap();
        drop((first, second));
        let _again = (enter(1, 10).unwrap(), enter(1, 12).unwrap());
        drop((third, _again));
        assert_eq!(crowd.counts.lock().unwrap().len(), 2);
    }
}
