//! Transactions that the kernel refuses, tables that others have touched, replies that are lost:
//! what the caller is told, and what is in force afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::internals::ruleset::{ChainName, Operation, TableName, Transaction};
use ipcluster::internals::ruleset::{Digest, Elements, Family, Rule, Scope, Set, SetName};
use ipcluster::lab::Namespace;
use ipcluster::nft::NetlinkError;
use ipcluster::nft::{Fault, Firewall, NftError};
use ipcluster::plan::{Generation, Partition, Plan, Seat, Weights};
use ipcluster::ruleset::lower;
use netns_tests::plans::{entry, firewall, full, occupy, shared, vacant};
use netns_tests::{Case, Lab, Need};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{MsgFlags, getsockopt, send, setsockopt, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

const LISTENERS: &[&str] = &["10.9.0.1:80", "[fd09::1]:80", "10.9.0.1:443", "10.9.0.2:80"];
const TABLE: &str = "ipcluster_t";

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("a_refusal_names_the_operation_and_changes_nothing", a_refusal).with_both_engines(),
        nft("several_refusals_come_in_order", several_refusals).with_both_engines(),
        nft("a_table_that_was_deleted_is_made_anew", a_deleted_table).with_both_engines(),
        nft("a_table_that_was_changed_is_made_anew", a_changed_table).with_both_engines(),
        nft("a_foreign_table_is_left_alone", a_foreign_table),
        nft("what_is_not_understood_is_named", what_is_not_understood),
        Case::new("a_transaction_too_long_for_the_socket_changes_nothing", too_long),
        nft("a_send_buffer_made_small_changes_nothing", a_small_send_buffer),
        nft("lost_replies_do_not_hide_the_outcome", lost_replies),
        nft("a_read_is_never_of_two_plans", a_read_is_of_one_plan).with_both_engines_on_request(),
        nft("the_set_of_an_older_run_is_gone_after_the_first_commit", an_older_run),
    ]
}

fn hash() -> Partition {
    Partition::hash(Partition::DEFAULT_SLOTS).unwrap()
}

fn whole(seats: u16) -> Plan {
    full(LISTENERS, hash(), seats)
}

fn seat(number: u16) -> ChainName {
    ChainName::Seat(Seat(number))
}

/// A namespace in which this plan is in force, in a table that others can change.
fn in_force(lab: &Lab, plan: &Plan) -> Firewall {
    let mut firewall = shared(lab.server(), plan);
    firewall.apply(plan).unwrap();
    firewall
}

/// Our table, without counters.
fn listing(lab: &Lab) -> String {
    lab.witness().nft(&["--stateless", "list", "table", "inet", TABLE], "")
}

fn faults(result: Result<(), NftError>) -> Vec<Fault> {
    match result {
        Err(NftError::Refused { faults, .. }) => faults,
        other => panic!("refused, not {other:?}"),
    }
}

fn a_refusal(lab: &Lab) {
    let plan = whole(3);
    let mut firewall = in_force(lab, &plan);
    let before = listing(lab);
    let rule = Rule::Drop { generation: Generation(1) };
    let masked = SetName::MaskedSlots(Family::V4, Digest(0));
    let lookup = Rule::Mask { scope: Scope::All(Family::V4), slots: 8, map: masked };
    let map = |name, seats| Set { name, elements: Elements::Seats(seats) };
    let sets = lower(&plan).sets().to_vec();
    let there = sets.iter().find(|set| matches!(set.name, SetName::Slots(_))).unwrap().name;
    let survivors = SetName::Survivors(Digest(0));
    // The kernel would add these to those that are there, if it were not told that it is to be new.
    let slots = map(there, vec![Seat(0); 3]);
    let missing_seats = map(survivors, vec![Seat(0), Seat(9)]);
    for (fault, errno) in [
        (Operation::AddTable, Errno::EEXIST),
        (Operation::AddChain(seat(1)), Errno::EEXIST),
        (Operation::AddChain(entry()), Errno::EEXIST),
        (Operation::DeleteChain(seat(1)), Errno::EBUSY),
        (Operation::DeleteChain(seat(7)), Errno::ENOENT),
        (Operation::FlushChain(seat(7)), Errno::ENOENT),
        (Operation::DeleteSet(there), Errno::EBUSY),
        (Operation::DeleteSet(survivors), Errno::ENOENT),
        (Operation::AddSet(slots), Errno::EEXIST),
        (Operation::AddSet(missing_seats), Errno::ENOENT),
        (Operation::AddRule(seat(7), rule.clone()), Errno::ENOENT),
        (Operation::AddRule(seat(1), lookup), Errno::ENOENT),
    ] {
        // Between two that the kernel would do.
        let operations = vec![
            Operation::AddChain(seat(100)),
            fault.clone(),
            Operation::AddRule(seat(100), rule.clone()),
        ];
        let transaction = Transaction { table: TableName::of(plan.name()), operations };
        let Err(error) = firewall.carry_out_as_it_is(&transaction) else {
            panic!("{fault:?} was carried out")
        };
        let text = error.to_string();
        let faults = faults(Err(error));
        assert_eq!(faults.len(), 1, "{text}");
        assert_eq!(
            (faults[0].operation(), faults[0].errno.raw()),
            (Some(&fault), errno as i32),
            "{text}"
        );
        assert!(text.contains(TABLE) && text.contains(errno.desc()), "{text}");
        if let Operation::DeleteChain(chain) = fault {
            assert!(text.contains(&format!("delete chain {chain}")), "{text}");
        }
        assert_eq!(listing(lab), before, "{text}");
    }
    // And with nothing at fault it is carried out.
    let operations = vec![Operation::AddChain(seat(100)), Operation::DeleteChain(seat(100))];
    let transaction = Transaction { table: TableName::of(plan.name()), operations };
    firewall.carry_out_as_it_is(&transaction).unwrap();
    assert_eq!(listing(lab), before);
}

