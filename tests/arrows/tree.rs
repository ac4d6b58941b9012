//! Which file of `src/` names which other one, through whatever re-exports.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::TokenStream;

use super::names::Names;

/// The path of a module below the root of the crate: `["master", "run"]`.
pub(crate) type Module = Vec<String>;

/// The files of the crate by their modules, without what only tests see.
#[derive(Default)]
pub(crate) struct Tree {
    files: BTreeMap<Module, Names>,
}

impl Tree {
    /// Of these files.
    pub(crate) fn of(files: impl IntoIterator<Item = (Module, TokenStream)>) -> Self {
        let mut tree = Self::default();
        for (module, tokens) in files {
            let names = Names::without_tests(tokens, &module);
            tree.files.insert(module, names);
        }
        let of_file = |(module, names): (&Module, &Names)| -> Vec<Module> {
            let path = |name: &String| [&module[..], std::slice::from_ref(name)].concat();
            names.test_modules.iter().map(path).collect()
        };
        let for_tests: Vec<Module> = tree.files.iter().flat_map(of_file).collect();
        tree.files.retain(|module, _| !for_tests.iter().any(|it| module.starts_with(it)));
        tree
    }

    /// All files.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &Module> {
        self.files.keys()
    }

    /// The modules whose files a file names, its own left out. What it merely offers to others by
    /// `pub use` does not count: that is a name, and no use of it.
    pub(crate) fn named_by(&self, module: &[String]) -> BTreeSet<Module> {
        let names = &self.files[module];
        let is_offered = |path: &&Vec<String>| names.exports.iter().any(|(_, it)| it == *path);
        let paths = names.paths.iter().filter(|path| !is_offered(path));
        let mut named: BTreeSet<Module> =
            paths.filter_map(|path| self.file_of(module, path, 0)).collect();
        named.remove(module);
        named
    }

    /// The file that a path in `module` leads to; none for one out of the crate.
    fn file_of(&self, module: &[String], path: &[String], depth: usize) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        assert!(depth < 16, "re-exports in a ring at {}", path.join("::"));
        if first == "crate" {
            return self.walk(Vec::new(), rest, depth);
        }
        let child = [module, &path[..1]].concat();
        if self.files.contains_key(&child) {
            return self.walk(child, rest, depth);
        }
        let imported = self.files[module].imports.iter().find(|(name, _)| name == first);
        let whole = |(_, path): &(String, Vec<String>)| [path, rest].concat();
        // `use serde;` and the like bring in what they name: nothing of ours.
        imported
            .map(whole)
            .filter(|it| it != path)
            .and_then(|it| self.file_of(module, &it, depth + 1))
    }

    /// From `module` down the path, as far as there are files.
    fn walk(&self, module: Module, path: &[String], depth: usize) -> Option<Module> {
        let Some((next, rest)) = path.split_first() else { return Some(module) };
        let child = [&module[..], &path[..1]].concat();
        if self.files.contains_key(&child) {
            return self.walk(child, rest, depth);
        }
        let exports = self.files.get(&module).map(|names| &names.exports)?;
        match exports.iter().find(|(name, _)| name == next) {
            Some((_, path)) => {
                let whole = [path, rest].concat();
                self.file_of(&module, &whole, depth + 1).or(Some(module))
            }
            None => Some(module),
        }
    }

    /// The rings among the files of a room: sets of files each of which leads to each other one.
    pub(crate) fn rings(&self, room: &str) -> Vec<BTreeSet<String>> {
        let is_inside = |module: &Module| module.first().is_some_and(|first| first == room);
        let inside: Vec<&Module> = self.files.keys().filter(|it| is_inside(it)).collect();
        let arrows: BTreeMap<&Module, BTreeSet<Module>> =
            inside.iter().map(|module| (*module, self.named_by(module))).collect();
        let reached = |from: &Module| {
            let mut reached = BTreeSet::new();
            let mut open: Vec<&Module> = arrows[from].iter().collect();
            while let Some(next) = open.pop() {
                if let Some(further) = arrows.get(next)
                    && reached.insert(next.clone())
                {
                    open.extend(further);
                }
            }
            reached
        };
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            inside.iter().map(|module| (*module, reached(module))).collect();
        let mut rings: BTreeSet<BTreeSet<String>> = BTreeSet::new();
        for module in &inside {
            let both = |other: &&&Module| {
                reached[*module].contains(**other) && reached[**other].contains(*module)
            };
            let ring: BTreeSet<String> =
                inside.iter().filter(both).map(|module| module.join("/")).collect();
            if !ring.is_empty() {
                rings.insert(ring);
            }
        }
        rings.into_iter().collect()
    }
}
