use std::process::{Child, Command, Stdio};

use super::*;

fn stat(pid: u32, parent: u32, group: u32, session: u32, start_ticks: u64) -> Stat {
    let (ended, stopped) = (false, false);
    Stat {
        pid,
        parent,
        group,
        session,
        start_ticks,
        ended,
        stopped,
        child_faults: 0,
        processor_ticks: 0,
    }
}

#[test]
fn processes_belong_to_the_leader_of_their_session_or_group_or_to_whom_their_parent_belongs() {
    let processes = vec![
        stat(1, 0, 1, 1, 0),
        stat(5, 1, 5, 5, 10),
        // The workers.
        stat(10, 5, 10, 10, 20),
        stat(20, 5, 20, 20, 20),
        // In its session; in its group alone; a child with a session of its own, and its child.
        stat(11, 10, 11, 10, 30),
        stat(21, 10, 20, 7, 30),
        stat(12, 10, 12, 12, 30),
        stat(13, 12, 12, 12, 31),
        // An orphan in the session; one that left it, and whose parent has ended.
        stat(14, 1, 14, 10, 40),
        stat(15, 1, 15, 15, 40),
        // A worker that another one has started is its own all the same.
        stat(30, 10, 30, 30, 50),
        stat(31, 30, 30, 30, 51),
        Stat { ended: true, ..stat(16, 10, 10, 10, 60) },
    ];
    let leaders = BTreeMap::from([(10, 'a'), (20, 'b'), (30, 'c')]);
    let mut turned = processes.clone();
    turned.reverse();
    for processes in [processes, turned] {
        let found = owners(processes, &leaders);
        let found: BTreeSet<(u32, char)> = found.iter().map(|(key, it)| (it.pid, *key)).collect();
        let expected = [(11, 'a'), (21, 'b'), (12, 'a'), (13, 'a'), (14, 'a'), (31, 'c')];
        assert_eq!(found, BTreeSet::from(expected));
    }
}

/// A shell with children, which ends when it is dropped.
struct Shell(Child);

impl Shell {
    /// In a group of its own, as workers are. Prints a line when its children run.
    fn start(script: &str) -> Self {
        use std::io::Read;
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.process_group(0).spawn().unwrap();
        let mut line = [0; 1];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        Self(child)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn known(sizes: Vec<(u32, Size)>) -> Vec<(u32, u64)> {
    sizes.into_iter().map(|(key, size)| (key, size.unwrap().unwrap().0)).collect()
}

#[test]
fn a_tree_counts_as_the_sum_of_its_processes() {
    let shell = Shell::start("sleep 1000 & sleep 1000 & echo; read end");
    let pid = shell.0.id();
    let mut watch = MemoryWatch::new();
    watch.next_pass = Instant::now() + Duration::from_secs(600);
    watch.groups = None;
    // Of one that is not new any more, those that it has started are found by a pass alone.
    watch.look(&[(1, pid)]);
    let tree = watch.trees.get_mut(&1).unwrap();
    tree.others.clear();
    tree.seen -= NEW;
    let alone = known(watch.look(&[(1, pid)]))[0].1;
    assert_eq!(watch.processes(), 1, "those that it has started are found by a pass alone");
    watch.next_pass = Instant::now();
    let together = known(watch.look(&[(1, pid)]))[0].1;
    assert_eq!(watch.processes(), 3);
    assert!(together > alone, "{together} > {alone}");
    // What they share of a C library counts once, and not three times.
    let proportional = known(watch.proportional(&[1]))[0].1;
    assert!(proportional < together, "{proportional} < {together}");
}

#[test]
fn a_process_that_ends_counts_no_more_and_a_worker_that_ends_is_gone() {
    let shell = Shell::start("sleep 1000 & echo; read end");
    let pid = shell.0.id();
    let mut watch = MemoryWatch::new();
    watch.next_pass = Instant::now();
    watch.look(&[(1, pid)]);
    assert_eq!(watch.processes(), 2);
    let sleeper = watch.trees[&1].others[0].pid();
    let signal = nix::sys::signal::Signal::SIGKILL;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sleeper.cast_signed()), signal).unwrap();
    let begin = Instant::now();
    while watch.processes() > 1 {
        assert!(begin.elapsed() < Duration::from_secs(10));
        known(watch.look(&[(1, pid)]));
    }
    drop(shell);
    assert!(matches!(watch.look(&[(1, pid)])[..], [(1, Ok(None))]));
    assert!(matches!(watch.proportional(&[1])[..], [(1, Ok(None))]));
    // Nor is it found again under its number.
    let mut anew = MemoryWatch::new();
    assert!(matches!(anew.look(&[(1, pid)])[..], [(1, Ok(None))]));
}

#[test]
fn who_is_not_named_any_more_is_not_watched() {
    let pid = std::process::id();
    let mut watch = MemoryWatch::new();
    watch.keep = 1;
    let sizes = known(watch.look(&[(1, pid), (2, pid)]));
    assert!(sizes[0].1 > 0 && sizes[1].1 > 0);
    assert_eq!(watch.kept, 1, "the second one has no descriptor of its own");
    watch.look(&[(2, pid)]);
    assert_eq!((watch.trees.len(), watch.kept), (1, 0));
    assert!(watch.look(&[]).is_empty());
    assert_eq!(watch.processes(), 0);
}

#[test]
fn this_process_is_measured_without_what_it_has_started() {
    let mut watch = MemoryWatch::<u32>::new();
    let resident = watch.own().unwrap().unwrap();
    let proportional = watch.own_proportional().unwrap().unwrap();
    assert!(proportional.0 > 0 && resident.0 > 0);
    assert_eq!(watch.processes(), 0);
}

#[test]
fn a_program_that_is_wrapped_is_counted_at_the_first_look() {
    // The wrapper stays, as `npm start` does, and what it starts is in a session of its own.
    let shell = Shell::start("setsid sh -c 'sleep 100 & echo; wait' & wait");
    let mut watch = MemoryWatch::new();
    let sizes = watch.look(&[('a', shell.0.id())]);
    assert!(matches!(sizes.as_slice(), [('a', Ok(Some(_)))]), "{sizes:?}");
    if children_of(shell.0.id()).unwrap().is_empty() {
        eprintln!("skipped: this kernel does not list children");
        return;
    }
    assert_eq!(watch.processes(), 3, "without a pass");
}
