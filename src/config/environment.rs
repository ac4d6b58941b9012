//! Which environment variables workers get.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use super::value::quote;

/// The part of a worker's environment that the user chooses.
///
/// A worker never gets the whole environment of the master, which may hold secrets. It gets
///
/// 1. those of [`Self::PASSED`] that the master has: what programs need to find programs, a home,
///    a language and a time zone;
/// 2. for each entry `KEY` of `env` the master's value, if it has one, for `PREFIX*` those of
///    all variables that begin so, and for `*` those of all;
/// 3. for each entry `KEY=VALUE` that value;
/// 4. what the master says of the worker (`PORT`, `IPCLUSTER_*`), which no entry can set.
///
/// ```
/// use ipcluster::config::Environment;
///
/// let environment = Environment::default().pass("NODE_*")?.set("TZ", "UTC")?;
/// assert!(environment.set("PORT", "80").is_err());
/// # Ok::<_, ipcluster::config::EnvironmentError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    passed: Vec<String>,
    set: BTreeMap<String, String>,
}

impl Environment {
    /// The variables that every worker gets if the master has them; `*` stands for any end.
    pub const PASSED: [&'static str; 11] = [
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*",
        "TMPDIR",
    ];

    /// The same environment with the master's value of `KEY`, or those of all variables that begin
    /// with `PREFIX` for `PREFIX*`.
    ///
    /// # Errors
    /// [`EnvironmentError`] for a name that is empty, given twice, or set by ipcluster itself.
    pub fn pass(mut self, name: &str) -> Result<Self, EnvironmentError> {
        self.check(name)?;
        self.passed.push(name.to_owned());
        Ok(self)
    }

    /// The same environment with this variable.
    ///
    /// # Errors
    /// Those of [`Self::pass`]; for a value that contains a NUL.
    pub fn set(mut self, name: &str, value: &str) -> Result<Self, EnvironmentError> {
        if value.contains('\0') {
            return Err(EnvironmentError::new(
                name,
                "contains a NUL, which no environment can hold",
            ));
        }
        self.check(name)?;
        self.set.insert(name.to_owned(), value.to_owned());
        Ok(self)
    }

    /// The same environment with an entry as a file and a flag have it: `KEY`, `PREFIX*` or
    /// `KEY=VALUE`.
    ///
    /// # Errors
    /// Those of [`Self::pass`] and [`Self::set`].
    pub(super) fn with(self, entry: &str) -> Result<Self, EnvironmentError> {
        match entry.split_once('=') {
            Some((name, value)) => self.set(name, value),
            None => self.pass(entry),
        }
    }

    /// The variables that entries give a value, with it, in the order of their names.
    pub(super) fn values(&self) -> impl Iterator<Item = (&String, &String)> {
        self.set.iter()
    }

    /// The entries that pass a variable of the master on.
    pub(super) fn passed(&self) -> &[String] {
        &self.passed
    }

    fn check(&self, name: &str) -> Result<(), EnvironmentError> {
        let refused = |reason| Err(EnvironmentError::new(name, reason));
        if name.contains('\0') {
            return refused("contains a NUL, which no environment can hold");
        }
        if name.contains('=') || name != "*" && name.trim_end_matches('*').is_empty() {
            return refused("expected KEY, PREFIX* or KEY=VALUE");
        }
        if is_ours(name) {
            return refused("is set by ipcluster for each worker; choose another name");
        }
        if self.set.contains_key(name) || self.passed.iter().any(|passed| passed == name) {
            return refused("is given twice");
        }
        Ok(())
    }

    /// The variables, given those of the master. In the order of their names.
    pub fn resolve(
        &self,
        ours: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<OsString, OsString> {
        let patterns = || Self::PASSED.into_iter().chain(self.passed.iter().map(String::as_str));
        let is_passed = |name: &OsString| patterns().any(|pattern| matches(pattern, name));
        let is_free = |name: &OsString| name.to_str().is_none_or(|name| !is_ours(name));
        let passed = ours.into_iter().filter(|(name, _)| is_passed(name) && is_free(name));
        let set = self.set.iter().map(|(name, value)| (name.into(), value.into()));
        passed.chain(set).collect()
    }

    /// Whether an entry names this variable, so that the user wants workers to have it, or its
    /// value. `*` names those alone that workers would not get without it, and that are not of one login
    /// or one start.
    pub fn names(&self, name: &OsString) -> bool {
        let is_set = name.to_str().is_some_and(|name| self.set.contains_key(name));
        let is_named = |pattern: &String| match pattern.as_str() {
            "*" => {
                let is_always = Self::PASSED.into_iter().any(|pattern| matches(pattern, name));
                !is_always && !is_of_a_session(name)
            }
            pattern => matches(pattern, name),
        };
        is_set || self.passed.iter().any(is_named)
    }

    /// The names of those variables that workers do not get, and may miss: not what every login has.
    pub(crate) fn not_passed<'a>(
        &self,
        ours: impl IntoIterator<Item = &'a OsString>,
    ) -> Vec<&'a OsString> {
        let is_passed = |name: &OsString| {
            Self::PASSED.into_iter().any(|pattern| matches(pattern, name)) || self.names(name)
        };
        let is_ours = |name: &OsString| name.to_str().is_some_and(is_ours);
        let missed =
            |name: &&OsString| !is_passed(name) && !is_ours(name) && !is_of_a_session(name);
        let mut names: Vec<&OsString> = ours.into_iter().filter(missed).collect();
        names.sort();
        names
    }
}

