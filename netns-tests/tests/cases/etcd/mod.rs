//! Members of a fleet by real etcd servers: what they come to know, while servers end, are slow, forget and ask for
//! proof of who asks.

use std::collections::BTreeMap;
use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::internals::membership::{EtcdAccess, EtcdMember};
use ipcluster::lab::Namespace;
use ipcluster::plan::fleet::{Fleet, MacAddress, Member, MemberState};
use netns_tests::{Case, Lab, Need, Witness, libfaketime, wait_until};
use serde_json::json;

use servers::{Proxy, Server, with_clock};

pub(crate) mod servers;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).needs(Need::Etcd);
    vec![
        case("members_join_drain_leave_and_are_lost", life),
        case("the_leader_of_three_servers_is_killed", leader_killed),
        case("a_watch_whose_revisions_were_compacted_begins_anew", compacted),
        case("etcd_is_away_for_longer_than_a_lease_and_nothing_changes", away),
        case("etcd_is_away_for_30_s_and_nothing_changes", away_for_long).on_request(),
        case("etcd_has_lost_its_data_and_no_member_is_lost", lost_data),
        case("a_slow_etcd_costs_nobody_its_lease", slow),
        case("users_passwords_and_tokens_that_end", users),
        case("certificates_of_servers_and_of_members", certificates),
        case("the_wall_clock_of_a_member_jumps_and_it_stays", clock).needs(Need::Faketime),
        case("who_is_cut_off_from_etcd_says_so_before_others_have_its_slots", cut_off),
        case("values_that_nobody_can_read_are_said_and_left", unreadable),
    ]
}

/// The shortest that etcd grants here is 2 s.
const LEASE: Duration = Duration::from_secs(2);

/// How long a busy machine may take.
const PATIENCE: Duration = Duration::from_secs(20);

const MEMBER: &str = "ETCD_MEMBER_OF";

/// A member as a program of its own, which a case has started with another clock.
pub(crate) fn play_member() {
    let Ok(endpoint) = env::var(MEMBER) else { return };
    let member = EtcdMember::start(member(1), &access([endpoint])).unwrap();
    member.ready();
    loop {
        // Until it is killed.
        thread::park();
    }
}

fn member(nth: u8) -> Member {
    let name = char::from(b'a' + nth - 1).to_string().parse().unwrap();
    let mac: MacAddress = format!("02:00:00:00:00:{nth:02x}").parse().unwrap();
    Member::new(name, [IpAddr::from([10, 7, 0, nth])]).unwrap().with_mac(Some(mac))
}

fn access(endpoints: impl IntoIterator<Item = String>) -> EtcdAccess {
    let endpoints = endpoints.into_iter().collect();
    EtcdAccess { endpoints, fleet: "web".to_owned(), lease: LEASE, ..EtcdAccess::default() }
}

/// A member that runs in the namespace of the servers.
fn start(lab: &Lab, nth: u8, access: &EtcdAccess) -> EtcdMember {
    start_in(lab.server(), nth, access)
}

fn start_in(namespace: &Namespace, nth: u8, access: &EtcdAccess) -> EtcdMember {
    namespace.run_in(|| EtcdMember::start(member(nth), access)).unwrap().unwrap()
}

/// Members that serve, and all know it.
fn serving(lab: &Lab, count: u8, access: &EtcdAccess) -> Vec<EtcdMember> {
    let members: Vec<EtcdMember> = (1..=count).map(|nth| start(lab, nth, access)).collect();
    members.iter().for_each(EtcdMember::ready);
    wait_for_states(&members, &vec![MemberState::Serving; usize::from(count)]);
    members
}

