//! Peers that misbehave on the control socket hold nobody up: neither an operator, nor the change of the
//! rules that follows upon a worker's death.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ipcluster::internals::ruleset::TableName;
use ipcluster::lab::{Held, Network};
use ipcluster::nft::{Watch, WatchEvent};
use netns_tests::{Case, Cluster, Lab, Need, greeter, signal, wait_until, waited_for_processor};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

pub(crate) fn cases() -> Vec<Case> {
    let case = |name, body| Case::new(name, body).serial();
    vec![
        case("a_thousand_hostile_connections_delay_no_swap", flood),
        case("a_worker_that_floods_its_master_delays_no_swap", flooded_by_worker)
            .needs(Need::Python),
        case("whoever_asks_for_the_status_delays_no_swap", asked)
            .limit(Duration::from_secs(300))
            .with_both_engines_on_request(),
    ]
}

const CONNECTIONS: usize = 1000;

/// What a swap may be delayed by.
const DELAY: Duration = Duration::from_millis(100);

/// So many workers are killed meanwhile.
const KILLS: usize = 10;

/// Time, less that in which the master or this process had no processor: those who flood have them, too.
struct Stopwatch {
    master: u32,
    began: Instant,
    waited: Duration,
}

impl Stopwatch {
    fn start(master: u32) -> Self {
        Self { master, waited: Self::waited(master), began: Instant::now() }
    }

    fn read(&self) -> Duration {
        self.began.elapsed().saturating_sub(Self::waited(self.master) - self.waited)
    }

    fn waited(master: u32) -> Duration {
        let of = |pid| waited_for_processor(pid).unwrap_or_default();
        of(master) + of(std::process::id())
    }
}

/// An operator's connection.
struct Operator(BufReader<UnixStream>);

impl Operator {
    /// Asks, and returns how long after the last progress the answer came.
    fn ask(&mut self, request: &str, master: u32) -> Duration {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut last = Stopwatch::start(master);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the master closed it");
            assert!(!line.starts_with("{\"error\""), "{line}");
            if line.starts_with("{\"ok\"") {
                return last.read();
            }
            if line.starts_with("{\"progress\"") {
                last = Stopwatch::start(master);
            }
        }
    }
}

/// Kills a worker, and returns how long after that the rules that lead past it were in force.
fn kill(worker: u32, master: u32, watch: &mut Watch) -> Duration {
    watch.read().unwrap();
    let since = Stopwatch::start(master);
    signal(worker, Signal::SIGKILL);
    let table = TableName::of(&"t".parse().unwrap());
    let is_swap = |change: &WatchEvent| match change {
        WatchEvent::Committed(commit) => commit.touches(&table),
        event => panic!("{event:?}"),
    };
    wait_until("the swap", Duration::from_secs(30), || {
        watch.read().unwrap().events.iter().any(is_swap)
    });
    since.read()
}

fn flood(lab: &Lab) {
    // How long a replacement is put off is another test's.
    let cluster = Cluster::new(lab, 2).argument("--spawn-backoff").argument("10ms..10ms");
    let mut cluster = cluster.argument("--spawn-give-up").argument("0").start(2);
    let mut watch = lab.server().run_in(Watch::open).unwrap().unwrap();
    let path = Path::new("/run/ipcluster/t.sock");
    let mut operator = Operator(BufReader::new(UnixStream::connect(path).unwrap()));
    let master = cluster.master().pid();
    let (ends, turned_away) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for first in 0..4 {
            let (ends, turned_away) = (&ends, &turned_away);
            scope.spawn(move || harass(path, first, ends, turned_away));
        }
        let _end = End(&ends);
        let begin = Instant::now();
        let (mut answers, mut reloads, mut swaps) = (Vec::new(), 0, Vec::new());
        let refused = || turned_away.load(Ordering::Relaxed);
        while begin.elapsed() < Duration::from_secs(3) || reloads < 2 || refused() < CONNECTIONS {
            assert!(begin.elapsed() < Duration::from_secs(90), "only {} were refused", refused());
            let request = match answers.len() % 10 {
                9 => {
                    reloads += 1;
                    "{\"v\":1,\"command\":\"reload\"}\n"
                }
                _ => "{\"v\":1,\"command\":\"status\"}\n",
            };
            answers.push(operator.ask(request, master));
            // No more than an operator's rate, so that what is measured is the loop.
            thread::sleep(Duration::from_millis(30));
        }
        for nth in 0..KILLS {
            let status = cluster.wait_until_settled(2);
            let victim = status.live()[nth % 2].pid.unwrap();
            swaps.push(kill(victim, master, &mut watch));
        }
        answers.sort();
        swaps.sort();
        let (slowest, latest) = (answers[answers.len() - 1], swaps[KILLS - 1]);
        println!(
            "{} answers, {reloads} of them reloads, all within {slowest:?}; {KILLS} deaths, all steered \
             around within {latest:?}; {} refused",
            answers.len(),
            refused()
        );
        assert!(latest < DELAY, "swaps: {swaps:?}");
        assert!(slowest < DELAY, "answers: {answers:?}");
    });
    cluster.wait_until_settled(2);
}

