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

    /// Runs nft with these arguments and this input, and returns what it printed.
    pub fn nft(&self, arguments: &[&str], input: &str) -> String {
        self.succeed("nft", arguments, input)
    }

    /// What `conntrack -L` prints, an entry a line. Needs [`Need::Conntrack`](crate::Need::Conntrack).
    pub fn conntrack(&self, arguments: &[&str]) -> String {
        let arguments: Vec<&str> = ["-L"].iter().chain(arguments).copied().collect();
        self.succeed("conntrack", &arguments, "")
    }

    /// Runs any program in the namespace.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let path = programs::find(program).unwrap_or_else(|| panic!("no program {program}"));
        let mut command = Command::new(path);
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
