//! A status as text. Pure.

use std::collections::BTreeSet;

use crate::plan::ClusterName;

use super::{
    Align, Columns, ConntrackFill, Finding, FindingKind, ForeignChain, Orphan, Probation, Status,
    Trial, Unmanaged, WaitingSeat, WorkerHealth, WorkerState, WorkerStatus,
};

impl Status {
    /// The status as text, as `ipcluster status` prints it, in 80 columns: a head about the cluster, then
    /// one line a worker, by seat, and one for each seat that waits for its next worker; below it what became
    /// of the last one. For people: what is to be parsed is the JSON.
    pub fn table(&self) -> String {
        let mut rows = vec![(NARROW_HEADER.map(str::to_owned), None)];
        let mut waiting: Vec<&WaitingSeat> = self.waiting.iter().collect();
        waiting.sort_by_key(|waiting| std::cmp::Reverse(waiting.seat));
        for worker in self.by_seat() {
            while let Some(before) = waiting.pop_if(|waiting| waiting.seat < worker.seat) {
                rows.push(self.waiting_row(before));
            }
            rows.push((narrow_row(worker), worker.last_loss.as_deref().map(last_loss)));
        }
        rows.extend(waiting.into_iter().rev().map(|waiting| self.waiting_row(waiting)));
        let columns = Columns::fitting(NARROW_ALIGNS, 2, rows.iter().map(|(row, _)| row));
        let lines = rows.iter().map(|(row, note)| {
            let note = note.iter().map(|note| format!("      {note}\n"));
            columns.line(row) + &note.collect::<String>()
        });
        head(self) + "\n" + &lines.collect::<String>()
    }

    /// As [`Self::table`], with all columns, as `ipcluster status --wide` prints it.
    pub fn wide_table(&self) -> String {
        let workers = self.by_seat();
        let header = HEADER.map(str::to_owned);
        let rows: Vec<_> = std::iter::once(header).chain(workers.into_iter().map(row)).collect();
        let columns = Columns::fitting(ALIGNS, 2, rows.iter());
        let lines = rows.iter().map(|row| columns.line(row));
        head(self) + "\n" + &lines.collect::<String>()
    }

    /// What workers of before finish, in words; `None` where nothing drains.
    #[cfg(feature = "cli")]
    pub(crate) fn draining(&self) -> Option<String> {
        draining(self)
    }

    fn by_seat(&self) -> Vec<&WorkerStatus> {
        let mut workers: Vec<&WorkerStatus> = self.workers.iter().collect();
        workers.sort_by_key(|worker| {
            let newest_first = std::cmp::Reverse(worker.generation);
            (worker.seat, newest_first, worker.state, worker.pid)
        });
        workers
    }