fn flooded_by_worker(lab: &Lab) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("workers/flood.py");
    let cluster = Cluster::new(lab, 2).argument("--ready=notify");
    let cluster = cluster.argument("--spawn-backoff").argument("10ms..10ms");
    let cluster = cluster.argument("--spawn-give-up").argument("0");
    let mut cluster = cluster.start_with(&["python3".into(), script.into()], 2);
    let mut watch = lab.server().run_in(Watch::open).unwrap().unwrap();
    let master = cluster.master().pid();
    let mut swaps = Vec::new();
    for _ in 0..KILLS {
        let victim = cluster.wait_until_settled(2).pids()[&1];
        swaps.push(kill(victim, master, &mut watch));
    }
    swaps.sort();
    println!("{KILLS} deaths, all steered around within {:?}", swaps[KILLS - 1]);
    assert!(swaps[KILLS - 1] < DELAY, "swaps: {swaps:?}");
    let status = cluster.wait_until_settled(2);
    assert_eq!(status.health(), ["ok", "ok"], "{status:?}");
}

/// So many connections that to count them takes longer than a swap may.
const HELD: usize = 8000;

/// What a worker's death may take to be acted on, with as many connections as there are.
const STEERED_WITHIN: Duration = Duration::from_millis(10);

fn asked(lab: &Lab) {
    // Workers, and this process, hold that many.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let workers = 4;
    let cluster = Cluster::new(lab, workers).argument("--spawn-backoff").argument("10ms..10ms");
    let mut cluster = cluster.argument("--spawn-give-up").argument("0").start(workers.into());
    let mut watch = lab.server().run_in(Watch::open).unwrap().unwrap();
    let clients: Vec<_> = Network::clients_v4(1000).collect();
    let to = Network::server_v4(80);
    let open = |nth: usize| Held::open(lab.client(), clients[nth % clients.len()], to).unwrap();
    let held: Vec<Held> = (0..HELD).map(open).collect();
    let master = cluster.master().pid();
    let (ends, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut swaps = Vec::new();
    thread::scope(|scope| {
        let _end = End(&ends);
        scope.spawn(|| {
            let path = Path::new("/run/ipcluster/t.sock");
            let mut operator = Operator(BufReader::new(UnixStream::connect(path).unwrap()));
            while !ends.load(Ordering::Relaxed) {
                operator.ask("{\"v\":1,\"command\":\"status\"}\n", master);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..=KILLS {
            let before = answered.load(Ordering::Relaxed);
            let status = cluster.wait_until_settled(workers.into());
            let victim = status.pids()[&(workers - 1)];
            wait_until("a status", Duration::from_secs(30), || {
                answered.load(Ordering::Relaxed) > before
            });
            swaps.push(kill(victim, master, &mut watch));
        }
    });
    let counted = cluster.status().workers.iter().filter_map(|it| it.connections).sum::<u32>();
    // The first of them had held connections, which the kernel closes before it tells of a death.
    swaps.remove(0);
    swaps.sort();
    println!(
        "{counted} connections; {KILLS} deaths, all steered around within {:?}",
        swaps[KILLS - 1]
    );
    assert!(counted as usize > HELD / 2, "{counted} of {HELD}");
    assert!(swaps[KILLS - 1] < STEERED_WITHIN, "swaps: {swaps:?}");
    // A takeover, which may take a second and a half, succeeds beside them as well.
    let began = Instant::now();
    let mut old = cluster.replace_master(&[greeter().into()]);
    assert!(old.wait(Duration::from_secs(10)).success(), "{}", old.output());
    println!("another master has taken over within {:.0?}", began.elapsed());
    let after = cluster.wait_until_settled(workers.into());
    let held_on = after.workers.iter().filter_map(|it| it.connections).sum::<u32>();
    assert!(held_on as usize > HELD / 2, "{held_on} of {counted}");
    drop(held);
}

/// Ends the flood, also when the case fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps a quarter of the connections open, each with something else that is no message, or far too
/// many, and begins anew whatever the master closes.
fn harass(path: &Path, first: usize, ends: &AtomicBool, turned_away: &AtomicUsize) {
    let demands = b"{\"v\":1,\"command\":\"status\"}\n".repeat(64);
    let garbage: [&[u8]; 6] = [
        b"{\"__type\":\"info\"}\n",
        b"null\n{}\n[]\n\"x\"\n",
        b"{\"__type\":\"ping\",\"pid\":1",
        &[b'x'; 70_000],
        b"{\"v\":1,\"command\":\"halt\"}\n{\"v\":1,\"command\":\"halt\"}\n",
        &demands,
    ];
    let mut open: Vec<Option<UnixStream>> = (0..CONNECTIONS / 4).map(|_| None).collect();
    while !ends.load(Ordering::Relaxed) {
        for (place, slot) in open.iter_mut().enumerate() {
            let stream = match slot.take() {
                Some(stream) => stream,
                None => match UnixStream::connect(path) {
                    Ok(stream) => stream,
                    Err(_) => continue,
                },
            };
            stream.set_nonblocking(true).unwrap();
            // It may be full, or closed: both are as well.
            let _ = (&stream).write(garbage[(first + place) % garbage.len()]);
            let mut answer = [0; 4096];
            match (&stream).read(&mut answer) {
                Ok(1..) => *slot = Some(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => *slot = Some(stream),
                // Closed by the master.
                Ok(0) | Err(_) => drop(turned_away.fetch_add(1, Ordering::Relaxed)),
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}
