//! What operators ask of a master.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

use super::LogsRequest;
use crate::plan::{Seat, Share};

/// A request of an operator. In JSON it is an object whose `command` is the [name](Self::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
#[non_exhaustive]
pub(crate) enum Request {
    /// The state of the cluster.
    Status,
    /// The worker that a client reaches, and why it is that one.
    Explain {
        /// The client's address.
        address: IpAddr,
        /// The port that one of its connections comes from.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// A subscription to events, until the master ends.
    Events,
    /// The last lines that workers have printed, and those that they print from now on.
    Logs(LogsRequest),
    /// The configuration in force, and what a reload would change of it.
    Configuration,
    /// Which member of the fleet serves a client.
    FleetExplain {
        /// The client's address.
        address: IpAddr,
    },
    /// This host gives the slots away that it owns in its fleet, and keeps its connections.
    FleetDrain,
    /// Takes that back: the host is to be a member as before.
    FleetJoin,
    /// The end of the [orphans](super::Orphan) of the status.
    EndOrphans,
    /// The handover to the master that asks.
    #[serde(rename = "takeover")]
    Handover {
        /// The version of the handed over state that it knows.
        format: u32,
    },
    /// A change of the cluster, which the supervisor decides.
    #[serde(untagged)]
    Command(CommandRequest),
}

/// A command, and whether its end is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommandRequest {
    /// The command.
    #[serde(flatten)]
    pub(crate) command: Command,
    /// It is answered when what it puts in force is in force, and not when the probation of that is over.
    /// Only for commands that put workers on probation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) no_wait: bool,
}

/// A change of the cluster that an operator can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Command {
    /// A new generation of workers.
    Reload {
        /// The part of the clients that gets it, until [`Self::Promote`] or [`Self::Rollback`];
        /// `None`: all of them.
        #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
        share: Option<Share>,
    },
    /// The generation on trial for all clients.
    Promote,
    /// The end of the generation on trial; or, where there is none, back to the generation before the
    /// last reload.
    Rollback,
    /// A new generation of workers, and then the end of all retired workers, as by
    /// [`Self::ClearRetired`]. Answered when they are gone.
    Restart,
    /// Another worker in the place of this live one, which then retires. Answered when its successor
    /// serves.
    Retire(RetireTarget),
    /// The end of all workers that are retired now, one after the other. Answered when they are gone.
    ClearRetired,
    /// Another number of workers. Those that stay keep their weights.
    Scale {
        /// The number, 1 to [`MAX_SEATS`](crate::plan::MAX_SEATS).
        workers: u16,
    },
    /// So many workers more, or fewer if it is negative, than the cluster is to have.
    ScaleBy {
        /// The difference.
        by: i32,
    },
    /// The end of everything: workers, rules, master.
    Stop {
        /// Do not wait for established connections. Also hurries a stop that is under way.
        #[serde(default)]
        now: bool,
    },
}

/// The live worker that is to be retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RetireTarget {
    /// The one in this seat.
    Seat(Seat),
    /// The one whose first process has this number.
    Pid(u32),
}

impl Request {
    /// The word for it in the protocol and on the command line.
    #[cfg(test)]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Explain { .. } => "explain",
            Self::Events => "events",
            Self::Logs(_) => "logs",
            Self::Configuration => "configuration",
            Self::FleetExplain { .. } => "fleet_explain",
            Self::FleetDrain => "fleet_drain",
            Self::FleetJoin => "fleet_join",
            Self::EndOrphans => "end_orphans",
            Self::Handover { .. } => "takeover",
            Self::Command(request) => request.command.name(),
        }
    }
}

impl Command {
    /// The word for it in the protocol and on the command line.
    #[cfg(test)]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Reload { .. } => "reload",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
            Self::Retire(_) => "retire",
            Self::ClearRetired => "clear-retired",
            Self::Scale { .. } => "scale",
            Self::ScaleBy { .. } => "scale-by",
            Self::Stop { .. } => "stop",
        }
    }
}

impl From<CommandRequest> for Request {
    fn from(request: CommandRequest) -> Self {
        Self::Command(request)
    }
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Self::Command(CommandRequest { command, no_wait: false })
    }
}

impl fmt::Display for RetireTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seat(seat) => write!(f, "seat {seat}"),
            Self::Pid(pid) => write!(f, "pid {pid}"),
        }
    }
}

/// A field that is left out where there is nothing to say, and not null.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(json: &str) -> Result<Request, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn the_json_of_each_request_names_its_command() {
        let address = IpAddr::from([192, 0, 2, 7]);
        let requests = [
            (Request::Status, "status"),
            (Request::Explain { address, port: None }, "explain"),
            (Request::Events, "events"),
            (Request::Logs(LogsRequest { seat: None, lines: 1, follow: false }), "logs"),
            (Request::Configuration, "configuration"),
            (Request::FleetExplain { address }, "fleet_explain"),
            (Request::FleetDrain, "fleet_drain"),
            (Request::FleetJoin, "fleet_join"),
            (Request::EndOrphans, "end_orphans"),
            (Request::Handover { format: 1 }, "takeover"),
            (Command::Reload { share: None }.into(), "reload"),
            (Command::Promote.into(), "promote"),
            (Command::Rollback.into(), "rollback"),
            (Command::Restart.into(), "restart"),
            (Command::Retire(RetireTarget::Seat(Seat(3))).into(), "retire"),
            (Command::ClearRetired.into(), "clear-retired"),
            (Command::Scale { workers: 3 }.into(), "scale"),
            (Command::ScaleBy { by: -1 }.into(), "scale-by"),
            (Command::Stop { now: false }.into(), "stop"),
        ];
        for (request, name) in requests {
            let json = serde_json::to_value(request).unwrap();
            assert_eq!(json["command"], name);
            assert_eq!(request.name(), name);
            assert_eq!(command(&json.to_string()).unwrap(), request);
        }
    }

    #[test]
    fn a_command_is_waited_for_unless_it_says_otherwise() {
        let no_wait = CommandRequest { command: Command::Promote, no_wait: true };
        assert_eq!(
            Request::from(no_wait),
            command(r#"{"command":"promote","no_wait":true}"#).unwrap()
        );
        let waits: Request = Command::Promote.into();
        assert_eq!(waits, command(r#"{"command":"promote"}"#).unwrap());
        assert_ne!(waits, Request::from(no_wait));
    }

    #[test]
    fn a_share_is_left_out_or_given_and_never_null() {
        let share = Some("10%".parse().unwrap());
        let given = command(r#"{"command":"reload","share":"10%"}"#).unwrap();
        assert_eq!(given, Command::Reload { share }.into());
        assert!(command(r#"{"command":"reload","share":null}"#).is_err());
        assert!(command(r#"{"command":"reload","share":"0%"}"#).is_err());
    }

    #[test]
    fn who_is_retired_is_named_by_seat_or_process() {
        assert_eq!(RetireTarget::Seat(Seat(3)).to_string(), "seat 3");
        assert_eq!(RetireTarget::Pid(4242).to_string(), "pid 4242");
    }
}
