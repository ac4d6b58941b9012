//! `docs/parity.md` names a test for each row: here, that every test that it names is there, and that
//! no row of what it has to have is missing. Read from the tokens of the sources, so that a name in
//! a comment or a text is none.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

#[test]
fn every_test_that_the_page_names_is_there() {
    let page = read("docs/parity.md");
    let rows = rows(&page);
    assert!(rows.len() > 60, "read only {} rows", rows.len());
    let tests = all_tests();
    assert!(tests.len() > 800, "found only {} tests", tests.len());
    let faults = faults(&rows, &tests);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_row_of_the_page_for_those_who_move_is_on_it() {
    let on_page = subjects(&rows(&read("docs/parity.md")));
    let moving = read("docs/moving.md");
    for section in ["Settings", "Messages", "Events"] {
        let rows = rows(&moving);
        let names: BTreeSet<String> =
            subjects(&rows.into_iter().filter(|row| row.section == section).collect::<Vec<_>>());
        assert!(names.len() >= 4, "{section}: {names:?}");
        for name in names {
            assert!(on_page.contains(&name), "{section}: `{name}` is not in docs/parity.md");
        }
    }
}

#[test]
fn every_fault_that_is_asked_for_is_on_it() {
    let rows = rows(&read("docs/parity.md"));
    let faults: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.section == "Faults")
        .map(|row| row.subject().split(' ').next().unwrap())
        .collect();
    let numbers = (7..=20).filter(|number| *number != 11).chain([27, 29, 30, 31, 32, 34]);
    let expected: Vec<String> = numbers.map(|number| format!("F{number}")).collect();
    for fault in expected.iter().map(String::as_str).chain(["F13b"]) {
        assert!(faults.contains(fault), "{fault} is missing in {faults:?}");
    }
}

#[test]
fn a_fault_of_the_page_is_found() {
    let tests: BTreeSet<String> =
        ["plan::tests::one", "cases events::told", "arrows::two"].map(str::to_owned).into();
    let page = |cell: &str| format!("## S\n\n| there | test |\n|---|---|\n| `a` | {cell} |\n");
    let faults_of = |cell: &str| faults(&rows(&page(cell)), &tests);
    let none = Vec::<String>::new();
    assert_eq!(faults_of("`plan::tests::one`, `cases events::told` (long)"), none);
    assert_eq!(faults_of("`plan::tests::on`"), ["S: `a`: no test `plan::tests::on`"]);
    assert_eq!(faults_of("`cases health::told`"), ["S: `a`: no test `cases health::told`"]);
    assert_eq!(faults_of("`plan::one`"), ["S: `a`: no test `plan::one`"]);
    assert_eq!(faults_of("none yet"), ["S: `a`: names no test"]);
    assert_eq!(faults_of(""), ["S: `a`: names no test"]);
}

#[test]
fn tests_are_found_where_they_are_and_nowhere_else() {
    let text = r#"
        #[test]
        fn outside() {}
        fn helper() {}
        // #[test] fn commented() {}
        mod tests {
            #[tokio::test(start_paused = true)]
            async fn inside() { "fn told() {}"; }
            #[test]
            #[cfg(feature = "http")]
            fn chosen() {}
            proptest! {
                #[test]
                fn drawn(x in 0..1) {}
            }
            mod deeper { #[test] fn there() {} }
        }
    "#;
    let mut found = BTreeSet::new();
    find_tests(text.parse().unwrap(), "a::b", &mut found);
    let expected = ["outside", "tests::chosen", "tests::deeper::there", "tests::drawn"];
    let expected = expected.into_iter().chain(["tests::inside"]);
    assert_eq!(found, expected.map(|name| format!("a::b::{name}")).collect());

    let text = r#"
        pub(crate) fn cases() -> Vec<Case> {
            let case = |name, body| Case::new(name, body).limit(long("no"));
            vec![case("one", one).needs(Need::Nft), Case::new("two", |lab| run(lab, "mask"))]
        }
        fn one() { other("three", 3); }
    "#;
    assert_eq!(cases(text.parse().unwrap()), ["one", "two"]);
}

/// A row of a table with a column `test`, or of any table of another page.
struct Row {
    section: String,
    /// With the headings of their columns.
    cells: Vec<(String, String)>,
}

impl Row {
    fn subject(&self) -> &str {
        &self.cells[0].1
    }

    /// What stands in backquotes in these columns.
    fn names(&self, columns: &[&str]) -> Vec<&str> {
        let cells = self.cells.iter().filter(|(heading, _)| columns.contains(&heading.as_str()));
        cells.flat_map(|(_, cell)| quoted(cell)).collect()
    }
}

fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn rows(page: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut section, mut headings) = (String::new(), Vec::new());
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.to_owned();
        }
        let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            headings.clear();
            continue;
        };
        let cells = inner.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        if headings.is_empty() {
            headings = cells;
        } else if !inner.starts_with("--") {
            assert_eq!(cells.len(), headings.len(), "{line}");
            let cells = headings.iter().cloned().zip(cells).collect();
            rows.push(Row { section: section.clone(), cells });
        }
    }
    rows
}

/// The names that rows are about: all that stands in backquotes in their first cell.
fn subjects(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().flat_map(|row| quoted(row.subject())).map(str::to_owned).collect()
}