fn several_refusals(lab: &Lab) {
    let plan = whole(3);
    let mut firewall = in_force(lab, &plan);
    let before = listing(lab);
    let missing = [5, 6, 7].map(|number| Operation::FlushChain(seat(number)));
    let mut operations = vec![Operation::FlushChain(seat(0))];
    for operation in &missing {
        operations.extend([operation.clone(), Operation::FlushChain(seat(1))]);
    }
    let table = TableName::of(plan.name());
    let result = firewall.carry_out_as_it_is(&Transaction { table, operations });
    let named: Vec<_> =
        faults(result).into_iter().filter_map(|fault| fault.operation().cloned()).collect();
    assert_eq!(named, missing);
    assert_eq!(listing(lab), before);
}

fn a_deleted_table(lab: &Lab) {
    let mut plan = whole(4);
    let mut firewall = in_force(lab, &plan);
    lab.witness().nft(&["delete", "table", "inet", TABLE], "");
    assert!(matches!(firewall.verify(), Err(NftError::Differs { .. })));
    plan.vacate(Seat(2)).unwrap();
    firewall.apply(&plan).unwrap();
    firewall.verify().unwrap();
    assert_eq!(firewall.read_in_order_of(plan.listeners()).unwrap(), Some(plan));
}

/// Changes of a table by somebody else, and the object that a reader names. `ENTRY` is the base chain
/// where packets of clients enter.
const CHANGES: [(&str, &str); 12] = [
    ("add chain inet ipcluster_t mine", "chain mine"),
    ("add chain inet ipcluster_t seat_01", "chain seat_01"),
    ("add set inet ipcluster_t mine { type ipv4_addr; }", "set mine"),
    ("add rule inet ipcluster_t seat_1 accept", "a rule of chain seat_1"),
    ("insert rule inet ipcluster_t ENTRY tcp dport 9 drop", "a rule of chain ENTRY"),
    ("add rule inet ipcluster_t ENTRY goto seat_0", "a rule of chain ENTRY"),
    ("add chain inet ipcluster_t ENTRY { policy drop; }", "chain ENTRY"),
    ("add table inet ipcluster_t { flags dormant; }", "a flag of the table"),
    ("delete element inet ipcluster_t slots { first }", "set slot"),
    ("flush chain inet ipcluster_t ENTRY", "a rule of chain ENTRY"),
    ("flush chain inet ipcluster_t seat_1", "it holds more than one plan"),
    ("flush set inet ipcluster_t listeners4", "it holds more than one plan"),
];

fn changes() -> [(String, String); 12] {
    let entry = entry().to_string();
    CHANGES
        .map(|(change, object)| (change.replace("ENTRY", &entry), object.replace("ENTRY", &entry)))
}

