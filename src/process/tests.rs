//! The room against the kernel: real processes, real sockets on the loopback interface.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::stat::Stat;
use super::*;
use crate::netlink::Errno;

/// Ends what a test has started, however the test ends.
struct Worker {
    child: Option<Child>,
    reader: OutputReader,
    lines: Vec<String>,
}

impl Worker {
    fn start(spawn: &Spawn) -> Result<Self, ProcessError> {
        let output = Output::create("test worker").unwrap();
        let child = spawn.start(&output)?;
        Ok(Self { child: Some(child), reader: output.into_reader(), lines: vec![] })
    }

    fn shell(script: &str) -> Self {
        Self::start(&shell(script)).unwrap()
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("not reaped in this test")
    }

    fn await_exit(&self) -> Exit {
        wait_for("the end of the worker", || self.child().exit().unwrap())
    }

    /// Waits until the worker has printed this many lines in all.
    fn await_lines(&mut self, count: usize) -> &[String] {
        wait_for("lines of the worker", || {
            self.read_lines();
            (self.lines.len() >= count).then_some(())
        });
        &self.lines
    }

    /// All that it prints until it ends.
    fn all_lines(mut self) -> Vec<String> {
        self.await_exit();
        let rest = self.reader.finish().unwrap();
        self.take(rest);
        std::mem::take(&mut self.lines)
    }

    fn read_lines(&mut self) {
        let printed = self.reader.poll(1 << 20).unwrap();
        self.take(printed);
    }

    fn take(&mut self, printed: Vec<OutputItem>) {
        self.lines.extend(printed.into_iter().map(|printed| match printed {
            OutputItem::Line(line) => plain(&line).into_owned(),
            OutputItem::Skipped { bytes } => panic!("{bytes} bytes skipped"),
        }));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        child.signal_group(Signal::SIGKILL).unwrap();
        wait_for("the end of all", || {
            let over = child.exit().unwrap().is_some() && child.others().unwrap() == 0;
            over.then_some(())
        });
        child.reap().unwrap();
    }
}

fn shell(script: &str) -> Spawn {
    Spawn {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        ..Spawn::default()
    }
}

/// This test program, to run one of its tests in a process of its own.
fn this_program(test: &str, role: &str) -> Spawn {
    let test = format!("process::tests::{test}");
    Spawn {
        program: std::env::current_exe().unwrap().into(),
        args: ["--exact", &test, "--nocapture", "--test-threads=1"].map(OsString::from).into(),
        env: BTreeMap::from([("IPCLUSTER_TEST_ROLE".into(), role.into())]),
        ..Spawn::default()
    }
}

fn role() -> Option<String> {
    std::env::var("IPCLUSTER_TEST_ROLE").ok()
}

/// Looks again and again, for 10 s at most.
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited 10 s for {what}");
        std::thread::yield_now();
    }
}

mod privilege;

mod spawning {
    use super::*;

    #[test]
    fn the_worker_gets_the_environment_given_and_nothing_else() {
        let mut spawn = shell("/usr/bin/env | /usr/bin/sort; echo \"$0\" \"$@\"");
        spawn.env.insert("PORT".into(), "20000".into());
        spawn.args.extend(["name", "a b"].map(OsString::from));
        let lines = Worker::start(&spawn).unwrap().all_lines();
        let names = |line: &String| line.split_once('=').map(|(name, _)| name.to_owned());
        let names: BTreeSet<_> = lines.iter().filter_map(names).collect();
        // Those that the shell itself adds.
        let extra: BTreeSet<_> = ["PWD", "OLDPWD", "SHLVL", "_"].map(str::to_owned).into();
        let given: BTreeSet<_> = ["PATH", "PORT"].map(str::to_owned).into();
        assert_eq!(names.difference(&extra).cloned().collect::<BTreeSet<_>>(), given);
        assert!(lines.contains(&"PORT=20000".to_owned()));
        assert_eq!(lines.last().unwrap(), "name a b");
    }

