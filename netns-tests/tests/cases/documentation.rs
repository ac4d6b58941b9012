//! Every command of the documentation is run as it stands there, page by page, and what a page shows as its
//! output comes.
//!
//! The commands are the blocks that begin with ```` ```sh ````, one page in one shell, in their order, in a
//! directory where `server.js` is. Words behind `sh` say what is special about a block:
//!
//! | | |
//! |---|---|
//! | `fails` | its last command ends with another status than 0 |
//! | `not-run: REASON` | it is not run here; [`NOT_RUN`] says how many there are |
//! | `systemd` | it is run by `systemd::the_page_is_as_it_says`, under a real one |
//!
//! A block ```` ```text output ```` shows what the block before it prints: its lines are there, in this order,
//! whatever their numbers and however many spaces, and where a line has `...` anything.
//! `/etc` and `/srv` are directories of the case. `netns-tests/tests/documentation/prelude.sh` says what stands for a second terminal,
//! and for systemd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use netns_tests::{Case, Lab, Need, ipcluster};

/// How many blocks of all pages are not run here.
const NOT_RUN: usize = 11;

pub(crate) fn cases() -> Vec<Case> {
    let with_commands =
        pages().into_iter().filter(|(_, text)| blocks(text).iter().any(Block::is_run));
    let followed = with_commands.map(|(page, text)| {
        let name = page.trim_end_matches(".md").trim_start_matches("docs/").to_owned();
        // Cases are made once, and live as long as the program.
        let case = Case::new(name.leak(), follow);
        let needs = [Need::Node, Need::Nft, Need::Curl, Need::Python];
        let case = needs.into_iter().fold(case, Case::needs).limit(Duration::from_secs(180));
        match text.contains("\nuser = ") {
            true => case.needs(Need::OtherUsers),
            false => case,
        }
    });
    followed
        .chain([
            Case::new("all_commands_stand_in_blocks_and_few_are_not_run", all_in_blocks),
            Case::new("verbs_and_flags_that_are_named_are_there", named_verbs_and_flags),
            Case::new("links_lead_somewhere", links),
        ])
        .collect()
}

/// A block of commands.
#[derive(Debug)]
pub(crate) struct Block {
    /// Where it begins on its page, from 1.
    line: usize,
    /// What stands behind `sh`.
    pub(crate) words: String,
    pub(crate) commands: String,
    /// What the page shows as its output.
    shown: Option<String>,
}

impl Block {
    fn is_run(&self) -> bool {
        !self.words.starts_with("not-run") && self.words != "systemd"
    }
}

/// The fenced blocks of a page: the line of each, what stands behind the fence, and what is in it.
pub(crate) fn fenced(page: &str) -> Vec<(usize, String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String, String)> = None;
    for (number, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(info), None) => open = Some((number + 1, info.to_owned(), String::new())),
            (None, Some((at, info, text))) => open = Some((at, info, format!("{text}{line}\n"))),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

pub(crate) fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (line, info, text) in fenced(page) {
        match info.split_once(' ').unwrap_or((&info, "")) {
            ("sh", words) => {
                let words = words.to_owned();
                blocks.push(Block { line, words, commands: text, shown: None });
            }
            ("text", "output") => {
                let last = blocks.last_mut().expect("output stands behind commands");
                assert!(last.shown.replace(text).is_none(), "line {line}: output a second time");
            }
            _ => {}
        }
    }
    blocks
}

