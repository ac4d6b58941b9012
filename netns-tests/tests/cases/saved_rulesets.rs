//! Rulesets of the host that are saved and loaded again beside ours: `nft -f`, its JSON form, and what
//! nftables.service does.

use std::fs;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::{Held, Network};
use netns_tests::{Case, Cluster, Lab, Need, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        case("what_nft_lists_is_refused_as_a_whole_beside_a_master", control),
        case("what_is_saved_without_ours_is_loaded_beside_a_master_and_without_one", loaded)
            .with_both_engines_on_request(),
        case("a_flush_and_a_load_leave_ours_alone_or_are_repaired", service),
        case("tables_of_other_running_programs_are_left_out", owned_by_others),
    ]
}

/// As a host has them: a firewall, a published port of IPv4.
const OTHERS: &str = "
table inet filter {
    set admins { type ipv4_addr; flags interval; elements = { 10.8.0.0/16 }; }
    chain input {
        type filter hook input priority 0; policy accept;
        ip saddr @admins tcp dport { 22, 80 } accept
    }
}
table ip nat {
    chain prerouting {
        type nat hook prerouting priority -100;
        tcp dport 25565 dnat to 10.9.0.1:9565
    }
}
";

fn hold(lab: &Lab) -> Held {
    Held::open(lab.client(), "10.8.0.1".parse().unwrap(), Network::server_v4(80)).unwrap()
}

fn others(lab: &Lab) -> String {
    let list =
        |family, name| lab.witness().nft(&["--stateless", "list", "table", family, name], "");
    list("inet", "filter") + &list("ip", "nat")
}

fn ours(lab: &Lab) -> String {
    lab.witness().nft(&["--stateless", "list", "table", "inet", "ipcluster_t"], "")
}

/// Changes and removes what is to be put back by the load.
fn damage(lab: &Lab) {
    lab.witness().nft(&["delete", "table", "ip", "nat"], "");
    lab.witness()
        .nft(&["add", "rule", "inet", "filter", "input", "tcp", "dport", "81", "drop"], "");
}

fn save(lab: &Lab, arguments: &[&str]) -> String {
    let program = netns_tests::ipcluster().into_os_string().into_string().unwrap();
    lab.witness().succeed(&program, &[&["save-others"], arguments].concat(), "")
}

fn control(lab: &Lab) {
    lab.witness().load(OTHERS);
    let _cluster = Cluster::new(lab, 2).start(2);
    let saved = lab.witness().ruleset();
    let before = others(lab);
    damage(lab);
    let loaded = lab.witness().run("nft", &["-f", "-"], &format!("flush ruleset\n{saved}"));
    let said = String::from_utf8_lossy(&loaded.stderr).into_owned();
    assert_eq!(loaded.status.code(), Some(1), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
    assert!(!lab.witness().ruleset().contains("table ip nat"), "nothing of it is loaded");

    // As the help says.
    let file = lab.directory().join("old.nft");
    fs::write(&file, format!("flush ruleset\n{saved}")).unwrap();
    let path = file.to_str().unwrap();
    lab.witness().succeed("sed", &["-i", "/^table inet ipcluster[_.]/,/^}/d", path], "");
    lab.witness().nft(&["-f", path], "");
    assert_eq!(others(lab), before);
    hold(lab).echo("served").unwrap();
}

fn loaded(lab: &Lab) {
    lab.witness().load(OTHERS);
    let mut cluster = Cluster::new(lab, 2).start(2);
    let mut held = hold(lab);
    let (before, ours_before) = (others(lab), ours(lab));
    let text = save(lab, &[]);
    let json = save(lab, &["--json"]);
    assert!(!text.contains("table inet ipcluster_") && !json.contains("ipcluster_"), "{text}");
    for with_master in [true, false] {
        if !with_master {
            cluster.kill_master();
        }
        for (arguments, saved) in [(&["-f", "-"][..], &text), (&["-j", "-f", "-"], &json)] {
            damage(lab);
            lab.witness().nft(arguments, saved);
            assert_eq!(others(lab), before, "{arguments:?}, {with_master}");
            // Without a master nft lists other flags.
            assert!(ours(lab).contains("chain seat_1"));
            held.echo("after the load").unwrap();
            hold(lab).echo("a new one").unwrap();
        }
        if with_master {
            assert_eq!(ours(lab), ours_before);
            assert_eq!(cluster.status().repairs, 0);
        }
    }
}

/// `systemctl restart nftables` loads a file that begins with `flush ruleset`.
fn service(lab: &Lab) {
    lab.witness().load(OTHERS);
    let restart = format!("flush ruleset\n{OTHERS}");
    let owned = Cluster::new(lab, 2).start(2);
    let mut held = hold(lab);
    let before = ours(lab);
    lab.witness().load(&restart);
    assert_eq!(ours(lab), before);
    held.echo("after a restart of the service").unwrap();
    assert_eq!(owned.status().repairs, 0);
    owned.succeed("stop", &["--now"]);
    drop(owned);

    let mut shared = Cluster::new(lab, 2).argument("--ownership").argument("shared");
    shared = shared.start(2);
    let mut held = hold(lab);
    lab.witness().load(&restart);
    shared.wait_for("the repair", |status| status.repairs > 0);
    held.echo("after the repair").unwrap();
    hold(lab).echo("a new one").unwrap();
    assert!(shared.log().contains("our rules were changed by nft"), "{}", shared.log());
    // What it saves is loaded without a change of ours.
    let saved = save(lab, &[]);
    let before = ours(lab);
    lab.witness().load(&saved);
    assert_eq!(ours(lab), before);
}

/// The table of a second cluster is not named; that of another program is.
fn owned_by_others(lab: &Lab) {
    lab.witness().load(OTHERS);
    let script = "{ echo 'add table inet other { flags owner; }'; sleep 600; } | nft -i";
    let mut command = Command::new("sh");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin")).args(["-c", script]);
    let _owner = lab.start("owner", command);
    wait_until("its table", Duration::from_secs(10), || {
        lab.witness().nft(&["list", "tables"], "").contains("table inet other")
    });
    let program = netns_tests::ipcluster().into_os_string().into_string().unwrap();
    let output = lab.witness().run(&program, &["save-others"], "");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("table inet other is left out: it belongs to a program"), "{said}");
    let saved = String::from_utf8(output.stdout).unwrap();
    assert!(!saved.contains("table inet other"), "{saved}");
    lab.witness().load(&saved);
}
