//! The packaged unit, and those that `ipcluster unit` writes, under a real systemd in a container of its own.

use std::process::Output;
use std::time::{Duration, Instant};

use ipcluster::lab::{Held, Network, Pace};
use netns_tests::{Case, Lab, Need, Systemd, wait_until};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("the_unit_starts_reloads_restarts_and_stops_as_it_says", life),
        Case::new("the_page_is_as_it_says", page),
        Case::new("a_reload_is_seen_from_its_beginning_to_its_end", reloading),
        Case::new("a_master_that_is_killed_or_hangs_is_replaced", replaced),
        Case::new("a_start_that_cannot_work_fails_at_once", missing_command),
        Case::new("units_of_other_users_have_directories_of_their_own", other_users),
    ]
    .map(|case| case.needs(Need::Systemd).on_request().limit(Duration::from_secs(300)))
    .into()
}

const PATIENCE: Duration = Duration::from_secs(20);
const UNIT: &str = "ipcluster@web";

/// Writes the configuration of the cluster `web`.
fn configure(systemd: &Systemd<'_>, command: &str) {
    let text = format!(
        "listen = [\"10.9.0.1:80\", \"[fd09::1]:80\"]\nworkers = 2\ncommand = [\"{command}\"]\nserver = \"none\"\n\
         [rollout]\nprobation = \"0\"\n[timeouts]\nready = \"2s\"\n"
    );
    systemd.write("/etc/ipcluster/web.toml", &text);
}

fn show(systemd: &Systemd<'_>, property: &str) -> String {
    let text = systemd.run(&["systemctl", "show", UNIT, "--property", property, "--value"]);
    text.trim().to_owned()
}

