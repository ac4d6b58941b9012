//! The netlink socket goes from one master to the next, and with it the table: at no moment is it
//! nobody's.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ipcluster::internals::process::{receive_descriptors, send_descriptors};
use ipcluster::internals::ruleset::{ChainName, Operation, TableName, Transaction};
use ipcluster::lab::Namespace;
use ipcluster::nft::NetlinkError;
use ipcluster::nft::{Firewall, NftError};
use ipcluster::plan::{Partition, Plan, Seat};
use netns_tests::plans::{firewall, full, occupy};
use netns_tests::{Case, Lab, wait_until};

/// Set in the process that plays the old master: the socket to send on.
const OLD_MASTER: &str = "HANDOVER_TO";

/// In a process that was started as the old master: does its part.
pub(crate) fn play_old_master() -> Option<ExitCode> {
    env::var_os(OLD_MASTER).map(|path| old_master(&path))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("the_table_is_owned_at_every_moment_of_a_handover", handed_over),
        Case::new("a_socket_that_was_sent_and_not_received_still_owns", on_its_way),
        Case::new("other_descriptors_are_refused", other_descriptors),
    ]
}

fn plan() -> Plan {
    let partition = Partition::hash(Partition::DEFAULT_SLOTS).unwrap();
    full(&["10.9.0.1:80", "[fd09::1]:80"], partition, 4)
}

/// Owns the table, hands it over, and ends when it is told to.
fn old_master(path: &OsStr) -> ExitCode {
    let plan = plan();
    let mut firewall = Firewall::open(plan.name()).unwrap();
    firewall.apply(&plan).unwrap();
    let mut peer = UnixStream::connect(path).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 1);
    send_descriptors(&peer, b"rules", &[firewall.as_fd()]).unwrap();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "told to go by the end of the stream");
    ExitCode::SUCCESS
}

/// Changes somebody else's table over and over, until `stop`. Returns how often it was refused, as
/// it has to be each time.
fn meddle(stranger: &mut Firewall, plan: &Plan, stop: &AtomicBool, refused: &AtomicU64) {
    let flush = Transaction {
        table: TableName::of(plan.name()),
        operations: vec![Operation::FlushChain(ChainName::Seat(Seat(0)))],
    };
    while !stop.load(Ordering::Relaxed) {
        match stranger.carry_out_as_it_is(&flush) {
            Err(NftError::OwnedByOther { .. }) => refused.fetch_add(1, Ordering::Relaxed),
            other => panic!("refused, not {other:?}"),
        };
    }
}

fn handed_over(lab: &Lab) {
    let plan = plan();
    let path = lab.directory().join("handover");
    let listener = UnixListener::bind(&path).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(OLD_MASTER, &path);
    let mut old = lab.start("old", command);
    let (mut peer, _) = listener.accept().unwrap();
    let mut stranger = firewall(lab.server(), &plan);
    let (stop, refused) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let meddler = scope.spawn(|| meddle(&mut stranger, &plan, &stop, &refused));
        let more = || {
            let before = refused.load(Ordering::Relaxed);
            wait_until("refusals", Duration::from_secs(5), || {
                meddler.is_finished() || refused.load(Ordering::Relaxed) > before + 50
            });
        };
        more();
        peer.write_all(b"!").unwrap();
        let mut bytes = [0; 16];
        let (length, descriptors) = receive_descriptors(&peer, &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"rules");
        let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).unwrap();
        let next = || Firewall::from_descriptor(plan.name(), descriptor);
        let mut next = lab.server().run_in(next).unwrap().unwrap();
        let read = next.read_in_order_of(plan.listeners()).unwrap();
        assert_eq!(read.as_ref(), Some(&plan));
        more();
        drop(peer);
        assert!(old.wait(Duration::from_secs(5)).success(), "{}", old.output());
        more();
        let mut changed = plan.clone();
        occupy(&mut changed, 1, 21000, 1);
        assert_eq!(next.apply(&changed).unwrap().operations, 3);
        next.verify().unwrap();
        more();
        stop.store(true, Ordering::Relaxed);
        meddler.join().unwrap();
        println!("{} changes refused", refused.load(Ordering::Relaxed));
        drop(next);
    });
    // The control: with the last copy of the descriptor its ownership ends.
    assert!(stranger.adopt().unwrap());
    stranger.apply(&plan).unwrap();
    stranger.verify().unwrap();
}

fn on_its_way(lab: &Lab) {
    let plan = plan();
    let (left, right) = UnixStream::pair().unwrap();
    let mut old = firewall(lab.server(), &plan);
    old.apply(&plan).unwrap();
    send_descriptors(&left, b"x", &[old.as_fd()]).unwrap();
    drop(old);
    let mut stranger = firewall(lab.server(), &plan);
    assert!(matches!(stranger.adopt(), Err(NftError::OwnedByOther { .. })));
    let (_, descriptors) = receive_descriptors(&right, &mut [0; 8]).unwrap();
    assert!(matches!(stranger.adopt(), Err(NftError::OwnedByOther { .. })));
    drop(descriptors);
    assert!(stranger.adopt().unwrap());
}

fn other_descriptors(lab: &Lab) {
    let plan = plan();
    let elsewhere = Namespace::new().unwrap();
    let foreign = firewall(&elsewhere, &plan);
    // NETLINK_ROUTE is 0.
    let (family, kind) = (rustix::net::AddressFamily::NETLINK, rustix::net::SocketType::RAW);
    let route = rustix::net::socket(family, kind, None);
    let cases: [(&str, OwnedFd); 4] = [
        ("no socket", File::open("/dev/null").unwrap().into()),
        ("no netlink socket", UnixStream::pair().unwrap().0.into()),
        ("a netlink socket of another family", route.unwrap()),
        ("a socket of another network namespace", foreign.as_fd().try_clone_to_owned().unwrap()),
    ];
    for (what, descriptor) in cases {
        let result = || Firewall::from_descriptor(plan.name(), descriptor).map(drop);
        match lab.server().run_in(result).unwrap() {
            Err(NftError::Netlink {
                source: NetlinkError::NotThatSocket { what: told }, ..
            }) => {
                assert_eq!(told, what);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}
