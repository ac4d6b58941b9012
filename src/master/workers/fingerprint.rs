//! What a worker carries to say with which configuration it was started: `IPCLUSTER_CONFIG` in its
//! environment, and the label of the file that it prints to. Pure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;

use crate::config::Config;
use crate::plan::{ClusterName, Generation, Seat};

/// Digests of the configuration that a worker was started with, so that the next master knows whether it
/// would start the same worker. Neither a secret nor a proof of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConfigFingerprint {
    /// Digest of what workers run: the command, the directory that it runs in, the user and the group,
    /// and the variables that `env` names. Other variables, such as `TERM`, differ from one login to the
    /// next and do not count.
    pub(crate) command: u64,
    /// Digest of the number of workers and their weights.
    pub(crate) shares: u64,
}

impl ConfigFingerprint {
    /// The fingerprint of a worker that does not say with which configuration it was started.
    pub(crate) const UNKNOWN: Self = Self { command: 0, shares: 0 };

    /// The fingerprint of workers that are started with this configuration, in this directory;
    /// `variables` are those that workers get.
    pub(crate) fn of(
        config: &Config,
        directory: &Path,
        variables: &BTreeMap<OsString, OsString>,
    ) -> Self {
        let mut command = Digest::default();
        command.add(config.command().program().as_bytes());
        for argument in config.command().arguments() {
            command.add(argument.as_bytes());
        }
        command.add(directory.as_os_str().as_bytes());
        for account in [config.user(), config.group()] {
            command.add(account.unwrap_or_default().as_bytes());
        }
        for (name, value) in variables.iter().filter(|(name, _)| config.env().names(name)) {
            command.add(name.as_bytes());
            command.add(value.as_bytes());
        }
        // This text is part of the format: in another release it must be the same (see the tests).
        let mut shares = Digest::default();
        shares.add(format!("{:?}", config.weights()).as_bytes());
        Self { command: command.0, shares: shares.0 }
    }
}

impl fmt::Display for ConfigFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.command, self.shares)
    }
}

/// Text that is no [`ConfigFingerprint`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidFingerprint;

impl FromStr for ConfigFingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let number = |text: &str| match text.len() {
            16 => u64::from_str_radix(text, 16).map_err(|_| InvalidFingerprint),
            _ => Err(InvalidFingerprint),
        };
        let (command, shares) = text.split_once('-').ok_or(InvalidFingerprint)?;
        Ok(Self { command: number(command)?, shares: number(shares)? })
    }
}

/// FNV-1a, 64 bits: the same in every release.
#[derive(Clone, Copy)]
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds a text, and where it ends.
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The label of the file that a worker prints to. A program may overwrite its environment
/// (`setproctitle(3)`), but not the name of that file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorkerLabel {
    pub(crate) name: ClusterName,
    pub(crate) generation: Generation,
    pub(crate) seat: Seat,
    pub(crate) fingerprint: ConfigFingerprint,
}

impl fmt::Display for WorkerLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, generation, seat, fingerprint } = self;
        write!(f, "{name}/{generation}/{seat}/{fingerprint}")
    }
}

impl FromStr for WorkerLabel {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(InvalidFingerprint);
        let label = Self {
            name: next()?.parse().map_err(|_| InvalidFingerprint)?,
            generation: Generation(next()?.parse().map_err(|_| InvalidFingerprint)?),
            seat: Seat(next()?.parse().map_err(|_| InvalidFingerprint)?),
            fingerprint: next()?.parse()?,
        };
        parts.next().is_none().then_some(label).ok_or(InvalidFingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, WorkerCommand};

    fn config(command: &[&str], env: &[&str], workers: u16) -> Config {
        let environment =
            env.iter().try_fold(Environment::default(), |env, entry| match entry.split_once('=') {
                Some((name, value)) => env.set(name, value),
                None => env.pass(entry),
            });
        let builder = Config::builder()
            .listen(vec!["0.0.0.0:80".parse().unwrap()])
            .command(WorkerCommand::new(command[0]).args(command[1..].iter().copied()))
            .env(environment.unwrap())
            .workers(workers);
        builder.build().unwrap()
    }

    fn fingerprint(config: &Config, directory: &str, ours: &[(&str, &str)]) -> ConfigFingerprint {
        let ours = ours.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        ConfigFingerprint::of(config, Path::new(directory), &config.env().resolve(ours))
    }

    #[test]
    fn a_fingerprint_changes_with_what_workers_run_and_nothing_else() {
        let before =
            fingerprint(&config(&["a", "b"], &["A*"], 4), "/", &[("AX", "1"), ("TERM", "x")]);
        let same =
            fingerprint(&config(&["a", "b"], &["A*"], 4), "/", &[("AX", "1"), ("TERM", "y")]);
        assert_eq!(same, before);
        for other in [
            fingerprint(&config(&["a", "c"], &["A*"], 4), "/", &[("AX", "1")]),
            fingerprint(&config(&["ab"], &["A*"], 4), "/", &[("AX", "1")]),
            fingerprint(&config(&["a", "b"], &["A*"], 4), "/home", &[("AX", "1")]),
            fingerprint(&config(&["a", "b"], &["A*"], 4), "/", &[("AX", "2")]),
            fingerprint(&config(&["a", "b"], &["A*", "B=1"], 4), "/", &[("AX", "1")]),
        ] {
            assert_ne!(other.command, before.command);
            assert_eq!(other.shares, before.shares);
        }
        let more = fingerprint(&config(&["a", "b"], &["A*"], 5), "/", &[("AX", "1")]);
        assert_eq!(more.command, before.command);
        assert_ne!(more.shares, before.shares);
    }

    /// If it were another one in the next release, an upgrade would restart all workers.
    #[test]
    fn a_fingerprint_is_the_same_in_every_release() {
        let made = fingerprint(&config(&["a", "b"], &["A*"], 4), "/", &[("AX", "1")]);
        assert_eq!(made.to_string(), "1cec9d112cdae839-55743820ef4940c2");
    }

    #[test]
    fn fingerprints_and_labels_are_read_as_they_were_written() {
        let fingerprint = ConfigFingerprint { command: 7, shares: u64::MAX };
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        let (generation, seat) = (Generation(3), Seat(1023));
        let label = WorkerLabel { name: "web".parse().unwrap(), generation, seat, fingerprint };
        assert_eq!(label.to_string().parse(), Ok(label));
        for text in ["", "web", "web/3/1", "web/3/1/7-8", "web/-3/1/0-0", "seat 1", "///"] {
            assert!(text.parse::<WorkerLabel>().is_err(), "{text}");
        }
    }
}
