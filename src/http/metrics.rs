//! The state of a cluster as metrics. Pure.

use std::collections::BTreeMap;

use super::exposition::{Exposition, Kind};
use crate::plan::fleet::MemberState;
use crate::protocol::{FindingKind, FindingSeverity, SeatConnections, Status};

/// The metrics of a cluster in the text format of Prometheus, version 0.0.4; see [`crate::http`] for
/// what they mean. The same status gives the same text.
pub(crate) fn metrics(status: &Status) -> String {
    let mut text = Exposition::default();
    text.metric("ipcluster_generation", Kind::Gauge, "The generation in force.")
        .add(&[], status.generation);
    connections_total(&mut text, status);
    worker_connections(&mut text, status);
    worker_memory(&mut text, status);
    restarts(&mut text, status);
    retirements(&mut text, status);
    swaps(&mut text, status);
    text.metric(
        "ipcluster_rules_repaired_total",
        Kind::Counter,
        "Times that this master made the rules anew because others had changed them.",
    )
    .add(&[], status.repairs);
    text.metric(
        "ipcluster_config_last_reload_successful",
        Kind::Gauge,
        "1 if what is configured is in force; 0 if the last reload, or the start, could not put it in force.",
    )
    .add(&[], u8::from(status.configuration.in_force));
    findings(&mut text, status);
    probation(&mut text, status);
    conntrack(&mut text, status);
    fleet(&mut text, status);
    text.finish()
}

fn fleet(text: &mut Exposition, status: &Status) {
    let Some(fleet) = &status.fleet else { return };
    let count = |state: MemberState| fleet.members.iter().filter(|it| it.state == state).count();
    let mut members = text.metric(
        "ipcluster_fleet_members",
        Kind::Gauge,
        "Members of the fleet that this host is a member of, by what they do.",
    );
    for (name, state) in [
        ("joining", MemberState::Joining),
        ("serving", MemberState::Serving),
        ("draining", MemberState::Draining),
        ("lost", MemberState::Lost),
    ] {
        members.add(&[("state", &name)], count(state));
    }
    let own = fleet.own();
    text.metric("ipcluster_fleet_slots", Kind::Gauge, "Slots of the fleet.").add(&[], fleet.slots);
    text.metric("ipcluster_fleet_slots_owned", Kind::Gauge, "Slots that this host owns.")
        .add(&[], own.map_or(0, |own| own.slots));
    text.metric(
        "ipcluster_fleet_slots_former",
        Kind::Gauge,
        "Slots that this host owned before, and for which packets of old connections are passed to it.",
    )
    .add(&[], own.map_or(0, |own| own.former));
    text.metric(
        "ipcluster_fleet_source_current",
        Kind::Gauge,
        "1 if the list of members is known as it is now; 0 if the last one that was read stays in force.",
    )
    .add(&[], u8::from(fleet.source == "current"));
    text.metric(
        "ipcluster_fleet_rules_in_force",
        Kind::Gauge,
        "1 if the rules of this host are those of the list of members.",
    )
    .add(&[], u8::from(fleet.in_force));
    text.metric(
        "ipcluster_fleet_rules_repaired_total",
        Kind::Counter,
        "Times that the rules of the fleet were made anew because others had changed them.",
    )
    .add(&[], fleet.repairs);
}

fn connections_total(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_connections_total",
        Kind::Counter,
        "Connections that the rules have led to a seat while a worker of the generation held it.",
    );
    for SeatConnections { seat, generation, connections } in &status.connections {
        match generation {
            Some(generation) => {
                samples.add(&[("seat", seat), ("generation", generation)], connections);
            }
            None => samples.add(&[("seat", seat), ("generation", &"earlier")], connections),
        }
    }
}

fn worker_connections(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_worker_connections",
        Kind::Gauge,
        "Established connections to the worker ports of a worker process.",
    );
    let counted = status.workers.iter().filter_map(|worker| {
        Some(((worker.seat, worker.pid?), (worker.state, worker.connections?)))
    });
    for ((seat, pid), (state, connections)) in counted.collect::<BTreeMap<_, _>>() {
        samples.add(&[("seat", &seat), ("pid", &pid), ("state", &state)], connections);
    }
}

