//! The tables of `docs/performance.md`, and its plots.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::Command;

use super::figure::{Figure, Measured, Outcome, Quantile, SIZES};
use super::plot::{Bar, Line, bars};
use super::scaling::{Axis, Cost, Scaling};
use super::table::{PEERS, Peer};

/// Writes what was measured between the marks of the page, in the order of [`PEERS`], and the plots.
pub(crate) fn write(home: &Path, docs: &Path) -> io::Result<()> {
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page)?;
    let text = replaced(&text, "peers", &peers(&home.join("results"), docs)?)?;
    let text = replaced(&text, "scaling", &scaling(&home.join("scaling"), docs)?)?;
    fs::write(page, text)
}

/// The page with another text between its marks of this name.
fn replaced(page: &str, name: &str, between: &str) -> io::Result<String> {
    let begin = format!("<!-- {name}: written by netns-tests/peers/run -->\n");
    let end = format!("<!-- end of {name} -->\n");
    let missing =
        || io::Error::new(ErrorKind::InvalidData, format!("no mark {begin:?} in the page"));
    let (before, rest) = page.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{between}\n{end}{after}"))
}

fn peers(results: &Path, docs: &Path) -> io::Result<String> {
    let all = Measured::read(results)?;
    let mut parts = vec![measured_on(results)?];
    for plot in PLOTS {
        let bars_of = PEERS.iter().filter_map(|peer| {
            let value = all.get(peer.name)?.value(plot.figure)?;
            Some(Bar { name: peer.title.replace('`', ""), value, is_ours: is_ours(peer) })
        });
        let path = docs.join("images").join(plot.file);
        bars(&path, plot.title, &bars_of.collect::<Vec<_>>()).map_err(io::Error::other)?;
    }
    for table in TABLES {
        parts.push(table.write(&all).trim_end().to_owned());
        parts.extend(table.plots.iter().map(|file| format!("![{}](images/{file})", title(file))));
    }
    Ok(parts.join("\n\n") + "\n")
}

fn title(file: &str) -> &'static str {
    PLOTS.iter().find(|plot| plot.file == file).map_or("", |plot| plot.title)
}

/// A table and a plot for each axis. The last line is the exponent with which a cost has grown from the last
/// number but one to the last: 1 is linear.
fn scaling(directory: &Path, docs: &Path) -> io::Result<String> {
    let mut parts = Vec::new();
    for axis in Axis::ALL {
        let Some(scaling) = Scaling::read(directory, axis)? else { continue };
        let cost = |point: &(u32, Vec<(Cost, f64)>), cost: Cost| {
            point.1.iter().find(|(it, _)| *it == cost).map(|(_, value)| *value)
        };
        let first = scaling.points.first();
        let costs = Cost::ALL.into_iter();
        let costs = costs.filter(|it| first.is_some_and(|point| cost(point, *it).is_some()));
        let costs: Vec<Cost> = costs.collect();
        let titles: Vec<&str> = costs.iter().map(|cost| cost.title()).collect();
        let mut table = format!(
            "| {} | {} |\n|---|{}\n",
            axis.name(),
            titles.join(" | "),
            "---|".repeat(costs.len())
        );
        let mut line = |name: &str, cell: &dyn Fn(Cost) -> Option<String>| {
            let cells: Vec<String> = costs.iter().map(|it| cell(*it).unwrap_or_default()).collect();
            table += &format!("| {name} | {} |\n", cells.join(" | "));
        };
        for point in &scaling.points {
            line(&point.0.to_string(), &|it| cost(point, it).map(rounded));
        }
        if let [.., before, last] = scaling.points.as_slice()
            && before.0 > 0
        {
            line("exponent", &|it| {
                let grown = cost(last, it)? / cost(before, it)?;
                let more = f64::from(last.0) / f64::from(before.0);
                Some(format!("{:.2}", grown.ln() / more.ln()))
            });
        }
        parts.push(table.trim_end().to_owned());
        let line = |it: &Cost| {
            let points = scaling.points.iter().filter(|point| point.0 > 0);
            let points = points.filter_map(|point| Some((point.0.into(), cost(point, *it)?)));
            (it.title(), points.collect())
        };
        let lines: Vec<Line> = costs.iter().map(line).collect();
        let file = format!("scaling-{}.svg", axis.name());
        let path = docs.join("images").join(&file);
        super::plot::lines(&path, axis.name(), &lines).map_err(io::Error::other)?;
        parts.push(format!("![costs by the number of {}](images/{file})", axis.name()));
    }
    Ok(parts.join("\n\n") + "\n")
}

