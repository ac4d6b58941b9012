//! What a setting is, and the macro that makes everything out of the one table in `keys.rs`.

use super::Origin;
use super::value::Form;
use crate::protocol::Applies;

/// One setting, as far as flags, files and pages need to know it.
#[derive(Debug)]
#[allow(dead_code, reason = "flags and files are features, and pages are made by tests")]
pub(crate) struct Setting {
    /// Its name in errors and, but for [`Self::flag_only`], in the file: `key` or `table.key`.
    pub(crate) key: &'static str,
    /// Whether a file cannot give it.
    pub(crate) flag_only: bool,
    /// Its flag with the dashes; [`Self::COMMAND_LINE`] for what stands after `--`.
    pub(crate) flag: &'static str,
    /// Another name of the flag, from an earlier release.
    pub(crate) alias: Option<&'static str>,
    /// What stands for its value in help and pages.
    pub(crate) takes: &'static str,
    /// The form of its value in the file.
    pub(crate) form: Form,
    /// What the file has to have there, for errors.
    pub(crate) expected: &'static str,
    /// Which values are allowed, beyond what [`Self::takes`] says; empty: all.
    pub(crate) range: fn() -> String,
    pub(crate) default: DefaultValue,
    /// A value for pages and messages, as [`Form::raw`] reads it, where the default shows none.
    pub(crate) example: Option<&'static str>,
    pub(crate) changes: Changes,
    /// What it is for, as the lines of a doc comment. Other settings are named by their keys, in
    /// backquotes.
    pub(crate) doc: &'static str,
}

#[allow(dead_code, reason = "flags and files are features, and pages are made by tests")]
impl Setting {
    /// The flag of the setting that takes what stands after `--`.
    pub(crate) const COMMAND_LINE: &'static str = "--";

    /// The table of the file that it stands in; none for those at the top.
    pub(crate) fn table(&self) -> Option<&'static str> {
        self.key.split_once('.').map(|(table, _)| table)
    }

    /// Its key within that table.
    pub(crate) fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(_, name)| name)
    }

    /// What it is for, in one line.
    pub(crate) fn text(&self) -> String {
        self.doc.lines().map(str::trim).collect::<Vec<_>>().join(" ")
    }
}

/// The value of a setting that nobody gives, as [`Form::raw`] reads it. In the table: `"30s"`, `"1"
/// means "as many as CPUs"`, `required "give at least one"`.
#[derive(Debug)]
#[allow(dead_code, reason = "flags are a feature, and pages are made by tests")]
pub(crate) enum DefaultValue {
    /// This value.
    Is(&'static str),
    /// This value, which stands for what the second text says.
    Means(&'static str, &'static str),
    /// None: it has to be given. What to give.
    Required(&'static str),
}

/// The value of a setting, for display and comparison.
pub(super) struct ValueRow<'a> {
    pub(super) key: &'static str,
    pub(super) flag_only: bool,
    /// As a file has it; none for a typed value.
    pub(super) text: Option<&'a str>,
    pub(super) debug: &'a dyn std::fmt::Debug,
    pub(super) origin: &'a Origin,
    pub(super) changes: Changes,
}

/// When another value of a setting comes into force: by `ipcluster reload`, which reads the file again, or
/// at a restart, which is the end of the master and the start of another, or `run --replace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// By `ipcluster scale`, by a reload, and at a restart.
    Scale,
    /// By a reload, and at a restart, at once for all workers.
    AtOnce,
    /// By a reload, with the generation that it starts; and at a restart, which starts one for it.
    NewGeneration,
    /// By a reload, with the generation that it starts; and at a restart for workers that are started after
    /// it: for all with the next generation.
    NextGeneration,
    /// At a restart alone, for all workers.
    Restart,
    /// At a restart alone, which starts new workers for it and retires those that run.
    RestartRenews,
    /// Never: it makes another cluster.
    Never,
}

impl Changes {
    /// When a running master puts another value in force.
    pub(super) fn applies(self) -> Applies {
        match self {
            Self::AtOnce => Applies::AtOnce,
            Self::Scale | Self::NewGeneration | Self::NextGeneration => Applies::NextGeneration,
            Self::Restart | Self::RestartRenews => Applies::NewMaster,
            Self::Never => Applies::Never,
        }
    }

    /// For the reference page.
    #[cfg(test)]
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Scale => "by `reload` or `scale`",
            Self::AtOnce => "by `reload`, at once",
            Self::NewGeneration | Self::NextGeneration => "by `reload`, with its generation",
            Self::Restart => "at restart (`run --replace`)",
            Self::RestartRenews => "at restart (`run --replace`), which starts a new generation",
            Self::Never => "no: another value is another cluster",
        }
    }
}

