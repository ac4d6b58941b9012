//! What a worker is told when it is started: its values in the place of placeholders, a configuration file
//! of its own, further ports, a number that nobody else has.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, Status, greeter, is_alive, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("placeholders_are_values_of_each_worker", placeholders).with_both_engines(),
        Case::new("no_two_workers_that_live_have_one_number", numbers).with_both_engines(),
        Case::new("private_ports_are_each_workers_own_and_closed", private_ports)
            .needs(Need::Python)
            .with_both_engines(),
        Case::new("a_configuration_file_is_made_for_each_worker", config_files).with_both_engines(),
        Case::new("a_configuration_file_belongs_to_the_workers_user", config_of_another_user)
            .needs(Need::OtherUsers)
            .needs(Need::Pids),
        Case::new("nginx_is_a_worker_by_a_template", nginx).needs(Need::Nginx).needs(Need::Curl),
        Case::new("a_template_that_is_gone_fails_the_reload", template_gone),
    ]
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(OsString::from).collect()
}

/// A shell that prints its arguments, and becomes a greeter.
fn printing(script: &str, arguments: &[&str]) -> Vec<OsString> {
    let greeter = greeter();
    let begin = ["sh", "-c", script, greeter.to_str().unwrap()];
    words(&[&begin, arguments].concat())
}

fn wait_for_line(cluster: &Cluster<'_>, line: &str) {
    wait_until(line, Duration::from_secs(5), || {
        cluster.log().lines().any(|printed| printed.ends_with(line))
    });
}

fn placeholders(lab: &Lab) {
    let arguments = [
        "{port}",
        "-p{port:80}:{port:443/tcp}",
        "{seat}/{generation}/{name}",
        "{worker}",
        "{{port}}",
        r#"{"a":{"b":1}}"#,
        "${port}",
    ];
    let command = printing("echo \"$*\"; echo \"$X\"; exec \"$0\"", &arguments);
    let listeners = [Network::server_v4(80), Network::server_v4(443)];
    let cluster = Cluster::on(lab, listeners, 2).argument("--env").argument("X=<{seat}:{port}>");
    let mut cluster = cluster.start_with(&command, 2);
    for generation in 1..=2 {
        for worker in cluster.wait_until_settled(2).live() {
            let (seat, number) = (worker.seat, worker.number.unwrap());
            let (http, https) = (worker.ports["80"], worker.ports["443"]);
            wait_for_line(
                &cluster,
                &format!(
                    "seat {seat} | {http} -p{http}:{https} {seat}/{generation}/t {number} {{port}} \
                 {{\"a\":{{\"b\":1}}}} ${{port}}"
                ),
            );
            wait_for_line(&cluster, &format!("seat {seat} | <{seat}:{http}>"));
        }
        cluster.reload();
    }
    let mut refused = Command::new(netns_tests::ipcluster());
    refused.args(["plan", "--listen", "10.9.0.1:80", "--", "server", "{port:8080}"]);
    let refused = refused.output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("no listener has 8080: the public ports are 80"), "{error}");
}

/// The number of each worker that runs, by its process.
fn numbers_of(status: &Status) -> BTreeMap<u32, u64> {
    let number = |worker: &netns_tests::WorkerStatus| Some((worker.pid?, worker.number?));
    status.workers.iter().filter_map(number).collect()
}

fn numbers(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start_with(&printing("exec \"$0\"", &["{worker}"]), 2);
    let client = Network::clients_v4(1).next().unwrap();
    let held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    cluster.reload();
    let status = cluster.wait_for("one worker that drains", |status| status.workers.len() == 3);
    let before = numbers_of(&status);
    let distinct: BTreeSet<u64> = before.values().copied().collect();
    assert_eq!((before.len(), distinct.len()), (3, 3), "{status:?}");

    // Another master knows the numbers of those whom it adopts.
    cluster.kill_master();
    cluster.start_master(&printing("exec \"$0\"", &["{worker}"]));
    let status = cluster.wait_for("the same workers", |status| status.workers.len() == 3);
    assert_eq!(numbers_of(&status), before);
    cluster.reload();
    let status = cluster.wait_for("another generation", |status| status.generation == 3);
    let all: Vec<u64> = numbers_of(&status).into_values().collect();
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!(all.len(), distinct.len(), "{status:?}");
    drop(held);
}