fn a_changed_table(lab: &Lab) {
    for (change, _) in changes() {
        let mut plan = whole(4);
        let mut firewall = in_force(lab, &plan);
        lab.witness().load(&lab.witness().naming_slots(&change));
        let changed = listing(lab);
        let noticed = firewall.verify().unwrap_err();
        assert!(
            matches!(noticed, NftError::Differs { .. } | NftError::NotUnderstood { .. }),
            "{change}: {noticed}"
        );
        assert_eq!(listing(lab), changed, "{change}: looking changes nothing");
        // What the master does when a commit has failed: it looks what is there, and tries again.
        firewall.read_in_order_of(plan.listeners()).unwrap_err();
        occupy(&mut plan, 0, 21000, 1);
        firewall.apply(&plan).unwrap_or_else(|error| panic!("{change}: {error}"));
        firewall.verify().unwrap_or_else(|error| panic!("{change}: {error}"));
        let clean = Namespace::new().unwrap();
        shared(&clean, &plan).apply(&plan).unwrap();
        let witness = netns_tests::Witness::new(&clean);
        let expected = witness.nft(&["--stateless", "list", "table", "inet", TABLE], "");
        assert_eq!(listing(lab), expected, "{change}: nothing is left of it");
        firewall.remove().unwrap();
    }
}

fn what_is_not_understood(lab: &Lab) {
    for (change, object) in changes() {
        let plan = whole(4);
        drop(in_force(lab, &plan));
        lab.witness().load(&lab.witness().naming_slots(&change));
        let changed = listing(lab);
        let mut second = firewall(lab.server(), &plan);
        let error = second.read_in_order_of(plan.listeners()).unwrap_err();
        assert!(matches!(error, NftError::NotUnderstood { .. }), "{change}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(&object) && text.contains(TABLE), "{change}: {text}");
        assert_eq!(listing(lab), changed, "{change}: reading changes nothing");
        let clusters = lab.server().run_in(Firewall::clusters).unwrap().unwrap();
        assert_eq!(clusters, [plan.name().clone()], "it is known as ours all the same");
        assert!(second.remove().unwrap(), "{change}: it can be removed");
        assert_eq!(lab.witness().ruleset(), "");
    }
}

fn a_foreign_table(lab: &Lab) {
    let plan = whole(4);
    for table in [
        "table inet ipcluster_t {\n\tchain x {\n\t\ttcp dport 1 accept\n\t}\n}\n",
        "table inet ipcluster_t {\n\tcomment \"ipcluster schema x\"\n}\n",
        "table inet ipcluster_t {\n\tcomment \"ipcluster schema 02\"\n}\n",
        "table inet ipcluster_t {\n}\n",
    ] {
        lab.witness().load(table);
        let before = listing(lab);
        for mut firewall in [firewall(lab.server(), &plan), shared(lab.server(), &plan)] {
            let foreign = |error| matches!(error, NftError::ForeignTable { .. });
            assert!(foreign(firewall.read().unwrap_err()));
            assert!(foreign(firewall.adopt().unwrap_err()));
            assert!(foreign(firewall.apply(&plan).unwrap_err()));
            assert!(foreign(firewall.restore(&plan).unwrap_err()));
            assert!(foreign(firewall.remove().unwrap_err()));
            assert!(foreign(firewall.verify().unwrap_err()));
            assert_eq!(lab.server().run_in(Firewall::clusters).unwrap().unwrap(), []);
            assert_eq!(listing(lab), before);
        }
        lab.witness().nft(&["delete", "table", "inet", TABLE], "");
    }
    // Also one that takes the place of ours while we think that ours is there.
    let mut firewall = in_force(lab, &plan);
    lab.witness().nft(&["delete", "table", "inet", TABLE], "");
    lab.witness().load("table inet ipcluster_t {\n\tchain seat_0 {\n\t\taccept\n\t}\n}\n");
    let before = listing(lab);
    let mut next = plan;
    occupy(&mut next, 1, 21000, 1);
    occupy(&mut next, 0, 22000, 1);
    let error = firewall.apply(&next).unwrap_err();
    assert!(matches!(error, NftError::ForeignTable { .. }), "{error}");
    assert_eq!(listing(lab), before);
}

fn too_long(_: &Lab) {
    // Where the capability is one of a user namespace only, the kernel lets nobody go beyond
    // net.core.wmem_max. This process has one thread here, as leaving a user namespace needs.
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).expect("one more user namespace");
    let here = Namespace::current().unwrap();
    let mut plan = whole(4);
    let mut firewall = firewall(&here, &plan);
    firewall.apply(&plan).unwrap();

    let limit = largest_send_buffer();
    let operations = vec![Operation::FlushChain(seat(0)); limit / 32];
    let transaction = Transaction { table: TableName::of(plan.name()), operations };
    let error = firewall.carry_out_as_it_is(&transaction).unwrap_err();
    let NftError::Netlink { source: NetlinkError::TooLong { length, limit: told }, .. } = error
    else {
        panic!("{error:?}")
    };
    assert!(length > told && told < limit && told > limit / 2, "{length}, {told}, {limit}");
    assert_eq!(firewall.read_in_order_of(plan.listeners()).unwrap().as_ref(), Some(&plan));

    // The largest plan there can be: in force, or what was in force still is.
    let mut huge = vacant(LISTENERS, Partition::hash(Partition::MAX_SLOTS).unwrap(), 1024);
    for seat in 0..1024 {
        occupy(&mut huge, seat, 20000, 1);
    }
    match firewall.apply(&huge) {
        Ok(applied) => {
            assert!(applied.bytes < limit, "{applied:?}, {limit}");
            assert_eq!(firewall.read_in_order_of(huge.listeners()).unwrap().as_ref(), Some(&huge));
            plan = huge;
        }
        Err(NftError::Netlink { source: NetlinkError::TooLong { length, .. }, .. }) => {
            assert!(length + 32 > limit, "{length}, {limit}");
            firewall.verify().expect("what was in force still is");
        }
        Err(error) => panic!("{error}"),
    }
    // And the socket is as good as before.
    plan.vacate(Seat(1)).unwrap();
    firewall.apply(&plan).unwrap();
    firewall.verify().unwrap();
}

