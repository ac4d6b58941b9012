//! The import arrows: which room may use which, what a pure room may not touch, and where `unsafe`
//! may stand. Read from the tokens of `src/`, so that comments, texts and doc tests do not count,
//! and grouped, relative and renamed paths do.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// The rooms, each with those that it may use. `main.rs`, `lib.rs` may use all.
const ROOMS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("plan", &[]),
    ("protocol", &["plan"]),
    ("netlink", &["sys"]),
    ("ruleset", &["plan"]),
    ("supervisor", &["plan", "protocol"]),
    ("config", &["plan", "protocol"]),
    ("control", &["plan", "protocol"]),
    ("http", &["control", "plan", "protocol"]), // plan: the ids in the status
    ("process", &["netlink", "sys"]),
    ("lab", &["netlink", "process"]),
    ("nft", &["netlink", "ruleset", "plan"]),
    ("worker", &["control", "plan", "process"]), // plan: the ids in control's messages
    (
        "master",
        &[
            "netlink",
            "plan",
            "protocol",
            "ruleset",
            "supervisor",
            "nft",
            "process",
            "control",
            "config",
            "worker",
            "http",
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
];

/// Where there is no IO, clock, randomness or runtime: rooms, and files of others.
const PURE: &[&str] = &[
    "plan",
    "protocol",
    "ruleset",
    "supervisor",
    "control/message",
    "control/codec",
    "control/legacy",
    "control/events",
    "control/token_bucket",
    "control/table",
    "control/figures",
    "http/exposition",
    "http/metrics",
    "http/answer",
];

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
    "std::os::unix",
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

/// The only file in which `unsafe` may stand.
const UNSAFE_FILE: &str = "sys.rs";

#[test]
fn rooms_use_only_what_stands_below_them() {
    let mut found = Vec::new();
    let mut files = 0;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for_each_file(&source, &mut |path| {
        files += 1;
        let name = path.strip_prefix(&source).unwrap().to_str().unwrap();
        found.extend(violations(name, &fs::read_to_string(path).unwrap()));
    });
    assert!(files > 5, "read only {files} files");
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
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
    let module = module_of(name);
    let room = module.first().map(String::as_str);
    let below = room.and_then(|room| ROOMS.iter().find(|(name, _)| *name == room));
    let mut found = Vec::new();
    if let (Some(room), None) = (room, below) {
        found.push(format!("{name}: {room} is no room: name it in tests/arrows.rs"));
    }
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut names = Names::default();
    names.read(tokens, &module);
    for path in &names.paths {
        if let Some((room, below)) = below {
            found.extend(arrow_broken(room, below, path).map(|why| format!("{name}: {why}")));
        }
        if is_pure(name)
            && let Some(impure) = IMPURE_PATHS.iter().find(|impure| reaches(path, impure))
        {
            found.push(format!("{name}: pure, and names {impure} ({})", path.join("::")));
        }
    }
    for path in &names.paths {
        if room.is_some_and(|room| !STARTS_PROGRAMS.contains(&room))
            && let Some(start) = START_PATHS.iter().find(|start| reaches(path, start))
        {
            let path = path.join("::");
            found.push(format!("{name}: {start} ({path}): only rooms that start workers use it"));
        }
    }
    for word in &names.words {
        if is_pure(name) && IMPURE_NAMES.contains(&word.as_str()) {
            found.push(format!("{name}: pure, and names {word}"));
        }
        let lifts_the_lint = word == "unsafe" || word == "unsafe_code";
        if lifts_the_lint && name != UNSAFE_FILE {
            found.push(format!("{name}: {word}, which may stand in {UNSAFE_FILE} alone"));
        }
        if word == "include" {
            found.push(format!("{name}: include, which hides code from this test"));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn module_of(name: &str) -> Vec<String> {
    let mut module: Vec<String> =
        name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

fn is_pure(name: &str) -> bool {
    let stem = name.trim_end_matches(".rs");
    PURE.iter().any(|pure| stem == *pure || stem.starts_with(&format!("{pure}/")))
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

/// The paths and the single words of a file. Paths into our crate begin with `crate`; one that ends
/// with `*` takes everything there, by a glob or by giving the module a new name.
#[derive(Default)]
struct Names {
    paths: Vec<Vec<String>>,
    words: Vec<String>,
}

impl Names {
    /// Reads the tokens of the module (or of an inner group of it).
    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                // What may stand before `::std`, and is no part of that path.
                TokenTree::Ident(word) if is_keyword(word) => {}
                TokenTree::Ident(_) => {
                    if is_visibility(&tokens, at) {
                        at += 2; // gives to others, takes nothing
                        continue;
                    }
                    if let Some(end) = self.read_module(&tokens, at, module) {
                        at = end;
                        continue;
                    }
                    at = self.read_path(&tokens, at, &[], module);
                    continue;
                }
                TokenTree::Group(group) => self.read(group.stream(), module),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// `mod name { ... }`: relative paths in it start one deeper.
    fn read_module(&mut self, tokens: &[TokenTree], at: usize, module: &[String]) -> Option<usize> {
        let (TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Group(body)) =
            (tokens.get(at)?, tokens.get(at + 1)?, tokens.get(at + 2)?)
        else {
            return None;
        };
        if keyword != "mod" || body.delimiter() != Delimiter::Brace {
            return None;
        }
        let inner: Vec<String> = module.iter().cloned().chain([name.to_string()]).collect();
        self.read(body.stream(), &inner);
        Some(at + 3)
    }

    /// A path from here on, after `before`, with its groups; gives the place behind it.
    fn read_path(
        &mut self,
        tokens: &[TokenTree],
        mut at: usize,
        before: &[String],
        module: &[String],
    ) -> usize {
        let mut path = before.to_vec();
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(word)) => {
                    let word = word.to_string().trim_start_matches("r#").to_owned();
                    self.words.push(word.clone());
                    path.push(word);
                }
                Some(TokenTree::Punct(glob)) if glob.as_char() == '*' => path.push("*".to_owned()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    let mut start = 0;
                    while start < inner.len() {
                        start = self.read_path(&inner, start, &path, module).max(start + 1);
                    }
                    return at + 1;
                }
                _ => break,
            }
            at += 1;
            if !is_separator(tokens, at) {
                break;
            }
            at += 2;
        }
        if path.len() == before.len() {
            return at; // a comma of the group
        }
        let is_renamed = matches!(tokens.get(at), Some(TokenTree::Ident(word)) if word == "as");
        if let Some(path) = absolute(&path, is_renamed, module) {
            self.paths.push(path);
        }
        at
    }
}

fn is_keyword(word: &Ident) -> bool {
    ["use", "as", "dyn", "impl", "in", "return", "mut", "where", "else", "match", "if", "let"]
        .iter()
        .any(|keyword| word == keyword)
}

/// `pub(crate)`, `pub(super)`, `pub(in path)`.
fn is_visibility(tokens: &[TokenTree], at: usize) -> bool {
    let (Some(TokenTree::Ident(word)), Some(TokenTree::Group(group))) =
        (tokens.get(at), tokens.get(at + 1))
    else {
        return false;
    };
    let first = group.stream().into_iter().next().map(|token| token.to_string());
    word == "pub"
        && group.delimiter() == Delimiter::Parenthesis
        && first.is_some_and(|first| ["crate", "super", "self", "in"].contains(&first.as_str()))
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// The path as seen from the root of the crate; `None` for a word that is no path out of the module.
fn absolute(path: &[String], is_renamed: bool, module: &[String]) -> Option<Vec<String>> {
    let mut parts = path.iter().filter(|part| *part != "self").cloned().peekable();
    let mut base = None;
    while let Some(part) = parts.next_if(|part| ["crate", "super", "ipcluster"].contains(&&**part))
    {
        let base = base.get_or_insert_with(|| module.to_vec());
        match part.as_str() {
            "super" => drop(base.pop()),
            _ => base.clear(),
        }
    }
    let rest: Vec<String> = parts.collect();
    let mut whole: Vec<String> = match base {
        Some(base) => ["crate".to_owned()].into_iter().chain(base).chain(rest).collect(),
        None if path.len() == 1 && !is_renamed => return None,
        None => rest,
    };
    if is_renamed {
        whole.push("*".to_owned());
    }
    Some(whole)
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
        for name in ["plan/plan.rs", "ruleset/lower.rs", "supervisor/mod.rs", "control/codec.rs"] {
            assert!(!violations(name, text).is_empty(), "{name}: {text}");
        }
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
    assert!(violations(UNSAFE_FILE, "fn f() { unsafe { g() } }").is_empty());
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