fn private_ports(lab: &Lab) {
    // A greeter, and beside it two servers of metrics, none of which has the sockets of the greeter.
    let script = "for port in $1 $IPCLUSTER_PRIVATE_PORT_2; do
            python3 -m http.server --bind 0.0.0.0 $port 3<&- 4<&- & done
        exec \"$0\"";
    let cluster = Cluster::new(lab, 2).argument("--private-ports").argument("2");
    let mut cluster = cluster.start_with(&printing(script, &["{private_port}"]), 2);
    let mut seen: BTreeSet<u16> = BTreeSet::new();
    for generation in 1..=4 {
        let status = cluster.wait_for("two workers of it", |status| {
            status.is_settled(2) && status.generation == generation
        });
        let of = |status: &Status| -> BTreeSet<u16> {
            let private = status.workers.iter().flat_map(|worker| worker.private_ports.clone());
            private.chain(status.workers.iter().map(|worker| worker.ports["80"])).collect()
        };
        let ports = of(&status);
        assert_eq!(ports.len(), 6, "each has three of its own: {status:?}");
        for port in status.workers.iter().flat_map(|worker| worker.private_ports.clone()) {
            wait_until("the server on it", Duration::from_secs(20), || lab.is_listened_to(port));
            let here = SocketAddr::from(([127, 0, 0, 1], port));
            lab.server().run_in(|| TcpStream::connect(here)).unwrap().expect("from this host");
            let there = Network::server_v4(port);
            let timeout = Duration::from_millis(300);
            let reached = lab.client().run_in(|| TcpStream::connect_timeout(&there, timeout));
            assert!(reached.unwrap().is_err(), "{port} is closed to other hosts");
        }
        assert!(generation > 1 || seen.is_empty());
        seen.extend(ports);
        cluster.reload();
    }
    assert_eq!(seen.len(), 24, "ports are used again as late as possible");
    cluster.succeed("stop", &[]);
}