/// Three digits that mean something.
fn rounded(value: f64) -> String {
    match value {
        0.0..0.1 => format!("{value:.4}"),
        0.1..1.0 => format!("{value:.3}"),
        1.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn is_ours(peer: &Peer) -> bool {
    ["redirect", "tproxy"].contains(&peer.name)
}

/// What it was measured on, from what the machine and the repository say now.
fn measured_on(results: &Path) -> io::Result<String> {
    let newest =
        fs::read_dir(results)?.flatten().filter_map(|file| file.metadata().ok()?.modified().ok());
    let seconds = newest.max().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let date = format!("@{}", seconds.unwrap_or_default().as_secs());
    let date = said("date", &["-u", "-d", &date, "+%Y-%m-%d"])?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let release = release.trim().split('-').next().unwrap_or_default().to_owned();
    let cores = std::thread::available_parallelism()?;
    let commit = said("git", &["describe", "--always", "--dirty"])?;
    Ok(format!(
        "Measured on {date} at {commit}, Linux {release}, {cores} cores, {} workers unless another number is given.",
        SIZES[0]
    ))
}

/// A plot of one figure.
struct Plot {
    figure: Figure,
    title: &'static str,
    file: &'static str,
}

const PLOTS: &[Plot] = &[
    Plot { figure: Figure::Rate, title: "short connections a second", file: "peers-rate.svg" },
    Plot {
        figure: Figure::ProcessorTime,
        title: "processor time of a connection, both sides of it, us",
        file: "peers-processor-time.svg",
    },
    Plot {
        figure: Figure::ReloadLoaded,
        title: "a reload under full load, ms",
        file: "peers-reload.svg",
    },
    Plot {
        figure: Figure::Memory(4),
        title: "memory of the balancer's own processes, 4 workers, MiB",
        file: "peers-memory.svg",
    },
];

/// A table: a line for each balancer.
struct Table {
    columns: &'static [Column],
    /// The files of the plots behind it.
    plots: &'static [&'static str],
}

struct Column {
    title: &'static str,
    cell: Cell,
}

/// How figures become text.
enum Cell {
    /// The value, with so many decimals.
    Value(Figure, usize),
    /// The value, and beside it what it is to that of no balancer.
    Ratio(Figure, usize),
    /// What is more than with no balancer.
    Added(fn(Quantile) -> Figure),
    /// How many were lost, of how many.
    Lost(Figure, Option<Figure>),
    /// Yes or no.
    YesNo(Figure),
    /// One for each of [`SIZES`].
    Sizes(fn(u16) -> Figure, usize),
}

const TABLES: &[Table] = &[
    Table {
        columns: &[
            Column { title: "connections/s", cell: Cell::Ratio(Figure::Rate, 0) },
            Column { title: "processor time, us", cell: Cell::Ratio(Figure::ProcessorTime, 1) },
            Column {
                title: "first answer, us later: p50 / p99 / p99.9",
                cell: Cell::Added(Figure::First),
            },
            Column { title: "later ones, us later", cell: Cell::Added(Figure::Later) },
            Column { title: "GB/s", cell: Cell::Value(Figure::Throughput, 2) },
            Column { title: "sticky clients, %", cell: Cell::Value(Figure::Sticky, 0) },
            Column {
                title: "worker sees the client's address",
                cell: Cell::YesNo(Figure::Address),
            },
        ],
        plots: &["peers-rate.svg", "peers-processor-time.svg"],
    },
    Table {
        columns: &[
            Column { title: "reload, ms", cell: Cell::Value(Figure::ReloadIdle, 0) },
            Column { title: "under full load, ms", cell: Cell::Value(Figure::ReloadLoaded, 0) },
            Column {
                title: "lost, of connections",
                cell: Cell::Lost(Figure::ReloadLost, Some(Figure::ReloadConnections)),
            },
            Column { title: "one worker replaced, ms", cell: Cell::Value(Figure::Replace, 0) },
            Column {
                title: "one killed: another serves after, ms",
                cell: Cell::Value(Figure::KilledReplaced, 0),
            },
            Column { title: "lost by the kill", cell: Cell::Lost(Figure::KilledLost, None) },
            Column {
                title: "lost in 3 s with one stopped",
                cell: Cell::Lost(Figure::StoppedLost, None),
            },
        ],
        plots: &["peers-reload.svg"],
    },
    Table {
        columns: &[
            Column {
                title: "memory, MiB: 4 / 64 / 256 workers",
                cell: Cell::Sizes(Figure::Memory, 1),
            },
            Column { title: "processor at rest, ms/s", cell: Cell::Sizes(Figure::Idle, 2) },
            Column { title: "wake-ups/s", cell: Cell::Sizes(Figure::WakeUps, 1) },
        ],
        plots: &["peers-memory.svg"],
    },
];

impl Table {
    fn write(&self, all: &BTreeMap<String, Measured>) -> String {
        let titles: Vec<&str> = self.columns.iter().map(|column| column.title).collect();
        let mut text =
            format!("| | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
        let mut notes: Vec<String> = Vec::new();
        let base = all.get(PEERS[0].name);
        for peer in PEERS {
            let Some(measured) = all.get(peer.name) else { continue };
            let version = match measured.version.as_str() {
                "kernel" => String::new(),
                version => format!(" {version}"),
            };
            let cells =
                self.columns.iter().map(|column| column.cell.write(measured, base, &mut notes));
            let cells: Vec<String> = cells.collect();
            text += &format!("| {}{version} | {} |\n", peer.title, cells.join(" | "));
        }
        for (number, note) in (1..).zip(notes) {
            text += &format!("\n({number}) {note}\n");
        }
        text
    }
}

impl Cell {
    fn write(
        &self,
        measured: &Measured,
        base: Option<&Measured>,
        notes: &mut Vec<String>,
    ) -> String {
        let base = |figure| base.and_then(|base| base.value(figure));
        let mut one = |figure: Figure, text: &dyn Fn(f64) -> String| match measured.get(figure) {
            Some(Outcome::Value(value)) => text(*value),
            Some(Outcome::NotOffered(reason) | Outcome::Failed(reason)) => {
                let place = notes.iter().position(|note| note == reason).unwrap_or(notes.len());
                if place == notes.len() {
                    notes.push(reason.clone());
                }
                format!("– ({})", place + 1)
            }
            None => String::new(),
        };
        match *self {
            Self::Value(figure, decimals) => one(figure, &|value| format!("{value:.decimals$}")),
            Self::Ratio(figure, decimals) => one(figure, &|value| match base(figure) {
                Some(base) => format!("{value:.decimals$} ({:.2})", value / base),
                None => format!("{value:.decimals$}"),
            }),
            Self::Added(figure) => {
                let cell = |quantile| {
                    let figure = figure(quantile);
                    one(figure, &|value| match base(figure) {
                        Some(base) => format!("{:+.0}", value - base),
                        None => String::new(),
                    })
                };
                let mut cells: Vec<String> = Quantile::ALL.into_iter().map(cell).collect();
                cells.dedup_by(|one, other| one.starts_with('–') && one == other);
                cells.join(" / ")
            }
            Self::Lost(figure, of) => {
                let of = of.and_then(|of| measured.value(of));
                one(figure, &|value| match of {
                    Some(of) => format!("{value:.0} of {of:.0}"),
                    None => format!("{value:.0}"),
                })
            }
            Self::YesNo(figure) => {
                one(figure, &|value| if value > 0.0 { "yes" } else { "no" }.to_owned())
            }
            Self::Sizes(figure, decimals) => {
                let cell = |size: &u16| one(figure(*size), &|value| format!("{value:.decimals$}"));
                let mut cells: Vec<String> = SIZES.iter().map(cell).collect();
                cells.dedup_by(|one, other| one.starts_with('–') && one == other);
                cells.join(" / ")
            }
        }
    }
}
