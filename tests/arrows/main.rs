//! The import arrows: which room may use which, in which rooms no file leads back to itself, what pure
//! code may not touch, and where `unsafe` may stand. Read from the tokens of `src/`.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

mod names;
mod tree;

use names::{Names, end_of_item};
use tree::Tree;

/// The rooms, each with those that it may use. `main.rs`, `lib.rs` may use all.
const ROOMS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("listen_fds", &["sys"]),
    ("plan", &[]),
    ("line_protocol", &["plan"]),
    ("protocol", &["line_protocol", "plan"]),
    ("netlink", &["sys"]),
    ("ruleset", &["plan"]),
    ("simulation", &[]),
    ("supervisor", &["plan", "protocol", "simulation"]), // simulation: in tests alone
    ("fleet", &["plan", "protocol", "simulation"]),      // protocol: points in time
    ("membership", &["config", "fleet", "plan", "protocol", "sys"]), // config: to read a file to so many MiB
    ("config", &["plan", "protocol"]),
    // process: which one asks; sys: the groups of a peer
    ("control", &["line_protocol", "plan", "process", "protocol", "sys"]),
    ("http", &["control", "plan", "protocol"]), // plan: the ids in the status
    ("process", &["netlink", "listen_fds", "sys"]),
    ("lab", &["netlink", "process"]),
    ("nft", &["netlink", "ruleset", "plan", "sys"]), // sys: how tables of iptables-legacy are read
    ("worker", &["line_protocol", "listen_fds", "plan", "process"]), // process: in a test alone
    ("role", &["worker"]),
    (
        "master",
        &[
            "netlink",
            "listen_fds",    // at which descriptor the passed sockets begin
            "line_protocol", // the error of a message that is none
            "plan",
            "protocol",
            "ruleset",
            "supervisor",
            "fleet",
            "membership",
            "nft",
            "process",
            "control",
            "config",
            "worker",
            "http",
            "fleet",
            "membership",
        ],
    ),
    (
        "cli",
        &[
            "netlink",
            "plan",
            "protocol",
            "ruleset",
            "supervisor",
            "fleet",
            "membership",
            "nft",
            "process",
            "control",
            "config",
            "worker",
            "http",
            "master",
            "lab",
        ],
    ),
    // What benches, fuzz targets and tests in namespaces reach of closed rooms.
    (
        "internals",
        &[
            "control",
            "line_protocol",
            "master",
            "membership",
            "nft",
            "process",
            "protocol",
            "ruleset",
            "supervisor",
        ],
    ),
];

/// The subjects of the master, each with those that it may use. `mod.rs` may use all.
const SUBJECTS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("adoption", &[]),
    ("privilege", &[]),
    ("log_limit", &[]),
    ("waiting", &[]),
    ("clock", &["waiting"]),
    ("background", &["error"]),
    ("host", &["error"]),
    ("rules", &["background", "clock", "error", "host", "waiting"]),
    ("workers", &["background", "clock", "error", "log_limit", "waiting"]),
    ("health", &["background", "clock", "error", "log_limit", "waiting", "workers"]),
    ("operators", &["adoption", "background", "clock", "error", "log_limit", "rules", "waiting"]),
    ("handover", &["background", "error", "operators", "workers"]),
    // operators: a handle for signals. privilege: what is kept of the capabilities.
    (
        "startup",
        &["adoption", "error", "handover", "host", "operators", "privilege", "rules", "workers"],
    ),
    // workers: a note to the next master.
    ("fleet", &["error", "workers"]),
    ("configuration", &["background", "error", "startup", "waiting", "workers"]),
    ("actions", &["configuration", "operators", "rules", "workers"]),
    (
        "run",
        &[
            "actions",
            "adoption",
            "configuration",
            "clock",
            "error",
            "fleet",
            "handover",
            "health",
            "operators",
            "rules",
            "startup",
            "workers",
        ],
    ),
    (
        "builder",
        &[
            "adoption",
            "background",
            "clock",
            "configuration",
            "error",
            "fleet",
            "handover",
            "health",
            "host",
            "operators",
            "rules",
            "run",
            "startup",
            "workers",
        ],
    ),
    (
        "unmanaged",
        &["clock", "configuration", "error", "handover", "operators", "run", "startup", "workers"],
    ),
];

/// Rooms without IO, clock, randomness or runtime. So is every file whose page (`//!`) has the sentence
/// "Pure", the folder of a `mod.rs` with it, and an item in whose documentation it stands.
const PURE: &[&str] = &["fleet", "line_protocol", "plan", "protocol", "ruleset", "supervisor"];

