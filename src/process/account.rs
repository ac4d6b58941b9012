use std::ffi::OsString;
use std::fs;

use nix::unistd::{Group, User, getgrouplist};
use rustix::process::{getegid, geteuid};
use rustix::thread::{Gid, Uid};

use super::capabilities::Capabilities;
use super::error::{AccountFault, ProcessError};
use crate::netlink::Errno;
use crate::sys::Ids;

/// Whom workers run as: a user, a group and supplementary groups. Looked up once, since after a
/// fork nothing can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    login: Option<Login>,
}

/// What the user database says of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Login {
    name: OsString,
    home: OsString,
    shell: OsString,
}

impl Account {
    /// Looks up a user and a group, each by name or number; `None` if both are.
    ///
    /// A user without a group has the groups that it would have after logging in. With a group,
    /// that is its primary one, and those that the system lists for the user are supplementary. A
    /// group alone goes with the user of this process, and no supplementary groups.
    ///
    /// # Errors
    /// [`ProcessError::Account`] names the key at fault.
    pub(crate) fn look_up(
        user: Option<&str>,
        group: Option<&str>,
    ) -> Result<Option<Self>, ProcessError> {
        let gid = group.map(|group| group_number("group", group)).transpose()?;
        let Some(user) = user else {
            let uid = geteuid().as_raw();
            return Ok(gid.map(|gid| Self { uid, gid, groups: vec![gid], login: None }));
        };
        let (uid, entry) = find_user(user)?;
        let fault = |fault| account_error("user", user, fault);
        let Some(entry) = entry else {
            let gid = gid.ok_or(fault(AccountFault::NoGroup))?;
            return Ok(Some(Self { uid, gid, groups: vec![gid], login: None }));
        };
        let gid = gid.unwrap_or(entry.gid.as_raw());
        let name = std::ffi::CString::new(entry.name.as_str())
            .map_err(|_| fault(AccountFault::Unknown))?;
        let groups = getgrouplist(&name, nix::unistd::Gid::from_raw(gid))
            .map_err(|errno| fault(AccountFault::Lookup(Errno::of(errno))))?;
        Ok(Some(Self {
            uid,
            gid,
            groups: groups.iter().map(|group| group.as_raw()).collect(),
            login: Some(Login {
                name: entry.name.into(),
                home: entry.dir.into_os_string(),
                shell: entry.shell.into_os_string(),
            }),
        }))
    }

    /// The user's number.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// The number of its primary group.
    pub(crate) fn gid(&self) -> u32 {
        self.gid
    }

    /// The numbers of all its groups, the primary one among them.
    pub(super) fn all_groups(&self) -> Vec<u32> {
        self.groups.iter().copied().chain([self.gid]).collect()
    }

    /// The numbers of all its groups.
    #[cfg(test)]
    fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Whether this process has this user and group already: then there is nothing to change, and
    /// the supplementary groups stay those of this process.
    pub(crate) fn is_ours(&self) -> bool {
        (self.uid, self.gid) == (geteuid().as_raw(), getegid().as_raw())
    }

    /// The names of all variables that say who a process runs as.
    pub(crate) const VARIABLES: [&'static str; 4] = ["USER", "LOGNAME", "HOME", "SHELL"];

    /// `USER`, `LOGNAME`, `HOME` and `SHELL` of the user, as systemd sets them where a unit has
    /// `User=`. None for a user that the system knows by number alone.
    pub(crate) fn variables(&self) -> Vec<(OsString, OsString)> {
        let Some(login) = &self.login else { return Vec::new() };
        let values = [&login.name, &login.name, &login.home, &login.shell];
        Self::VARIABLES
            .into_iter()
            .zip(values)
            .map(|(name, it)| (name.into(), it.clone()))
            .collect()
    }

    /// Checks that this process may start others as this account: that its user namespace has the
    /// user and the groups, and that it has the capabilities.
    ///
    /// # Errors
    /// [`ProcessError::Account`] names the key at fault.
    pub(crate) fn check(&self) -> Result<(), ProcessError> {
        if self.is_ours() {
            return Ok(());
        }
        let fault = |key, number: u32, fault| account_error(key, &number.to_string(), fault);
        if !is_mapped("/proc/self/uid_map", self.uid) {
            return Err(fault("user", self.uid, AccountFault::NotMapped));
        }
        let groups = self.groups.iter().chain([&self.gid]);
        for gid in groups {
            if !is_mapped("/proc/self/gid_map", *gid) {
                return Err(fault("group", *gid, AccountFault::NotMapped));
            }
        }
        let held = Capabilities::effective()?;
        if let Some(missing) = held.first_missing(Capabilities::OTHER_USERS) {
            return Err(fault("user", self.uid, AccountFault::NeedsCapability(missing)));
        }
        let denied = fs::read_to_string("/proc/self/setgroups");
        match denied.is_ok_and(|text| text.trim() == "deny") {
            true => Err(fault("group", self.gid, AccountFault::GroupsDenied)),
            false => Ok(()),
        }
    }

    /// What a child has to become, if it is not that already.
    pub(super) fn to_become(&self) -> Option<Ids> {
        (!self.is_ours()).then(|| Ids {
            uid: Uid::from_raw(self.uid),
            gid: Gid::from_raw(self.gid),
            groups: self.groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
        })
    }
}

fn find_user(text: &str) -> Result<(u32, Option<User>), ProcessError> {
    let fault = |fault| account_error("user", text, fault);
    let lookup = |errno| fault(AccountFault::Lookup(Errno::of(errno)));
    match number(text).map_err(fault)? {
        // A number means that number, whatever else is called so.
        Some(uid) => Ok((uid, User::from_uid(nix::unistd::Uid::from_raw(uid)).map_err(lookup)?)),
        None => {
            let user = User::from_name(text).map_err(lookup)?;
            let user = user.ok_or(fault(AccountFault::Unknown))?;
            Ok((user.uid.as_raw(), Some(user)))
        }
    }
}

/// The number of a group that the setting `key` names, by its name or number.
///
/// # Errors
/// [`ProcessError::Account`].
pub(crate) fn group_number(key: &'static str, text: &str) -> Result<u32, ProcessError> {
    let fault = |fault| account_error(key, text, fault);
    if let Some(gid) = number(text).map_err(fault)? {
        return Ok(gid);
    }
    let group =
        Group::from_name(text).map_err(|errno| fault(AccountFault::Lookup(Errno::of(errno))))?;
    group.map(|group| group.gid.as_raw()).ok_or(fault(AccountFault::Unknown))
}

/// The number that a text is; `None` if it is a name. The highest one stands for nobody: the
/// kernel takes it for "leave it as it is".
fn number(text: &str) -> Result<Option<u32>, AccountFault> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse() {
        Ok(u32::MAX) | Err(_) => Err(AccountFault::Reserved),
        Ok(number) => Ok(Some(number)),
    }
}