/// How far a send buffer can be made to grow here.
fn largest_send_buffer() -> usize {
    let (socket, _other) = UnixStream::pair().unwrap();
    setsockopt(&socket, sockopt::SndBuf, &(1 << 29)).unwrap();
    getsockopt(&socket, sockopt::SndBuf).unwrap()
}

/// The kernel refuses the datagram itself (`EMSGSIZE`), since somebody made the buffer small behind
/// our back.
fn a_small_send_buffer(lab: &Lab) {
    let plan = whole(4);
    let (mut firewall, socket) = descriptor_of(|| firewall(lab.server(), &plan));
    firewall.apply(&plan).unwrap();
    let before = listing(lab);
    setsockopt(&socket, sockopt::SndBuf, &1).unwrap();
    let more = plan.rescaled(&Weights::equal(9).unwrap()).unwrap();
    let error = firewall.apply(&more).unwrap_err();
    let errno = match &error {
        NftError::Netlink { source, .. } => source.errno().map(|errno| errno.raw()),
        other => panic!("{other}"),
    };
    assert_eq!(errno, Some(Errno::EMSGSIZE as i32), "{error}");
    assert_eq!(listing(lab), before);
    firewall.verify().unwrap();
    // What fits is done.
    let mut next = plan;
    occupy(&mut next, 1, 21000, 1);
    firewall.apply(&next).unwrap();
    firewall.verify().unwrap();
}

/// A copy of the descriptor of the netlink socket that `open` opens.
fn descriptor_of<T>(open: impl FnOnce() -> T) -> (T, OwnedFd) {
    let sockets = || -> BTreeSet<i32> {
        let entries = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap());
        let is_socket =
            |path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let sockets = entries.filter(|entry| is_socket(entry.path()));
        sockets.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
    };
    let before = sockets();
    let opened = open();
    let new: Vec<i32> = sockets().difference(&before).copied().collect();
    let [number] = new[..] else { panic!("one new socket, not {new:?}") };
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    (opened, pidfd_getfd(ourselves, number, PidfdGetfdFlags::empty()).unwrap())
}

/// The kernel's count of messages that it could not put into the receive queue of a socket.
fn drops(lab: &Lab, socket: &OwnedFd) -> u64 {
    let inode = nix::sys::stat::fstat(socket).unwrap().st_ino.to_string();
    let read = || fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let table = lab.server().run_in(read).unwrap();
    // sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let columns = lines.find(|columns| columns[9] == inode).expect("our socket");
    columns[8].parse().unwrap()
}

