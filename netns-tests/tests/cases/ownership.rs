//! Whose the table is: who can change it, how it gets its next owner, and what becomes of connections
//! where it can have none.

use ipcluster::internals::ruleset::TableName;
use ipcluster::lab::{Held, Network};
use ipcluster::nft::{Applied, Firewall, NftError, Protection};
use ipcluster::plan::{Ownership, Partition, Plan, Seat, Weights};
use ipcluster::ruleset::lower;
use netns_tests::plans::{firewall, full, occupy, shared};
use netns_tests::{Case, Lab, Need, Process, Witness, plans};
use nix::errno::Errno;

const LISTENERS: &[&str] = &["10.9.0.1:80", "[fd09::1]:80"];
const TABLE: &str = "ipcluster_t";

pub(crate) fn cases() -> Vec<Case> {
    let nft = |name, body| Case::new(name, body).needs(Need::Nft);
    vec![
        nft("nobody_else_changes_an_owned_table", protected),
        nft("a_table_outlives_its_owner_and_is_adopted_as_it_is", adopted),
        nft("an_orphan_is_adopted_and_changed_in_one_transaction", adopted_and_changed),
        nft("a_changed_orphan_is_replaced", changed_orphan),
        nft("an_orphan_is_protected_from_nobody", unprotected_orphan),
        nft("a_live_owner_is_named_and_left_alone", live_owner),
        nft("a_shared_table_becomes_owned_and_connections_live_on", shared_to_owned),
        nft("an_older_schema_is_migrated_and_connections_live_on", older_schema),
        nft("a_newer_schema_is_refused_and_left_alone", newer_schema),
        nft("flags_that_the_kernel_does_not_know_are_told_apart", unknown_flags),
        nft("connections_live_through_the_flush_of_a_shared_table", shared_flush),
        nft("control_connections_do_not_live_through_the_flush_of_an_orphan", orphan_flush),
    ]
}

fn plan() -> Plan {
    full(LISTENERS, Partition::hash(16).unwrap(), 4)
}

/// The table as nft lists it, without counters and without what tells whose it is.
fn listing(lab: &Lab) -> String {
    contents(&lab.witness().nft(&["--stateless", "list", "table", "inet", TABLE], ""))
}

fn contents(listing: &str) -> String {
    let (_, contents) = listing.split_once('\n').expect("a table");
    // Nor the empty line that follows the comment where there are no flags.
    let lines = contents.lines().filter(|line| !line.starts_with("\tflags ") && !line.is_empty());
    lines.map(|line| format!("{line}\n")).collect()
}

/// What nft says of the owner: `owner` while there is one, an empty list of flags for an orphan (nft
/// 1.0.6 does not know the flag `persist`), none for a shared table.
fn flags(lab: &Lab) -> Option<String> {
    let listing = lab.witness().nft(&["list", "table", "inet", TABLE], "");
    let flags = listing.lines().find_map(|line| line.strip_prefix("\tflags "));
    flags.map(|flags| flags.split(',').next().unwrap().trim().to_owned())
}

fn is_owned(lab: &Lab) -> bool {
    flags(lab).as_deref() == Some("owner")
}

/// Whether nft is refused with `EPERM`.
fn is_forbidden(lab: &Lab, command: &str) -> bool {
    let command = lab.witness().naming_slots(command);
    let output = lab.witness().run("nft", &["-f", "-"], &command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || stderr.contains("Operation not permitted"), "{stderr}");
    !output.status.success()
}

/// What others might do to the table.
const CHANGES: [&str; 8] = [
    "delete table inet ipcluster_t",
    "add table inet ipcluster_t { flags dormant; }",
    "add chain inet ipcluster_t mine",
    "flush chain inet ipcluster_t seat_1",
    "insert rule inet ipcluster_t prerouting accept",
    "delete element inet ipcluster_t slots { first }",
    "add set inet ipcluster_t mine { type ipv4_addr; }",
    "flush table inet ipcluster_t",
];

fn protected(lab: &Lab) {
    let mut plan = plan();
    let mut owner = firewall(lab.server(), &plan);
    assert_eq!(owner.protection().unwrap(), Protection::Owned);
    assert_eq!(lab.witness().ruleset(), "", "the kernel was asked, and nothing was made");
    owner.apply(&plan).unwrap();
    for round in 1..=3 {
        assert!(is_owned(lab));
        let before = listing(lab);
        for change in CHANGES {
            assert!(is_forbidden(lab, change), "round {round}: {change}");
        }
        lab.witness().nft(&["flush", "ruleset"], "");
        assert_eq!(listing(lab), before);
        owner.verify().unwrap();
        // Reading stays open.
        let read = firewall(lab.server(), &plan).read_in_order_of(plan.listeners()).unwrap();
        assert_eq!(read.as_ref(), Some(&plan));
        // A swap, and then all of it anew.
        occupy(&mut plan, 1, 21000 + 100 * round, 1);
        owner.apply(&plan).unwrap();
        owner.restore(&plan).unwrap();
        owner.verify().unwrap();
    }
    assert!(owner.remove().unwrap());
    assert_eq!(lab.witness().ruleset(), "");
}