/// Runs what the page says that gives the case its name.
fn follow(lab: &Lab) {
    let name = lab.name().strip_prefix("documentation::").expect("a case of this topic");
    let page = &match name.chars().any(char::is_lowercase) {
        true => format!("docs/{name}.md"),
        false => format!("{name}.md"),
    };
    let blocks = blocks(&read(page));
    let home = lab.directory().join("home");
    let (etc, srv, outputs) = (home.join("etc"), home.join("srv"), home.join("outputs"));
    let programs = home.join("bin");
    // The package makes this one.
    let settings = etc.join("ipcluster");
    for directory in [&etc, &settings, &srv, &outputs, &programs] {
        fs::create_dir_all(directory).unwrap();
    }
    let fixtures = repository().join("netns-tests/tests/documentation");
    symlink(ipcluster(), programs.join("ipcluster")).unwrap();
    for stand_in in ["uvicorn", "waitress-serve"] {
        symlink(fixtures.join("server"), programs.join(stand_in)).unwrap();
    }
    for file in ["server.js", "fleet.json"] {
        fs::copy(fixtures.join(file), home.join(file)).unwrap();
    }
    // The host's are not the case's to change.
    let ours = |text: &str| {
        text.replace("/etc/ipcluster", &format!("{}/ipcluster", etc.display()))
            .replace("/srv/", &format!("{}/", srv.display()))
    };
    let script = home.join("page.sh");
    let prelude = fixtures.join("prelude.sh");
    let mut text = format!("etc={} outputs={}\n", etc.display(), outputs.display());
    text += &format!("block=prelude:0\nsource {}\n", prelude.display());
    for block in blocks.iter().filter(|block| block.is_run()) {
        let (line, commands) = (block.line, ours(&block.commands));
        text += &format!("block={page}:{line}\n");
        let body = format!("{{\n{commands}}} >\"$outputs/{line}\" 2>&1");
        text += &match block.words.as_str() {
            "" => format!("{body}\n"),
            "fails" => format!(
                "trap - ERR\n{body}\nstatus=$?\ntrap failed ERR\n\
                 [[ $status -ne 0 ]] || {{ echo \"$block: did not fail\"; exit 1; }}\n"
            ),
            other => panic!("{page}:{line}: sh {other}: see the top of documentation.rs"),
        };
    }
    fs::write(&script, text).unwrap();
    let mut command = Command::new("bash");
    let path = std::env::var("PATH").unwrap_or_default();
    command.arg(&script).current_dir(&home);
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", programs.display()));
    let mut shell = lab.start("page", command);
    let status = shell.wait(Duration::from_secs(150));
    assert!(status.success(), "{status}\n{}", shell.output());
    for block in blocks.iter().filter(|block| block.is_run()) {
        let output = fs::read_to_string(outputs.join(block.line.to_string())).unwrap_or_default();
        if let Some(missing) =
            block.shown.as_deref().and_then(|shown| missing(&ours(shown), &output))
        {
            panic!("{page}:{}: not printed: {missing}\nprinted was:\n{output}", block.line);
        }
    }
}

/// The first line that is shown and was not printed.
fn missing(shown: &str, printed: &str) -> Option<String> {
    let mut printed = printed.lines().map(without_numbers);
    let mut lines = shown.lines().filter(|line| !line.trim().is_empty() && line.trim() != "...");
    lines
        .find(|line| {
            let parts = without_numbers(line);
            let parts: Vec<&str> = parts.split("...").map(str::trim).collect();
            !printed.any(|printed| has_in_order(&printed, &parts))
        })
        .map(str::to_owned)
}

/// With a 0 in the place of each number, and one space for many.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for word in line.split_whitespace() {
        if !text.is_empty() {
            text.push(' ');
        }
        let mut was_digit = false;
        for letter in word.chars() {
            let is_digit = letter.is_ascii_digit();
            match (is_digit, was_digit) {
                (true, true) => {}
                (true, false) => text.push('0'),
                (false, _) => text.push(letter),
            }
            was_digit = is_digit;
        }
    }
    text
}

fn has_in_order(line: &str, parts: &[&str]) -> bool {
    if let [whole] = parts {
        return line == *whole;
    }
    let mut rest = line;
    parts.iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

pub(crate) fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the repository").to_owned()
}