    #[test]
    fn the_worker_leads_a_session_and_a_group_in_its_directory() {
        let mut spawn = shell("pwd; exec sleep 1000");
        spawn.directory = Some("/usr/bin".into());
        let mut worker = Worker::start(&spawn).unwrap();
        assert_eq!(worker.await_lines(1), ["/usr/bin"]);
        let pid = worker.child().pid();
        let stat = Stat::read(pid).unwrap().unwrap();
        assert_eq!((stat.group, stat.session, stat.ended), (pid, pid, false));
        assert_eq!(stat.parent, std::process::id());
    }

    #[test]
    fn the_worker_gets_no_descriptor_but_the_standard_ones() {
        // One that an embedding program forgot to mark.
        let leaked = rustix::io::dup(std::io::stderr().as_fd()).unwrap();
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        let script =
            "for fd in /proc/$$/fd/*; do if [ -e $fd ]; then echo $fd; readlink $fd; fi; done";
        let lines = Worker::shell(script).all_lines();
        let number = |path: &String| path.rsplit('/').next().unwrap().to_owned();
        let targets: BTreeMap<String, &str> =
            lines.chunks(2).map(|pair| (number(&pair[0]), pair[1].as_str())).collect();
        assert_eq!(targets.keys().collect::<Vec<_>>(), ["0", "1", "2"], "{targets:?}");
        assert_eq!(targets["0"], "/dev/null");
        assert_eq!(targets["1"], targets["2"]);
        assert!(targets["1"].starts_with("/memfd:ipcluster:testworker"), "{targets:?}");
    }