/// Variables that shells, terminals, sudo, ssh and service managers set for whatever they start; no program
/// that serves is configured by them.
const OF_A_SESSION: [&str; 34] = [
    "_",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "PS1",
    "PS2",
    "PS4",
    "LS_COLORS",
    "LESS*",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "MAIL",
    "HOSTNAME",
    "COLUMNS",
    "LINES",
    "COLORTERM",
    "TERM_*",
    "DISPLAY",
    "XAUTHORITY",
    "WAYLAND_*",
    "XDG_*",
    "DBUS_*",
    "SSH_*",
    "SUDO_*",
    "GPG_*",
    "TMUX*",
    "VTE_VERSION",
    "WINDOWID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_*",
    "MANAGERPID*",
    "MEMORY_PRESSURE_*",
];

fn is_of_a_session(name: &OsString) -> bool {
    OF_A_SESSION.into_iter().any(|pattern| matches(pattern, name))
}

/// Whether ipcluster itself gives workers this variable, so that no file may.
pub(crate) fn is_reserved(name: &str) -> bool {
    is_ours(name)
}

/// Why a variable cannot be one of a worker's.
// Not its value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {reason}", quote(name))]
pub struct EnvironmentError {
    name: String,
    reason: &'static str,
}

impl EnvironmentError {
    fn new(name: &str, reason: &'static str) -> Self {
        Self { name: name.to_owned(), reason }
    }
}

fn matches(pattern: &str, name: &OsString) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.as_bytes().starts_with(prefix.as_bytes()),
        None => name == pattern,
    }
}

/// Whether the master itself says this to workers, now or in a later version.
fn is_ours(name: &str) -> bool {
    matches!(name, "PORT" | "NOTIFY_SOCKET" | "WATCHDOG_USEC" | "WATCHDOG_PID")
        || ["IPCLUSTER_", "LISTEN_"].iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(entries: &[&str]) -> Environment {
        let mut environment = Environment::default();
        for entry in entries {
            environment = environment.with(entry).unwrap();
        }
        environment
    }

    fn resolved(entries: &[&str]) -> Vec<String> {
        let ours = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("SECRET", "x"),
            ("NODE_ENV", "production"),
            ("NODE_OPTIONS", "-y"),
            ("IPCLUSTER_SEAT", "7"),
        ];
        let ours = ours.map(|(name, value)| (name.into(), value.into()));
        let variables = environment(entries).resolve(ours);
        let text = |(name, value): (OsString, OsString)| {
            format!("{}={}", name.to_str().unwrap(), value.to_str().unwrap())
        };
        variables.into_iter().map(text).collect()
    }

    #[test]
    fn workers_get_what_is_chosen_and_no_more() {
        assert_eq!(resolved(&[]), ["LC_ALL=C", "PATH=/bin"]);
        assert_eq!(
            resolved(&["NODE_*", "MISSING", "A=b=c", "EMPTY=", "PATH=/x", "I*"]),
            ["A=b=c", "EMPTY=", "LC_ALL=C", "NODE_ENV=production", "NODE_OPTIONS=-y", "PATH=/x"]
        );
    }

    #[test]
    fn a_star_passes_all_and_what_is_not_passed_can_be_named() {
        let expected =
            ["LC_ALL=C", "NODE_ENV=production", "NODE_OPTIONS=-y", "PATH=/bin", "SECRET=x"];
        assert_eq!(resolved(&["*"]), expected);
        let ours: Vec<OsString> = [
            "NODE_ENV",
            "SHLVL",
            "PATH",
            "SSH_TTY",
            "DATABASE_URL",
            "LISTEN_FDS",
            "_",
            "INVOCATION_ID",
        ]
        .map(OsString::from)
        .into();
        assert_eq!(environment(&[]).not_passed(&ours), ["DATABASE_URL", "NODE_ENV"]);
        assert_eq!(environment(&["NODE_*"]).not_passed(&ours), ["DATABASE_URL"]);
        assert_eq!(environment(&["*"]).not_passed(&ours), Vec::<&str>::new());
        assert!(!environment(&["*"]).names(&"INVOCATION_ID".into()));
        assert!(!environment(&["*"]).names(&"TERM".into()));
        assert!(environment(&["*"]).names(&"NODE_ENV".into()));
    }

    #[test]
    fn entries_that_cannot_be_are_refused() {
        for entry in ["", "=x", "**", "A\0=b", "PORT=1", "IPCLUSTER_SEAT", "LISTEN_FDS=3"] {
            assert!(Environment::default().with(entry).is_err(), "{entry:?}");
        }
        let twice = |first, entry| environment(&[first]).with(entry).unwrap_err().reason;
        assert_eq!(twice("A=1", "A"), "is given twice");
        assert_eq!(twice("A", "A=1"), "is given twice");
    }
}