fn adopted(lab: &Lab) {
    let plan = plan();
    firewall(lab.server(), &plan).apply(&plan).unwrap();
    let before = lab.witness().nft(&["--handle", "list", "table", "inet", TABLE], "");
    for by_applying in [true, false, true] {
        assert_eq!(flags(lab).as_deref(), Some(""), "an orphan");
        let mut next = firewall(lab.server(), &plan);
        let read = next.read_in_order_of(plan.listeners()).unwrap();
        assert_eq!(read.as_ref(), Some(&plan));
        if by_applying {
            let Applied { operations, bytes, .. } = next.apply(&plan).unwrap();
            assert!(operations == 0 && bytes > 0, "{operations} operations, {bytes} bytes");
        } else {
            assert!(next.adopt().unwrap());
        }
        next.verify().unwrap();
        assert!(is_owned(lab) && is_forbidden(lab, CHANGES[0]));
        let again = next.apply(&plan).unwrap();
        assert_eq!((again.operations, again.bytes), (0, 0));
        // Not even the handles are others: nothing was made anew.
        let after = lab.witness().nft(&["--handle", "list", "table", "inet", TABLE], "");
        assert_eq!(contents(&after), contents(&before));
    }
}

fn adopted_and_changed(lab: &Lab) {
    let mut plan = plan();
    firewall(lab.server(), &plan).apply(&plan).unwrap();
    for (round, reads) in [(0, true), (1, false)] {
        let mut next = firewall(lab.server(), &plan);
        if reads {
            next.read_in_order_of(plan.listeners()).unwrap();
        }
        occupy(&mut plan, 2, 22000 + round, 1);
        let Applied { operations, .. } = next.apply(&plan).unwrap();
        assert_eq!(operations, 3, "its chain is flushed and gets its rules; no more");
        next.verify().unwrap();
        assert!(is_owned(lab));
    }
}

fn changed_orphan(lab: &Lab) {
    let plan = plan();
    // Nobody puts a table to sleep that has the flag `persist`: EOPNOTSUPP, since the flags that
    // nft sends lack it.
    for change in CHANGES.iter().filter(|change| !change.contains("dormant")) {
        firewall(lab.server(), &plan).apply(&plan).unwrap();
        let before = listing(lab);
        let mut next = firewall(lab.server(), &plan);
        next.read_in_order_of(plan.listeners()).unwrap();
        // Between its look and its first change.
        assert!(!is_forbidden(lab, change), "{change}");
        next.apply(&plan).unwrap_or_else(|error| panic!("{change}: {error}"));
        next.verify().unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_eq!(listing(lab), before, "{change}");
        assert!(is_owned(lab), "{change}");
    }
}

fn unprotected_orphan(lab: &Lab) {
    let plan = plan();
    firewall(lab.server(), &plan).apply(&plan).unwrap();
    assert!(!is_forbidden(lab, "flush ruleset"));
    assert_eq!(lab.witness().ruleset(), "");
    let mut next = firewall(lab.server(), &plan);
    assert!(!next.adopt().unwrap(), "there is nothing to adopt");
    next.apply(&plan).unwrap();
    drop(next);
    let mut stranger = firewall(lab.server(), &plan);
    assert!(stranger.remove().unwrap(), "what `flush` does");
    assert_eq!(lab.witness().ruleset(), "");
}

fn live_owner(lab: &Lab) {
    let plan = plan();
    let mut other = plan.clone();
    occupy(&mut other, 0, 23000, 1);
    let mut owner = firewall(lab.server(), &plan);
    owner.apply(&plan).unwrap();
    let before = listing(lab);
    for ownership in [Ownership::Auto, Ownership::Owned, Ownership::Shared] {
        let mut second = firewall(lab.server(), &plan).with_ownership(ownership);
        second.read_in_order_of(plan.listeners()).unwrap();
        let results = [
            second.adopt().map(drop),
            second.apply(&other).map(drop),
            second.restore(&other).map(drop),
            second.remove().map(drop),
        ];
        for (what, result) in ["adopt", "apply", "restore", "remove"].iter().zip(results) {
            let error = result.unwrap_err();
            let NftError::OwnedByOther { owner, .. } = &error else {
                panic!("{ownership:?}, {what}: {error:?}")
            };
            // The first netlink socket of netfilter that this process has opened.
            assert_eq!(*owner, std::process::id(), "{what}");
            assert!(error.to_string().contains(TABLE), "{error}");
        }
        assert_eq!(listing(lab), before, "{ownership:?}");
    }
    owner.verify().unwrap();
    let mut second = firewall(lab.server(), &plan);
    drop(owner);
    assert!(second.adopt().unwrap(), "it has gone");
    second.apply(&other).unwrap();
    second.verify().unwrap();
}

