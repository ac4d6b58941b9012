//! Who changed what: what the kernel tells of every commit (N11).

use std::time::Duration;

use ipcluster::internals::ruleset::TableName;
use ipcluster::nft::{Commit, Firewall, Watch, WatchEvent};
use ipcluster::plan::{Listeners, Partition, Plan, Seat, Weights};
use netns_tests::plans::full;
use netns_tests::{Case, Lab, Need, plans, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("a_commit_names_its_writer_and_its_tables", writers),
        nft("own_commits_are_told_by_the_port_of_the_socket", own_commits),
        nft("what_does_not_fit_the_buffer_is_told_as_lost", lost),
        nft("other_namespaces_are_not_heard", other_namespaces),
    ]
}

fn watch(lab: &Lab) -> Watch {
    lab.server().run_in(Watch::open).unwrap().unwrap()
}

/// Reads until `count` changes are there.
fn read(watch: &mut Watch, count: usize) -> Vec<WatchEvent> {
    let mut changes = Vec::new();
    wait_until(&format!("{count} changes"), Duration::from_secs(10), || {
        changes.extend(watch.read().unwrap().events);
        changes.len() >= count
    });
    assert_eq!(changes.len(), count, "{changes:?}");
    changes
}

fn commit(change: &WatchEvent) -> &Commit {
    match change {
        WatchEvent::Committed(commit) => commit,
        event => panic!("{event:?}"),
    }
}

fn plan() -> Plan {
    full(&["10.9.0.1:80"], Partition::hash(1024).unwrap(), 4)
}

fn writers(lab: &Lab) {
    let mut watch = watch(lab);
    let ours = TableName::of(&"t".parse().unwrap());
    let nft = |command: &str| lab.witness().nft(&["-f", "-"], command);
    nft("add table ip one; add table inet two; add chain inet two c");
    nft("add table inet ipcluster_t");
    nft(
        "add table ip ipcluster_t; add set ip ipcluster_t s { type ipv4_addr; elements = { 1.2.3.4 }; }",
    );
    nft("delete table inet ipcluster_t; add table inet two");
    let changes = read(&mut watch, 4);
    let commits: Vec<&Commit> = changes.iter().map(commit).collect();
    let touched: Vec<_> =
        commits.iter().map(|one| (one.touches(&ours), one.touches_others(&ours))).collect();
    assert_eq!(touched, [(false, true), (true, false), (false, true), (true, false)]);
    for pair in commits.windows(2) {
        assert_eq!(pair[1].generation_id, pair[0].generation_id + 1);
        let [one, other] = [pair[0], pair[1]].map(|commit| commit.writer.as_ref().unwrap());
        assert_eq!(one.name, "nft");
        assert!(one.pid > 0 && one.pid != other.pid, "each nft is a process of its own");
    }
    assert!(watch.read().unwrap().events.is_empty());
    assert!(watch.read().unwrap().is_drained);
}

/// All seats of another cluster, vacant.
fn vacant_of(name: &str) -> Plan {
    let listeners = Listeners::new(vec!["10.9.0.1:81".parse().unwrap()]).unwrap();
    let partition = Partition::hash(1024).unwrap();
    let weights = Weights::equal(4).unwrap();
    Plan::new(name.parse().unwrap(), listeners, partition, &weights, None).unwrap()
}

fn own_commits(lab: &Lab) {
    let mut watch = watch(lab);
    let mut plan = plan();
    let mut firewall = plans::shared(lab.server(), &plan);
    firewall.apply(&plan).unwrap();
    plan.vacate(Seat(1)).unwrap();
    firewall.apply(&plan).unwrap();
    let change = lab.witness().naming_slots("delete element inet ipcluster_t slots { first }");
    lab.witness().load(&change);
    // Another socket of this process.
    let mut other = lab.server().run_in(|| Firewall::open(&"u".parse().unwrap())).unwrap().unwrap();
    other.apply(&vacant_of("u")).unwrap();
    let changes = read(&mut watch, 5);
    let [keeper, create, vacate, theirs, another] = [0, 1, 2, 3, 4].map(|it| commit(&changes[it]));
    let table = firewall.table();
    for ours in [create, vacate, theirs] {
        assert!(ours.touches(table) && !ours.touches_others(table), "{ours:?}");
    }
    assert!(!keeper.touches(table), "the table that keeps connections alive: {keeper:?}");
    assert!(another.touches(other.table()) && !another.touches(table), "{another:?}");
    let port = firewall.port().unwrap();
    let own = [keeper, create, vacate, theirs, another].map(|commit| commit.port == port);
    assert_eq!(own, [true, true, true, false, false]);
    assert_eq!(another.port, other.port().unwrap());
    let pid = |commit: &Commit| commit.writer.as_ref().unwrap().pid;
    assert_eq!(pid(create), pid(another), "the same process");
}

fn lost(lab: &Lab) {
    let mut watch = watch(lab);
    let elements = |from: u32| {
        let all: Vec<String> = (from..from + 4_000).map(|number| number.to_string()).collect();
        format!("add element ip t s {{ {} }}", all.join(", "))
    };
    lab.witness().load("table ip t { set s { type mark; }; }");
    for round in 0..30 {
        lab.witness().load(&elements(round * 4_000));
    }
    lab.witness().load("add table ip more");
    let mut changes = Vec::new();
    wait_until("the loss to be told", Duration::from_secs(10), || {
        let reading = watch.read().unwrap();
        changes.extend(reading.events);
        reading.is_drained
    });
    assert_eq!(changes.last(), Some(&WatchEvent::Lost), "told last, when nothing more is dropped");
    assert_eq!(changes.iter().filter(|change| **change == WatchEvent::Lost).count(), 1);
    lab.witness().load("add table inet ipcluster_t");
    let changes = read(&mut watch, 1);
    assert!(commit(&changes[0]).touches(&TableName::of(&"t".parse().unwrap())));
}

fn other_namespaces(lab: &Lab) {
    let mut watch = watch(lab);
    netns_tests::Witness::new(lab.client()).load("add table inet ipcluster_t");
    lab.witness().load("add table ip here");
    let changes = read(&mut watch, 1);
    assert!(!commit(&changes[0]).touches(&TableName::of(&"t".parse().unwrap())));
}
