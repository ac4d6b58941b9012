//! ufw and firewalld as Debian has them, with the recipes of `packaging`: without them it is said what they do and
//! what helps, with them clients are served.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ipcluster::lab::Network;
use ipcluster::plan::Engine;
use netns_tests::{Case, Cluster, Lab, Need, Process, Witness, engine, wait_until};
use nix::mount::{MsFlags, mount};

use super::in_the_way::{check, kinds, run};

pub(crate) fn cases() -> Vec<Case> {
    // Both want to be root, with the users that there are.
    let real = |name, body| Case::new(name, body).needs(Need::OtherUsers);
    vec![
        real("ufw_lets_clients_in_by_the_recipe", ufw)
            .needs(Need::Ufw)
            .with_both_engines_on_request(),
        // It brings much of Python with it.
        real("firewalld_knows_the_port_by_the_recipe", firewalld)
            .needs(Need::Firewalld)
            .on_request()
            .with_both_engines(),
    ]
}

const UFW: &str = include_str!("../../../packaging/ufw");
const FIREWALLD: &str = include_str!("../../../packaging/firewalld");

/// The lines of a recipe that are to be carried out, or added to a file.
fn lines<'a>(recipe: &'a str, begin: &'a str) -> impl Iterator<Item = &'a str> {
    recipe.lines().filter(move |line| line.starts_with(begin))
}

/// Has a directory of the host be a copy of this case alone.
fn own(lab: &Lab, directory: &str) {
    let copy = lab.directory().join(directory.replace('/', "_"));
    let copied = Command::new("cp").arg("-a").arg(directory).arg(&copy).status().unwrap();
    assert!(copied.success(), "{directory}");
    let none: Option<&str> = None;
    mount(Some(&copy), Path::new(directory), none, MsFlags::MS_BIND, none).unwrap();
}

fn listeners() -> [SocketAddr; 2] {
    [Network::server_v4(80), Network::server_v6(80)]
}

/// Whether clients on another host are served, by IPv4 and by IPv6.
fn served(lab: &Lab) -> [bool; 2] {
    let limit = Duration::from_secs(1);
    listeners()
        .map(|to| lab.client().run_in(|| TcpStream::connect_timeout(&to, limit)).unwrap().is_ok())
}

fn succeed(lab: &Lab, command: &str) -> String {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    lab.witness().succeed(program, &words.collect::<Vec<_>>(), "")
}

fn ufw(lab: &Lab) {
    own(lab, "/etc/ufw");
    succeed(lab, "ufw --force enable");
    let cluster = Cluster::on(lab, listeners(), 1).start(1);
    assert_eq!(served(lab), [false; 2], "it lets nobody in");
    let found = check(lab, &[]);
    assert_eq!(kinds(&found), ["filter_drops"; 2], "{found:#?}");
    succeed(lab, "ufw allow 80/tcp");
    match engine() {
        Engine::Tproxy => {}
        Engine::Redirect => {
            assert_eq!(served(lab), [false; 2], "it sees the worker port");
            let found = check(lab, &[]);
            assert_eq!(kinds(&found), ["filter_drops"; 2], "{found:#?}");
            for (line, rule) in found.iter().zip(lines(UFW, "-A ")) {
                assert!(line.contains(&format!("`{rule}`")), "the recipe is the cure: {line}");
                assert!(line.contains("packaging/ufw"), "{line}");
            }
            wait_until("it in the log", Duration::from_secs(20), || {
                cluster.log().contains("ufw reload")
            });
            let files = ["/etc/ufw/before.rules", "/etc/ufw/before6.rules"];
            for (file, rule) in files.into_iter().zip(lines(UFW, "-A ")) {
                let rules = std::fs::read_to_string(file).unwrap();
                std::fs::write(file, rules.replace("\nCOMMIT", &format!("\n{rule}\nCOMMIT")))
                    .unwrap();
            }
            succeed(lab, "ufw reload");
        }
    }
    assert_eq!(served(lab), [true; 2]);
    assert_eq!(check(lab, &[]), [""; 0]);
    let tried = String::from_utf8(run(lab, &["check", "--try"]).stdout).unwrap();
    assert_eq!(tried.matches("accepted by seat 0").count(), 2, "{tried}");
    // What is not open stays shut.
    let other = Network::server_v4(81);
    let _listener = lab.server().run_in(|| std::net::TcpListener::bind(other)).unwrap().unwrap();
    let limit = Duration::from_millis(500);
    let met = lab.client().run_in(|| TcpStream::connect_timeout(&other, limit)).unwrap();
    assert!(met.is_err());
}

/// A bus of this case alone, and firewalld on it.
fn start_firewalld(lab: &Lab) -> [Process; 2] {
    own(lab, "/etc/firewalld");
    own(lab, "/var/log");
    std::fs::create_dir_all("/run/dbus").unwrap();
    let mut bus = Witness::command("dbus-daemon");
    bus.args(["--system", "--nofork", "--nopidfile"]);
    let bus = lab.start("dbus", bus);
    wait_until("the bus", Duration::from_secs(20), || {
        Path::new("/run/dbus/system_bus_socket").exists()
    });
    let mut firewalld = Witness::command("firewalld");
    firewalld.args(["--nofork", "--nopid"]);
    let firewalld = lab.start("firewalld", firewalld);
    wait_until("firewalld", Duration::from_secs(60), || {
        lab.witness().run("firewall-cmd", &["--state"], "").status.success()
    });
    [firewalld, bus]
}

fn firewalld(lab: &Lab) {
    let _processes = start_firewalld(lab);
    let _cluster = Cluster::on(lab, listeners(), 1).start(1);
    let found = check(lab, &[]);
    let (kind, is_served) = match engine() {
        // It lets in whatever is translated.
        Engine::Redirect => ("filter_opened", true),
        Engine::Tproxy => ("filter_drops", false),
    };
    assert_eq!(served(lab), [is_served; 2]);
    assert_eq!(kinds(&found), [kind; 2], "{found:#?}");
    let recipe: Vec<&str> = lines(FIREWALLD, "firewall-cmd ").collect();
    assert_eq!(recipe.len(), 2);
    for line in &found {
        assert!(line.contains(recipe[0]), "the recipe is the cure: {line}");
    }
    for command in recipe {
        succeed(lab, command);
    }
    assert_eq!(served(lab), [true; 2]);
    assert_eq!(check(lab, &[]), [""; 0]);
    // A rule that lets some clients in to the public port keeps nobody out: `run` refuses to start beside it.
    succeed(lab, "firewall-cmd --remove-port=80/tcp");
    let rule = "rule family=ipv4 source address=10.7.0.0/16 port port=80 protocol=tcp accept";
    let rich = format!("--add-rich-rule={rule}");
    lab.witness().succeed("firewall-cmd", &[&rich], "");
    if engine() == Engine::Redirect {
        let found = check(lab, &["--listen", "10.9.0.1:88", "--listen", "10.9.0.1:80"]);
        assert!(kinds(&found).contains(&"filter_bypassed"), "{found:#?}");
        assert!(served(lab)[0], "though it is for others: {found:#?}");
    } else {
        assert!(!served(lab)[0]);
    }
}