fn worker_memory(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_worker_rss_bytes",
        Kind::Gauge,
        "Resident memory of a worker, with all processes that it has started.",
    );
    let measured = status.workers.iter().filter_map(|it| Some(((it.seat, it.pid?), it.memory?)));
    for ((seat, pid), memory) in measured.collect::<BTreeMap<_, _>>() {
        samples.add(&[("seat", &seat), ("pid", &pid)], memory);
    }
}

fn restarts(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_worker_restarts_total",
        Kind::Counter,
        "Workers that this master replaced because they were lost, by what had become of them.",
    );
    let restarts = status.restarts;
    for (reason, count) in [
        ("died", restarts.died),
        ("ended", restarts.ended),
        ("exited", restarts.exited),
        ("not_ready", restarts.not_ready),
        ("spawn", restarts.spawn),
        ("unfit", restarts.unfit),
    ] {
        samples.add(&[("reason", &reason)], count);
    }
}

fn retirements(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_worker_retirements_total",
        Kind::Counter,
        "Live workers that this master replaced, or is replacing, by why.",
    );
    let retirements = status.retirements;
    for (cause, count) in [
        ("requested", retirements.requested),
        ("silent", retirements.silent),
        ("asked", retirements.asked),
        ("memory", retirements.memory),
        ("lag", retirements.lag),
        ("connections", retirements.connections),
        ("age", retirements.age),
    ] {
        samples.add(&[("cause", &cause)], count);
    }
    text.metric(
        "ipcluster_seats_given_up",
        Kind::Gauge,
        "Seats that get no worker for now, since they lost too many of late.",
    )
    .add(&[], status.given_up.len());
}

fn swaps(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_swap_seconds",
        Kind::Histogram,
        "Time from a plan until the kernel has acknowledged it, of this master.",
    );
    for (bound, count) in status.swaps.cumulative() {
        samples.add_part("_bucket", &[("le", &bound.as_secs_f64())], count);
    }
    samples.add_part("_bucket", &[("le", &"+Inf")], status.swaps.count);
    samples.add_part("_sum", &[], status.swaps.seconds);
    samples.add_part("_count", &[], status.swaps.count);
}

fn findings(text: &mut Exposition, status: &Status) {
    let mut samples = text.metric(
        "ipcluster_findings",
        Kind::Gauge,
        "What stands in the way of connections on this host, by what it is and how bad it is.",
    );
    let mut counts: BTreeMap<(FindingKind, FindingSeverity), u32> = BTreeMap::new();
    for finding in &status.findings {
        *counts.entry((finding.kind, finding.severity)).or_default() += 1;
    }
    for ((kind, severity), count) in counts {
        samples.add(&[("kind", &kind), ("severity", &severity)], count);
    }
}

fn probation(text: &mut Exposition, status: &Status) {
    text.metric(
        "ipcluster_rollout_on_probation",
        Kind::Gauge,
        "Whether the workers that were put in force last are on probation.",
    )
    .add(&[], u8::from(status.probation.is_some()));
    text.metric(
        "ipcluster_rollout_returns_total",
        Kind::Counter,
        "Times that this master put the workers before in force again, since a probation failed.",
    )
    .add(&[], status.returns);
}

