//! A preset: recognising the server, and what it adds to a command. Pure.

use std::path::Path;

use super::table::PRESETS;
use crate::config::WorkerCommand;
use crate::plan::{Listeners, Protocol};

/// What a server needs as a worker: settings that hold where no others are given, and how it is told
/// where it listens.
#[derive(Debug, PartialEq, Eq)]
pub struct ServerPreset {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// The file names by which a command is recognised, also with a version behind them.
    pub(super) programs: &'static [&'static str],
    /// The same for `python -m NAME`.
    pub(super) modules: &'static [&'static str],
    /// Keys and values of settings, as `DefaultValue` has them.
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// Arguments that it needs in any case.
    pub(super) always: Option<Arguments>,
    /// How it learns its port.
    pub(super) port: Way,
    /// How it learns of the sockets that it is passed.
    pub(super) socket: Way,
    /// What the configuration of the server, or the application, should have.
    pub(super) hints: &'static [&'static str],
}

/// How a server learns where it listens. `{port}` stands for a worker port, `{any}` for the address that
/// the listeners need, `0.0.0.0` or `[::]`, `{host}` for it without brackets, `{fd}` for a passed
/// descriptor, `{index}` for its number from 0 and `{family}` for `INET` or `INET6`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By `PORT` or `LISTEN_FDS`, without any more.
    Itself,
    /// By arguments of its command.
    Arguments(Arguments),
    /// By a variable, with a part for each listener.
    Variable { name: &'static str, each: &'static str, between: &'static str },
    /// By its own configuration or the application: an example.
    ByHand(&'static str),
    /// It cannot; why.
    Never(&'static str),
}

/// Arguments that are added to a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arguments {
    pub(super) place: Place,
    pub(super) each: &'static [&'static str],
    /// Whether they are there once for each listener, not for the first one alone.
    pub(super) repeats: bool,
    /// Options with which a command says this itself.
    pub(super) unless: &'static [&'static str],
}

/// Where arguments are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind the program or module.
    First,
    /// Behind this word; at the end where it is not there.
    After(&'static str),
}

impl ServerPreset {
    /// All of them, in the order of their names.
    pub fn all() -> &'static [Self] {
        PRESETS
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// The one of the server that a command runs, if that is beyond doubt: the program itself, or
    /// `python -m`, or `bundle exec` before it. Neither shells nor scripts are looked into.
    pub fn of(command: &WorkerCommand) -> Option<&'static Self> {
        let words = words(command);
        let start = start(&words);
        PRESETS.iter().find(|preset| match start {
            Start::Program(at) => preset.programs.iter().any(|name| is_program(&words[at], name)),
            Start::Module(at) => preset.modules.contains(&words[at].as_str()),
        })
    }

    /// Its name, as the setting `server` has it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What the server is, in a few words.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// The settings that hold where no others are given: key and value, as a file has it.
    pub fn settings(&self) -> &'static [(&'static str, &'static str)] {
        self.settings
    }

    /// What the configuration of the server, or the application, should have.
    pub fn hints(&self) -> &'static [&'static str] {
        self.hints
    }

    /// By which commands it is recognised: none where the name has to be given.
    pub fn recognised_by(&self) -> Vec<String> {
        let programs = self.programs.iter().map(|name| (*name).to_owned());
        programs.chain(self.modules.iter().map(|name| format!("python -m {name}"))).collect()
    }

    /// How it learns its port, in one line.
    pub fn port_text(&self) -> String {
        self.port.text("reads PORT")
    }

    /// How it learns of the sockets that it is passed, in one line.
    pub fn socket_text(&self) -> String {
        self.socket.text("reads LISTEN_FDS")
    }

    /// What it adds to a command and its environment for workers with these listeners.
    pub(in crate::config) fn additions(
        &self,
        command: &WorkerCommand,
        listeners: &Listeners,
        passes_sockets: bool,
    ) -> Additions {
        let words = words(command);
        let sockets = Socket::of(listeners);
        let way = if passes_sockets { &self.socket } else { &self.port };
        let mut additions = Additions { words: words.clone(), ..Additions::default() };
        match way {
            Way::Arguments(arguments) => additions.add(arguments, &words, &sockets),
            Way::Variable { name, each, between } => {
                let parts: Vec<_> = sockets.iter().map(|socket| socket.fill(each)).collect();
                additions.variable = Some((*name, parts.join(between)));
            }
            Way::Itself | Way::ByHand(_) | Way::Never(_) => {}
        }
        if let Some(arguments) = &self.always {
            additions.add(arguments, &words, &sockets);
        }
        additions
    }

    /// Why the server takes no passed socket, if it never does.
    pub(in crate::config) fn takes_no_socket(&self) -> Option<&'static str> {
        match self.socket {
            Way::Never(why) => Some(why),
            _ => None,
        }
    }
}

