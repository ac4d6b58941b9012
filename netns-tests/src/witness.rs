//! Others that say what is in the kernel: nft, conntrack and, by a feature, rustables.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use ipcluster::lab::Namespace;

use super::programs;

/// What stock tools say about a network namespace. Its methods panic where the tool fails, with
/// what it printed.
#[derive(Debug, Clone, Copy)]
pub struct Witness<'a> {
    namespace: &'a Namespace,
}

impl<'a> Witness<'a> {
    /// The witnesses of a namespace.
    pub fn new(namespace: &'a Namespace) -> Self {
        Self { namespace }
    }

    /// What `nft list ruleset` prints. Needs [`Need::Nft`](crate::Need::Nft).
    pub fn ruleset(&self) -> String {
        self.nft(&["list", "ruleset"], "")
    }

    /// Loads a ruleset in nft's syntax: `nft -f -`.
    pub fn load(&self, ruleset: &str) {
        self.nft(&["-f", "-"], ruleset);
    }

    /// Has nft check a ruleset without loading it: `nft --check -f -`. The error is what it printed.
    ///
    /// # Errors
    /// The complaint of nft.
    pub fn check(&self, ruleset: &str) -> Result<(), String> {
        let output = self.run("nft", &["--check", "-f", "-"], ruleset);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A command of nft for our table, with the name that the map of slots has in place of ` slots `,
    /// and the first key of it in place of ` first `.
    pub fn naming_slots(&self, command: &str) -> String {
        let maps = self.nft(&["list", "maps"], "");
        let mut words = maps.split_whitespace();
        let Some(name) = words.find(|word| word.starts_with("slots_")) else {
            return command.to_owned();
        };
        let first = words.skip_while(|word| *word != "elements").nth(3).expect("an element");
        command.replace(" slots ", &format!(" {name} ")).replace(" first ", &format!(" {first} "))
    }

    /// Runs nft with these arguments and this input, and returns what it printed.
    pub fn nft(&self, arguments: &[&str], input: &str) -> String {
        self.succeed("nft", arguments, input)
    }

    /// What `conntrack -L` prints, an entry a line. Needs [`Need::Conntrack`](crate::Need::Conntrack).
    pub fn conntrack(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = ["-L"].iter().chain(arguments).copied().collect();
        self.succeed("conntrack", &arguments, "")
    }

    /// A command of a program that is found where a Debian user's `PATH` does not look, too; to be
    /// started in a namespace.
    ///
    /// # Panics
    /// Where there is no such program: see [`Need`](crate::Need).
    pub fn command(program: &str) -> Command {
        let path = programs::find(program).unwrap_or_else(|| panic!("no program {program}"));
        Command::new(path)
    }

    /// Runs any program in the namespace.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = Self::command(program);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.namespace.run_in(|| {
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that ends without reading its input says why by its status.
                let _ = stdin.write_all(input.as_bytes());
            }
            child.wait_with_output()
        });
        output
            .expect("the namespace can be entered")
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    /// Runs any program in the namespace, which must succeed.
    pub fn succeed(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let output = self.run(program, arguments, input);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}\n{}\ninput:\n{input}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A table as rustables reads it.
#[cfg(feature = "rustables")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenTable {
    /// Its name.
    pub name: String,
    /// Its flags: `NFT_TABLE_F_*`.
    pub flags: u32,
    /// Its chains, in the kernel's order.
    pub chains: Vec<SeenChain>,
}

/// A chain as rustables reads it.
#[cfg(feature = "rustables")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenChain {
    /// Its name.
    pub name: String,
    /// Whether it has a hook.
    pub is_base: bool,
    /// How many rules it has, and how many expressions each; the error where rustables 0.9 cannot
    /// read them, as with a lookup of concatenated keys.
    pub rules: Result<Vec<usize>, String>,
}

#[cfg(feature = "rustables")]
impl Witness<'_> {
    /// All tables, as a library reads them that has nothing in common with ours.
    ///
    /// # Panics
    /// Where it cannot read a table or a chain.
    pub fn tables(&self) -> Vec<SeenTable> {
        let read = || {
            let tables = rustables::list_tables().expect("rustables lists tables");
            tables.iter().map(seen_table).collect()
        };
        self.namespace.run_in(read).expect("the namespace can be entered")
    }
}

#[cfg(feature = "rustables")]
fn seen_table(table: &rustables::Table) -> SeenTable {
    let chains = rustables::list_chains_for_table(table).expect("rustables lists chains");
    SeenTable {
        name: table.get_name().cloned().unwrap_or_default(),
        flags: table.get_flags().copied().unwrap_or_default(),
        chains: chains.iter().map(seen_chain).collect(),
    }
}

#[cfg(feature = "rustables")]
fn seen_chain(chain: &rustables::Chain) -> SeenChain {
    let expressions = |rule: &rustables::Rule| {
        rule.get_expressions().map_or(0, |expressions| expressions.iter().count())
    };
    SeenChain {
        name: chain.get_name().cloned().unwrap_or_default(),
        is_base: chain.get_hook().is_some(),
        rules: rustables::list_rules_for_chain(chain)
            .map(|rules| rules.iter().map(expressions).collect())
            .map_err(|error| error.to_string()),
    }
}
