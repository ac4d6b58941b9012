//! Where a process comes from: what the kernel says of it, and the process cannot change.
//!
//! | what | why it cannot be changed |
//! |---|---|
//! | its session, and those of its parents | a process can leave its session for a new one, and never enter another; where its parent ends, the next one up that adopts orphans becomes its parent |
//! | `no_new_privs` | inherited, and never taken back (prctl(2)) |
//! | an empty bounding set of capabilities | inherited, and nothing is ever added to it but in a user namespace of one's own (capabilities(7)) |
//! | its cgroup | changed only by who may write to `cgroup.procs` of both |
//! | that it lacks `CAP_NET_ADMIN` | never had again with `no_new_privs`, but in a user namespace of one's own (capabilities(7)), which its `uid_map` shows |

use std::fs;
use std::path::PathBuf;

use super::error::{ProcessError, ProcessOperation, errno_of};
use super::memory::cgroup_path;
use super::pidfd::{PidFd, failed};
use super::stat::Stat;
use super::trace::adopts_orphans;
use crate::netlink::Errno;

/// What a process and all that it starts can never do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restrictions {
    /// Nothing that it runs gives it a privilege.
    no_new_privs: bool,
    /// Its bounding set of capabilities is empty.
    no_capability: bool,
}

impl Restrictions {
    /// Those of this process.
    ///
    /// # Errors
    /// `/proc` cannot be read or not understood.
    pub(crate) fn own() -> Result<Self, ProcessError> {
        Privileges::of(std::process::id()).map(|it| it.unwrap_or_default().restrictions)
    }

    /// Whether it is restricted as workers are, who all have `no_new_privs`, and a process that has begun with
    /// `began` is not.
    fn is_as_workers(self, began: Self) -> bool {
        let is_more = !began.no_new_privs || self.no_capability && !began.no_capability;
        self.no_new_privs && is_more
    }
}

/// What a process may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Privileges {
    restrictions: Restrictions,
    /// It has `CAP_NET_ADMIN`, without which there is no master, in its user namespace.
    has_net_admin: bool,
}

impl Privileges {
    /// `CAP_NET_ADMIN` (include/uapi/linux/capability.h).
    const NET_ADMIN: u64 = 1 << 12;

    /// Those of the process with this number; `None` if there is none.
    fn of(pid: u32) -> Result<Option<Self>, ProcessError> {
        let Some(status) = read(pid, "status")? else { return Ok(None) };
        let parsed = Self::parse(&String::from_utf8_lossy(&status));
        parsed.map(Some).ok_or(ProcessError::Malformed { pid, file: "status" })
    }

    /// Reads `/proc/PID/status` (proc_pid_status(5)).
    fn parse(status: &str) -> Option<Self> {
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let set = |name| u64::from_str_radix(field(name)?, 16).ok();
        let no_new_privs = field("NoNewPrivs:")? == "1";
        Some(Self {
            restrictions: Restrictions { no_new_privs, no_capability: set("CapBnd:")? == 0 },
            has_net_admin: set("CapPrm:")? & Self::NET_ADMIN != 0,
        })
    }
}

/// Where a process comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProcessOrigin {
    pid: u32,
    name: String,
    /// The process, its parent, the parent of that and so on up to the first process; empty if it is not
    /// shown (`hidepid`).
    line: Vec<Ancestor>,
    privileges: Privileges,
    /// Whether the users of its user namespace are those of this process's.
    has_own_users: bool,
    /// Whether it is in the cgroup of this process, or in one below it.
    is_in_own_cgroup: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ancestor {
    pid: u32,
    session: u32,
}

impl ProcessOrigin {
    /// Parents of parents, at most: a chain that is longer is one that changes while it is followed.
    const DEPTH: usize = 64;