fn faults(rows: &[Row], tests: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for row in rows {
        let place = format!("{}: {}", row.section, row.subject());
        if row.names(&["test"]).is_empty() {
            faults.push(format!("{place}: names no test"));
        }
        for name in row.names(&["test", "control"]) {
            if !tests.contains(name) {
                faults.push(format!("{place}: no test `{name}`"));
            }
        }
    }
    faults
}

/// All tests by the names that the page gives them: those of the library and the program by their
/// paths, those in `tests/` with the name of their program before it, and the cases in namespaces as
/// `cases topic::case`.
fn all_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    let source = root().join("src");
    for file in files(&source) {
        let name = file.strip_prefix(&source).unwrap().with_extension("");
        let mut module: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).collect();
        if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(last)) {
            module.pop();
        }
        find_tests(tokens(&file), &module.join("::"), &mut tests);
    }
    let programs = root().join("tests");
    for file in files(&programs) {
        let name = file.strip_prefix(&programs).unwrap().with_extension("");
        let module = name.to_str().unwrap().trim_end_matches("/main").replace('/', "::");
        find_tests(tokens(&file), &module, &mut tests);
    }
    let directory = root().join("netns-tests/tests/cases");
    for topic in topics(tokens(&directory.join("main.rs"))) {
        let names: Vec<String> =
            files_of(&directory, &topic).iter().flat_map(|file| cases(tokens(file))).collect();
        assert!(!names.is_empty(), "{topic} has no case");
        tests.extend(names.iter().map(|name| format!("cases {topic}::{name}")));
    }
    tests
}

/// The files in which the cases of a topic stand: one, or those of a directory.
fn files_of(directory: &Path, topic: &str) -> Vec<PathBuf> {
    let file = directory.join(format!("{topic}.rs"));
    if file.exists() { vec![file] } else { files(&directory.join(topic)) }
}

/// The functions with an attribute that ends with `test`, in this module and those in it.
fn find_tests(tokens: TokenStream, module: &str, found: &mut BTreeSet<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut is_test = false;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) if is_attribute(&tokens, at) => {
                is_test |= names_a_test(group.stream());
            }
            // The end of a function, of a module, or of a macro call such as `proptest!`.
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                match (word(&tokens, at.wrapping_sub(2)), word(&tokens, at.wrapping_sub(1))) {
                    (Some(keyword), Some(name)) if keyword == "mod" => {
                        let inner =
                            if module.is_empty() { name } else { format!("{module}::{name}") };
                        find_tests(group.stream(), &inner, found);
                    }
                    (Some(name), None) if name == "proptest" => {
                        find_tests(group.stream(), module, found);
                    }
                    _ => {}
                }
                is_test = false;
            }
            TokenTree::Ident(keyword) if keyword == "fn" && is_test => {
                found.extend(word(&tokens, at + 1).map(|name| format!("{module}::{name}")));
                is_test = false;
            }
            _ => {}
        }
    }
}

fn is_attribute(tokens: &[TokenTree], at: usize) -> bool {
    matches!(
        (at.checked_sub(1).and_then(|before| tokens.get(before)), tokens.get(at)),
        (Some(TokenTree::Punct(mark)), Some(TokenTree::Group(group)))
            if mark.as_char() == '#' && group.delimiter() == Delimiter::Bracket
    )
}

/// `test`, `tokio::test`, `tokio::test(...)`.
fn names_a_test(attribute: TokenStream) -> bool {
    let is_group = |token: &TokenTree| matches!(token, TokenTree::Group(_));
    let path: Vec<TokenTree> = attribute.into_iter().take_while(|it| !is_group(it)).collect();
    matches!(path.last(), Some(TokenTree::Ident(last)) if last == "test")
        && path.iter().all(|it| !matches!(it, TokenTree::Punct(mark) if mark.as_char() == '='))
}

fn word(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(word)) => Some(word.to_string()),
        _ => None,
    }
}

/// The names of the cases of a topic: the first arguments of what its function `cases` calls with
/// several.
fn cases(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_it = |at: &usize| word(&tokens, *at).is_some_and(|word| word == "cases");
    let Some(at) = (0..tokens.len()).find(is_it) else { return Vec::new() };
    let body = tokens[at..].iter().find_map(|token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(group.stream()),
        _ => None,
    });
    let mut names = Vec::new();
    find_first_texts(body.unwrap(), &mut names);
    names
}

fn find_first_texts(tokens: TokenStream, names: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let comma =
        |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(it)) if it.as_char() == ',');
    if let Some(TokenTree::Literal(first)) = tokens.first().filter(|_| comma(1)) {
        let text = first.to_string();
        names.extend(text.strip_prefix('"').and_then(|it| it.strip_suffix('"')).map(str::to_owned));
        return;
    }
    for token in tokens {
        if let TokenTree::Group(group) = token {
            find_first_texts(group.stream(), names);
        }
    }
}

/// What `topics![...]` lists: a module that it leaves out is not run.
fn topics(tokens: TokenStream) -> Vec<String> {
    let mut last = String::new();
    let mut found = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Group(group) if last == "topics" => {
                let words = group.stream().into_iter();
                found.extend(words.filter_map(|it| match it {
                    TokenTree::Ident(topic) => Some(topic.to_string()),
                    _ => None,
                }));
            }
            TokenTree::Group(group) => found.extend(topics(group.stream())),
            TokenTree::Ident(word) => last = word.to_string(),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    found
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn tokens(file: &Path) -> TokenStream {
    let text =
        fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