/// How the sentence ends: "Pure, but for ..." claims less.
const CLAIMS: &[&str] = &["Pure.", "Pure:"];

/// Rooms in which no file may lead back to itself through others.
const WITHOUT_RINGS: &[&str] = &["netlink", "http", "worker", "master"];

/// What pure code does not name: as a path or as the beginning of one.
const IMPURE_PATHS: &[&str] = &[
    "std::fs",
    "std::process",
    "std::thread::spawn",
    "std::thread::sleep",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os::unix::fs",
    "std::os::unix::io",
    "std::os::unix::net",
    "std::os::unix::process",
    "std::os::unix::thread",
    "std::os::linux",
    "std::os::fd",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "tokio",
    "mio",
    "nix",
    "neli",
    "rustix",
    "libc",
    "procfs",
    "rand",
    "getrandom",
    "netlink_packet_core",
    "netlink_packet_netfilter",
    "netlink_packet_sock_diag",
];

/// What pure code does not name under any path: a module may have been imported whole.
const IMPURE_NAMES: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "RandomState",
];

/// Where programs are started: the workers', and in `lab` what tests and the demo need.
const STARTS_PROGRAMS: &[&str] = &["process", "lab", "sys"];

/// What starts them.
const START_PATHS: &[&str] =
    &["std::process::Command", "process::Command", "tokio::process", "nix::unistd::execv"];

/// The only room in which `unsafe` may stand.
const UNSAFE_ROOM: &str = "sys";

