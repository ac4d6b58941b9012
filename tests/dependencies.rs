//! What `deny.toml` asks of the dependencies, where it can be read from `cargo metadata`: licences, sources,
//! and which of them may be there in two versions. `cargo deny check` says all of it, and known
//! vulnerabilities; it is not everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[test]
fn every_licence_is_allowed() -> Result {
    let rules = rules()?;
    let licenses = rules.get("licenses").ok_or("no [licenses]")?;
    let allowed = strings(licenses.get("allow"));
    let exceptions: BTreeMap<&str, Vec<&str>> = tables(licenses.get("exceptions"))
        .filter_map(|exception| {
            Some((exception.get("crate")?.as_str()?, strings(exception.get("allow"))))
        })
        .collect();
    let forbidden: Vec<String> = packages()?
        .into_iter()
        .filter(|package| {
            let more = exceptions.get(&*package.name).map_or(&[][..], Vec::as_slice);
            let license = package.license.replace('/', " OR ");
            !satisfied(&license, &|name| allowed.contains(&name) || more.contains(&name))
        })
        .map(|package| format!("{} {}: {}", package.name, package.version, package.license))
        .collect();
    assert_eq!(forbidden, Vec::<String>::new(), "licences that deny.toml does not allow");
    Ok(())
}

#[test]
fn every_source_is_allowed() -> Result {
    let rules = rules()?;
    let sources = rules.get("sources").ok_or("no [sources]")?;
    let registries = strings(sources.get("allow-registry"));
    let unknown: Vec<String> = packages()?
        .into_iter()
        // Those of this repository have none.
        .filter_map(|package| package.source)
        .filter(|source| {
            !source.strip_prefix("registry+").is_some_and(|registry| registries.contains(&registry))
        })
        .collect();
    assert_eq!(unknown, Vec::<String>::new(), "sources that deny.toml does not allow");
    Ok(())
}

/// Neither one more than it lists, nor one that is not there any more.
#[test]
fn two_versions_are_only_of_what_is_listed() -> Result {
    let rules = rules()?;
    let skipped: BTreeSet<&str> = tables(rules.get("bans").and_then(|bans| bans.get("skip")))
        .filter_map(|skip| skip.get("crate")?.as_str())
        .collect();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages()? {
        versions.entry(package.name).or_default().push(package.version);
    }
    let mut unlisted = Vec::new();
    let mut used = BTreeSet::new();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let is_skipped = |version: &str| {
            skipped.iter().find(|skip| {
                skip.strip_prefix(name)
                    .and_then(|rest| rest.strip_prefix('@'))
                    .and_then(|of| version.strip_prefix(of))
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            })
        };
        used.extend(versions.iter().filter_map(|version| is_skipped(version)));
        if versions.iter().filter(|version| is_skipped(version).is_none()).count() > 1 {
            unlisted.push(format!("{name}: {}", versions.join(", ")));
        }
    }
    assert_eq!(unlisted, Vec::<String>::new(), "more than one version, and no `skip` in deny.toml");
    assert_eq!(used, skipped, "each `skip` in deny.toml is of a dependency that is there twice");
    Ok(())
}

#[test]
fn a_licence_is_read_as_spdx_says() {
    let allowed = |name: &str| matches!(name, "MIT" | "Apache-2.0" | "Unicode-3.0");
    for license in [
        "MIT",
        "GPL-3.0-only OR MIT",
        "MIT AND Apache-2.0",
        "(MIT OR GPL-3.0-only) AND Unicode-3.0",
        "GPL-3.0-only AND ISC OR MIT",
        "Apache-2.0 WITH LLVM-exception OR MIT",
    ] {
        assert!(satisfied(license, &allowed), "{license}");
    }
    for license in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR ISC) AND GPL-3.0-only",
        "MIT AND (ISC OR BSD-2-Clause)",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(!satisfied(license, &allowed), "{license}");
    }
}

/// Whether an SPDX expression can be satisfied with what is allowed. `AND` binds closer than `OR`.
fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let term = |term: &str| match term.strip_prefix('(').and_then(|term| term.strip_suffix(')')) {
        Some(inner) => satisfied(inner, allowed),
        None => allowed(term),
    };
    split(expression, "OR").iter().any(|part| split(part, "AND").iter().all(|part| term(part)))
}

/// The parts between an operator that is not in parentheses.
fn split(expression: &str, operator: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0_usize;
    for word in expression.split_whitespace() {
        if depth == 0 && word == operator {
            parts.push(String::new());
            continue;
        }
        depth = (depth + word.matches('(').count()).saturating_sub(word.matches(')').count());
        if let Some(part) = parts.last_mut() {
            part.push_str(if part.is_empty() { "" } else { " " });
            part.push_str(word);
        }
    }
    parts
}

struct Package {
    name: String,
    version: String,
    license: String,
    source: Option<String>,
}

/// All that the workspace is built of, with all features, on the platforms of `deny.toml`.
fn packages() -> Result<Vec<Package>> {
    let rules = rules()?;
    let targets = strings(rules.get("graph").and_then(|graph| graph.get("targets")));
    assert!(!targets.is_empty(), "deny.toml names no target");
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--all-features"])
        .args(targets.iter().flat_map(|target| ["--filter-platform", target]))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    if !cargo.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&cargo.stderr)).into());
    }
    let metadata: Value = serde_json::from_slice(&cargo.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata without packages")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(packages
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            license: text(&package["license"]),
            source: package["source"].as_str().map(str::to_owned),
        })
        .collect())
}

fn rules() -> Result<Table> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    Ok(fs::read_to_string(file)?.parse()?)
}

fn strings(list: Option<&toml::Value>) -> Vec<&str> {
    list.and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(toml::Value::as_str)
        .collect()
}

fn tables(list: Option<&toml::Value>) -> impl Iterator<Item = &Table> {
    list.and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_table)
}
