//! What the master says to a worker by its environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::WorkerError;
use super::notify::Notifier;
use crate::plan::{ClusterName, Generation, MAX_SEATS, Port, Seat};

/// This process as a worker: what its master says of it in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    name: ClusterName,
    generation: Generation,
    seat: Seat,
    workers: u16,
    port: Port,
    ports: BTreeMap<Port, Port>,
    socket: Option<PathBuf>,
    pub(super) notify: Option<Notifier>,
}

impl Worker {
    /// Reads the variables that the master sets: `PORT`, `IPCLUSTER_PORT_<public>`,
    /// `IPCLUSTER_SEAT`, `IPCLUSTER_WORKERS`, `IPCLUSTER_GENERATION`, `IPCLUSTER_NAME`; and, where
    /// the master has a control directory, `IPCLUSTER_SOCKET` and `NOTIFY_SOCKET`.
    ///
    /// # Errors
    /// [`WorkerError::NotUnderIpcluster`]: no master has started this process, or it runs on another
    /// system than Linux. [`WorkerError::Missing`] and [`WorkerError::Invalid`]: only a part of the
    /// variables is there, or one makes no sense.
    pub fn from_env() -> Result<Self, WorkerError> {
        match cfg!(target_os = "linux") {
            true => Self::from_variables(std::env::vars_os()),
            false => Err(WorkerError::NotUnderIpcluster),
        }
    }

    /// As [`Self::from_env`], from variables that the caller has.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, WorkerError> {
        let variables = Variables::new(variables);
        if variables.names_no_worker() {
            return Err(WorkerError::NotUnderIpcluster);
        }
        let workers = variables.number("IPCLUSTER_WORKERS", "1 to 1024", |n| {
            u16::try_from(n).ok().filter(|workers| (1..=MAX_SEATS).contains(workers))
        })?;
        Ok(Self {
            name: variables.parse("IPCLUSTER_NAME", "the name of a cluster")?,
            generation: Generation(
                variables.number("IPCLUSTER_GENERATION", "1 or more", |n| (n > 0).then_some(n))?,
            ),
            seat: Seat(variables.number("IPCLUSTER_SEAT", "less than IPCLUSTER_WORKERS", |n| {
                u16::try_from(n).ok().filter(|seat| *seat < workers)
            })?),
            workers,
            port: variables.port("PORT")?,
            ports: variables.ports()?,
            socket: variables.0.get("IPCLUSTER_SOCKET").map(PathBuf::from),
            notify: variables.0.get("NOTIFY_SOCKET").and_then(Notifier::new),
        })
    }

    /// The name of the cluster.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The generation that this worker was started for.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The seat that it holds, or is to hold, from 0 on.
    pub fn seat(&self) -> Seat {
        self.seat
    }

    /// How many workers the cluster had when this one was started, 1 to 1024.
    pub fn workers(&self) -> u16 {
        self.workers
    }

    /// The port to listen on for the first listener: see [`Self::listener`].
    pub fn port(&self) -> Port {
        self.port
    }

    /// The port to listen on for each public port: see [`Self::tcp_listener`].
    pub fn ports(&self) -> &BTreeMap<Port, Port> {
        &self.ports
    }

    /// The control socket of the master for workers, which [`Self::join`] connects to; `None` under
    /// a master without a control directory.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }
}

/// The variables that matter here.
struct Variables(BTreeMap<String, OsString>);

impl Variables {
    fn new(all: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let named = |(name, value): (OsString, _)| Some((name.into_string().ok()?, value));
        let is_for_us = |name: &String| {
            name == "PORT" || name == "NOTIFY_SOCKET" || name.starts_with("IPCLUSTER_")
        };
        Self(all.into_iter().filter_map(named).filter(|(name, _)| is_for_us(name)).collect())
    }

    /// Whether nothing says that this is a worker.
    fn names_no_worker(&self) -> bool {
        const IDENTITY: [&str; 4] =
            ["IPCLUSTER_NAME", "IPCLUSTER_SEAT", "IPCLUSTER_GENERATION", "IPCLUSTER_WORKERS"];
        IDENTITY.iter().all(|variable| !self.0.contains_key(*variable))
    }

    fn get(&self, variable: &'static str) -> Result<&OsString, WorkerError> {
        self.0.get(variable).ok_or(WorkerError::Missing { variable })
    }

