//! What differs between two configurations, and when each difference comes into force. Pure.

use std::collections::BTreeSet;

use super::{Config, Environment};
use crate::protocol::{Applies, SettingChange, SettingInForce};

/// What stands for a variable that workers do not get, in the place of its value.
const UNSET: &str = "(not set)";

impl Config {
    /// Every setting with its value and where that comes from, in the order of `docs/settings.md`.
    pub(crate) fn settings_in_force(&self) -> Vec<SettingInForce> {
        let rows = self.values.rows().into_iter().filter(|row| !row.flag_only);
        rows.map(|row| SettingInForce {
            key: row.key.to_owned(),
            value: row.text.map_or_else(|| format!("{:?}", row.debug), str::to_owned),
            origin: row.origin.to_string(),
        })
        .collect()
    }

    /// What another configuration of the same cluster changes, in the order of `docs/settings.md`. Values
    /// that mean the same (`60s`, `1min`) are no change, wherever they come from.
    pub(crate) fn changes_to(&self, next: &Self) -> Vec<SettingChange> {
        let (before, after) = (self.values.rows(), next.values.rows());
        let equal = self.values.equal(&next.values);
        let mut changes = Vec::new();
        for ((before, after), is_equal) in before.iter().zip(&after).zip(equal) {
            // What is for the start of a master alone is no difference between two of its moments.
            if is_equal || before.flag_only {
                continue;
            }
            let applies = after.changes.applies();
            if before.key == "env" {
                changes.extend(variables(self.env(), next.env(), applies));
                continue;
            }
            let texts = (before.text.map(unquoted), after.text.map(unquoted));
            let (before_text, after_text) = match texts {
                (Some(before), Some(after)) if before != after => (before, after),
                // Written alike, and yet different, as what a server preset has added is.
                _ => (format!("{:?}", before.debug), format!("{:?}", after.debug)),
            };
            let key = before.key.to_owned();
            changes.push(SettingChange { key, before: before_text, after: after_text, applies });
        }
        changes
    }

    /// Whether two configurations share out clients in another way.
    pub(crate) fn has_shares_of(&self, other: &Self) -> bool {
        self.weights == other.weights
    }
}

/// Why changes cannot be put in force by a running master, and what to do; `None` if they can.
pub(crate) fn refusal_of(changes: &[SettingChange]) -> Option<String> {
    let of = |applies| {
        let keys = changes.iter().filter(move |it| it.applies == applies);
        keys.map(|it| format!("`{}`", it.key)).collect::<Vec<_>>()
    };
    let (never, restart) = (of(Applies::Never), of(Applies::NewMaster));
    if !never.is_empty() {
        return Some(format!(
            "{} cannot change: another value is another cluster. Stop this one, and start the other",
            never.join(", ")
        ));
    }
    (!restart.is_empty()).then(|| {
        format!(
            "{} cannot change while the master runs: `ipcluster run --replace` with the same file takes \
             over without a connection lost, as `systemctl restart` does",
            restart.join(", ")
        )
    })
}

fn variables(before: &Environment, after: &Environment, applies: Applies) -> Vec<SettingChange> {
    let names: BTreeSet<&String> =
        before.values().chain(after.values()).map(|(name, _)| name).collect();
    let mut changes = Vec::new();
    let value = |of: &Environment, name: &String| {
        of.values().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    };
    for name in names {
        let (before, after) = (value(before, name), value(after, name));
        if before == after {
            continue;
        }
        let shown = |value: Option<String>| value.unwrap_or_else(|| UNSET.to_owned());
        changes.push(SettingChange {
            key: format!("env.{name}"),
            before: shown(before),
            after: shown(after),
            applies,
        });
    }
    let passed = (before.passed(), after.passed());
    if passed.0 != passed.1 {
        let text = |names: &[String]| match names {
            [] => "(none passed on)".to_owned(),
            names => names.join(" "),
        };
        let key = "env".to_owned();
        changes.push(SettingChange { key, before: text(passed.0), after: text(passed.1), applies });
    }
    changes
}