/// Makes, out of one declaration for each setting: [`SETTINGS`](super::keys::SETTINGS); the methods
/// of [`ConfigBuilder`](super::ConfigBuilder), typed and by key; the getters of
/// [`Config`](super::Config), but for settings whose `get` is `none`: those are read by methods that
/// see several settings at once.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $field:ident: $type:ty {
            key: $key:literal $(($only:ident))?,
            flag: $flag:literal $(or $alias:literal)?, $takes:literal,
            range: $range:expr,
            default: $($default:literal $(means $meaning:literal)?)? $(required $how:literal)?,
            $(example: $example:literal,)?
            changes: $changes:ident,
            get: $get:ident $(-> $got:ty)?,
        }
    )+) => {
        /// All settings, in the order of the reference page.
        pub(crate) const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            flag_only: settings!(@is_given $($only)?),
            flag: $flag,
            alias: settings!(@option $($alias)?),
            takes: $takes,
            form: <$type as Value>::FORM,
            expected: <$type as Value>::EXPECTED,
            range: || Range::<$type>::expected(&$range),
            default: settings!(@default $($default $($meaning)?)? $(required $how)?),
            example: settings!(@option $($example)?),
            changes: Changes::$changes,
            doc: concat!($($doc, "\n"),+),
        }),+];

        /// Makes a [`Config`], from typed values, from a file, or from a file with typed values over
        /// it. Nothing is checked before [`build`](Self::build).
        ///
        /// ```
        /// use std::time::Duration;
        ///
        /// use ipcluster::config::{Config, WorkerCommand};
        ///
        /// let config = Config::builder()
        ///     .listen(vec!["0.0.0.0:80".parse()?, "[::]:80".parse()?])
        ///     .command(WorkerCommand::new("node").arg("server.js"))
        ///     .workers(4)
        ///     .drain_timeout(Some(Duration::from_secs(600)))
        ///     .build()?;
        /// assert_eq!(config.workers(), 4);
        /// # Ok::<_, Box<dyn std::error::Error>>(())
        /// ```
        #[derive(Debug, Clone, Default)]
        #[must_use]
        pub struct ConfigBuilder {
            $(pub(super) $field: Entry<$type>,)+
        }

        /// One method for each setting, with the setting's key.
        impl ConfigBuilder {
            $(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!(
                    "Key `", $key, "`, ", settings!(@default_text $($default $($meaning)?)?), "."
                )]
                pub fn $field(mut self, value: $type) -> Self {
                    self.$field = Some(Box::new(Given::new($key, Ok(value), Origin::Builder)));
                    self
                }
            )+

            /// These settings, and those of `under` where these say nothing. A list replaces a list.
            pub fn over(self, under: Self) -> Self {
                Self { $($field: self.$field.or(under.$field),)+ }
            }

            /// Takes the value of the setting with this key as it was written; keeps what is wrong
            /// with it for [`Self::build`], since another value may come over it.
            pub(super) fn read(&mut self, key: &str, raw: Raw, origin: Origin, items: Vec<Origin>) {
                match key {
                    $($key => {
                        let text = Some(raw.toml());
                        let value = <$type as Value>::read(raw);
                        self.$field = Some(Box::new(Given { key: $key, value, origin, items, text }));
                    })+
                    _ => {}
                }
            }

            /// Whether something was given for the setting with this key.
            pub(super) fn gives(&self, key: &str) -> bool {
                match key {
                    $($key => self.$field.is_some(),)+
                    _ => false,
                }
            }

            pub(super) fn resolve(self) -> Result<Values, ConfigError> {
                Ok(Values { $($field: resolve(
                    self.$field,
                    $key,
                    &settings!(@default $($default $($meaning)?)? $(required $how)?),
                    &$range,
                )?,)+ })
            }
        }

        /// A value for every setting, each of them allowed by itself.
        #[derive(Debug, Clone, PartialEq)]
        pub(super) struct Values {
            $(pub(super) $field: Given<$type>,)+
        }

        impl Values {
            /// All settings as a file has them, in the order of the reference page.
            pub(super) fn rows(&self) -> Vec<ValueRow<'_>> {
                vec![$(ValueRow {
                    key: $key,
                    flag_only: settings!(@is_given $($only)?),
                    text: self.$field.text.as_deref(),
                    debug: &self.$field.value,
                    origin: &self.$field.origin,
                    changes: Changes::$changes,
                }),+]
            }

            /// For each of [`Self::rows`] whether `other` has the same value.
            pub(super) fn equal(&self, other: &Self) -> Vec<bool> {
                vec![$(self.$field == other.$field),+]
            }
        }

        /// One method for each setting that stands for itself.
        impl Config {
            $(settings! { @getter [$(#[doc = $doc])+] $key, $field, $get $(-> $got)? })+
        }
    };
    (@getter [$($doc:tt)+] $key:literal, $field:ident, none) => {};
    (@getter [$($doc:tt)+] $key:literal, $field:ident, $get:ident -> $got:ty) => {
        $($doc)+
        #[doc = ""]
        #[doc = concat!("Key `", $key, "`.")]
        pub fn $field(&self) -> $got {
            self.values.$field.$get()
        }
    };
    (@is_given) => { false };
    (@is_given flag_only) => { true };
    (@default $default:literal) => { DefaultValue::Is($default) };
    (@default $default:literal $meaning:literal) => { DefaultValue::Means($default, $meaning) };
    (@default required $how:literal) => { DefaultValue::Required($how) };
    (@default_text) => { "required" };
    (@default_text $default:literal) => { concat!("default `", $default, "`") };
    (@default_text $default:literal $meaning:literal) => { concat!("default: ", $meaning) };
    (@option) => { None };
    (@option $value:literal) => { Some($value) };
}

pub(super) use settings;