/// Waits until all of these have the same fleet, of members in these states.
fn wait_for_states(members: &[EtcdMember], states: &[MemberState]) -> (Arc<Fleet>, u64) {
    let mut agreed = None;
    wait_until(&format!("all to know of members that are {states:?}"), PATIENCE, || {
        let known: Vec<_> = members.iter().map(EtcdMember::fleet).collect();
        let is_as_wanted = |(fleet, _): &(Arc<Fleet>, u64)| {
            fleet.members().iter().map(Member::state).eq(states.iter().copied())
        };
        let first = known[0].clone().filter(is_as_wanted);
        let is_so = first.is_some() && known.iter().all(|it| *it == first);
        agreed = first;
        is_so
    });
    agreed.unwrap()
}

fn wait_until_current(members: &[EtcdMember]) {
    wait_until("all to reach etcd", PATIENCE, || members.iter().all(|it| it.source().is_ok()));
}

fn wait_until_away(members: &[EtcdMember]) {
    let is_away = |it: &EtcdMember| it.source().is_err_and(|reason| !reason.is_empty());
    wait_until("all to say that etcd is away", PATIENCE, || members.iter().all(is_away));
}

fn life(lab: &Lab) {
    use MemberState::{Draining, Lost, Serving};
    let server = Server::alone(lab);
    let access = access([server.url()]);
    let mut members = vec![start(lab, 1, &access), start(lab, 2, &access)];
    // Nothing is said of their workers yet, and they publish nothing.
    wait_until_current(&members);
    assert_eq!((members[0].fleet(), members[0].state().as_str()), (None, "Unlisted"));
    members.iter().for_each(EtcdMember::ready);
    let (fleet, _) = wait_for_states(&members, &[Serving, Serving]);
    assert_eq!(fleet.owners().owned_by(member(1).name()), 512);
    assert_eq!(members[1].state(), "Serving");

    members[1].drain(1);
    let (fleet, _) = wait_for_states(&members, &[Serving, Draining]);
    assert_eq!(fleet.owners().owned_by(member(2).name()), 0);
    members[1].drain(0);
    wait_until("b to leave", PATIENCE, || members[1].state() == "Gone");
    members.truncate(1);
    wait_for_states(&members, &[Serving]);

    // A program that ends without a word: its lease does.
    members.push(start(lab, 3, &access));
    members[1].ready();
    wait_for_states(&members, &[Serving, Serving]);
    members.truncate(1);
    let (fleet, _) = wait_for_states(&members, &[Serving, Lost]);
    assert_eq!(fleet.owners().owned_by(member(3).name()), 0);
    members.push(start(lab, 3, &access));
    members[1].ready();
    wait_for_states(&members, &[Serving, Serving]);
}

fn leader_killed(lab: &Lab) {
    use MemberState::Serving;
    let mut servers = Server::three(lab);
    let url = |nth: usize| servers[nth % 3].url();
    // Each begins with another server.
    let accesses: Vec<_> = (0..3).map(|nth| access((nth..nth + 3).map(url))).collect();
    let mut members: Vec<_> =
        (1..=2).map(|nth| start(lab, nth, &accesses[usize::from(nth)])).collect();
    members.iter().for_each(EtcdMember::ready);
    let (_, before) = wait_for_states(&members, &[Serving, Serving]);

    let leader = Server::kill_leader(&mut servers);
    let other = (leader + 1) % 3;
    // For longer than a lease: a member that had lost its own would be taken out.
    members.push(start(lab, 3, &accesses[0]));
    let began = Instant::now();
    wait_until("some time with two servers", PATIENCE, || began.elapsed() > LEASE * 2);
    wait_until_current(&members);
    for member in &members[..2] {
        assert_eq!(member.fleet().unwrap().1, before, "nothing has changed");
    }
    members[2].ready();
    let (_, joined) = wait_for_states(&members, &[Serving, Serving, Serving]);

    // One of three is no majority: nothing can be read, and all stays.
    servers[other].kill();
    wait_until_away(&members);
    servers[other].start();
    wait_until_current(&members);
    assert!(members.iter().all(|it| it.fleet().unwrap().1 == joined), "nothing has changed");
}

