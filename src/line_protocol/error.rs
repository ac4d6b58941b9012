use super::MAX_LINE;
use super::text::cut;
use crate::plan::Port;

/// The version of the protocol, the `v` of each request.
pub(crate) const VERSION: u32 = 1;

/// Why a line from a peer is no message. Text of the peer is cut and escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// More than `MAX_LINE` bytes without an end of line.
    #[error("line of more than {MAX_LINE} bytes")]
    TooLong,
    /// A line that is not UTF-8.
    #[error("line is not UTF-8 from byte {offset} on")]
    NotUtf8 {
        /// The first byte at fault, from 0.
        offset: usize,
    },
    /// A line that is not JSON.
    #[error("line is not JSON: {reason}")]
    NotJson {
        /// What the parser says.
        reason: String,
    },
    /// JSON, but no object.
    #[error("expected a JSON object, found {found}")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A request of another version, or none.
    #[error("protocol version {found}: this master speaks version {VERSION}")]
    Version {
        /// The version as given, or "none".
        found: String,
    },
    /// A request without a command.
    #[error("request without a \"command\"")]
    NoCommand,
    /// A command that does not exist.
    #[error(
        "unknown command {name}: expected reload, promote, rollback, restart, retire, clear-retired, status, scale, stop, explain, events or logs"
    )]
    UnknownCommand {
        /// The command as given.
        name: String,
    },
    /// A field that is missing, of the wrong type or out of range.
    #[error("{command}: {field}: expected {expected}")]
    Field {
        /// The command.
        command: &'static str,
        /// The field.
        field: &'static str,
        /// What is allowed.
        expected: &'static str,
    },
    /// A field that the command does not have.
    #[error("{command}: unknown field {field}")]
    UnknownField {
        /// The command.
        command: &'static str,
        /// The field as given.
        field: String,
    },
    /// A message of a worker, or to one, of a kind that there is not.
    #[error("message of kind {found}: expected {expected}")]
    Kind {
        /// The kind as given, or "none".
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// A worker reports ports that it cannot serve the cluster on.
    #[error("portmap: {port} {reason}")]
    Portmap {
        /// The port at fault.
        port: Port,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A message for which it is too early or too late.
    #[error("{message}: not {when}")]
    State {
        /// The kind of the message.
        message: &'static str,
        /// The state of the connection.
        when: &'static str,
    },
    /// A message in the name of another process than the one that sent it.
    #[error("pid: {claimed} is not the process that says so, which is {actual}")]
    OtherProcess {
        /// The pid in the message.
        claimed: u32,
        /// The pid that the kernel says.
        actual: u32,
    },
    /// A reply that is none of the known ones.
    #[error("reply that this version does not know: {reason}")]
    UnknownReply {
        /// What the parser says.
        reason: String,
    },
}

pub(crate) fn wrong(
    command: &'static str,
    field: &'static str,
    expected: &'static str,
) -> MessageError {
    MessageError::Field { command, field, expected }
}

pub(crate) fn not_json(error: serde_json::Error) -> MessageError {
    MessageError::NotJson { reason: cut(&error.to_string(), 200) }
}