#[test]
fn rooms_use_only_what_stands_below_them() {
    let files = sources();
    assert!(files.len() > 5, "read only {} files", files.len());
    let pure: Vec<&str> = files.iter().filter_map(|(name, text)| pure_folder(name, text)).collect();
    let found: Vec<String> =
        files.iter().flat_map(|(name, text)| violations_in(name, text, &pure)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn no_file_leads_back_to_itself() {
    let files = sources();
    let tree = Tree::of(files.iter().map(|(name, text)| (module_of(name), tokens(name, text))));
    for room in WITHOUT_RINGS {
        let rings = tree.rings(room);
        assert!(rings.is_empty(), "{room}: each of these leads to each other one: {rings:#?}");
    }
}

#[test]
fn subjects_of_the_master_use_only_what_stands_below_them() {
    let files = sources();
    let tree = Tree::of(files.iter().map(|(name, text)| (module_of(name), tokens(name, text))));
    let broken: Vec<String> = tree.modules().filter_map(|it| subject_broken(&tree, it)).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// What a file of a subject names of a subject that it may not use.
fn subject_broken(tree: &Tree, module: &[String]) -> Option<String> {
    let subject_of = |module: &[String]| match module {
        [room, subject, ..] if room == "master" => Some(subject.clone()),
        _ => None,
    };
    let subject = subject_of(module)?;
    let below = SUBJECTS.iter().find(|(name, _)| *name == subject).map(|(_, below)| *below);
    let Some(below) = below else {
        return Some(format!("{subject} is no subject: name it in tests/arrows/main.rs"));
    };
    let may_use = |other: &String| *other == subject || below.contains(&other.as_str());
    let named: BTreeSet<String> = tree
        .named_by(module)
        .iter()
        .filter_map(|named| subject_of(named))
        .filter(|other| !may_use(other))
        .collect();
    (!named.is_empty()).then(|| format!("{}: may not use {named:?}", module.join("/")))
}

/// The files of `src/`, by their names in it.
fn sources() -> Vec<(String, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for_each_file(&source, &mut |path| {
        let name = path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        files.push((name, fs::read_to_string(path).unwrap()));
    });
    files
}

fn tokens(name: &str, text: &str) -> TokenStream {
    text.parse().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn for_each_file(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            for_each_file(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&path);
        }
    }
}

/// What the file `name` (relative to `src/`) with this text does that it may not.
fn violations(name: &str, text: &str) -> Vec<String> {
    violations_in(name, text, &[])
}

/// The same beside these folders that call themselves pure.
fn violations_in(name: &str, text: &str, pure: &[&str]) -> Vec<String> {
    let module = module_of(name);
    let room = module.first().map(String::as_str);
    let below = room.and_then(|room| ROOMS.iter().find(|(name, _)| *name == room));
    let mut found = Vec::new();
    if let (Some(room), None) = (room, below) {
        found.push(format!("{name}: {room} is no room: name it in tests/arrows/main.rs"));
    }
    let tokens = tokens(name, text);
    let names = Names::of(tokens.clone(), &module);
    let is_pure = is_in(PURE, name) || is_in(pure, name) || calls_itself_pure(text);
    if is_pure {
        found.extend(impurities(&names.paths, &names.words).map(|what| format!("{name}: {what}")));
    } else {
        let items = pure_items(tokens, &module, &names.imports);
        found.extend(items.into_iter().map(|what| format!("{name}: {what}")));
    }
    for path in &names.paths {
        if let Some((room, below)) = below {
            found.extend(arrow_broken(room, below, path).map(|why| format!("{name}: {why}")));
        }
        if room.is_some_and(|room| !STARTS_PROGRAMS.contains(&room))
            && let Some(start) = START_PATHS.iter().find(|start| reaches(path, start))
        {
            let path = path.join("::");
            found.push(format!("{name}: {start} ({path}): only rooms that start workers use it"));
        }
    }
    for word in &names.words {
        let lifts_the_lint = word == "unsafe" || word == "unsafe_code";
        if lifts_the_lint && room != Some(UNSAFE_ROOM) {
            found.push(format!("{name}: {word}, which may stand in {UNSAFE_ROOM} alone"));
        }
        if word == "include" {
            found.push(format!("{name}: include, which hides code from this test"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What code with these paths and words has that is not pure.
fn impurities(paths: &[Vec<String>], words: &[String]) -> impl Iterator<Item = String> {
    let of_path = |path: &Vec<String>| {
        let impure = IMPURE_PATHS.iter().find(|impure| reaches(path, impure))?;
        Some(format!("pure, and names {impure} ({})", path.join("::")))
    };
    let of_word = |word: &String| {
        IMPURE_NAMES.contains(&word.as_str()).then(|| format!("pure, and names {word}"))
    };
    paths.iter().filter_map(of_path).chain(words.iter().filter_map(of_word))
}

/// What the items that call themselves pure, in a file that does not, have that is not.
fn pure_items(
    tokens: TokenStream,
    module: &[String],
    imports: &[(String, Vec<String>)],
) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let text = group.to_string();
        if text.starts_with("[doc") && CLAIMS.iter().any(|claim| text.contains(claim)) {
            let item = tokens[at + 1..end_of_item(&tokens, at + 1)].iter().cloned().collect();
            let names = Names::of(item, module);
            let whole = |path: Vec<String>| match imports.iter().find(|(name, _)| *name == path[0])
            {
                Some((_, import)) => [import, &path[1..]].concat(),
                None => path,
            };
            // A word may be an import as well.
            let words = names.words.iter().map(|word| vec![word.clone()]);
            let paths: Vec<_> = names.paths.into_iter().chain(words).map(whole).collect();
            found.extend(impurities(&paths, &names.words));
        }
        found.extend(pure_items(group.stream(), module, imports));
    }
    found
}

/// The folder whose page this is, if it calls itself pure.
fn pure_folder<'a>(name: &'a str, text: &str) -> Option<&'a str> {
    name.strip_suffix("/mod.rs").filter(|_| calls_itself_pure(text))
}

fn calls_itself_pure(text: &str) -> bool {
    let page =
        text.lines().take_while(|line| line.starts_with("//!")).collect::<Vec<_>>().join(" ");
    CLAIMS.iter().any(|claim| page.contains(claim))
}

fn module_of(name: &str) -> Vec<String> {
    let mut module: Vec<String> =
        name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

/// Whether the file `name` is one of these, or in one of these folders.
fn is_in(places: &[&str], name: &str) -> bool {
    let stem = name.trim_end_matches(".rs");
    places.iter().any(|place| stem == *place || stem.starts_with(&format!("{place}/")))
}

/// Why this path, if it is one into our crate, may not stand in `room`.
fn arrow_broken(room: &str, below: &[&str], path: &[String]) -> Option<String> {
    let (root, rest) = path.split_first()?;
    if root != "crate" {
        return None;
    }
    let target = rest.first().map_or("*", String::as_str);
    if target == room || below.contains(&target) {
        return None;
    }
    if target == "*" {
        return Some(format!("{room} takes the whole crate by {}", path.join("::")));
    }
    Some(format!("{room} may not use {target} ({})", path.join("::")))
}

/// Whether a path names `impure`, something in it, or with a glob or a new name a parent of it.
fn reaches(path: &[String], impure: &str) -> bool {
    let impure: Vec<&str> = impure.split("::").collect();
    let (whole, path) = match path.split_last() {
        Some((last, parent)) if last == "*" => (true, parent),
        _ => (false, path),
    };
    let path: Vec<&str> =
        path.iter().map(|part| if part == "core" { "std" } else { part.as_str() }).collect();
    path.starts_with(&impure) || (whole && impure.starts_with(&path))
}

#[test]
fn a_broken_arrow_is_found() {
    for (name, text) in [
        ("plan/diff.rs", "use crate::ruleset::Table;"),
        ("plan/diff.rs", "fn f() -> crate::nft::Firewall { todo!() }"),
        ("plan/diff.rs", "use crate::{plan::Plan, nft::{self, Firewall}};"),
        ("plan/diff.rs", "use super::super::nft;"),
        ("plan/diff.rs", "mod tests { use super::super::super::nft; }"),
        ("plan/mod.rs", "use super::nft::Firewall;"),
        ("plan/mod.rs", "use super::{nft, plan};"),
        ("plan/mod.rs", "use super::*;"),
        ("plan/mod.rs", "use crate as all; fn f() { all::nft::f() }"),
        ("plan/mod.rs", "use crate::{self as all};"),
        ("plan/mod.rs", "use crate::*;"),
        ("plan/mod.rs", "use ipcluster::nft;"),
        ("plan/mod.rs", "macro_rules! m { () => { $crate::nft::f() } }"),
        ("config.rs", "use crate::process::Pid;"),
        ("config.rs", "use super::process::Pid;"),
        ("control/server.rs", "use crate::master::Master;"),
        ("process/spawn.rs", "use crate::plan::Port;"),
        ("netlink/socket.rs", "use crate::plan::Port;"),
        ("http/server.rs", "use crate::master::Handle;"),
        ("nft/batch.rs", "use crate::process::Pid;"),
        ("master/run.rs", "use crate::cli::Args;"),
        ("attic/mod.rs", ""),
    ] {
        assert!(!violations(name, text).is_empty(), "{name}: {text}");
    }
}

#[test]
fn impurity_is_found() {
    for text in [
        "use std::time::Instant;",
        "use std::time::{Duration, SystemTime};",
        "use std::{time as t}; fn f() { t::Instant::now(); }",
        "use std::time::*;",
        "use std as s;",
        "use ::std::fs;",
        "fn f() { std::fs::read(\"x\"); }",
        "use std::{collections::BTreeMap, net::{IpAddr, TcpStream}};",
        "use std::process::Command;",
        "use tokio::time;",
        "use tokio as runtime;",
        "fn f() { ::nix::unistd::getpid(); }",
        "fn f() { vec![neli::f()]; }",
        "fn f() { rand::random::<u8>(); }",
        "use std::net; fn f(s: net::UdpSocket) {}",
    ] {
        for name in ["plan/plan.rs", "ruleset/lower.rs", "supervisor/mod.rs"] {
            assert!(!violations(name, text).is_empty(), "{name}: {text}");
        }
        let page = format!("//! Bytes to lines. Pure.\n//!\n//! # More\n\n{text}");
        assert!(!violations("line_protocol/decoder.rs", &page).is_empty(), "{text}");
        assert!(!violations_in("cli/demo/judge.rs", text, &["cli/demo"]).is_empty(), "{text}");
    }
    let item = "use std::time; mod m { impl A { /** Pure. */ fn f(&self) { ITEM } } } use std::fs;";
    for (item, is_impure) in [
        (item.replace("ITEM", "time::Instant::now();"), true),
        (item.replace("ITEM", "fs::read(path)"), true),
        (item.replace("ITEM", "later(time::Duration::ZERO)"), false),
    ] {
        assert_eq!(!violations("http/server.rs", &item).is_empty(), is_impure, "{item}");
    }
    let less = "//! Frames. Pure, but for the descriptors.\nuse std::os::fd::OwnedFd;";
    assert_eq!(violations("http/frame.rs", less), Vec::<String>::new());
    let folder = pure_folder("http/page/mod.rs", "//! Pages. Pure: nothing is read.\nmod a;");
    assert_eq!(folder, Some("http/page"));
}

#[test]
fn a_subject_that_uses_one_above_it_is_found() {
    for (rules, is_broken) in [
        ("use super::run::Master;", true),
        ("use crate::master::{clock, workers::Workers};", true),
        ("use crate::master::clock::Clock; use crate::plan::Plan;", false),
    ] {
        let files = [
            ("master/mod.rs", ""),
            ("master/clock.rs", ""),
            ("master/rules.rs", rules),
            ("master/run.rs", "use super::rules::Rules;"),
            ("master/workers/mod.rs", ""),
        ];
        let files = files.map(|(name, text)| (module_of(name), tokens(name, text)));
        let tree = Tree::of(files);
        assert_eq!(tree.modules().any(|it| subject_broken(&tree, it).is_some()), is_broken);
    }
}

#[test]
fn a_ring_is_found() {
    let rings_of = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(name, text)| (module_of(name), tokens(name, text)));
        Tree::of(files).rings("master")
    };
    let room = "mod a; mod b; #[cfg(test)] mod world; pub use a::A;";
    let room = ("master/mod.rs", room);
    let ring = |files: &[&str]| vec![files.iter().map(|it| (*it).to_owned()).collect()];
    let none: Vec<BTreeSet<String>> = Vec::new();
    for (a, b, expected) in [
        ("use super::b::B;", "", none.clone()),
        ("use super::b::B;", "use super::a::A;", ring(&["master/a", "master/b"])),
        // By the name that the room gives it.
        ("use super::b::B;", "use crate::master::A;", ring(&["master/a", "master/b"])),
        (
            "use super::b; fn f() { b::f() }",
            "fn f(a: super::A) {}",
            ring(&["master/a", "master/b"]),
        ),
        ("use super::{b as other};", "use super::a;", ring(&["master/a", "master/b"])),
        // What only tests see, or what others are offered, is no use.
        ("use super::b::B; #[cfg(test)] mod tests;", "#[cfg(test)] use super::a::A;", none.clone()),
        ("use super::b::B;", "#[cfg(test)] mod tests { use super::super::a::A; }", none.clone()),
        ("use super::b::B;", "pub use super::a::A;", none.clone()),
        ("use super::b::B;", "// use super::a::A;", none.clone()),
        ("use super::b::B;", "use crate::plan::A; use std::a::A;", none),
    ] {
        let plan = ("plan/mod.rs", "pub struct A;");
        let world = ("master/world/mod.rs", "use super::{a, b};");
        let steps = ("master/world/steps.rs", "use super::super::world;");
        let files = [room, ("master/a.rs", a), ("master/b.rs", b), world, steps, plan];
        assert_eq!(rings_of(&files), expected, "{a} {b}");
    }
}

#[test]
fn a_program_that_is_started_elsewhere_is_found() {
    for text in [
        "use std::process::Command;",
        "use std::process::{ExitCode, Command as Program};",
        "fn f() { std::process::Command::new(\"nft\"); }",
        "use std::process; fn f() { process::Command::new(\"sudo\"); }",
        "use tokio::process::Child;",
    ] {
        for name in ["master/run.rs", "nft/firewall.rs", "cli/run.rs", "control/server.rs"] {
            assert!(!violations(name, text).is_empty(), "{name}: {text}");
        }
        assert_eq!(violations("process/spawn.rs", text), Vec::<String>::new(), "{text}");
    }
    let code = "use std::process::ExitCode; fn f() -> u32 { std::process::id() }";
    assert_eq!(violations("cli/run.rs", code), Vec::<String>::new());
}

#[test]
fn unsafe_code_is_found() {
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe impl Send for A {}",
        "#![allow(unsafe_code)]",
        "include!(\"other.txt\");",
    ] {
        assert!(!violations("process/spawn.rs", text).is_empty(), "{text}");
        assert!(!violations("main.rs", text).is_empty(), "{text}");
    }
    assert!(violations("sys/spawn.rs", "fn f() { unsafe { g() } }").is_empty());
}

#[test]
fn what_is_allowed_is_not_found() {
    for (name, text) in [
        ("plan/diff.rs", "use super::{Plan, Seat}; use crate::plan::Port; use std::sync::Arc;"),
        ("plan/mod.rs", "//! Not `use crate::nft` and not unsafe.\n/* use crate::nft; */"),
        ("plan/mod.rs", "const A: &str = \"use crate::nft; unsafe\";"),
        ("plan/mod.rs", "mod tests { use super::*; use super::super::plan::Plan; }"),
        ("plan/tests/mod.rs", "use super::Plan;"),
        ("plan/tests/routes.rs", "use super::super::Plan; use super::full_plan;"),
        (
            "supervisor/state.rs",
            "use std::time::Duration; use std::net::IpAddr; use std::{fmt, mem};",
        ),
        ("control/message.rs", "mod f { pub(in super::super) fn f() {} }"),
        ("control/server.rs", "use tokio::time::Instant; use crate::plan::Seat;"),
        ("nft/batch.rs", "use crate::{netlink, ruleset::Chain};"),
        ("lab/mod.rs", "use crate::process::Pid;"),
        ("config.rs", "use crate::plan::Listener;"),
        ("cli/run.rs", "use crate::master::Master; use crate::lab::Lab;"),
        ("main.rs", "use ipcluster::master::Master; mod cli;"),
        ("lib.rs", "pub mod plan; pub use plan::Plan;"),
    ] {
        assert_eq!(violations(name, text), Vec::<String>::new(), "{text}");
    }
}
