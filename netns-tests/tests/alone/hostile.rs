//! Peers that misbehave on the control socket hold nobody up.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::{Case, Cluster, Lab, Need, waited_for_processor};

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("a_thousand_hostile_connections_delay_no_swap", flood).needs(Need::Ipcluster)]
}

const CONNECTIONS: usize = 1000;

/// What a swap may be delayed by.
const DELAY: Duration = Duration::from_millis(100);

/// An operator's connection.
struct Operator(BufReader<UnixStream>);

impl Operator {
    /// Asks, and returns how long after the last progress the answer came, less the time in which the
    /// `master` or this thread had no processor: those who flood have them, too.
    fn ask(&mut self, request: &str, master: u32) -> Duration {
        let of = |pid| waited_for_processor(pid).unwrap_or_default();
        let waited = || of(master) + of(std::process::id());
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut last = (Instant::now(), waited());
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the master closed it");
            assert!(!line.starts_with("{\"error\""), "{line}");
            if line.starts_with("{\"ok\"") {
                return last.0.elapsed().saturating_sub(waited() - last.1);
            }
            if line.starts_with("{\"progress\"") {
                last = (Instant::now(), waited());
            }
        }
    }
}

fn flood(lab: &Lab) {
    let mut cluster = Cluster::new(lab, 2).start(2);
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
        let (mut answers, mut reloads) = (Vec::new(), 0);
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
        answers.sort();
        // The worst of a busy machine is not ours: the kernel makes whoever commits wait for others.
        let (most, worst) = (answers[answers.len() * 9 / 10], answers[answers.len() - 1]);
        println!(
            "{} answers, {reloads} of them reloads: 90 % within {most:?}, all within {worst:?}; {} refused",
            answers.len(),
            refused()
        );
        assert!(most < DELAY, "answers were delayed by {most:?}");
    });
    cluster.wait_until_settled(2);
}

/// Ends the flood, also when the case fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keeps a quarter of the connections open, each with something else that is no message, and begins
/// anew whatever the master closes.
fn harass(path: &Path, first: usize, ends: &AtomicBool, turned_away: &AtomicUsize) {
    let garbage: [&[u8]; 5] = [
        b"{\"__type\":\"info\"}\n",
        b"null\n{}\n[]\n\"x\"\n",
        b"{\"__type\":\"ping\",\"pid\":1",
        &[b'x'; 70_000],
        b"{\"v\":1,\"command\":\"halt\"}\n{\"v\":1,\"command\":\"halt\"}\n",
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
