//! Measures ipcluster and what else people use, side by side in one run. `run` beside this file installs
//! what is needed and runs this.
//!
//! ```text
//! peers [libtest arguments]     measures; cases are called peers::NAME and scaling::NAME
//! peers page HOME DOCS          writes the tables and plots of DOCS/performance.md from what was measured
//! ```

mod backends;
mod figure;
mod kernel;
mod launcher;
mod measure;
mod nftlb;
mod own;
mod page;
mod plot;
mod proxies;
mod rules;
mod scaling;
mod servers;
mod sockets;
mod stage;
mod table;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use netns_tests::{Case, Lab};

use figure::{Measured, Outcome, SIZES};
use measure::{Effort, Figures};
use scaling::Axis;
use stage::Stage;
use table::{PEERS, Peer};

/// Where what was measured is; `target/peers` unless it is set.
const HOME: &str = "PEERS_HOME";
/// Has as little measured as shows that it works.
const QUICK: &str = "PEERS_QUICK";
/// What a worker needs beside what all share, by which it is seen whether there is room for 256, in KiB.
const WORKER_SIZE: u64 = 60 * 1024;

fn main() -> ExitCode {
    if let Some(status) = launcher::run_as_program() {
        return status;
    }
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [verb, home, docs] if verb == "page" => {
            page::write(Path::new(home), Path::new(docs)).expect("the page can be written");
            ExitCode::SUCCESS
        }
        _ => netns_tests::run(cases()),
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let scaling = Axis::ALL.map(|axis| {
        let case = Case::new(axis.name(), measure_scaling).in_topic("scaling").serial();
        case.limit(Duration::from_secs(900)).on_request()
    });
    let peers = PEERS.iter().map(|peer| {
        let case = Case::new(peer.name, measure).in_topic("peers").serial();
        let case = case.limit(Duration::from_secs(900));
        if peer.in_ci { case } else { case.on_request() }
    });
    peers.chain(scaling)
}

fn measure_scaling(lab: &Lab) {
    let (_, name) = lab.name().split_once("::").expect("a case has a topic");
    let axis = Axis::ALL.into_iter().find(|axis| axis.name() == name).expect("an axis");
    match scaling::measure(lab, axis, env::var_os(QUICK).is_some()) {
        Ok(scaling) => {
            scaling.save(&servers::home().join("scaling")).expect("a result can be written");
        }
        Err(fault) => panic!("{name}: {fault}"),
    }
}

fn measure(lab: &Lab) {
    let (_, name) = lab.name().split_once("::").expect("a case has a topic");
    let peer = PEERS.iter().find(|peer| peer.name == name).expect("a peer");
    let effort = if env::var_os(QUICK).is_some() { Effort::QUICK } else { Effort::WHOLE };
    let mut figures = Figures::default();
    for &size in &SIZES[..effort.sizes] {
        match at_size(lab, peer, size, effort, &mut figures) {
            Ok(()) => {}
            Err(fault) => panic!("{name} with {size} workers: {fault}"),
        }
    }
    let is_failure = |it: &&(_, Outcome)| matches!(it.1, Outcome::Failed(_));
    let failures: Vec<_> = figures.0.iter().filter(is_failure).collect();
    // In the table a failure is a result; where it is only seen that all can be measured it is none.
    assert!(env::var_os(QUICK).is_none() || failures.is_empty(), "{failures:?}");
    let measured = Measured { peer: name.to_owned(), version: peer.version(), figures: figures.0 };
    measured.save(&servers::home().join("results")).expect("a result can be written");
}

fn at_size(
    lab: &Lab,
    peer: &Peer,
    size: u16,
    effort: Effort,
    figures: &mut Figures,
) -> Result<(), stage::Fault> {
    if kernel::available_memory()? < u64::from(size) * WORKER_SIZE {
        return Err(stage::Fault::Failed("there is too little memory".to_owned()));
    }
    let stage = Stage::new(lab.directory().join(format!("{}-{size}", peer.name)), size)?;
    let mut balancer = (peer.start)(stage)?;
    measure::at_rest(&*balancer, size, effort, figures);
    if size == SIZES[0] {
        measure::at_work(&mut *balancer, effort, figures);
    }
    Ok(())
}
