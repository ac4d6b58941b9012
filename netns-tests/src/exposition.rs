//! Reads what a server tells Prometheus, as strictly as `promtool check metrics` and the format OpenMetrics:
//! what either of them would complain about is an error.

use std::collections::{BTreeMap, BTreeSet};

/// A metric with its samples.
#[derive(Debug, Clone)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// What it is, in words.
    pub help: String,
    /// By name and labels.
    pub samples: BTreeMap<String, f64>,
    /// The names of the labels, without the bounds of a histogram.
    pub labels: BTreeSet<String>,
}

/// The metrics of a text in the format of version 0.0.4, by name.
///
/// # Errors
/// The line at fault, and what is wrong with it.
pub fn parse_exposition(text: &str) -> Result<BTreeMap<String, Family>, String> {
    let text = text.strip_suffix('\n').ok_or("the last line has no end")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut name = String::new();
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        let fault = |what: &str| format!("{what}: {line}");
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (of, help) = rest.split_once(' ').ok_or_else(|| fault("no help"))?;
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE "));
            let kind = kind.and_then(|rest| rest.strip_prefix(of)?.strip_prefix(' '));
            let kind = kind.ok_or_else(|| fault("no type behind it"))?.to_owned();
            check_family(of, &kind, help).map_err(|what| fault(&what))?;
            name = of.to_owned();
            let family = Family {
                kind,
                help: help.to_owned(),
                samples: BTreeMap::new(),
                labels: BTreeSet::new(),
            };
            if families.insert(name.clone(), family).is_some() {
                return Err(fault("twice"));
            }
            continue;
        }
        let family = families.get_mut(&name).ok_or_else(|| fault("a sample of nothing"))?;
        take_sample(&name, family, line).map_err(|what| fault(&what))?;
    }
    for (name, family) in &families {
        check_histogram(name, family).map_err(|what| format!("{what}: {name}"))?;
    }
    Ok(families)
}

fn check_family(name: &str, kind: &str, help: &str) -> Result<(), String> {
    if !is_name(name) {
        return Err("a bad name".to_owned());
    }
    if !help.ends_with('.') || help.trim() != help {
        return Err("help is a sentence".to_owned());
    }
    if !matches!(kind, "counter" | "gauge" | "histogram") {
        return Err("an unknown type".to_owned());
    }
    if (kind == "counter") != name.ends_with("_total") {
        return Err("counters, and they alone, end in _total".to_owned());
    }
    // Base units alone, at the end of the name.
    let words: Vec<&str> = name.trim_end_matches("_total").split('_').collect();
    let units = ["seconds", "bytes"];
    let (last, others) = words.split_last().ok_or("no name")?;
    let bad = ["count", "sum", "bucket", "info", "counter", "gauge", "histogram"];
    let scaled = ["milliseconds", "microseconds", "ms", "kilobytes", "mb", "kb", "minutes"];
    if others.iter().any(|word| units.contains(word)) || bad.contains(last) {
        return Err("a unit within the name, or a part that stands for a type".to_owned());
    }
    if words.iter().any(|word| scaled.contains(word)) {
        return Err("no base unit".to_owned());
    }
    let times = help.contains("Time from") || help.contains("How long");
    if times && !units.contains(last) {
        return Err("a time without its unit".to_owned());
    }
    Ok(())
}

