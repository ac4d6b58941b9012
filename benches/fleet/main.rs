//! What a fleet of hosts costs: a packet that one host passes on to another, beside the same packet that it forwards
//! as a router; a connection, and what it carries, straight to a host's own cluster, with the rules of a fleet before
//! that, and by another host; and a change of the list of members, until it is in force. In one run and in turn, so
//! that the ratios hold when the machine's speed drifts.
//!
//! `cargo bench --bench fleet`. Runs in network namespaces of its own, without root; but without root the large lists
//! are left out, since the kernel then takes no batch of that length. Needs the programs ip, nft and chrt. On a
//! machine with other work `chrt -f 50 cargo bench --bench fleet`, built before, keeps that away for some 200 ms at a
//! time.

#[path = "../engines/busy.rs"]
mod busy;
mod change;
mod connection;
mod packet;

use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

use ipcluster::lab::{self, Entered};
use ipcluster::plan::fleet::{Fleet, Member, MemberState, Members};
use ipcluster::plan::{Engine, Listeners};
use ipcluster::ruleset::{FleetHost, lower_fleet};

use busy::Watch;

/// The address of the service.
const SERVICE: &str = "192.0.2.1";

fn main() -> ExitCode {
    if let Some(code) = connection::run_worker() {
        return code;
    }
    // `cargo test --benches` and `cargo bench --no-run` come here without `--bench`.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let entered = match lab::enter_user_namespace() {
        Ok(entered) => entered,
        Err(error) => {
            println!("skipped: {error}");
            return ExitCode::SUCCESS;
        }
    };
    if !run("nft", &["--version"]) {
        println!("left out: all, since the program nft is not installed");
        return ExitCode::SUCCESS;
    }
    let watch = match Watch::start() {
        Ok(watch) => watch,
        Err(reason) => {
            println!("skipped: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let has_large = is_bench && entered != Entered::UserNamespace;
    if !has_large {
        println!("left out: lists of 65,536 slots");
    }
    packet::measure(is_bench, has_large);
    connection::measure(&watch, is_bench);
    if is_bench {
        change::measure(has_large);
    }
    ExitCode::SUCCESS
}

/// A fleet of so many slots and members m1, m2 and so on, which stand at 10.7.0.1, 10.7.0.2 and so on; the first one
/// owns nothing unless it serves.
fn fleet(slots: u32, members: u8, first: MemberState) -> Fleet {
    let member = |nth: u8| {
        let address = format!("10.7.0.{nth}").parse().expect("an address");
        let mac = mac(nth).parse::<ipcluster::plan::fleet::MacAddress>().expect("an address");
        let name = format!("m{nth}").parse().expect("a name");
        let member = Member::new(name, [address]).expect("an address").with_mac(mac);
        if nth == 1 { member.with_state(first) } else { member }
    };
    let members = Members::new((1..=members).map(member)).expect("names of their own");
    Fleet::new(slots, members).expect("members that serve")
}

fn mac(nth: u8) -> String {
    format!("02:00:00:00:00:{nth:02x}")
}

/// The rules of a member, whose link is this device, as nft reads them.
fn rules(fleet: &Fleet, member: &str, device: &str, engine: Engine) -> String {
    let listener = format!("{SERVICE}:80").parse().expect("a listener");
    let host = FleetHost::new(
        "bench".parse().expect("a name"),
        member.parse().expect("a name"),
        device.parse().expect("a device"),
        engine,
        Listeners::new(vec![listener]).expect("a listener"),
    );
    lower_fleet(fleet, host).expect("a member").to_string()
}

/// Runs a program in the namespace of this thread.
fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn ip(arguments: &str) {
    let words: Vec<&str> = arguments.split(' ').collect();
    assert!(run("ip", &words), "ip {arguments}");
}

fn load(rules: &str) {
    let mut nft = Command::new("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("the program nft");
    let mut input = nft.stdin.take().expect("its input");
    input.write_all(rules.as_bytes()).expect("a program that reads");
    drop(input);
    assert!(nft.wait().expect("a child").success(), "nft refused the rules");
}

/// The value below which so many quarters of all lie; 2 gives the median.
fn quartile(mut values: Vec<f64>, quarters: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) * quarters / 4).copied().unwrap_or(f64::NAN)
}
