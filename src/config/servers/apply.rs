//! What a preset makes of the settings that were given.

use std::fmt;

use super::{Server, ServerPreset};
use crate::config::keys::{SETTINGS, Values};
use crate::config::table::Setting;
use crate::config::{ConfigBuilder, Origin};
use crate::plan::{Engine, Listeners};
use crate::protocol::Readiness;

/// A preset, and what holds because of it.
#[derive(Debug, Clone)]
pub(crate) struct ServerInForce {
    pub(crate) preset: &'static ServerPreset,
    /// Whether the command named it, not the setting `server`.
    is_recognised: bool,
    /// The settings that it gave, as a file has them.
    settings: Vec<String>,
    /// What it added to the command.
    arguments: Vec<String>,
    /// What the server needs in its arguments, where the command is a script or the like.
    missing: Vec<String>,
    /// The variable that it set.
    variable: Option<String>,
    /// Why its workers will not serve, if that is known beforehand.
    obstacle: Option<String>,
}

/// Configurations are equal if their settings are, whether a preset gave those or somebody.
impl PartialEq for ServerInForce {
    fn eq(&self, other: &Self) -> bool {
        self.preset == other.preset
    }
}

impl ConfigBuilder {
    /// These settings, and those of the preset that they name where these say nothing.
    pub(in crate::config) fn with_preset(self) -> (Self, Option<ServerInForce>) {
        let server = self.server.as_ref().map(|given| given.value.as_ref().ok().copied());
        let recognised = || {
            // Those workers tell by messages what they need, and end by them.
            let speaks = |ready: &Readiness| *ready == Readiness::Protocol;
            let ready = self.ready.as_ref().and_then(|given| given.value.as_ref().ok());
            if ready.is_some_and(speaks) {
                return None;
            }
            let command = self.command.as_ref()?.value.as_ref().ok()?;
            ServerPreset::of(command)
        };
        let (preset, is_recognised) = match server.unwrap_or(Some(Server::Auto)) {
            Some(Server::Preset(preset)) => (Some(preset), false),
            Some(Server::Auto) => (recognised(), true),
            // What is wrong with a value is said when it is resolved.
            Some(Server::None) | None => (None, false),
        };
        let Some(preset) = preset else { return (self, None) };
        let mut under = Self::default();
        let mut settings = Vec::new();
        let origin = Origin::Preset { server: preset.name() };
        for (key, text) in preset.settings() {
            let setting = SETTINGS.iter().find(|setting| setting.key == *key);
            let raw = setting.and_then(|setting| Some((setting, setting.form.raw(text)?)));
            let Some((setting, raw)) = raw else { continue };
            if !self.gives(key) {
                settings.push(in_file(setting, text));
                under.read(key, raw, origin.clone(), Vec::new());
            }
        }
        let server = ServerInForce {
            preset,
            is_recognised,
            settings,
            arguments: Vec::new(),
            missing: Vec::new(),
            variable: None,
            obstacle: None,
        };
        (self.over(under), Some(server))
    }
}

fn in_file(setting: &Setting, text: &str) -> String {
    format!("{} = {}", setting.key, setting.form.toml(text))
}

impl ServerInForce {
    /// Adds what the server needs to the command and the environment of workers.
    pub(in crate::config) fn applied_to(mut self, values: &mut Values) -> Self {
        // Listeners that cannot be are refused later, with where they stand.
        let Ok(listeners) = Listeners::new(values.listen.value.clone()) else { return self };
        let passes_sockets =
            values.socket_activation.value || values.engine.value == Engine::Tproxy;
        let command = &mut values.command.value;
        let additions = self.preset.additions(command, &listeners, passes_sockets);
        if ServerPreset::of(command) == Some(self.preset) {
            let mut words = additions.words.into_iter();
            command.program = words.next().unwrap_or_default();
            command.arguments = words.collect();
            if !additions.arguments.is_empty() {
                // Words do not stand any more where the file has them.
                values.command.items.clear();
            }
            self.arguments = additions.arguments;
        } else {
            // A script may have other uses for arguments.
            self.missing = additions.arguments;
        }
        if let Some((name, value)) = additions.variable
            && !values.env.value.names(&name.into())
            && let Ok(env) = values.env.value.clone().set(name, &value)
        {
            values.env.value = env;
            self.variable = Some(format!("{name}={value}"));
        }
        let obstacle = self.preset.takes_no_socket().filter(|_| passes_sockets);
        self.obstacle = obstacle
            .map(|why| format!("{} takes no socket that it is passed: {why}", self.preset.name()));
        self
    }

    /// Why its workers will not serve, if that is known beforehand.
    pub(crate) fn obstacle(&self) -> Option<&str> {
        self.obstacle.as_deref()
    }
}

