//! Who asks for something that changes the cluster: a worker that somebody has broken into is not to command
//! the others, though it may run as the user who commands them.
//!
//! | process that asks | may it |
//! |---|---|
//! | in the session of a worker, or begun by one that is | no |
//! | a daemon of a worker, which came to the master when its parent ended | no |
//! | restricted as workers are and in the cgroup of the master, as a daemon of a worker that another master began | no |
//! | one that has ended meanwhile, and so is not known | no |
//! | restricted so, too, but with `CAP_NET_ADMIN`, as another master that takes over | yes |
//! | a hook; the program that runs the master, and what that has begun | yes |
//! | any other one of a user who may command | yes |

use super::workers::SessionOwner;
use crate::master::error::MasterError;
use crate::plan::Seat;
use crate::process::{Below, PidFd, ProcessError, ProcessOrigin, Restrictions};
use crate::protocol::Refusal;

/// Tells processes of workers from all others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Askers {
    /// What the process of the master could not do when it began. It gave up more since.
    began: Restrictions,
}

impl Askers {
    /// `began`: what the process could not do when it began; `None` if it is as it was.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub(in crate::master) fn new(began: Option<Restrictions>) -> Result<Self, MasterError> {
        Ok(Self { began: began.map_or_else(Restrictions::own, Ok)? })
    }

    /// Whether this process may change the cluster, as far as that is a question of where it comes from.
    /// A read of some files of `/proc`, about 50 us.
    ///
    /// # Errors
    /// [`Refusal::OfWorker`]; [`Refusal::UnknownAsker`].
    pub(crate) fn judge(
        &self,
        asker: Result<PidFd, ProcessError>,
        owner_of: impl Fn(u32) -> Option<SessionOwner>,
    ) -> Result<(), Refusal> {
        let unknown = |reason| Refusal::UnknownAsker { reason };
        let process = match asker {
            Ok(process) => process,
            // It is in a pid namespace outside of ours, where workers cannot be.
            Err(ProcessError::Host { errno: crate::netlink::Errno::ESRCH, .. }) => return Ok(()),
            Err(error) => return Err(unknown(error.to_string())),
        };
        let pid = process.pid();
        let origin = ProcessOrigin::of(&process).map_err(|error| unknown(error.to_string()))?;
        let origin = origin.ok_or_else(|| unknown(format!("process {pid} has ended")))?;
        match self.worker_behind(&origin, owner_of) {
            None => Ok(()),
            Some(seat) => {
                let program = crate::process::plain(origin.name()).into_owned();
                let refusal = Refusal::OfWorker { pid, program, seat };
                tracing::warn!("refused: {refusal}");
                Err(refusal)
            }
        }
    }

    /// Whether it comes from a worker, and the seat of that if it is known.
    fn worker_behind(
        &self,
        origin: &ProcessOrigin,
        owner_of: impl Fn(u32) -> Option<SessionOwner>,
    ) -> Option<Option<Seat>> {
        match origin.sessions().find_map(owner_of) {
            Some(SessionOwner::Worker(seat)) => return Some(Some(seat)),
            Some(SessionOwner::Hook) => return None,
            None => {}
        }
        match origin.below_this_process() {
            Some(Below::Own) => None,
            Some(Below::OtherSession) => Some(None),
            None => origin.is_restricted_as_workers(self.began).then_some(None),
        }
    }
}
