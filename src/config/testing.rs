//! What the tests of this room share.

use super::keys::SETTINGS;
use super::value::Raw;
use super::{Config, ConfigBuilder, Origin, WorkerCommand};

/// The settings of `--listen 0.0.0.0:80 -- server`.
pub(super) fn least() -> ConfigBuilder {
    Config::builder()
        .listen(vec!["0.0.0.0:80".parse().expect("a listener")])
        .command(WorkerCommand::new("server"))
}

impl ConfigBuilder {
    /// The setting with this key as a flag `--flag` gives it; the items of a list are words.
    pub(super) fn flag(self, key: &str, text: &str) -> Self {
        let setting = SETTINGS.iter().find(|it| it.key == key).expect("a key");
        self.flag_raw(key, setting.form.raw(text).expect("a text in the setting's form"))
    }

    pub(super) fn flag_raw(mut self, key: &str, raw: Raw) -> Self {
        self.read(key, raw, Origin::Flag { flag: "--flag" }, Vec::new());
        self
    }

    /// Several settings, over these.
    pub(super) fn flags(self, flags: &[(&str, &str)]) -> Self {
        flags.iter().fold(self, |builder, (key, text)| builder.flag(key, text))
    }
}
