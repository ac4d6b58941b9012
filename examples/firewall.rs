//! Two servers of your own behind one port: the rules alone, without a master.
//!
//! ```text
//! python3 -m http.server 20000 & python3 -m http.server 20001 &
//! cargo build --example firewall
//! sudo target/debug/examples/firewall 0.0.0.0:80 20000 20001      # until Enter is pressed
//! ```

use std::io::stdin;

use ipcluster::nft::Firewall;
use ipcluster::plan::{Generation, Listeners, Occupant, Partition, Plan, Seat, Weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listener, ports @ ..] = arguments.as_slice() else {
        return Err("usage: firewall ADDRESS:PORT WORKER-PORT...".into());
    };
    let listeners = Listeners::new(vec![listener.parse()?])?;
    let partition = Partition::hash(Partition::DEFAULT_SLOTS)?;
    let weights = Weights::equal(ports.len())?;
    let mut plan = Plan::new("example".parse()?, listeners, partition, &weights, None)?;
    for (seat, port) in (0..).map(Seat).zip(ports) {
        plan.occupy(seat, Occupant::new(Generation::FIRST, [port.parse()?]))?;
    }
    let mut firewall = Firewall::open(plan.name())?;
    firewall.apply(&plan)?;
    let route = plan.worker_for("192.0.2.7".parse()?).ok_or("no worker")?;
    println!("192.0.2.7 is sent to seat {}", route.seat);
    stdin().read_line(&mut String::new())?;
    firewall.remove()?;
    Ok(())
}