fn compacted(lab: &Lab) {
    use MemberState::Serving;
    let server = Server::alone(lab);
    let proxy = Proxy::before(&server);
    // What is asked is not given up while the watch is kept back.
    let far = EtcdAccess { lease: Duration::from_secs(30), ..access([proxy.url()]) };
    let mut members = vec![start(lab, 1, &far)];
    members[0].ready();
    wait_for_states(&members, &[Serving]);
    proxy.hold_watches(true);
    proxy.break_connections();
    wait_until_away(&members);
    // It has read all, and the watch that goes on from there is under way.
    wait_until_current(&members);
    let near = access([server.url()]);
    members.push(start(lab, 2, &near));
    members[1].ready();
    wait_for_states(&members[1..], &[Serving, Serving]);
    let revision = server.revision();
    server.ask("/v3/kv/compaction", &json!({"revision": revision.to_string()})).unwrap();
    assert_eq!(members[0].fleet().unwrap().0.members().len(), 1, "it knows of nothing yet");
    proxy.hold_watches(false);
    wait_for_states(&members, &[Serving, Serving]);
}

fn away(lab: &Lab) {
    stay_without_etcd(lab, LEASE * 2);
}

fn away_for_long(lab: &Lab) {
    stay_without_etcd(lab, Duration::from_secs(30));
}

fn stay_without_etcd(lab: &Lab, span: Duration) {
    let mut server = Server::alone(lab);
    let members = serving(lab, 3, &access([server.url()]));
    let before: Vec<_> = members.iter().map(EtcdMember::fleet).collect();
    server.kill();
    let began = Instant::now();
    wait_until_away(&members);
    wait_until("etcd to be away", span + PATIENCE, || began.elapsed() > span);
    let fleets = || members.iter().map(EtcdMember::fleet).collect::<Vec<_>>();
    assert_eq!(fleets(), before);
    server.start();
    wait_until_current(&members);
    // For longer than a lease: who had lost its own would be taken out by now.
    let began = Instant::now();
    wait_until("some time with etcd", PATIENCE, || began.elapsed() > LEASE + LEASE / 2);
    assert_eq!(fleets(), before);
}

fn lost_data(lab: &Lab) {
    use MemberState::Serving;
    let mut server = Server::alone(lab);
    let members = serving(lab, 3, &access([server.url()]));
    let (before, _) = members[0].fleet().unwrap();
    server.lose_data();
    wait_until_away(&members);
    server.start();
    wait_until_current(&members);
    let mut worst = 3;
    wait_until("the fleet to be there again", PATIENCE, || {
        for fleet in members.iter().filter_map(EtcdMember::fleet) {
            let serve = fleet.0.members().iter().filter(|it| it.state() == Serving).count();
            worst = worst.min(serve);
        }
        server
            .ask("/v3/kv/range", &json!({"key": "L2lwY2x1c3Rlci93ZWIvZmxlZXQ="}))
            .is_ok_and(|answer| answer["count"] == "1")
    });
    let (after, _) = wait_for_states(&members, &[Serving; 3]);
    assert_eq!((worst, after), (3, before));
}

fn slow(lab: &Lab) {
    use MemberState::Serving;
    let server = Server::alone(lab);
    let proxy = Proxy::before(&server);
    // An answer takes twice as long: it comes back the same way.
    proxy.delay(Duration::from_millis(200));
    let members = serving(lab, 2, &access([proxy.url()]));
    let (_, before) = members[0].fleet().unwrap();
    let began = Instant::now();
    wait_until("some time with a slow etcd", PATIENCE, || began.elapsed() > LEASE + LEASE / 2);
    let (_, after) = wait_for_states(&members, &[Serving, Serving]);
    assert_eq!(after, before, "nothing has changed");
}

/// `/ipcluster/web/`, and the first key behind all that begin so.
const PREFIX: (&str, &str) = ("L2lwY2x1c3Rlci93ZWIv", "L2lwY2x1c3Rlci93ZWIw");