/// Whether a map of a user namespace has this number inside (user_namespaces(7)). Where there are no
/// user namespaces there is no map, and all numbers.
fn is_mapped(map: &str, number: u32) -> bool {
    fs::read_to_string(map).map_or(true, |map| is_in_map(&map, number))
}

fn is_in_map(map: &str, number: u32) -> bool {
    map.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().map(str::parse::<u32>);
        match (fields.next(), fields.nth(1)) {
            (Some(Ok(first)), Some(Ok(count))) => {
                number.checked_sub(first).is_some_and(|offset| offset < count)
            }
            _ => false,
        }
    })
}

fn account_error(key: &'static str, value: &str, fault: AccountFault) -> ProcessError {
    ProcessError::Account { key, value: value.chars().take(80).collect(), fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(user: Option<&str>, group: Option<&str>) -> String {
        Account::look_up(user, group).unwrap_err().to_string()
    }

    #[test]
    fn root_is_known_by_name_and_number() {
        let root = Account::look_up(Some("root"), None).unwrap().unwrap();
        assert_eq!((root.uid(), root.gid()), (0, 0));
        assert!(root.groups().contains(&0));
        assert_eq!(Account::look_up(Some("0"), None).unwrap().unwrap(), root);
        let variables = root.variables();
        let of = |name: &str| variables.iter().find(|(it, _)| it == name).map(|(_, it)| it);
        assert_eq!(of("USER").unwrap(), "root");
        assert_eq!(of("LOGNAME").unwrap(), "root");
        assert!(of("HOME").is_some() && of("SHELL").is_some());
    }

    #[test]
    fn without_either_there_is_nothing_to_look_up() {
        assert_eq!(Account::look_up(None, None).unwrap(), None);
    }

    #[test]
    fn a_group_alone_goes_with_our_own_user() {
        let account = Account::look_up(None, Some("54321")).unwrap().unwrap();
        assert_eq!((account.uid(), account.gid()), (geteuid().as_raw(), 54_321));
        assert_eq!(account.groups(), [54_321]);
        assert!(account.variables().is_empty());
    }

    #[test]
    fn a_number_without_a_name_needs_a_group() {
        assert!(fault(Some("3999999999"), None).contains("give `group` as well"));
        let account = Account::look_up(Some("3999999999"), Some("7")).unwrap().unwrap();
        assert_eq!((account.uid(), account.gid()), (3_999_999_999, 7));
        assert!(account.variables().is_empty());
    }

    #[test]
    fn what_names_nobody_is_refused_by_its_key() {
        assert_eq!(
            fault(Some("no such user"), None),
            "`user`: \"no such user\": no such name: expected a name that `getent` finds, or a number"
        );
        assert!(fault(None, Some("no such group")).starts_with("`group`: \"no such group\":"));
        for number in ["4294967295", "4294967296", "99999999999999999999"] {
            assert!(fault(Some(number), None).contains("expected a number"), "{number}");
        }
        assert!(fault(Some("-1"), None).contains("no such name: expected"));
    }

    #[test]
    fn maps_of_user_namespaces_are_understood() {
        let initial = "         0          0 4294967295\n";
        assert!(is_in_map(initial, 0) && is_in_map(initial, 4_294_967_294));
        let some = "0 1000 1\n1 100000 65536\n";
        assert!(is_in_map(some, 0) && is_in_map(some, 1) && is_in_map(some, 65_536));
        assert!(!is_in_map(some, 65_537));
        for malformed in ["", "x", "0", "0 0", "0 0 x"] {
            assert!(!is_in_map(malformed, 0), "{malformed:?}");
        }
    }

    #[test]
    fn what_we_are_already_needs_nothing() {
        let group = getegid().as_raw().to_string();
        let ours = Account::look_up(Some(&geteuid().as_raw().to_string()), Some(&group));
        let ours = ours.unwrap().unwrap();
        assert!(ours.is_ours() && ours.to_become().is_none());
        ours.check().unwrap();
    }
}