/// The configuration files that are there.
fn files(directory: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn config_files(lab: &Lab) {
    let template = lab.directory().join("greeter.conf.in");
    std::fs::write(&template, "said=\"port {port}, seat {seat}, {generation}\"; f() { :; }\n")
        .unwrap();
    let command = printing(". \"$1\"; echo \"$said in $1\"; exec \"$0\"", &["{config}"]);
    let cluster = Cluster::new(lab, 2).argument("--config-template").argument(template);
    let mut cluster = cluster.start_with(&command, 2);
    let directory = Path::new("/run/ipcluster/t.configs");
    let directory = match directory.exists() {
        true => directory.to_owned(),
        false => lab.directory().join("ipcluster/t.configs"),
    };
    let expected = |status: &Status| -> BTreeSet<String> {
        status.workers.iter().map(|it| format!("{}-greeter.conf", it.number.unwrap())).collect()
    };
    for generation in 1..=2 {
        let status = cluster.wait_until_settled(2);
        assert_eq!(status.generation, generation);
        for worker in status.live() {
            let (seat, port, number) = (worker.seat, worker.ports["80"], worker.number.unwrap());
            let path = directory.join(format!("{number}-greeter.conf"));
            let said = format!("port {port}, seat {seat}, {generation} in {}", path.display());
            wait_for_line(&cluster, &said);
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        }
        wait_until("no other files", Duration::from_secs(5), || {
            files(&directory) == expected(&status)
        });
        cluster.reload();
    }
    // A worker that is killed, and one that ends while no master is there.
    let status = cluster.wait_until_settled(2);
    let killed = status.pids()[&0];
    netns_tests::signal(killed, nix::sys::signal::Signal::SIGKILL);
    let status = cluster
        .wait_for("a replacement", |status| status.is_settled(2) && status.pids()[&0] != killed);
    wait_until("its file to go", Duration::from_secs(5), || files(&directory) == expected(&status));
    cluster.kill_master();
    let killed = status.pids()[&1];
    netns_tests::signal(killed, nix::sys::signal::Signal::SIGKILL);
    wait_until("its end", Duration::from_secs(5), || !is_alive(killed));
    cluster.start_master(&command);
    let status = cluster
        .wait_for("a replacement", |status| status.is_settled(2) && status.pids()[&1] != killed);
    wait_until("its file to go", Duration::from_secs(5), || files(&directory) == expected(&status));
    cluster.succeed("stop", &[]);
    wait_until("the directory to go", Duration::from_secs(5), || !directory.exists());
}

fn config_of_another_user(lab: &Lab) {
    let template = lab.directory().join("greeter.conf");
    std::fs::write(&template, "said=\"seat {seat}\"\n").unwrap();
    let greeter = lab.for_everyone(&greeter());
    let script = ". \"$1\"; echo \"$said\"; exec \"$0\"";
    let command = words(&["sh", "-c", script, greeter.to_str().unwrap(), "{config}"]);
    let cluster = Cluster::new(lab, 2).argument("--user").argument("nobody");
    let cluster = cluster.argument("--config-template").argument(template);
    let cluster = cluster.start_with(&command, 2);
    let directory = Path::new("/run/ipcluster-workers/t.configs");
    for worker in cluster.status().live() {
        let file = directory.join(format!("{}-greeter.conf", worker.number.unwrap()));
        let found = std::fs::metadata(file).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (65534, 0o600));
        wait_for_line(&cluster, &format!("seat {0} | seat {0}", worker.seat));
    }
    cluster.succeed("stop", &[]);
    wait_until("the directory to go", Duration::from_secs(5), || !directory.exists());
}

fn nginx(lab: &Lab) {
    let template = lab.directory().join("nginx.conf.in");
    let text = "daemon off; user root; pid {directory}/{worker}.pid; error_log stderr;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {
        listen 0.0.0.0:{port};
        location / { return 200 \"seat {seat} generation {generation} port $server_port\\n\"; }
    }
}
";
    let text = text.replace("{directory}", lab.directory().to_str().unwrap());
    std::fs::write(&template, text).unwrap();
    let nginx = netns_tests::find("nginx").unwrap();
    let command = words(&[nginx.to_str().unwrap(), "-c", "{config}"]);
    let cluster = Cluster::on(lab, [Network::server_v4(80)], 2);
    let mut cluster =
        cluster.argument("--config-template").argument(template).start_with(&command, 2);
    for generation in 1..=2 {
        cluster.wait_until_settled(2);
        let answer = lab.client().run_in(|| {
            let mut curl = Command::new("curl");
            curl.args(["-s", "-S", "--max-time", "5", "http://10.9.0.1/"]).output()
        });
        let answer = answer.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.contains(&format!("generation {generation} port 2")), "{answer}");
        cluster.reload();
    }
    cluster.succeed("stop", &[]);
}

fn template_gone(lab: &Lab) {
    let template = lab.directory().join("x.conf");
    std::fs::write(&template, "a\nb {port:81}\n").unwrap();
    let command = printing("exec \"$0\"", &["{config}"]);
    let mut cluster = Cluster::new(lab, 2).argument("--config-template").argument(template.clone());
    std::fs::write(&template, "fine {port}\n").unwrap();
    cluster = cluster.start_with(&command, 2);
    let before = cluster.status().pids();
    std::fs::write(&template, "a\nb {port:81}\n").unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("x.conf, line 2: {port:81}: no listener has 81"), "{error}");
    std::fs::remove_file(&template).unwrap();
    let error = cluster.fail("reload", &[]);
    assert!(error.contains("cannot read") && error.contains("x.conf"), "{error}");
    assert_eq!(cluster.wait_until_settled(2).pids(), before, "the old workers serve on");
}