fn users(lab: &Lab) {
    use MemberState::Serving;
    let mut server = Server::alone(lab);
    let ask = |path: &str, body| server.ask(path, &body).unwrap();
    let permission = json!({"permType": "READWRITE", "key": PREFIX.0, "range_end": PREFIX.1});
    ask("/v3/auth/role/add", json!({"name": "fleet-web"}));
    ask("/v3/auth/role/grant", json!({"name": "fleet-web", "perm": permission}));
    for (user, password, role) in [("root", "r", "root"), ("web", "secret", "fleet-web")] {
        ask("/v3/auth/user/add", json!({"name": user, "password": password}));
        ask("/v3/auth/user/grant", json!({"user": user, "role": role}));
    }
    ask("/v3/auth/enable", json!({}));

    let as_user = |password: &str| EtcdAccess {
        user: Some(("web".to_owned(), password.to_owned())),
        ..access([server.url()])
    };
    let nobody = start(lab, 1, &access([server.url()]));
    let wrong = start(lab, 1, &as_user("wrong"));
    for (member, words) in [(&nobody, "user name is empty"), (&wrong, "authentication failed")] {
        let says = || member.source().is_err_and(|reason| reason.contains(words));
        wait_until(&format!("one that says: {words}"), PATIENCE, says);
    }
    drop((nobody, wrong));
    let members = serving(lab, 2, &as_user("secret"));
    let (_, before) = members[0].fleet().unwrap();

    // Tokens end when users or roles change.
    let root = ask("/v3/auth/authenticate", json!({"name": "root", "password": "r"}));
    let root = root["token"].as_str().unwrap();
    server.ask_as(Some(root), "/v3/auth/role/add", &json!({"name": "other"})).unwrap();
    let began = Instant::now();
    wait_until("some time with old tokens", PATIENCE, || began.elapsed() > LEASE + LEASE / 2);
    wait_until_current(&members);
    // And with a restart of the server.
    server.kill();
    wait_until_away(&members);
    server.start_with_users();
    wait_until_current(&members);
    let (_, after) = wait_for_states(&members, &[Serving, Serving]);
    assert_eq!(after, before, "nothing has changed");
    members[1].drain(0);
    wait_until("b to leave", PATIENCE, || members[1].state() == "Gone");
}

pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) server: (PathBuf, PathBuf),
    member: (PathBuf, PathBuf),
    other_ca: PathBuf,
}

impl Certificates {
    pub(crate) fn make(lab: &Lab) -> Self {
        use rcgen::{
            BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        };
        let write = |name: &str, text: String| {
            let path = lab.directory().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let authority = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let certificate = params.self_signed(&key).unwrap();
            (write(&format!("{name}.pem"), certificate.pem()), Issuer::new(params, key))
        };
        let (ca, issuer) = authority("ca");
        let (other_ca, _) = authority("other-ca");
        let signed = |name: &str| {
            let key = KeyPair::generate().unwrap();
            // As the cases and the documentation call the servers.
            let names = ["localhost", "127.0.0.1", "10.0.0.254", "etcd-1", "etcd-2", "etcd-3"];
            let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
            // The gateway of etcd is a client of the server itself, with the server's certificate.
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let certificate = params.signed_by(&key, &issuer).unwrap();
            let paths = write(&format!("{name}.pem"), certificate.pem());
            (paths, write(&format!("{name}.key"), key.serialize_pem()))
        };
        Self { server: signed("server"), member: signed("member"), ca, other_ca }
    }
}

