//! `nft flush ruleset`, which other people's firewalls do when they are reloaded (F3, F4).

use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network, Pace, RunningLoad};
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, engine, greeter, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft);
    let long = Duration::from_secs(300);
    vec![
        case("ten_flushes_under_load_lose_nothing", under_load)
            .limit(long)
            .busy()
            .with_both_engines_on_request(),
        case("after_a_flush_without_a_master_the_next_one_repairs", without_a_master)
            .limit(long)
            .with_both_engines_on_request(),
        case("established_connections_live_through_flushes_of_shared_rules", shared)
            .with_both_engines_on_request(),
        case("a_table_of_another_owner_stops_a_master_before_it_begins", other_owner),
    ]
}

const CLIENTS: u16 = 4000;
const CONNECTIONS: u64 = 60_000;
const FLUSHES: u64 = 10;

fn answers(load: &RunningLoad, count: u64) {
    wait_until("answers", Duration::from_secs(60), || load.counters().answered >= count);
}

fn hold(lab: &Lab) -> Vec<Held> {
    let v4 = Network::clients_v4(20).map(|client| (client, Network::server_v4(80)));
    let v6 = Network::clients_v6(20).map(|client| (client, Network::server_v6(80)));
    v4.chain(v6).map(|(from, to)| Held::open(lab.client(), from, to).unwrap()).collect()
}

fn lost(held: &mut [Held]) -> usize {
    held.iter_mut().filter_map(|connection| connection.echo("still there?").err()).count()
}

fn flush(lab: &Lab) {
    lab.witness().nft(&["flush", "ruleset"], "");
}

fn rules(lab: &Lab) -> String {
    lab.witness().nft(&["--stateless", "list", "ruleset"], "")
}

/// F3.
fn under_load(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 4).argument("--ownership").argument("owned").start(4);
    let mut held = hold(lab);
    let load = Lab::load(80, CLIENTS).pace(Pace::Rate(2500.0)).start(lab.client()).unwrap();
    wait_until("what the start left to be gone", Duration::from_secs(5), || {
        !rules(lab).contains("survivors_")
    });
    let before = rules(lab);
    for round in 1..=FLUSHES {
        answers(&load, round * CONNECTIONS / FLUSHES);
        flush(lab);
        assert_eq!(rules(lab), before, "round {round}");
        assert_eq!(lost(&mut held), 0, "round {round}");
        assert_eq!(load.counters().failed, 0, "round {round}: {}", load.report());
    }
    let answered = load.counters().answered;
    answers(&load, answered + 1000);
    let counters = load.counters();
    assert_eq!(counters.failed, 0, "{}", load.report());
    assert!(counters.answered >= CONNECTIONS);
    assert_eq!(lost(&mut held), 0);

    // The control: the same flush with nobody who owns the table.
    cluster.kill_master();
    flush(lab);
    wait_until("connections to be lost", Duration::from_secs(10), || load.counters().failed > 100);
    // Where nothing is translated, what is established needs no rules.
    let expected = match engine() {
        Engine::Redirect => held.len(),
        Engine::Tproxy => 0,
    };
    assert_eq!(lost(&mut held), expected);
    println!("{}", load.stop());
}

/// F4.
fn without_a_master(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
    cluster.kill_master();
    flush(lab);
    assert_eq!(rules(lab), "");
    let load = Lab::load(80, 100).pace(Pace::Rate(500.0)).start(lab.client()).unwrap();
    wait_until("connections to be lost", Duration::from_secs(5), || load.counters().failed > 10);
    assert_eq!(load.counters().answered, 0);
    let began = Instant::now();
    cluster.start_master(&[greeter().into()]);
    wait_until("answers", Duration::from_secs(5), || load.counters().answered > 0);
    let took = began.elapsed();
    println!("repaired {took:?} after the start");
    assert!(took < Duration::from_secs(1), "{took:?}");
    cluster.wait_for_live(2);
    let failed = load.counters().failed;
    answers(&load, load.counters().answered + 1000);
    assert_eq!(load.stop().failed(), failed, "none is lost any more");
}

/// That new connections find their way again is for those who watch the rules to test.
fn shared(lab: &Lab) {
    let cluster = Cluster::new(lab, 4).argument("--ownership").argument("shared").start(4);
    assert!(cluster.log().contains("other programs can change the rules"), "{}", cluster.log());
    let mut held = hold(lab);
    for workers in [5, 4, 5, 4, 5, 4, 5, 4, 5, 4] {
        flush(lab);
        assert_eq!(
            rules(lab).contains("table inet ipcluster.keep_t"),
            engine() == Engine::Redirect
        );
        assert_eq!(lost(&mut held), 0, "after a flush");
        cluster.succeed("scale", &[&workers.to_string()]);
        assert!(rules(lab).contains("table inet ipcluster_t"));
        assert_eq!(lost(&mut held), 0, "after the repair");
    }
    drop(held);
    cluster.succeed("stop", &[]);
    wait_until("all rules to be gone", Duration::from_secs(5), || rules(lab).is_empty());
}

/// Two masters of one name that do not see each other's lock.
fn other_owner(lab: &Lab) {
    let cluster = Cluster::new(lab, 2).start(2);
    let before = rules(lab);
    let elsewhere = lab.directory().join("elsewhere");
    let mut second = Cluster::new(lab, 2).argument("--runtime-dir").argument(elsewhere.as_os_str());
    second.start_master(&[greeter().into()]);
    let status = second.master().wait(Duration::from_secs(2));
    assert_eq!(status.code(), Some(1), "{}", second.log());
    let log = second.log();
    assert!(log.contains("belongs to another process that runs"), "{log}");
    assert!(log.contains("hint: another master of this cluster"), "{log}");
    assert_eq!(rules(lab), before);
    let flushed = lab.server().run_in(|| {
        let mut command = std::process::Command::new(netns_tests::ipcluster());
        command.arg("flush").arg("t").arg("--runtime-dir").arg(&elsewhere).output()
    });
    let flushed = flushed.unwrap().unwrap();
    let stderr = String::from_utf8_lossy(&flushed.stderr);
    assert_eq!(flushed.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("belongs to another process"), "{stderr}");
    assert_eq!(cluster.status().live().len(), 2);
}