impl Way {
    fn text(&self, itself: &str) -> String {
        match self {
            Self::Itself => itself.to_owned(),
            Self::Arguments(arguments) => format!("adds {}", arguments.each.join(" ")),
            Self::Variable { name, each, .. } => format!("sets {name}={each}"),
            Self::ByHand(example) => format!("yours to give: {example}"),
            Self::Never(why) => format!("cannot: {why}"),
        }
    }
}

/// What a preset adds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::config) struct Additions {
    /// The whole command.
    pub(in crate::config) words: Vec<String>,
    /// What of it is new.
    pub(in crate::config) arguments: Vec<String>,
    /// A variable, unless the environment of workers has it.
    pub(in crate::config) variable: Option<(&'static str, String)>,
}

impl Additions {
    /// Adds arguments unless `given`, the command as the user wrote it, says the same.
    fn add(&mut self, arguments: &Arguments, given: &[String], sockets: &[Socket]) {
        let is_given =
            |word: &String| arguments.unless.iter().any(|option| is_option(word, option));
        if given.iter().any(is_given) || sockets.is_empty() {
            return;
        }
        let times = if arguments.repeats { sockets.len() } else { 1 };
        let each = |socket: &Socket| {
            arguments.each.iter().map(|text| socket.fill(text)).collect::<Vec<_>>()
        };
        let new: Vec<String> = sockets.iter().take(times).flat_map(each).collect();
        let after = |at| at + 1;
        let at = match arguments.place {
            Place::First => after(start(&self.words).at()),
            Place::After(word) => {
                self.words.iter().position(|it| it == word).map_or(self.words.len(), after)
            }
        };
        self.words.splice(at..at, new.iter().cloned());
        self.arguments.extend(new);
    }
}

/// A listening socket that a worker should have.
struct Socket {
    /// The placeholder of its worker port.
    port: String,
    has_ipv6: bool,
    /// In which place it is passed.
    index: usize,
}

impl Socket {
    /// The tcp ones, in the order in which they are passed: by public port, of each tcp before udp.
    fn of(listeners: &Listeners) -> Vec<Self> {
        let mut sockets = Vec::new();
        let mut index = 0;
        for public in listeners.public_ports() {
            for protocol in Protocol::ALL {
                let mut addresses = listeners
                    .iter()
                    .filter(|it| it.protocol() == protocol && it.port() == *public)
                    .map(|it| it.address().is_ipv6())
                    .peekable();
                if addresses.peek().is_none() {
                    continue;
                }
                let has_ipv6 = addresses.any(|is_ipv6| is_ipv6);
                if protocol == Protocol::Tcp {
                    let port = match sockets.is_empty() && index == 0 {
                        true => "{port}".to_owned(),
                        false => format!("{{port:{public}/{protocol}}}"),
                    };
                    sockets.push(Self { port, has_ipv6, index });
                }
                index += 1;
            }
        }
        sockets
    }

    fn fill(&self, text: &str) -> String {
        let (any, host, family) = match self.has_ipv6 {
            true => ("[::]", "::", "INET6"),
            false => ("0.0.0.0", "0.0.0.0", "INET"),
        };
        text.replace("{port}", &self.port)
            .replace("{any}", any)
            .replace("{host}", host)
            .replace("{family}", family)
            .replace("{index}", &self.index.to_string())
            // The first descriptor that is passed is 3 (sd_listen_fds(3)).
            .replace("{fd}", &(3 + self.index).to_string())
    }
}