/// Greeters on the ports of [`plan`], and a connection to each of the addresses.
fn held(lab: &Lab) -> (Vec<Process>, Vec<Held>) {
    let greeters = (0..4).map(|seat| lab.greeter(20000 + seat, seat)).collect();
    let v4 = Network::clients_v4(10).map(|client| (client, Network::server_v4(80)));
    let v6 = Network::clients_v6(10).map(|client| (client, Network::server_v6(80)));
    let open = |(from, to)| Held::open(lab.client(), from, to).unwrap();
    (greeters, v4.chain(v6).map(open).collect())
}

fn all_live(held: &mut [Held], when: &str) {
    for connection in held {
        connection.echo(when).unwrap_or_else(|error| panic!("{when}: {error}"));
    }
}

fn shared_to_owned(lab: &Lab) {
    let plan = plan();
    let mut before = shared(lab.server(), &plan);
    before.apply(&plan).unwrap();
    let text = listing(lab);
    let (_greeters, mut held) = held(lab);
    drop(before);
    assert_eq!(flags(lab), None);
    let mut next = firewall(lab.server(), &plan);
    assert!(!next.adopt().unwrap(), "it cannot get an owner that it outlives");
    next.apply(&plan).unwrap();
    assert!(is_owned(lab));
    assert_eq!(listing(lab), text);
    all_live(&mut held, "owned");
    // And back: an orphan is as good as a shared table to who wants one.
    drop(next);
    let mut shared = shared(lab.server(), &plan);
    shared.apply(&plan).unwrap();
    assert!(!is_owned(lab));
    shared.restore(&plan).unwrap();
    assert_eq!(flags(lab), None);
    assert_eq!(listing(lab), text);
    all_live(&mut held, "shared");
}

/// Puts a table of `plan` there as a version with another schema would have left it, in one
/// transaction in place of what there may be.
fn load_schema(lab: &Lab, plan: &Plan, schema: u32) {
    let text = lower(plan).to_string();
    let marked = text.replacen(
        &format!("comment \"{}\"", TableName::COMMENT),
        &format!("comment \"ipcluster schema {schema}\""),
        1,
    );
    assert_ne!(marked, text);
    let tables = lab.witness().nft(&["list", "tables"], "");
    let there = tables.contains(&format!("table inet {TABLE}\n"));
    let delete = if there { format!("delete table inet {TABLE}\n") } else { String::new() };
    lab.witness().load(&format!("{delete}{marked}"));
}

fn older_schema(lab: &Lab) {
    let plan = plan();
    load_schema(lab, &plan, 1);
    let (_greeters, mut held) = held(lab);
    for open in [firewall, shared] {
        let mut next = open(lab.server(), &plan);
        let error = next.read_in_order_of(plan.listeners()).unwrap_err();
        assert!(
            matches!(error, NftError::Schema { found: 1, ours: TableName::SCHEMA, .. }),
            "{error:?}"
        );
        assert!(error.can_be_replaced());
        assert!(!next.adopt().unwrap());
        next.apply(&plan).unwrap();
        next.verify().unwrap();
        assert!(listing(lab).contains(TableName::COMMENT));
        all_live(&mut held, "migrated");
        drop(next);
        load_schema(lab, &plan, 1);
        all_live(&mut held, "as the older version left it");
    }
    assert!(firewall(lab.server(), &plan).remove().unwrap(), "what `flush` does");
}

