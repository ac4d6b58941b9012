//! `ipcluster status`

use crate::control::ControlDir;

use super::args::StatusArgs;
use super::{Failed, ask, output};
use crate::protocol::{Outcome, Request, Status};

pub(super) fn run(directory: &ControlDir, args: StatusArgs) -> Result<(), Failed> {
    match ask::ask(directory, args.cluster.name.as_ref(), Request::Status)? {
        Outcome::Status(status) if args.json => output::answer(&json(&status)?),
        Outcome::Status(status) => output::answer(&status.table()),
        _ => Err(ask::mismatch("status")),
    }
}

/// The status as JSON, for people too: indented, and with an end of line.
fn json(status: &Status) -> Result<String, Failed> {
    let text = serde_json::to_string_pretty(status);
    text.map(|text| text + "\n").map_err(|error| Failed::new(format!("status as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status as it comes over the socket.
    fn status() -> Status {
        serde_json::from_str(
            r#"{
                "schema": 1, "name": "web", "pid": 4100, "generation": 3,
                "listeners": ["0.0.0.0:80/tcp"], "partition": "hash", "slots": 1024, "workers": []
            }"#,
        )
        .unwrap()
    }

    #[test]
    fn the_json_is_that_of_the_socket() {
        let text = json(&status()).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status());
        assert!(text.starts_with("{\n  \"schema\": 1,\n  \"name\": \"web\",\n"));
        assert!(text.ends_with("}\n"));
    }
}