    /// Reads where a process comes from; `None` if it has ended.
    ///
    /// # Errors
    /// `/proc` cannot be read or not understood.
    pub(crate) fn of(process: &PidFd) -> Result<Option<Self>, ProcessError> {
        let pid = process.pid();
        let mut line = Vec::new();
        let mut next = pid;
        while next != 0
            && line.len() < Self::DEPTH
            && let Some(found) = Stat::read(next)?
        {
            line.push(Ancestor { pid: found.pid, session: found.session });
            next = found.parent;
        }
        let privileges = Privileges::of(pid)?.unwrap_or_default();
        // A link of `/proc/PID/ns` cannot be read of a process that may do more than this one.
        let has_own_users = read(pid, "uid_map")? == read(std::process::id(), "uid_map")?;
        let name = read(pid, "comm")?.unwrap_or_default();
        let name = String::from_utf8_lossy(&name).trim_end().to_owned();
        let is_in_own_cgroup = match (own_cgroup()?, cgroup_of(pid)?) {
            (Some(ours), Some(its)) => its.starts_with(ours),
            // There are no cgroups of version 2, or its own cannot be seen from here.
            _ => false,
        };
        // What was read is of another process if this one ended before.
        Ok((!process.has_exited()?).then_some(Self {
            pid,
            name,
            line,
            privileges,
            has_own_users,
            is_in_own_cgroup,
        }))
    }

    /// The name of its program, at most 15 bytes (`/proc/PID/comm`), which it can change.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The sessions of the process, of its parent, and so on.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = u32> {
        self.line.iter().map(|ancestor| ancestor.session)
    }

    /// Whether it comes from a process that this one has started in a session of its own, as it starts
    /// workers, or from this process itself or what that has started in its own session. `None` if it does not
    /// come from this process.
    pub(crate) fn below_this_process(&self) -> Option<Below> {
        let this = std::process::id();
        let index = self.line.iter().position(|ancestor| ancestor.pid == this)?;
        let own_session = self.line[index].session;
        // The first process of a pid namespace becomes the parent of whatever is orphaned, also of what came
        // from elsewhere (`docker exec`).
        let is_started = index
            .checked_sub(1)
            .is_none_or(|child| self.line[child].session == own_session || !adopts_orphans());
        Some(if is_started { Below::Own } else { Below::OtherSession })
    }

    /// Whether it is restricted as workers are, and this process was not when it began with these
    /// restrictions, and in its cgroup: so it comes from a worker, whatever it has done to its session. Another
    /// master is restricted as well, but may change rules, which no worker may.
    pub(crate) fn is_restricted_as_workers(&self, began: Restrictions) -> bool {
        let may_rule = self.privileges.has_net_admin && self.has_own_users;
        self.is_in_own_cgroup && !may_rule && self.privileges.restrictions.is_as_workers(began)
    }
}

/// How a process comes from this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    /// It is this process, or was started by it in its own session.
    Own,
    /// It is in a session other than that of this process.
    OtherSession,
}

fn own_cgroup() -> Result<Option<PathBuf>, ProcessError> {
    cgroup_of(std::process::id())
}

fn cgroup_of(pid: u32) -> Result<Option<PathBuf>, ProcessError> {
    let text = read(pid, "cgroup")?.unwrap_or_default();
    Ok(cgroup_path(&text).flatten())
}