/// Fills the receive queue of a socket with answers to questions that nobody asked for.
fn fill(socket: &OwnedFd) {
    use std::os::fd::AsRawFd;
    // NFT_MSG_GETGEN with NLM_F_REQUEST, number 0: as long as the kernel finds room for the answer.
    let mut request = vec![];
    request.extend(20u32.to_ne_bytes());
    request.extend(0x0a10u16.to_ne_bytes());
    request.extend(1u16.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([0; 4]);
    for _ in 0..16 {
        send(socket.as_raw_fd(), &request, MsgFlags::empty()).unwrap();
    }
}

fn lost_replies(lab: &Lab) {
    let mut plan = whole(4);
    let open = || firewall(lab.server(), &plan);
    let (mut firewall, socket) = descriptor_of(open);
    // The firewall makes its buffer large before the first transaction; afterwards it is small.
    firewall.apply(&plan).unwrap();
    setsockopt(&socket, sockopt::RcvBuf, &1).unwrap();
    for round in 0..100u16 {
        occupy(&mut plan, round % 4, 20100 + 12 * round, 1);
        let before = drops(lab, &socket);
        fill(&socket);
        let filled = drops(lab, &socket);
        assert!(filled > before, "round {round}: the queue is full");
        firewall.apply(&plan).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(drops(lab, &socket) > filled, "round {round}: the acknowledgement was lost");
        firewall.verify().unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    // A refusal that is lost is no success.
    for round in 0..100 {
        fill(&socket);
        let operations = vec![Operation::FlushChain(seat(0)), Operation::DeleteChain(seat(9))];
        let transaction = Transaction { table: TableName::of(plan.name()), operations };
        let error = firewall.carry_out_as_it_is(&transaction).unwrap_err();
        let lost = matches!(&error, NftError::Netlink { source: NetlinkError::RepliesLost, .. });
        assert!(lost, "round {round}: {error}");
        assert_eq!(firewall.read_in_order_of(plan.listeners()).unwrap().as_ref(), Some(&plan));
    }
}

fn a_read_is_of_one_plan(lab: &Lab) {
    let small = whole(3);
    let mut large = small.rescaled(&Weights::equal(9).unwrap()).unwrap();
    for seat in 3..9 {
        occupy(&mut large, seat, 20000, 1);
    }
    let mut writer = in_force(lab, &small);
    let mut reader = firewall(lab.server(), &small);
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let (mut reads, mut interrupted, mut seen) = (0, 0, [false; 2]);
    thread::scope(|scope| {
        let writes = scope.spawn(|| {
            let mut count = 0u32;
            while !stop.load(Ordering::Relaxed) {
                writer.apply(if count.is_multiple_of(2) { &large } else { &small }).unwrap();
                count += 1;
                // Leaves a reader time for a whole look now and then.
                if count.is_multiple_of(50) {
                    thread::yield_now();
                }
            }
            count
        });
        // On a machine with much else to do a look that was interrupted again and again takes a second.
        while reads < 300 && (reads < 30 || began.elapsed() < Duration::from_secs(20)) {
            reads += 1;
            match reader.read_in_order_of(small.listeners()) {
                Ok(Some(plan)) if plan == small => seen[0] = true,
                Ok(Some(plan)) if plan == large => seen[1] = true,
                Err(NftError::Netlink { source: NetlinkError::DumpInterrupted { .. }, .. }) => {
                    interrupted += 1;
                }
                other => {
                    stop.store(true, Ordering::Relaxed);
                    panic!("a view of neither plan: {other:?}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        let writes = writes.join().unwrap();
        println!("{writes} commits; {reads} reads, {interrupted} of them given up; seen {seen:?}");
        assert!(writes > 100, "{writes} commits are no storm");
    });
    let last = reader.read_in_order_of(small.listeners()).unwrap().expect("a table");
    assert!(last == small || last == large);
}

fn an_older_run(lab: &Lab) {
    let old = whole(6);
    let mut new = full(LISTENERS, hash(), 4);
    for seat in 0..4 {
        occupy(&mut new, seat, 21000, 2);
    }
    new.set_generation(Generation(2));
    for reads_first in [false, true] {
        drop(in_force(lab, &old));
        assert!(listing(lab).contains("generation 1"), "{}", listing(lab));
        let mut firewall = firewall(lab.server(), &new);
        if reads_first {
            let read = firewall.read_in_order_of(new.listeners()).unwrap();
            assert_eq!(read.as_ref(), Some(&old));
        }
        firewall.apply(&new).unwrap();
        firewall.verify().unwrap();
        let after = listing(lab);
        assert!(!after.contains("generation 1") && !after.contains("seat_5"), "{after}");
        // In each seat one rule for port 80 of each family, and one for port 443.
        assert_eq!(after.matches("generation 2").count(), 12, "{after}");
        firewall.remove().unwrap();
    }
}
