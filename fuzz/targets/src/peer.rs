//! A connection with a worker, whatever comes over it and whenever: no panic, no busy loop, nothing
//! after its end, and no more lines read than the rate allows.

use std::time::Duration;

use arbitrary::Arbitrary;
use ipcluster::internals::control::{
    FromWorker, LINE_INTERVAL, LINES_AT_ONCE, Peer, PeerAction, PeerLimits, ToWorker, WorkerOrder,
};

#[derive(Debug, Arbitrary)]
enum Step<'a> {
    Bytes(&'a [u8]),
    /// A message that is well formed but for what stands in one field.
    Message {
        kind: u8,
        id: u16,
        pid: u8,
        field: &'a str,
    },
    Decide {
        accepted: bool,
    },
    Order {
        die: bool,
    },
    Wait {
        milliseconds: u16,
    },
}

pub(crate) fn run(data: &[u8]) {
    let Some(steps) = crate::arbitrary::<Vec<Step<'_>>>(data) else { return };
    let mut now = Duration::ZERO;
    let mut peer = Peer::new(7, PeerLimits::default(), now);
    let (mut is_over, mut answers) = (false, 0_u128);
    for step in steps {
        let effects = match step {
            Step::Bytes(bytes) if peer.wants_more() => peer.receive(bytes, now),
            Step::Message { kind, id, pid, field } if peer.wants_more() => {
                peer.receive(message(kind, id, pid, field).as_bytes(), now)
            }
            Step::Bytes(_) | Step::Message { .. } => Vec::new(),
            Step::Decide { accepted } => peer.decide((!accepted).then(|| "no".to_owned()), now),
            Step::Order { die } => {
                let order = if die { WorkerOrder::Die } else { WorkerOrder::Retire };
                peer.order(order, "because", now)
            }
            Step::Wait { milliseconds } => {
                now += Duration::from_millis(milliseconds.into());
                peer.tick(now)
            }
        };
        for effect in effects {
            assert!(!is_over, "{effect:?} after the end");
            match effect {
                PeerAction::Send(line) => {
                    let message = ToWorker::parse(&line).expect("what we send is a message");
                    answers += u128::from(matches!(message, ToWorker::Response { .. }));
                }
                PeerAction::Close(_) => is_over = true,
                PeerAction::Decide(facts) => assert_eq!(facts.pid, 7),
                PeerAction::Report(_) => {}
            }
        }
        // What is due now is done by one tick.
        let late = peer.deadline().is_some_and(|at| at <= now);
        if late {
            drop(peer.tick(now));
            assert!(peer.deadline().is_none_or(|at| at > now), "due for ever");
        }
        let earned = now.as_millis() / LINE_INTERVAL.as_millis();
        // One more tells the end, and one the decision.
        assert!(answers <= u128::from(LINES_AT_ONCE) + earned + 2, "{answers} after {now:?}");
    }
}

fn message(kind: u8, id: u16, pid: u8, field: &str) -> String {
    let kinds = ["info", "ping", "response", "request", "exit"];
    let kind = kinds[usize::from(kind) % kinds.len()];
    let line = format!(
        "{{\"__type\":\"{kind}\",\"__messageID\":{id},\"__status\":\"ok\",\"__request\":\"retire\",\
         \"pid\":{},\"mem\":{{\"rss\":1}},\"portmap\":{{\"80\":34305}},\"band\":0,\"lag\":{field}}}\n",
        pid % 9
    );
    // A message that can be read can be written, and read again.
    if let Ok(message) = FromWorker::parse(line.trim_end()) {
        assert_eq!(FromWorker::parse(&message.emit()), Ok(message));
    }
    line
}
