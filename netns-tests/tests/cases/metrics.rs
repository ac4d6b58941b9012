//! What monitoring sees over HTTP: true figures, a health that follows the workers, and no way to
//! hold the master up.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ipcluster::lab::Pace;
use ipcluster::plan::Engine;
use netns_tests::{
    Case, Cluster, Lab, Need, engine, greeter, parse_exposition, signal, wait_until,
};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("metrics_follow_the_load_reloads_and_deaths", metrics).with_both_engines(),
        Case::new("a_scrape_is_as_prometheus_and_the_documentation_expect", scrape),
        Case::new("counters_of_connections_never_go_back", forwards),
        Case::new("metrics_count_repairs", repairs).needs(Need::Nft),
        Case::new("health_is_503_while_nobody_is_served", health),
        Case::new("health_is_503_while_the_cluster_stops", stopping),
        Case::new("slow_clients_hold_no_reload_up", slow),
        Case::new("an_address_that_is_taken_is_an_error_at_the_start", taken),
    ]
}

pub(crate) const ADDRESS: &str = "127.0.0.1:9180";

fn watched(lab: &Lab, workers: u16) -> Cluster<'_> {
    Cluster::new(lab, workers).argument("--http-listen").argument(ADDRESS)
}

fn connect(lab: &Lab) -> TcpStream {
    let connected = lab.server().run_in(|| TcpStream::connect(ADDRESS)).unwrap();
    let stream = connected.expect("the server listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// The status and the body of a page.
fn get(lab: &Lab, path: &str) -> (u16, String) {
    let mut stream = connect(lab);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// All samples by series, once each.
fn samples(lab: &Lab) -> BTreeMap<String, f64> {
    let (status, body) = get(lab, "/metrics");
    assert_eq!(status, 200, "{body}");
    let mut samples = BTreeMap::new();
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let before = samples.insert(series.to_owned(), value.parse().unwrap());
        assert_eq!(before, None, "{series} is there twice");
    }
    samples
}

/// Waits until a sample has this value: what is told may be 100 ms old.
pub(crate) fn wait_for(lab: &Lab, series: &str, value: f64) -> BTreeMap<String, f64> {
    let mut last = BTreeMap::new();
    wait_until(&format!("{series} {value}"), Duration::from_secs(30), || {
        last = samples(lab);
        last.get(series) == Some(&value)
    });
    last
}

fn sum_of(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    samples.iter().filter(|(series, _)| series.starts_with(name)).map(|(_, value)| value).sum()
}

fn metrics(lab: &Lab) {
    let cluster = watched(lab, 3).start(3);
    let before = wait_for(lab, "ipcluster_generation", 1.0);
    assert_eq!(sum_of(&before, "ipcluster_connections_total{"), 0.0);
    assert_eq!(sum_of(&before, "ipcluster_worker_restarts_total{"), 0.0);
    let swaps = before["ipcluster_swap_seconds_count"];
    assert!(swaps >= 1.0 && before["ipcluster_swap_seconds_sum"] > 0.0);

    let load = || {
        let load = Lab::load(80, 300).pace(Pace::Concurrency(16)).connections(600);
        let report = load.start(lab.client()).unwrap().wait();
        assert_eq!((report.answered(), report.failed()), (600, 0), "{report}");
        report
    };
    let mut by_seat: BTreeMap<u16, u32> = BTreeMap::new();
    load().answers().for_each(|answer| *by_seat.entry(answer.by.seat).or_default() += 1);
    let loaded = lab_sum(lab, 600.0);
    for (seat, made) in by_seat {
        let series = format!("ipcluster_connections_total{{seat=\"{seat}\",generation=\"1\"}}");
        assert_eq!(loaded[&series], f64::from(made), "{series}");
    }
    match engine() {
        Engine::Redirect => assert!(loaded["ipcluster_conntrack_entries"] >= 300.0),
        Engine::Tproxy => assert_eq!(loaded["ipcluster_conntrack_entries"], 0.0),
    }
    assert!(loaded["ipcluster_conntrack_limit"] >= loaded["ipcluster_conntrack_entries"]);

    cluster.reload();
    let reloaded = wait_for(lab, "ipcluster_generation", 2.0);
    assert_eq!(reloaded["ipcluster_swap_seconds_count"], swaps + 1.0);
    assert_eq!(reloaded["ipcluster_swap_seconds_bucket{le=\"+Inf\"}"], swaps + 1.0);
    load();
    let both = lab_sum(lab, 1200.0);
    for generation in 1..=2 {
        let of_generation = format!("generation=\"{generation}\"");
        let made: f64 = both
            .iter()
            .filter(|(series, _)| series.contains(&of_generation))
            .map(|(_, value)| value)
            .sum();
        assert_eq!(made, 600.0, "generation {generation}: {both:?}");
    }

    let pid = cluster.status().pids()[&1];
    signal(pid, Signal::SIGKILL);
    let died = wait_for(lab, "ipcluster_worker_restarts_total{reason=\"died\"}", 1.0);
    assert_eq!(sum_of(&died, "ipcluster_worker_restarts_total{"), 1.0, "and for no other reason");
    assert_eq!(died["ipcluster_rules_repaired_total"], 0.0);
    let live = |series: &&String| {
        series.starts_with("ipcluster_worker_connections{seat=\"1\"")
            && series.contains(&format!("pid=\"{pid}\""))
    };
    assert_eq!(died.keys().find(live), None, "a worker that is gone");
    let (status, page) = get(lab, "/");
    assert!(status == 200 && page.contains("cluster    t\ngeneration 2\n"), "{page}");
}

/// Waits until so many connections are counted over all seats.
fn lab_sum(lab: &Lab, total: f64) -> BTreeMap<String, f64> {
    let mut last = BTreeMap::new();
    wait_until(&format!("{total} connections"), Duration::from_secs(10), || {
        last = samples(lab);
        sum_of(&last, "ipcluster_connections_total{") == total
    });
    last
}

/// The metrics with their types and labels.
const METRICS: [(&str, &str, &[&str]); 15] = [
    ("ipcluster_config_last_reload_successful", "gauge", &[]),
    ("ipcluster_connections_total", "counter", &["seat", "generation"]),
    ("ipcluster_conntrack_entries", "gauge", &[]),
    ("ipcluster_conntrack_limit", "gauge", &[]),
    ("ipcluster_findings", "gauge", &["kind", "severity"]),
    ("ipcluster_generation", "gauge", &[]),
    ("ipcluster_rollout_on_probation", "gauge", &[]),
    ("ipcluster_rollout_returns_total", "counter", &[]),
    ("ipcluster_rules_repaired_total", "counter", &[]),
    ("ipcluster_seats_given_up", "gauge", &[]),
    ("ipcluster_swap_seconds", "histogram", &[]),
    ("ipcluster_worker_connections", "gauge", &["seat", "pid", "state"]),
    ("ipcluster_worker_restarts_total", "counter", &["reason"]),
    ("ipcluster_worker_retirements_total", "counter", &["cause"]),
    ("ipcluster_worker_rss_bytes", "gauge", &["seat", "pid"]),
];

fn scrape(lab: &Lab) {
    let cluster = watched(lab, 2).start(2);
    cluster.reload();
    Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    lab_sum(lab, 50.0);
    wait_until("a look at the memory", Duration::from_secs(20), || {
        sum_of(&samples(lab), "ipcluster_worker_rss_bytes{") > 0.0
    });
    let mut stream = connect(lab);
    // As Prometheus asks.
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let request = format!("GET /metrics HTTP/1.1\r\nHost: t\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let media_type = "content-type: text/plain; version=0.0.4; charset=utf-8";
    assert!(head.to_lowercase().lines().any(|line| line == media_type), "{head}");
    let families = parse_exposition(body).unwrap_or_else(|error| panic!("{error}\n{body}"));
    let names: Vec<&str> = families.keys().map(String::as_str).collect();
    assert_eq!(names, METRICS.map(|(name, ..)| name));
    for (name, kind, labels) in METRICS {
        let family = &families[name];
        assert_eq!(family.kind, kind, "{name}");
        if !family.samples.is_empty() {
            let expected = labels.iter().map(|label| (*label).to_owned()).collect();
            assert_eq!(family.labels, expected, "{name}");
        }
        let row = format!("`{name}`");
        for (page, text) in PAGES {
            let line = text.lines().find(|line| line.contains('|') && line.contains(&row));
            let line = line.unwrap_or_else(|| panic!("{page} does not say what {name} is"));
            labels.iter().for_each(|label| {
                assert!(line.contains(&format!("`{label}`")), "{page}: {line}: {label}");
            });
        }
    }
    // Whatever happens on this host, these have a value.
    let empty = METRICS.iter().filter(|(name, ..)| families[*name].samples.is_empty());
    let empty: Vec<&str> = empty.map(|(name, ..)| *name).collect();
    assert!(empty.iter().all(|name| *name == "ipcluster_findings"), "{empty:?}");
}

/// Where it is documented what they mean.
const PAGES: [(&str, &str); 2] = [
    ("docs/observing.md", include_str!("../../../docs/observing.md")),
    ("src/http/mod.rs", include_str!("../../../src/http/mod.rs")),
];

/// Across reloads, deaths, a takeover and masters that end or are killed.
fn forwards(lab: &Lab) {
    let mut cluster = watched(lab, 2).start(2);
    let (mut before, mut made) = (BTreeMap::new(), 0.0);
    let mut connect_and_compare = |what: &str, generation: u64| {
        let connections = 100;
        let report =
            Lab::load(80, 100).connections(connections).start(lab.client()).unwrap().wait();
        assert_eq!((report.answered(), report.failed()), (connections, 0), "{what}: {report}");
        made += 100.0;
        let now = lab_sum(lab, made);
        let counters = now.into_iter().filter(|(name, _)| name.contains("connections_total{"));
        let now: BTreeMap<String, f64> = counters.collect();
        let in_force = format!("generation=\"{generation}\"");
        let mut grown = 0.0;
        for (series, value) in &before {
            assert!(now.get(series).is_some_and(|now| now >= value), "{what}: {series} {now:?}");
        }
        for (series, value) in &now {
            let more = value - before.get(series).unwrap_or(&0.0);
            grown += more;
            assert!(more == 0.0 || series.contains(&in_force), "{what}: {series}: {before:?}");
        }
        assert_eq!(grown, 100.0, "{what}");
        before = now;
    };
    connect_and_compare("at first", 1);
    cluster.reload();
    connect_and_compare("after a reload", 2);
    signal(cluster.status().pids()[&0], Signal::SIGKILL);
    cluster.wait_for("another worker", |status| status.is_settled(2) && status.generation == 2);
    connect_and_compare("after a death", 2);
    let mut old = cluster.replace_master(&[greeter().into()]);
    assert!(old.wait(Duration::from_secs(20)).success(), "{}", old.output());
    cluster.wait_until_settled(2);
    connect_and_compare("after a takeover", 2);
    cluster.reload();
    connect_and_compare("after a reload by the next master", 3);
    cluster.terminate_master();
    cluster.start_master(&[greeter().into()]);
    cluster.wait_until_settled(2);
    connect_and_compare("after a restart of the master", 3);
    cluster.kill_master();
    cluster.start_master(&[greeter().into()]);
    cluster.wait_until_settled(2);
    connect_and_compare("after a crash of the master", 3);
    cluster.reload();
    connect_and_compare("after a reload since", 4);
}

fn repairs(lab: &Lab) {
    let _cluster = watched(lab, 2).argument("--ownership").argument("shared").start(2);
    assert_eq!(samples(lab)["ipcluster_rules_repaired_total"], 0.0);
    lab.witness().load("delete table inet ipcluster_t");
    wait_for(lab, "ipcluster_rules_repaired_total", 1.0);
}

fn health(lab: &Lab) {
    // The pause before a worker that died early is replaced.
    let mut cluster = watched(lab, 2).argument("--spawn-backoff").argument("1s..1s").start(2);
    let becomes = |status: u16| {
        wait_until(&format!("health {status}"), Duration::from_secs(30), || {
            get(lab, "/healthz").0 == status
        });
    };
    becomes(200);
    let pids = cluster.status().pids();
    signal(pids[&0], Signal::SIGKILL);
    cluster.wait_for("one live worker", |status| !status.pids().values().any(|it| *it == pids[&0]));
    assert_eq!(get(lab, "/healthz").0, 200, "the other one serves all");
    cluster.wait_until_settled(2);

    cluster.status().pids().values().for_each(|pid| signal(*pid, Signal::SIGKILL));
    becomes(503);
    becomes(200);
    cluster.wait_for_live(2);

    // Those of an earlier master serve, so they count before the new ones are ready, which the change
    // of the command is the reason for.
    let before = cluster.status();
    cluster.terminate_master();
    let late = ["sh", "-c", "sleep 3; exec \"$0\""].map(Into::into);
    cluster.start_master(&[late.as_slice(), &[greeter().into()]].concat());
    let adopted = cluster.wait_for("the next master's workers", |status| {
        status.workers.iter().any(|worker| worker.generation > before.generation)
    });
    assert_eq!((adopted.generation, adopted.pids()), (before.generation, before.pids()));
    assert_eq!(get(lab, "/healthz"), (200, "ok\n".to_owned()));
    cluster.wait_for("the new ones in force", |status| {
        status.generation == before.generation + 1 && status.live().len() == 2
    });
    assert_eq!(get(lab, "/healthz").0, 200);
}

fn stopping(lab: &Lab) {
    let mut cluster = watched(lab, 2).start(2);
    let held = lab.client().run_in(|| TcpStream::connect(Lab::targets(80)[0])).unwrap().unwrap();
    cluster.wait_for("the connection", |status| {
        status.workers.iter().filter_map(|worker| worker.connections).sum::<u32>() == 1
    });
    let mut stop = cluster.begin("stop", &[]);
    wait_until("health 503", Duration::from_secs(10), || get(lab, "/healthz").0 == 503);
    assert!(stop.is_running(), "{}", stop.output());
    drop(held);
    assert!(stop.wait(Duration::from_secs(20)).success(), "{}", stop.output());
}

fn slow(lab: &Lab) {
    let cluster = watched(lab, 2).start(2);
    // Many more than it serves: some say nothing, some half of it, some do not read.
    let clients: Vec<TcpStream> = (0..100)
        .map(|number| {
            let mut stream = connect(lab);
            let request = ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n"];
            stream.write_all(request[number % 3].as_bytes()).unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    cluster.reload();
    assert!(began.elapsed() < Duration::from_secs(5), "a reload took {:?}", began.elapsed());
    assert_eq!(cluster.status().generation, 2);
    let waiting = clients.iter().find(|stream| {
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]);
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    });
    assert!(waiting.is_some(), "they were all served: nobody was slow");
    // It comes to their turn, all the same.
    assert_eq!(get(lab, "/healthz").0, 200);
}

fn taken(lab: &Lab) {
    let bind = || std::net::TcpListener::bind(ADDRESS);
    let _taken = lab.server().run_in(bind).unwrap().unwrap();
    let mut cluster = watched(lab, 2);
    cluster.start_master(&[greeter().into()]);
    let status = cluster.master().wait(Duration::from_secs(10));
    let said = cluster.log();
    assert_eq!(status.code(), Some(1), "{said}");
    let expected = format!("http.listen: cannot listen on {ADDRESS}: Address already in use");
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("choose another address (`http.listen`)"), "{said}");
}