/// A text without its quotes, if nothing in it needs them.
fn unquoted(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    match inner {
        Some("") => "\"\"".to_owned(),
        Some(inner) if !inner.contains(['"', '\\']) => inner.to_owned(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::SETTINGS;
    use super::super::table::Changes;
    use super::super::testing::least;
    use super::*;
    use crate::protocol::changes_text;

    fn changes(before: &[(&str, &str)], after: &[(&str, &str)]) -> Vec<SettingChange> {
        let config = |flags: &[_]| least().workers(2).flags(flags).build_for(2).unwrap();
        config(before).changes_to(&config(after))
    }

    #[test]
    fn a_change_is_said_as_one_would_write_it() {
        for (before, after, said) in [
            (
                vec![("env", "FOO=one")],
                vec![("env", "FOO=two"), ("workers", "3")],
                "workers: 2 -> 3; env.FOO: one -> two",
            ),
            (vec![], vec![("env", "FOO=two")], "env.FOO: (not set) -> two"),
            (vec![("env", "A B")], vec![("env", "B")], "env: A B -> B"),
            (vec![], vec![("timeouts.drain", "10min")], "timeouts.drain: 0 -> 10min"),
            (
                vec![],
                vec![("listen", "0.0.0.0:80 [::]:81")],
                "listen: [0.0.0.0:80/tcp] -> [\"0.0.0.0:80\", \"[::]:81\"]",
            ),
            (
                vec![("command", "a b")],
                vec![("command", "a c")],
                "command: [\"a\", \"b\"] -> [\"a\", \"c\"]",
            ),
            (vec![("user", "a")], vec![], "user: a -> \"\""),
        ] {
            let found = changes_text(&changes(&before, &after));
            let said_listen = said.starts_with("listen") && found.starts_with("listen: ");
            assert!(found == said || said_listen, "{found}");
        }
    }

    #[test]
    fn the_same_value_written_otherwise_is_no_change() {
        let before = [("timeouts.drain", "60s"), ("memory.total", "1024MiB"), ("workers", "2")];
        let after = [("timeouts.drain", "1min"), ("memory.total", "1GiB")];
        assert_eq!(changes(&before, &after), []);
    }

    #[test]
    fn each_key_says_when_it_applies_and_what_cannot_is_refused_with_the_way() {
        let (mut at_once, mut next, mut restart) = (0, 0, 0);
        for setting in SETTINGS {
            match setting.changes.applies() {
                Applies::AtOnce => at_once += 1,
                Applies::NextGeneration => next += 1,
                Applies::NewMaster => restart += 1,
                Applies::Never => assert_eq!(setting.key, "name"),
            }
        }
        assert!(at_once > 15 && next > 15 && restart > 5, "{at_once} {next} {restart}");
        let refused = refusal_of(&changes(&[], &[("slots", "64"), ("env", "A=b")])).unwrap();
        assert!(refused.starts_with("`slots` cannot change while the master runs: "), "{refused}");
        let other = refusal_of(&changes(&[], &[("name", "other")])).unwrap();
        assert!(other.starts_with("`name` cannot change: another value is another cluster"));
        assert_eq!(refusal_of(&changes(&[], &[("workers", "3"), ("retire.rss", "1GiB")])), None);
        assert_eq!(Changes::Restart.applies(), Applies::NewMaster);
    }

    #[test]
    fn what_is_in_force_is_said_with_where_it_comes_from() {
        let config = least().flag("timeouts.drain", "10min").build_for(3).unwrap();
        let settings = config.settings_in_force();
        let of = |key: &str| {
            let found = settings.iter().find(|it| it.key == key).unwrap();
            (found.value.as_str(), found.origin.as_str())
        };
        assert_eq!(of("timeouts.drain"), ("\"10min\"", "--flag"));
        assert_eq!(of("workers"), ("3", "default"));
        assert_eq!(of("timeouts.die"), ("\"5s\"", "default"));
        assert!(settings.iter().all(|it| it.key != "kill_old"));
    }
}