fn certificates(lab: &Lab) {
    let made = Certificates::make(lab);
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (ca, cert, key) = (text(&made.ca), text(&made.server.0), text(&made.server.1));
    let arguments =
        ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let server = Server::with(lab, &arguments);
    let secured = |ca: &PathBuf, identity: Option<&(PathBuf, PathBuf)>| EtcdAccess {
        ca: Some(ca.clone()),
        identity: identity.cloned(),
        ..access([format!("https://127.0.0.1:{}", server.port)])
    };
    let refused = [
        (secured(&made.other_ca, Some(&made.member)), "certificate"),
        (secured(&made.ca, None), "certificate"),
        (access([format!("https://127.0.0.1:{}", server.port)]), "is needed, as a file"),
        (access([server.url()]), "HTTP"),
    ];
    for (access, words) in refused {
        let member = start(lab, 1, &access);
        let mut said = String::new();
        wait_until(&format!("one that says {words:?}"), PATIENCE, || {
            said = member.source().err().unwrap_or_default();
            said.to_lowercase().contains(&words.to_lowercase())
        });
    }
    let members = serving(lab, 2, &secured(&made.ca, Some(&made.member)));
    members[1].drain(0);
    wait_until("b to leave", PATIENCE, || members[1].state() == "Gone");
}

