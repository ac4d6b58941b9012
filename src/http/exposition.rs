//! The text format in which Prometheus reads metrics, version 0.0.4. Pure.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>: for each metric a
//! line `HELP`, a line `TYPE`, and then all its samples, one a line.

use std::fmt::{Display, Write};

/// The media type of this format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A text in the making.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

impl Exposition {
    /// Begins a metric; its samples are all to follow before the next one is begun. Without any it
    /// is known by name, and has no value.
    pub(super) fn metric(&mut self, name: &'static str, kind: Kind, help: &str) -> Samples<'_> {
        self.line(format_args!("# HELP {name} {}", escaped(help, false)));
        self.line(format_args!("# TYPE {name} {}", kind.name()));
        Samples { exposition: self, name }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.text, "{line}").expect("writing to a String does not fail");
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    exposition: &'a mut Exposition,
    name: &'static str,
}

impl Samples<'_> {
    /// Adds a sample with these labels, whose names have to be plain words.
    pub(super) fn add(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.add_part("", labels, value);
    }

    /// Adds a sample with a suffix to its name: the parts of a histogram have `_bucket`, `_sum` and
    /// `_count`.
    pub(super) fn add_part(
        &mut self,
        part: &str,
        labels: &[(&str, &dyn Display)],
        value: impl Display,
    ) {
        let label = |(name, value): &(&str, &dyn Display)| {
            format!("{name}=\"{}\"", escaped(&value.to_string(), true))
        };
        let labels: Vec<String> = labels.iter().map(label).collect();
        let name = self.name;
        match labels.is_empty() {
            true => self.exposition.line(format_args!("{name}{part} {value}")),
            false => {
                self.exposition.line(format_args!("{name}{part}{{{}}} {value}", labels.join(",")))
            }
        }
    }
}

/// A text without what would end its line, or, `quoted`, its quotes.
fn escaped(text: &str, quoted: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if quoted => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_value_or_a_line_is_escaped() {
        let mut exposition = Exposition::default();
        exposition
            .metric("a", Kind::Gauge, "a \\ and \"b\"\nc")
            .add(&[("one", &"a\\b\"c\nd"), ("two", &"\r\té}")], 1);
        assert_eq!(
            exposition.finish(),
            "# HELP a a \\\\ and \"b\"\\nc\n# TYPE a gauge\n\
             a{one=\"a\\\\b\\\"c\\nd\",two=\"\r\té}\"} 1\n"
        );
    }

    #[test]
    fn without_labels_there_are_no_braces() {
        let mut exposition = Exposition::default();
        let mut samples = exposition.metric("a_seconds", Kind::Histogram, "times");
        samples.add_part("_bucket", &[("le", &"+Inf")], 2);
        samples.add_part("_sum", &[], 0.25);
        exposition.metric("b_total", Kind::Counter, "none yet");
        assert_eq!(
            exposition.finish(),
            "# HELP a_seconds times\n# TYPE a_seconds histogram\n\
             a_seconds_bucket{le=\"+Inf\"} 2\na_seconds_sum 0.25\n\
             # HELP b_total none yet\n# TYPE b_total counter\n"
        );
    }
}
