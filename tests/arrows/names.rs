//! The paths and words of a source file, read from its tokens, so that comments, texts and doc tests do
//! not count, and grouped, relative and renamed paths do.

use std::iter::once;

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};

/// The paths and the single words of a file. Paths into our crate begin with `crate`; one that ends
/// with `*` takes everything there, by a glob or by giving the module a new name.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) paths: Vec<Vec<String>>,
    pub(crate) words: Vec<String>,
    /// What `use` declarations bring in: the name that the file has for it, and the path.
    pub(crate) imports: Vec<(String, Vec<String>)>,
    /// Those of them that `pub use` (of any visibility) offers to others.
    pub(crate) exports: Vec<(String, Vec<String>)>,
    /// The modules that only tests have: those declared behind `#[cfg(test)]`.
    pub(crate) test_modules: Vec<String>,
    /// Whether items behind `#[cfg(test)]` are left out.
    without_tests: bool,
}

/// Where a path is read: in code, or in a `use` declaration that offers it to others or does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Code,
    Import,
    Export,
}

impl Names {
    /// Those of the module (or of an inner group of it) with these tokens.
    pub(crate) fn of(tokens: TokenStream, module: &[String]) -> Self {
        let mut names = Self::default();
        names.read(tokens, module);
        names
    }

    /// As [`Names::of`], of what is compiled without tests alone.
    pub(crate) fn without_tests(tokens: TokenStream, module: &[String]) -> Self {
        let mut names = Self { without_tests: true, ..Self::default() };
        names.read(tokens, module);
        names
    }

    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Ident(word) if word == "use" => {
                    let place = if is_public(&tokens, at) { Place::Export } else { Place::Import };
                    at = self.read_path(&tokens, skip_root(&tokens, at + 1), &[], module, place);
                    continue;
                }
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
                    at = self.read_path(&tokens, at, &[], module, Place::Code);
                    continue;
                }
                TokenTree::Group(_) if self.without_tests && is_test_only(&tokens, at) => {
                    let end = end_of_item(&tokens, at + 1);
                    self.test_modules.extend(declared_module(&tokens[at + 1..end]));
                    at = end;
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
        place: Place,
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
                        let end = self.read_path(&inner, start, &path, module, place);
                        start = end.max(start + 1);
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
        let new_name = match (tokens.get(at), tokens.get(at + 1)) {
            (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(name))) if word == "as" => {
                Some(name.to_string())
            }
            _ => None,
        };
        if place != Place::Code
            && let Some(whole) = absolute(&path, place != Place::Code, module)
        {
            let own_name = || path.iter().rfind(|part| *part != "self").cloned();
            let name = new_name.clone().or_else(own_name).unwrap_or_default();
            let names = if place == Place::Export { &mut self.exports } else { &mut self.imports };
            names.push((name, whole));
        }
        if let Some(mut path) = absolute(&path, new_name.is_some(), module) {
            if new_name.is_some() {
                path.push("*".to_owned());
            }
            self.paths.push(path);
        }
        at
    }
}

fn is_keyword(word: &Ident) -> bool {
    ["as", "dyn", "impl", "in", "return", "mut", "where", "else", "match", "if", "let"]
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

/// Whether `pub`, with or without a place in parentheses, stands before this.
fn is_public(tokens: &[TokenTree], at: usize) -> bool {
    let is_pub = |back: usize| {
        let before = at.checked_sub(back).and_then(|at| tokens.get(at));
        matches!(before, Some(TokenTree::Ident(word)) if word == "pub")
    };
    is_pub(1) || (is_pub(2) && is_visibility(tokens, at - 2))
}

/// Behind the `::` of `::std`.
fn skip_root(tokens: &[TokenTree], at: usize) -> usize {
    if is_separator(tokens, at) { at + 2 } else { at }
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// Whether the group here is that of `#[cfg(test)]`.
fn is_test_only(tokens: &[TokenTree], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| tokens.get(before));
    matches!(before, Some(TokenTree::Punct(mark)) if mark.as_char() == '#')
        && tokens[at].to_string().replace(' ', "") == "[cfg(test)]"
}

/// The module that `mod name;`, of any visibility, declares.
fn declared_module(item: &[TokenTree]) -> Option<String> {
    match item {
        [.., TokenTree::Ident(keyword), TokenTree::Ident(name), TokenTree::Punct(_)]
            if keyword == "mod" =>
        {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// Behind the item, or the rest of it, that begins here: its braces or its semicolon end it.
pub(crate) fn end_of_item(tokens: &[TokenTree], at: usize) -> usize {
    let is_end = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(mark) => mark.as_char() == ';',
        TokenTree::Ident(_) | TokenTree::Literal(_) => false,
    };
    tokens[at..].iter().position(is_end).map_or(tokens.len(), |length| at + length + 1)
}

/// The path as seen from the root of the crate; `None` for a word that is no path out of the module.
fn absolute(path: &[String], names_one: bool, module: &[String]) -> Option<Vec<String>> {
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
    match base {
        Some(base) => Some(once("crate".to_owned()).chain(base).chain(rest).collect()),
        None if path.len() == 1 && !names_one => None,
        None => Some(rest),
    }
}