    #[test]
    fn signals_are_neither_ignored_nor_blocked() {
        // The test program ignores SIGPIPE (Rust's runtime does); block one as well.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        blocked.thread_block().unwrap();
        let lines = Worker::shell("exec grep -E '^Sig(Blk|Ign)' /proc/self/status").all_lines();
        assert_eq!(lines, ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"]);
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let mut missing = shell("");
        missing.program = "no-such-program".into();
        let error = Worker::start(&missing).err().unwrap();
        assert!(matches!(&error, ProcessError::Exec { errno: Errno::ENOENT, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("cannot run program no-such-program: ENOENT"), "{text}");

        let mut forbidden = shell("");
        forbidden.program = "/etc".into();
        let error = Worker::start(&forbidden).err().unwrap();
        assert!(matches!(error, ProcessError::Exec { errno: Errno::EACCES, .. }), "{error:?}");

        // execvp(3) would give it to a shell.
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "echo served\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let by_path = Spawn { program: script.clone().into(), ..shell("") };
        let mut by_name = Spawn { program: "script".into(), ..shell("") };
        by_name
            .env
            .insert("PATH".into(), format!("/no/such:{}", directory.path().display()).into());
        for spawn in [by_path, by_name] {
            let error = Worker::start(&spawn).err().unwrap();
            assert_eq!(
                error.errno().map(Errno::known),
                Some(nix::errno::Errno::ENOEXEC),
                "{error:?}"
            );
            assert!(error.to_string().contains("it is no program"), "{error}");
            assert!(error.is_permanent());
        }
        std::fs::write(&script, "#!/bin/sh\necho served\n").unwrap();
        let mut named = shell("");
        (named.program, named.args) = ("script".into(), Vec::new());
        named.env.insert("PATH".into(), format!("/etc:{}", directory.path().display()).into());
        assert_eq!(Worker::start(&named).unwrap().all_lines(), ["served"]);

        let mut nowhere = shell("");
        nowhere.directory = Some("/no/such/directory".into());
        let error = Worker::start(&nowhere).err().unwrap();
        assert!(
            matches!(&error, ProcessError::Directory { errno: Errno::ENOENT, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("/no/such/directory"), "{error}");
    }

    #[test]
    fn zero_bytes_are_refused() {
        let zero = OsString::from("a\0b");
        let mut spawns = [shell(""), shell(""), shell(""), shell("")];
        spawns[0].program = zero.clone();
        spawns[1].args.push(zero.clone());
        spawns[2].env.insert("A".into(), zero.clone());
        spawns[3].directory = Some(zero.into());
        for spawn in spawns {
            let error = Worker::start(&spawn).err().unwrap();
            assert!(matches!(error, ProcessError::ZeroByte { .. }), "{error:?}");
        }
    }

    /// F19. In a process of its own: limits and users belong to all of it.
    #[test]
    fn without_processes_left_the_fork_is_at_fault_not_the_program() {
        if role().is_none() {
            let name = "spawning::without_processes_left_the_fork_is_at_fault_not_the_program";
            // Not as a worker, which could not change its user.
            let Spawn { program, args, env, .. } = this_program(name, "no processes left");
            let mut command = std::process::Command::new(program);
            let output = command.args(args).envs(env).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            return;
        }
        // Root is exempt from the limit. The thread that runs this counts, so 1 leaves none.
        if effective_uid() == 0 && nix::unistd::setuid(65_534.into()).is_err() {
            eprintln!("skipped: no user but root is known in this user namespace");
            return;
        }
        use nix::sys::resource::{Resource, setrlimit};
        setrlimit(Resource::RLIMIT_NPROC, 1, 1).unwrap();
        let error = Worker::start(&shell("exit 0")).err().unwrap();
        assert!(matches!(error, ProcessError::Fork { errno: Errno::EAGAIN, .. }), "{error:?}");
    }
}

mod ending {
    use super::*;

    #[test]
    fn an_exit_is_seen_before_it_is_taken() {
        for (script, exit) in [
            ("exit 0", Exit::Code(0)),
            ("exit 3", Exit::Code(3)),
            ("kill -KILL $$", Exit::Signal(9)),
            ("kill -TERM $$", Exit::Signal(15)),
        ] {
            let mut worker = Worker::shell(script);
            assert_eq!(worker.await_exit(), exit, "{script}");
            assert_eq!(worker.child().exit().unwrap(), Some(exit));
            assert!(worker.child().pidfd().has_exited().unwrap());
            let child = worker.child.take().unwrap();
            let pid = child.pid();
            assert!(Stat::read(pid).unwrap().unwrap().ended, "a zombie until it is reaped");
            assert_eq!(child.reap().unwrap(), exit);
            assert!(Stat::read(pid).unwrap().is_none_or(|stat| stat.parent != std::process::id()));
        }
    }

    #[test]
    fn a_running_worker_is_not_reaped() {
        let mut worker = Worker::shell("exec sleep 1000");
        assert_eq!(worker.child().exit().unwrap(), None);
        assert!(!worker.child().pidfd().has_exited().unwrap());
        let unreaped = worker.child.take().unwrap().reap().unwrap_err();
        assert!(unreaped.error.is_none());
        worker.child = Some(unreaped.child);
    }

    #[test]
    fn a_process_that_is_gone_takes_no_signal_and_is_no_error() {
        let mut worker = Worker::shell("exit 0");
        worker.await_exit();
        let pidfd = PidFd::open(worker.child().pid()).unwrap();
        assert_eq!(pidfd.signal(Signal::SIGTERM).unwrap(), Delivery::Sent, "to a zombie");
        worker.child.take().unwrap().reap().unwrap();
        assert_eq!(pidfd.signal(Signal::SIGTERM).unwrap(), Delivery::Gone);
        assert!(pidfd.has_exited().unwrap());
    }

    #[test]
    fn the_end_is_waited_for_no_longer_than_allowed() {
        let worker = Worker::shell("exec sleep 1000");
        let pidfd = worker.child().pidfd();
        let began = Instant::now();
        assert!(!pidfd.exits_within(Duration::from_millis(20)).unwrap());
        assert!(began.elapsed() >= Duration::from_millis(20));
        pidfd.signal(Signal::SIGKILL).unwrap();
        assert!(pidfd.exits_within(Duration::from_secs(10)).unwrap());
    }

    #[test]
    fn waiting_tasks_are_woken_by_the_end() {
        let worker = Worker::shell("exec sleep 1000");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let first = tokio::spawn(worker.child().pidfd().exited());
            let second = tokio::spawn(worker.child().pidfd().exited());
            let early =
                tokio::time::timeout(Duration::from_millis(20), worker.child().pidfd().exited());
            assert!(early.await.is_err(), "it still runs");
            worker.child().signal(Signal::SIGTERM).unwrap();
            let all = async { (first.await.unwrap().unwrap(), second.await.unwrap().unwrap()) };
            tokio::time::timeout(Duration::from_secs(10), all).await.unwrap();
            worker.child().pidfd().exited().await.unwrap();
        });
        assert_eq!(worker.child().exit().unwrap(), Some(Exit::Signal(15)));
    }

    /// A tree whose leader has ended. Its other processes are found, and signalled as a group.
    fn tree_without_leader() -> Worker {
        let mut worker = Worker::shell("sleep 1000 & sleep 1000 & echo started");
        worker.await_lines(1);
        worker.await_exit();
        assert_eq!(worker.child().others().unwrap(), 2);
        worker
    }

    fn await_no_others(worker: &Worker) {
        wait_for("the end of the group", || (worker.child().others().unwrap() == 0).then_some(()));
    }

    #[test]
    fn a_group_outlives_its_leader_and_is_signalled() {
        let worker = tree_without_leader();
        assert_eq!(worker.child().signal_group(Signal::SIGTERM).unwrap(), Delivery::Sent);
        await_no_others(&worker);
    }

    #[test]
    fn a_group_is_signalled_by_number_on_older_kernels() {
        let worker = tree_without_leader();
        let sent = worker.child().signal_group_number(Signal::SIGTERM).unwrap();
        assert_eq!(sent, Delivery::Sent);
        await_no_others(&worker);
    }

    #[test]
    fn a_signal_to_the_leader_leaves_its_group_alone() {
        let mut worker = Worker::shell("sleep 1000 & echo started; wait");
        worker.await_lines(1);
        worker.child().signal(Signal::SIGKILL).unwrap();
        assert_eq!(worker.await_exit(), Exit::Signal(9));
        assert_eq!(worker.child().others().unwrap(), 1);
    }
}

mod printing {
    use super::*;

    #[test]
    fn both_streams_come_in_the_order_in_which_they_were_written() {
        let lines = Worker::shell("echo 1; echo 2 >&2; echo 3; printf 4").all_lines();
        assert_eq!(lines, ["1", "2", "3", "4"]);
    }

    #[test]
    fn a_line_that_was_begun_by_a_killed_worker_is_the_last() {
        let worker = Worker::shell("echo whole; printf begun; kill -KILL $$; echo never");
        assert_eq!(worker.all_lines(), ["whole", "begun"]);
    }

    /// F7: no SIGPIPE, no blocking, and the next master reads on where the last one stopped.
    #[test]
    fn a_worker_prints_on_without_a_reader_and_a_later_one_finds_it() {
        let output = Output::create("seat 0").unwrap();
        // More than a pipe holds, which would block it, while nobody has the file open but it.
        let script = "echo first; read go < $GO; i=0; while [ $i -lt 20000 ]; \
                      do echo line $i; i=$((i+1)); done; echo done > $DONE; exec sleep 1000";
        let directory = std::env::temp_dir().join(format!("ipcluster-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let (go, done) = (directory.join("go"), directory.join("done"));
        for path in [&go, &done] {
            let _ = std::fs::remove_file(path);
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let mut spawn = shell(script);
        spawn.env.insert("GO".into(), go.clone().into());
        spawn.env.insert("DONE".into(), done.clone().into());
        let child = spawn.start(&output).unwrap();
        let pid = child.pid();
        let mut worker = Worker { child: Some(child), reader: output.into_reader(), lines: vec![] };
        assert_eq!(worker.await_lines(1), ["first"]);
        // The reader's descriptor is closed before the worker goes on.
        let placeholder = Output::create("none").unwrap().into_reader();
        drop(std::mem::replace(&mut worker.reader, placeholder));
        std::fs::write(&go, "go\n").unwrap();
        assert_eq!(std::fs::read_to_string(&done).unwrap(), "done\n");
        worker.reader = OutputReader::reopen(pid, "seat 0").unwrap().expect("a file of ours");
        let lines = worker.await_lines(20_001)[1..].to_vec();
        assert!(lines.iter().enumerate().all(|(i, line)| *line == format!("line {i}")));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn output_that_is_not_ours_is_not_opened() {
        assert!(OutputReader::reopen(std::process::id(), "this").unwrap().is_none());
        let mut worker = Worker::shell("echo ready; exec sleep 1000 > /dev/null");
        worker.await_lines(1);
        let pid = worker.child().pid();
        wait_for("the redirection", || {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
            target.ends_with("null").then_some(())
        });
        assert!(OutputReader::reopen(pid, "worker").unwrap().is_some(), "by standard error");
    }

    #[test]
    fn a_shell_that_opens_standard_error_anew_is_heard() {
        let mut worker = Worker::shell("echo said > /dev/stderr; exec sleep 1000");
        assert_eq!(worker.await_lines(1), ["said"]);
    }
}

mod listening {
    use super::*;

    /// Not a test by itself: a worker that listens, run by those below in a process of its own.
    #[test]
    fn listening_worker() {
        if role().as_deref() != Some("listening worker") {
            return;
        }
        let addresses = ["127.0.0.1:0", "0.0.0.0:0", "[::]:0", "[::1]:0"];
        let listeners: Vec<_> = addresses.map(|a| TcpListener::bind(a).unwrap()).into();
        for listener in &listeners {
            println!("port {}", listener.local_addr().unwrap().port());
        }
        loop {
            std::thread::park();
        }
    }

    fn start(spawn: &Spawn) -> (Worker, Vec<u16>) {
        let mut worker = Worker::start(spawn).unwrap();
        let ports = |lines: &[String]| -> Vec<u16> {
            // libtest prints the test's name on the same line as the first.
            let port = |line: &String| line.split_once("port ")?.1.parse().ok();
            lines.iter().filter_map(port).collect()
        };
        let ports = wait_for("the worker's ports", || {
            worker.read_lines();
            Some(ports(&worker.lines)).filter(|ports| ports.len() == 4)
        });
        (worker, ports)
    }

    /// The addresses on which the worker that leads this session listens, and whether by `IPV6_V6ONLY`.
    fn addresses(
        table: &mut ListenTable,
        leader: u32,
        ports: &[u16],
    ) -> BTreeMap<u16, Vec<(String, bool)>> {
        let found = table.listening_ports(leader, Transport::Tcp, ports).unwrap();
        let address = |socket: &ListenSocket| (socket.address.to_string(), socket.ipv6_only);
        found.into_iter().map(|(port, all)| (port, all.iter().map(address).collect())).collect()
    }

    fn expected(ports: &[u16]) -> BTreeMap<u16, Vec<(String, bool)>> {
        let on = |address: &str| vec![(address.to_owned(), false)];
        BTreeMap::from([
            (ports[0], on("127.0.0.1")),
            (ports[1], on("0.0.0.0")),
            (ports[2], on("::")),
            // Bound to one IPv6 address, a socket is for that family alone.
            (ports[3], vec![("::1".to_owned(), true)]),
        ])
    }

    fn table() -> ListenTable {
        ListenTable::read(&mut Sockets::open().unwrap(), &[Transport::Tcp], 1..=65_535).unwrap()
    }

    #[test]
    fn a_workers_own_sockets_are_found_with_their_reach() {
        let (worker, ports) =
            start(&this_program("listening::listening_worker", "listening worker"));
        let mut table = table();
        let leader = worker.child().pid();
        assert_eq!(addresses(&mut table, leader, &ports), expected(&ports));
        assert_eq!(table.listening_ports(leader, Transport::Tcp, &ports[..1]).unwrap().len(), 1);
        assert_eq!(table.listening_ports(leader, Transport::Tcp, &[]).unwrap().len(), 0);
        assert!(table.ports().is_superset(&ports.iter().copied().collect()));
    }

    #[test]
    fn the_sockets_of_a_workers_child_are_the_workers() {
        let inner = this_program("listening::listening_worker", "listening worker");
        let mut tree = shell("\"$0\" \"$@\"; exit");
        tree.args.push(inner.program);
        tree.args.extend(inner.args);
        tree.env.extend(inner.env);
        let (worker, ports) = start(&tree);
        let leader = worker.child().pid();
        assert_eq!(addresses(&mut table(), leader, &ports), expected(&ports));
    }

    /// F18: something listens, but it is not the worker.
    #[test]
    fn the_sockets_of_others_are_not_the_workers() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let worker = Worker::shell("exec sleep 1000");
        let mut table = table();
        assert!(table.ports().contains(&port));
        assert!(
            table
                .listening_ports(worker.child().pid(), Transport::Tcp, &[port])
                .unwrap()
                .is_empty()
        );
        drop(listener);
        // Another test may be starting a process just now, which has copies of all descriptors until it
        // is another program.
        wait_for("its end", || (!self::table().ports().contains(&port)).then_some(()));
    }

    #[test]
    fn connections_are_counted_until_the_worker_has_closed_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let mut sockets = Sockets::open().unwrap();
        let mut established = || {
            let counts = sockets.connection_counts(&BTreeSet::from([port, 1])).unwrap();
            assert_eq!(counts[&1], Connections::default());
            assert_eq!(counts[&port].half_open, 0);
            counts[&port].established
        };
        assert_eq!(established(), 0);
        let mut clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_eq!(established(), 3, "not accepted yet");
        let listening = Sockets::open().unwrap().listeners(port..=port).unwrap();
        assert_eq!(listening.len(), 1);
        assert_eq!((listening[0].queued, listening[0].address), (3, address.ip()));
        assert_eq!(listening[0].uid, effective_uid());
        assert!(listening[0].backlog > 0);

        let served: Vec<_> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        assert_eq!(established(), 3);
        // The client has closed: there may be something left to read and to answer.
        clients[0].shutdown(Shutdown::Write).unwrap();
        (&served[0]).read_exact(&mut [0]).unwrap_err();
        assert_eq!(established(), 3, "CLOSE_WAIT");
        // The worker has shut down its side and reads on.
        served[1].shutdown(Shutdown::Write).unwrap();
        clients[1].read_exact(&mut [0]).unwrap_err();
        assert_eq!(established(), 3, "FIN_WAIT2, held");
        // It closes: an orphan, which the kernel keeps while the client does not close.
        let mut served = served.into_iter();
        drop((served.next(), served.next()));
        // Another test may be starting a process just now, which has copies of all descriptors until it
        // is another program.
        wait_for("the end of two", || (established() == 1).then_some(()));
        drop(served);
        wait_for("the end of all", || (established() == 0).then_some(()));
        let queued = Sockets::open().unwrap().listeners(port..=port).unwrap()[0].queued;
        assert_eq!(queued, 0);
    }

    #[test]
    fn a_filter_takes_the_first_and_the_last_port_and_none_beside() {
        let listeners: Vec<_> = (0..8).map(|_| TcpListener::bind("[::]:0").unwrap()).collect();
        let ours: BTreeSet<u16> =
            listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        let (first, last) = (*ours.first().unwrap(), *ours.last().unwrap());
        let mut sockets = Sockets::open().unwrap();
        let mut found = |ports| -> BTreeSet<u16> {
            let found = sockets.listeners(ports).unwrap();
            found.iter().map(|socket| socket.port).filter(|port| ours.contains(port)).collect()
        };
        assert_eq!(found(first..=last), ours);
        assert_eq!(found(first..=first), BTreeSet::from([first]));
        let mut inner = ours.clone();
        inner.remove(&first);
        inner.remove(&last);
        assert_eq!(found(first + 1..=last - 1), inner);
    }
}

/// The nice value of a process (proc_pid_stat(5), field 19).
fn nice(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(") ").unwrap().1;
    after_name.split(' ').nth(16).unwrap().parse().unwrap()
}

#[test]
fn a_whole_group_is_given_a_nice_value() {
    let mut worker = Worker::shell("sleep 100 & echo $!; wait");
    let other: u32 = worker.await_lines(1)[0].parse().unwrap();
    let before = nice(std::process::id());
    assert_eq!(worker.child().renice_group(19).unwrap(), Delivery::Sent);
    assert_eq!([nice(worker.child().pid()), nice(other)], [19, 19]);
    assert_eq!(nice(std::process::id()), before, "and nobody else's");
    worker.child().signal_group(Signal::SIGKILL).unwrap();
    worker.await_exit();
    assert_eq!(worker.child().renice_group(19).unwrap(), Delivery::Sent, "a zombie has one, too");
}

#[test]
fn a_nice_value_comes_back_where_the_limit_allows_it() {
    let is_allowed = allow_nice_back().unwrap();
    let before = own_nice().unwrap();
    assert_eq!(before, nice(std::process::id()));
    let worker = Worker::shell("echo begun; sleep 100");
    worker.child().renice_group(19).unwrap();
    let restored = worker.child().renice_group(before);
    // With CAP_SYS_NICE without it, too.
    assert!(restored.is_ok() || !is_allowed, "{restored:?}");
    let expected = if restored.is_ok() { before } else { 19 };
    assert_eq!(nice(worker.child().pid()), expected);
}

mod passing {
    use std::io::Write;
    use std::ops::RangeInclusive;
    use std::os::fd::OwnedFd;

    use rustix::fs::OFlags;

    use super::*;

    const TCP: Endpoint =
        Endpoint { transport: Transport::Tcp, ipv4: true, ipv6: false, transparent: false };

    /// A socket on some port of the loopback interface and all others.
    fn held() -> HeldSocket {
        let is_free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
        let open = |port| HeldSocket::open(port, TCP, 16).ok();
        (10_000..20_000).filter(is_free).find_map(open).unwrap()
    }

    fn start_with(spawn: &Spawn, sockets: &[&HeldSocket]) -> Result<Worker, ProcessError> {
        let output = Output::create("test worker").unwrap();
        let names = ["80/tcp", "443/tcp"].iter().cycle();
        let passed: Vec<PassedSocket<'_>> = names
            .zip(sockets)
            .map(|(name, socket)| PassedSocket { name, socket: socket.as_fd() })
            .collect();
        let child = spawn.start_with(&passed, &output)?;
        Ok(Worker { child: Some(child), reader: output.into_reader(), lines: vec![] })
    }

    #[test]
    fn a_program_gets_sockets_from_3_on_and_is_told_so() {
        let sockets = [held(), held()];
        let script = "echo $LISTEN_FDS $LISTEN_FDNAMES $(($LISTEN_PID - $$)) \"$PATH\" [$OTHER]
            exec ls /proc/self/fd";
        let mut spawn = shell(script);
        // What an earlier process was told does not count.
        spawn.env.insert("LISTEN_PID".into(), "1".into());
        spawn.env.insert("LISTEN_OTHER".into(), "1".into());
        spawn.env.insert("OTHER".into(), "a b".into());
        let worker = start_with(&spawn, &[&sockets[0], &sockets[1]]).unwrap();
        let lines = worker.all_lines();
        // 5: the directory that ls reads.
        assert_eq!(lines.join(" "), "2 80/tcp:443/tcp 0 /usr/bin:/bin [a b] 0 1 2 3 4 5");
    }

    #[test]
    fn without_sockets_nothing_is_said_of_any() {
        let worker = start_with(&shell("env; exec ls /proc/self/fd"), &[]).unwrap();
        let text = worker.all_lines().join(" ");
        assert!(!text.contains("LISTEN_") && text.ends_with(" 0 1 2 3"), "{text}");
    }

    #[test]
    fn a_process_tells_its_number_before_it_is_the_program() {
        let output = Output::create("test worker").unwrap();
        let spawn = shell("exec sleep 60");
        let announcement = spawn.announcement().unwrap();
        assert_eq!(announcement.number(), None);
        let child = spawn.start_announced(&[], &output, Some(&announcement)).unwrap();
        assert_eq!([announcement.number(), announcement.number()], [Some(child.pid()); 2]);
        child.signal_group(Signal::SIGKILL).unwrap();
        let none = Spawn { program: "/nonexistent".into(), ..Spawn::default() };
        let announcement = none.announcement().unwrap();
        assert!(none.start_announced(&[], &output, Some(&announcement)).is_err());
        assert!(announcement.number().is_some(), "told before it is tried");
    }

    #[test]
    fn sockets_are_blocking_whatever_an_earlier_worker_made_of_them() {
        let socket = held();
        rustix::fs::fcntl_setfl(&socket, OFlags::RDWR | OFlags::NONBLOCK).unwrap();
        let worker = start_with(&shell("grep flags /proc/self/fdinfo/3"), &[&socket]).unwrap();
        assert_eq!(worker.all_lines(), ["flags:\t02"]);
    }

    #[test]
    fn many_sockets_replace_whatever_has_their_numbers() {
        // More than this process is likely to have descriptors: that of the standard library's pipe
        // is among the numbers.
        let sockets: Vec<HeldSocket> = (0..200).map(|_| held()).collect();
        let sockets: Vec<&HeldSocket> = sockets.iter().collect();
        let script = "for n in $(seq 3 202); do readlink /proc/self/fd/$n; done | sort -u | wc -l";
        let worker = start_with(&shell(script), &sockets).unwrap();
        assert_eq!(worker.all_lines(), ["200"]);
    }

    #[test]
    fn what_cannot_be_run_is_an_error_and_leaves_nothing() {
        let socket = held();
        let many: Vec<&HeldSocket> = std::iter::repeat_n(&socket, 200).collect();
        for sockets in [&many[..1], &many] {
            for (program, errno) in [("/no/such", Errno::ENOENT), ("/dev/null", Errno::EACCES)] {
                let spawn = Spawn { program: program.into(), ..shell("") };
                let error = start_with(&spawn, sockets).err().unwrap();
                assert!(matches!(error, ProcessError::Exec { .. }), "{error}");
                assert_eq!(error.errno(), Some(errno));
            }
            let spawn = Spawn { directory: Some("/no/such".into()), ..shell("") };
            let error = start_with(&spawn, sockets).err().unwrap();
            assert!(matches!(error, ProcessError::Directory { .. }), "{error}");
        }
    }

    #[test]
    fn programs_are_found_in_the_path_of_their_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("worker-of-this-test");
        std::fs::write(&file, "#!/bin/sh\necho found\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).unwrap();
        let mut spawn = shell("");
        (spawn.program, spawn.args) = ("worker-of-this-test".into(), vec![]);
        let error = start_with(&spawn, &[&held()]).err().unwrap();
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        spawn.env.insert("PATH".into(), directory.path().into());
        let worker = start_with(&spawn, &[&held()]).unwrap();
        assert_eq!(worker.all_lines(), ["found"]);
    }

    #[test]
    fn what_waits_in_the_queue_outlives_the_worker() {
        let socket = held();
        let mut worker = start_with(&shell("echo; exec sleep 1000"), &[&socket]).unwrap();
        worker.await_lines(1);
        let mut client = TcpStream::connect(("127.0.0.1", socket.port())).unwrap();
        worker.child().signal(Signal::SIGKILL).unwrap();
        drop(worker);
        let successor = TcpListener::from(OwnedFd::from(socket));
        successor.accept().unwrap().0.write_all(b"successor").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "successor");
    }

    #[test]
    fn a_running_worker_gives_its_sockets_back() {
        let socket = held();
        let port = socket.port();
        let mut worker = start_with(&shell("echo; exec sleep 1000"), &[&socket]).unwrap();
        worker.await_lines(1);
        drop(socket);
        let pidfd = worker.child().pidfd();
        let mut sockets = Sockets::open().unwrap();
        let mut on = |ports: RangeInclusive<u16>| {
            let table = ListenTable::read(&mut sockets, &[Transport::Tcp], ports.clone()).unwrap();
            table.inodes_on(&ports.collect::<Vec<u16>>())
        };
        assert!(HeldSocket::of_process(pidfd, on(1..=port - 1)).unwrap().is_empty());
        let mut found = HeldSocket::of_process(pidfd, on(port..=port)).unwrap();
        let socket = found.pop().unwrap();
        assert_eq!((socket.port(), found.len()), (port, 0));
        let flags = rustix::io::fcntl_getfd(&socket).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        drop(worker);
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        let gone = PidFd::open(std::process::id()).unwrap();
        let held = HeldSocket::of_process(&gone, on(port..=port)).unwrap();
        assert!(held.len() == 1, "of this process");
    }

    #[test]
    fn a_program_takes_what_it_was_started_with() {
        const TEST: &str = "passing::a_program_takes_what_it_was_started_with";
        if role().is_some() {
            let sockets = passed_sockets().unwrap();
            let described: Vec<String> = sockets
                .iter()
                .map(|(name, socket)| format!("{name}={}/{}", socket.port(), socket.transport()))
                .collect();
            println!("got {}", described.join(" "));
            return;
        }
        let sockets = [held(), held()];
        let worker = start_with(&this_program(TEST, "worker"), &[&sockets[0], &sockets[1]]);
        let lines = worker.unwrap().all_lines();
        let got = lines.iter().find_map(|line| line.split_once("got ")).unwrap().1;
        let [first, second] = sockets.map(|socket| socket.port());
        assert_eq!(got, format!("80/tcp={first}/tcp 443/tcp={second}/tcp"));
    }
}