fn take_sample(name: &str, family: &mut Family, line: &str) -> Result<(), String> {
    let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
    let is_number = |text: &str| {
        text == "+Inf"
            || text.bytes().all(|it| it.is_ascii_digit() || it == b'.') && !text.is_empty()
    };
    let parsed: f64 = value.parse().map_err(|_| "no number")?;
    if !is_number(value) || (family.kind == "counter" && parsed.fract() != 0.0) {
        return Err("a bad value".to_owned());
    }
    let (own, labels) = match series.split_once('{') {
        Some((own, labels)) => (own, parse_labels(labels)?),
        None => (series, Vec::new()),
    };
    let part = own.strip_prefix(name).ok_or("a sample of another metric")?;
    let parts: &[&str] = match family.kind.as_str() {
        "histogram" => &["_bucket", "_sum", "_count"],
        _ => &[""],
    };
    if !parts.contains(&part) {
        return Err("a bad part of a metric".to_owned());
    }
    let mut names: BTreeSet<String> = labels.iter().map(|(name, _)| name.clone()).collect();
    if names.len() != labels.len() || names.remove("le") != (part == "_bucket") {
        return Err("a label twice, or no bound".to_owned());
    }
    if !family.samples.is_empty() && names != family.labels {
        return Err("other labels than those of the sample before".to_owned());
    }
    family.labels = names;
    match family.samples.insert(series.to_owned(), parsed) {
        Some(_) => Err("the same sample again".to_owned()),
        None => Ok(()),
    }
}

/// `a="1",b="2"}`
fn parse_labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut labels = Vec::new();
    let mut rest = text;
    loop {
        let (name, behind) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) || name.starts_with("__") {
            return Err("a bad name of a label".to_owned());
        }
        let mut value = String::new();
        let mut chars = behind.char_indices();
        let end = loop {
            match chars.next().ok_or("a value without an end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('\\' | '"'))) => value.push(c),
                    _ => return Err("a bad escape".to_owned()),
                },
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        rest = match &behind[end + 1..] {
            "}" => return Ok(labels),
            behind => behind.strip_prefix(',').ok_or("no comma between labels")?,
        };
    }
}

/// Buckets that ascend, up to one without a bound, which has as many as there are.
fn check_histogram(name: &str, family: &Family) -> Result<(), String> {
    if family.kind != "histogram" {
        return Ok(());
    }
    let value = |part: &str| family.samples.get(&format!("{name}_{part}")).copied();
    let (count, _) = value("count").zip(value("sum")).ok_or("no sum, or no count")?;
    let mut buckets = Vec::new();
    for (series, value) in &family.samples {
        if let Some((_, bound)) = series.split_once("le=\"") {
            let bound: f64 = bound.trim_end_matches("\"}").parse().map_err(|_| "a bad bound")?;
            buckets.push((bound, *value));
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ascend = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
    match ascend && buckets.last() == Some(&(f64::INFINITY, count)) {
        true => Ok(()),
        false => Err("bad buckets".to_owned()),
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_promtool_complains_about_is_an_error() {
        let good = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
                    a_seconds_bucket{le=\"0.5\"} 1\na_seconds_bucket{le=\"+Inf\"} 2\n\
                    a_seconds_sum 0.25\na_seconds_count 2\n\
                    # HELP b_total Some.\n# TYPE b_total counter\nb_total{x=\"a\\\"b\",y=\"\"} 3\n";
        let families = parse_exposition(good).unwrap();
        assert_eq!(families["b_total"].labels, ["x", "y"].map(str::to_owned).into());
        for (from, to) in [
            ("y=\"\"} 3\n", "y=\"\"} 3"),
            ("y=\"\"} 3", "y=\"\"} NaN"),
            ("y=\"\"} 3", "y=\"\"} 3.5"),
            ("y=\"\"} 3", "y=\"\"} -3"),
            ("y=\"\"} 3", "y=\"\",} 3"),
            ("y=\"\"} 3", "x=\"\"} 3"),
            ("b_total{", "b{"),
            ("# HELP b_total Some.\n", ""),
            ("# TYPE b_total counter\n", ""),
            ("Some.", ""),
            ("b_total", "b"),
            ("b_total", "b_ms_total"),
            ("a_seconds", "a"),
            ("le=\"+Inf\"} 2", "le=\"+Inf\"} 1"),
            ("le=\"0.5\"} 1", "le=\"0.5\"} 3"),
            ("a_seconds_sum 0.25\n", ""),
            ("histogram", "summary"),
        ] {
            assert!(good.contains(from), "{from}");
            assert!(parse_exposition(&good.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }
}