fn clock(lab: &Lab) {
    use MemberState::Serving;
    let server = Server::alone(lab);
    let file = lab.directory().join("clock");
    let set = |offset: &str| {
        let new = file.with_extension("new");
        std::fs::write(&new, offset).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    set("+0d");
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(MEMBER, server.url());
    let library = libfaketime().expect("as needed");
    let mut other = lab.start("member", with_clock(command, &library, &file));
    let members = vec![start(lab, 2, &access([server.url()]))];
    members[0].ready();
    let (_, before) = wait_for_states(&members, &[Serving, Serving]);
    for offset in ["+4000d", "-4000d", "+3s", "-1h"] {
        set(offset);
        let began = Instant::now();
        // For as long as it takes to keep a lease alive, and longer.
        wait_until("some time", PATIENCE, || began.elapsed() > LEASE / 2);
    }
    let began = Instant::now();
    wait_until("the time of a lease", PATIENCE, || began.elapsed() > LEASE);
    assert!(other.is_running(), "{}", other.output());
    assert_eq!(members[0].fleet().unwrap().1, before, "nothing has changed");
}

/// For how long two members that reach etcd have both owned a slot, at the longest.
#[derive(Default)]
struct Doubt {
    since: Option<Instant>,
    longest: Duration,
    /// It was seen that one says that etcd is away before the others had its slots.
    said_before: Option<bool>,
}

impl Doubt {
    fn look(&mut self, members: &[EtcdMember], now: Instant) {
        // What is said of the source is asked first: what is known then was known when it was said.
        let known: BTreeMap<u8, (Arc<Fleet>, u64)> = members
            .iter()
            .zip(1..)
            .filter(|(it, _)| it.source().is_ok())
            .filter_map(|(it, nth)| Some((nth, it.fleet()?)))
            .collect();
        let owned = |nth: u8| known.get(&nth).map(|(fleet, _)| (member(nth), fleet));
        let both = |one: u8, other: u8| {
            let (Some((one, its)), Some((other, others))) = (owned(one), owned(other)) else {
                return false;
            };
            let pairs = its.owners().iter().zip(others.owners().iter());
            let mut pairs = pairs.map(|((its, _), (others, _))| (its, others));
            pairs.any(|(its, others)| its == one.name() && others == other.name())
        };
        let are_two = both(1, 2) || both(1, 3) || both(2, 3);
        match (are_two, self.since) {
            (true, None) => self.since = Some(now),
            (true, Some(since)) => self.longest = self.longest.max(now.duration_since(since)),
            (false, _) => self.since = None,
        }
        let others_know = members[1..].iter().filter_map(EtcdMember::fleet);
        let mut lost = others_know.map(|(fleet, _)| fleet.owners().owned_by(member(1).name()) == 0);
        if self.said_before.is_none() && lost.any(|is_lost| is_lost) {
            self.said_before = Some(members[0].source().is_err());
        }
    }
}

/// Three hosts, each on one link with etcd and on another one with the others and the router.
fn cut_off(lab: &Lab) {
    use MemberState::{Lost, Serving};
    let ip = |namespace: &Namespace, arguments: &str| {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        Witness::new(namespace).succeed("ip", &arguments, "");
    };
    for (name, address) in [("store", "10.8.0.254/24"), ("fleet", "10.7.0.254/24")] {
        ip(lab.client(), &format!("link add {name} type bridge"));
        ip(lab.client(), &format!("address add {address} dev {name}"));
        ip(lab.client(), &format!("link set {name} up"));
    }
    let hosts: Vec<Namespace> = (1..=3).map(|_| Namespace::new().unwrap()).collect();
    let mut holders = vec![];
    for (nth, host) in (1..).zip(&hosts) {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let log = lab.directory().join(format!("holder-{nth}.log"));
        let holder = netns_tests::Process::start(host, sleep, &log);
        for (bridge, net) in [("store", "10.8.0"), ("fleet", "10.7.0")] {
            let there = format!("{bridge}{nth}");
            let pid = holder.pid();
            ip(lab.client(), &format!("link add {there} type veth peer name {bridge} netns {pid}"));
            ip(lab.client(), &format!("link set {there} master {bridge} up"));
            ip(host, &format!("address add {net}.{nth}/24 dev {bridge}"));
            ip(host, &format!("link set {bridge} up"));
        }
        holders.push(holder);
    }
    let server = Server::at(lab, lab.client(), Ipv4Addr::new(10, 8, 0, 254));
    let access = access([server.url()]);
    let members: Vec<EtcdMember> =
        hosts.iter().zip(1..).map(|(host, nth)| start_in(host, nth, &access)).collect();
    members.iter().for_each(EtcdMember::ready);
    let (_, before) = wait_for_states(&members, &[Serving; 3]);

    // From the others alone, as from the router: etcd is not in the way of packets, and nothing changes.
    ip(&hosts[0], "link set fleet down");
    let began = Instant::now();
    wait_until("the time of a lease", PATIENCE, || began.elapsed() > LEASE + LEASE / 4);
    assert!(members.iter().all(|it| it.source().is_ok() && it.fleet().unwrap().1 == before));
    ip(&hosts[0], "link set fleet up");

    let ends = AtomicBool::new(false);
    let doubt = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut doubt = Doubt::default();
            while !ends.load(Ordering::SeqCst) {
                doubt.look(&members, Instant::now());
                thread::sleep(Duration::from_millis(1));
            }
            doubt
        });
        // From etcd alone.
        ip(&hosts[0], "link set store down");
        wait_for_states(&members[1..], &[Lost, Serving, Serving]);
        wait_until_away(&members[..1]);
        assert_eq!(members[0].fleet().unwrap().1, before, "it goes on with what it knows");
        ip(&hosts[0], "link set store up");
        wait_for_states(&members, &[Serving; 3]);
        ends.store(true, Ordering::SeqCst);
        looking.join().unwrap()
    });
    println!("both owned a slot for {:?} at the longest", doubt.longest);
    assert_eq!(
        doubt.said_before,
        Some(true),
        "it says that etcd is away before others have its slots"
    );
    assert!(doubt.longest < LEASE, "two members own a slot for {:?}", doubt.longest);
}

fn unreadable(lab: &Lab) {
    use MemberState::Serving;
    let server = Server::alone(lab);
    let access = access([server.url()]);
    let members = serving(lab, 2, &access);
    // members/c and something else, written by hand.
    for key in ["L2lwY2x1c3Rlci93ZWIvbWVtYmVycy9j", "L2lwY2x1c3Rlci93ZWIvb3RoZXI="] {
        server.ask("/v3/kv/put", &json!({"key": key, "value": "eA=="})).unwrap();
    }
    wait_until("both to say so", PATIENCE, || {
        members.iter().all(|it| it.troubles().iter().any(|said| said.contains("key members/c")))
    });
    wait_for_states(&members, &[Serving, Serving]);
    server.ask("/v3/kv/deleterange", &json!({"key": "L2lwY2x1c3Rlci93ZWIvbWVtYmVycy9j"})).unwrap();
    wait_until("nothing to say", PATIENCE, || members.iter().all(|it| it.troubles().is_empty()));
}