    fn waiting_row(&self, waiting: &WaitingSeat) -> ([String; NARROW_COLUMNS], Option<String>) {
        let WaitingSeat { seat, next_try, reason, restarts } = waiting;
        let state = if self.given_up.contains(&seat.0) { "given up" } else { "waiting" };
        let dash = || "-".to_owned();
        let row = [
            seat.to_string(),
            state.to_owned(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            dash(),
            restarts.to_string(),
        ];
        let next = match next_try {
            Some(seconds) if *seconds >= 1.0 => format!("next try in {}", uptime(seconds.ceil())),
            Some(_) => "next try now".to_owned(),
            None => "not started yet".to_owned(),
        };
        let note =
            reason.as_deref().map_or(next.clone(), |it| format!("{next}; the last one {it}"));
        (row, Some(note))
    }
}

fn last_loss(reason: &str) -> String {
    format!("the one before {reason}")
}

const NARROW_COLUMNS: usize = 9;

const NARROW_HEADER: [&str; NARROW_COLUMNS] =
    ["SEAT", "STATE", "GEN", "PID", "CONNS", "QUEUED", "MEMORY", "UPTIME", "RESTARTS"];

const NARROW_ALIGNS: [Align; NARROW_COLUMNS] = {
    let mut aligns = [Align::Right; NARROW_COLUMNS];
    aligns[1] = Align::Left;
    aligns
};

const COLUMNS: usize = 12;

const HEADER: [&str; COLUMNS] = [
    "SEAT",
    "SLOTS",
    "STATE",
    "GENERATION",
    "PID",
    "CONNECTIONS",
    "QUEUED",
    "HALF-OPEN",
    "TOTAL",
    "MEMORY",
    "UPTIME",
    "PORTS",
];

const ALIGNS: [Align; COLUMNS] = {
    let mut aligns = [Align::Right; COLUMNS];
    aligns[2] = Align::Left;
    aligns[COLUMNS - 1] = Align::Left;
    aligns
};

fn head(status: &Status) -> String {
    let mut head = facts(status);
    if status.repairs > 0 {
        let by = match &status.last_writer {
            Some(writer) => {
                format!(", the last after changes by {} (pid {})", writer.name, writer.pid)
            }
            None => String::new(),
        };
        head.push_str(&format!("repairs    {}{by}\n", status.repairs));
    }
    if !status.given_up.is_empty() {
        let seats: Vec<String> = status.given_up.iter().map(u16::to_string).collect();
        head.push_str(&format!(
            "given up   {} {}: lost too many workers of late\n",
            if seats.len() == 1 { "seat" } else { "seats" },
            seats.join(", ")
        ));
    }
    if let Some(fleet) = &status.fleet {
        head.push_str(&format!("fleet      {}\n", fleet.summary()));
        for trouble in &fleet.troubles {
            head.push_str(&format!("trouble    fleet: {trouble}\n"));
        }
    }
    for foreign in &status.foreign_chains {
        head.push_str(&format!("foreign    {}\n", foreign_chain(foreign)));
    }
    // Two kinds have lines of their own.
    let has_line =
        |it: &&Finding| matches!(it.kind, FindingKind::NatBefore | FindingKind::ConntrackFull);
    for finding in status.findings.iter().filter(|it| !has_line(it)) {
        head.push_str(&format!("{:<10} {finding}\n", finding.severity.to_string()));
    }
    for orphan in &status.orphans {
        let Orphan { pid, seat, generation, reason } = orphan;
        head.push_str(&format!(
            "orphan     process {pid} (seat {seat}, generation {generation}): {reason}\n"
        ));
    }
    if let Some(probation) = &status.probation {
        head.push_str(&format!("probation  {}\n", on_probation(probation)));
    }
    if let Some(reason) = &status.configuration.reason {
        head.push_str(&format!("config     not in force: {reason}\n"));
    }
    if status.returns > 0 {
        head.push_str(&format!("returns    {}, after probations that failed\n", status.returns));
    }
    if let Some(draining) = draining(status) {
        head.push_str(&format!("draining   {draining}\n"));
    }
    if let Some(trial) = &status.trial {
        head.push_str(&format!("trial      {}\n", on_trial(trial, status.slots)));
    }
    head
}

/// The connections that workers of before finish: how many, with whom, and for how long.
fn draining(status: &Status) -> Option<String> {
    let is_draining =
        |it: &&WorkerStatus| matches!(it.state, WorkerState::Retired | WorkerState::Dying);
    let workers: Vec<&WorkerStatus> =
        status.workers.iter().filter(is_draining).filter(|worker| !worker.standby).collect();
    let oldest = workers
        .iter()
        .filter_map(|it| it.retired)
        .fold(None, |oldest: Option<f64>, it| Some(oldest.map_or(it, |oldest| oldest.max(it))));
    let connections: u64 = workers.iter().filter_map(|it| it.connections).map(u64::from).sum();
    let generations: BTreeSet<_> = workers.iter().map(|it| it.generation).collect();
    let generations: Vec<String> = generations.iter().map(ToString::to_string).collect();
    let of = if generations.len() == 1 { "generation" } else { "generations" };
    let oldest = oldest.map_or(String::new(), |oldest| format!(", since {}", uptime(oldest)));
    let count = u64::try_from(workers.len()).unwrap_or(u64::MAX);
    (!workers.is_empty()).then(|| {
        format!(
            "{} with {} of {of} {}{oldest}",
            counted(connections, "connection"),
            counted(count, "worker"),
            generations.join(", ")
        )
    })
}

/// A number of things, in words.
pub(crate) fn counted(count: impl TryInto<u64>, what: &str) -> String {
    match count.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

fn on_trial(trial: &Trial, slots: u32) -> String {
    let Trial { generation, first_seat, seats, slots: given } = *trial;
    let percent = f64::from(given) * 100.0 / f64::from(slots.max(1));
    let last = u32::from(first_seat.0) + seats.saturating_sub(1);
    let seats = match seats {
        1 => format!("seat {first_seat}"),
        _ => format!("seats {first_seat} to {last}"),
    };
    format!("generation {generation} on {given} of {slots} slots ({percent:.1} %): {seats}")
}

fn on_probation(probation: &Probation) -> String {
    let Probation { generation, before, seconds_left, failures, standby } = probation;
    let left = match *seconds_left > 0.0 {
        true => format!("{seconds_left:.0} s left"),
        false => "waiting for lost workers to be replaced".to_owned(),
    };
    let failures = match failures {
        0 => "no worker has failed".to_owned(),
        1 => "1 worker has failed".to_owned(),
        many => format!("{many} workers have failed"),
    };
    let kept = match generation == before {
        true => String::new(),
        false => {
            let workers = counted(u64::from(*standby), "worker");
            format!("; {workers} of generation {before} on standby")
        }
    };
    format!("generation {generation}, {left}, {failures}{kept}")
}

fn foreign_chain(foreign: &ForeignChain) -> String {
    let ForeignChain { family, table, chain, hook, priority, rule_chain, handle, .. } = foreign;
    let verb = if foreign.certain { "maps" } else { "may map" };
    let program = if foreign.legacy { " of iptables-legacy" } else { "" };
    format!(
        "table {family} {table}{program}, chain {chain} ({hook}, priority {priority}): rule {handle} of chain \
         {rule_chain} {verb} connections to {} before us",
        foreign.listener
    )
}

fn facts(status: &Status) -> String {
    let listeners: Vec<String> = status.listeners.iter().map(ToString::to_string).collect();
    let master = match &status.unmanaged {
        Some(unmanaged) => without_master(unmanaged, &status.name),
        None => status.pid.to_string(),
    };
    format!(
        "cluster    {}\ngeneration {}\nmaster     {master}\nlisteners  {}\nengine     {}\npartition  {}, {} slots\n{}",
        status.name,
        status.generation,
        listeners.join(" "),
        status.engine,
        status.partition,
        status.slots,
        status.conntrack.map(conntrack).unwrap_or_default(),
    )
}

fn without_master(unmanaged: &Unmanaged, name: &ClusterName) -> String {
    let generic = || format!("ipcluster run --name {name} ...");
    let start = unmanaged.start.clone().unwrap_or_else(generic);
    let rules = match unmanaged.rules {
        true => "",
        false => "\nrules      none: clients do not reach the workers",
    };
    format!(
        "none runs: nobody replaces a worker that dies\nto start   {start}\nto stop    ipcluster stop {name}{rules}"
    )
}

fn conntrack(fill: ConntrackFill) -> String {
    let ConntrackFill { entries, limit } = fill;
    let percent = fill.percent();
    let warning = match fill.is_nearly_full() {
        true => {
            ": nearly full, raise net.netfilter.nf_conntrack_max, or lower nf_conntrack_tcp_timeout_time_wait"
        }
        false => "",
    };
    match limit {
        0 => format!("conntrack  {entries} entries\n"),
        _ => format!("conntrack  {entries} of {limit} entries, {percent} %{warning}\n"),
    }
}

fn narrow_row(worker: &WorkerStatus) -> [String; NARROW_COLUMNS] {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    [
        worker.seat.to_string(),
        state(worker),
        worker.generation.to_string(),
        or_dash(worker.pid.map(u64::from)),
        or_dash(worker.connections.map(u64::from)),
        or_dash(worker.queued.map(u64::from)),
        worker.memory.map_or("-".to_owned(), amount),
        worker.pid.map_or("-".to_owned(), |_| uptime(worker.uptime)),
        match worker.state {
            WorkerState::Live | WorkerState::Starting => worker.restarts.to_string(),
            _ => "-".to_owned(),
        },
    ]
}

fn row(worker: &WorkerStatus) -> [String; COLUMNS] {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    [
        worker.seat.to_string(),
        worker.slots.to_string(),
        state(worker),
        worker.generation.to_string(),
        or_dash(worker.pid.map(u64::from)),
        or_dash(worker.connections.map(u64::from)),
        or_dash(worker.queued.map(u64::from)),
        or_dash(worker.half_open.map(u64::from)),
        or_dash(worker.connections_total),
        worker.memory.map_or("-".to_owned(), amount),
        worker.pid.map_or("-".to_owned(), |_| uptime(worker.uptime)),
        ports(worker),
    ]
}

/// The state, marked where the worker does not answer.
fn state(worker: &WorkerStatus) -> String {
    let state = match (worker.state, worker.leaving) {
        (WorkerState::Live, Some(_)) => "leaving".to_owned(),
        (WorkerState::Retired, _) if worker.standby => "standby".to_owned(),
        (WorkerState::Retired, _) if worker.retired.is_some() => {
            format!("retired {}", uptime(worker.retired.unwrap_or_default()))
        }
        (state, _) => state.to_string(),
    };
    match worker.health {
        WorkerHealth::Silent => format!("{state}, silent"),
        _ => state,
    }
}

/// How many ports of a worker are shown; `--json` has them all.
const SHOWN_PORTS: usize = 4;

fn ports(worker: &WorkerStatus) -> String {
    let shown = worker.ports.iter().take(SHOWN_PORTS);
    let mut texts: Vec<String> = shown.map(|(public, port)| format!("{public}:{port}")).collect();
    if worker.ports.len() > SHOWN_PORTS {
        texts.push(format!("+{}", worker.ports.len() - SHOWN_PORTS));
    }
    texts.join(" ")
}

/// Bytes in the largest unit of which there is one whole, in tenths, rounded down.
fn amount(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match UNITS.into_iter().find(|(shift, _)| bytes >> shift > 0) {
        Some((shift, unit)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Seconds in at most two units.
fn uptime(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}min {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {:02}min", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Generation, Seat};
    use crate::protocol::{ReplaceReasonKind, RuleWriter};

    /// A status as it comes over the socket.
    fn status() -> Status {
        serde_json::from_str(
            r#"{
                "schema": 1, "name": "web", "pid": 4100, "generation": 3,
                "listeners": ["0.0.0.0:80/tcp", "[::]:443/tcp"], "partition": "hash", "slots": 1024,
                "conntrack": {"entries": 900, "limit": 1000},
                "workers": [
                    {"seat": 1, "slots": 0, "pid": null, "state": "starting", "generation": 3,
                     "ports": {"80": 20006, "443": 20007}, "uptime": 0, "connections": null},
                    {"seat": 0, "slots": 0, "pid": 999, "state": "retired", "generation": 2,
                     "ports": {"80": 20000, "443": 20001}, "uptime": 90061.7, "connections": 1},
                    {"seat": 0, "slots": 512, "pid": 4242, "state": "live", "generation": 3,
                     "ports": {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6}, "uptime": 73.5,
                     "connections": 120, "queued": 3, "half_open": 1, "connections_total": 48151,
                     "memory": 73400320}
                ]
            }"#,
        )
        .unwrap()
    }

    #[test]
    fn without_a_master_the_head_says_what_to_do() {
        let head = |unmanaged| facts(&Status { unmanaged, pid: 0, ..status() });
        let start = Some("systemctl start ipcluster@web".to_owned());
        let expected = "\
master     none runs: nobody replaces a worker that dies
to start   systemctl start ipcluster@web
to stop    ipcluster stop web
listeners  ";
        let text = head(Some(Unmanaged { rules: true, start }));
        assert!(text.contains(expected), "{text}");
        let text = head(Some(Unmanaged { rules: false, start: None }));
        assert!(text.contains("to start   ipcluster run --name web ...\n"), "{text}");
        assert!(text.contains("rules      none: clients do not reach the workers\n"), "{text}");
    }

    #[test]
    fn the_table_is_aligned_and_in_the_order_of_the_seats() {
        let expected = "\
cluster    web
generation 3
master     4100
listeners  0.0.0.0:80/tcp [::]:443/tcp
engine     redirect
partition  hash, 1024 slots
conntrack  900 of 1000 entries, 90 %: nearly full, raise net.netfilter.nf_conntrack_max, or lower nf_conntrack_tcp_timeout_time_wait
draining   1 connection with 1 worker of generation 2

SEAT  SLOTS  STATE     GENERATION   PID  CONNECTIONS  QUEUED  HALF-OPEN  TOTAL    MEMORY    UPTIME  PORTS
   0    512  live               3  4242          120       3          1  48151  70.0 MiB  1min 13s  1:1 2:2 3:3 4:4 +2
   0      0  retired            2   999            1       -          -      -         -    1d 01h  80:20000 443:20001
   1      0  starting           3     -            -       -          -      -         -         -  80:20006 443:20007
";
        assert_eq!(status().wide_table(), expected);
    }

    #[test]
    fn in_80_columns_every_seat_has_a_row_also_one_that_waits() {
        let mut status = status();
        let waiting = |seat, next_try, reason: Option<&str>, restarts| WaitingSeat {
            seat: Seat(seat),
            next_try,
            reason: reason.map(str::to_owned),
            restarts,
        };
        status.waiting = vec![
            waiting(3, None, None, 0),
            waiting(2, Some(3.2), Some("exited with status 1 before it was in force"), 17),
        ];
        status.workers[2].last_loss = Some("was ended by SIGKILL, 2.0 s after it was ready".into());
        status.workers[2].restarts = 1;
        status.workers[1].retired = Some(12.7);
        let expected = "\
SEAT  STATE        GEN   PID  CONNS  QUEUED    MEMORY    UPTIME  RESTARTS
   0  live           3  4242    120       3  70.0 MiB  1min 13s         1
      the one before was ended by SIGKILL, 2.0 s after it was ready
   0  retired 12s    2   999      1       -         -    1d 01h         -
   1  starting       3     -      -       -         -         -         0
   2  waiting        -     -      -       -         -         -        17
      next try in 4s; the last one exited with status 1 before it was in force
   3  waiting        -     -      -       -         -         -         0
      not started yet
";
        let table = status.table();
        let (head, rows) = table.split_once("\n\n").unwrap();
        assert_eq!(rows, expected);
        let expected = "draining   1 connection with 1 worker of generation 2, since 12s";
        assert!(head.contains(expected), "{head}");
        assert!(rows.lines().all(|line| line.chars().count() <= 80));
        status.given_up = vec![2];
        assert!(status.table().contains("   2  given up "), "{}", status.table());
    }

    #[test]
    fn the_widest_usual_row_fits_into_80_columns() {
        let mut status = status();
        let worker = &mut status.workers[2];
        worker.generation = Generation(9999);
        worker.pid = Some(4_194_304);
        worker.connections = Some(99_999);
        worker.memory = Some(1023 << 20);
        worker.uptime = 3600.0 * 24.0 * 399.0;
        worker.restarts = 99_999;
        worker.health = WorkerHealth::Silent;
        let table = status.table();
        let rows = table.split_once("\n\n").unwrap().1;
        assert!(rows.lines().all(|line| line.chars().count() <= 80), "{rows}");
    }

    #[test]
    fn what_others_do_to_rules_stands_in_the_head() {
        let mut status = status();
        status.repairs = 2;
        status.last_writer = Some(RuleWriter { pid: 77, name: "nft".to_owned() });
        status.foreign_chains = vec![ForeignChain {
            family: "ip".to_owned(),
            table: "nat".to_owned(),
            chain: "PREROUTING".to_owned(),
            hook: "prerouting".to_owned(),
            priority: -150,
            rule_chain: "DOCKER".to_owned(),
            handle: 9,
            legacy: false,
            listener: "0.0.0.0:80".parse().unwrap(),
            certain: false,
        }];
        let expected = "\
repairs    2, the last after changes by nft (pid 77)
foreign    table ip nat, chain PREROUTING (prerouting, priority -150): rule 9 of chain DOCKER may map \
connections to 0.0.0.0:80/tcp before us
";
        assert_eq!(head(&status), facts(&status) + expected + DRAINING);
    }

    const DRAINING: &str = "draining   1 connection with 1 worker of generation 2\n";

    #[test]
    fn a_generation_on_trial_stands_in_the_head() {
        let mut status = status();
        let trial = |first, seats, slots| {
            Some(Trial { generation: Generation(4), first_seat: Seat(first), seats, slots })
        };
        for (trial, expected) in [
            (trial(4, 1, 102), "trial      generation 4 on 102 of 1024 slots (10.0 %): seat 4\n"),
            (
                trial(4, 2, 512),
                "trial      generation 4 on 512 of 1024 slots (50.0 %): seats 4 to 5\n",
            ),
        ] {
            status.trial = trial;
            assert_eq!(head(&status), facts(&status) + DRAINING + expected);
        }
    }

    #[test]
    fn seats_that_are_given_up_and_workers_that_leave_are_told_of() {
        let mut status = status();
        status.given_up = vec![1, 3];
        let expected = "given up   seats 1, 3: lost too many workers of late\n";
        assert_eq!(head(&status), facts(&status) + expected + DRAINING);
        for worker in &mut status.workers {
            worker.leaving = Some(ReplaceReasonKind::Lag);
        }
        let states: Vec<String> =
            status.workers.iter().map(|worker| row(worker)[2].clone()).collect();
        assert_eq!(states, ["starting", "retired", "leaving"]);
    }

    #[test]
    fn amounts_are_shown_in_their_largest_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((512 << 20) - 1, "511.9 MiB"),
            (7 << 29, "3.5 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }

    #[test]
    fn uptimes_have_two_units_at_most() {
        for (seconds, text) in [
            (0.9, "0s"),
            (59.9, "59s"),
            (60.0, "1min 00s"),
            (3599.0, "59min 59s"),
            (3600.0, "1h 00min"),
            (86_399.0, "23h 59min"),
            (86_400.0, "1d 00h"),
            (f64::INFINITY, "213503982334601d 07h"),
            (-1.0, "0s"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }

    #[test]
    fn a_seat_that_waits_stands_where_its_worker_would() {
        let mut status = status();
        status.workers.retain(|worker| worker.state == WorkerState::Starting);
        let waiting =
            |seat, next_try| WaitingSeat { seat: Seat(seat), next_try, reason: None, restarts: 2 };
        status.waiting = vec![waiting(2, Some(0.4)), waiting(0, Some(1.0))];
        let expected = "\
SEAT  STATE     GEN  PID  CONNS  QUEUED  MEMORY  UPTIME  RESTARTS
   0  waiting     -    -      -       -       -       -         2
      next try in 1s
   1  starting    3    -      -       -       -       -         0
   2  waiting     -    -      -       -       -       -         2
      next try now
";
        assert_eq!(status.table().split_once("\n\n").unwrap().1, expected);
    }

    #[test]
    fn what_is_found_on_the_host_stands_in_the_head_and_once() {
        use crate::protocol::FindingSeverity::{Error, Notice, Warning};

        let mut status = status();
        status.findings = vec![
            Finding::new(Error, FindingKind::PortTaken, "port 80 is taken", "end it"),
            Finding::new(Warning, FindingKind::ConntrackFull, "nearly full", ""),
            Finding::new(Warning, FindingKind::NatBefore, "a rule", ""),
            Finding::new(Notice, FindingKind::OneAddress, "one address", ""),
        ];
        let reason = "no socket".to_owned();
        status.orphans = vec![Orphan { pid: 77, seat: Seat(1), generation: Generation(2), reason }];
        status.configuration.reason = Some("workers: 0".to_owned());
        status.returns = 2;
        let expected = "\
error      port 80 is taken; end it
notice     one address
orphan     process 77 (seat 1, generation 2): no socket
config     not in force: workers: 0
returns    2, after probations that failed
";
        assert_eq!(head(&status), facts(&status) + expected + DRAINING);
    }

    #[test]
    fn repairs_are_told_without_a_writer_that_is_not_known() {
        let status = Status { repairs: 2, ..status() };
        assert_eq!(head(&status), facts(&status) + "repairs    2\n" + DRAINING);
    }

    #[test]
    fn a_probation_stands_in_the_head_with_what_is_kept() {
        let probation = |before, seconds_left, failures, standby| Probation {
            generation: Generation(3),
            before: Generation(before),
            seconds_left,
            failures,
            standby,
        };
        for (probation, expected) in [
            (
                probation(2, 7.6, 0, 1),
                "generation 3, 8 s left, no worker has failed; 1 worker of generation 2 on standby",
            ),
            (
                probation(2, 0.0, 1, 2),
                "generation 3, waiting for lost workers to be replaced, 1 worker has failed; 2 workers of \
                 generation 2 on standby",
            ),
            (probation(3, 1.0, 2, 2), "generation 3, 1 s left, 2 workers have failed"),
        ] {
            let status = Status { probation: Some(probation), ..status() };
            let expected = format!("probation  {expected}\n");
            assert_eq!(head(&status), facts(&status) + &expected + DRAINING);
        }
    }

    #[test]
    fn workers_on_standby_do_not_drain() {
        let mut status = status();
        status.workers[1].standby = true;
        assert_eq!(head(&status), facts(&status));
        assert_eq!(row(&status.workers[1])[2], "standby");
        for worker in &mut status.workers {
            (worker.state, worker.standby) = (WorkerState::Dying, false);
        }
        status.workers[0].retired = Some(7.0);
        status.workers[1].retired = Some(5.0);
        assert!(
            head(&status).ends_with(
                "draining   121 connections with 3 workers of generations 2, 3, since 7s\n"
            ),
            "{}",
            head(&status)
        );
    }

    #[test]
    fn connection_tracking_is_nearly_full_above_80_percent() {
        for (entries, limit, expected) in [
            (800, 1000, "conntrack  800 of 1000 entries, 80 %\n"),
            (0, 1000, "conntrack  0 of 1000 entries, 0 %\n"),
            (900, 0, "conntrack  900 entries\n"),
        ] {
            assert_eq!(conntrack(ConntrackFill { entries, limit }), expected);
        }
        let above = conntrack(ConntrackFill { entries: 801, limit: 1000 });
        assert!(above.starts_with("conntrack  801 of 1000 entries, 80 %: nearly full"), "{above}");
    }

    #[test]
    fn a_fleet_and_its_troubles_stand_in_the_head() {
        let mut status = status();
        let fleet = r#"{
            "name": "web", "member": "a", "device": "eth0", "state": "serving", "source": "current",
            "revision": 255, "slots": 1024, "in_force": true, "troubles": ["b does not answer"],
            "members": [
                {"name": "a", "addresses": ["192.0.2.1"], "state": "serving", "weight": 1, "slots": 512,
                 "former": 3}
            ]
        }"#;
        status.fleet = Some(serde_json::from_str(fleet).unwrap());
        let expected = "\
fleet      web, member a serving: 512 of 1024 slots, 1 member, revision ff
trouble    fleet: b does not answer
";
        assert_eq!(head(&status), facts(&status) + expected + DRAINING);
    }
}