/// `server preset uvicorn, by the command: retire_signal = "TERM", arguments --port {port}`.
impl fmt::Display for ServerInForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = if self.is_recognised { ", recognised by the command" } else { "" };
        write!(f, "server preset {}{by}: ", self.preset.name())?;
        let mut parts = self.settings.clone();
        if !self.arguments.is_empty() {
            parts.push(format!("arguments {}", self.arguments.join(" ")));
        }
        if let Some(variable) = &self.variable {
            parts.push(format!("variable {variable}"));
        }
        match parts.is_empty() {
            true => f.write_str("changes nothing that is not given")?,
            false => f.write_str(&parts.join(", "))?,
        }
        match self.missing.as_slice() {
            [] => Ok(()),
            missing => write!(
                f,
                "; the command is not {} itself, and has to give it the arguments {}",
                self.preset.name(),
                missing.join(" ")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::PRESETS;
    use crate::config::testing::least;
    use crate::config::{Config, ConfigBuilder, WorkerCommand};

    fn of(command: &str, flags: &[(&str, &str)]) -> Config {
        let flags = [&[("command", command)], flags].concat();
        least().flags(&flags).build_for(4).unwrap()
    }

    fn words(config: &Config) -> String {
        let command = config.command();
        let words = std::iter::once(command.program().to_owned());
        words.chain(command.arguments().iter().cloned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_setting_of_every_preset_is_one_and_is_allowed() {
        for preset in PRESETS {
            let config = of("server", &[("server", preset.name())]);
            let server = config.server_in_force().unwrap();
            assert_eq!(config.server(), Some(preset));
            assert_eq!(server.settings.len(), preset.settings().len(), "{}", preset.name());
        }
    }

    #[test]
    fn a_preset_is_chosen_by_the_command_or_by_name_or_not() {
        let name = |config: Config| config.server().map(|server| server.name());
        assert_eq!(name(of("gunicorn a:b", &[])), Some("gunicorn"));
        assert_eq!(name(of("gunicorn a:b", &[("server", "auto")])), Some("gunicorn"));
        assert_eq!(name(of("gunicorn a:b", &[("server", "none")])), None);
        assert_eq!(name(of("gunicorn a:b", &[("server", "uvicorn")])), Some("uvicorn"));
        assert_eq!(name(of("./start a:b", &[("server", "uvicorn")])), Some("uvicorn"));
        assert_eq!(name(of("./start a:b", &[])), None);
        assert_eq!(name(of("node older.js", &[("ready", "protocol")])), None);
        let error = least().flag("server", "ngnix").build_for(1).unwrap_err().to_string();
        assert!(error.contains("\"ngnix\": expected auto, none or one of aiohttp, "), "{error}");
    }

    #[test]
    fn what_is_given_wins_over_a_preset() {
        let server = |flags: &[_]| of("nginx", flags).server_in_force().unwrap().to_string();
        let all = "server preset nginx, recognised by the command: stop_signal = \"QUIT\", \
                   retire_signal = \"QUIT\", kill_mode = \"mixed\"";
        assert_eq!(server(&[]), all);
        assert_eq!(
            server(&[("retire_signal", ""), ("server", "nginx")]),
            "server preset nginx: stop_signal = \"QUIT\", kill_mode = \"mixed\""
        );
        let given = of("nginx", &[("stop_signal", "TERM")]).end_signals();
        assert_eq!(
            (given.stop.to_string(), given.retire.unwrap().to_string()),
            ("SIGTERM".into(), "SIGQUIT".into())
        );
        // Of a file, over which a flag stands.
        let file = least().flags(&[("command", "nginx"), ("stop_signal", "INT")]);
        let config = ConfigBuilder::default().flag("kill_mode", "group").over(file).build_for(1);
        let server = config.unwrap().server_in_force().unwrap().to_string();
        assert!(server.ends_with(": retire_signal = \"QUIT\""), "{server}");
    }

    #[test]
    fn what_is_added_is_part_of_the_command_and_of_the_environment() {
        let config = of("uvicorn a:b", &[]);
        assert_eq!(words(&config), "uvicorn --host 0.0.0.0 --port {port} a:b");
        assert_eq!(words(&config.scaled(2).unwrap()), words(&config), "once");
        let config = of("uvicorn a:b", &[("engine", "tproxy")]);
        assert_eq!(words(&config), "uvicorn --fd 3 a:b");
        let config = of("uvicorn a:b", &[("socket_activation", "true")]);
        assert_eq!(words(&config), "uvicorn --fd 3 a:b");
        let config = of("nginx", &[("engine", "tproxy")]);
        assert!(config.env().names(&"NGINX".into()));
        let config = of("nginx", &[("engine", "tproxy"), ("env", "NGINX=4;")]);
        assert_eq!(config.server_in_force().unwrap().variable, None);
        let config = of("granian a:b", &[("engine", "tproxy")]);
        let obstacle = config.server_in_force().unwrap().obstacle().unwrap().to_owned();
        assert!(obstacle.starts_with("granian takes no socket that it is passed: "), "{obstacle}");
    }

    #[test]
    fn a_script_gets_no_arguments_that_it_may_not_know() {
        let config = of("./start.sh web", &[("server", "uvicorn")]);
        assert_eq!(words(&config), "./start.sh web");
        let text = config.server_in_force().unwrap().to_string();
        let expected = "; the command is not uvicorn itself, and has to give it the arguments \
                        --host 0.0.0.0 --port {port}";
        assert!(text.ends_with(expected), "{text}");
        assert_eq!(words(&of("uvicorn --fd 3", &[("server", "uvicorn")])), "uvicorn --fd 3");
    }

    #[test]
    fn an_error_about_a_value_of_a_preset_names_the_preset() {
        let mut builder = least();
        let origin = crate::config::Origin::Preset { server: "x" };
        let raw = crate::config::value::Raw::Integer(0);
        builder.read("workers", raw, origin, Vec::new());
        let error = builder.build_for(1).unwrap_err().to_string();
        assert_eq!(error, "server preset x: `workers`: 0: expected 1 to 1024");
    }

    #[test]
    fn a_typed_command_is_recognised_as_well() {
        let config = least().command(WorkerCommand::new("/usr/sbin/nginx")).build_for(1).unwrap();
        assert_eq!(config.server().map(|server| server.name()), Some("nginx"));
    }
}