fn conntrack(text: &mut Exposition, status: &Status) {
    let mut entries = text.metric(
        "ipcluster_conntrack_entries",
        Kind::Gauge,
        "Connections of all programs that the kernel tracks in the master's network namespace.",
    );
    if let Some(fill) = status.conntrack {
        entries.add(&[], fill.entries);
    }
    let mut limit = text.metric(
        "ipcluster_conntrack_limit",
        Kind::Gauge,
        "The most connections that the kernel tracks there; beyond it new ones are dropped.",
    );
    match status.conntrack {
        Some(fill) if fill.limit == 0 => limit.add(&[], "+Inf"),
        Some(fill) => limit.add(&[], fill.limit),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::plan::{Generation, Seat};
    use crate::protocol::ConntrackFill;

    fn status() -> Status {
        let mut status: Status = serde_json::from_str(
            r#"{
                "schema": 1, "name": "web", "pid": 4100, "generation": 3,
                "listeners": ["0.0.0.0:80/tcp"], "partition": "hash", "slots": 1024, "repairs": 2,
                "conntrack": {"entries": 900, "limit": 1000},
                "findings": [
                    {"severity": "warning", "kind": "filter_drops", "listener": null, "rule": null, "what": "a", "cure": ""},
                    {"severity": "warning", "kind": "filter_drops", "listener": null, "rule": null, "what": "b", "cure": ""},
                    {"severity": "notice", "kind": "reverse_path", "listener": null, "rule": null, "what": "c", "cure": ""}
                ],
                "restarts": {"died": 4}, "retirements": {"lag": 3}, "returns": 1, "given_up": [5, 6],
                "workers": [
                    {"seat": 10, "slots": 512, "pid": 77, "state": "live", "generation": 3,
                     "ports": {}, "uptime": 1, "connections": 7, "connections_total": 10},
                    {"seat": 1, "slots": 0, "pid": null, "state": "starting", "generation": 3,
                     "ports": {}, "uptime": 0, "connections": null},
                    {"seat": 2, "slots": 0, "pid": 999, "state": "retired", "generation": 2,
                     "ports": {}, "uptime": 9.5, "connections": 1},
                    {"seat": 2, "slots": 512, "pid": 4242, "state": "live", "generation": 3,
                     "ports": {}, "uptime": 3.5, "connections": 120, "connections_total": 48151,
                     "memory": 73400320},
                    {"seat": 3, "slots": 0, "pid": 5, "state": "dying", "generation": 2,
                     "ports": {}, "uptime": 3.5, "connections": null}
                ]
            }"#,
        )
        .unwrap();
        let counted = |seat, generation, connections| SeatConnections {
            seat: Seat(seat),
            generation,
            connections,
        };
        status.connections = vec![
            counted(2, None, 48_000),
            counted(2, Some(Generation(2)), 150),
            counted(2, Some(Generation(3)), 1),
            counted(10, Some(Generation(3)), 10),
        ];
        status.swaps.observe(Duration::from_micros(200));
        status.swaps.observe(Duration::from_secs(3));
        status
    }

    #[test]
    fn the_text_is_as_promised() {
        let expected = r#"# HELP ipcluster_generation The generation in force.
# TYPE ipcluster_generation gauge
ipcluster_generation 3
# HELP ipcluster_connections_total Connections that the rules have led to a seat while a worker of the generation held it.
# TYPE ipcluster_connections_total counter
ipcluster_connections_total{seat="2",generation="earlier"} 48000
ipcluster_connections_total{seat="2",generation="2"} 150
ipcluster_connections_total{seat="2",generation="3"} 1
ipcluster_connections_total{seat="10",generation="3"} 10
# HELP ipcluster_worker_connections Established connections to the worker ports of a worker process.
# TYPE ipcluster_worker_connections gauge
ipcluster_worker_connections{seat="2",pid="999",state="retired"} 1
ipcluster_worker_connections{seat="2",pid="4242",state="live"} 120
ipcluster_worker_connections{seat="10",pid="77",state="live"} 7
# HELP ipcluster_worker_rss_bytes Resident memory of a worker, with all processes that it has started.
# TYPE ipcluster_worker_rss_bytes gauge
ipcluster_worker_rss_bytes{seat="2",pid="4242"} 73400320
# HELP ipcluster_worker_restarts_total Workers that this master replaced because they were lost, by what had become of them.
# TYPE ipcluster_worker_restarts_total counter
ipcluster_worker_restarts_total{reason="died"} 4
ipcluster_worker_restarts_total{reason="ended"} 0
ipcluster_worker_restarts_total{reason="exited"} 0
ipcluster_worker_restarts_total{reason="not_ready"} 0
ipcluster_worker_restarts_total{reason="spawn"} 0
ipcluster_worker_restarts_total{reason="unfit"} 0
# HELP ipcluster_worker_retirements_total Live workers that this master replaced, or is replacing, by why.
# TYPE ipcluster_worker_retirements_total counter
ipcluster_worker_retirements_total{cause="requested"} 0
ipcluster_worker_retirements_total{cause="silent"} 0
ipcluster_worker_retirements_total{cause="asked"} 0
ipcluster_worker_retirements_total{cause="memory"} 0
ipcluster_worker_retirements_total{cause="lag"} 3
ipcluster_worker_retirements_total{cause="connections"} 0
ipcluster_worker_retirements_total{cause="age"} 0
# HELP ipcluster_seats_given_up Seats that get no worker for now, since they lost too many of late.
# TYPE ipcluster_seats_given_up gauge
ipcluster_seats_given_up 2
# HELP ipcluster_swap_seconds Time from a plan until the kernel has acknowledged it, of this master.
# TYPE ipcluster_swap_seconds histogram
ipcluster_swap_seconds_bucket{le="0.0001"} 0
ipcluster_swap_seconds_bucket{le="0.00025"} 1
ipcluster_swap_seconds_bucket{le="0.0005"} 1
ipcluster_swap_seconds_bucket{le="0.001"} 1
ipcluster_swap_seconds_bucket{le="0.0025"} 1
ipcluster_swap_seconds_bucket{le="0.005"} 1
ipcluster_swap_seconds_bucket{le="0.01"} 1
ipcluster_swap_seconds_bucket{le="0.025"} 1
ipcluster_swap_seconds_bucket{le="0.05"} 1
ipcluster_swap_seconds_bucket{le="0.1"} 1
ipcluster_swap_seconds_bucket{le="0.25"} 1
ipcluster_swap_seconds_bucket{le="0.5"} 1
ipcluster_swap_seconds_bucket{le="1"} 1
ipcluster_swap_seconds_bucket{le="+Inf"} 2
ipcluster_swap_seconds_sum 3.0002
ipcluster_swap_seconds_count 2
# HELP ipcluster_rules_repaired_total Times that this master made the rules anew because others had changed them.
# TYPE ipcluster_rules_repaired_total counter
ipcluster_rules_repaired_total 2
# HELP ipcluster_config_last_reload_successful 1 if what is configured is in force; 0 if the last reload, or the start, could not put it in force.
# TYPE ipcluster_config_last_reload_successful gauge
ipcluster_config_last_reload_successful 1
# HELP ipcluster_findings What stands in the way of connections on this host, by what it is and how bad it is.
# TYPE ipcluster_findings gauge
ipcluster_findings{kind="filter_drops",severity="warning"} 2
ipcluster_findings{kind="reverse_path",severity="notice"} 1
# HELP ipcluster_rollout_on_probation Whether the workers that were put in force last are on probation.
# TYPE ipcluster_rollout_on_probation gauge
ipcluster_rollout_on_probation 0
# HELP ipcluster_rollout_returns_total Times that this master put the workers before in force again, since a probation failed.
# TYPE ipcluster_rollout_returns_total counter
ipcluster_rollout_returns_total 1
# HELP ipcluster_conntrack_entries Connections of all programs that the kernel tracks in the master's network namespace.
# TYPE ipcluster_conntrack_entries gauge
ipcluster_conntrack_entries 900
# HELP ipcluster_conntrack_limit The most connections that the kernel tracks there; beyond it new ones are dropped.
# TYPE ipcluster_conntrack_limit gauge
ipcluster_conntrack_limit 1000
"#;
        assert_eq!(metrics(&status()), expected);
    }

    #[test]
    fn the_order_of_the_workers_does_not_show() {
        let mut turned = status();
        turned.workers.reverse();
        assert_eq!(metrics(&turned), metrics(&status()));
    }

    #[test]
    fn what_is_not_known_has_no_sample_and_no_limit_is_infinite() {
        let mut status = status();
        status.conntrack = None;
        let text = metrics(&status);
        assert!(!text.contains("\nipcluster_conntrack"), "{text}");
        status.conntrack = Some(ConntrackFill { entries: 5, limit: 0 });
        assert!(metrics(&status).ends_with("\nipcluster_conntrack_limit +Inf\n"));
    }

    #[test]
    fn a_strict_reader_takes_every_status() {
        let full = status();
        for take in 0..=full.workers.len() {
            let mut status = full.clone();
            status.workers.truncate(take);
            // As wrong as can be: the same worker twice.
            status.workers.extend(full.workers.first().cloned());
            status.conntrack = status.conntrack.filter(|_| take % 2 == 0);
            read_strictly(&metrics(&status)).unwrap_or_else(|error| panic!("{error}"));
        }
        for text in [
            "a 1\n",
            "# HELP a b\n# TYPE a gauge\na 1",
            "# HELP a b\n# TYPE a gauge\na NaN\n",
            "# HELP a b\n# TYPE a gauge\na 1\na 2\n",
            "# HELP a b\n# TYPE a gauge\na{x=\"1\",} 1\n",
            "# HELP a b\n# TYPE a gauge\na{x=\"\"\"} 1\n",
            "# HELP a b\n# TYPE a gauge\nb 1\n",
            "# HELP a b\n# TYPE a counter\na 1\n",
            "# HELP a b\n# TYPE a gauge\n# HELP a b\n# TYPE a gauge\n",
            "# HELP a_h b\n# TYPE a_h histogram\na_h_bucket{le=\"1\"} 1\na_h_sum 1\na_h_count 1\n",
        ] {
            assert!(read_strictly(text).is_err(), "{text}");
        }
    }

    /// Reads the text format: HELP, TYPE and samples of each metric together and once, names and
    /// values of the right form, no sample twice, histograms whole and ascending.
    fn read_strictly(text: &str) -> Result<(), String> {
        let text = text.strip_suffix('\n').ok_or("no end of line at the end")?;
        let (mut seen, mut samples) = (BTreeSet::new(), BTreeSet::new());
        let mut metric: Option<(&str, &str)> = None;
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let fault = |what: &str| format!("{what}: {line}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, _) = rest.split_once(' ').ok_or(fault("no help"))?;
                let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
                let kind = kind.and_then(|rest| rest.strip_prefix(name)).ok_or(fault("no type"))?;
                if !is_name(name) || !seen.insert(name) {
                    return Err(fault("bad name, or twice"));
                }
                let kind = kind.trim_start();
                if (kind == "counter") != name.ends_with("_total") {
                    return Err(fault("counters, and nothing else, end in _total"));
                }
                metric = Some((name, kind));
                continue;
            }
            let (name, kind) = metric.ok_or(fault("a sample of nothing"))?;
            let (series, value) = line.rsplit_once(' ').ok_or(fault("no value"))?;
            let value: f64 = match value {
                "+Inf" => f64::INFINITY,
                value if value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
                    value.parse().map_err(|_| fault("bad value"))?
                }
                _ => return Err(fault("bad value")),
            };
            let (own, labels) = match series.split_once('{') {
                Some((own, labels)) => (own, read_labels(labels).ok_or(fault("bad labels"))?),
                None => (series, Vec::new()),
            };
            let part = own.strip_prefix(name).ok_or(fault("a sample of another metric"))?;
            match (kind, part) {
                ("counter" | "gauge", "") | ("histogram", "_sum") => {}
                ("histogram", "_bucket") => match labels.last() {
                    Some(("le", "+Inf")) => buckets.push((f64::INFINITY, value)),
                    Some(("le", le)) => {
                        buckets.push((le.parse().map_err(|_| fault("bad bound"))?, value));
                    }
                    _ => return Err(fault("no bound")),
                },
                ("histogram", "_count") => {
                    let ascends = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
                    if !ascends || buckets.last() != Some(&(f64::INFINITY, value)) {
                        return Err(fault("bad buckets"));
                    }
                    buckets.clear();
                }
                _ => return Err(fault("bad part of a metric")),
            }
            if !samples.insert(series) {
                return Err(fault("twice"));
            }
        }
        Ok(())
    }

    fn is_name(name: &str) -> bool {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }

    /// `a="1",b="2"}`
    fn read_labels(text: &str) -> Option<Vec<(&str, &str)>> {
        text.strip_suffix('}')?
            .split(',')
            .map(|label| {
                let (name, value) = label.split_once("=\"")?;
                let value = value.strip_suffix('"')?;
                (is_name(name) && !value.contains('"')).then_some((name, value))
            })
            .collect()
    }
}
