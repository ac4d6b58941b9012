//! What is allowed, and yet most likely not what was meant. Pure.

use super::placeholder::misspelt;
use super::value::quote;
use super::{Config, Names};

/// Programs that replace `$PORT` in what they are given to run.
const SHELLS: [&str; 10] =
    ["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "fish", "busybox", "envsubst"];

/// Flags that are followed by a program's text, in which `$PORT` may be a variable of its language.
const TEXT_FLAGS: [&str; 5] = ["-c", "-e", "-E", "-r", "--eval"];

/// What workers have in their environment, and the placeholder for it.
const VARIABLES: [(&str, &str); 6] = [
    ("PORT", "port"),
    ("IPCLUSTER_SEAT", "seat"),
    ("IPCLUSTER_WORKER", "worker"),
    ("IPCLUSTER_GENERATION", "generation"),
    ("IPCLUSTER_NAME", "name"),
    ("IPCLUSTER_CONFIG_FILE", "config"),
];

impl Config {
    /// Settings that are most likely mistaken, each in a line that says what to write.
    pub(crate) fn hints(&self) -> Vec<String> {
        let names = self.placeholder_names();
        let command = self.command();
        let mut hints = Vec::new();
        let words =
            std::iter::once(command.program()).chain(command.arguments().iter().map(|it| &**it));
        for word in words {
            hints.extend(of_placeholders("command", word, names));
        }
        for (name, value) in self.env().values() {
            hints.extend(of_placeholders(&format!("env ({name})"), value, names));
        }
        hints.extend(of_variables(command.program(), command.arguments()));
        hints
    }
}

fn of_placeholders(key: &str, text: &str, names: Names<'_>) -> Vec<String> {
    let hint = |(word, name): (&str, &str)| match (word, name) {
        ("config", "config") => format!(
            "`{key}`: {{config}} stays as it is without `config_template`, which names the file that it \
             is made from"
        ),
        _ => format!(
            "`{key}`: {{{word}}} is no placeholder, and stays as it is: did you mean {{{name}}}?"
        ),
    };
    misspelt(text, names).into_iter().map(hint).collect()
}

/// Variables in arguments that no shell will replace.
fn of_variables(program: &str, arguments: &[String]) -> Vec<String> {
    let base = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let is_shell = |word: &str| SHELLS.contains(&base(word).as_str());
    if is_shell(program) || arguments.iter().any(|word| is_shell(word)) {
        return Vec::new();
    }
    let mut hints = Vec::new();
    let before = std::iter::once(program).chain(arguments.iter().map(|word| &**word));
    for (before, word) in before.zip(arguments) {
        if TEXT_FLAGS.contains(&before) {
            continue;
        }
        if let Some((variable, placeholder)) = variable_in(word) {
            hints.push(format!(
                "`command`: no shell runs it, so {variable} in {} stays as it is: write {{{placeholder}}}",
                quote(word)
            ));
        }
    }
    hints
}

/// The first variable of a worker's own in a text, and the placeholder for it.
fn variable_in(text: &str) -> Option<(String, String)> {
    text.match_indices('$').find_map(|(at, _)| {
        let rest = &text[at + 1..];
        let (rest, close) = rest.strip_prefix('{').map_or((rest, ""), |rest| (rest, "}"));
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        let known = VARIABLES.iter().find(|(variable, _)| *variable == name);
        let placeholder = match (known, name.strip_prefix("IPCLUSTER_PORT_")) {
            (Some((_, placeholder)), _) => (*placeholder).to_owned(),
            (None, Some(port)) => format!("port:{port}"),
            (None, None) => return None,
        };
        let open = if close.is_empty() { "" } else { "{" };
        Some((format!("${open}{name}{close}"), placeholder))
    })
}

#[cfg(test)]
mod tests {
    use super::super::WorkerCommand;
    use super::super::testing::least;

    fn hints(words: &[&str]) -> Vec<String> {
        let command = WorkerCommand::new(words[0]).args(words[1..].iter().copied());
        least().command(command).build().unwrap().hints()
    }

    #[test]
    fn a_variable_that_no_shell_replaces_has_a_placeholder() {
        assert_eq!(
            hints(&["server", "--port=$PORT"]),
            [
                "`command`: no shell runs it, so $PORT in \"--port=$PORT\" stays as it is: write {port}"
            ]
        );
        let found = hints(&["env", "X=1", "gunicorn", "-b", "[::]:${IPCLUSTER_PORT_443}"]);
        assert!(
            found[0].contains("${IPCLUSTER_PORT_443} in") && found[0].ends_with("write {port:443}")
        );
        assert!(hints(&["x", "$IPCLUSTER_SEAT"])[0].ends_with("write {seat}"));
        for words in [
            &["sh", "-c", "exec server --port=$PORT"][..],
            &["timeout", "9", "/bin/bash", "-c", "server $PORT"],
            &["perl", "-e", "print $PORT"],
            &["server", "$PORTS", "$HOME", "{port}", "5$"],
        ] {
            assert_eq!(hints(words), Vec::<String>::new(), "{words:?}");
        }
    }

    #[test]
    fn a_misspelt_placeholder_is_named() {
        assert_eq!(
            hints(&["server", "{prot}"]),
            ["`command`: {prot} is no placeholder, and stays as it is: did you mean {port}?"]
        );
        assert!(hints(&["nginx", "-c", "{config}"])[0].contains("without `config_template`"));
        assert_eq!(hints(&["server", "{\"port\":1}", "{print}"]), Vec::<String>::new());
    }
}