pub(crate) fn read(page: &str) -> String {
    fs::read_to_string(repository().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

/// All pages, by their paths in the repository.
fn pages() -> BTreeMap<String, String> {
    let docs = fs::read_dir(repository().join("docs")).unwrap().flatten();
    let names = docs.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned);
    names.chain(top).map(|name| (name.clone(), read(&name))).collect()
}

fn all_in_blocks(_: &Lab) {
    let mut not_run = Vec::new();
    for (name, text) in pages() {
        let blocks = blocks(&text);
        let by_nobody = |block: &Block| !block.is_run() && block.words != "systemd";
        for block in blocks.into_iter().filter(by_nobody) {
            let reason = block.words.strip_prefix("not-run: ");
            let reason = reason.unwrap_or_else(|| panic!("{name}:{}: no reason", block.line));
            not_run.push(format!("{name}:{}: {reason}", block.line));
        }
        for (number, line) in text.lines().enumerate() {
            let is_command = line.starts_with("    ipcluster ") || line.starts_with("    curl ");
            assert!(!is_command, "{name}:{}: commands stand in a block ```sh", number + 1);
        }
    }
    assert_eq!(not_run.len(), NOT_RUN, "not run are {not_run:#?}");
}

/// The words in backquotes, outside of blocks.
fn inline(page: &str) -> Vec<String> {
    let mut is_open = false;
    let outside = page.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_open ^= is_fence;
        !is_fence && !is_open
    });
    let text: Vec<&str> = outside.collect();
    text.join("\n")
        .split('`')
        .skip(1)
        .step_by(2)
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn named_verbs_and_flags(_: &Lab) {
    let mut named: BTreeMap<Vec<String>, BTreeMap<String, String>> = BTreeMap::new();
    let all = help(&["run".to_owned()]);
    for (name, text) in pages() {
        // What has been in earlier releases is named there.
        for span in inline(&text) {
            let Some(line) = span.strip_prefix("ipcluster ") else { continue };
            let ours = line.split(" -- ").next().unwrap_or_default();
            let words: Vec<&str> =
                ours.split(['|', '>', ';', '&']).next().unwrap_or_default().split(' ').collect();
            let mut verb = vec![words[0].to_owned()];
            if let ("fleet", Some(second)) = (words[0], words.get(1)) {
                verb.push((*second).to_owned());
            }
            let flags = words.iter().filter(|word| word.starts_with("--"));
            let of_verb = named.entry(verb).or_default();
            of_verb.insert(String::new(), format!("{name}: `{span}`"));
            for flag in flags {
                let flag = flag.split('=').next().unwrap_or(flag);
                of_verb.insert(flag.to_owned(), format!("{name}: `{span}`"));
            }
        }
    }
    assert!(named.len() > 5, "{named:?}");
    for (verb, flags) in named {
        if verb[0].starts_with('-')
            || verb.iter().any(|word| word.chars().any(|it| it.is_uppercase()))
        {
            continue;
        }
        let help = match verb[0].as_str() {
            "run" => all.clone(),
            _ => help(&verb),
        };
        for (flag, place) in flags {
            let flag = flag.trim_end_matches([',', '.']);
            assert!(help.contains(flag), "{place}: {verb:?} has no {flag}");
        }
    }
}

/// What `ipcluster VERB --help` prints.
fn help(verb: &[String]) -> String {
    let output = Command::new(ipcluster()).args(verb).arg("--help").output().unwrap();
    assert!(output.status.success(), "no verb {verb:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn links(_: &Lab) {
    let anchors: BTreeMap<String, BTreeSet<String>> =
        pages().into_iter().map(|(name, text)| (name, anchors(&text))).collect();
    let mut count = 0;
    for (name, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.contains([' ', '\n']) {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&name).parent().expect("a file lies in a directory");
            let path = match file {
                "" => name.clone(),
                file => plain(&folder.join(file)),
            };
            assert!(repository().join(&path).exists(), "{name}: {target} is not there");
            if !anchor.is_empty() {
                let there = anchors.get(&path).is_some_and(|there| there.contains(anchor));
                assert!(there, "{name}: {target}: no such heading");
            }
        }
    }
    assert!(count > 20, "only {count} links were seen");
}

/// The path without `..`.
fn plain(path: &Path) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.to_str().expect("names of pages are text").split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// What a link to a heading is, as forges make it.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept =
                text.chars().filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}