/// Where a server begins within a command.
#[derive(Debug, Clone, Copy)]
enum Start {
    /// Its program.
    Program(usize),
    /// The name of its module, after `python -m`.
    Module(usize),
}

impl Start {
    fn at(self) -> usize {
        match self {
            Self::Program(at) | Self::Module(at) => at,
        }
    }
}

fn words(command: &WorkerCommand) -> Vec<String> {
    std::iter::once(&command.program).chain(&command.arguments).cloned().collect()
}

fn start(words: &[String]) -> Start {
    let is = |at: usize, word: &str| words.get(at).is_some_and(|it| it == word);
    let program = |name| words.first().is_some_and(|word| is_program(word, name));
    match words.len() {
        3.. if program("bundle") && is(1, "exec") => Start::Program(2),
        3.. if program("python") && is(1, "-m") => Start::Module(2),
        _ => Start::Program(0),
    }
}

/// Whether a word names this program: by its file name, also with a version as in `php-fpm8.2`,
/// `python3.11`.
fn is_program(word: &str, name: &str) -> bool {
    let file = Path::new(word).file_name().and_then(|file| file.to_str()).unwrap_or_default();
    let version = file.strip_prefix(name).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

/// Whether a word is this option, alone or with its value: `--port`, `--port=80`, `-p`, `-p80`.
fn is_option(word: &str, option: &str) -> bool {
    let Some(rest) = word.strip_prefix(option) else { return false };
    rest.is_empty() || rest.starts_with('=') || !option.starts_with("--")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn command(text: &str) -> WorkerCommand {
        let mut words = text.split(' ');
        WorkerCommand::new(words.next().unwrap()).args(words)
    }

    fn recognised(text: &str) -> Option<&'static str> {
        ServerPreset::of(&command(text)).map(ServerPreset::name)
    }

    /// The command with what a preset adds, and the variable.
    fn with(
        preset: &str,
        text: &str,
        listeners: &[&str],
        passes_sockets: bool,
    ) -> (String, String) {
        let listeners = listeners.iter().map(|it| it.parse().unwrap()).collect();
        let listeners = Listeners::new(listeners).unwrap();
        let preset = ServerPreset::named(preset).unwrap();
        let additions = preset.additions(&command(text), &listeners, passes_sockets);
        let variable = additions.variable.map(|(name, value)| format!("{name}={value}"));
        (additions.words.join(" "), variable.unwrap_or_default())
    }

    #[test]
    fn names_are_in_order_and_there_once() {
        let names: Vec<_> = PRESETS.iter().map(ServerPreset::name).collect();
        let sorted: BTreeSet<_> = names.iter().copied().collect();
        assert_eq!(names, sorted.into_iter().collect::<Vec<_>>());
        let mut commands: Vec<_> =
            PRESETS.iter().flat_map(|it| it.programs.iter().chain(it.modules.iter())).collect();
        let count = commands.len();
        commands.sort();
        commands.dedup();
        // gunicorn is both a program and a module, and so are others.
        assert!(commands.len() < count);
        assert!(!names.contains(&"auto") && !names.contains(&"none"));
    }

    #[test]
    fn a_server_is_recognised_by_its_program_alone() {
        for (text, expected) in [
            ("gunicorn app:app", Some("gunicorn")),
            ("/srv/venv/bin/gunicorn app:app", Some("gunicorn")),
            ("python3.11 -m gunicorn app:app", Some("gunicorn")),
            ("/usr/bin/python -m uvicorn app:app", Some("uvicorn")),
            ("bundle exec puma", Some("puma")),
            ("php-fpm8.2 -F", Some("php-fpm")),
            ("nginx -g daemon", Some("nginx")),
            ("node server.js", Some("node")),
            ("waitress-serve app:app", Some("waitress")),
            ("apache2 -D FOREGROUND", Some("apache")),
            ("sh -c exec gunicorn app:app", None),
            ("gunicorn-wrapper app:app", None),
            ("gunicornx", None),
            ("python -m http.server", None),
            ("python gunicorn", None),
            ("python -m", None),
            ("php -S 0.0.0.0:{port}", None),
            ("nginx-debug", None),
            ("", None),
        ] {
            assert_eq!(recognised(text), expected, "{text}");
        }
    }

    #[test]
    fn a_server_is_told_its_port_behind_its_program() {
        let v4: &[&str] = &["0.0.0.0:80"];
        let port = |preset, text| with(preset, text, v4, false).0;
        assert_eq!(port("uvicorn", "uvicorn a:b"), "uvicorn --host 0.0.0.0 --port {port} a:b");
        assert_eq!(
            port("uvicorn", "python3 -m uvicorn a:b"),
            "python3 -m uvicorn --host 0.0.0.0 --port {port} a:b"
        );
        assert_eq!(port("puma", "bundle exec puma"), "bundle exec puma -b tcp://0.0.0.0:{port}");
        assert_eq!(port("twisted", "twist web --path ."), "twist web --listen tcp:{port} --path .");
        assert_eq!(port("node", "node server.js"), "node server.js");
    }

    #[test]
    fn what_a_command_says_itself_is_not_said_again() {
        for text in [
            "uvicorn --port 80 a:b",
            "uvicorn --port=80 a:b",
            "uvicorn a:b --uds /run/a",
            "uvicorn --fd 3 a:b",
        ] {
            assert_eq!(with("uvicorn", text, &["0.0.0.0:80"], false).0, text);
        }
        for text in ["gunicorn -b :1 a:b", "gunicorn -b:1 a:b", "gunicorn --bind=:1 a:b"] {
            assert_eq!(with("gunicorn", text, &["0.0.0.0:80"], false).0, text);
        }
        let other = with("uvicorn", "uvicorn --portal a:b", &["0.0.0.0:80"], false).0;
        assert_eq!(other, "uvicorn --host 0.0.0.0 --port {port} --portal a:b");
    }

    #[test]
    fn each_listener_is_named_where_a_server_takes_several() {
        let all: &[&str] = &["0.0.0.0:443/udp", "0.0.0.0:443", "0.0.0.0:80", "[::]:80"];
        assert_eq!(
            with("gunicorn", "gunicorn a:b", all, false).0,
            "gunicorn -b 0.0.0.0:{port} -b [::]:{port:80/tcp} a:b"
        );
        // Sockets are passed by port, of each tcp before udp.
        assert_eq!(
            with("hypercorn", "hypercorn a:b", all, true).0,
            "hypercorn -b fd://3 -b fd://5 a:b"
        );
        assert_eq!(with("uvicorn", "uvicorn a:b", all, true).0, "uvicorn --fd 3 a:b");
        assert_eq!(with("nginx", "nginx", all, true).1, "NGINX=3;5;");
        assert_eq!(
            with("php-fpm", "php-fpm", all, true).1,
            "FPM_SOCKETS=0.0.0.0:{port}=3,[::]:{port:80/tcp}=5"
        );
        assert_eq!(with("nginx", "nginx", all, false).1, "");
    }

    #[test]
    fn a_server_without_a_tcp_listener_is_left_as_it_is() {
        assert_eq!(with("gunicorn", "gunicorn a:b", &["0.0.0.0:53/udp"], false).0, "gunicorn a:b");
    }

    #[test]
    fn uwsgi_finishes_at_the_signal_at_which_it_would_reload() {
        let (text, _) = with("uwsgi", "uwsgi --wsgi-file a.py", &["0.0.0.0:80"], false);
        assert_eq!(
            text,
            "uwsgi --master --hook-master-start unix_signal:15 gracefully_kill_them_all \
             --http-socket 0.0.0.0:{port} --wsgi-file a.py"
        );
        let (text, _) = with("uwsgi", "uwsgi --die-on-term --ini a.ini", &["0.0.0.0:80"], false);
        assert_eq!(text, "uwsgi --die-on-term --ini a.ini");
    }
}
