//! `ipcluster save-others`: the ruleset of the host without what is ours, to be loaded again by nft.
//!
//! The rules are written by nft itself: in text table by table, in JSON as objects, of which those of other
//! tables stay. Each table replaces the one of its name and touches no other.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::args::SaveOthersArgs;
use super::{Failed, output};
use crate::nft::{OtherTable, OtherTables};
use crate::process::run_stock_tool;

/// How often the ruleset is read, if it changes meanwhile.
const ATTEMPTS: u32 = 5;

/// Prints the tables that are not ours.
pub(super) fn run(args: &SaveOthersArgs) -> Result<(), Failed> {
    let mut others = OtherTables::open()?;
    for _ in 0..ATTEMPTS {
        let before = others.generation_id()?;
        let (left_out, tables): (Vec<_>, Vec<_>) =
            others.list()?.into_iter().partition(|table| table.is_owned);
        let saved = match args.json {
            true => as_json(&tables),
            false => as_text(&tables),
        };
        // A table that was removed meanwhile is an error of nft.
        if others.generation_id()? != before {
            continue;
        }
        output::answer(&saved?)?;
        // Those of ours that keep connections alive say nothing to anybody.
        for table in left_out.iter().filter(|table| !table.name.starts_with("ipcluster.keep_")) {
            output::note(&format!(
                "{table} is left out: it belongs to a program that runs, and makes it itself"
            ));
        }
        return Ok(());
    }
    Err(Failed::new(format!("other programs changed rules during each of {ATTEMPTS} attempts"))
        .hint("try again"))
}

fn as_text(tables: &[OtherTable]) -> Result<String, Failed> {
    let mut text =
        "#!/usr/sbin/nft -f\n# The rules of this host without those of ipcluster, which \
                    its masters make themselves.\n"
            .to_owned();
    for table in tables {
        let (family, name) = (table.family, word(table)?);
        let listed = nft(&["list", "table", family, name])?;
        text.push_str(&format!(
            "\ntable {family} {name}\ndelete table {family} {name}\n{}",
            String::from_utf8_lossy(&listed)
        ));
    }
    Ok(text)
}

fn as_json(tables: &[OtherTable]) -> Result<String, Failed> {
    let ruleset = nft(&["-j", "list", "ruleset"])?;
    let odd = |reason: String| Failed::new(format!("nft -j list ruleset: {reason}"));
    let ruleset: Value = serde_json::from_slice(&ruleset).map_err(|it| odd(it.to_string()))?;
    let objects = ruleset.get("nftables").and_then(Value::as_array);
    let objects = objects.ok_or_else(|| odd("it has no list of objects".to_owned()))?;
    Ok(format!("{}\n", json!({ "nftables": without_ours(objects, tables) })))
}

/// The objects of these tables, behind what removes the tables that have their names. Pure.
fn without_ours(objects: &[Value], tables: &[OtherTable]) -> Vec<Value> {
    let kept: BTreeSet<(&str, &str)> =
        tables.iter().map(|table| (table.family, table.name.as_str())).collect();
    let mut saved = Vec::new();
    for object in objects {
        let Some((kind, body)) = object.as_object().and_then(|it| it.iter().next()) else {
            continue;
        };
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
        let name_of_table = if kind == "table" { "name" } else { "table" };
        let of = (text("family"), text(name_of_table));
        match kind.as_str() {
            "metainfo" => saved.push(object.clone()),
            _ if !kept.contains(&of) => {}
            "table" => {
                let bare = json!({ "table": { "family": of.0, "name": of.1 } });
                saved.extend([json!({ "add": bare }), json!({ "delete": bare }), object.clone()]);
            }
            _ => saved.push(object.clone()),
        }
    }
    saved
}

/// The name of a table as a word of nft's language, in which it is part of a command.
fn word(table: &OtherTable) -> Result<&str, Failed> {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_next = |c: char| c.is_ascii_alphanumeric() || "_-./\\".contains(c);
    let name = table.name.as_str();
    match name.starts_with(is_first) && name.chars().all(is_next) {
        true => Ok(name),
        false => Err(Failed::new(format!("{table}: nft cannot write its name"))
            .hint("it was made by another program than nft, which has to save it")),
    }
}

/// What nft prints.
fn nft(arguments: &[&str]) -> Result<Vec<u8>, Failed> {
    let output = run_stock_tool("nft", arguments);
    let output = output.map_err(|error| {
        Failed::new(format!("nft cannot be run: {error}"))
            .hint("install nftables: the rules of others are saved by it")
    })?;
    match output.status.success() {
        true => Ok(output.stdout),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or("it says nothing");
            Err(Failed::new(format!("nft {}: {}: {said}", arguments.join(" "), output.status)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(family: &'static str, name: &str) -> OtherTable {
        OtherTable { family, name: name.to_owned(), is_owned: false }
    }

    #[test]
    fn objects_of_other_tables_stay_in_their_order() {
        let ours = |kind: &str| json!({ kind: { "family": "inet", "table": "ipcluster_web" } });
        let chain = json!({ "chain": { "family": "ip", "table": "nat", "name": "pre" } });
        let nat = json!({ "table": { "family": "ip", "name": "nat", "handle": 3 } });
        let objects = [
            json!({ "metainfo": { "version": "1.0.6" } }),
            json!({ "table": { "family": "inet", "name": "ipcluster_web" } }),
            ours("counter"),
            ours("rule"),
            nat.clone(),
            chain.clone(),
            // The same name in another family.
            json!({ "chain": { "family": "ip6", "table": "nat", "name": "pre" } }),
        ];
        let bare = json!({ "table": { "family": "ip", "name": "nat" } });
        assert_eq!(
            without_ours(&objects, &[table("ip", "nat")]),
            [objects[0].clone(), json!({ "add": bare }), json!({ "delete": bare }), nat, chain]
        );
    }

    #[test]
    fn a_name_that_is_no_word_is_no_part_of_a_command() {
        for name in ["filter", "_x", "a.b-c/d", "f2b-table"] {
            assert_eq!(word(&table("ip", name)), Ok(name));
        }
        for name in ["", "2fast", "a b", "a;flush ruleset", "a\nb", "{", "é"] {
            assert!(word(&table("ip", name)).is_err(), "{name:?}");
        }
    }
}