fn newer_schema(lab: &Lab) {
    let plan = plan();
    for schema in [0, TableName::SCHEMA + 1, u32::MAX] {
        load_schema(lab, &plan, schema);
        let before = listing(lab);
        for open in [firewall, shared] {
            let mut firewall = open(lab.server(), &plan);
            let errors = [
                firewall.read().map(drop),
                firewall.adopt().map(drop),
                firewall.apply(&plan).map(drop),
                firewall.restore(&plan).map(drop),
                firewall.remove().map(drop),
                firewall.verify(),
            ];
            for error in errors.map(Result::unwrap_err) {
                assert!(
                    matches!(&error, NftError::Schema { found, .. } if *found == schema),
                    "{error:?}"
                );
                assert!(!error.can_be_replaced());
                let text = error.to_string();
                assert!(text.contains(&schema.to_string()) && text.contains(TABLE), "{text}");
            }
            assert_eq!(listing(lab), before);
        }
        let clusters = lab.server().run_in(Firewall::clusters).unwrap().unwrap();
        assert_eq!(clusters, [plan.name().clone()], "it is known as ours");
        lab.witness().nft(&["delete", "table", "inet", TABLE], "");
    }
}

/// What an older kernel says to the flags that came later is what this one says to flags that are
/// still to come.
fn unknown_flags(lab: &Lab) {
    let plan = plan();
    let mut firewall = firewall(lab.server(), &plan);
    for (flags, expected) in [
        (0x0, Ok(())),
        (0x2, Ok(())),
        (0x6, Ok(())),
        (0x80, Err(Errno::EOPNOTSUPP as i32)),
        (0x86, Err(Errno::EOPNOTSUPP as i32)),
    ] {
        let answer = firewall.try_table_flags(flags).unwrap().map_err(|errno| errno.raw());
        assert_eq!(answer, expected, "{flags:#x}");
    }
    assert_eq!(lab.witness().ruleset(), "");
}

const KEEPER: &str = "table inet ipcluster.keep_t {\n\
    \tflags owner\n\
    \tcomment \"keeps connections of ipcluster_t alive through a flush\"\n\
    \n\
    \tchain keep {\n\
    \t\ttype nat hook prerouting priority 100; policy accept;\n\
    \t\tct state new\n\
    \t}\n\
    }\n";

fn shared_flush(lab: &Lab) {
    let mut plan = plan();
    let mut shared = shared(lab.server(), &plan);
    assert_eq!(shared.protection().unwrap(), Protection::Kept);
    shared.apply(&plan).unwrap();
    let (_greeters, mut held) = held(lab);
    for round in 0..10 {
        lab.witness().nft(&["flush", "ruleset"], "");
        let left = lab.witness().ruleset();
        assert_eq!(without_program(&left), KEEPER, "round {round}");
        assert_eq!(lab.server().run_in(Firewall::clusters).unwrap().unwrap(), []);
        all_live(&mut held, "while the rules are gone");
        match round % 2 {
            0 => shared.restore(&plan).map(drop).unwrap(),
            _ => {
                occupy(&mut plan, 3, 24000, 1 + round);
                shared.apply(&plan).map(drop).unwrap();
                occupy(&mut plan, 3, 20000, 1 + round);
                shared.apply(&plan).map(drop).unwrap();
            }
        }
        shared.verify().unwrap();
        all_live(&mut held, "when they are there again");
    }
    // What nft lists it loads again.
    let listed = lab.witness().nft(&["list", "table", "inet", "ipcluster.keep_t"], "");
    let other = ipcluster::lab::Namespace::new().unwrap();
    assert_eq!(Witness::new(&other).check(&listed), Ok(()));
    drop(shared);
    let left = lab.witness().ruleset();
    assert!(left.contains(TABLE) && !left.contains("ipcluster.keep"), "{left}");
    all_live(&mut held, "with the table alone");
    let mut more = plan.rescaled(&Weights::equal(5).unwrap()).unwrap();
    occupy(&mut more, 4, 20000, 1);
    more.vacate(Seat(4)).unwrap();
    let mut next = plans::shared(lab.server(), &more);
    next.apply(&more).unwrap();
    assert!(next.remove().unwrap());
    assert_eq!(lab.witness().ruleset(), "", "the keeper goes with the rules");
}

fn without_program(listing: &str) -> String {
    let lines = listing.lines().map(|line| line.split(" # progname").next().unwrap());
    lines.map(|line| format!("{line}\n")).collect()
}

/// The control: with nothing that keeps them, connections are reset.
fn orphan_flush(lab: &Lab) {
    let plan = plan();
    let mut owner = firewall(lab.server(), &plan);
    owner.apply(&plan).unwrap();
    let (_greeters, mut held) = held(lab);
    lab.witness().nft(&["flush", "ruleset"], "");
    all_live(&mut held, "owned");
    drop(owner);
    all_live(&mut held, "an orphan");
    lab.witness().nft(&["flush", "ruleset"], "");
    let lost = held.iter_mut().filter_map(|connection| connection.echo("gone").err()).count();
    assert_eq!(lost, held.len());
}
