//! `ipcluster status`

use ipcluster::control::{Answer, Command, ControlDir, Status};

use super::args::StatusArgs;
use super::{Failed, ask, output};

pub(super) fn run(directory: &ControlDir, args: StatusArgs) -> Result<(), Failed> {
    match ask::ask(directory, args.cluster.name.as_ref(), Command::Status)? {
        Answer::Status(status) if args.json => output::answer(&json(&status)?),
        Answer::Status(status) => output::answer(&status.table()),
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
                "listeners": ["0.0.0.0:80/tcp", "[::]:443/tcp"], "partition": "hash", "slots": 1024,
                "conntrack": {"entries": 900, "limit": 1000},
                "workers": [
                    {"seat": 1, "slots": 0, "pid": null, "state": "starting", "generation": 3,
                     "ports": {"80": 20006, "443": 20007}, "uptime": 0, "connections": null},
                    {"seat": 0, "slots": 0, "pid": 999, "state": "retired", "generation": 2,
                     "ports": {"80": 20000, "443": 20001}, "uptime": 90061.7, "connections": 1},
                    {"seat": 0, "slots": 512, "pid": 4242, "state": "live", "generation": 3,
                     "ports": {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6}, "uptime": 73.5,
                     "connections": 120, "queued": 3, "half_open": 1, "connections_total": 48151}
                ]
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