/// A file of a process; `None` if there is none, any more.
fn read(pid: u32, file: &'static str) -> Result<Option<Vec<u8>>, ProcessError> {
    match fs::read(format!("/proc/{pid}/{file}")) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match errno_of(&error) {
            Errno::ENOENT | Errno::ESRCH => Ok(None),
            errno => Err(failed(pid, ProcessOperation::Read(file), errno)),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn restrictions_are_read_of_a_status_file() {
        let parsed = |privs, set, permitted| {
            Privileges::parse(&format!(
                "Name:\tx\nCapPrm:\t{permitted}\nCapBnd:\t{set}\nNoNewPrivs:\t{privs}\n"
            ))
        };
        let of = |privs, set| parsed(privs, set, "0").map(|it| it.restrictions);
        let expected =
            |no_new_privs, no_capability| Some(Restrictions { no_new_privs, no_capability });
        let has_net_admin = |permitted| parsed("1", "0", permitted).unwrap().has_net_admin;
        assert!(has_net_admin("00000000000010e1") && !has_net_admin("00000000000000e1"));
        assert_eq!(of("0", "000001ffffffffff"), expected(false, false));
        assert_eq!(of("1", "0000000000000000"), expected(true, true));
        assert_eq!(of("1", "0000000000001000"), expected(true, false));
        assert_eq!(of("1", "x"), None);
        assert_eq!(Privileges::parse(""), None);
        assert!(Restrictions::own().is_ok());
    }

    #[test]
    fn what_a_process_began_with_is_no_mark_of_workers() {
        let with = |no_new_privs, no_capability| Restrictions { no_new_privs, no_capability };
        let marked = |its, began| {
            let origin = ProcessOrigin {
                privileges: Privileges { restrictions: its, has_net_admin: false },
                is_in_own_cgroup: true,
                ..ProcessOrigin::default()
            };
            let privileges = Privileges { restrictions: its, has_net_admin: true };
            let master = ProcessOrigin { privileges, has_own_users: true, ..origin.clone() };
            assert!(!master.is_restricted_as_workers(began));
            // With capabilities in a user namespace of its own.
            let elsewhere = ProcessOrigin { has_own_users: false, ..master };
            assert_eq!(
                elsewhere.is_restricted_as_workers(began),
                origin.is_restricted_as_workers(began)
            );
            let elsewhere = ProcessOrigin { is_in_own_cgroup: false, ..origin.clone() };
            assert!(!elsewhere.is_restricted_as_workers(began));
            origin.is_restricted_as_workers(began)
        };
        assert!(marked(with(true, true), with(false, false)));
        assert!(marked(with(true, false), with(false, false)));
        // A unit with NoNewPrivileges=yes, whose ExecReload= is begun as its master was.
        assert!(!marked(with(true, false), with(true, false)));
        assert!(marked(with(true, true), with(true, false)));
        assert!(!marked(with(false, true), with(false, false)));
        assert!(!marked(with(true, true), with(true, true)));
        assert!(!marked(with(false, false), with(false, false)));
    }

    #[test]
    fn a_process_comes_from_those_that_began_it_whatever_session_it_has_made() {
        // `setsid` makes a session of its own for what a shell begins in another one.
        let mut child =
            Command::new("setsid").args(["sh", "-c", "setsid sleep 60 & wait"]).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let began = Instant::now();
        let grandchild = loop {
            let text = fs::read_to_string(&children).unwrap_or_default();
            let pid = text.split_whitespace().next().and_then(|pid| pid.parse::<u32>().ok());
            let has_own_session = |pid: &u32| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let stat = Stat::read(*pid).ok().flatten();
                comm.trim_end() == "sleep" && stat.is_some_and(|stat| stat.session == *pid)
            };
            if let Some(pid) = pid.filter(has_own_session) {
                break pid;
            }
            assert!(began.elapsed().as_secs() < 20, "no grandchild");
            std::thread::yield_now();
        };
        let pidfd = PidFd::open(grandchild).unwrap();
        let origin = ProcessOrigin::of(&pidfd).unwrap().unwrap();
        let sessions: Vec<u32> = origin.sessions().collect();
        assert_eq!(sessions[..2], [grandchild, child.id()]);
        assert_eq!(origin.name(), "sleep");
        // This process adopts no orphans: its children are what it started.
        assert_eq!(origin.below_this_process(), Some(Below::Own));
        pidfd.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        child.wait().unwrap();
        assert_eq!(ProcessOrigin::of(&pidfd).unwrap(), None);
    }

    #[test]
    fn an_orphan_that_came_to_this_process_is_not_what_it_has_started() {
        let this = Ancestor { pid: std::process::id(), session: 7 };
        let below = |child| {
            let line = vec![child, this, Ancestor { pid: 1, session: 1 }];
            ProcessOrigin { line, ..ProcessOrigin::default() }.below_this_process()
        };
        assert_eq!(below(Ancestor { pid: 9, session: 7 }), Some(Below::Own));
        let expected = if adopts_orphans() { Below::OtherSession } else { Below::Own };
        assert_eq!(below(Ancestor { pid: 9, session: 9 }), Some(expected));
        let stranger = vec![Ancestor { pid: 1, session: 1 }];
        let stranger = ProcessOrigin { line: stranger, ..ProcessOrigin::default() };
        assert_eq!(stranger.below_this_process(), None);
    }
}