fn generation(systemd: &Systemd<'_>) -> Option<u64> {
    let text = systemd.try_run(&["ipcluster", "status", "web", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_slice(&text).ok()?;
    status["generation"].as_u64()
}

fn exit_code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn life(lab: &Lab) {
    let systemd = Systemd::boot(lab);
    configure(&systemd, "/usr/bin/greeter");
    systemd.run(&["systemctl", "start", UNIT]);
    // `systemctl start` has returned since it serves.
    let answered = Lab::load(80, 50).connections(50).start(lab.client()).unwrap().wait();
    assert_eq!(answered.failed(), 0, "{answered}");
    assert_eq!(show(&systemd, "ActiveState"), "active");
    assert!(show(&systemd, "StatusText").contains("workers serve, generation 1"));

    // A reload, which tells what came of it.
    systemd.run(&["systemctl", "reload", UNIT]);
    assert_eq!(generation(&systemd), Some(2));
    configure(&systemd, "/bin/false");
    assert_ne!(exit_code(&systemd.try_run(&["systemctl", "reload", UNIT])), Some(0));
    assert_eq!(
        (generation(&systemd), show(&systemd, "ActiveState")),
        (Some(2), "active".to_owned())
    );
    configure(&systemd, "/usr/bin/greeter");

    // A restart, under load: another master, the same workers, and nobody notices.
    let client = Network::clients_v4(1).next().unwrap();
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    let master = show(&systemd, "MainPID");
    let load = Lab::load(80, 100).pace(Pace::Rate(200.0)).start(lab.client()).unwrap();
    wait_until("answers", PATIENCE, || load.counters().answered > 50);
    systemd.run(&["systemctl", "restart", UNIT]);
    assert_ne!(show(&systemd, "MainPID"), master);
    let so_far = load.counters().answered;
    wait_until("more answers", PATIENCE, || load.counters().answered > so_far + 50);
    // A stop ends the master alone; what starts the next one is said.
    systemd.run(&["systemctl", "stop", UNIT]);
    let so_far = load.counters().answered;
    wait_until("answers without a master", PATIENCE, || load.counters().answered > so_far + 50);
    let status = systemd.try_run(&["ipcluster", "status", "web"]);
    assert_eq!(exit_code(&status), Some(3));
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(text.contains("\nto start   systemctl start ipcluster@web.service\n"), "{text}");
    systemd.run(&["systemctl", "start", UNIT]);
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    held.echo("still served").unwrap();
    drop(held);

    // What `ipcluster stop` has ended stays so, also when a restart would be due.
    systemd.run(&["ipcluster", "stop", "web"]);
    wait_until("the unit to end", PATIENCE, || show(&systemd, "ActiveState") == "inactive");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(show(&systemd, "ActiveState"), "inactive");
    assert_eq!(
        (show(&systemd, "Result"), show(&systemd, "NRestarts")),
        ("success".into(), "0".into())
    );
    assert_eq!(lab.witness().ruleset(), "");
}

const PAGE: &str = include_str!("../../../docs/systemd.md");

/// The commands of the page, block by block.
fn blocks() -> Vec<&'static str> {
    let blocks = PAGE.split("```sh systemd\n").skip(1);
    blocks.map(|rest| rest.split("```").next().expect("the end of a block")).collect()
}

/// Has a shell run this, and does not wait for it.
fn begin(systemd: &Systemd<'_>, commands: &str) {
    let script = format!("({commands}) >/dev/null 2>&1 </dev/null &");
    systemd.run(&["sh", "-c", &script]);
}

/// What the page says, as it stands there.
fn page(lab: &Lab) {
    let systemd = Systemd::boot(lab);
    configure(&systemd, "/usr/bin/greeter");
    let run = |block: &str| {
        systemd.write("/root/block", block);
        systemd.run(&["bash", "-e", "/root/block"])
    };
    let blocks = blocks();
    let [life, drop_in, stop, anew, own] = blocks[..] else { panic!("{blocks:#?}") };
    let client = Network::clients_v4(1).next().unwrap();
    assert!(run(life).contains("workers serve, generation 2"));
    let mut held = Held::open(lab.client(), client, Network::server_v4(80)).unwrap();
    run(drop_in);
    held.echo("a restart ends no connection of a master without the drop-in").unwrap();

    // A stop waits for it, and then ends all.
    systemd.write("/root/block", stop);
    begin(&systemd, "bash -e /root/block; echo $? >/root/ended");
    wait_until("no new connection", PATIENCE, || {
        Held::open(lab.client(), client, Network::server_v4(80)).is_err()
    });
    held.echo("still served").unwrap();
    assert_eq!(show(&systemd, "ActiveState"), "deactivating");
    drop(held);
    wait_until("the end of the stop", PATIENCE, || {
        systemd.try_run(&["grep", "-qx", "0", "/root/ended"]).status.success()
    });
    assert_eq!(lab.witness().ruleset(), "");
    assert_eq!(exit_code(&systemd.try_run(&["ipcluster", "status", "web"])), Some(1));
    assert_eq!(show(&systemd, "Result"), "success");

    run(anew);
    run(own);
    let status = systemd.try_run(&["ipcluster", "status", "api"]);
    assert_eq!(exit_code(&status), Some(1), "it was stopped");
    // Without the drop-in the workers stay.
    run(stop);
    let report = Lab::load(80, 20).connections(20).start(lab.client()).unwrap().wait();
    assert_eq!(report.failed(), 0, "{report}");
    systemd.run(&["ipcluster", "stop", "web"]);
}

/// By the unit that `ipcluster unit` writes for the systemd that is there.
fn reloading(lab: &Lab) {
    let systemd = Systemd::boot(lab);
    configure(&systemd, "/usr/bin/greeter");
    let words = ["ipcluster", "unit", "--name", "web", "-c", "/etc/ipcluster/web.toml"];
    let unit = format!("/etc/systemd/system/{UNIT}.service");
    systemd.write(&unit, &systemd.run(&words));
    systemd.run(&["systemd-analyze", "verify", &unit]);
    systemd.run(&["systemctl", "daemon-reload"]);
    systemd.run(&["systemctl", "start", UNIT]);
    let expected = if systemd.version() < 253 { "notify" } else { "notify-reload" };
    assert_eq!(show(&systemd, "Type"), expected);

    // What came of it is told by the exit status.
    systemd.run(&["systemctl", "reload", UNIT]);
    assert_eq!(generation(&systemd), Some(2));
    configure(&systemd, "/bin/false");
    assert_eq!(exit_code(&systemd.try_run(&["systemctl", "reload", UNIT])), Some(1));
    let state = (generation(&systemd), show(&systemd, "ActiveState"));
    assert_eq!(state, (Some(2), "active".to_owned()));
    assert!(show(&systemd, "StatusText").contains("the reload failed: "));

    // Whoever asks for it: systemd knows, until it is over.
    configure(&systemd, "/usr/bin/greeter");
    let slow = "[Service]\nEnvironment=GREETER_DELAY_MS=1500\n";
    systemd.write(&format!("{unit}.d/slow.conf"), slow);
    let text = systemd.read("/etc/ipcluster/web.toml");
    systemd.write("/etc/ipcluster/web.toml", &format!("env = [\"GREETER_*\"]\n{text}"));
    systemd.run(&["systemctl", "daemon-reload"]);
    systemd.run(&["systemctl", "restart", UNIT]);
    wait_until("workers with the variable", PATIENCE, || {
        exit_code(&systemd.try_run(&["ipcluster", "wait", "web", "ready"])) == Some(0)
    });
    let before = generation(&systemd).unwrap();
    for asks in
        ["kill -HUP $(systemctl show UNIT --property=MainPID --value)", "ipcluster reload web"]
    {
        let last = generation(&systemd).unwrap();
        begin(&systemd, &asks.replace("UNIT", UNIT));
        wait_until("a reload", PATIENCE, || show(&systemd, "ActiveState") == "reloading");
        assert_eq!(generation(&systemd), Some(last), "it is under way");
        wait_until("its end", PATIENCE, || show(&systemd, "ActiveState") == "active");
        assert_eq!(generation(&systemd), Some(last + 1), "it is over");
    }
    assert!(generation(&systemd) > Some(before));
    systemd.run(&["ipcluster", "stop", "web"]);
}

fn replaced(lab: &Lab) {
    let systemd = Systemd::boot(lab);
    configure(&systemd, "/usr/bin/greeter");
    let watchdog = "[Service]\nWatchdogSec=2\n";
    systemd.write("/etc/systemd/system/ipcluster@web.service.d/watchdog.conf", watchdog);
    systemd.run(&["systemctl", "daemon-reload"]);
    systemd.run(&["systemctl", "start", UNIT]);
    let load = Lab::load(80, 100).pace(Pace::Rate(100.0)).start(lab.client()).unwrap();
    for signal in ["KILL", "STOP"] {
        let master = show(&systemd, "MainPID");
        systemd.run(&["kill", "-s", signal, &master]);
        wait_until("another master", PATIENCE, || {
            let next = show(&systemd, "MainPID");
            next != master && next != "0" && show(&systemd, "ActiveState") == "active"
        });
    }
    let report = load.stop();
    assert_eq!(report.failed(), 0, "{report}");
    assert_eq!(generation(&systemd), Some(1), "the workers are the same");
}

fn missing_command(lab: &Lab) {
    let systemd = Systemd::boot(lab);
    configure(&systemd, "/usr/bin/no-such-server");
    let began = Instant::now();
    let output = systemd.try_run(&["systemctl", "start", UNIT]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(exit_code(&output), Some(1));
    wait_until("the end of the tries", PATIENCE, || show(&systemd, "ActiveState") == "failed");
    let journal = systemd.run(&["journalctl", "--unit", UNIT, "--no-pager", "--output=cat"]);
    assert!(journal.contains("error: cannot run program /usr/bin/no-such-server"), "{journal}");
    assert_eq!(lab.witness().ruleset(), "");
    // When it was mended it can be started again, without a word to systemd.
    configure(&systemd, "/usr/bin/greeter");
    wait_until("the next start", PATIENCE, || {
        exit_code(&systemd.try_run(&["systemctl", "start", UNIT])) == Some(0)
    });
}

fn other_users(lab: &Lab) {
    let systemd = Systemd::boot(lab);
    let written = |name: &str, port: u16, user: Option<&str>| {
        let (v4, v6) = (format!("10.9.0.1:{port}"), format!("[fd09::1]:{port}"));
        let mut words = vec![
            "ipcluster",
            "unit",
            "--name",
            name,
            "--listen",
            &v4,
            "--listen",
            &v6,
            "--workers",
            "1",
        ];
        words.extend(user.iter().flat_map(|user| ["--run-as", user]));
        words.extend(["--rollout-probation", "0", "--", "/usr/bin/greeter"]);
        let unit = systemd.run(&words);
        systemd.write(&format!("/etc/systemd/system/{name}.service"), &unit);
        systemd.run(&["systemd-analyze", "verify", &format!("/etc/systemd/system/{name}.service")]);
    };
    written("root", 80, None);
    written("first", 81, Some("nobody"));
    written("second", 82, Some("daemon"));
    systemd.run(&["systemctl", "daemon-reload"]);
    for name in ["root", "first", "second", "first"] {
        systemd.run(&["systemctl", "restart", name]);
        systemd.run(&["systemctl", "reload", name]);
    }
    for (name, port, user) in
        [("root", 80, "root"), ("first", 81, "nobody"), ("second", 82, "daemon")]
    {
        let report = Lab::load(port, 20).connections(20).start(lab.client()).unwrap().wait();
        assert_eq!(report.failed(), 0, "{name}: {report}");
        let directory =
            if user == "root" { "/run/ipcluster".into() } else { format!("/run/ipcluster-{name}") };
        let owner = systemd.run(&["stat", "--format=%U %a", &directory]);
        assert_eq!(owner.trim(), format!("{user} 700"), "{directory}");
        let main = systemd.run(&["systemctl", "show", name, "--property", "MainPID", "--value"]);
        let master = systemd.run(&["ps", "-o", "user=", "-p", main.trim()]);
        assert_eq!(master.trim(), user);
    }
}