    fn parse<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &'static str,
    ) -> Result<T, WorkerError> {
        let value = self.get(variable)?;
        let parsed = value.to_str().and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| invalid(variable, value, expected))
    }

    fn number<T>(
        &self,
        variable: &'static str,
        expected: &'static str,
        accept: impl FnOnce(u64) -> Option<T>,
    ) -> Result<T, WorkerError> {
        let value = self.get(variable)?;
        number(value).and_then(accept).ok_or_else(|| invalid(variable, value, expected))
    }

    fn port(&self, variable: &'static str) -> Result<Port, WorkerError> {
        self.number(variable, PORTS, as_port)
    }

    /// `IPCLUSTER_PORT_<public>` of all public ports.
    fn ports(&self) -> Result<BTreeMap<Port, Port>, WorkerError> {
        let all = self
            .0
            .iter()
            .filter_map(|(name, value)| Some((name, name.strip_prefix("IPCLUSTER_PORT_")?, value)));
        let ports = all.map(|(name, public, value)| {
            let pair =
                number(&public.into()).and_then(as_port).zip(number(value).and_then(as_port));
            pair.ok_or_else(|| invalid(name, value, PORTS))
        });
        let ports: BTreeMap<Port, Port> = ports.collect::<Result<_, _>>()?;
        match ports.len() {
            0 => Err(WorkerError::Missing { variable: "IPCLUSTER_PORT_<public port>" }),
            _ => Ok(ports),
        }
    }
}

const PORTS: &str = "ports, 1 to 65535";

/// A number of digits alone, as the master writes it.
pub(super) fn number(value: &OsString) -> Option<u64> {
    let text = value.to_str()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(super) fn as_port(number: u64) -> Option<Port> {
    u16::try_from(number).ok().and_then(Port::new)
}

pub(super) fn invalid(variable: &str, value: &OsString, expected: &'static str) -> WorkerError {
    let value = value.to_string_lossy().chars().take(80).collect();
    WorkerError::Invalid { variable: variable.to_owned(), value, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 8] = [
        ("PORT", "20004"),
        ("IPCLUSTER_PORT_80", "20004"),
        ("IPCLUSTER_PORT_443", "20005"),
        ("IPCLUSTER_SEAT", "2"),
        ("IPCLUSTER_WORKERS", "4"),
        ("IPCLUSTER_GENERATION", "7"),
        ("IPCLUSTER_NAME", "web"),
        ("IPCLUSTER_SOCKET", "/run/ipcluster/web.sock"),
    ];

    /// The worker of the good variables, with one of them replaced or left out.
    fn worker(changed: &str, value: Option<&str>) -> Result<Worker, WorkerError> {
        let others = GOOD.iter().filter(|(name, _)| *name != changed).copied();
        let changed = value.map(|value| (changed, value));
        Worker::from_variables(
            others.chain(changed).map(|(name, value)| (name.into(), value.into())),
        )
    }

    #[test]
    fn the_variables_of_the_master_make_a_worker() {
        let worker = worker("HOME", Some("/root")).unwrap();
        assert_eq!(worker.name().as_str(), "web");
        assert_eq!((worker.seat(), worker.workers()), (Seat(2), 4));
        assert_eq!(worker.generation(), Generation(7));
        assert_eq!(worker.port().number(), 20004);
        let ports = worker.ports().iter().map(|(public, port)| (public.number(), port.number()));
        assert_eq!(ports.collect::<Vec<_>>(), [(80, 20004), (443, 20005)]);
        assert_eq!(worker.socket(), Some(Path::new("/run/ipcluster/web.sock")));
    }

    #[test]
    fn a_master_without_a_control_directory_has_workers_too() {
        assert_eq!(worker("IPCLUSTER_SOCKET", None).unwrap().socket(), None);
    }

    #[test]
    fn a_process_of_nobody_is_no_worker() {
        for variables in [vec![], vec![("PORT", "80"), ("NOTIFY_SOCKET", "@x"), ("HOME", "/")]] {
            let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
            let error = Worker::from_variables(variables).unwrap_err();
            assert!(matches!(error, WorkerError::NotUnderIpcluster), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_missing_is_named() {
        let optional =
            |name: &str| name.starts_with("IPCLUSTER_PORT_") || name == "IPCLUSTER_SOCKET";
        for (name, _) in GOOD.iter().filter(|(name, _)| !optional(name)) {
            let error = worker(name, None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is not set")), "{error}");
        }
        let none = GOOD.iter().filter(|(name, _)| !name.starts_with("IPCLUSTER_PORT_"));
        let none = none.map(|(name, value)| (name.into(), value.into()));
        assert!(matches!(Worker::from_variables(none), Err(WorkerError::Missing { .. })));
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        for (name, value) in [
            ("PORT", "0"),
            ("PORT", "+80"),
            ("PORT", ""),
            ("PORT", "65536"),
            ("IPCLUSTER_PORT_80", "80abc"),
            ("IPCLUSTER_PORT_x", "20006"),
            ("IPCLUSTER_PORT_0", "20006"),
            ("IPCLUSTER_SEAT", "4"),
            ("IPCLUSTER_SEAT", "-1"),
            ("IPCLUSTER_WORKERS", "1025"),
            ("IPCLUSTER_GENERATION", "0"),
            ("IPCLUSTER_NAME", "a/b"),
        ] {
            let error = worker(name, Some(value)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is {value:?}: expected ")), "{error}");
        }
    }
}
