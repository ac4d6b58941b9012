//! `docs/public-api.txt` lists the public API of the library, one item a line. Here it is compared with
//! what rustdoc says. `UPDATE_PAGES=1` writes the file anew.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const RENEW: &str = "UPDATE_PAGES=1 cargo test -p netns-tests --test public_api";

#[test]
fn the_public_api_is_what_the_file_lists() -> Result<(), Box<dyn Error>> {
    let file = repository().join("docs/public-api.txt");
    let made = public_api(&rustdoc_json()?)?;
    if env::var_os("UPDATE_PAGES").is_some() {
        fs::write(&file, &made)?;
    }
    let listed = fs::read_to_string(&file)?;
    assert!(
        listed == made,
        "docs/public-api.txt is not the public API (- listed, + found):\n{}\
         If that is what is wanted, `{RENEW}` writes the file anew.",
        differences(&listed, &made)
    );
    Ok(())
}

/// Every item that is reachable from outside, sorted. Of the traits that a type derives, that it has them:
/// their functions are known. Without what the compiler implements by itself.
fn public_api(rustdoc_json: &Path) -> Result<String, Box<dyn Error>> {
    let written = items(rustdoc_json, true)?;
    let mut all = items(rustdoc_json, false)?;
    all.retain(|item| item.starts_with("impl") || written.contains(item));
    Ok(all.concat())
}

fn items(rustdoc_json: &Path, omit_derived: bool) -> Result<Vec<String>, Box<dyn Error>> {
    let api = public_api::Builder::from_rustdoc_json(rustdoc_json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(omit_derived)
        .build()
        .map_err(|fault| {
            format!(
                "{fault}. Does the crate `public-api` in netns-tests/Cargo.toml fit this compiler?"
            )
        })?;
    Ok(api.items().map(|item| format!("{item}\n")).collect())
}

/// The documentation of the library in JSON, with the default features: those are all but `internals`.
/// It is made where `netns-tests/run` has its documentation made.
fn rustdoc_json() -> Result<PathBuf, Box<dyn Error>> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../lints");
    let cargo = Command::new(env!("CARGO"))
        .args(["rustdoc", "--quiet", "--package", "ipcluster", "--lib", "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        .current_dir(repository())
        .env("RUSTDOC", repository().join("netns-tests/tests/rustdoc-json"))
        .output()?;
    if !cargo.status.success() {
        return Err(format!("cargo rustdoc: {}", String::from_utf8_lossy(&cargo.stderr)).into());
    }
    Ok(target.join("doc/ipcluster.json"))
}

fn differences(listed: &str, made: &str) -> String {
    let (before, after) =
        (listed.lines().collect::<BTreeSet<_>>(), made.lines().collect::<BTreeSet<_>>());
    let gone = before.difference(&after);
    let new = after.difference(&before);
    gone.map(|line| format!("-{line}\n")).chain(new.map(|line| format!("+{line}\n"))).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
