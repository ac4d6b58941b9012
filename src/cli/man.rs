//! `ipcluster man`: the manual pages of the program and of each verb, written from the same words as
//! `--help`. Hidden: a package makes them with the very program that it holds, so that there is no copy
//! that could be of another release.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Failed;
use super::args::{Arguments, ManArgs};

/// Writes `ipcluster.1`, and `ipcluster-VERB.1` for each verb.
pub(super) fn run(args: &ManArgs) -> Result<(), Failed> {
    let mut command = Arguments::command();
    command.build();
    write_all(&args.directory, &command)
}

fn write_all(directory: &Path, command: &Command) -> Result<(), Failed> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let path = directory.join(format!("{name}.1"));
    let page = page(command)
        .and_then(|page| fs::write(&path, page))
        .map_err(|error| Failed::new(format!("cannot write {}: {error}", path.display())));
    page?;
    shown(command).try_for_each(|verb| write_all(directory, verb))
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let manual = Man::new(command.clone()).manual("ipcluster manual");
    let mut page = Vec::new();
    manual.render(&mut page)?;
    Ok(page)
}

/// The verbs that have a page: not `help`, nor those that are hidden.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_help_lists_has_a_page_and_the_hidden_ones_have_none() {
        let directory = tempfile::tempdir().unwrap();
        run(&ManArgs { directory: directory.path().to_owned() }).unwrap();
        let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        for verb in ["", "-run", "-reload", "-status", "-fleet", "-fleet-plan", "-wait"] {
            let page = text(&format!("ipcluster{verb}.1"));
            assert!(page.contains(".TH ipcluster"), "{verb}");
            assert!(page.contains(".SH NAME"), "{verb}");
        }
        assert!(text("ipcluster-run.1").contains("drain"));
        assert!(text("ipcluster.1").contains("ipcluster\\-reload(1)"));
        for hidden in ["ipcluster-demo-worker.1", "ipcluster-man.1", "ipcluster-help.1"] {
            assert!(!directory.path().join(hidden).exists(), "{hidden}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = run(&ManArgs { directory: "/nowhere/at/all".into() }).unwrap_err();
        assert!(format!("{error:?}").contains("/nowhere/at/all/ipcluster.1"), "{error:?}");
    }
}
